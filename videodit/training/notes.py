"""What a run has written down beside its checkpoints, read when it goes on: mended, or named where it is damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from videodit.config import Run


def changes(file: Path, config: Run) -> list[str]:
    """What differs between the configuration in a file and this one: `key: before -> now`."""
    if not file.is_file():
        return []
    try:
        before, now = _flat(json.loads(file.read_text())), _flat(json.loads(config.model_dump_json()))
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{file}: damaged ({error}); use an earlier checkpoint") from error
    return [
        f"{key}: {before.get(key)!r} -> {now.get(key)!r}"
        for key in {**before, **now}
        if before.get(key) != now.get(key)
    ]


def _flat(values: dict[str, Any], above: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{above}{key}.") if isinstance(value, dict) else {f"{above}{key}": value}
    return flat


def passed_over(folder: Path) -> list[int]:
    """The steps that a run passes over, by its `passed_over.json`. ValueError where that is damaged."""
    file = folder / "passed_over.json"
    if not file.exists():
        return []
    try:
        steps = json.loads(file.read_text())
    except ValueError:
        steps = None
    if not isinstance(steps, list) or not all(type(step) is int and step >= 0 for step in steps):
        raise ValueError(
            f"{file}: damaged, it should hold a list of the steps to pass over, as [120, 341]; write it anew, or "
            f"delete it to take them all"
        )
    return steps


def step_of(line: str) -> int | None:
    """That a line of `losses.jsonl` is about; None of one that is damaged."""
    try:
        step = json.loads(line)["step"]
    except (ValueError, TypeError, KeyError):
        return None
    return step if type(step) is int else None
