"""Which weights are stepped by what: AdamW for all, or Muon for the inner matrices and kernels and AdamW for the rest.

AdamW: Loshchilov & Hutter 2019, torch's own. Muon: Jordan et al. 2024, with the update scaled to AdamW's (Moonshot AI
2025), so that one learning rate serves both; matrices stand several times more. Two with smaller states: AdamW with its
moments in 8 bits (Dettmers et al. 2022, arXiv 2110.02861; torchao's), and Adafactor, with no first moment and the
second as a row and a column (Shazeer & Stern 2018, arXiv 1804.04235; transformers').

Every optimizer has its whole state from the start, zeros, as a weight's first gradient would make it: what a checkpoint
holds does not depend on which weights have had gradients (images skip `time` blocks), and a fresh optimizer is what a
saved one is loaded into, part by part where the weights are sharded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from diffusers.utils import is_torchao_available
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate

from videodit.training.precision import lacks_bfloat16

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # a, b, c of Jordan et al.: steepest at zero
NEWTON_SCHULZ_STEPS = 5
MOMENTUM = 0.95


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, made orthogonal. A kernel is stepped as the matrix (out, everything else).

    On matrices it is `torch.optim.Muon(adjust_lr_fn="match_rms_adamw")`, bit for bit. That one takes no kernels, and of
    a sharded weight (FSDP2) it sums the products in another order, in bfloat16: here each process gathers the update,
    one weight at a time, and makes the same whole matrix orthogonal as a single process would.
    """

    def __init__(self, weights: Iterable[nn.Parameter], lr: float, weight_decay: float):
        super().__init__(weights, {"lr": lr, "weight_decay": weight_decay})
        for group in self.param_groups:
            for weight in group["params"]:
                self.state[weight]["momentum"] = torch.zeros_like(weight)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._step(weight, weight.grad, group["lr"], group["weight_decay"])
        return loss

    def _step(self, weight: nn.Parameter, grad: Tensor, lr: float, weight_decay: float) -> None:
        momentum = self.state[weight]["momentum"]
        momentum.lerp_(grad, 1 - MOMENTUM)
        update = grad.lerp(momentum, MOMENTUM).bfloat16()
        whole = update.full_tensor() if isinstance(update, DTensor) else update
        rows, columns = weight.shape[0], weight.shape[1:].numel()
        orthogonal = orthogonalize(whole.flatten(1)).view(weight.shape)
        if isinstance(update, DTensor):  # every process has the whole: each keeps its part, nothing is sent
            everywhere = [Replicate()] * update.device_mesh.ndim
            orthogonal = DTensor.from_local(orthogonal, update.device_mesh, everywhere, run_check=False)
            orthogonal = orthogonal.redistribute(placements=update.placements)
        weight.mul_(1 - lr * weight_decay)
        weight.add_(orthogonal, alpha=-lr * (0.2 * math.sqrt(max(rows, columns))))


def orthogonalize(matrix: Tensor) -> Tensor:
    """The nearest matrix whose singular values are all near 1: Newton-Schulz, Jordan et al. 2024. `matrix` is bf16.

    A CPU without bfloat16 takes a hundred times longer for its products than for float32's: there they are float32's,
    rounded after each.
    """
    a, b, c = NEWTON_SCHULZ
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / x.norm().clamp(min=1e-7)  # spectral norm at most 1
    wide = torch.float32 if lacks_bfloat16(matrix.device) else matrix.dtype

    def rounded(product: Tensor) -> Tensor:
        return product.to(matrix.dtype).to(wide)

    x = x.to(wide)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = rounded(x @ x.T)
        x = rounded(torch.addmm(x, rounded(torch.addmm(gram, gram, gram, beta=b, alpha=c)), x, beta=a))
    x = x.to(matrix.dtype)
    return x.T.contiguous() if tall else x


def build_optimizers(
    weights: Iterable[nn.Parameter],
    inner: Iterable[nn.Parameter],
    learning_rate: float,
    betas: tuple[float, float],
    weight_decay: float,
    muon_learning_rate: float | None = None,
    kind: str = "adamw",
) -> list[torch.optim.Optimizer]:
    """Optimizers that together step each of `weights` once; those in `inner` that are matrices or kernels by Muon.

    Vectors (biases, norms) carry no weight decay. Build after the model is on its device, and sharded if it will be.
    Their `state_dict`s go by position, so they are the same on every process and any number of them.

    Args:
        kind: of what Muon does not step: "adamw"; or, of whole weights alone, "adamw8bit" or "adafactor" (no `betas`).

    Raises:
        ValueError: what it needs is not installed; names the package.
    """
    weights = list(weights)
    chosen = {id(p) for p in inner if p.ndim > 1 and p.shape[0] > 1 and p.shape[1:].numel() > 1}
    matrices = [p for p in weights if id(p) in chosen]
    rest = [p for p in weights if id(p) not in chosen]
    groups = [
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
    ]
    first = {"adamw8bit": _adamw_in_8_bits, "adafactor": _adafactor}.get(kind, _adamw)(groups, learning_rate, betas)
    optimizers: list[torch.optim.Optimizer] = [first]
    if matrices:
        optimizers.append(Muon(matrices, muon_learning_rate or learning_rate, weight_decay))
    return optimizers


Groups = list[dict[str, Any]]


def _adamw(groups: Groups, learning_rate: float, betas: tuple[float, float]) -> torch.optim.Optimizer:
    adamw = torch.optim.AdamW(groups, learning_rate, betas=betas, fused=True)
    for p in (p for group in groups for p in group["params"]):
        moments = {name: torch.zeros_like(p) for name in ("exp_avg", "exp_avg_sq")}
        adamw.state[p] = {"step": torch.zeros((), device=p.device), **moments}
    return adamw


def _adamw_in_8_bits(groups: Groups, learning_rate: float, betas: tuple[float, float]) -> torch.optim.Optimizer:
    """Moments of weights of 4096 numbers and more, in a multiple of 256, as codes and a scale for each 256."""
    if not is_torchao_available():
        raise ValueError("train.optimizer: adamw8bit needs torchao: pip install 'videodit[quantize]'")
    from torchao.optim import AdamW8bit

    class Stepped(AdamW8bit):
        """Its rates stay numbers, as a schedule sets them; and on a CPU it compiles nothing."""

        def add_param_group(self, param_group: dict[str, Any]) -> None:
            super().add_param_group(param_group)
            self.param_groups[-1]["lr"] = self.defaults["lr"]

        def step(self, closure: Callable[[], float] | None = None) -> float | None:
            rates = [group["lr"] for group in self.param_groups]
            compiled = all(p.is_cuda for group in self.param_groups for p in group["params"])
            try:
                for group, rate in zip(self.param_groups, rates, strict=True):
                    group["lr"] = torch.tensor(rate)
                with torch.compiler.set_stance("default" if compiled else "force_eager"):
                    return super().step(closure)
            finally:
                for group, rate in zip(self.param_groups, rates, strict=True):
                    group["lr"] = rate

    adamw = Stepped(groups, learning_rate, betas=betas)
    for p in (p for group in groups for p in group["params"]):
        moments = {"exp_avg": adamw._new_buffer(p, True), "exp_avg_sq": adamw._new_buffer(p, False)}
        adamw.state[p] = {"step": torch.zeros(()), **moments}
    return adamw


def _adafactor(groups: Groups, learning_rate: float, betas: tuple[float, float]) -> torch.optim.Optimizer:
    """At the rate that is given, not one by the weight's size, so that it is AdamW's."""
    from transformers.optimization import Adafactor

    adafactor = Adafactor(groups, learning_rate, scale_parameter=False, relative_step=False)
    for p in (p for group in groups for p in group["params"]):
        shapes = {"exp_avg_sq": p.shape}
        if p.ndim > 1:
            shapes = {"exp_avg_sq_row": p.shape[:-1], "exp_avg_sq_col": p.shape[:-2] + p.shape[-1:]}
        squares = {name: torch.zeros(shape, device=p.device) for name, shape in shapes.items()}
        adafactor.state[p] = {"step": 0, "RMS": torch.zeros((), device=p.device), **squares}
    return adafactor


class SteppedInBackward:
    """Steps each weight as soon as backward has its gradient, and frees that: never are there all gradients at once.

    Each step is that of the optimizer, which passes over weights without a gradient, so the numbers are the same ones.
    """

    def __init__(self, optimizers: Iterable[torch.optim.Optimizer]):
        self._squares: list[Tensor] = []
        for optimizer in optimizers:
            for weight in (weight for group in optimizer.param_groups for weight in group["params"]):
                weight.register_post_accumulate_grad_hook(partial(self._step, optimizer))

    def _step(self, optimizer: torch.optim.Optimizer, weight: Tensor) -> None:
        assert weight.grad is not None
        self._squares.append(weight.grad.norm().square())
        optimizer.step()
        weight.grad = None

    def norm(self) -> float:
        """Of all gradients together, since it was asked last."""
        squares, self._squares = self._squares, []
        return float(torch.stack(squares).sum().sqrt()) if squares else 0.0
