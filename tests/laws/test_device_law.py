"""Device law: what is computed on an accelerator is what the CPU computes, and nothing is left behind on the CPU.

On a stand-in device (`tests/standin.py`), in processes of their own, since torch cannot forget a device again: one for
each kind of case, so that tests that run side by side have their own.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from device_cases import CASES, tell
from processes import start
from standin import install

KINDS: dict[str, list[str]] = {}
for case in CASES:
    KINDS.setdefault(case.partition(":")[0], []).append(case)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Any]]:
    """What became of each case of a kind."""

    @cache
    def of(kind: str) -> dict[str, Any]:
        folder = tmp_path_factory.mktemp("cases")
        assert start(tell, folder, KINDS[kind]) == 0
        lines = [json.loads(line) for line in (folder / "told.jsonl").read_text().splitlines()]
        assert [line["case"] for line in lines] == KINDS[kind]
        return {line["case"]: line for line in lines}

    return of


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in KINDS for name in KINDS[kind]])
def test_device_law(told: Callable[[str], dict[str, Any]], kind: str, name: str) -> None:
    case = told(kind)[name]
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


def test_the_stand_in_computes_as_the_cpu_and_refuses_mixing() -> None:
    assert start(mixed) == 0
