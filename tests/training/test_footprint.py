"""What a dry run says of memory, against what steps of the trainer take."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.utils import is_torchao_available
from runs import run
from tiny import tiny_pipeline

from videodit.commands import benchmark
from videodit.commands.benchmarks import planned
from videodit.models.quantized import plain_parts
from videodit.training.plan import Plan, plan
from videodit.training.trainer import Trainer


def benchmarked(monkeypatch: pytest.MonkeyPatch, *names: str) -> int:
    monkeypatch.setattr(planned, "CHOICES", {name: planned.CHOICES[name] for name in names})
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "memory", "--plans", "--quick"])
    return benchmark.main()


@pytest.mark.slow
@pytest.mark.cpu("bytes are those of the CPU's allocator")
def test_a_step_takes_what_the_plan_says(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("AdamW", "Adafactor", "fused backward", "LoRA, checkpointed")
    coded = ("AdamW in 8 bits", "QLoRA int8") if is_torchao_available() else ()
    assert benchmarked(monkeypatch, *names, *coded) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.strip().startswith((*names, *coded))]
    measured = {line[:32].strip(): float(line.split()[-2]) for line in lines}
    assert list(measured) == [*names, *coded]
    assert measured["AdamW"] == max(measured[name] for name in names)
    for name in coded[1:]:
        assert measured[name] < 0.4 * measured["AdamW"]


def test_a_plan_that_is_wrong_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    said = plan

    def less(config: Any) -> Plan:
        found = said(config)
        return Plan(**(vars(found) | {"peak": 0.8 * found.peak}))

    monkeypatch.setattr(planned, "plan", less)
    assert benchmarked(monkeypatch, "AdamW") == 1
    assert "--dry-run is off by more than 15% of the memory of: AdamW" in capsys.readouterr().err


LORA = {"rank": 2, "targets": ["to_q"]}
KEPT = ["float32", "bfloat16", *(["int8", "fp8"] if is_torchao_available() else [])]


@pytest.mark.slow
@pytest.mark.parametrize("base", KEPT)
def test_weights_take_what_those_that_are_loaded_take(tmp_path: Path, base: str) -> None:
    tiny_pipeline().save_pretrained(tmp_path / "start")
    lora = LORA | {"base": base}
    config = run(tmp_path, model={}, train={"start_from": str(tmp_path / "start"), "lora": lora, "trackers": []})
    config = config.model_copy(update={"codec": str(tmp_path / "start"), "model": type(config.model)()})
    said = plan(config).memory["weights"] * 1e9
    found = sum(x.nbytes for p in Trainer(config).raw_model.parameters() for _, x in plain_parts("", p.detach()))
    assert said == pytest.approx(found, rel=2e-3)  # a number a layer says of which type it is


def test_what_is_frozen_is_planned_smaller_by_each_choice(tmp_path: Path) -> None:
    """The order of sizes, where nothing of it can be measured here: 4 bits, and what waits in the machine's memory."""
    tiny_pipeline().save_pretrained(tmp_path / "start")

    def planned_for(base: str, *offload: str) -> Plan:
        again = {"gradient_checkpointing": True, "num_layers": None, "mlp_ratio": 4.0}
        train = {"start_from": str(tmp_path / "start"), "lora": LORA | {"base": base}}
        config = run(tmp_path, model={**again, "offload": list(offload)}, train=train)
        return plan(config.model_copy(update={"codec": str(tmp_path / "start")}))

    full, int8, nf4 = (planned_for(base) for base in ("float32", "int8", "nf4"))
    assert full.memory["weights"] > int8.memory["weights"] > nf4.memory["weights"]
    assert str(nf4).splitlines()[-2] == "  with train.lora.base: nf4, model.gradient_checkpointing"
    encoder = sum(p.numel() for p in tiny_pipeline().text_encoder.parameters())
    assert nf4.text == pytest.approx(4e-9 * encoder)
    assert str(nf4).splitlines()[-1].startswith("before it, alone: the text encoder")
    away, blocks = planned_for("float32", "activations"), planned_for("float32", "blocks")
    assert away.memory["activations"] < full.memory["activations"]
    assert away.peak <= full.peak
    model = torch.nn.ModuleList(tiny_pipeline().transformer.blocks)
    one = 4 * sum(p.numel() for p in model[0].parameters())
    assert 1e9 * (full.peak - blocks.peak) == pytest.approx((len(model) - 1) * one, rel=1e-3)
