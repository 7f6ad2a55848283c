"""Resume law: N steps, stop, M steps equals N + M steps, bit for bit; mid-epoch, with workers, and after a kill."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import launch, start
from runs import Seen, losses, mixed, train, train_until_killed

from videodit.training import checkpoint
from videodit.training.loop import Interrupted
from videodit.training.trainer import Trainer


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(v, b[k]) for k, v in a.items())
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)


def last(folder: Path) -> tuple[int, dict[str, Any]]:
    return checkpoint.load(checkpoint.list_checkpoints(folder / "checkpoints")[-1])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, list[str]]]:
    """Six steps in one go, and the samples of each."""
    folder = tmp_path_factory.mktemp("whole")
    trainer = Seen(mixed(folder))
    trainer.train()
    assert trainer.batches.sampler.steps_per_epoch not in (3, 6)  # so that it is stopped within an epoch
    return folder, trainer.seen


def like(whole: Path, folder: Path) -> Path:
    """An empty run beside the whole one: the same VAE and latents."""
    for part in ("vae", "latents"):
        shutil.copytree(whole / part, folder / part)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_resume_law_three_and_three_steps_are_six(
    whole: tuple[Path, dict[int, list[str]]], workers: int, tmp_path: Path
) -> None:
    folder, seen = like(whole[0], tmp_path), {}
    stopped = Seen(mixed(folder, workers=workers))
    stopped.fail_at = 4  # one step after the checkpoint, which is taken anew
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    seen |= stopped.seen
    gone_on = Seen(mixed(folder, workers=workers))
    gone_on.train()
    assert min(gone_on.seen) == 3
    assert seen | gone_on.seen == whole[1]
    assert equal(last(folder), last(whole[0]))
    assert losses(folder) == losses(whole[0])


@pytest.mark.slow
@pytest.mark.cpu("the process that is killed has begun on the CPU")
def test_resume_law_after_a_kill_while_a_checkpoint_is_written(
    whole: tuple[Path, dict[int, list[str]]], tmp_path: Path
) -> None:
    folder = like(whole[0], tmp_path)
    assert start(train_until_killed, folder, 6) == -signal.SIGKILL
    assert [f.name for f in checkpoint.list_checkpoints(folder / "checkpoints")] == ["step_00000003"]
    Trainer(mixed(folder)).train()
    assert equal(last(folder), last(whole[0]))


@pytest.mark.slow
def test_resume_law_after_sigterm(whole: tuple[Path, dict[int, list[str]]], tmp_path: Path) -> None:
    folder = like(whole[0], tmp_path)
    trainer = Seen(mixed(folder))
    step = trainer.step

    def terminated(number: int, pieces: Any) -> dict[str, float]:
        if number == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(number, pieces)

    trainer.step = terminated
    with pytest.raises(Interrupted, match="after step 2; the same command goes on"):
        trainer.train()
    assert last(folder)[0] == 2
    Trainer(mixed(folder)).train()
    assert equal(last(folder), last(whole[0]))


@pytest.mark.slow
def test_measuring_does_not_move_the_training(whole: tuple[Path, dict[int, list[str]]], tmp_path: Path) -> None:
    folder = like(whole[0], tmp_path)
    Trainer(mixed(folder, validate_every=1, sample_every=2, workers=1)).train()
    assert equal(last(folder), last(whole[0]))


@pytest.mark.slow
def test_a_changed_configuration_is_said(
    whole: tuple[Path, dict[int, list[str]]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = like(whole[0], tmp_path)
    shutil.copytree(whole[0] / "checkpoints", folder / "checkpoints")
    trainer = Trainer(mixed(folder, steps=7, learning_rate=5e-4, weight_decay=0.5))
    trainer.train()
    for optimizer in trainer.raw_optimizers:  # and it is done
        assert {group["lr"] for group in optimizer.param_groups} == {5e-4}
        assert 0.5 in {group["weight_decay"] for group in optimizer.param_groups}
    lines = [json.loads(line) for line in (folder / "losses.jsonl").read_text().splitlines()]
    assert next(line["lr"] for line in lines if line["step"] == 7 and "lr" in line) == 5e-4
    said = [r.getMessage() for r in caplog.records if "another configuration" in r.getMessage()]
    assert [line.partition(": ")[2] for line in said if "output" not in line] == [
        "train.steps: 6 -> 7",
        "train.learning_rate: 0.001 -> 0.0005",
        "train.weight_decay: 0.01 -> 0.5",
    ]


@pytest.mark.slow
def test_resume_as_it_is_asked_for(whole: tuple[Path, dict[int, list[str]]], tmp_path: Path) -> None:
    folder = like(whole[0], tmp_path)
    shutil.copytree(whole[0] / "checkpoints", folder / "checkpoints")
    with pytest.raises(ValueError, match=r"holds checkpoints, but train\.resume is null"):
        Trainer(mixed(folder, resume=None)).train()
    with pytest.raises(ValueError, match="nowhere"):
        Trainer(mixed(folder, resume=str(tmp_path / "nowhere"))).train()
    trainer = Seen(mixed(folder, resume=str(folder / "checkpoints" / "step_00000003")))
    trainer.fail_at = 4
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    # the later checkpoint is of a run that was given up: it is not gone on from
    assert sorted(f.name for f in (folder / "checkpoints").iterdir()) == ["given_up_step_00000006", "step_00000003"]
    with (folder / "losses.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # the power went
    trainer = Seen(mixed(folder))
    trainer.train()
    assert sorted(trainer.seen) == [3, 4, 5]
    assert equal(last(folder), last(whole[0]))


@pytest.mark.slow
def test_resume_law_with_batches_that_two_processes_share(
    whole: tuple[Path, dict[int, list[str]]], tmp_path: Path
) -> None:
    """Four steps in one go, and the last anew from the checkpoint before it: bit for bit."""
    one, other = (like(whole[0], tmp_path / name) for name in ("one", "other"))
    launch(train_shared, one)
    shutil.copytree(one / "checkpoints" / "step_00000003", other / "checkpoints" / "step_00000003")
    shutil.copy(one / "losses.jsonl", other)
    launch(train_shared, other)
    assert equal(last(one), last(other))
    assert losses(one) == losses(other)


def train_shared(folder: Path) -> None:
    train(folder, steps=4, sequence_parallel=2)
