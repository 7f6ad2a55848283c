"""Scores while a model trains: what `train.measures` say of the clips of its prompts, always from the same noise.

They are those of `videodit evaluate` that need no weights, and `nearest`: is a clip nearer to one of training than
these are to each other, and so remembered? Training clips are compared as they come out of the VAE, as the sampled ones
do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from einops import rearrange

from videodit.codec import VideoCodec
from videodit.data.cache import Latents
from videodit.data.live import LiveClips
from videodit.evaluation.measure.clips import clip_from_array
from videodit.evaluation.measure.nearest import FRAMES, SIDE, TrueClip, TrueClips
from videodit.evaluation.measure.pixels import box_reduced
from videodit.evaluation.measure.plan import Extractors, Plan
from videodit.evaluation.report.results import EMPTY
from videodit.evaluation.suite import evaluate

NEAREST = "nearest"
TRUE_CLIPS = 256  # of the training clips, at even distances: those that clips are compared with


class Scores:
    """Call it with clips (uint8 f h w 3 each), their prompts and frames a second, for numbers by name.

    Args:
        measures: names or patterns of `videodit evaluate`, and `nearest`.
        true: gives training clips, uint8 f h w 3 each; asked once, and only for `nearest`.

    Raises:
        ValueError: a measure that is none, or that needs weights, a reference or a package that is not there.
    """

    def __init__(self, measures: Sequence[str], true: Callable[[], Iterator[np.ndarray]]):
        self._measures = [name for name in measures if name != NEAREST]
        self._near, self._true = NEAREST in measures, true
        self._known: TrueClips | None = None
        try:
            plan = Plan(self._measures, Extractors(), has_reference=False)
        except ValueError as error:
            raise ValueError(f"train.measures: {error}, {NEAREST}") from error
        if plan.why_not:
            name, why = next(iter(plan.why_not.items()))
            raise ValueError(f"train.measures: {name} cannot be taken while training: {why.split(': give')[0]}")

    def __call__(self, clips: Sequence[np.ndarray], prompts: Sequence[str], fps: float) -> dict[str, float]:
        """Each measure's mean by `score_` and its name, `score_worthless`: the share of clips that are flagged as
        empty, noise, still or the same as another, and with `nearest` the mean distance and the share that is
        remembered.

        A measure that no clip has, as where all are worthless, is left out.
        """
        found: dict[str, float] = {}
        measured = evaluate(
            [
                clip_from_array(clip, fps, name=f"{i:05d}", prompt=prompt, seed=i)
                for i, (clip, prompt) in enumerate(zip(clips, prompts, strict=True))
            ],
            metrics=self._measures,
        )
        for name, summary in measured.summaries.items():
            if summary.value is not None:
                found[f"score_{name}"] = summary.value
        worthless = sum(bool({*EMPTY, "still"} & set(clip.flags)) for clip in measured.clips)
        found["score_worthless"] = worthless / len(clips)
        return found | (self._nearness(clips) if self._near else {})

    def _nearness(self, clips: Sequence[np.ndarray]) -> dict[str, float]:
        self._known = self._known or TrueClips(map(TrueClip, self._true()))
        distances = [self._known.nearest(clip)[0].distance for clip in clips]
        remembered = np.mean([distance < self._known.close for distance in distances])
        return {"score_nearest": float(np.mean(distances)), "score_remembered": float(remembered)}


@torch.no_grad()
def true_clips(clips: Latents | LiveClips, codec: VideoCodec, device: torch.device) -> Iterator[np.ndarray]:
    """`TRUE_CLIPS` of the training clips, images left out, as small as they are compared: uint8 f h w 3 each."""
    moving = [number for number, sample in enumerate(clips.samples) if not sample.is_image]
    for at in sorted({len(moving) * i // TRUE_CLIPS for i in range(TRUE_CLIPS)} if moving else ()):
        _, shown, _ = clips.read(moving[at], False, 0)
        pixels = codec.decode(shown[None].to(device))[0] if isinstance(clips, Latents) else shown
        some = pixels[:, torch.arange(FRAMES) * pixels.shape[1] // FRAMES]
        frames = rearrange(some.float().cpu().numpy(), "c f h w -> f h w c")
        yield box_reduced(np.rint((frames + 1) * 127.5).astype(np.uint8), SIDE)
