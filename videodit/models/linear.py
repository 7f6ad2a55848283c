"""Linear attention: a token sees its own frame and all frames before it, as sums over their keys and values that do not
grow with them (Katharopoulos et al. 2020, arXiv 2006.16236).

    seen = phi(q)' S / phi(q)' z,    S = sum phi(k) v',    z = sum phi(k),    phi = ReLU

Positions turn the features of q and k in the dividend alone, so that the divisor stays above 0 (RoFormer, Su et al.
2021; SANA-Video, Chen et al. 2025, arXiv 2509.24695). Time grows as the frames do. A model all of whose blocks look
along `space` or `linear` sees nothing that comes later, so the sums are all that it needs of frames that are done:
`Past` holds them, and clips of any length are made in the memory of one window (`videodit.long`).

Axes: `b` batch, `f` frames, `s` places, `h` heads, `e` width of a head, of values; `d`, of keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from videodit.models.positions import rotate
from videodit.models.windows import Windows

CAUSAL = ("space", "linear")  # axes along which nothing is seen of later frames
LEAST = 1e-6  # of the divisor: a query without a positive feature sees nothing


class Sums(NamedTuple):
    """Over frames: `products` of keys and values b h d e, `keys` b h d, both fp32 at least."""

    products: Tensor
    keys: Tensor


@dataclass
class Running:
    """How a `linear` block looks at a clip: `before`, the sums over frames that came before it; None: none did.

    after: a list to which the sums with this clip's are added; None: they are not wanted.
    """

    before: Sums | None = None
    after: list[Sums] | None = None

    def attend(self, query: Tensor, key: Tensor, value: Tensor, rotary: tuple[Tensor, Tensor] | None) -> Tensor:
        """Of b f s h e all three, what each token sees, b f s h e. Sums are in fp32 at least, whatever they are of."""
        with torch.autocast(query.device.type, enabled=False):
            wide = torch.promote_types(query.dtype, torch.float32)
            query, key, value = query.to(wide).relu(), key.to(wide).relu(), value.to(wide)
            asked, found = (query, key) if rotary is None else (rotate(query, rotary), rotate(key, rotary))
            products = torch.einsum("bfshd,bfshe->bfhde", found, value).cumsum(dim=1)
            keys = key.sum(dim=2).cumsum(dim=1)
            if self.before is not None:
                products, keys = products + self.before.products[:, None], keys + self.before.keys[:, None]
            if self.after is not None:
                self.after.append(Sums(products[:, -1], keys[:, -1]))
            seen = torch.einsum("bfshd,bfhde->bfshe", asked, products)
            return seen / torch.einsum("bfshd,bfhd->bfsh", query, keys).clamp(min=LEAST)[..., None]


@dataclass
class Past:
    """What a model holds of the frames before those that it is shown, while it is that model's `past`.

    frames: how many (of tokens). sums: over them, of each `linear` block, by its number.
    """

    frames: int = 0
    sums: dict[int, Sums] = field(default_factory=dict)
    _taken: dict[int, list[Sums]] | None = None  # by the call that is to be held

    @contextmanager
    def held(self) -> Iterator[None]:
        """A call within is of clean frames that are done: they become part of the past. It is one call, at time 0."""
        self._taken = {}
        try:
            yield
            self.sums = {number: after[0] for number, after in self._taken.items()}
        finally:
            self._taken = None

    def running(self, number: int, rows: int) -> Running:
        """For a block's call with so many rows, which are the first of those that were held."""
        before = self.sums.get(number)
        after = None if self._taken is None else self._taken.setdefault(number, [])
        return Running(before and Sums(*(one[:rows] for one in before)), after)

    def over(self, frames: int) -> None:
        """A call with so many frames has ended."""
        if self._taken is not None:
            self.frames += frames


def remembers(model: Any) -> bool:
    """Whether sums are all that a model needs of frames that are done: it has some, and sees nothing that is later."""
    axes = getattr(model.config, "axes", ())
    return "linear" in axes and set(axes) <= set(CAUSAL)


@contextmanager
def with_past(model: Any) -> Iterator[Past]:
    """Within, the model goes on from what it holds (`Past.held`), beginning with nothing.

    Raises:
        ValueError: a model some of whose blocks see later frames, or which has a feature cache.
    """
    if not remembers(model):
        raise ValueError(f"only a model whose axes are {' and '.join(CAUSAL)} goes on from what it holds of the past")
    if model.is_cache_enabled:
        raise ValueError("a model does not go on from what it holds of the past under a feature cache: take it out")
    model.past = Past()
    try:
        yield model.past
    finally:
        model.past = None


def layout_of(model: Any, number: int, columns: int, rows: int) -> Windows | Running | None:
    """How a block looks at a clip of so many columns of tokens, of so many rows of the batch; None: by its axis."""
    if number in model.windows:
        return model.windows[number]._replace(columns=columns)
    if model.blocks[number].axis != "linear":
        return None
    return Running() if model.past is None else model.past.running(number, rows)
