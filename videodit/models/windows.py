"""Attention within windows of a clip: blocks of frames x rows x columns, laid anew by half their size on every second
block, so that what one parts the next joins (Swin, Liu et al. 2021, arXiv 2103.14030; in video, arXiv 2106.13230).

A window that the clip's edge cuts off is as small as what is left of it: nothing is padded, rolled or masked. One as
large as the clip on a side is not laid anew on that side, and one as large as the clip is attention of all to all.

Axes: `b` batch, `f` frames, `s` places, in `r` rows of `c` columns, `h` heads, `e` width of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor

Run = tuple[int, int, int]  # where it begins, how many windows it has, how long each is


class Windows(NamedTuple):
    """How a block looks at a clip: `size` of a window in tokens (frames, rows, columns), whether they are laid anew,
    and how many columns this clip has."""

    size: tuple[int, int, int]
    shifted: bool = False
    columns: int = 1

    def attend(self, function: Callable[[Tensor, Tensor, Tensor], Tensor], *states: Tensor) -> Tensor:
        """`function` of queries, keys and values n m h e, in each window; of b f s h e, to b f s h e."""
        f, s = states[0].shape[1:3]
        sides = (f, s // self.columns, self.columns)
        runs = [cut(side, size, self.shifted) for side, size in zip(sides, self.size, strict=True)]
        if all(len(side) == 1 for side in runs):
            return self._run([side[0] for side in runs], function, states)
        wide = [rearrange(x, "b f (r c) h e -> b f r c h e", c=self.columns) for x in states]
        out = torch.empty_like(wide[0])
        for part in product(*runs):
            at = (slice(None), *(slice(start, start + count * length) for start, count, length in part))
            piece = [rearrange(x[at], "b f r c h e -> b f (r c) h e") for x in wide]
            seen = self._run(part, function, piece)
            out[at] = rearrange(seen, "b f (r c) h e -> b f r c h e", r=part[1][1] * part[1][2])
        return rearrange(out, "b f r c h e -> b f (r c) h e")

    @staticmethod
    def _run(part: tuple[Run, ...] | list[Run], function: Callable[..., Tensor], states: tuple | list) -> Tensor:
        """In all windows of one size: b f s h e to b f s h e."""
        (_, i, _), (_, j, _), (_, k, c) = part
        apart, inside = "b (i f) (j r k c) h e", "(b i j k) (f r c) h e"
        counts = {"i": i, "j": j, "k": k}
        folded = [rearrange(x, f"{apart} -> {inside}", **counts, c=c) for x in states]
        b, f = states[0].shape[:2]
        return rearrange(function(*folded), f"{inside} -> {apart}", **counts, c=c, b=b, f=f // i)


def cut(side: int, size: int, shifted: bool) -> list[Run]:
    """A side of so many tokens as runs of windows of one length: what the edge cuts off, whole ones, what is left."""
    if size >= side:
        return [(0, 1, side)]
    first = size // 2 if shifted else 0
    whole, rest = divmod(side - first, size)
    runs = [(0, 1, first), (first, whole, size), (first + whole * size, 1, rest)]
    return [run for run in runs if run[1] and run[2]]
