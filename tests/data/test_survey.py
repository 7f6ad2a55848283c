"""What is learned of files is kept as it comes, and how long learning it may take grows with what there is to read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from videodit.data.survey import BYTES_A_SECOND, PATIENCE, PIXELS_A_SECOND, Memory, Survey


@pytest.mark.parametrize("torn", [b'["d", 4', b'[["d"], 4', b"", b"\xff"])
def test_what_was_known_stays_where_the_last_line_was_torn_and_what_comes_next_stands_alone(
    tmp_path: Path, torn: bytes
) -> None:
    path = tmp_path / "analysis.jsonl"
    memory = Memory(path)
    for number, name in enumerate("abc", start=1):
        memory[[name]] = number
    path.write_bytes(path.read_bytes() + torn)
    Memory(path)[["e"]] = 5
    again = Memory(path)
    assert [again[[name]] for name in "abce"] == [1, 2, 3, 5]
    assert ["d"] not in again


class Asked:
    """In place of processes that open files: answers, and remembers how many seconds each call may take."""

    def __init__(self, answer: Callable[..., Any]) -> None:
        self.answer = answer
        self.seconds: dict[str, float] = {}

    def map(self, do: Any, calls: Iterable[tuple], seconds: Callable[..., float]) -> Iterator[Any]:
        for call in calls:
            self.seconds[call[0]] = seconds(*call)
            yield self.answer(*call)


def test_a_file_may_take_a_minute_and_as_long_as_a_slow_disk_or_decoder_does(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("small", "large")]
    facts = {}
    for path, size in zip(files, (1, 1000), strict=True):
        path.write_bytes(bytes(size))
        facts[path] = {"duration": 1.0, "num_frames": 100 * size, "height": 40, "width": 50}
    asked: Any = Asked(lambda path: facts[Path(path)])
    survey = Survey(Memory(tmp_path / "analysis.jsonl"), asked, 3.0, 15.0, show=False)
    assert survey.facts(files) == facts
    assert asked.seconds == {str(f): pytest.approx(PATIENCE + f.stat().st_size / BYTES_A_SECOND) for f in files}
    watched: Any = Asked(lambda path, spans, *settings: [[] for _ in spans])
    survey = Survey(Memory(tmp_path / "analysis.jsonl"), watched, 3.0, 15.0, show=False)
    assert survey.scenes({path: [(0.0, None)] for path in files}, facts) == {path: {(0.0, None): []} for path in files}
    assert list(watched.seconds) == [str(files[1]), str(files[0])]  # the longest first
    pixels = [facts[path]["num_frames"] * 40 * 50 for path in files]
    assert watched.seconds == {
        str(path): pytest.approx(PATIENCE + count / PIXELS_A_SECOND) for path, count in zip(files, pixels, strict=True)
    }
