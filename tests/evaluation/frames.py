"""Frames whose measures are known, and motion that is told."""

from __future__ import annotations

import numpy as np
from footage import place

from videodit.evaluation.measure.flow import Flow


def flat(*levels: float, height: int = 24, width: int = 32) -> np.ndarray:
    """Frames of one gray each."""
    return np.stack([np.full((height, width, 3), level, np.uint8) for level in levels])


def noise(count: int, height: int = 24, width: int = 32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), np.uint8)


def sliding(count: int, dx: int, height: int = 96, width: int = 160) -> np.ndarray:
    """A window that moves over a picture larger than it: new content enters at its edge."""
    wide = place(5)
    return np.stack([wide[40 : 40 + height, 400 - dx * i : 400 - dx * i + width] for i in range(count)])


def known_flow(u: float, v: float = 0.0) -> Flow:
    """One that says the same wherever it looks, and the opposite when it looks back."""

    def between(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        sign = 1 if a.mean() <= b.mean() else -1  # tests let later frames be brighter
        return np.broadcast_to(np.float32([sign * u, sign * v]), (*a.shape[:2], 2))

    return Flow("known", between)
