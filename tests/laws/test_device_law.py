"""Device law: what is computed on an accelerator is what the CPU computes, and nothing is left behind on the CPU.

On a stand-in device (`tests/standin.py`), each in a process of its own, since torch cannot forget a device again.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from device_cases import CASES, tell
from processes import start
from standin import install


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_device_law(name: str, tmp_path: Path) -> None:
    assert start(tell, tmp_path, name) == 0
    case = json.loads((tmp_path / "told.json").read_text())
    assert case.get("error") is None, case["error"]
    assert case["apart"] < 1e-5


def mixed() -> None:
    away = install()
    there, here = torch.ones(3, device=away), torch.ones(3)
    layer = torch.nn.Linear(3, 2)
    wanted = layer(here)
    moved = layer.to(away)(there)
    assert moved.device == away
    assert torch.equal(moved.cpu(), wanted)
    moved.sum().backward()
    assert layer.weight.grad.device == away
    assert (there * torch.tensor(2.0)).tolist() == [2, 2, 2]  # a number may come from anywhere
    assert there[torch.tensor([0, 1])].device == away
    for wrong in (
        lambda: there + here,
        lambda: torch.cat([there, here]),
        lambda: here[torch.zeros(1, device=away).long()],
        lambda: there.where(here > 0, 1.0),
        lambda: there.numpy(),
        lambda: layer(here),
    ):
        with pytest.raises((RuntimeError, TypeError), match="sham:0"):
            wrong()


@pytest.mark.slow
def test_the_stand_in_computes_as_the_cpu_and_refuses_mixing() -> None:
    assert start(mixed) == 0
