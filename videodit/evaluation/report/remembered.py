"""Is a clip new, or one that training showed? For each clip the nearest true clip, and how near true clips are to each
other, which says what near means. And where clips were made from the captions of true clips: is the nearest the one
that was asked for, and does it move as much as that does?

A model that only remembers makes clips that are nearer to some training clip than training clips are to one another.
Distances are those of `nearest`: over the grounds of transparent clips and the phases of loops, at 32 pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from videodit.evaluation.measure.clips import Clip
from videodit.evaluation.measure.nearest import FRAMES, TrueClip, TrueClips
from videodit.evaluation.report.results import Nearest, Nearness, Results
from videodit.video import VideoError, probe, read_frames
from videodit.video.guarded import Guarded

FACTOR = 2.0  # by which a clip may move more or less than the true one


class TrueFiles:
    """True clips in files.

    Args:
        files: their paths, names and captions (None: unknown).
        guard: opens them, in its own processes.

    Raises:
        ValueError: fewer than two can be read; names the first that cannot.
    """

    def __init__(self, files: Sequence[tuple[Path, str, str | None]], guard: Guarded):
        self.guard, self.failures = guard, dict[str, str]()
        self.names: list[str] = []
        self.captions: list[str | None] = []
        clips = []
        for path, name, caption in tqdm(files, desc="reading true clips", disable=None):
            try:
                clips.append(self._read(path))
                self.names.append(name)
                self.captions.append(caption)
            except VideoError as error:
                self.failures[name] = str(error)
        if len(clips) < 2:
            why = next(iter(self.failures.values()), "there are no more")
            raise ValueError(f"{len(clips)} true clips can be read, and two are needed; {why}")
        self.clips = TrueClips(clips)
        self._shown = clips

    def beside(self, results: Results, clips: Sequence[Clip], source: str) -> Results:
        """The results with each clip's nearest true clip, and a summary."""
        frames = {clip.name: _some(clip) for clip in clips if clip.name in {one.name for one in results.clips}}
        prompts = {one.name: one.prompt for one in results.clips}
        found = {name: self._nearest(shown, prompts[name]) for name, shown in tqdm(frames.items(), desc="nearest")}
        remembered = tuple(name for name, near in found.items() if near.distance < self.clips.close)
        named = [near for near in found.values() if near.asked is not None]
        return results.model_copy(
            update={
                "clips": tuple(one.model_copy(update={"nearest": found[one.name]}) for one in results.clips),
                "nearest": Nearness(
                    source=source,
                    n=len(self.names),
                    mean=float(np.mean([near.distance for near in found.values()])),
                    among_median=self.clips.apart,
                    close=self.clips.close,
                    remembered=remembered,
                    named=len(named),
                    asked=sum(bool(near.asked) for near in named),
                    moving=sum(1 / FACTOR <= (near.motion or 0) <= FACTOR for near in named),
                    alike=float(np.mean([near.alike for near in named])) if named else None,
                    left_out=self.failures,
                ),
            }
        )

    def frames(self, near: Nearest) -> Iterator[np.ndarray]:
        """The frames of a nearest true clip, before white, from the phase in which it is nearest."""
        shown = self._shown[self.names.index(near.name)]
        frames = shown.over_black if shown.over_white is None else shown.over_white
        yield from np.roll(frames, -near.phase, axis=0)

    def _nearest(self, shown: np.ndarray, prompt: str | None) -> Nearest:
        """The nearest true clip; and, where some have the prompt for a caption, how the clip stands to these."""
        order = self.clips.nearest(shown, count=len(self.clips))
        near, asked, motion, alike = order[0], None, None, None
        theirs = next((one for one in order if prompt and self.captions[one.index] == prompt), None)
        if theirs is not None:
            asked = self.captions[near.index] == prompt
            ground = (colour.tolist() for colour in self.clips.ground(shown, theirs))
            motion, alike = self.clips.change(shown, theirs.index, *ground), self.clips.alike(shown, theirs)
        return Nearest(
            name=self.names[near.index],
            distance=near.distance,
            phase=near.phase,
            asked=asked,
            motion=motion,
            alike=alike,
        )

    def _read(self, path: Path) -> TrueClip:
        info = self.guard.call(probe, str(path))
        times = [0.0] if info["is_image"] else [i * info["duration"] / FRAMES for i in range(FRAMES)]
        grounds = ("black", "white") if info["transparent"] else ("black",)
        shown = [self.guard.call(read_frames, str(path), times, background=name) for name in grounds]
        return TrueClip(*(np.repeat(frames, FRAMES // len(frames), axis=0) for frames in shown))


def _some(clip: Clip) -> np.ndarray:
    """`FRAMES` of a clip at even distances, uint8 f h w 3."""
    wanted = [i * clip.num_frames // FRAMES for i in range(FRAMES)]
    kept = {index: frame for index, frame in enumerate(clip.stream(256)) if index in wanted}
    return np.stack([kept[index] for index in wanted])
