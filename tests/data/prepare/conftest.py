"""A folder of raw files, and preparing it in this process or in others."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from processes import Here

from videodit.data import prepare as preparation
from videodit.data.limits import Options
from videodit.data.prepare import prepare
from videodit.video.guarded import Guarded

Rows = list[dict[str, Any]]


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "Guarded", Here)


@pytest.fixture
def children(here: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that need them: processes as they are."""
    monkeypatch.setattr(preparation, "Guarded", Guarded)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    (tmp_path / "raw").mkdir()
    return tmp_path / "raw"


@pytest.fixture
def made(raw: Path) -> Callable[..., tuple[Rows, Rows, dict[str, Any]]]:
    """Prepares `raw` into `out`: the kept rows, the dropped ones and the report. Options by their names."""

    def make(*, overwrite: bool = False, **options: Any) -> tuple[Rows, Rows, dict[str, Any]]:
        out = raw.parent / "out"
        report = prepare(raw, out, Options(**options), processes=2, overwrite=overwrite, show=False)
        return rows(out / "clips.jsonl"), rows(out / "dropped.jsonl"), report

    return make


def rows(path: Path) -> Rows:
    return [json.loads(line) for line in path.read_text().splitlines()]


def name(row: dict[str, Any]) -> str:
    return Path(row["file"]).name


def spans(found: Rows) -> list[tuple[str, float, float]]:
    return [(name(row), pytest.approx(row["start"]), pytest.approx(row["end"])) for row in found]
