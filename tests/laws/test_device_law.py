"""Device law: what is computed on an accelerator is what the CPU computes, and nothing is left behind on the CPU.

On a stand-in device (`tests/standin.py`), in processes of their own, since torch cannot forget a device again.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from device_cases import CASES, tell
from processes import start
from standin import install


def shares(most: int = 14) -> list[list[str]]:
    """Cases go through a process together; what is trained changes accelerate's state, and has one alone."""
    alone = [[name] for name in CASES if name.startswith("training: ")]
    others = [name for name in CASES if not name.startswith("training: ")]
    return [others[at : at + most] for at in range(0, len(others), most)] + alone


@pytest.mark.slow
@pytest.mark.parametrize("names", shares(), ids=lambda names: names[0])
def test_device_law(names: list[str], tmp_path: Path) -> None:
    assert start(tell, tmp_path, names) == 0
    told = json.loads((tmp_path / "told.json").read_text())
    assert list(told) == names
    for name, apart in told.items():
        assert not isinstance(apart, str), f"{name}: {apart}"
    assert {name: apart for name, apart in told.items() if not apart < 1e-5} == {}


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
