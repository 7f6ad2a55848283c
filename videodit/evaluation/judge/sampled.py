"""Clips that a pipeline makes for the prompts of a world; some are kept, to be shown.

Where it is told maps of the world's own clips, each clip is made once more without them, from the same noise, and the
maps of all three are compared: how far does a map lead?
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from einops import rearrange

from videodit.codec.maps import map_of
from videodit.geometry import ClipSize
from videodit.models import Condition


class ByPipeline:
    """What `world.evaluate_world` and `emoji.evaluate_emoji` call for clips.

    Args:
        pipe: a pipeline.
        given: the frames of the true clip that it is given, by its arguments: image, video, last_image, last_video.
        wanted: the numbers of the clips that are kept in `shown`.
        told: the model's conditions whose maps it is told, of the true clip.

    `agreement` holds, of each told map, a pair of `correlation`s a clip: made with it, and (where the model does
    without it) made without it, both with the true clip's.
    """

    def __init__(
        self,
        pipe: Any,
        size: ClipSize,
        given: Sequence[str],
        steps: int | None,
        guidance_scale: float | None,
        wanted: Collection[int],
        told: Sequence[Condition] = (),
    ):
        self.pipe, self.size, self.given, self.steps, self.guidance_scale = pipe, size, given, steps, guidance_scale
        self.wanted, self.shown, self.made = wanted, dict[int, np.ndarray](), 0
        self.told, self.agreement = told, {one.name: list[tuple[float, float | None]]() for one in told}

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int], true: np.ndarray | None = None) -> np.ndarray:
        """Clips uint8 b f h w c of these prompts and seeds; `true`: the world's own, of the same shape."""
        parts = given_parts(true, self.pipe.codec.strides.time) if self.given and true is not None else {}
        frames = self._made(prompts, seeds, parts, true)
        if self.told and true is not None:
            plain = self._made(prompts, seeds, parts, None) if all(one.null for one in self.told) else None
            for one in self.told:
                wanted, made, without = (self._maps(one, clips) for clips in (true, frames, plain))
                self.agreement[one.name] += [
                    (correlation(made[i], wanted[i]), None if plain is None else correlation(without[i], wanted[i]))
                    for i in range(len(frames))
                ]
        self.shown |= {self.made + i: clip for i, clip in enumerate(frames) if self.made + i in self.wanted}
        self.made += len(frames)
        return frames

    def _made(
        self, prompts: Sequence[str], seeds: Sequence[int], parts: dict[str, np.ndarray], true: np.ndarray | None
    ) -> np.ndarray:
        output: Any = self.pipe(
            list(prompts),
            num_frames=self.size.num_frames,
            height=self.size.height,
            width=self.size.width,
            fps=self.size.fps,
            num_inference_steps=self.steps,
            guidance_scale=self.guidance_scale,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            output_type="np",
            conditions=None if true is None else {one.name: list(true) for one in self.told},
            **{name: parts[name] for name in self.given},
        )
        return np.rint(output.frames * 255).astype(np.uint8)

    def _maps(self, one: Condition, clips: np.ndarray | None) -> np.ndarray:
        if clips is None:
            return np.empty(0)
        pixels = rearrange(torch.from_numpy(clips).float() / 127.5 - 1, "b f h w c -> b c f h w")
        return map_of(self.pipe.codec, pixels, one.of, one.factor).cpu().numpy()


def correlation(ours: np.ndarray, true: np.ndarray) -> float:
    """Pearson's, -1 to 1, of all places and channels of a clip's map; 0 where one of them is the same everywhere."""
    if not (ours.std() and true.std()):
        return 0.0
    return float(np.corrcoef(ours.ravel(), true.ravel())[0, 1])


def agreement_text(agreement: Mapping[str, Sequence[tuple[float, float | None]]]) -> str:
    """A line a map."""
    lines = []
    for name, pairs in agreement.items():
        told, untold = (np.array([pair[i] for pair in pairs if pair[i] is not None]) for i in (0, 1))
        line = (
            f"{name}: correlation with the true clip's {told.mean():.3f} (a tenth below {np.quantile(told, 0.1):.3f})"
        )
        lines.append(line + (f"; the same clips made without it {untold.mean():.3f}" if len(untold) else ""))
    return "\n".join(lines)


def given_parts(true: np.ndarray, step: int) -> dict[str, np.ndarray]:
    """What a pipeline can be given of true clips, b f h w c, by its arguments; `step` is the VAE's in time."""
    return {
        "image": true[:, :1],
        "video": true[:, : 1 + step],
        "last_image": true[:, -1:],
        "last_video": true[:, -step:],
    }


def spread(total: int, count: int) -> set[int]:
    """So many numbers below `total`, at even distances, the first and the last among them."""
    return set(np.linspace(0, total - 1, count).astype(int).tolist())
