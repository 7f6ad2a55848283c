"""Which weight is stepped by which optimizer, and which of them decay."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from videodit.training.optimizer import Muon, build_optimizers

SHAPES = {
    "matrix": (4, 6),
    "kernel": (4, 2, 3, 3),
    "row": (1, 6),
    "column": (6, 1),
    "vector": (5,),
    "number": (),
}


def weights() -> dict[str, nn.Parameter]:
    return {name: nn.Parameter(torch.ones(shape)) for name, shape in SHAPES.items()}


def test_matrices_and_kernels_of_those_inside_go_to_muon_and_all_else_to_adamw() -> None:
    """A row, a column or a vector has no directions to be made orthogonal."""
    named = weights()
    outside = nn.Parameter(torch.ones(4, 6))
    adamw, muon = build_optimizers([*named.values(), outside], named.values(), 0.1, (0.9, 0.99), 0.2, 0.05)
    assert isinstance(muon, Muon)
    assert [id(p) for group in muon.param_groups for p in group["params"]] == [
        id(named["matrix"]),
        id(named["kernel"]),
    ]
    stepped = {id(p) for group in adamw.param_groups for p in group["params"]}
    assert stepped == {id(named[name]) for name in ("row", "column", "vector", "number")} | {id(outside)}
    assert (muon.param_groups[0]["lr"], adamw.param_groups[0]["lr"]) == (0.05, 0.1)
    assert len(build_optimizers(weights().values(), [], 0.1, (0.9, 0.99), 0.2)) == 1


@pytest.mark.parametrize("inside", [True, False])
def test_without_gradients_weights_shrink_by_rate_times_decay_and_vectors_stay(inside: bool) -> None:
    named = weights()
    rate, decay = 0.1, 0.2
    optimizers = build_optimizers(named.values(), named.values() if inside else [], rate, (0.9, 0.99), decay)
    for weight in named.values():
        weight.grad = torch.zeros_like(weight)
    for optimizer in optimizers:
        optimizer.step()
    for name, weight in named.items():
        left = 1.0 if name in ("vector", "number") else 1 - rate * decay
        torch.testing.assert_close(weight.detach(), torch.full(SHAPES[name], left))
