"""Clips to be measured: what files and arrays give, and what is refused by name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from footage import pan

from videodit.evaluation.measure import clips as room
from videodit.evaluation.measure.clips import clip_from_array, clip_from_file
from videodit.video import VideoError, write_video
from videodit.video.guarded import Guarded


@pytest.fixture(scope="module")
def guard() -> Iterator[Guarded]:
    with Guarded() as one:
        yield one


def frames_of(clip: room.Clip, side: int | None = None) -> np.ndarray:
    return np.stack(list(clip.stream(side)))


@pytest.mark.slow
def test_a_lossless_file_gives_its_frames_however_long_the_stretches_are(
    guard: Guarded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = pan(0, 23)
    file = write_video(tmp_path / "x.mkv", frames, 8)
    clip = clip_from_file(file, guard, prompt="a pan", seed=3)
    assert (clip.num_frames, clip.fps, clip.prompt, clip.seed) == (23, 8, "a pan", 3)
    assert clip.digest == hashlib.sha256(file.read_bytes()).hexdigest()
    np.testing.assert_array_equal(frames_of(clip), frames)
    monkeypatch.setattr(room, "STRETCH", 5 * frames[0].size)  # of five frames
    np.testing.assert_array_equal(frames_of(clip), frames)
    np.testing.assert_array_equal(frames_of(clip), frames)  # a stream begins anew with each call


def test_another_rate_takes_frames_by_time_and_a_faster_one_is_refused(guard: Guarded, tmp_path: Path) -> None:
    frames = pan(0, 24)
    file = write_video(tmp_path / "x.mkv", frames, 24)
    np.testing.assert_array_equal(frames_of(clip_from_file(file, guard, fps=8)), frames[::3])
    with pytest.raises(VideoError, match=r"x\.mkv has 24\.0.* frames a second, fewer than 30"):
        clip_from_file(file, guard, fps=30)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["x.gif", "x.webp", "x.mkv", "x.mp4"])
def test_at_its_own_rate_each_frame_of_a_file_comes_once(guard: Guarded, tmp_path: Path, name: str) -> None:
    frames = pan(0, 9)
    for fps in (8, 23.976, 7, 30):  # whose stamps are rounded: in a GIF to hundredths of a second
        clip = clip_from_file(write_video(tmp_path / name, frames, fps), guard)
        seen = frames_of(clip).astype(int)
        assert len(seen) == 9
        nearest = [int(np.abs(frames.astype(int) - one).mean(axis=(1, 2, 3)).argmin()) for one in seen]
        assert nearest == list(range(9))
        assert clip.fps == pytest.approx(fps, rel=0.03)


def test_frames_that_do_not_come_evenly_are_refused_until_a_rate_is_given(guard: Guarded, tmp_path: Path) -> None:
    frames = pan(0, 8)[[0, 0, 0, 1, 2, 3, 3, 4]]  # which a WebP stores as five
    file = write_video(tmp_path / "x.webp", frames, 8)
    with pytest.raises(VideoError, match=r"x\.webp: its frames do not come evenly, 0\.125 to 0\.375 s apart.*--fps"):
        clip_from_file(file, guard)


def test_a_stretch_of_a_file_is_a_clip_of_its_own(guard: Guarded, tmp_path: Path) -> None:
    frames = pan(0, 24)
    file = write_video(tmp_path / "x.mkv", frames, 8)
    clip = clip_from_file(file, guard, start=1.0, end=2.0)
    np.testing.assert_array_equal(frames_of(clip), frames[8:16])
    assert clip.digest != clip_from_file(file, guard).digest
    with pytest.raises(VideoError, match="no frame from 3 s on"):
        clip_from_file(file, guard, start=3.0)


def test_a_picture_that_stays_is_shown_as_long_as_it_stays(guard: Guarded, tmp_path: Path) -> None:
    frames = pan(0, 8)[[0, 0, 0, 1, 2, 3, 3, 4]]  # which a WebP stores as five
    file = write_video(tmp_path / "x.webp", frames, 8)
    np.testing.assert_array_equal(frames_of(clip_from_file(file, guard, fps=8)), frames)


def test_an_image_is_a_clip_of_one_frame(guard: Guarded, tmp_path: Path) -> None:
    frame = pan(0, 1)
    clip = clip_from_file(write_video(tmp_path / "x.png", frame, 1), guard)
    assert (clip.num_frames, clip.fps) == (1, 0)
    np.testing.assert_array_equal(frames_of(clip), frame)


def test_frames_are_scaled_down_to_the_side_asked_for_and_never_up(guard: Guarded, tmp_path: Path) -> None:
    frames = pan(0, 4)  # 128 x 160
    clip = clip_from_file(write_video(tmp_path / "x.mkv", frames, 8), guard)
    assert frames_of(clip, 64).shape == (4, *clip.size(64), 3) == (4, 64, 80, 3)
    np.testing.assert_array_equal(frames_of(clip, 128), frames)
    in_memory = clip_from_array(frames, 8)
    np.testing.assert_array_equal(frames_of(in_memory, 64), frames_of(clip, 64))
    np.testing.assert_array_equal(frames_of(in_memory, 500), frames)


def test_floats_and_tensors_are_the_same_clip_as_bytes() -> None:
    frames = pan(0, 3)
    tensor = torch.from_numpy(frames).permute(0, 3, 1, 2) / 255
    for given in (frames / 255, (frames / 255).astype(np.float32), tensor, tensor.double()):
        clip = clip_from_array(given, 8)
        np.testing.assert_array_equal(frames_of(clip), frames)
        assert clip.digest == clip_from_array(frames, 8).digest


@pytest.mark.parametrize(
    ("frames", "fps", "message"),
    [
        (np.zeros((4, 8, 8)), 8, "must be f h w 3"),
        (np.zeros((0, 8, 8, 3)), 8, "must be f h w 3"),
        (np.zeros((2, 8, 8, 3), dtype=int), 8, "int64"),
        (np.full((2, 8, 8, 3), 1.01), 8, r"in \[0, 1\]"),
        (np.full((2, 8, 8, 3), np.nan), 8, r"in \[0, 1\]"),
        (np.zeros((2, 8, 8, 3)), 0, "fps=0"),
    ],
)
def test_frames_that_are_none_are_refused(frames: np.ndarray, fps: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        clip_from_array(frames, fps)


def test_a_broken_file_is_an_error_that_names_it(guard: Guarded, tmp_path: Path) -> None:
    file = tmp_path / "x.mp4"
    file.write_bytes(b"nothing of the kind")
    with pytest.raises(VideoError, match=r"x\.mp4"):
        clip_from_file(file, guard)
    with pytest.raises(VideoError, match="gone"):
        clip_from_file(tmp_path / "gone.mp4", guard)
