"""One block, any axis: the image DiT's block, whose self-attention looks along an axis (`attention.AXES`).

    x = x + gate_1 * SelfAttention(modulate(LN(x), shift_1, scale_1))      along the block's axis
    x = x + CrossAttention(x, text)                                        no gate; no norm (PixArt-alpha), or one (Wan)
    x = x + gate_2 * MLP(modulate(LN(x), shift_2, scale_2))

The six modulations are adaLN-single's (PixArt-alpha, Chen et al. 2023): one projection of the timestep shared by all
blocks, plus a table of the block's own; or adaLN-zero's (DiT, Peebles & Xie 2022): a projection of the block's own. Of
zeros nothing but the table is left: plain norms with weights, and gates of the block's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry
from diffusers.models.activations import GELU
from diffusers.models.attention import FeedForward
from diffusers.models.normalization import FP32LayerNorm
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import silu
from torch.utils.checkpoint import checkpoint

from videodit.models.attention import Attention, AttentionShape, Axis, CrossShape, Layout
from videodit.models.sequence import Part

SLOPE = math.sqrt(8 / math.pi)  # the GELU's 2 u = x (SLOPE + CURVE x^2)
CURVE = SLOPE * 0.044715
PIECE = 1 << 19  # numbers, which a CPU's cache holds


class DiTBlock(nn.Module):
    """A transformer block over b f s d whose self-attention runs along `axis`.

    Args:
        dim: width d, a multiple of the heads.
        axis: `space` (each frame on its own), `time` (each place through time), `joint` (all tokens at once),
            `window` (those of a block of frames, rows and columns, `models.windows`), `linear` (all of its frame and
            of those before, as sums, `models.linear`).
        attention: what its self-attention is made of. cross: likewise, to the text; None: it reads none.
        norm_type: `ada_norm_single`, `ada_norm_zero`, or `layer_norm`, which is told nothing.
        ffn_dim: hidden width of the MLP.
        activation_fn: of the MLP, as diffusers' `FeedForward` names it.
        norm_elementwise_affine, norm_eps: of the layer norms (adaLN-zero's first is always plain, eps 1e-6).
    """

    def __init__(
        self,
        dim: int,
        axis: Axis,
        attention: AttentionShape,
        cross: CrossShape | None = None,
        *,
        ffn_dim: int,
        norm_type: str = "ada_norm_single",
        activation_fn: str = "gelu-approximate",
        norm_elementwise_affine: bool = False,
        norm_eps: float = 1e-6,
    ):
        super().__init__()
        self.axis = axis
        self.modulation: nn.Linear | None = None
        if norm_type == "ada_norm_zero":
            self.modulation = nn.Linear(dim, 6 * dim)
            self.norm1 = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        else:
            self.scale_shift_table = nn.Parameter(torch.randn(6, dim) / dim**0.5)
            self.norm1 = nn.LayerNorm(dim, eps=norm_eps, elementwise_affine=norm_elementwise_affine)
        self.attn1 = Attention(dim, attention, axis)
        self.attn2 = Attention(dim, cross) if cross is not None else None
        self.norm_cross = FP32LayerNorm(dim, norm_eps) if cross is not None and cross.input_norm else nn.Identity()
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps, elementwise_affine=norm_elementwise_affine)
        self.ff = MLP(dim, activation_fn=activation_fn, inner_dim=ffn_dim)

    def forward(
        self,
        hidden_states: Tensor,
        modulation: Tensor,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        rotary: tuple[Tensor, Tensor] | None = None,
        across: Part | None = None,
        text_memory: tuple[Tensor, Tensor] | None = None,
        layout: Layout | None = None,
    ) -> Tensor:
        """b f s d -> b f s d. Without gradients sums go into what the block itself made, never into its input.

        Args:
            modulation: b f 6d or b 1 6d, the shared projection of the timestep; with adaLN-zero b f d or b 1 d, the
                embedding that the block projects itself.
            encoder_hidden_states: b m e; encoder_attention_mask: b 1 1 m, True = attend.
            rotary: (cos, sin) by which queries and keys of the self-attention are turned; None: they are not.
            across: where other processes hold some of the tokens that the self-attention looks at, what is held here.
            text_memory: the text's keys and values, each b m h e, in place of `encoder_hidden_states`.
            layout: how it looks at this clip, where its axis does not say all.
        """
        if self.modulation is not None:
            modulation = self.modulation(silu(modulation.to(self.modulation.weight.dtype)))
        table = rearrange(modulation, "b f (k d) -> b f 1 k d", k=6)
        if self.modulation is None:
            table = self.scale_shift_table + table
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = table.to(hidden_states.dtype).unbind(dim=-2)  # b f 1 d
        states = remade(modulate, self.norm1, hidden_states, shift_1, scale_1)
        seen = self.attn1(states, rotary=rotary, across=across, layout=layout)
        hidden_states = torch.addcmul(hidden_states, gate_1, seen)
        if self.attn2 is not None:
            asks = self.norm_cross(hidden_states)
            seen = self.attn2(asks, encoder_hidden_states, encoder_attention_mask, text_memory=text_memory)
            hidden_states = hidden_states + seen if torch.is_grad_enabled() else hidden_states.add_(seen)
        states = remade(modulate, self.norm2, hidden_states, shift_2, scale_2)
        if torch.is_grad_enabled():
            return torch.addcmul(hidden_states, gate_2, self.ff(states))
        return hidden_states.addcmul_(gate_2, self.ff(states))

    def silence(self) -> None:
        """Zeroes every way out of the block, biases included, so that it passes its input on unchanged."""
        outs = [self.attn1.to_out[0], self.ff.net[-1]] + ([self.attn2.to_out[0]] if self.attn2 is not None else [])
        for linear in outs:
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)


class MLP(FeedForward):
    """diffusers' MLP, whose hidden states are in memory once: for backward those before the GELU alone are kept, and
    without gradients it is taken in place."""

    def forward(self, hidden_states: Tensor, *args: object, **kwargs: object) -> Tensor:
        if type(self.net[0]) is not GELU or self.net[0]._forward_hooks or self.net[0].proj._forward_hooks:
            return super().forward(hidden_states)  # a hook may keep what it is shown
        hidden_states = self.net[0].proj(hidden_states)
        tanh = self.net[0].approximate == "tanh"
        if tanh and torch.compiler.is_compiling():
            return self._out(hidden_states, sigmoid_gelu)
        if torch.is_grad_enabled():
            return remade(self._out, hidden_states, self.net[0].gelu)
        if tanh and hidden_states.is_cpu and hidden_states.is_contiguous():
            return self._out(hidden_states, sigmoid_gelu_)
        return self._out(hidden_states, partial(torch.ops.aten.gelu_, approximate=self.net[0].approximate))

    def _out(self, hidden_states: Tensor, gelu: Callable[[Tensor], Tensor]) -> Tensor:
        hidden_states = gelu(hidden_states)
        for module in self.net[1:]:
            hidden_states = module(hidden_states)
        return hidden_states


def sigmoid_gelu(x: Tensor) -> Tensor:
    """The GELU with tanh, x (1 + tanh u) / 2, as what it equals: x sigmoid(2 u). One exponential, and where all is one
    compiled loop it takes about half the time of a tanh. In float32 at least: 41 cubed is too much for fp16."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return (wide * torch.sigmoid(wide * (SLOPE + CURVE * wide**2))).to(x.dtype)


def sigmoid_gelu_(x: Tensor) -> Tensor:
    """The same in place, x contiguous, by pieces that stay in a CPU's cache from pass to pass: half the time of torch's
    own there, most of which `sigmoid_gelu` of each piece would lose again."""
    slope = torch.tensor(SLOPE, dtype=torch.float64)
    for piece in x.view(-1).split(PIECE):
        wide = piece.to(torch.promote_types(x.dtype, torch.float32))
        twice_u = torch.addcmul(slope, wide, wide, value=CURVE).mul_(wide)
        piece.copy_(wide.mul_(twice_u.sigmoid_()))
    return x


def modulate(norm: nn.Module, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """norm(x) (1 + scale) + shift, with shift and scale b f 1 d."""
    x = norm(x)
    return torch.addcmul(shift, x, 1 + scale) if torch.is_grad_enabled() else x.mul_(1 + scale).add_(shift)


def remade(function: Callable[..., Tensor], *inputs: object) -> Tensor:
    """`function(*inputs)`, of which nothing but its tensor inputs is kept for backward: the rest is made again there.

    For what is cheap to make but large to keep. Where the last step is a linear layer, backward needs what goes into
    it, and stops before the product itself. Compiled code decides by itself what to keep.
    """
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return function(*inputs)
    return checkpoint(function, *inputs, use_reentrant=False)


# what diffusers' feature caches need to know of the block: it returns the hidden states alone
TransformerBlockRegistry.register(DiTBlock, TransformerBlockMetadata(return_hidden_states_index=0))
