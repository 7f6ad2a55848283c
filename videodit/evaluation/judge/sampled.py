"""Clips that a pipeline makes for the prompts of a world; some are kept, to be shown."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch

from videodit.geometry import ClipSize


class ByPipeline:
    """What `world.evaluate_world` and `emoji.evaluate_emoji` call for clips.

    Args:
        pipe: a pipeline.
        given: the frames of the true clip that it is given, by its arguments: image, video, last_image, last_video.
        wanted: the numbers of the clips that are kept in `shown`.
    """

    def __init__(
        self,
        pipe: Any,
        size: ClipSize,
        given: Sequence[str],
        steps: int | None,
        guidance_scale: float | None,
        wanted: Collection[int],
    ):
        self.pipe, self.size, self.given, self.steps, self.guidance_scale = pipe, size, given, steps, guidance_scale
        self.wanted, self.shown, self.made = wanted, dict[int, np.ndarray](), 0

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int], true: np.ndarray | None = None) -> np.ndarray:
        """Clips uint8 b f h w c of these prompts and seeds; `true`: the world's own, of the same shape."""
        parts = given_parts(true, self.pipe.codec.strides.time) if self.given and true is not None else {}
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
            **{name: parts[name] for name in self.given},
        )
        frames = np.rint(output.frames * 255).astype(np.uint8)
        self.shown |= {self.made + i: clip for i, clip in enumerate(frames) if self.made + i in self.wanted}
        self.made += len(frames)
        return frames


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
