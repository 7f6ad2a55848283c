"""Tokens that a model is told besides its text, as states of pictures or sounds, read between its blocks.

    x = x + CrossAttention(LN(x), tokens)       behind each block that reads the text, or, without text, each block

(Flamingo, Alayrac et al. 2022, arXiv 2204.14198; beside the text's own attention, IP-Adapter, Ye et al. 2023, arXiv
2308.06721). The way out begins at zero. Axes: `b` batch, `f` frames, `s` places, `m` tokens, `d` width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn

from videodit.models.attention import Attention, CrossShape


class Read(NamedTuple):
    """Tokens b m d, and b m bool, which of them are there; a row without any is told nothing."""

    tokens: Tensor
    there: Tensor


class Reader(nn.Module):
    """Cross-attention to tokens b m `width`, behind the blocks of these numbers."""

    def __init__(self, width: int, dim: int, heads: int, blocks: list[int]):
        super().__init__()
        self.proj = nn.Linear(width, dim)
        self.norms = nn.ModuleDict({str(number): nn.LayerNorm(dim) for number in blocks})
        shape = CrossShape(heads, qk_norm="rms_norm", dim=dim)
        self.attentions = nn.ModuleDict({str(number): Attention(dim, shape) for number in blocks})
        for attention in self.attentions.values():
            for linear in (attention.to_q, attention.to_k, attention.to_v):
                nn.init.xavier_uniform_(linear.weight)  # type: ignore[union-attr, arg-type]
            out = attention.get_parameter("to_out.0.weight")
            nn.init.zeros_(out)
            nn.init.zeros_(attention.get_parameter("to_out.0.bias"))

    def prepare(self, value: Tensor, there: Tensor) -> Read:
        """What all blocks read."""
        value = torch.where(there[..., None], value, 0.0).to(self.proj.weight.dtype)
        return Read(self.proj(value), there)

    def forward(self, number: int, x: Tensor, read: Read) -> Tensor:
        """What block number `number` adds to its states b f s d; itself where it reads none."""
        name = str(number)
        if name not in self.attentions:
            return x
        told = read.there.any(dim=1)
        mask = rearrange(read.there | ~told[:, None], "b m -> b 1 1 m")
        seen = self.attentions[name](self.norms[name](x), read.tokens.to(x.dtype), mask)
        return x + torch.where(told[:, None, None, None], seen, 0.0)
