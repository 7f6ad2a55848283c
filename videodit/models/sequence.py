"""Sequence parallelism for factorized attention: the tokens of one clip spread over the processes of a group.

A `space` block looks within a frame, so each process takes some of the frames; a `time` block looks along a place, so
each takes some of the places. Between the two stands one all-to-all, forward and backward (the dynamic sequence
parallelism of Zhao et al. 2024, arXiv 2403.10266); cross-attention and MLP look along no axis and go either way. Where
a block's groups cannot be dealt out like this (`WHOLE`; `space` with fewer frames than processes, an image above all)
each process takes some of the heads instead, of all tokens, and two all-to-alls stand around its attention (Ulysses,
Jacobs et al. 2023, arXiv 2309.14509).

What does not divide is padded with zeros at its end. Padding is never seen: frames are whole when places are dealt out
and the other way round, so it makes groups or heads of its own, which are dropped where the axis is whole again.

Axes: `b` batch, `f` frames, `s` places, `d` width, `h` heads, `e` width of a head, `p` processes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch.distributed as dist
from einops import rearrange, repeat
from torch import Tensor, cat
from torch.distributed._functional_collectives import all_to_all_single_autograd
from torch.nn.functional import pad

TOKENS, HEADS = "b f s d", "b f s h e"
WHOLE = ("joint", "window", "linear")  # axes along which a token may see any other: heads are dealt out


class Part(NamedTuple):
    """What a process holds of tokens: an equal part, padding included, along `axis` (`f` or `s`, `length` in all)."""

    group: str
    processes: int
    axis: str
    length: int

    def heads(self, *states: Tensor) -> tuple[Tensor, ...]:
        """b f s h e, some tokens and all heads -> all tokens and some heads; one all-to-all for all `states`."""
        sent = cat(states, dim=-1)
        return self._switch(sent, HEADS, self.axis, "h", self.length).chunk(len(states), dim=-1)

    def tokens(self, states: Tensor, heads: int) -> Tensor:
        """The inverse of `heads`, of which there are so many."""
        return self._switch(states, HEADS, "h", self.axis, heads)

    def along(self, axis: str, length: int, x: Tensor) -> Tensor:
        """Tokens b f s d, of which each process then holds a part along another axis, `length` in all."""
        assert x.shape[TOKENS.split().index(axis)] == length
        return self._switch(x, TOKENS, self.axis, axis, self.length)

    def whole(self, x: Tensor) -> Tensor:
        """Tokens b f s d of all processes, on each of them."""
        everywhere = self._exchange(repeat(x, "b f s d -> p b f s d", p=self.processes))
        return _joined(everywhere, TOKENS, self.axis, self.length)

    def _switch(self, x: Tensor, axes: str, have: str, want: str, length: int) -> Tensor:
        """A part along `have` (`length` in all) becomes one along `want`."""
        x = _padded(x, axes.split().index(want), self.processes)
        x = rearrange(x, f"{axes.replace(want, f'(p {want})')} -> p {axes}", p=self.processes)
        return _joined(self._exchange(x), axes, have, length)

    def _exchange(self, x: Tensor) -> Tensor:
        """Sends `x[i]` to process i: p ..., then of who sent it."""
        return all_to_all_single_autograd(x.contiguous(), None, None, self.group)  # type: ignore[arg-type]


class Spread:
    """The tokens of one call, laid out for one block after the other.

    Args:
        group: the processes that hold them; None: this one alone, and everything stays as it is.
        frames, places: of the tokens.
        held: along which of the two, "f" or "s", they are spread at first; None: they are whole.
    """

    def __init__(self, group: dist.ProcessGroup | None, frames: int, places: int, held: str | None = None):
        self.group, self.lengths = group, {"f": frames, "s": places}
        self.part: Part | None = None  # None: tokens are whole
        if group is not None and held is not None:
            self.part = Part(group.group_name, group.size(), held, self.lengths[held])

    def lay(self, x: Tensor, axis: str) -> Tensor:
        """Tokens b f s d as a block along `axis` takes them."""
        if self.group is None:
            return x
        wanted = "s"
        if axis == "space" and self.lengths["f"] >= self.group.size():
            wanted = "f"
        elif axis in WHOLE and self.part is not None:
            wanted = self.part.axis
        before = self.part
        if before is not None and before.axis == wanted:
            return x
        self.part = Part(self.group.group_name, self.group.size(), wanted, self.lengths[wanted])
        if before is None:
            return self._cut(x, TOKENS.split().index(wanted))
        return before.along(wanted, self.lengths[wanted], x)

    def across(self, axis: str) -> Part | None:
        """Over what a block along `axis` has its heads dealt out; None: what it looks at is here."""
        deals = axis in WHOLE or (axis == "space" and self.part is not None and self.part.axis == "s")
        return self.part if deals else None

    def of_frames(self, values: Tensor) -> Tensor:
        """b f ..., or b 1 ... for all frames alike: those of the frames that are here."""
        held = self.part is not None and self.part.axis == "f" and values.shape[1] > 1
        return self._cut(values, 1) if held else values

    def whole(self, x: Tensor) -> Tensor:
        """Tokens b f s d of all processes."""
        return x if self.part is None else self.part.whole(x)

    def _cut(self, x: Tensor, dim: int) -> Tensor:
        """This process's part of what is whole, in memory of its own, so that the rest can go."""
        assert self.group is not None
        return _padded(x, dim, self.group.size()).chunk(self.group.size(), dim)[self.group.rank()].clone()


def _padded(x: Tensor, dim: int, multiple: int) -> Tensor:
    """Zeros behind, up to a multiple."""
    missing = -x.shape[dim] % multiple
    return pad(x, (0, 0) * (x.ndim - 1 - dim) + (0, missing)) if missing else x


def _joined(x: Tensor, axes: str, axis: str, length: int) -> Tensor:
    """p parts along an axis -> the axis, without its padding."""
    x = rearrange(x, f"p {axes} -> {axes.replace(axis, f'(p {axis})')}")
    return x.narrow(axes.split().index(axis), 0, length)
