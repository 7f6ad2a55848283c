"""Which clip fills which bucket, and what is said of those that fill none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from videodit.config import Data
from videodit.data.buckets import choose, fill, sizes_of
from videodit.data.clips import open_data
from videodit.data.files import Facts
from videodit.geometry import ClipSize
from videodit.video.writer import write_video

WIDE, TALL, SQUARE = ClipSize(17, 64, 96, 8), ClipSize(17, 96, 64, 8), ClipSize(17, 64, 64, 8)
LONG, LARGE = ClipSize(33, 64, 64, 8), ClipSize(17, 128, 128, 8)
ALL = (WIDE, TALL, SQUARE, LONG, LARGE)


def file(duration: float, height: int, width: int, fps: float = 24.0) -> Facts:
    return Facts(duration=duration, fps=fps, height=height, width=width)


@pytest.mark.parametrize(
    ("facts", "bucket"),
    [
        (file(3, 240, 360), WIDE),  # the aspect ratio comes first, though larger and longer ones could be filled
        (file(3, 360, 240), TALL),
        (file(9, 240, 240), LARGE),  # then pixels
        (file(9, 100, 100), LONG),  # too small for the largest; then length
        (file(3, 100, 100), SQUARE),  # too short for the longest
        (file(2.125, 64, 64, 8), SQUARE),  # seventeen frames at eight a second, no more and no less
    ],
)
def test_a_clip_goes_to_the_nearest_bucket_that_it_fills(facts: Facts, bucket: ClipSize) -> None:
    for order in (ALL, ALL[::-1]):
        assert choose(facts, order, Data()) == bucket


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        (file(2.0, 240, 240, 8), "2.000 s are too short for 17 frames at 8 a second"),
        (file(3, 48, 240), "48x240 pixels are less than 64x64"),
        (file(3, 240, 240, 6), "6 frames a second are less than 8"),
    ],
)
def test_what_a_clip_lacks_is_said(facts: Facts, why: str) -> None:
    assert choose(facts, [SQUARE], Data()) == why


def test_a_small_clip_is_enlarged_only_where_that_is_asked_for() -> None:
    assert choose(file(3, 48, 48), [SQUARE], Data(upscale=True)) == SQUARE


def test_what_fills_a_bucket_as_it_is_is_neither_enlarged_nor_shown_slower_for_another() -> None:
    fast = ClipSize(49, 64, 64, 24)
    for order in ((SQUARE, LARGE, fast), (fast, LARGE, SQUARE)):
        assert choose(file(3, 64, 64, 8), order, Data(upscale=True, slower="repeat")) == SQUARE
        assert choose(file(3, 64, 64, 24), order, Data(slower="repeat")) == fast
        assert choose(file(3, 256, 256, 8), order, Data(slower="repeat")) == LARGE


def test_an_image_goes_to_the_nearest_picture_size() -> None:
    image = Facts(height=400, width=600, is_image=True)
    assert choose(image, ALL, Data()) == WIDE.image()
    assert choose(Facts(height=64, width=60, is_image=True), [SQUARE], Data()) == "64x60 pixels are less than 64x64"


@pytest.mark.slow
def test_every_file_is_in_one_bucket_or_left_out_for_a_reason(tmp_path: Path) -> None:
    sizes = {
        "wide": (5, 32, 48),
        "square": (5, 32, 32),
        "long": (12, 32, 32),
        "short": (3, 32, 32),
        "small": (9, 16, 16),
    }
    for name, (frames, height, width) in sizes.items():
        write_video(tmp_path / f"{name}.mkv", np.zeros((frames, height, width, 3), dtype=np.uint8), 8)
        (tmp_path / f"{name}.txt").write_text(name)
    write_video(tmp_path / "still.png", np.zeros((1, 32, 32, 3), dtype=np.uint8), 8)
    (tmp_path / "still.txt").write_text("still")
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    (tmp_path / "broken.txt").write_text("broken")
    data = Data(
        source=str(tmp_path),
        validation=0,
        height=32,
        width=32,
        max_bad_share=0.2,
        spans=3,
        buckets=({"num_frames": 5}, {"num_frames": 9}, {"num_frames": 5, "width": 48}),
    )
    clips = open_data(data, 0).train
    buckets = fill(clips, sizes_of(data), data.spans)
    found = {
        size: sorted({Path(clips.source.name(s.index)).stem for s in spans}) for size, spans in buckets.spans.items()
    }
    assert found == {
        ClipSize(5, 32, 32, 8.0): ["square"],
        ClipSize(9, 32, 32, 8.0): ["long"],
        ClipSize(5, 32, 48, 8.0): ["wide"],
        ClipSize(1, 32, 32, 8.0): ["still"],
    }
    assert {Path(skip.where).stem: skip.why.split(";")[0] for skip in buckets.dropped} == {
        "short": "0.375 s are too short for 5 frames at 8 a second",
        "small": "16x16 pixels are less than 32x32",
    }
    assert [Path(skip.where).stem for skip in clips.skips.values()] == ["broken"]
    assert [len(spans) for spans in buckets.spans.values()] == [1, 3, 1, 1]  # only the long one shows other things


def test_the_world_is_dealt_out_to_all_sizes() -> None:
    data = Data(clips=7, validation=0, buckets=({"num_frames": 5}, {"num_frames": 9, "width": 96}))
    clips = open_data(data, 0).train
    buckets = fill(clips, sizes_of(data), 1)
    assert [len(spans) for spans in buckets.spans.values()] == [4, 3]
    frames = next(clips.read_ahead(buckets.spans[sizes_of(data)[1]][:1]))
    assert frames is not None
    assert frames.shape == (9, 64, 96, 3)
