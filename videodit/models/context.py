"""What a model is told as tokens among a frame's own: "in context" (U-ViT, Bao et al. 2022, arXiv 2209.12152; DiT's
fourth design, Peebles & Xie 2022), in place of cross-attention and of modulations.

Each frame has the tokens once, before its places, so that blocks need not know: along `space` a frame's places and
tokens see each other, along `time` each sees itself in other frames, and `joint` sees all. They go through the blocks
as places do, and are left behind at the end.

Axes: `b` batch, `f` frames, `s` places, `m` tokens in context, `d` width, `h` heads, `e` width of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from einops import rearrange, repeat
from torch import Tensor
from torch.nn.functional import pad

# of the axes whose blocks see other tokens than a place's own: how these are grouped, and who is seen
SEEN = {"space": ("(b f) s h e", "(b f) 1 1 s"), "joint": ("b (f s) h e", "b 1 1 (f s)")}


class Among(NamedTuple):
    """How a block along `axis` looks at frames with tokens in context, of which those are seen that `seen` b m says."""

    axis: str
    seen: Tensor

    def attend(self, attend: Callable[..., Tensor], query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Each b f s h e; `attend` is attention over batch, tokens, heads, width, with a mask."""
        b, f, s, h, _ = query.shape
        group, whom = SEEN[self.axis]
        seen = pad(self.seen, (0, s - self.seen.shape[1]), value=True)
        mask = rearrange(repeat(seen, "b s -> b f s", f=f), f"b f s -> {whom}")
        states = attend(*(rearrange(one, f"b f s h e -> {group}") for one in (query, key, value)), mask)
        return rearrange(states, f"{group} -> b f s h e", b=b, f=f, s=s, h=h)


class Context(NamedTuple):
    """Tokens b f m d; seen: b m, which of them others look at; None: all."""

    tokens: Tensor
    seen: Tensor | None

    def lay(self, x: Tensor) -> Tensor:
        """Places b f s d -> tokens and places b f (m s) d."""
        return torch.cat([self.tokens.to(x.dtype), x], dim=2)

    def taken(self, x: Tensor) -> Tensor:
        """The places alone, again."""
        return x[:, :, self.tokens.shape[2] :]

    def layout(self, axis: str) -> Among | None:
        """How a block along this axis looks at them; None: as at places."""
        return None if self.seen is None or axis == "time" else Among(axis, self.seen)

    def kept(self, routed: Tensor | None) -> Tensor | None:
        """Numbers of places that stay where others are routed past blocks, with the tokens, which all stay."""
        if routed is None:
            return None
        count = self.tokens.shape[2]
        own = torch.arange(count, device=routed.device, dtype=routed.dtype)
        return torch.cat([repeat(own, "m -> b m", b=len(routed)), routed + count], dim=1)
