"""Who is compared: diffusers' Latte and PixArt, ours with the same weights, and the floor beneath both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers import LatteTransformer3DModel, PixArtTransformer2DModel
from diffusers.models.attention import BasicTransformerBlock
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import linear, scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode

from videodit.commands.benchmarks.devices import check_agreement
from videodit.models.formats.files import from_diffusers
from videodit.models.transformer import VideoDiT

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 3e-2}  # of the output, between ours and theirs


@dataclass(frozen=True)
class Shape:
    """A model and its input: `side` latent rows and columns in patches of 2, text of `tokens` states of `caption`."""

    name: str
    family: str  # "latte", or "pixart", of one frame
    layers: int
    width: int
    heads: int
    batch: int
    frames: int
    side: int
    tokens: int = 120
    caption: int = 4096

    def quick(self) -> Shape:
        """The same in small: for a look that everything runs."""
        return replace(self, layers=1, width=32, heads=2, frames=min(self.frames, 4), side=8, tokens=6, caption=16)

    def __str__(self) -> str:
        places = f"{self.side // 2} x {self.side // 2} places"
        return (
            f"{self.name}: layers {self.layers}, width {self.width}, heads {self.heads}, batch {self.batch}, "
            f"frames {self.frames} of {places}, text tokens {self.tokens}"
        )


LATTE = Shape("Latte-1", "latte", 28, 1152, 16, 1, 16, 32)
LAYERS = range(1, LATTE.layers + 1)  # of which a benchmark may take fewer
PIXART = Shape("PixArt, one frame", "pixart", 28, 1152, 16, 1, 1, 32)
SMALL = Shape("Latte at width 256", "latte", 4, 256, 4, 2, 16, 16)


class Pair:
    """A peer with random weights, ours with the same ones, and one input for both."""

    def __init__(self, shape: Shape, dtype: torch.dtype = torch.float32, device: torch.device | None = None):
        self.shape, self.dtype = shape, dtype
        torch.manual_seed(0)
        config: dict[str, Any] = {
            "num_attention_heads": shape.heads,
            "attention_head_dim": shape.width // shape.heads,
            "in_channels": 4,
            "out_channels": 8,
            "num_layers": shape.layers,
            "sample_size": shape.side,
            "patch_size": 2,
            "cross_attention_dim": shape.width,
            "caption_channels": shape.caption,
            "attention_bias": True,
            "activation_fn": "gelu-approximate",
            "norm_type": "ada_norm_single",
            "norm_elementwise_affine": False,
            "norm_eps": 1e-6,
        }
        with torch.device(device or "cpu"):
            if shape.family == "latte":
                self.theirs: Any = LatteTransformer3DModel(**config, video_length=shape.frames)
            else:
                self.theirs = PixArtTransformer2DModel(**config, use_additional_conditions=False)
            self.latent = torch.randn(shape.batch, 4, shape.frames, shape.side, shape.side, dtype=dtype)
            self.times = torch.arange(1, shape.batch + 1) * 999 // shape.batch
            self.text = torch.randn(shape.batch, shape.tokens, shape.caption, dtype=dtype)
        self.theirs.eval()
        self.ours: Any = from_diffusers(self.theirs)[0]
        if dtype != torch.float32:
            for model in (self.theirs, self.ours):
                nn.Module.to(model, dtype)  # all of it: no module of either is kept in fp32

    def call_ours(self, model: Any = None) -> Tensor:
        """The prediction, b c f h w, of ours or a copy of it."""
        return (model or self.ours)(self.latent, self.times, self.text, return_dict=False)[0]

    def call_theirs(self, model: Any = None) -> Tensor:
        """The same of theirs."""
        model = model or self.theirs
        if self.shape.family == "latte":
            return model(self.latent, self.times, self.text, return_dict=False)[0]
        added = {"resolution": None, "aspect_ratio": None}
        return model(self.latent[:, :, 0], self.text, self.times, added, return_dict=False)[0].unsqueeze(2)

    @torch.no_grad()
    def agree(self) -> float:
        """How far the two are apart; Disagreement where that is more than rounding."""
        what = f"{self.shape.name}, {str(self.dtype).removeprefix('torch.')}"
        return check_agreement(what, self.call_ours(), self.call_theirs(), TOLERANCE[self.dtype])


def train(model: nn.Module, call: Callable[[], Tensor]) -> None:
    """Forward and backward of a model, and its gradients dropped."""
    call().float().square().mean().backward()
    model.zero_grad()


def compiled(model: Any) -> Any:
    """A copy whose blocks are compiled, one piece for all of a kind."""
    model = deepcopy(model)
    if isinstance(model, VideoDiT):
        model.compile_repeated_blocks()
    else:
        for block in (b for b in model.modules() if isinstance(b, BasicTransformerBlock)):
            block.compile()
    return model


def count_flops(call: Callable[[], Any]) -> int:
    """Multiplications and additions of a call's matrix products and attentions, by torch's own counter.

    For models on the meta device, where nothing is computed.
    """
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        call()
    return counter.get_total_flops()


class Floor:
    """What no factorized model gets by without: its matrix products and attentions, each once, and nothing else.

    Each linear layer of theirs runs on what it must at least see (text keys and values on a prompt's tokens once, not
    once a frame; modulation once a sample), and attention through `scaled_dot_product_attention`, laid out as it likes
    it. No norms, residuals, activations, modulation, rearranging. A backward step follows each forward one at once.
    """

    def __init__(self, pair: Pair):
        self.pair = pair
        self.products: list[tuple[Tensor, Tensor, Tensor | None]] = []  # input, weight, bias
        self.attentions: list[tuple[Tensor, Tensor, Tensor]] = []
        self._states: dict[tuple[Any, ...], Tensor] = {}
        for layer, rows in self._layers():
            weight = layer.weight.flatten(1)  # type: ignore[operator]
            x = self._state("x", rows, weight.shape[1], grad=layer not in self._first())
            self.products.append((x, weight, layer.bias))  # type: ignore[arg-type]
        for groups, queries, keys in self._groups():
            heads, e = pair.shape.heads, pair.shape.width // pair.shape.heads
            query = self._state("query", groups, heads, queries, e)
            key, value = (self._state(name, groups, heads, keys, e) for name in ("key", "value"))
            self.attentions.append((query, key, value))

    def forward(self) -> None:
        for x, weight, bias in self.products:
            linear(x, weight, bias)
        for query, key, value in self.attentions:
            scaled_dot_product_attention(query, key, value)

    def train(self) -> None:
        for x, weight, bias in self.products:
            _backward(linear(x, weight, bias), x, weight, bias)
        for query, key, value in self.attentions:
            _backward(scaled_dot_product_attention(query, key, value), query, key, value)

    def _layers(self) -> Iterator[tuple[nn.Module, int]]:
        """Linear layers (and the patches' convolution, which is one), and the rows that each sees."""
        theirs, shape = self.pair.theirs, self.pair.shape
        tokens, texts = shape.batch * shape.frames * (shape.side // 2) ** 2, shape.batch * shape.tokens
        yield theirs.pos_embed.proj, tokens
        yield from ((theirs.caption_projection.get_submodule(f"linear_{i}"), texts) for i in (1, 2))
        yield from ((m, shape.batch) for m in theirs.adaln_single.modules() if isinstance(m, nn.Linear))
        for block in self._blocks():
            for name, layer in block.named_modules():
                if isinstance(layer, nn.Linear):
                    yield layer, texts if name in ("attn2.to_k", "attn2.to_v") else tokens
        yield theirs.proj_out, tokens

    def _first(self) -> list[Any]:
        """Layers that see data, which needs no gradient."""
        theirs = self.pair.theirs
        time = theirs.adaln_single.emb.timestep_embedder
        return [theirs.pos_embed.proj, theirs.caption_projection.linear_1, time.linear_1]

    def _groups(self) -> Iterator[tuple[int, int, int]]:
        """Of each attention: groups, queries and keys in one."""
        shape = self.pair.shape
        places = (shape.side // 2) ** 2
        for block in self._blocks():
            along_time = block.attn2 is None
            length, groups = (shape.frames, places) if along_time else (places, shape.frames)
            yield shape.batch * groups, length, length
            if not along_time:
                yield shape.batch, shape.frames * places, shape.tokens

    def _blocks(self) -> Iterator[Any]:
        yield from (b for b in self.pair.theirs.modules() if isinstance(b, BasicTransformerBlock))

    def _state(self, name: str, *shape: int, grad: bool = True) -> Tensor:
        """The same for all that are used alike: what it holds costs nothing."""
        if (name, *shape, grad) not in self._states:
            like = self.pair.latent
            state = torch.randn(shape, dtype=like.dtype, device=like.device).requires_grad_(grad)
            self._states[name, *shape, grad] = state
        return self._states[name, *shape, grad]


def _backward(output: Tensor, *inputs: Tensor | None) -> None:
    """Gradients of what has one, for a gradient of the output that costs nothing to make."""
    torch.autograd.grad(output, [x for x in inputs if x is not None and x.requires_grad], output.detach())
