"""Transparent pictures, laid on a colour or a gradient (`config.ground`)."""

from __future__ import annotations

import numpy as np

from videodit.config.ground import parse_ground


def lay(picture: np.ndarray, name: str) -> np.ndarray:
    """uint8 h w 4, alpha not multiplied in, over the ground of that name -> uint8 h w 3, rounded."""
    top, bottom = (np.array(color, dtype=np.float32) for color in parse_ground(name))
    height = len(picture)
    down = np.linspace(0, 1, height, dtype=np.float32)[:, None, None] if height > 1 else np.zeros((1, 1, 1), np.float32)
    alpha = picture[..., 3:].astype(np.float32) / 255
    return (picture[..., :3] * alpha + (top + (bottom - top) * down) * (1 - alpha) + 0.5).astype(np.uint8)
