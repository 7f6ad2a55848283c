"""Attention within windows of a clip: blocks of frames x rows x columns, laid anew by half their size on every second
block, so that what one parts the next joins (Swin, Liu et al. 2021, arXiv 2103.14030; in video, arXiv 2106.13230).

A window that the clip's edge cuts off is as small as what is left of it: nothing is padded, rolled or masked. One as
large as the clip on a side is not laid anew on that side, and one as large as the clip is attention of all to all.

Axes: `b` batch, `f` frames, `s` places, in `r` rows of `c` columns, `h` heads, `e` width of a head.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import product
from typing import NamedTuple

import torch
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
        wide = [x.unflatten(2, sides[1:]) for x in states]  # b f r c h e
        if all(len(side) == 1 for side in runs):
            return within(function, wide, *(side[0] for side in runs)).flatten(2, 3)
        out = torch.empty_like(wide[0])
        for part in product(*runs):
            at = (slice(None), *(slice(start, start + count * length) for start, count, length in part))
            out[at] = within(function, [x[at] for x in wide], *part)
        return out.flatten(2, 3)


def within(function: Callable[..., Tensor], states: Sequence[Tensor], *runs: Run) -> Tensor:
    """`function` in all windows of one size, b f r c h e to b f r c h e.

    By torch's own views, since einops' patterns, read line by line for each of many runs, take minutes to compile.
    """
    counts, lengths = [count for _, count, _ in runs], [length for _, _, length in runs]
    b, (h, e) = len(states[0]), states[0].shape[4:]
    apart = [side for pair in zip(counts, lengths, strict=True) for side in pair]
    folded = [
        x.reshape(b, *apart, h, e).permute(0, 1, 3, 5, 2, 4, 6, 7, 8).reshape(-1, math.prod(lengths), h, e)
        for x in states
    ]
    seen = function(*folded).reshape(b, *counts, *lengths, h, e).permute(0, 1, 4, 2, 5, 3, 6, 7, 8)
    return seen.reshape(states[0].shape)


def cut(side: int, size: int, shifted: bool) -> list[Run]:
    """A side of so many tokens as runs of windows of one length: what the edge cuts off, whole ones, what is left."""
    if size >= side:
        return [(0, 1, side)]
    first = size // 2 if shifted else 0
    whole, rest = divmod(side - first, size)
    runs = [(0, 1, first), (first, whole, size), (first + whole * size, 1, rest)]
    return [run for run in runs if run[1] and run[2]]
