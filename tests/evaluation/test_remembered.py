"""Whether a clip is new: the nearest true clip, and how near true clips are to each other."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from footage import pan
from PIL import Image

from videodit.commands import evaluate as tool
from videodit.evaluation.measure.clips import clip_from_array
from videodit.evaluation.measure.nearest import FRAMES, TrueClip, TrueClips
from videodit.evaluation.report.remembered import TrueFile, TrueFiles
from videodit.evaluation.report.results import load_results
from videodit.evaluation.suite import evaluate
from videodit.video.guarded import Guarded
from videodit.video.writer import write_video

QUICK = ["change_per_second"]


@pytest.fixture
def true(tmp_path: Path) -> Path:
    """Six true clips, and one that is transparent: a square on its way."""
    folder = tmp_path / "true"
    for number in range(6):
        write_video(folder / f"{number}.mkv", pan(10 + number, FRAMES), 8)
    frames = []
    for number in range(FRAMES):
        frame = np.zeros((64, 64, 4), np.uint8)
        frame[20:50, number : number + 30] = (200, 90, 20, 255)
        frame[-1, -1] = (0, 0, 0, 99)
        frames.append(Image.fromarray(frame))
    frames[0].save(folder / "clear.webp", save_all=True, append_images=frames[1:], duration=125, lossless=True)
    return folder


def files(folder: Path) -> list[TrueFile]:
    return [TrueFile(path, path.name, (path.stem,)) for path in sorted(folder.iterdir())]


@pytest.mark.slow
def test_a_clip_that_training_showed_is_remembered_and_another_is_new(true: Path) -> None:
    y, x = np.mgrid[:64, :64]
    square = np.stack([((x >= n) & (x < n + 30) & (y >= 20) & (y < 50))[..., None] for n in range(FRAMES)])
    on_blue = np.where(square, (200, 90, 20), (0, 0, 255)).astype(np.uint8)
    shown = {
        "copy": pan(13, FRAMES),
        "late": np.roll(pan(11, FRAMES), -3, axis=0),
        "clear": on_blue,
        "new": pan(99, FRAMES),
    }
    clips = [clip_from_array(frames, 8, name=name) for name, frames in shown.items()]
    with Guarded(1) as guard:
        found = TrueFiles(files(true), guard)
        results = found.beside(evaluate(clips, metrics=QUICK, workers=1), clips, "true")
        near = {clip.name: clip.nearest for clip in results.clips}
        assert {name: one.name for name, one in near.items() if name != "new"} == {
            "copy": "3.mkv",
            "late": "1.mkv",
            "clear": "clear.webp",
        }
        assert near["late"].phase == 3
        assert max(near[name].distance for name in ("copy", "late", "clear")) < 0.01 < near["new"].distance
        assert set(results.nearest.remembered) == {"copy", "late", "clear"}
        assert results.nearest.n == 7
        again = np.stack(list(found.frames(near["late"])))
        assert np.array_equal(again, shown["late"])
        assert (np.stack(list(found.frames(near["clear"])))[0, 0, 0] == 255).all()  # before white
    assert "3 of 4 are nearer than" in results.to_text()


@pytest.mark.slow
def test_the_tool_tells_it_and_the_report_shows_both_side_by_side(
    true: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_video(tmp_path / "clips" / "a.mkv", pan(12, FRAMES), 8)
    (true / "broken.mkv").write_bytes(b"no video")
    words = [tmp_path / "clips", "--nearest", true, "--out", tmp_path / "out", "--metrics", *QUICK, "--workers", 1]
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, words)])
    assert tool.main() == 0
    said = capsys.readouterr().out
    assert "1 of 1 are nearer than" in said
    assert "left out of the true clips: broken.mkv" in said
    results = load_results(tmp_path / "out" / "results.json")
    assert results.clips[0].nearest.name == "2.mkv"
    page = (tmp_path / "out" / "report.html").read_text()
    (partner,) = re.findall(r'<script type="application/json" class="partner">(.*?)</script>', page)
    data = json.loads(partner)
    assert (data["clip"]["name"], data["media"]["kind"]) == ("2.mkv", "video")
    assert data["clip"]["nearest"]["distance"] < 0.01


@pytest.mark.slow
def test_true_clips_that_cannot_be_had_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.mkv").write_bytes(b"no video")
    with Guarded(1) as guard, pytest.raises(ValueError, match=r"0 true clips can be read, and two are needed; .*a.mkv"):
        TrueFiles(files(tmp_path), guard)


@pytest.mark.slow
def test_it_tells_whether_the_nearest_is_the_one_asked_for_and_whether_that_moves_as_much(tmp_path: Path) -> None:
    captions = {"a": "a town", "b": "a town", "c": "a field"}
    places = {"a": 10, "b": 11, "c": 12}
    true = tmp_path / "true"
    for name, seed in places.items():
        write_video(true / f"{name}.mkv", pan(seed, FRAMES), 8)
    town, slow = pan(11, FRAMES), np.repeat(pan(10, FRAMES // 4), 4, axis=0)
    clips = [
        clip_from_array(town, 8, name="right", prompt="a town"),
        clip_from_array(slow, 8, name="slow", prompt="a town"),
        clip_from_array(town, 8, name="wrong", prompt="a field"),
        clip_from_array(town, 8, name="other", prompt="a lake"),
        clip_from_array(town, 8, name="nothing"),
    ]
    with Guarded(1) as guard:
        files = [TrueFile(true / f"{name}.mkv", name, (caption,)) for name, caption in captions.items()]
        results = TrueFiles(files, guard).beside(evaluate(clips, metrics=QUICK, workers=1), clips, "true")
    near = {clip.name: clip.nearest for clip in results.clips}
    assert {name: one.asked for name, one in near.items()} == {
        "right": True,
        "slow": True,
        "wrong": False,
        "other": None,
        "nothing": None,
    }
    assert near["right"].motion == pytest.approx(1, abs=1e-3)
    assert near["slow"].motion < 0.5  # 2 of 11 steps
    assert near["right"].alike == pytest.approx(1, abs=1e-3)
    assert near["wrong"].motion is not None
    assert near["wrong"].alike < 0.5
    assert near["other"].motion is near["other"].alike is None
    assert (results.nearest.named, results.nearest.asked) == (3, 2)
    assert results.nearest.moving == sum(0.5 <= near[name].motion <= 2 for name in ("right", "slow", "wrong"))
    assert "of 3 made from the caption of a true clip 2 are nearest to that one" in results.to_text()


@pytest.mark.slow
def test_stretches_of_long_clips_and_rows_of_files_are_compared_as_training_shows_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Cuts of two films, each in a row of its own with two captions: copies of what lies within them are remembered."""
    films = [pan(20 + number, 6 * FRAMES, 3.0) for number in range(2)]
    rows = [{"file": "gone.mkv", "caption": "gone"}]
    for number, film in enumerate(films):
        write_video(tmp_path / "true" / f"{number}.mkv", film, 12)
        for start in (0, 3):  # seconds: a row each, which are 3 s long, for clips of 1 s
            rows += [
                {"file": f"{number}.mkv", "caption": f"{number} {word}", "start": start, "end": start + 3}
                for word in ("runs", "walks")
            ]
    (tmp_path / "true" / "clips.jsonl").write_text("\n".join(map(json.dumps, rows)))
    made = tmp_path / "made"
    for name, clip in {"a": films[0][18:30], "b": films[1][6:18], "c": pan(90, FRAMES, 3.0)}.items():
        write_video(made / f"{name}.mkv", clip, 12)
    (made / "a.txt").write_text("0 walks")
    words = [made, "--nearest", tmp_path / "true" / "clips.jsonl", "--out", tmp_path / "out", "--metrics", *QUICK]
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, words), "--workers", "1"])
    assert tool.main() == 0
    said = capsys.readouterr().out
    assert "left out of the true clips: true/clips.jsonl:1" in said.replace(str(tmp_path) + "/", "")
    results = load_results(tmp_path / "out" / "results.json")
    assert results.nearest.n == 4
    near = {clip.name: clip.nearest for clip in results.clips}
    assert near["a.mkv"].name == "0.mkv from 0 s to 3 s at 1.5 s"
    assert near["a.mkv"].asked is True
    assert near["b.mkv"].name == "1.mkv from 0 s to 3 s at 0.5 s"
    assert max(near[name].distance for name in ("a.mkv", "b.mkv")) < 0.01
    assert set(results.nearest.remembered) == {"a.mkv", "b.mkv"}
    page = (tmp_path / "out" / "report.html").read_text()
    assert "0.mkv from 0 s to 3 s at 1.5 s" in page


def test_what_is_there_twice_says_nothing_of_how_far_apart_clips_are() -> None:
    clips = [TrueClip(pan(seed, FRAMES)) for seed in range(4)]
    plain, twice = TrueClips(clips), TrueClips([*clips, *clips])
    assert twice.apart == pytest.approx(plain.apart, rel=1e-4)
    both = [*clips, *(TrueClip(pan(seed, FRAMES, 1.6)) for seed in range(4))]
    assert TrueClips(both).apart < 0.5 * plain.apart
    assert TrueClips(both, [0, 1, 2, 3] * 2).apart == pytest.approx(plain.apart, rel=0.1)
    assert TrueClips([*clips[:1], *clips[:1]]).close == 0
