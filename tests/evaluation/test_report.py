"""The report as a file: what it holds, what it leaves out and says so, and how it is written."""

import base64
import json
import re
import tracemalloc
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from reports import CONSISTENCY, HOSTILE, WARPING, clip_result, frames_of, full_example, results_of

from videodit.evaluation.report.page import write_report
from videodit.evaluation.report.results import ClipResult, Metric
from videodit.video.index import VideoError

SCRIPT = re.compile(r'<script type="application/json" (?:id|class)="(\w+)">(.*?)</script>', re.DOTALL)


def none(clip: ClipResult) -> None:
    return None


def data_of(path: Path, kind: str) -> list[dict[str, Any]]:
    return [json.loads(text) for found, text in SCRIPT.findall(path.read_text()) if found == kind]


def names_shown(path: Path) -> list[str]:
    return [data["clip"]["name"] for data in data_of(path, "clip")]


def decoded(data: dict[str, Any]) -> list[np.ndarray]:
    assert data["media"]["kind"] == "video"
    with av.open(BytesIO(base64.b64decode(data["media"]["source"]))) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.mark.slow
def test_results_and_clips_come_back_from_the_file(tmp_path: Path) -> None:
    results, other = full_example()
    path = write_report(tmp_path / "new" / "report.html", results, frames_of, other=other, other_frames=frames_of)
    (overview,) = data_of(path, "results")
    whole = json.loads(results.to_json())
    for key in ("schema", "version", "settings", "summaries", "distances", "failures"):
        assert overview["results"][key] == whole[key]
    assert overview["results"]["comparison"]["differences"] == whole["comparison"]["differences"]
    by_name = {data["clip"]["name"]: data["clip"] for data in data_of(path, "clip")}
    assert by_name == {clip["name"]: clip for clip in whole["clips"]}
    assert [data["clip"]["name"] for data in data_of(path, "partner")] == ["other_jump.mp4", "other_a_red_disc.mp4"]


def test_nothing_is_loaded_from_elsewhere(tmp_path: Path) -> None:
    page = write_report(tmp_path / "r.html", results_of([clip_result("a", 0.9, 1)]), frames_of).read_text()
    assert "default-src 'none'" in page
    assert "SCRIPT-HASH" not in page
    markup = SCRIPT.sub("", page)
    assert not re.search(r"<(link|iframe|object|embed|base|script src)|@import|url\(", markup)
    assert re.findall(r"https?://[^\"]*", markup) == ["http://www.w3.org/2000/svg"]  # a name, not a place


def test_no_text_of_the_data_can_end_its_script(tmp_path: Path) -> None:
    clip = clip_result(f"{HOSTILE}.mp4", 0.9, 1, prompt=f"{HOSTILE}<!--")
    results = results_of([clip], settings={HOSTILE: HOSTILE})
    page = write_report(tmp_path / "r.html", results, frames_of).read_text()
    plain = write_report(tmp_path / "p.html", results_of([clip_result("a.mp4", 0.9, 1)]), frames_of).read_text()
    for mark in ("<script", "</script", "<img", "<!--"):
        assert page.count(mark) == plain.count(mark)
    assert data_of(tmp_path / "r.html", "clip")[0]["clip"]["prompt"] == f"{HOSTILE}<!--"


@pytest.mark.parametrize(("metric", "expected"), [(CONSISTENCY, "bcad"), (WARPING, "dacb")])
def test_clips_stand_worst_first_with_unranked_ones_apart(metric: Metric, expected: str, tmp_path: Path) -> None:
    values = {"a": 0.8, "still": 1.0, "b": 0.2, "none": None, "c": 0.5, "d": 0.9}
    clips = []
    for name, value in values.items():
        clip = clip_result(name, 0.5, 1, flags=("still",) if name == "still" else ())
        score = clip.scores[metric.name].model_copy(update={"value": value})
        clips.append(clip.model_copy(update={"scores": {metric.name: score}}))
    path = write_report(tmp_path / "r.html", results_of(clips), none)
    assert data_of(path, "results")[0]["metric"] == metric.name
    assert names_shown(path) == [*expected, "none", "still"]


def test_beyond_max_clips_the_worst_are_shown_and_the_rest_counted(tmp_path: Path) -> None:
    moving = [clip_result(f"m{i:02}", 0.9 - 0.01 * i, 1) for i in range(20)]
    still = [clip_result(f"s{i}", 1, 0, flags=("still",)) for i in range(5)]
    path = write_report(tmp_path / "r.html", results_of(moving + still), none, max_clips=8)
    assert names_shown(path) == ["m19", "m18", "m17", "m16", "m15", "m14", "s0", "s1"]
    (overview,) = data_of(path, "results")
    assert "6 of the 20 clips" in overview["statement"]
    assert "2 of the 5" in overview["statement"]
    assert "17 more clips are in results.json, not shown here." in overview["statement"]
    assert len(overview["points"]) == 25  # the plot of motion has them all
    assert [point["card"] for point in overview["points"]].count(None) == 17


def test_places_that_unranked_clips_do_not_need_go_to_ranked_ones_and_back(tmp_path: Path) -> None:
    moving = [clip_result(f"m{i}", 0.9 - 0.01 * i, 1) for i in range(6)]
    still = [clip_result(f"s{i}", 1, 0, flags=("still",)) for i in range(9)]
    path = write_report(tmp_path / "r.html", results_of([*moving, *still[:1]]), none, max_clips=6)
    assert names_shown(path) == ["m5", "m4", "m3", "m2", "m1", "s0"]
    path = write_report(tmp_path / "r.html", results_of([*moving[:2], *still]), none, max_clips=8)
    assert names_shown(path) == ["m1", "m0", "s0", "s1", "s2", "s3", "s4", "s5"]


@pytest.mark.slow
def test_videos_are_the_frames_padded_to_even_sizes_and_no_larger_than_shown(tmp_path: Path) -> None:
    odd, large = clip_result("odd", 0.9, 1, size=(65, 83)), clip_result("large", 0.8, 1, size=(300, 601), num_frames=9)
    path = write_report(tmp_path / "r.html", results_of([large, odd]), frames_of)
    shown_large, shown_odd = map(decoded, data_of(path, "clip"))
    assert [len(shown_large), len(shown_odd)] == [9, 16]
    assert shown_large[0].shape == (256, 514, 3)  # 601 * 256 / 300 = 512.9, and one column more
    assert shown_odd[0].shape == (66, 84, 3)
    for seen, true in zip(shown_odd, frames_of(odd), strict=True):
        assert np.abs(seen[:65, :83].astype(float) - true).mean() < 4
        assert np.abs(seen[65].astype(float) - seen[64]).mean() < 4  # the last row once more


def test_a_clip_of_one_frame_is_an_image(tmp_path: Path) -> None:
    clip = clip_result("one", None, None, num_frames=1)
    (data,) = data_of(write_report(tmp_path / "r.html", results_of([clip]), frames_of), "clip")
    assert data["media"]["kind"] == "image"
    image = np.asarray(Image.open(BytesIO(base64.b64decode(data["media"]["source"]))))
    assert np.abs(image.astype(float) - next(iter(frames_of(clip)))).mean() < 4


def test_thumbnails_are_the_frames_before_and_at_the_worst_moments(tmp_path: Path) -> None:
    clip = clip_result("a", 0.9, 1)
    (data,) = data_of(write_report(tmp_path / "r.html", results_of([clip]), frames_of), "clip")
    wanted = {frame for moment in clip.worst for frame in (moment.frame - 1, moment.frame)}
    assert set(data["thumbnails"]) == set(map(str, wanted))
    for number, source in data["thumbnails"].items():
        strip = np.asarray(Image.open(BytesIO(base64.b64decode(source))))[-4:]
        assert strip.mean() == pytest.approx(15 * int(number), abs=4)


def test_frames_that_are_not_to_be_had_are_said_so_with_the_reason(tmp_path: Path) -> None:
    def frames(clip: ClipResult) -> Iterable[np.ndarray] | None:
        if clip.name == "gone":
            return None
        if clip.name == "unreadable":
            raise VideoError("unreadable cannot be opened: it is no video")
        return broken_off(clip)

    def broken_off(clip: ClipResult) -> Iterator[np.ndarray]:
        for i, frame in enumerate(frames_of(clip)):
            if i == 5:
                raise OSError("the disk is gone")
            yield frame

    clips = [clip_result(name, 0.1 * i, 1) for i, name in enumerate(("gone", "unreadable", "broken_off"))]
    path = write_report(tmp_path / "r.html", results_of(clips), frames)
    gone, unreadable, broken = data_of(path, "clip")
    assert gone["media"]["kind"] == unreadable["media"]["kind"] == "none"
    assert gone["notes"] == ["its frames are not to be had here"]
    assert "it is no video" in unreadable["notes"][0]
    assert len(decoded(broken)) == 5
    assert "from frame 5 on: the disk is gone" in broken["notes"][0]
    assert broken["notes"][1] == "shown are 5 frames, measured were 16"


def test_an_error_while_writing_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    def frames(clip: ClipResult) -> Iterable[np.ndarray]:
        if clip.name == "b":
            raise RuntimeError("no memory left")
        return frames_of(clip)

    path = tmp_path / "report.html"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="no memory left"):
        write_report(path, results_of([clip_result("a", 0.1, 1), clip_result("b", 0.2, 1)]), frames)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_frames_are_pulled_one_clip_after_the_other(tmp_path: Path) -> None:
    events: list[str] = []

    def frames(clip: ClipResult) -> Iterator[np.ndarray]:
        events.append(f"open {clip.name}")
        yield from frames_of(clip)
        events.append(f"end {clip.name}")

    clips = [clip_result(f"c{i}", 0.1 * i, 1) for i in range(3)]
    write_report(tmp_path / "r.html", results_of(clips), frames)
    assert events == [f"{what} c{i}" for i in range(3) for what in ("open", "end")]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_clips(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        results = results_of(clip_result(f"c{i}", 0.9, 0.1, size=(96, 96)) for i in range(count))
        tracemalloc.start()
        write_report(tmp_path / "r.html", results, frames_of)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(12) < peak(4) + 440_000  # the frames of a clip, of eight more


def test_the_same_results_give_the_same_file(tmp_path: Path) -> None:
    results = results_of([clip_result("a", 0.9, 1)])
    first, second = (write_report(tmp_path / f"{i}.html", results, frames_of) for i in range(2))
    assert first.read_bytes() == second.read_bytes()


def test_results_without_clips_or_values_are_reported(tmp_path: Path) -> None:
    path = write_report(tmp_path / "r.html", results_of([]), none)
    assert data_of(path, "results")[0]["metric"] is None
    path = write_report(tmp_path / "r.html", results_of([clip_result("a", None, None)]), none)
    assert names_shown(path) == ["a"]


def test_mistakes_are_named(tmp_path: Path) -> None:
    results, other = full_example()
    alone = results_of(results.clips[:1])
    with pytest.raises(ValueError, match="max_clips=0"):
        write_report(tmp_path / "r.html", alone, none, max_clips=0)
    with pytest.raises(ValueError, match="has no comparison"):
        write_report(tmp_path / "r.html", alone, none, other=other)
    with pytest.raises(ValueError, match="other_frames without other"):
        write_report(tmp_path / "r.html", results, none, other_frames=none)
    with pytest.raises(ValueError, match=r"'other_a_red_disc.mp4' is in the comparison, but not in other"):
        write_report(tmp_path / "r.html", results, none, other=alone)
    with pytest.raises(ValueError, match=r"a_red_disc.mp4: frame 0 is float64 of shape .*uint8 h w 3"):
        write_report(tmp_path / "r.html", alone, lambda clip: [np.zeros((4, 4, 3))])
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"file.r.html: cannot be written"):
        write_report(tmp_path / "file" / "r.html", alone, none)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]
