"""What transparent pictures are laid on: a colour, or a gradient from the top of the frame to its bottom."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import ImageColor

WHITE = "white"
RGB = tuple[int, int, int]


class Ground(NamedTuple):
    """The colours at the top and at the bottom, 0 to 255."""

    top: RGB
    bottom: RGB


@lru_cache(maxsize=256)
def parse_ground(name: str) -> Ground:
    """A colour as CSS names it (`orange`, `#ff8800`), or two with `to` between them, top and bottom: `white to blue`.

    Raises:
        ValueError: it is no colour; says what is.
    """
    parts = [part.strip() for part in name.split(" to ")] if isinstance(name, str) else []
    try:
        colors = [ImageColor.getcolor(part, "RGB") for part in parts]
    except ValueError:
        colors = []
    if not 1 <= len(colors) <= 2:
        raise ValueError(f"{name!r} is no background: name a colour (white, #ff8800) or two (white to blue)")
    return Ground(colors[0], colors[-1])  # type: ignore[arg-type]


def lay(picture: np.ndarray, name: str) -> np.ndarray:
    """uint8 h w 4, alpha not multiplied in, over the ground of that name -> uint8 h w 3, rounded."""
    top, bottom = (np.array(color, dtype=np.float32) for color in parse_ground(name))
    height = len(picture)
    down = np.linspace(0, 1, height, dtype=np.float32)[:, None, None] if height > 1 else np.zeros((1, 1, 1), np.float32)
    alpha = picture[..., 3:].astype(np.float32) / 255
    return (picture[..., :3] * alpha + (top + (bottom - top) * down) * (1 - alpha) + 0.5).astype(np.uint8)
