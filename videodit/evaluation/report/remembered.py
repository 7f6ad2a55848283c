"""Is a clip new, or one that training showed? For each clip the nearest true clip, and how near true clips are to each
other, which says what near means. And where clips were made from the captions of true clips: is the nearest the one
that was asked for, and does it move as much as that does?

A model that only remembers makes clips that are nearer to some training clip than training clips are to one another.
Distances are those of `nearest`: over the grounds of transparent clips and the phases of loops, at 32 pixels. Training
shows stretches of its clips: a true clip that is longer than those of the model is compared stretch by stretch, each as
long as these and half a stretch behind the one before.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from videodit.evaluation.measure.clips import Clip
from videodit.evaluation.measure.nearest import FRAMES, TrueClip, TrueClips
from videodit.evaluation.report.results import Nearest, Nearness, Results
from videodit.video import VideoError, probe, read_frames
from videodit.video.guarded import Guarded

FACTOR = 2.0  # by which a clip may move more or less than the true one
LONGER = 1.5  # times as long as the clips: compared in stretches
SHOWN = 256  # pixels of its shorter side, in a report


@dataclass(frozen=True)
class TrueFile:
    """A true clip: a file, or a stretch of it in seconds, by its name, and its captions."""

    path: Path
    name: str
    captions: tuple[str, ...] = ()
    start: float = 0.0
    end: float | None = None
    failure: str = ""  # why it is known to be unusable


class TrueFiles:
    """True clips in files.

    Args:
        files: those that are of one stretch of one file are one clip, of all their captions.
        guard: opens them, in its own processes.
        seconds: of the clips that are compared with them; 0: whatever it is.

    Raises:
        ValueError: fewer than two can be read; names the first that cannot.
    """

    def __init__(self, files: Sequence[TrueFile], guard: Guarded, seconds: float = 0.0):
        self.guard, self.failures = guard, dict[str, str]()
        self._files: list[TrueFile] = []  # a stretch each
        self._sources: list[int] = []
        self.clips = TrueClips(self._read_all(_once(files), seconds), self._sources)
        if len(set(self._sources)) < 2:
            why = next(iter(self.failures.values()), "there are no more")
            raise ValueError(f"{len(set(self._sources))} true clips can be read, and two are needed; {why}")

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
                    n=len(set(self._sources)),
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
        one = next(file for file in self._files if file.name == near.name)
        shown = self._read(one, self.guard.call(probe, str(one.path)))
        frames = shown.over_black if shown.over_white is None else shown.over_white
        yield from np.roll(frames, -near.phase, axis=0)

    def _nearest(self, shown: np.ndarray, prompt: str | None) -> Nearest:
        """The nearest true clip; and, where some have the prompt for a caption, how the clip stands to these."""
        order = self.clips.nearest(shown, count=len(self.clips))
        near, asked, motion, alike = order[0], None, None, None
        theirs = next((one for one in order if prompt and prompt in self._files[one.index].captions), None)
        if theirs is not None:
            asked = prompt in self._files[near.index].captions
            ground = (colour.tolist() for colour in self.clips.ground(shown, theirs))
            motion, alike = self.clips.change(shown, theirs.index, *ground), self.clips.alike(shown, theirs)
        return Nearest(
            name=self._files[near.index].name,
            distance=near.distance,
            phase=near.phase,
            asked=asked,
            motion=motion,
            alike=alike,
        )

    def _read_all(self, files: Sequence[TrueFile], seconds: float) -> Iterator[TrueClip]:
        for number, file in enumerate(tqdm(files, desc="reading true clips", disable=None)):
            try:
                if file.failure:
                    raise VideoError(file.failure)
                info = self.guard.call(probe, str(file.path))
                stretches = _stretches(file, info, seconds)
                clips = [self._read(one, info) for one in stretches]
            except VideoError as error:
                self.failures[file.name] = str(error)
                continue
            self._files += stretches
            self._sources += [number] * len(stretches)
            yield from clips

    def _read(self, file: TrueFile, info: Any) -> TrueClip:
        first, last = file.start, info["duration"] if file.end is None else min(file.end, info["duration"])
        times = [0.0] if info["is_image"] else [first + i * (last - first) / FRAMES for i in range(FRAMES)]
        grounds = ("black", "white") if info["transparent"] else ("black",)
        cover = (SHOWN, SHOWN) if min(info["height"], info["width"]) > SHOWN else None
        shown = [self.guard.call(read_frames, str(file.path), times, background=g, cover=cover) for g in grounds]
        return TrueClip(*(np.repeat(frames, FRAMES // len(frames), axis=0) for frames in shown))


def _once(files: Sequence[TrueFile]) -> list[TrueFile]:
    """Rows of one stretch of one file as one, with all their captions."""
    same: dict[Any, TrueFile] = {}
    for file in files:
        key = (file.path, file.start, file.end, file.failure)
        known = same.get(key, file)
        same[key] = replace(known, captions=tuple(dict.fromkeys((*known.captions, *file.captions))))
    return list(same.values())


def _stretches(file: TrueFile, info: Any, seconds: float) -> list[TrueFile]:
    """The file, or where it is far longer its stretches of so many seconds, the last of which ends with it."""
    last = info["duration"] if file.end is None else min(file.end, info["duration"])
    length = last - file.start
    if info["is_image"] or not 0 < LONGER * seconds < length:
        return [file]
    count = 1 + math.ceil((length - seconds) / (seconds / 2) - 1e-9)
    starts = [file.start + i * (length - seconds) / (count - 1) for i in range(count)]
    return [replace(file, name=f"{file.name} at {round(at, 2):g} s", start=at, end=at + seconds) for at in starts]


def _some(clip: Clip) -> np.ndarray:
    """`FRAMES` of a clip at even distances, uint8 f h w 3."""
    wanted = [i * clip.num_frames // FRAMES for i in range(FRAMES)]
    kept = {index: frame for index, frame in enumerate(clip.stream(256)) if index in wanted}
    return np.stack([kept[index] for index in wanted])
