"""Token routing in training (TREAD, Krause et al. 2025, arXiv 2501.04765): some tokens pass the middle blocks by.

Whole places are routed, the same in all frames of a clip, so that blocks along space and along time both see whole
groups. Axes: `b` batch, `f` frames, `s` places, `k` of them kept, `d` width.
"""

from __future__ import annotations

from einops import repeat
from torch import Tensor


def kept_of(places: int, share: float) -> int:
    """How many of a frame's places stay where a share of them is routed past the blocks: one at least."""
    return max(1, places - round(places * share))


class Route:
    """Takes tokens b f s d away before one block and puts them back before another, as they were.

    Args:
        kept: b k, numbers of the places that stay; None: all do.
        first, last: numbers of the blocks before which the others leave and are back.
    """

    def __init__(self, kept: Tensor | None, first: int, last: int):
        self.kept, self.first, self.last = kept, first, last

    def at(self, number: int, x: Tensor) -> Tensor:
        """The tokens that the block of this number sees, of those that are here."""
        if self.kept is None or number not in (self.first, self.last):
            return x
        index = repeat(self.kept, "b k -> b f k d", f=x.shape[1], d=x.shape[3])
        if number == self.first:
            self.whole = x
            return x.gather(2, index)
        return self.whole.scatter(2, index, x)
