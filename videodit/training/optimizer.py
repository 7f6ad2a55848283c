"""Which weights are stepped by what: AdamW for all, or Muon for the inner matrices and kernels and AdamW for the rest.

AdamW: Loshchilov & Hutter 2019. Muon: Jordan et al. 2024, with the update scaled to AdamW's (Moonshot AI 2025), so that
one learning rate serves both; matrices stand several times more. Both are torch's own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn


class Muon(torch.optim.Muon):
    """torch's Muon, which steps matrices, for convolution kernels too: they are stepped as (out, everything else)."""

    def __init__(self, weights: list[nn.Parameter], **kwargs: Any):
        self.weights = weights
        # views on the same memory: what is stepped is the weight itself
        super().__init__([nn.Parameter(w.detach().flatten(1)) for w in weights], **kwargs)

    def step(self, closure: Any = None) -> Any:
        views = (view for group in self.param_groups for view in group["params"])
        for view, weight in zip(views, self.weights, strict=True):
            view.grad = None if weight.grad is None else weight.grad.flatten(1)
        return super().step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        super().zero_grad(set_to_none)
        for weight in self.weights:
            weight.grad = None


def build_optimizers(
    weights: Iterable[nn.Parameter],
    inner: Iterable[nn.Parameter],
    learning_rate: float,
    betas: tuple[float, float],
    weight_decay: float,
    muon_learning_rate: float | None = None,
) -> list[torch.optim.Optimizer]:
    """Optimizers that together step each of `weights` once; those in `inner` that are matrices or kernels by Muon.

    Vectors (biases, norms) carry no weight decay. Build after the model is on its device.
    """
    weights = list(weights)
    chosen = {id(p) for p in inner if p.ndim > 1 and p[0].numel() > 1 and len(p) > 1}
    matrices = [p for p in weights if id(p) in chosen]
    rest = [p for p in weights if id(p) not in chosen]
    groups = [
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, learning_rate, betas=betas, fused=True)]
    if matrices:
        rate = muon_learning_rate or learning_rate
        optimizers.append(Muon(matrices, lr=rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"))
    return optimizers
