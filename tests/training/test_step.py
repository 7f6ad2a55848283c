"""What a step does with the errors of its pieces, by the trainer's own code on parts that say plain numbers."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from videodit.training.assembled import Assembled
from videodit.training.ema import WeightAverage
from videodit.training.loop import SKIPS
from videodit.training.trainer import Trainer

NAN, INF = float("nan"), float("inf")


def piece(errors: list[float], counts: list[float], total: int) -> Any:
    return SimpleNamespace(
        bad={},
        values=torch.tensor(errors),
        counts=torch.tensor(counts),
        total=total,
        names=[f"clip {error:g}" for error in errors],
        size=SimpleNamespace(num_frames=5),
    )


def test_a_step_has_the_mean_error_of_what_counts_and_its_gradient() -> None:
    """Of eight samples over two processes, this one has three, and a place that is filled with what may be anything.

    A process's gradients are averaged over both afterwards, so here they are twice their share.
    """
    weight = torch.ones((), requires_grad=True)
    nothing = SimpleNamespace(train=lambda: None, eval=lambda: None, update=lambda: None)
    trainer: Any = SimpleNamespace(
        _note=list,
        raw_model=SimpleNamespace(train=lambda: None, text=nothing),
        accelerator=SimpleNamespace(device=torch.device("cpu"), backward=lambda loss: loss.backward()),
        config=SimpleNamespace(train=SimpleNamespace(sequence_parallel=1)),
        errors=lambda batch: weight * batch.values,
        process=(0, 2),
        optimizers=[],
        schedules=[],
        average=nothing,
        powers=[],
        _gradients_stay_here=lambda more: nullcontext(),
        _clip=lambda: 0.5,
        _usable=lambda *_: True,
    )
    pieces = [piece([1.0, 2.0], [1.0, 1.0], 8), piece([5.0, 100.0], [1.0, 0.0], 8)]
    assert Trainer.step(trainer, 0, pieces) == {"loss_clip": 8.0 / 8, "grad_norm": 0.5}
    assert weight.grad is not None
    assert float(weight.grad) == 8.0 * 2 / 8


def judge(on_nonfinite: str, precision: str = "no") -> Any:
    train = SimpleNamespace(precision=precision, on_nonfinite=on_nonfinite)
    return SimpleNamespace(config=SimpleNamespace(train=train), _skipped=0)


def usable(trainer: Any, loss: float, norm: float, *errors: float) -> bool:
    return Trainer._usable(trainer, 7, loss, norm, [f"clip {i}" for i in range(len(errors))], torch.tensor(errors))


def test_a_step_that_is_no_number_stops_the_run_and_names_whose_error_it_is() -> None:
    assert usable(judge("stop"), 1.0, 2.0, 1.0, 1.0)
    with pytest.raises(FloatingPointError, match=r"^step 7: loss nan, gradient norm 1; samples: clip 1$"):
        usable(judge("stop"), NAN, 1.0, 1.0, NAN, 1.0)
    with pytest.raises(FloatingPointError, match=r"samples: clip 0, clip 1$"):  # all errors are numbers: it may be any
        usable(judge("stop"), 1.0, INF, 1.0, 1.0)


def test_steps_that_are_no_number_are_passed_over_until_there_are_too_many_in_a_row() -> None:
    trainer = judge("skip")
    for _ in range(2):  # one that can be taken begins the count anew
        assert [usable(trainer, NAN, 1.0, NAN) for _ in range(SKIPS - 1)] == [False] * (SKIPS - 1)
        assert usable(trainer, 1.0, 1.0, 1.0)
    for _ in range(SKIPS - 1):
        usable(trainer, 1.0, INF, 1.0)
    with pytest.raises(FloatingPointError, match="gradient norm inf"):
        usable(trainer, 1.0, INF, 1.0)


def test_a_gradient_that_overflows_in_half_precision_is_the_scalers_business() -> None:
    assert usable(judge("stop", "fp16"), 1.0, INF, 1.0)
    with pytest.raises(FloatingPointError):
        usable(judge("stop", "fp16"), INF, INF, INF)


@pytest.mark.parametrize("is_main", [True, False])
def test_a_pipeline_has_the_averaged_weights_while_it_is_used_and_the_model_its_own_afterwards(is_main: bool) -> None:
    weight = nn.Parameter(torch.tensor([1.0]))
    average = WeightAverage([weight], 0.0)
    weight.data.fill_(3.0)
    groups: list[Any] = []
    transformer = SimpleNamespace(weight=weight, set_sequence_group=groups.append)
    assembled: Any = SimpleNamespace(
        raw_model=SimpleNamespace(eval=lambda: None, transformer=transformer, text=SimpleNamespace(parts="encoder")),
        accelerator=SimpleNamespace(is_main_process=is_main),
        config=SimpleNamespace(train=SimpleNamespace(lora=None)),
        sharded=False,
        group="group",
        average=average,
        _pipeline=lambda model, encoder: (model, encoder),
    )
    with Assembled.averaged_pipeline(assembled) as pipe:
        assert pipe == ((transformer, "encoder") if is_main else None)
        assert weight.item() == (1.0 if is_main else 3.0)
        assert groups == [None]
    assert weight.item() == 3.0
    assert groups == [None, "group"]
