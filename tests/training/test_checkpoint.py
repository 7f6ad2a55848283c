"""Checkpoints: what is saved loads equal, and a kill at any moment leaves the last one whole."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from videodit.training import checkpoint

STATE = {
    "weights": {"a.b": torch.randn(3, 2), "c": torch.arange(4, dtype=torch.int64)},
    "optimizer": {"state": {0: {"step": torch.tensor(3.0), "moment": torch.randn(2).to(torch.bfloat16)}}},
    "list": [1, 2.5, None, "text", True, (1, torch.ones(1))],
}


def equal(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(equal(v, b[k]) for k, v in a.items())
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
    return a == b and type(a) is type(b)


def test_a_state_comes_back_equal_types_and_all(tmp_path: Path) -> None:
    saved = checkpoint.save(tmp_path, 7, STATE, keep=2)
    step, state = checkpoint.load(saved)
    assert step == 7
    assert equal(state, STATE)


def test_only_the_last_ones_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 10, 11):
        checkpoint.save(tmp_path, step, {"x": step}, keep=2)
    assert [checkpoint.load(p)[0] for p in checkpoint.list_checkpoints(tmp_path)] == [10, 11]


def test_a_failure_while_writing_leaves_the_last_one_whole_and_nothing_half(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 1, STATE, keep=2)

    def fail(folder: Path) -> None:
        (folder / "half").write_text("")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(tmp_path, 2, STATE, keep=2, extra=fail)
    with pytest.raises(TypeError, match="/x: a set has no place"):
        checkpoint.save(tmp_path, 3, {"x": {1}}, keep=2)
    assert [p.name for p in tmp_path.iterdir()] == ["step_00000001"]


def test_a_killed_write_is_not_taken_for_a_checkpoint(tmp_path: Path) -> None:
    good = checkpoint.save(tmp_path, 1, STATE, keep=2)
    killed = tmp_path / ".step_00000002.123"
    killed.mkdir()
    (killed / "state.json").write_text("{}")
    (tmp_path / "step_00000003").mkdir()
    assert checkpoint.list_checkpoints(tmp_path) == [good]


def test_damage_is_named(tmp_path: Path) -> None:
    saved = checkpoint.save(tmp_path, 1, STATE, keep=2)
    file = saved / "state.safetensors"
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(checkpoint.CheckpointError, match=r"step_00000001: not a readable checkpoint"):
        checkpoint.load(saved)
