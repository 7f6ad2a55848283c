"""Checkpoints: a folder of named states, whole or not there at all.

`<output>/checkpoints/step_00001000/` holds `state.safetensors` (every tensor), `state.json` (every number and the
layout) and whatever the caller adds. It is written under a temporary name and renamed, so that a kill at any moment
leaves the last one whole. No pickle is involved.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

FORMAT = 1


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names it and the fix."""


def save(
    folder: Path, step: int, state: dict[str, Any], *, keep: int, extra: Callable[[Path], None] | None = None
) -> Path:
    """Writes `state` (nested dicts and lists of tensors, numbers, strings) as checkpoint `step`; keeps the last `keep`.

    `extra` is called with the unfinished folder, to add files of its own (a pipeline, a configuration).
    """
    final = folder / f"step_{step:08d}"
    scratch = folder / f".{final.name}.{os.getpid()}"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        tensors: dict[str, torch.Tensor] = {}
        layout = _flatten(state, "", tensors)
        save_file(tensors, scratch / "state.safetensors")
        (scratch / "state.json").write_text(json.dumps({"format": FORMAT, "step": step, "state": layout}))
        if extra:
            extra(scratch)
        shutil.rmtree(final, ignore_errors=True)
        scratch.replace(final)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    for old in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return final


def list_checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints in a folder, oldest first."""
    return sorted(p for p in folder.glob("step_*") if (p / "state.json").is_file())


def load(checkpoint: Path) -> tuple[int, dict[str, Any]]:
    """(step, state) of a checkpoint folder.

    Raises:
        CheckpointError: missing or damaged files.
    """
    try:
        document = json.loads((checkpoint / "state.json").read_text())
        tensors = load_file(checkpoint / "state.safetensors")
        return document["step"], _unflatten(document["state"], tensors)
    except Exception as error:
        raise CheckpointError(f"{checkpoint}: not a readable checkpoint ({error}); use an earlier one") from error


def _flatten(value: Any, name: str, tensors: dict[str, torch.Tensor]) -> Any:
    """JSON for `value`, its tensors moved to `tensors` under their path."""
    if isinstance(value, torch.Tensor):
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"__tensor__": name}
    if isinstance(value, dict):
        return {"__dict__": [[k, _flatten(v, f"{name}/{k}", tensors)] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        items = [_flatten(v, f"{name}/{i}", tensors) for i, v in enumerate(value)]
        return items if isinstance(value, list) else {"__tuple__": items}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{name}: a {type(value).__name__} has no place in a checkpoint")


def _unflatten(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, list):
        return [_unflatten(v, tensors) for v in value]
    if isinstance(value, dict):
        if "__tensor__" in value:
            return tensors[value["__tensor__"]]
        if "__tuple__" in value:
            return tuple(_unflatten(v, tensors) for v in value["__tuple__"])
        return {k: _unflatten(v, tensors) for k, v in value["__dict__"]}
    return value
