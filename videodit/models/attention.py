"""Multi-head attention along one axis of a video, or from a video to a text.

Attention, "Attention Is All You Need" (Vaswani et al. 2017); queries and keys are RMS-normalized a head at a time
*before* they are rotated ("Scaling Vision Transformers to 22B", Dehghani et al. 2023; RoFormer, Su et al. 2021).

Axes: `b` batch, `f` frames, `s` places of a frame, `m` text tokens, `d` width, `h` heads, `e` width of a head.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from diffusers.models.attention import AttentionModuleMixin
from diffusers.models.attention_dispatch import dispatch_attention_fn
from einops import rearrange
from torch import Tensor, nn

from videodit.models.sequence import Part

Axis = Literal["space", "time", "joint"]
# how tokens are grouped for self-attention: every group attends within itself
GROUPS: dict[str, str] = {"space": "(b f) s h e", "time": "(b s) f h e", "joint": "b (f s) h e"}


class AttnProcessor:
    """Computes `Attention` through diffusers' attention backends (`set_attention_backend`)."""

    _attention_backend = None
    _parallel_config = None

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary: tuple[Tensor, Tensor] | None = None,
        across: Part | None = None,
    ) -> Tensor:
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query = attn.norm_q(rearrange(attn.to_q(hidden_states), "b f s (h e) -> b f s h e", h=attn.heads))
        key = attn.norm_k(rearrange(attn.to_k(source), "... (h e) -> ... h e", h=attn.heads))
        value = rearrange(attn.to_v(source), "... (h e) -> ... h e", h=attn.heads)
        group = GROUPS[attn.axis]
        if across is not None:
            query, key, value = across.heads(query, key, value)
        b, f, s = query.shape[:3]
        if encoder_hidden_states is None:
            if rotary is not None:
                query, key = rotate(query, rotary), rotate(key, rotary)
            key, value = (rearrange(x, f"b f s h e -> {group}") for x in (key, value))
        states = dispatch_attention_fn(
            rearrange(query, f"b f s h e -> {group}"),
            key,
            value.to(query.dtype),
            attn_mask=attention_mask,
            backend=self._attention_backend,
            parallel_config=self._parallel_config,
        )
        states = rearrange(states, f"{group} -> b f s h e", b=b, f=f, s=s)
        if across is not None:
            states = across.tokens(states, attn.heads)
        states = rearrange(states, "b f s h e -> b f s (h e)")
        return attn.to_out[0](states.to(hidden_states.dtype))


class Attention(nn.Module, AttentionModuleMixin):
    """Self-attention along `axis`, or cross-attention from every token to a text when `cross_attention_dim` is given.

    Input b f s d, output b f s d. Text is b m e with a mask b 1 1 m (True = attend), rotary is (cos, sin), each
    broadcastable to b f s h e/2. `across`: the tokens are a part of those that see each other (`models.sequence`), and
    rotary is of all of them.
    """

    _default_processor_cls = AttnProcessor
    _available_processors = (AttnProcessor,)
    processor: Any

    def __init__(
        self,
        dim: int,
        heads: int,
        axis: Axis = "joint",
        cross_attention_dim: int | None = None,
        bias: bool = True,
        qk_norm: bool = True,
    ):
        super().__init__()
        self.heads, self.axis = heads, axis
        self.is_cross_attention = cross_attention_dim is not None
        source = cross_attention_dim or dim
        self.to_q = nn.Linear(dim, dim, bias=bias)
        self.to_k = nn.Linear(source, dim, bias=bias)
        self.to_v = nn.Linear(source, dim, bias=bias)
        self.norm_q = nn.RMSNorm(dim // heads, eps=1e-6) if qk_norm else nn.Identity()
        self.norm_k = nn.RMSNorm(dim // heads, eps=1e-6) if qk_norm else nn.Identity()
        self.to_out = nn.ModuleList([nn.Linear(dim, dim)])  # a list, as diffusers names it for LoRA
        AttentionModuleMixin.set_processor(self, AttnProcessor())

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary: tuple[Tensor, Tensor] | None = None,
        across: Part | None = None,
    ) -> Tensor:
        return self.processor(self, hidden_states, encoder_hidden_states, attention_mask, rotary, across)


def rotate(x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Turns each pair (first half, second half) of the head's width by its angle, in fp32."""
    cos, sin = rotary
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1).to(x.dtype)
