"""The report as a file: complete, self-contained, with nothing of the data run as code."""

from __future__ import annotations

import json
import re
import tracemalloc
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from reports import HOSTILE, clip_result, frames_of, full_example, results_of

from videodit.evaluation.report import write_report
from videodit.evaluation.results import ClipResult
from videodit.video import VideoError


def data_of(page: str) -> list[dict]:
    """The JSON of every script element that holds some."""
    return [json.loads(text) for text in re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', page)]


def test_everything_of_the_results_is_in_the_page_and_nothing_is_fetched(tmp_path: Path) -> None:
    results, other = full_example()
    page = write_report(
        tmp_path / "new" / "r.html", results, frames_of, other=other, other_frames=frames_of
    ).read_text()
    overview, *cards = data_of(page)
    assert overview["results"]["summaries"] == json.loads(results.to_json())["summaries"]
    assert [failure["name"] for failure in overview["results"]["failures"]] == ["broken.mp4"]
    assert len(overview["points"]) == len(results.clips)
    shown = {card["clip"]["name"]: card for card in cards}
    assert set(shown) == {clip.name for clip in (*results.clips, *other.clips)}
    assert shown["jump.mp4"]["clip"] == results.clips[1].model_dump(mode="json")
    assert {name: card["media"]["kind"] for name, card in shown.items() if card["media"]["kind"] != "video"} == {
        "picture.png": "image"
    }
    assert all(card["media"]["frames"] == card["clip"]["num_frames"] for card in cards)
    wanted = {frame for moment in results.clips[1].worst for frame in (moment.frame - 1, moment.frame)}
    assert set(map(int, shown["jump.mp4"]["thumbnails"])) == wanted
    assert not re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?(?:https?:)?//""", page)
    assert "default-src 'none'" in page


def test_texts_of_the_data_cannot_end_the_element_that_holds_them(tmp_path: Path) -> None:
    page = write_report(
        tmp_path / "r.html", results_of([clip_result("a", 0.9, 0.1, prompt=HOSTILE)]), frames_of
    ).read_text()
    assert HOSTILE not in page
    assert "window.hurt=1" in page  # there, as text
    assert data_of(page)[1]["clip"]["prompt"] == HOSTILE
    assert page.count("<script>") == page.count("</script>") - len(data_of(page))


def names(page: str) -> list[str]:
    return [card["clip"]["name"] for card in data_of(page)[1:]]


def test_cards_come_worst_first_and_still_ones_last(tmp_path: Path) -> None:
    clips = [
        clip_result("good", 0.99, 0.1),
        clip_result("bad", 0.5, 0.1),
        clip_result("still", 1.0, 0.0, flags=("still",)),
    ]
    assert names(write_report(tmp_path / "r.html", results_of(clips), frames_of).read_text()) == [
        "bad",
        "good",
        "still",
    ]


def test_more_clips_than_places_are_counted_and_still_ones_keep_some(tmp_path: Path) -> None:
    clips = [clip_result(f"c{i}", 0.5 + i / 100, 0.1) for i in range(10)]
    clips += [clip_result(f"s{i}", 1.0, 0.0, flags=("still",)) for i in range(3)]
    page = write_report(tmp_path / "r.html", results_of(clips), frames_of, max_clips=4).read_text()
    assert names(page) == ["c0", "c1", "c2", "s0"]
    assert "9 more clips are in results.json, not shown here" in page
    assert "3 of the 10 clips" in page
    assert len(data_of(page)[0]["points"]) == 13  # the plot has them all


def test_frames_that_cannot_be_had_are_told_on_the_card(tmp_path: Path) -> None:
    def broken(clip: ClipResult) -> Iterable[np.ndarray] | None:
        if clip.name == "gone":
            return None

        def some() -> Iterator[np.ndarray]:
            yield from list(frames_of(clip))[:4]
            raise VideoError("torn")

        return some()

    page = write_report(tmp_path / "r.html", results_of([clip_result(n, 0.9, 0.1) for n in ("gone", "torn")]), broken)
    notes = {card["clip"]["name"]: " ".join(card["notes"]) for card in data_of(page.read_text())[1:]}
    assert "not to be had" in notes["gone"]
    assert "cannot be read from frame 4 on: torn" in notes["torn"]
    assert "shown are 4 frames, measured were 16" in notes["torn"]


def test_a_failure_leaves_the_report_that_was_there(tmp_path: Path) -> None:
    file = write_report(tmp_path / "r.html", results_of([clip_result("a", 0.9, 0.1)]), frames_of)
    before = file.read_bytes()

    def floats(clip: ClipResult) -> Iterable[np.ndarray]:
        return (frame / 255 for frame in frames_of(clip))

    with pytest.raises(ValueError, match="a: frame 0 is float64"):
        write_report(file, results_of([clip_result("a", 0.9, 0.1)]), floats)
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["r.html"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_clips": 0}, "max_clips=0"),
        ({"other_frames": frames_of}, "other_frames without other"),
        ({"other": results_of([clip_result("b", 0.9, 0.1)])}, "results has no comparison"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_report(tmp_path / "r.html", results_of([clip_result("a", 0.9, 0.1)]), frames_of, **options)
    assert not list(tmp_path.iterdir())


def test_memory_does_not_grow_with_the_number_of_clips(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        clips = [clip_result(f"c{i}", 0.9, 0.1, size=(96, 96)) for i in range(count)]
        results = results_of(clips)
        tracemalloc.start()
        write_report(tmp_path / "r.html", results, frames_of, max_clips=count)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(12) < peak(4) + 100_000  # a clip's frames are 440,000 bytes
