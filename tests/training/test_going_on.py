"""What a run finds when it goes on: damage is mended or named, other data is told, signals end it after its step."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import launch
from runs import Seen, run
from safetensors.torch import load_file

from videodit.command import command
from videodit.training import checkpoint, parallel, samples
from videodit.training.loop import Interrupted
from videodit.training.notes import passed_over
from videodit.training.trainer import Trainer


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    Trainer(config(folder)).train()
    return folder


def config(folder: Path, steps: int = 2, **data: Any) -> Any:
    train = {
        "steps": steps,
        "batch_size": 2,
        "sample_every": 100,
        "validate_every": 100,
        "trackers": [],
        "log_every": 1,
    }
    return run(folder, train=train, data={"clips": 8, "validation": 1, "image_share": 0.0} | data)


@pytest.fixture
def folder(two_steps: Path, tmp_path: Path) -> Path:
    """A run of two steps, whose output has another name now."""
    shutil.copytree(two_steps, tmp_path / "run")
    return tmp_path / "run"


def saved(folder: Path) -> Path:
    return checkpoint.list_checkpoints(folder / "checkpoints")[-1]


# --- damage ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_one_flipped_bit_anywhere_in_a_checkpoint_is_found(two_steps: Path, tmp_path: Path) -> None:
    whole, draw = saved(two_steps), random.Random(0)
    names = [file.relative_to(whole) for file in sorted(whole.rglob("*")) if file.is_file()]
    assert {"state.json", "config.json", "SHA256SUMS", "samples.safetensors"} <= set(map(str, names))
    for name in names:
        shutil.copytree(whole, tmp_path / "damaged", dirs_exist_ok=True)
        content = bytearray((whole / name).read_bytes())
        at = draw.randrange(8 * len(content))
        content[at // 8] ^= 1 << at % 8
        (tmp_path / "damaged" / name).write_bytes(content)
        with pytest.raises(checkpoint.CheckpointError, match="damaged"):
            checkpoint.load(tmp_path / "damaged")


def test_files_of_two_checkpoints_that_were_swapped_are_found(tmp_path: Path) -> None:
    one, other = (checkpoint.save(tmp_path, step, {"x": torch.full((9,), float(step))}, keep=2) for step in (1, 2))
    (shard,) = (one / "state").iterdir()
    shutil.copy(other / "state" / shard.name, shard)  # as large, as whole
    with pytest.raises(checkpoint.CheckpointError, match=f"{shard}: damaged or replaced.*; use an earlier one"):
        checkpoint.load(one)


def test_a_checkpoint_from_before_checksums_is_read_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    old = checkpoint.save(tmp_path, 1, {"x": 1}, keep=1)
    document = json.loads((old / "state.json").read_text())
    (old / "SHA256SUMS").unlink()
    with pytest.raises(checkpoint.CheckpointError, match="SHA256SUMS"):
        checkpoint.load(old)
    del document["sums"]
    (old / "state.json").write_text(json.dumps(document))
    assert checkpoint.load(old) == (1, {"x": 1})
    assert "before checkpoints had checksums" in caplog.text


def save_shared(folder: Path) -> None:
    checkpoint.save(folder, 1, {"x": torch.ones(3)}, keep=1, extra=lambda scratch: (scratch / "note").write_text("a"))
    checkpoint.load(folder / "step_00000001", {"x": torch.zeros(3)})


@pytest.mark.slow
def test_of_two_processes_every_file_is_summed_once(tmp_path: Path) -> None:
    launch(save_shared, tmp_path)
    (whole,) = checkpoint.list_checkpoints(tmp_path)
    summed = [line[66:] for line in (whole / "SHA256SUMS").read_text().splitlines()]
    there = {str(file.relative_to(whole)) for file in whole.rglob("*") if file.is_file()}
    assert sorted(summed) == sorted(there - {"SHA256SUMS"})


@pytest.mark.slow
def test_damaged_lines_of_losses_are_left_out_and_told(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    losses = folder / "losses.jsonl"
    before = losses.read_bytes().splitlines(keepends=True)
    damaged = [b"{}\n", b"[1]\n", b'"step"\n', b"\xff\xfe\n", b'{"step": "2"}\n', b'{"step": 2, "lo']
    losses.write_bytes(b"".join([damaged[0], before[0], *damaged[1:5], *before[1:], damaged[5]]))
    Trainer(config(folder)).train()
    assert losses.read_bytes() == b"".join(before)
    assert f"{losses}: 6 of its lines are damaged, and left out: line 1, 3, 4, 5, 6" in caplog.text


@pytest.mark.parametrize("text", ['{"steps": 3', "{}", "3", "[1.5]", "[true]", '["2"]', "[-1]", "\udcff"])
def test_damaged_steps_to_pass_over_are_named_with_the_way_out(folder: Path, text: str) -> None:
    file = folder / "passed_over.json"
    file.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=f"{file}: damaged, it should hold a list of the steps .* delete it"):
        Trainer(config(folder)).train()


def test_any_step_may_be_passed_over_the_first_too(tmp_path: Path) -> None:
    assert passed_over(tmp_path) == []
    (tmp_path / "passed_over.json").write_text("[0, 341]")
    assert passed_over(tmp_path) == [0, 341]


# --- other data ------------------------------------------------------------------------------------------------------


def test_what_changed_is_counted_apart(tmp_path: Path) -> None:
    before = [("a", "one"), ("b", "two"), ("b", "two"), ("c", "three")]
    samples.save_prints(samples.prints(before), tmp_path)

    def changed(now: list[tuple[str, str]]) -> str | None:
        words = samples.check_unchanged(tmp_path, samples.prints(now), "clips/")
        return words and words.removeprefix("clips/: ").removesuffix(f" since {tmp_path} was written")

    assert changed(before) is None
    assert changed([*before, ("d", "four")]) == "1 are new"
    assert changed(before[1:]) == "1 of 4 samples are gone"
    assert changed([("a", "other"), *before[1:]]) == "1 have other captions"
    assert changed([("a", "other"), ("b", "2"), ("b", "two"), ("x", "new")]) == (
        "1 of 4 samples are gone, 1 are new, 2 have other captions"
    )
    assert changed(before[::-1]) == "the samples stand in another order"
    assert changed([]) == "4 of 4 samples are gone"


@pytest.mark.slow
def test_other_data_is_refused_unless_it_is_said(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ValueError, match=r"shapes: 2 are new since .*; --allow-changed-data goes on"):
        Trainer(config(folder, 3, clips=10)).train()
    trainer = Trainer(config(folder, 3, clips=10), allow_changed_data=True)
    trainer.train()
    assert "2 are new" in caplog.text
    assert len(load_file(saved(folder) / "samples.safetensors")["prints"]) == 10
    Trainer(config(folder, 3, clips=10)).train()  # from here on these are its samples


def test_other_words_are_named_before_the_shapes_of_tensors_that_follow_from_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from videodit.training import assembled
    from videodit.training.model import build_text

    monkeypatch.setattr(assembled, "build_text", lambda run, captions: build_text(run, [*captions, "unheard"]))
    with pytest.raises(ValueError, match="captions have other words now"):
        Trainer(config(folder, 3)).train()


# --- signals ---------------------------------------------------------------------------------------------------------


def signalled(trainer: Seen, at: dict[int, int]) -> Callable[..., dict[str, float]]:
    """The step of a trainer that gets a signal in these steps."""
    step = trainer.step

    def take(number: int, pieces: Any) -> dict[str, float]:
        for _ in range(at.get(number, 0)):
            os.kill(os.getpid(), signal.SIGINT)
        return step(number, pieces)

    return take


@pytest.mark.slow
def test_ctrl_c_ends_after_the_step_with_a_checkpoint_and_a_second_one_at_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["train"])
    handler = signal.getsignal(signal.SIGINT)
    trainer: Any = Seen(config(folder, 6))
    trainer.step = signalled(trainer, {2: 1})
    assert command(trainer.train)() == 130
    assert checkpoint.describe(saved(folder))["step"] == 3
    assert signal.getsignal(signal.SIGINT) is handler
    trainer = Seen(config(folder, 6))
    trainer.step = signalled(trainer, {4: 2})

    def run() -> int:
        with parallel.one_run(folder / "out"):
            trainer.train()
        return 0

    assert command(run)() == 130
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if line.startswith("train: ")] == [
        "train: stopped by SIGINT after step 3; the same command goes on from there",
        "train: stopped at once; the same command goes on from what is there",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_of_a_run_leaves_it_its_readers(folder: Path, number: signal.Signals) -> None:
    """As Ctrl-C in a terminal, or a scheduler that ends a job: the batch that is being made is still needed."""
    trainer: Any = Trainer(config(folder, 5).model_copy(deep=True))
    trainer.config.train.__dict__["workers"] = 2
    step = trainer.step

    def take(at: int, pieces: Any) -> dict[str, float]:
        if at == 2:
            for child in torch.multiprocessing.active_children():
                os.kill(child.pid, number)
            os.kill(os.getpid(), number)
        return step(at, pieces)

    trainer.step = take
    with pytest.raises(Interrupted, match="after step 3"):
        trainer.train()


# --- what a launcher was told ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"ACCELERATE_MIXED_PRECISION": "bf16"}, r"--mixed_precision bf16: train\.precision is no, and holds"),
        ({"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"}, r"--gradient_accumulation_steps 4: train\.grad.* is 2"),
        ({"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"}, r"--dynamo_backend INDUCTOR: .* model\.compile=true"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, r"--use_deepspeed: .* train\.sharding=fsdp"),
        ({"FSDP_OFFLOAD_PARAMS": "true"}, "--fsdp_offload_params: "),
        ({"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_DYNAMO_BACKEND": "NO", "FSDP_OFFLOAD_PARAMS": "false"}, ""),
        ({"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "2", "ACCELERATE_MIXED_PRECISION": ""}, ""),
        ({}, ""),
    ],
)
def test_what_a_launcher_was_told_holds_or_is_refused(
    monkeypatch: pytest.MonkeyPatch, told: dict[str, str], message: str
) -> None:
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    keys = ("train.precision", "no"), ("train.gradient_accumulation_steps", 2)
    if not message:
        return parallel.check_launcher(*keys)
    with pytest.raises(ValueError, match=message):
        parallel.check_launcher(*keys)


def test_a_run_looks_at_what_its_launcher_was_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    with pytest.raises(ValueError, match="leave the flag out"):
        Trainer(config(tmp_path))
