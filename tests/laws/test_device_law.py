"""Device law: what is computed on an accelerator is what the CPU computes, and nothing is left behind on the CPU.

On a stand-in device (`tests/standin.py`), in a process of its own, since torch cannot forget a device again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from device_cases import CASES

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What became of each case."""
    paths = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
    words = (sys.executable, str(ROOT / "tests" / "device_cases.py"), str(tmp_path_factory.mktemp("cases")))
    done = subprocess.run(words, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": paths})
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"case"')]
    assert len(lines) == len(CASES), done.stderr
    return {line["case"]: line for line in lines}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_device_law(told: dict[str, Any], name: str) -> None:
    assert told[name].get("error") is None, told[name]["error"]
    assert told[name]["apart"] < 1e-5


MIXED = """
import torch
from standin import install

away = install()
there, here = torch.ones(3, device=away), torch.ones(3)
layer = torch.nn.Linear(3, 2)
wanted = layer(here)
moved = layer.to(away)(there)
assert moved.device == away and torch.equal(moved.cpu(), wanted)
moved.sum().backward()
assert layer.weight.grad.device == away
assert (there * torch.tensor(2.0)).tolist() == [2, 2, 2]  # a number may come from anywhere
assert there[torch.tensor([0, 1])].device == away
for wrong in (lambda: there + here, lambda: torch.cat([there, here]), lambda: here[torch.zeros(1, device=away).long()],
              lambda: there.where(here > 0, 1.0), lambda: there.numpy(), lambda: layer(here)):
    try:
        wrong()
    except (RuntimeError, TypeError) as error:
        assert "sham:0" in str(error), error
    else:
        raise SystemExit("not refused")
"""


@pytest.mark.slow
def test_the_stand_in_computes_as_the_cpu_and_refuses_mixing() -> None:
    paths = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
    done = subprocess.run(
        [sys.executable, "-c", MIXED], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": paths}
    )
    assert done.returncode == 0, done.stderr
