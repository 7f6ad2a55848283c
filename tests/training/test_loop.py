"""The frame of a run by itself: which steps are walked, what is said of the time, and how rates fall."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from runs import run
from torch import nn

from videodit.training import checkpoint, loop
from videodit.training.assembled import Assembled
from videodit.training.loop import Loop


def frame(folder: Path, steps: int, **options: Any) -> Loop:
    given: dict[str, Any] = {"checkpoint_every": 100, "keep": 2, "log_every": 1, "trackers": ()}
    accelerator = Accelerator(cpu=not torch.accelerator.is_available())
    return Loop(folder, run(folder), accelerator, steps=steps, **given | options)


def walked(one: Loop) -> list[int]:
    """The steps that it walks, each with its own number as its batch."""
    one.resume(dict, lambda state: None)
    found = []
    for step, batch in one.run(lambda steps: iter(steps)):
        assert step == batch
        found.append(step)
        one.record(step, loss=float(step))
        one.checkpoint(step)
    return found


def test_every_step_is_walked_once_and_a_checkpoint_is_named_after_the_steps_that_are_taken(tmp_path: Path) -> None:
    """Every third, and after the last; a longer run goes on where they end."""
    assert walked(frame(tmp_path, 7, checkpoint_every=3, keep=9)) == list(range(7))
    folder = tmp_path / "checkpoints"
    assert [checkpoint.describe(f)["step"] for f in checkpoint.list_checkpoints(folder)] == [3, 6, 7]
    assert walked(frame(tmp_path, 9, checkpoint_every=3, keep=9)) == [7, 8]
    lines = [json.loads(line) for line in (tmp_path / "losses.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(step + 1, float(step)) for step in range(9)]


def test_a_run_that_goes_on_from_an_earlier_checkpoint_gives_up_what_came_later(tmp_path: Path) -> None:
    walked(frame(tmp_path, 6, checkpoint_every=2, keep=9))
    folder = tmp_path / "checkpoints"
    one = frame(tmp_path, 6, keep=9)
    one.resume(dict, lambda state: None, wanted=str(folder / "step_00000002"))
    assert sorted(f.name for f in folder.iterdir()) == [
        "given_up_step_00000004",
        "given_up_step_00000006",
        "step_00000002",
    ]
    assert [step for step, _ in one.run(lambda steps: iter(steps))] == [2, 3, 4, 5]


def test_a_spike_is_gone_back_from_and_its_step_is_passed_over_for_good(tmp_path: Path) -> None:
    """A loss of ten times the median of twenty or more; what was written of the steps taken back goes."""
    one = frame(tmp_path, 30, checkpoint_every=10, keep=9)
    one.resume(dict, lambda state: None)
    found = []
    for step, _ in one.run(lambda steps: iter(steps)):
        found.append(step)
        assert len(found) < 100  # one that is not passed over would be gone back from for ever
        loss = 11.0 if step in (5, 25) else 1.0  # the first comes before there is a median
        one.record(step, loss=loss)
        one.watch(step, loss, 10.0)
        one.checkpoint(step)
    assert found == [*range(26), *range(20, 25), *range(26, 30)]
    lines = [json.loads(line)["step"] for line in (tmp_path / "losses.jsonl").read_text().splitlines()]
    assert lines == [*range(1, 26), *range(27, 31)]
    assert json.loads((tmp_path / "passed_over.json").read_text()) == [25]
    assert walked(frame(tmp_path, 32)) == [30, 31]


def test_of_the_losses_between_two_lines_the_mean_is_written(tmp_path: Path) -> None:
    walked(frame(tmp_path, 7, log_every=3))
    lines = [json.loads(line) for line in (tmp_path / "losses.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(3, 1.0), (6, 4.0), (7, 6.0)]


def test_the_share_of_time_in_which_data_was_waited_for_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A clock that the data moves by three seconds, and a step by one."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: clock.now))
    one = frame(tmp_path, 4, log_every=2)
    one.resume(dict, lambda state: None)

    def batches(steps: Sequence[int]) -> Iterator[int]:
        for step in steps:
            clock.now += 3
            yield step

    with caplog.at_level(logging.INFO):
        for step, _ in one.run(batches):
            clock.now += 1
            one.record(step, loss=0.0)
    assert "waited for data: 75.00 % of 16 s" in caplog.text
    lines = [json.loads(line) for line in (tmp_path / "losses.jsonl").read_text().splitlines()]
    assert [line["seconds"] for line in lines] == [8.0, 8.0]
    # a wait is counted when its step is over: the line of the second step has the first's alone
    assert [line["data_wait"] for line in lines] == [3 / 8, 6 / 8]


def assembled(folder: Path, **train: Any) -> Any:
    """What a run steps two weights with."""
    config = run(folder, train=train)
    parts: Any = SimpleNamespace(
        config=config,
        raw_model=nn.Linear(2, 2),
        sharded=True,
        accelerator=SimpleNamespace(scaler=None),
        _check_words=lambda state: None,
        _power_names=lambda: [],
        _words=lambda: "",
        _samples=lambda: "",
    )
    Assembled._build_optimizers(parts)
    return parts


def test_a_run_that_goes_on_is_as_far_along_and_has_the_rates_of_its_own_configuration(tmp_path: Path) -> None:
    train: dict[str, Any] = {"schedule": "constant", "warmup_steps": 20, "weight_decay": 0.1}
    before = assembled(tmp_path, learning_rate=2.0, **train)
    for _ in range(8):
        before.raw_optimizers[0].step()
        before.schedules[0].step()
    after = assembled(tmp_path, learning_rate=5.0, **train | {"weight_decay": 0.3})
    Assembled.load_state(after, Assembled.state(before))
    for step in (8, 9, 10):
        groups = after.raw_optimizers[0].param_groups
        assert [group["lr"] for group in groups] == pytest.approx([5.0 * step / 20] * 2)
        assert [group["weight_decay"] for group in groups] == [0.3, 0.0]
        after.raw_optimizers[0].step()
        after.schedules[0].step()


@pytest.mark.parametrize(("schedule", "decay_steps"), [("cosine", None), ("cosine", 80), ("constant", None)])
def test_rates_warm_up_and_then_fall_as_half_a_cosine_or_stay(
    tmp_path: Path, schedule: str, decay_steps: int | None
) -> None:
    warm, steps = 4, 40
    train: dict[str, Any] = {"schedule": schedule, "warmup_steps": warm, "steps": steps, "decay_steps": decay_steps}
    parts = assembled(tmp_path, learning_rate=2.0, **train)
    (optimizer,), (rates,) = parts.raw_optimizers, parts.schedules
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        rates.step()
    end = decay_steps or steps
    fall = [(1 + math.cos(math.pi * (step - warm) / (end - warm))) / 2 for step in range(warm, steps)]
    after = fall if schedule == "cosine" else [1.0] * (steps - warm)
    assert found == pytest.approx([2.0 * share for share in (*(step / warm for step in range(warm)), *after)])
