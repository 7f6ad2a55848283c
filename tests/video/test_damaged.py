"""Hundreds of damaged and hostile files: each is refused by name, or what is read of it is right.

What a decoder cannot know is allowed, and counted. Video codecs, JPEG, BMP, GIF and lossless WebP carry no checksums:
wrong bits can be another well-formed picture. Streams without an index (MPEG-TS, MPEG-PS, FLV, raw H.264) can lose
pictures, or their end, without a trace, and FFmpeg makes up what later pictures would have leaned on. Of the 930 files
of a seed about 555 are refused and 13 stopped by a limit; 285 are read right and 33 in part; 10 say other times than
before; 32 have altered pixels; and 4 to 11 are altered so far that some frame shows another number.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from videodit.video import VideoError, probe, read_clip, read_frames
from videodit.video.guarded import Guarded

from .conftest import numbered, write_numbered
from .damage.bombs import gif_of_points
from .damage.sound import ANIMATIONS, CLIPS, STILLS, patched
from .damaged import make
from .readings import ALTERS, MEMORY_GB, WEAR, Reading, read_all

STREAMS = ("h264.ts", "mpeg2.mpg", "raw.h264", "h264.flv")  # their headers promise no length
MAKES_UP = ("vp8.webm", "mpeg2.mpg")  # FFmpeg leaves parts of their damaged pictures as memory happens to be


def check(readings: Sequence[Reading]) -> None:
    """The law, file by file."""
    for one in readings:
        assert one.names_the_file, one
        if one.damage in ("one byte", "empty", "no file", "no picture"):
            assert one.outcome == "refused", one
        elif one.damage in ("huge", "endless"):
            assert one.outcome in ("refused", "stopped", "read"), one
        elif one.damage in ("stamps", "edit list"):
            assert one.outcome in ("refused", "right", "in part", "other times"), one
        elif one.damage in ("none", "odd name"):
            assert one.outcome == "right", one
        elif one.damage not in ALTERS or (one.damage in WEAR and one.sound.endswith(".png")):
            assert one.outcome in ("refused", "right", "in part"), one
        if one.damage == "cut":
            assert one.outcome in ("refused", "right") or one.sound in STREAMS, one
        assert one.outcome != "stopped" or one.damage in ("huge", "endless", *ALTERS), one
        assert one.is_like_ffmpeg or one.sound in MAKES_UP, one


@pytest.mark.slow
def test_a_sample_of_damaged_files(tmp_path: Path) -> None:
    made = make(tmp_path, every=30, costly=False)
    readings = read_all(tmp_path, made)
    check(readings)
    assert len({one.outcome for one in readings}) >= 3


@pytest.mark.slow
def test_the_corpus_is_the_same_for_a_seed(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "same", "other")]
    made = [make(folder, seed, every=15, costly=False) for folder, seed in zip(folders, (5, 5, 6), strict=True)]
    contents = [
        [(folder / one.file).read_bytes() for one in files] for folder, files in zip(folders, made, strict=True)
    ]
    assert made[0] == made[1] == made[2]
    assert contents[0] == contents[1] != contents[2]


@pytest.mark.slow
def test_no_damaged_file_crashes_hangs_or_overflows_and_none_is_read_wrong(tmp_path: Path) -> None:
    """A third of the corpus, and all that is costly, in a process of its own: its memory and its end are seen."""
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "tests.video.damaged", str(tmp_path / "corpus"), "--report", str(report)]
    command += ["--every", "3"]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(report.read_text())
    readings = [Reading(**row) for row in found["readings"]]
    print(done.stdout)
    check(readings)
    assert len(readings) >= 200
    assert max(found["child_gb"], found["own_gb"]) < MEMORY_GB + 0.3  # beyond what a process holds anyway
    for limit in ("took more than", "needs more than"):
        assert any(limit in one.why for one in readings)  # it was needed
    outcomes = Counter(one.outcome for one in readings)
    refused, unseen = outcomes["refused"], outcomes["altered"] + outcomes["other number"]
    assert refused > 4 * unseen
    assert outcomes["other number"] < len(readings) / 40
    assert {one.sound for one in readings} > {*CLIPS, *ANIMATIONS, *STILLS}


@pytest.mark.slow
def test_a_true_crash_stays_in_its_child(tmp_path: Path) -> None:
    """decord 0.6.0 aborts its process on a fragmented MP4 whose table of times (`stts`) promises what is not there."""
    pytest.importorskip("decord")
    whole = write_numbered(tmp_path, "whole.mp4", container={"movflags": "frag_keyframe+empty_moov"})
    content = whole.read_bytes()
    path = tmp_path / "broken.mp4"
    path.write_bytes(patched(content, content.index(b"stts") + 8, (128).to_bytes(4, "big")))
    with Guarded() as guarded:
        with pytest.raises(VideoError, match=r"broken\.mp4 crashed the decoder \(SIGABRT\)"):
            guarded.call(read_frames, path, [0.0], backend="decord")
        assert guarded.call(read_frames, whole, [0.0]).shape == (1, 32, 64, 3)


def test_a_time_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    """Which of two frames is shown would depend on what else is asked for."""
    whole = write_numbered(tmp_path, "whole.flv", options={"g": "12"}).read_bytes()
    size = len(whole) // 8
    path = tmp_path / "joined.flv"
    path.write_bytes(whole[: 4 * size] + whole[2 * size :])
    with pytest.raises(VideoError, match=r"joined\.flv has several frames of one time"):
        probe(path)


def test_a_playlist_opens_no_other_file(tmp_path: Path) -> None:
    write_numbered(tmp_path, "secret.mp4")
    path = tmp_path / "clip.mp4"
    path.write_text("ffconcat version 1.0\nfile secret.mp4\n")
    with pytest.raises(VideoError, match=r"clip\.mp4 cannot be decoded"):
        probe(path)


@pytest.mark.parametrize("kind", ["EPS", "TIFF", "ICO"])
def test_what_is_called_a_picture_is_read_as_one_of_the_known_kinds_only(tmp_path: Path, kind: str) -> None:
    """Of what else Pillow reads, PostScript is a program, and a TIFF may hold pages."""
    path = tmp_path / "picture.png"
    Image.fromarray(numbered(5)).save(path, kind)
    with pytest.raises(VideoError, match="cannot identify image file"):
        probe(path)


def test_a_photograph_with_a_second_picture_behind_it_is_a_still_image(tmp_path: Path) -> None:
    """As phones make them: what is behind is a map of depth or brightness."""
    path = tmp_path / "phone.jpg"
    behind = Image.fromarray(numbered(9)[:16, :32])
    Image.fromarray(numbered(5)).save(path, "MPO", save_all=True, append_images=[behind])
    assert (probe(path).num_frames, probe(path).is_image) == (1, True)
    assert read_clip(path, 1, 8).shape == (1, 32, 64, 3)


@pytest.mark.slow
def test_a_small_file_does_not_come_out_of_a_child_as_a_large_array(tmp_path: Path) -> None:
    """Animations are scaled there too, a frame at a time."""
    path = tmp_path / "wide.gif"
    path.write_bytes(gif_of_points(1500, 20))
    with Guarded(memory_gb=0.3) as guarded:  # all frames at once would be 0.135 GB, and as much again when stacked
        assert guarded.call(read_clip, path, 20, 100.0, cover=(16, 24)).shape == (20, 24, 24, 3)


def test_pictures_of_the_size_asked_for_are_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "still.png"
    Image.fromarray(numbered(5)).save(path)
    np.testing.assert_array_equal(read_frames(path, [0.0], cover=(32, 64))[0], numbered(5))


class FiresWhenCancelled(threading.Timer):
    """The end of the time, of 7 seconds, meets the answer."""

    def cancel(self) -> None:
        super().cancel()
        if self.interval == 7:
            self.function()


def echo(path: str, value: int) -> int:
    return value


def echo_and_interrupt(path: str, value: int, process: int) -> int:
    """Its caller is told to stop while it waits for the answer, which comes all the same."""
    os.kill(process, signal.SIGUSR1)
    return value


@pytest.mark.slow
def test_a_file_that_took_all_its_time_does_not_cost_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with Guarded() as guarded:
        with monkeypatch.context() as patch:
            patch.setattr(threading, "Timer", FiresWhenCancelled)
            assert guarded.call(echo, "slow.mp4", 1, seconds=7) == 1
        assert [child for child in guarded._free.queue if child] == []
        assert guarded.call(echo, "next.mp4", 2) == 2


@pytest.mark.slow
def test_a_call_that_was_interrupted_leaves_no_answer_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with Guarded() as guarded:
            guarded.call(echo, "first.mp4", 0)
            with pytest.raises(KeyboardInterrupt):
                guarded.call(echo_and_interrupt, "long.mp4", 1, os.getpid())
            assert guarded.call(echo, "next.mp4", 2) == 2
    finally:
        signal.signal(signal.SIGUSR1, before)
