"""What a training step holds at once: a step of the model, its optimizer and its averages, taken without numbers.

Under torch's `FakeTensorMode` tensors have shapes and no content; the bytes alive are counted as they come and go, so
what autograd keeps, what runs again in backward, what autocast casts and what an optimizer needs beside its states are
all counted, for any shape. What libraries take besides (an allocator's gaps, kernels' work space, CUDA itself) is not.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.function import once_differentiable
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.functional import linear, mse_loss

from videodit.conditions import Told, asked, own_names, own_of, tokens_asked
from videodit.config import Run
from videodit.geometry import ClipSize, Strides
from videodit.memory import Alive
from videodit.models.quantized import plain_parts, quantizable
from videodit.models.routing import kept_of
from videodit.models.transformer import VideoDiT
from videodit.models.waiting import checkpoint_waiting
from videodit.training import inputs
from videodit.training.ema import PowerAverage, WeightAverage
from videodit.training.optimizer import SteppedInBackward, build_optimizers
from videodit.training.parallel import total_norm_clip

TEXT = 64  # tokens of a caption
EIGHT_BITS = 53  # bytes a number of the weight that torchao's AdamW steps, beside its states, not compiled; measured
SCALES = {"int8": (5, 0), "fp8": (4, 0), "nf4": (4, 64)}  # bytes of one, and of how many numbers; 0: of a row


@dataclass(frozen=True)
class Footprint:
    """Bytes: of what is always there (weights, optimizer, averages), of all gradients that are there together, of what
    a forward pass keeps (activations), and the most at once, all in all."""

    weights: int
    gradients: int
    optimizer: int
    averages: int
    activations: int
    peak: int


def footprint(config: Run, model: VideoDiT, size: ClipSize, batch: int, strides: Strides) -> Footprint:
    """Of a step on a batch of one process.

    Args:
        model: on the meta device, with its adapters, what is trained requiring gradients; it is given other weights.
    """
    train = config.train
    build = partial(
        build_optimizers,
        learning_rate=train.learning_rate,
        betas=train.betas,
        weight_decay=train.weight_decay,
        kind=train.optimizer,
    )
    if train.optimizer == "adamw8bit":
        build([nn.Parameter(torch.zeros(4096))], ())  # torchao makes its tables, which must have content
    with FakeTensorMode(), Alive() as alive:
        _fill(model, config)
        weights = [p for p in model.parameters() if p.requires_grad]
        held = alive.now
        optimizers = build(weights, _inner(model) if train.optimizer == "muon" else ())
        averages = [WeightAverage(weights, train.ema_decay), *(PowerAverage(weights, s) for s in train.ema_sigma_rels)]
        if train.optimizer == "adamw8bit":  # which asks its tensors for numbers
            for optimizer in optimizers:
                optimizer.step = partial(_worked, weights)  # type: ignore[method-assign, assignment]
        stepped = SteppedInBackward(optimizers) if train.fused_backward else None
        before = alive.peak = alive.now
        loss = _loss(config, model, size, batch, strides)
        kept = alive.now - before
        loss.backward()
        if stepped is None:
            total_norm_clip(weights, train.max_grad_norm or 1.0)
            for optimizer in optimizers:
                optimizer.step()
        for average in averages:
            average.update()
        step = alive.peak - before
        largest = 4 * max(p.numel() for p in weights)
        state = sum(_bytes(optimizer.state_dict()["state"]) for optimizer in optimizers)
        averaged = sum(_bytes(average.averages) for average in averages)
    gradients = largest if train.fused_backward else 4 * sum(p.numel() for p in weights)
    present = held - (_waiting(model) if "blocks" in config.model.offload else 0)
    return Footprint(present, gradients, state, averaged, kept, present + state + averaged + step)


def _loss(config: Run, model: VideoDiT, size: ClipSize, batch: int, strides: Strides) -> Tensor:
    """Of a batch of clips, at one time each, told a text."""
    dtype = inputs.PRECISIONS[config.train.precision]
    model.train()
    if "activations" in config.model.offload:
        away = saved_tensors_hooks(
            lambda tensor: (tensor.shape, tensor.dtype), lambda kept: torch.empty(kept[0], dtype=kept[1])
        )
        model.enable_gradient_checkpointing(partial(checkpoint_waiting, where=away))
    tokens, width, pooled = tokens_asked(model) or TEXT, asked(model, "text") or 0, asked(model, "pooled") or 0
    states = torch.empty(batch, tokens, width), torch.empty(batch, pooled)
    told = Told(dict(zip(("prompt_embeds", "pooled_prompt_embeds"), states, strict=True)))
    told = told.also(size=torch.empty(batch, 2), guidance=torch.empty(batch))
    told = told.also(**_own(model, size, batch, strides))
    noisy, target = (torch.empty(batch, *size.latent(strides, model.patch_size)) for _ in range(2))
    places = noisy.shape[3] // model.patch_size[1] * (noisy.shape[4] // model.patch_size[2])
    kept = torch.zeros(batch, kept_of(places, config.train.routing), dtype=torch.long)
    route = {"routed": kept} if config.train.routing else {}
    with torch.autocast("cpu", dtype) if dtype else nullcontext(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of kernels, none of which is run
        prediction = model(noisy, torch.empty(batch), **told.kwargs(model), **route, return_dict=False)[0]
    return mse_loss(prediction.float()[:, : target.shape[1]], target)


def _own(model: VideoDiT, size: ClipSize, batch: int, strides: Strides) -> dict[str, Tensor]:
    """What it is told besides, by the names of `Told`."""
    found: dict[str, Tensor] = {}
    _, *places = size.latent(strides, model.patch_size)
    for one in own_of(model):
        shapes = {
            "channels": (batch, one.width, *places),
            "vectors": (batch, places[0], one.width) if one.per == "frame" else (batch, one.width),
            "tokens": (batch, TEXT, one.width),
        }
        values, rows = own_names(one.name)
        there = (batch, TEXT) if one.kind == "tokens" else (batch,)
        found |= {values: torch.empty(shapes[one.kind]), rows: torch.ones(there, dtype=torch.bool)}
    return found


def _fill(model: VideoDiT, config: Run) -> None:
    """Gives it weights that take the memory of those that it will have."""
    lora = config.train.lora
    base = lora.base if lora else "float32"
    coded = {layer for _, layer in quantizable(model)} if base in SCALES else set()
    computed = inputs.PRECISIONS[config.train.precision] or torch.float32
    rest: torch.dtype = computed if coded else getattr(torch, base)
    kept = tuple(model._keep_in_fp32_modules or ())
    for path, module in list(model.named_modules()):
        for name, weight in list(module._parameters.items()):
            if module in coded and name == "weight" and not weight.requires_grad:  # type: ignore[union-attr]
                _code(module, base, rest)
            elif weight is not None:
                stays = weight.requires_grad or any(part in f"{path}.{name}" for part in kept)
                dtype = torch.float32 if stays else rest
                module._parameters[name] = nn.Parameter(torch.empty(weight.shape, dtype=dtype), weight.requires_grad)
        for name, buffer in list(module._buffers.items()):
            module._buffers[name] = None if buffer is None else torch.empty(buffer.shape, dtype=buffer.dtype)


def _code(layer: Any, base: str, dtype: torch.dtype) -> None:
    """A layer of fewer bits in its place, whose weight is of a type that it computes in, as theirs say they are."""
    rows, columns = layer.weight.shape
    scales, numbers = SCALES[base]
    layer.__class__ = _Coded4 if base == "nf4" else _Coded8
    alike = torch.empty((), dtype=dtype).expand(rows, columns)  # one number in memory
    layer._parameters["weight"] = nn.Parameter(alike, requires_grad=False)
    codes = rows * columns // (2 if base == "nf4" else 1)
    layer.register_buffer("codes", torch.empty(codes, dtype=torch.uint8))
    layer.register_buffer("scales", torch.empty(scales * rows * columns // (numbers or columns), dtype=torch.uint8))


class _Coded8(nn.Linear):
    """As torchao's layers of 8 bits: multiplies with floats made in each call, which autograd keeps."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, x.new_empty(self.weight.shape), self.bias)


class _Coded4(nn.Linear):
    """As bitsandbytes' of 4 bits: the floats are made in each call, and again for backward."""

    def forward(self, x: Tensor) -> Tensor:
        out = _MadeTwice.apply(x, self.in_features, self.out_features)
        return out if self.bias is None else out + self.bias


class _MadeTwice(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, width: int, out: int) -> Tensor:  # type: ignore[override]
        ctx.shape = (out, width)
        return linear(x, x.new_empty(ctx.shape))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        return gradient @ gradient.new_empty(ctx.shape), None, None


def _inner(model: VideoDiT) -> list[nn.Parameter]:
    linears = (module for module in model.units.modules() if isinstance(module, nn.Linear))
    return [weight for module in linears if (weight := module.get_parameter("weight")).requires_grad]


def _worked(weights: list[nn.Parameter]) -> None:
    for weight in weights:
        if weight.grad is not None:
            torch.empty(EIGHT_BITS * weight.numel(), dtype=torch.uint8)


def _waiting(model: VideoDiT) -> int:
    """Bytes of frozen blocks that are not on the device: all but the largest."""

    def held(unit: nn.Module) -> int:
        frozen = (p for p in unit.parameters() if not p.requires_grad)
        return sum(x.untyped_storage().nbytes() for x in (*frozen, *unit.buffers()))

    blocks = [held(unit) for unit in model.units]
    return sum(blocks) - max(blocks)


def _bytes(state: Any) -> int:
    if isinstance(state, Tensor):
        return sum(part.nbytes for _, part in plain_parts("", state) if part.ndim)
    values: Iterable[Any] = state.values() if isinstance(state, dict) else state if isinstance(state, list) else ()
    return sum(map(_bytes, values))
