"""Multi-head attention along one axis of a video, or from a video to a text.

Attention, "Attention Is All You Need" (Vaswani et al. 2017); queries and keys are RMS-normalized *before* they are
rotated ("Scaling Vision Transformers to 22B", Dehghani et al. 2023; RoFormer, Su et al. 2021).

Axes: `b` batch, `f` frames, `s` places of a frame, `m` text tokens, `d` width, `h` heads, `e` width of a head.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from diffusers.models.attention import AttentionModuleMixin
from diffusers.models.attention_dispatch import dispatch_attention_fn
from einops import rearrange
from torch import Tensor, nn

from videodit.models.context import Among
from videodit.models.linear import Running
from videodit.models.positions import rotate
from videodit.models.sequence import Part
from videodit.models.windows import Windows

Axis = Literal["space", "time", "joint", "window", "linear"]
Layout = Windows | Running | Among  # how a block looks at a clip, where its axis does not say all
# how tokens are grouped for self-attention, as batch, tokens, heads, width: views all three, since along `time` the
# heads of all places are so many heads of one clip; of the others see `Windows` and `Running`
GROUPS: dict[str, str] = {"space": "(b f) s h e", "time": "b f (s h) e", "joint": "b (f s) h e"}
AXES = (*GROUPS, "window", "linear")
MOST_HEADS = 65535  # of one call, by CUDA's kernels
QK_NORMS = ("rms_norm", "rms_norm_across_heads")  # as diffusers names them: a head at a time, or all at once (Wan)


@dataclass(frozen=True)
class AttentionShape:
    """heads; bias of queries, keys and values; qk_norm: None, or one of QK_NORMS."""

    heads: int
    bias: bool = True
    qk_norm: str | None = None


@dataclass(frozen=True)
class CrossShape(AttentionShape):
    """Of cross-attention: `dim` of the text, and whether what looks at it is layer-normalized, with weights (Wan)."""

    dim: int = 0
    input_norm: bool = False


class WidthNorm(nn.RMSNorm):
    """RMS norm of ... h e over all heads at once."""

    def forward(self, x: Tensor) -> Tensor:
        heads = x.shape[-2]
        return rearrange(super().forward(rearrange(x, "... h e -> ... (h e)")), "... (h e) -> ... h e", h=heads)


@dataclass(frozen=True)
class TextMemory:
    """What the blocks' cross-attention sees of a text, made once for all calls about it: `VideoDiT.text_memory`.

    mask: b 1 1 m, True = attend; None: all. blocks: each block's keys and values, b m h e; None where it reads no text.
    branches: likewise, of each branch's copies (`models.branches`), by its condition's name.
    context: of a model that has the text among a frame's tokens, its states b m d and which are seen, b m.
    """

    mask: Tensor | None
    blocks: tuple[tuple[Tensor, Tensor] | None, ...]
    context: tuple[Tensor, Tensor | None] | None = None
    branches: Mapping[str, tuple[tuple[Tensor, Tensor] | None, ...]] = field(default_factory=dict)

    def __getitem__(self, rows: slice | list[int]) -> TextMemory:
        """That of some rows of the batch."""
        mask = None if self.mask is None else self.mask[rows]
        blocks, *branches = (
            tuple(kv and (kv[0][rows], kv[1][rows]) for kv in several)
            for several in (self.blocks, *self.branches.values())
        )
        context = None
        if self.context is not None:
            states, seen = self.context
            context = states[rows], None if seen is None else seen[rows]
        return TextMemory(mask, blocks, context, dict(zip(self.branches, branches, strict=True)))


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
        text_memory: tuple[Tensor, Tensor] | None = None,
        layout: Layout | None = None,
    ) -> Tensor:
        query = attn.norm_q(rearrange(attn.to_q(hidden_states), "b f s (h e) -> b f s h e", h=attn.heads))
        if text_memory is not None:
            key, value = text_memory
        else:
            key, value = attn.keys_and_values(hidden_states if encoder_hidden_states is None else encoder_hidden_states)
        if across is not None:
            query, key, value = across.heads(query, key, value)
        if rotary is not None and not isinstance(layout, Running):
            query, key = rotate(query, rotary), rotate(key, rotary)

        def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = attention_mask) -> Tensor:
            return dispatch_attention_fn(
                query,
                key,
                value.to(query.dtype),
                attn_mask=mask,
                backend=self._attention_backend,
                parallel_config=self._parallel_config,
            )

        if isinstance(layout, Running):
            states = layout.attend(query, key, value, rotary)
        elif layout is not None:
            states = layout.attend(attend, query, key, value)
        else:
            b, f, s, h, _ = query.shape
            group = grouping(attn.axis, s * h)
            if not attn.is_cross_attention:
                key, value = (rearrange(x, f"b f s h e -> {group}") for x in (key, value))
            states = attend(rearrange(query, f"b f s h e -> {group}"), key, value)
            states = rearrange(states, f"{group} -> b f s h e", b=b, f=f, s=s, h=h)
        if across is not None:
            states = across.tokens(states, attn.heads)
        states = rearrange(states, "b f s h e -> b f s (h e)")
        return attn.to_out[0](states.to(hidden_states.dtype))


class Attention(nn.Module, AttentionModuleMixin):
    """Self-attention along `axis`, or cross-attention from every token to a text when the shape is a `CrossShape`.

    Input b f s d, output b f s d. Text is b m e with a mask b 1 1 m (True = attend), or in its place `text_memory`, its
    `keys_and_values`. rotary is (cos, sin), each broadcastable to b f s h e/2. `across`: the tokens are a part of those
    that see each other (`models.sequence`), and rotary is of all of them. `layout`: of `window` and `linear`, and where
    some tokens are not seen.
    """

    _default_processor_cls = AttnProcessor
    _available_processors = (AttnProcessor,)
    _supports_qkv_fusion = False  # no gain was measured (one product took 0.95 to 1.03 of the time of three)
    processor: Any

    def __init__(self, dim: int, shape: AttentionShape, axis: Axis = "joint"):
        super().__init__()
        self.heads, self.axis = shape.heads, axis
        self.is_cross_attention = isinstance(shape, CrossShape)
        source = shape.dim if isinstance(shape, CrossShape) else dim
        self.to_q = nn.Linear(dim, dim, bias=shape.bias)
        self.to_k = nn.Linear(source, dim, bias=shape.bias)
        self.to_v = nn.Linear(source, dim, bias=shape.bias)
        self.norm_q, self.norm_k = _norm(dim, shape), _norm(dim, shape)
        self.to_out = nn.ModuleList([nn.Linear(dim, dim)])  # a list, as diffusers names it for LoRA
        AttentionModuleMixin.set_processor(self, AttnProcessor())

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary: tuple[Tensor, Tensor] | None = None,
        across: Part | None = None,
        text_memory: tuple[Tensor, Tensor] | None = None,
        layout: Layout | None = None,
    ) -> Tensor:
        return self.processor(
            self, hidden_states, encoder_hidden_states, attention_mask, rotary, across, text_memory, layout
        )

    def keys_and_values(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens ... d -> keys and values, each ... h e."""
        key, value = (rearrange(to(source), "... (h e) -> ... h e", h=self.heads) for to in (self.to_k, self.to_v))
        return self.norm_k(key), value


def _norm(dim: int, shape: AttentionShape) -> nn.Module:
    if shape.qk_norm is None:
        return nn.Identity()
    across = shape.qk_norm == "rms_norm_across_heads"
    return WidthNorm(dim, eps=1e-6) if across else nn.RMSNorm(dim // shape.heads, eps=1e-6)


def grouping(axis: Axis, heads: int) -> str:
    """How tokens b f s h e are grouped along an axis, of which all places together have so many heads: no copy, but
    for `time` where these are more than a kernel's grid holds."""
    return "(b s) f h e" if axis == "time" and heads > MOST_HEADS else GROUPS[axis]
