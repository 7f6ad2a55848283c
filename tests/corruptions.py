"""Ways to spoil a clip, each by a strength: 0 leaves it as it is, and more is worse. Clips are `uint8 f h w 3`.

And `parade`, a generated clip to spoil: soft pictures that move before another one, as filmed things do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from footage import pan

FRAMES = 17  # of a spoiled clip
SPARE = 8  # further frames that a clip needs, for jumps to land in


def parade(seed: int, count: int = FRAMES + SPARE) -> np.ndarray:
    """A picture pans behind two others that go their own ways: 128 x 160, even motion, no cut."""
    frames = pan(seed, count, 1.5)
    things = pan(seed + 1000, count, -1.0)
    for i, frame in enumerate(frames):
        frame[20 + i : 60 + i, 90 - 2 * i : 140 - 2 * i] = things[i, 20:60, 10:60]
        frame[70:110, 10 + 3 * i : 50 + 3 * i] = things[i, 70:110, 80:120]
    return frames


def shuffled(frames: np.ndarray, displacement: float) -> np.ndarray:
    """Frames in another order: sorted by their number and up to so much more or less."""
    jitter = np.random.default_rng(0).uniform(-1, 1, FRAMES)
    return frames[np.argsort(np.arange(FRAMES) + displacement * jitter)]


def flickering(frames: np.ndarray, levels: float) -> np.ndarray:
    """Frames are brighter and darker by so many gray levels, by turns."""
    signs = np.where(np.arange(FRAMES) % 2, 1, -1)[:, None, None, None]
    return _bytes(frames[:FRAMES] + levels * signs)


def jumping(frames: np.ndarray, skipped: float) -> np.ndarray:
    """So many frames are missing in the middle; later ones move up."""
    middle = FRAMES // 2
    return np.concatenate([frames[:middle], frames[middle + int(skipped) : FRAMES + int(skipped)]])


def cut(frames: np.ndarray, cuts: float, other: np.ndarray) -> np.ndarray:
    """Stretches of the other clip come between its own, with so many cuts."""
    stretch = np.arange(FRAMES) * (int(cuts) + 1) // FRAMES
    return np.where((stretch % 2 == 0)[:, None, None, None], frames[:FRAMES], other[:FRAMES])


def drifting(frames: np.ndarray, degrees: float) -> np.ndarray:
    """Hues turn evenly, until they are so far round in the last frame: a rotation of RGB about its gray axis."""
    angles = np.radians(degrees) * np.arange(FRAMES) / (FRAMES - 1)
    axis = np.cross(np.eye(3), np.ones(3) / 3**0.5)  # v @ axis = axis x v, of the unit gray axis
    turns = [np.eye(3) + np.sin(angle) * axis + (1 - np.cos(angle)) * axis @ axis for angle in angles]  # Rodrigues
    return _bytes(np.stack([frame @ turn for frame, turn in zip(frames, turns, strict=False)]))


def freezing(frames: np.ndarray, share: float) -> np.ndarray:
    """Of all transitions this share, the last ones, is without change."""
    return frames[np.minimum(np.arange(FRAMES), round((1 - share) * (FRAMES - 1)))]


def noisy(frames: np.ndarray, sigma: float) -> np.ndarray:
    """With Gaussian noise of this many gray levels, anew in each frame."""
    noise = np.random.default_rng(0).standard_normal((FRAMES, *frames.shape[1:]), dtype=np.float32)
    return _bytes(frames[:FRAMES] + sigma * noise)


def _bytes(values: np.ndarray) -> np.ndarray:
    return values.round().clip(0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Corruption:
    """One of the above, strengths that go up from none, the measures that it worsens, and others to look at beside."""

    apply: Callable[..., np.ndarray]
    unit: str
    strengths: tuple[float, ...]
    worsens: tuple[str, ...]
    beside: tuple[str, ...] = ()
    needs_other: bool = False

    def __call__(self, frames: np.ndarray, strength: float, other: np.ndarray) -> np.ndarray:
        return self.apply(frames, strength, other) if self.needs_other else self.apply(frames, strength)


CORRUPTIONS = {
    "frame shuffle": Corruption(
        shuffled,
        "frames of displacement",
        (0, 1, 2, 4, 8),
        ("consistency_consecutive", "temporal_ssim", "luma_second_difference", "motion_smoothness"),
        ("warping_error", "high_frequency_energy"),
    ),
    "flicker": Corruption(
        flickering,
        "± gray levels",
        (0, 2, 4, 8, 16),
        ("temporal_flickering", "luma_second_difference", "high_frequency_energy", "motion_smoothness"),
        ("consistency_consecutive",),
    ),
    "jump cut": Corruption(
        jumping,
        "frames skipped",
        (0, 1, 2, 4, 8),
        ("consistency_consecutive", "temporal_ssim", "luma_second_difference"),
        ("motion_smoothness", "warping_error", "cuts"),
    ),
    "cut to another clip": Corruption(
        cut, "cuts", (0, 1, 2, 3, 4), ("cuts", "consistency_consecutive"), needs_other=True
    ),
    "drift": Corruption(
        drifting,
        "degrees of hue at the end",
        (0, 30, 60, 90, 120),
        ("consistency_all_pairs", "consistency_first_prev"),
        ("consistency_consecutive", "temporal_flickering"),
    ),
    "freeze": Corruption(
        freezing,
        "share of transitions",
        (0, 0.25, 0.5, 0.75, 1),
        ("frozen_share",),
        ("change_per_second", "consistency_consecutive"),
    ),
    "noise": Corruption(
        noisy,
        "gray levels of sigma",
        (0, 2, 4, 8, 16),
        (
            "consistency_consecutive",
            "temporal_flickering",
            "temporal_psnr",
            "temporal_ssim",
            "warping_error",
            "luma_second_difference",
        ),
        ("high_frequency_energy",),
    ),
}
