"""Checkpoints: saved and loaded equal on any number of processes; a kill at any moment leaves the last one whole."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import PartialState
from processes import launch, start
from safetensors import safe_open
from torch import nn
from torch.distributed.tensor import DTensor

from videodit.training import checkpoint, parallel
from videodit.training.optimizer import build_optimizers

SHARED = torch.randn(4)
STATE: dict[Any, Any] = {
    "weights": {"a.b": torch.randn(3, 2), "c": torch.arange(4, dtype=torch.int64), "on": torch.tensor([True, False])},
    "optimizer": {"state": {0: {"step": torch.tensor(3.0), "moment": torch.randn(2).to(torch.bfloat16)}}},
    "list": [1, 2.5, None, "text", True, (1, torch.ones(1)), float("inf"), 1e-320],
    "empty": [torch.empty(0, 3), [], {}, torch.zeros((), dtype=torch.int64)],
    "memory": [SHARED, SHARED, SHARED[1:], torch.randn(3, 4).T, torch.randn(1, 3).expand(2, 3)],
    "names": {"a/b": torch.ones(1), "a": {"b": torch.zeros(1)}, 1: torch.ones(2), "1": torch.ones(3), 'é"\n~': SHARED},
}


def equal(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(equal(v, b[k]) for k, v in a.items())
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
    return a == b and type(a) is type(b)


def mapped(value: Any, function: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, dict):
        return {k: mapped(v, function) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(mapped(v, function) for v in value)
    return value


# --- one process -----------------------------------------------------------------------------------------------------


def test_a_state_comes_back_equal_types_and_all(tmp_path: Path) -> None:
    saved = checkpoint.save(tmp_path, 7, STATE, keep=2)
    step, state = checkpoint.load(saved)
    assert step == 7
    assert equal(state, STATE)


def test_tensors_are_filled_in_place_and_numbers_come_back_as_saved(tmp_path: Path) -> None:
    saved = checkpoint.save(tmp_path, 7, STATE, keep=2)
    like = mapped(STATE, torch.zeros_like) | {"list": [0, 0, 0, 0, 0, (0, torch.zeros(1))]}
    state = checkpoint.load(saved, like)[1]
    assert equal(state, STATE)
    assert state["weights"]["a.b"] is like["weights"]["a.b"]
    assert equal(like["optimizer"], STATE["optimizer"])


def test_large_states_go_to_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "BYTES_PER_FILE", 40)
    saved = checkpoint.save(tmp_path, 7, STATE, keep=2)
    assert len(list((saved / "state").iterdir())) > 2
    assert equal(checkpoint.load(saved)[1], STATE)


def test_a_state_without_tensors(tmp_path: Path) -> None:
    assert checkpoint.load(checkpoint.save(tmp_path, 7, {"x": 1}, keep=2), {"x": 0}) == (7, {"x": 1})


def test_only_the_last_ones_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 10, 11):
        checkpoint.save(tmp_path, step, {"x": step}, keep=2)
    assert [checkpoint.load(p)[0] for p in checkpoint.list_checkpoints(tmp_path)] == [10, 11]
    assert len(list(tmp_path.iterdir())) == 2


def test_the_best_ones_are_kept_too(tmp_path: Path) -> None:
    for step, metric in enumerate([0.9, 0.2, float("nan"), 0.5, 0.1, None, 0.8]):
        checkpoint.save(tmp_path, step, {}, keep=1, metric=metric, keep_best=2)
    kept = [checkpoint.describe(p) for p in checkpoint.list_checkpoints(tmp_path)]
    assert [(k["step"], k["metric"]) for k in kept] == [(1, 0.2), (4, 0.1), (6, 0.8)]


def test_what_was_just_saved_stays_even_before_later_ones(tmp_path: Path) -> None:
    for step in (5, 6, 3, 6):
        checkpoint.save(tmp_path, step, {}, keep=1)
        assert step in [checkpoint.describe(p)["step"] for p in checkpoint.list_checkpoints(tmp_path)]


def test_a_failure_while_writing_leaves_the_last_one_whole_and_nothing_half(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 1, STATE, keep=2)

    def fail(folder: Path) -> None:
        (folder / "half").write_text("")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(tmp_path, 2, STATE, keep=2, extra=fail)
    with pytest.raises(TypeError, match="a/x: a set has no place"):
        checkpoint.save(tmp_path, 3, {"a": {"x": {1}}}, keep=2)
    with pytest.raises(TypeError, match="a: a tuple as a key has no place"):
        checkpoint.save(tmp_path, 3, {"a": {(1, 2): 1}}, keep=2)
    assert [p.name for p in tmp_path.iterdir()] == ["step_00000001"]


@pytest.mark.parametrize(
    ("fault", "expected", "message"),
    [
        (
            OSError(28, "No space left on device"),
            checkpoint.CheckpointError,
            "step_00000002: cannot be written .*No sp",
        ),
        (KeyboardInterrupt("Ctrl-C"), KeyboardInterrupt, "Ctrl-C"),
    ],
)
def test_a_failure_inside_torchs_writer(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: BaseException,
    expected: type[BaseException],
    message: str,
) -> None:
    def fail(_: int) -> None:
        raise fault

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(expected, match=message):
        checkpoint.save(tmp_path, 2, STATE, keep=2)
    assert list(tmp_path.iterdir()) == []


def die_while_saving(folder: Path, where: str, count: int) -> None:
    """Kills itself, as `kill -9` does, at the so-manyth call of something that writing must call."""
    holder: Any = {"fsync": os, "rename": Path, "rmtree": shutil}[where]
    original, calls = getattr(holder, where), []

    def die(*args: Any, **kwargs: Any) -> Any:
        calls.append(where)
        if len(calls) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(holder, where, die)
    checkpoint.save(folder, 2, {"x": torch.full((3,), 2.0)}, keep=1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "count", "left"),
    [("fsync", 1, 1), ("fsync", 3, 1), ("rename", 1, 1), ("rename", 2, 2), ("rmtree", 1, 2)],
)
def test_a_kill_at_any_moment_leaves_a_whole_one(tmp_path: Path, where: str, count: int, left: int) -> None:
    checkpoint.save(tmp_path, 1, {"x": torch.full((3,), 1.0)}, keep=1)
    assert start(die_while_saving, tmp_path, where, count) == -signal.SIGKILL
    step, state = checkpoint.load(checkpoint.list_checkpoints(tmp_path)[-1], {"x": torch.zeros(3)})
    assert step == left
    assert torch.equal(state["x"], torch.full((3,), float(left)))
    saved = checkpoint.save(tmp_path, 3, {"x": torch.full((3,), 3.0)}, keep=1)
    assert list(tmp_path.iterdir()) == [saved]


def test_leftovers_are_not_taken_for_checkpoints(tmp_path: Path) -> None:
    good = checkpoint.save(tmp_path, 1, STATE, keep=2)
    killed = tmp_path / ".step_00000002"
    killed.mkdir()
    (killed / "state.json").write_text("{}")
    (tmp_path / "step_00000003").mkdir()
    assert checkpoint.list_checkpoints(tmp_path) == [good]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda shard: shard.write_bytes(shard.read_bytes()[:-3]), r"safetensors: damaged, \d+ bytes of \d+; use an"),
        (lambda shard: shard.write_bytes(b"\xff" * shard.stat().st_size), "safetensors: damaged .*; use an earlier"),
        (lambda shard: shard.unlink(), "safetensors: missing; use an earlier one"),
        (lambda shard: (shard.parents[1] / "state.json").write_text('{"fo'), "json: not readable .*; use an earlier"),
        (lambda shard: (shard.parents[1] / "state.json").write_text('{"format": 2}'), "json: not readable"),
        (lambda shard: (shard.parents[1] / "state.json").unlink(), "json: not readable"),
        (lambda shard: (shard.parents[1] / "state.json").write_text('{"format": 1}'), "json: of format 1, not 2"),
    ],
)
def test_damage_is_named(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    saved = checkpoint.save(tmp_path, 1, STATE, keep=2)
    damage(next((saved / "state").iterdir()))
    with pytest.raises(checkpoint.CheckpointError, match=f"step_00000001/.*{message}"):
        checkpoint.load(saved, mapped(STATE, torch.zeros_like))


def test_a_state_of_another_structure_is_refused_and_untouched(tmp_path: Path) -> None:
    saved = checkpoint.save(tmp_path, 1, {"w": {"a": torch.ones(2), "b": torch.ones(2), "c": torch.ones(2)}}, keep=2)
    like = {"w": {"a": torch.zeros(2), "d": torch.zeros(2), "c": torch.zeros(3)}}
    with pytest.raises(checkpoint.CheckpointError) as caught:
        checkpoint.load(saved, like)
    assert "w/d is not in the checkpoint; w/b is in the checkpoint alone; w/c is float32 [2]" in str(caught.value)
    assert not like["w"]["a"].any()
    with pytest.raises(checkpoint.CheckpointError, match=r"w/a is float32 \[2\] in the checkpoint and float64 \[2\] h"):
        checkpoint.load(saved, {"w": {k: torch.zeros(2).double() for k in "abc"}})
    with pytest.raises(checkpoint.CheckpointError, match=r"w/3 .*; and 4 more differ; choose another output"):
        checkpoint.load(saved, {"w": {i: torch.zeros(2) for i in (3, 4, 5, 6)}})


# --- several ---------------------------------------------------------------------------------------------------------


class Trained:
    """A model of awkward sizes (1 and 3 rows on 2 processes), after so many steps of AdamW and Muon."""

    def __init__(self, seed: int, steps: int, is_sharded: bool):
        torch.manual_seed(seed)
        layers = nn.Linear(4, 3), nn.Linear(3, 1), nn.Conv2d(2, 5, 2), nn.Embedding(4, 2, dtype=torch.bfloat16)
        self.model = nn.Sequential(*layers)
        layers[1].weight.requires_grad_(False)
        self.model.register_buffer("counter", torch.tensor(steps))
        if is_sharded:
            parallel.shard(self.model, [layers[0], layers[2]], "cpu")
        weights = [p for p in self.model.parameters() if p.requires_grad]
        inner = [layers[0].weight, layers[2].weight]
        self.optimizers = build_optimizers(weights, inner, 0.1, (0.9, 0.99), 0.1)
        for step in range(steps):
            for i, weight in enumerate(weights):  # one of them sits out each step
                weight.grad = None if i == step else weight.detach() * 0.5 + 0.1
            for optimizer in self.optimizers:
                optimizer.step()

    def state(self) -> dict[str, Any]:
        optimizers = [optimizer.state_dict() for optimizer in self.optimizers]
        return {"model": self.model.state_dict(), "optimizers": optimizers, "plain": torch.ones(9)}

    def load(self, path: Path) -> None:
        state = checkpoint.load(path, self.state())[1]
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)


def whole(state: dict[str, Any]) -> dict[str, Any]:
    """Full copies, however it is spread."""
    return mapped(state, lambda x: (x.full_tensor() if isinstance(x, DTensor) else x).detach().clone())


def save_and_load_sharded(folder: Path, alone: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """What two processes have, what they load of what they saved, and of what one process saved."""
    first, second, third = Trained(0, 3, True), Trained(1, 1, True), Trained(2, 0, True)
    second.load(checkpoint.save(folder, 3, first.state(), keep=1))
    third.load(alone)
    return whole(first.state()), whole(second.state()), whole(third.state())


@pytest.mark.slow
def test_any_number_of_processes_loads_what_any_other_wrote(tmp_path: Path) -> None:
    one = Trained(0, 3, False)
    alone = checkpoint.save(tmp_path / "one", 3, one.state(), keep=1)
    for two, again, of_one in launch(save_and_load_sharded, tmp_path / "two", alone):
        assert equal(two, whole(one.state()))  # sharding changes no bit
        assert equal(again, two)
        assert equal(of_one, two)
    (saved,) = checkpoint.list_checkpoints(tmp_path / "two")
    fresh = Trained(5, 0, False)
    assert not equal(fresh.state(), one.state())
    fresh.load(saved)
    assert equal(fresh.state(), one.state())
    assert equal(checkpoint.load(saved)[1], one.state())
    names = [name for file in (saved / "state").iterdir() for name in safe_open(file, "pt").keys()]  # noqa: SIM118
    assert len(list((saved / "state").iterdir())) == 2
    assert names.count(json.dumps(["plain"])) == 1  # what all hold is written once
    assert names.count(json.dumps(["model", "0.weight"])) == 2


def save_with_extra(folder: Path, fails: bool) -> str:
    rank = PartialState().process_index

    def extra(scratch: Path) -> None:
        total = parallel.sum_over_processes(torch.tensor(rank + 1))
        (scratch / f"{rank}").write_text(f"{int(total)}")
        if fails and rank == 1:
            raise OSError(28, "No space left on device")

    try:
        checkpoint.save(folder, 1, {"x": torch.ones(2)}, keep=1, extra=extra)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def extras(folder: Path) -> list[str]:
    return [save_with_extra(folder / "a", False), save_with_extra(folder / "b", True)]


@pytest.mark.slow
def test_extra_runs_on_all_processes_and_if_one_fails_none_saves(tmp_path: Path) -> None:
    main, other = launch(extras, tmp_path)
    assert main[0] == other[0] == ""
    assert [(tmp_path / "a" / "step_00000001" / name).read_text() for name in "01"] == ["3", "3"]
    assert "another process failed" in main[1]
    assert other[1].startswith("CheckpointError")
    assert "No space left on device" in other[1]
    assert list((tmp_path / "b").iterdir()) == []


@pytest.mark.parametrize(("limit", "files"), [(None, 1), (100, 5), (250, 2)])
def test_tensors_lie_in_few_files_none_much_larger_than_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int | None, files: int
) -> None:
    """Of ten tensors of 40 bytes; the one that reaches a multiple of the limit begins the next file."""
    if limit is not None:
        monkeypatch.setattr(checkpoint, "BYTES_PER_FILE", limit)
    state = {f"{i:02d}": torch.full((10,), float(i)) for i in range(10)}
    saved = checkpoint.save(tmp_path, 1, state, keep=1)
    assert len(list((saved / "state").iterdir())) == files
    found = checkpoint.load(saved)[1]
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())
