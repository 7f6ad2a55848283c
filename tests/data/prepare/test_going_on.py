"""A run that was stopped goes on, the same again changes nothing, and nothing is overwritten unasked."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from footage import film, pan

from videodit.data import survey
from videodit.data.limits import Options
from videodit.data.prepare import prepare

from .conftest import spans

pytestmark = pytest.mark.slow


class Killed(Exception):
    pass


@pytest.fixture
def films(raw: Path) -> Path:
    for seed in range(5):
        film(
            raw / f"{seed}.mp4", np.concatenate([pan(seed, 30 + seed), pan(seed + 5, 60 - 3 * seed)]), caption=f"{seed}"
        )
    (raw / "bad.mp4").write_bytes(b"bad")
    shutil.copy(raw / "3.mp4", raw / "4_copy.mp4")
    return raw


def result(out: Path) -> dict[str, bytes]:
    """What a run leaves behind, but for its memory. Of clips their names: H.264's encoder is not the same each time."""
    files = [path for path in sorted(out.rglob("*")) if path.is_file() and path.name != "analysis.jsonl"]
    return {path.name: b"" if path.suffix == ".mp4" else path.read_bytes() for path in files}


@pytest.mark.parametrize("after", [1, 4, 7, 9])
@pytest.mark.parametrize("write", ["spans", "clips"])
def test_a_run_that_was_stopped_goes_on_and_ends_as_if_it_had_not_been(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int, write: str
) -> None:
    options = Options(write=write)
    prepare(films, tmp_path / "whole", options, show=False)
    count = 0
    keep = survey.Memory.__setitem__

    def stop(self: survey.Memory, question: list, answer: Any) -> None:
        nonlocal count
        count += 1
        if count > after:
            with (tmp_path / "out" / "analysis.jsonl").open("a") as lines:
                lines.write(json.dumps([question, answer])[:70])  # a line that was being written
            raise Killed
        keep(self, question, answer)

    with monkeypatch.context() as patch:
        patch.setattr(survey.Memory, "__setitem__", stop)
        with pytest.raises(Killed):
            prepare(films, tmp_path / "out", options, show=False)
    known = (tmp_path / "out" / "analysis.jsonl").read_bytes()
    prepare(films, tmp_path / "out", options, show=False)
    assert (tmp_path / "out" / "analysis.jsonl").read_bytes().startswith(known)
    lines = (tmp_path / "out" / "analysis.jsonl").read_text().splitlines()
    assert len(lines) == 6 + 5 + 1  # facts of each file that has some, scenes of all but the copy, and what was torn
    assert result(tmp_path / "out") == result(tmp_path / "whole")


@pytest.mark.slow
def test_the_number_of_processes_changes_nothing(films: Path, tmp_path: Path, children: None) -> None:
    for processes in (1, 3):
        prepare(films, tmp_path / str(processes), Options(), processes=processes, show=False)
    assert result(tmp_path / "1") == result(tmp_path / "3")


def test_another_choice_needs_no_second_look(films: Path, made: Callable) -> None:
    kept, _, _ = made()
    known = (films.parent / "out" / "analysis.jsonl").read_bytes()
    fewer, _, _ = made(overwrite=True, min_seconds=2.0, min_motion=0.01, min_fps=12.0)
    assert 0 < len(fewer) < len(kept)
    assert (films.parent / "out" / "analysis.jsonl").read_bytes() == known
    made(overwrite=True, max_seconds=2.0)
    assert (films.parent / "out" / "analysis.jsonl").read_bytes() != known


def test_a_file_that_changed_is_looked_at_again(raw: Path, made: Callable) -> None:
    film(raw / "a.mp4", pan(1, 48))
    made()
    film(raw / "a.mp4", pan(1, 72))
    with pytest.raises(ValueError, match="--overwrite"):
        made()
    assert spans(made(overwrite=True)[0]) == [("a.mp4", 0, 3)]


def test_the_same_again_changes_nothing(films: Path, made: Callable) -> None:
    made(write="clips")
    before = {path: path.stat().st_mtime_ns for path in (films.parent / "out" / "clips").iterdir()}
    whole = result(films.parent / "out")
    made(write="clips")
    assert {path: path.stat().st_mtime_ns for path in (films.parent / "out" / "clips").iterdir()} == before
    assert result(films.parent / "out") == whole


@pytest.mark.parametrize("change", ["options", "source", "captions", "edited"])
def test_a_manifest_is_not_replaced_unasked(films: Path, made: Callable, change: str) -> None:
    made()
    out = films.parent / "out"
    if change == "captions":
        (films / "0.txt").write_text("another\n")
    if change == "edited":
        (out / "clips.jsonl").write_text(
            (out / "clips.jsonl").read_text().replace('"caption": "0"', '"caption": "mine"')
        )
    before = result(out)
    options = {"min_seconds": 1.5} if change == "options" else {}
    source = films / ("0.mp4" if change == "source" else "")
    if change == "source":
        source = films.parent / "other"
        shutil.copytree(films, source)
    with pytest.raises(ValueError, match=r"clips\.jsonl .*--overwrite"):
        prepare(source, out, Options(**options), show=False)
    assert result(out) == before
    prepare(source, out, Options(**options), overwrite=True, show=False)
    assert (result(out) == before) is False


def test_clips_of_a_replaced_manifest_are_removed(films: Path, made: Callable) -> None:
    made(write="clips")
    (films.parent / "out" / "clips" / "mine.mp4").write_bytes(b"not made here")
    kept, _, _ = made(write="clips", size=96, overwrite=True)
    files = {f"clips/{path.name}" for path in (films.parent / "out" / "clips").iterdir()}
    assert files == {row["file"] for row in kept} | {"clips/mine.mp4"}


def test_foreign_folders_are_refused(raw: Path, tmp_path: Path) -> None:
    film(raw / "a.mp4", pan(1, 48))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    for out, said in (
        (tmp_path / "other", "holds other things"),
        (raw / "out", "lies in"),
        (raw / "a.mp4", "is a file"),
    ):
        with pytest.raises(ValueError, match=said):
            prepare(raw, out, Options(), overwrite=True, show=False)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.mp4", "other", "raw", "thesis.txt"]


def test_a_source_with_nothing_in_it_is_an_error(raw: Path, tmp_path: Path) -> None:
    for source in (raw, tmp_path / "nowhere"):
        with pytest.raises(ValueError, match=source.name):
            prepare(source, tmp_path / "out", Options(), show=False)


@pytest.mark.parametrize(
    "wrong",
    [
        *({"min_seconds": 0.1}, {"max_seconds": 1.0}, {"min_size": -1}, {"max_black": 1.5}, {"threshold": 0.0}),
        *({"min_motion": float("nan")}, {"keep": ("everything",)}, {"size": 8, "write": "clips"}, {"size": 64}),
    ],
)
def test_values_that_make_no_sense_are_errors(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong)).replace("_", "-")):
        Options(**wrong)
