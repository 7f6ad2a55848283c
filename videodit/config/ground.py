"""What transparent pictures are laid on, by name: a colour, or a gradient from the top of the frame to its bottom."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

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
