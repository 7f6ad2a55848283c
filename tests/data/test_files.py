"""What is known of files is remembered while they stay as they are, and what cannot be read is kept away from."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from videodit.config import Data
from videodit.data.clips import Clips, open_data
from videodit.data.files import Facts, Files
from videodit.video import UnsuitableError, VideoError, write_video


def clip(path: Path, num_frames: int = 5, shade: int = 0) -> Path:
    write_video(path, np.full((num_frames, 32, 32, 3), shade, dtype=np.uint8), 8)
    path.with_suffix(".txt").write_text(f"a clip of shade {shade}")
    return path


def opened_by(files: Files, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are opened from now on, by name."""
    names: list[str] = []
    call = files.reader.call
    monkeypatch.setattr(
        files.reader,
        "call",
        lambda do, path, *others, **kw: names.append(Path(path).name) or call(do, path, *others, **kw),
    )
    return names


@pytest.mark.slow
def test_facts_are_remembered_until_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, memory = clip(tmp_path / "a.mkv"), tmp_path / "facts.json"
    files = Files(memory)
    files.measure([file], "measuring")
    before = files.sha256(file)
    files.remember()
    again = Files(memory)
    looks = opened_by(again, monkeypatch)
    assert again.facts(file) == Facts(5 / 8, 8.0, 32, 32, False, None, before, False)
    assert looks == []
    clip(file, 9)
    assert again.facts(file).duration == 9 / 8
    assert looks == ["a.mkv"]
    assert again.sha256(file) != before
    memory.write_text("{")
    assert Files(memory).facts(file).duration == 9 / 8


@pytest.mark.slow
def test_a_bad_file_is_not_opened_again_until_it_changes_or_its_line_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, bad = tmp_path / "latents" / "files.json", tmp_path / "bad.mkv"
    bad.write_bytes(b"no video at all")
    Files(memory).measure([bad], "measuring")
    listed = [json.loads(line) for line in memory.with_name("quarantine.jsonl").read_text().splitlines()]
    assert [(row["file"], row["bytes"]) for row in listed] == [(str(bad), 15)]
    assert "bad.mkv" in listed[0]["why"]

    again = Files(memory)
    looks = opened_by(again, monkeypatch)
    again.measure([bad], "measuring")
    assert again.facts(bad).error == listed[0]["why"]
    assert looks == []

    status = bad.stat()
    sound = clip(tmp_path / "sound.mkv").read_bytes()
    bad.write_bytes(sound)
    assert Files(memory).facts(bad).error is None  # another file under the old name
    bad.write_bytes(b"no video at all")
    os.utime(bad, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert Files(memory).facts(bad).error
    memory.with_name("quarantine.jsonl").write_text('{"file": "torn li')
    looks = opened_by(third := Files(memory), monkeypatch)
    assert third.facts(bad).error
    assert looks == ["bad.mkv"]


@pytest.mark.slow
def test_what_is_missing_or_only_unsuitable_is_not_put_into_quarantine(tmp_path: Path) -> None:
    memory, file = tmp_path / "files.json", clip(tmp_path / "a.mkv")
    files = Files(memory)
    assert files.facts(tmp_path / "nowhere.mkv").error
    files.fail(file, UnsuitableError("too short for what was asked"))
    assert not memory.with_name("quarantine.jsonl").exists()
    assert files.facts(file).error is None
    clip(tmp_path / "nowhere.mkv")
    assert files.facts(tmp_path / "nowhere.mkv").error is None


def test_what_is_measured_one_by_one_is_remembered_every_so_many_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("videodit.data.files.REMEMBER_EVERY", 2)
    found = asdict(Facts(1.0, 8.0, 32, 32, transparent=False))
    reader = SimpleNamespace(
        call=lambda *_: found | {"interlaced": False, "hdr": False, "pixel_aspect": 1.0}, seconds=60.0, memory_gb=4.0
    )
    memory = tmp_path / "files.json"
    files = Files(memory, reader)
    known = []
    for number in range(5):
        (tmp_path / f"{number}.mkv").write_bytes(b"x")
        assert files.facts(tmp_path / f"{number}.mkv").duration == 1.0
        known.append(len(json.loads(memory.read_text())) if memory.exists() else 0)
    assert known == [0, 2, 2, 4, 4]


def test_what_is_hashed_at_once_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[str] = []

    def digest(path: Path) -> str:
        hashed.append(path.name)
        return f"of {path.name}"

    monkeypatch.setattr("videodit.data.files._hash", digest)
    paths = [tmp_path / name for name in ("a.mkv", "b.mkv")]
    for path in paths:
        path.write_bytes(b"x")
    memory = tmp_path / "files.json"
    Files(memory).hash([*paths, paths[0]], "hashing", show=False)
    assert sorted(hashed) == ["a.mkv", "b.mkv"]
    again = Files(memory)
    again.hash(paths, "hashing", show=False)
    assert [again.sha256(path) for path in paths] == ["of a.mkv", "of b.mkv"]
    assert sorted(hashed) == ["a.mkv", "b.mkv"]


@pytest.mark.slow
def test_other_processes_learn_of_the_quarantine(tmp_path: Path) -> None:
    memory, file = tmp_path / "files.json", clip(tmp_path / "a.mkv")
    here, there = Files(memory), Files(memory)
    assert here.facts(file).error is None
    there.fail(file, VideoError("it crashed the decoder"))
    assert here.facts(file).error is None
    here.recall()
    assert here.facts(file).error == "it crashed the decoder"


def rows(tmp_path: Path, *stretches: dict[str, float]) -> Clips:
    """A file of 24 frames at 8 fps, frame i of gray 10 i, as one clip for each stretch."""
    frames = np.arange(24, dtype=np.uint8).repeat(32 * 32 * 3).reshape(24, 32, 32, 3) * 10
    write_video(tmp_path / "long.mkv", frames, 8)
    lines = [json.dumps({"file": "long.mkv", "caption": "grays", **stretch}) for stretch in stretches]
    (tmp_path / "clips.jsonl").write_text("\n".join(lines))
    data = Data(source=str(tmp_path), num_frames=5, height=32, width=32, validation=0, max_bad_share=1.0)
    return open_data(data, 0, tmp_path / "latents" / "files.json").train


@pytest.mark.slow
def test_a_stretch_of_a_file_is_a_clip_of_its_own(tmp_path: Path) -> None:
    clips = rows(tmp_path, {"start": 1.0, "end": 2.0}, {"start": 2.0}, {})
    shown = [{int(frame[0, 0, 0]) // 10 for draw in range(30) for frame in clips.read(i, draw)} for i in range(3)]
    for frames, first, last in zip(shown, (8, 16, 0), (15, 23, 23), strict=True):
        assert first <= min(frames) <= first + 2
        assert last - 2 <= max(frames) <= last
    assert len({clips.source.content(i) for i in range(3)}) == 3
    assert len({clips.source.name(i) for i in range(3)}) == 3


@pytest.mark.slow
def test_a_stretch_that_is_not_in_the_file_is_named(tmp_path: Path) -> None:
    clips = rows(tmp_path, *({"start": a, "end": b} for a, b in ((1.0, 9.0), (3.5, None), (3.0, None), (0.0, 1.0))))
    for index, why in enumerate(
        ("is 3.000 s long: it has no stretch from 1 to 9 s", "from 3.5 to 3 s", "from 3 to 3 s")
    ):
        with pytest.raises(UnsuitableError, match=why):
            clips.source.facts(index)
    assert len(clips.read(0, 0)) == 5
    assert len(clips.skips) == 3
    assert not (tmp_path / "latents" / "quarantine.jsonl").exists()


@pytest.mark.slow
def test_a_stretch_may_end_a_frame_behind_its_file_and_has_what_there_is(tmp_path: Path) -> None:
    """Lists are made by clocks of their own: an eighth of a second is a frame here."""
    clips = rows(tmp_path, {"start": 1.0, "end": 3.12}, {"start": 1.0, "end": 3.13})
    assert clips.source.facts(0).duration == 2.0
    with pytest.raises(UnsuitableError, match="no stretch from 1 to 3"):
        clips.source.facts(1)
    write_video(tmp_path / "a.png", np.zeros((1, 32, 32, 3), dtype=np.uint8), 8)
    (tmp_path / "clips.jsonl").write_text(json.dumps({"file": "a.png", "caption": "a picture", "start": 0, "end": 1}))
    image = open_data(Data(source=str(tmp_path), num_frames=5, height=32, width=32, validation=0), 0).train
    with pytest.raises(UnsuitableError, match="is a still image: it has no stretch from 0 to 1 s"):
        image.source.facts(0)


@pytest.mark.slow
def test_one_bad_stretch_takes_the_other_clips_of_its_file_out(tmp_path: Path) -> None:
    clips = rows(tmp_path, {"start": 0.0, "end": 1.0}, {"start": 1.0, "end": 2.0}, {"start": 2.0})
    assert next(clips.read_ahead([clips.span(0, 0)])) is not None
    clips.source.files.fail(tmp_path / "long.mkv", VideoError("damaged at 2 s"))
    clips.skips.clear()
    with pytest.raises(VideoError, match="3 of 3 clips cannot be read"):
        clips.recall([0, 1, 2])
