"""Sources of clips: sizes, spans, what is kept out, and what cannot be read."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from videodit.config import Data
from videodit.data.buckets import choose, fill
from videodit.data.clips import guarded_reader, open_data
from videodit.data.files import Facts
from videodit.data.source import Span
from videodit.data.transforms import detailed_crop, fit, to_frames, to_pixels
from videodit.geometry import ClipSize
from videodit.shapes import ShapesWorld
from videodit.video import VideoError
from videodit.video.writer import write_video

SIZE = {"num_frames": 3, "height": 16, "width": 16, "fps": 8.0}
FRAME = ClipSize(3, 16, 16, 8.0)


def numbered(folder: Path, name: str, count: int) -> None:
    """A lossless clip whose frame i is of gray i + 1, with its caption beside it."""
    frames = np.repeat(np.arange(1, count + 1, dtype=np.uint8), 16 * 16 * 3).reshape(count, 16, 16, 3)
    write_video(folder / name, frames, 8)
    (folder / name).with_suffix(".txt").write_text(f"clip {name}\n")


@pytest.mark.slow
def test_a_long_file_gives_another_span_each_epoch_and_the_same_again(tmp_path: Path) -> None:
    numbered(tmp_path, "long.mkv", 40)
    clips = open_data(Data(source=str(tmp_path), validation=0, **SIZE), seed=1).train
    starts = []
    for epoch in range(30):
        frames = clips.read(0, epoch)
        first = int(frames[0, 0, 0, 0])
        assert [int(f[0, 0, 0]) for f in frames] == [first, first + 1, first + 2]
        assert np.array_equal(frames, clips.read(0, epoch))
        starts.append(first)
    assert len(set(starts)) > 10
    assert min(starts) < 10
    assert max(starts) > 30
    fixed = open_data(Data(source=str(tmp_path), validation=0, start="first", **SIZE), seed=1).train
    assert {int(fixed.read(0, epoch)[0, 0, 0, 0]) for epoch in range(5)} == {1}


def test_the_world_with_more_of_a_word_is_other_clips_that_show_it_and_say_it() -> None:
    plain, more = (open_data(Data(validation=2, more=m, **SIZE), seed=1) for m in ({}, {"spinning": 1000.0}))
    for clips in (more.train, more.validation):
        world = ShapesWorld(ClipSize(3, 16, 16, 8.0), seed=1, more={"spinning": 1000.0})
        first = 0 if clips is more.validation else 2
        assert clips.source.captions(Span(0, FRAME), image=False) == world.captions(first)
        assert np.array_equal(clips.read(0, 0), world[first].frames)
        assert {thing.motion for thing in world.scene(first).things} == {"spinning"}
    assert plain.train.source.content(0) != more.train.source.content(0)  # so a store never takes one for the other


@pytest.mark.parametrize(
    ("more", "message"),
    [({"spining": 2.0}, "data.more: 'spining' is none of red"), ({"star": -1.0}, "data.more: star: -1 is no weight")],
)
def test_a_weight_that_cannot_be_is_named(more: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_data(Data(more=more, **SIZE), seed=0)


@pytest.mark.slow
def test_images_are_clips_of_one_frame(tmp_path: Path) -> None:
    write_video(tmp_path / "a.png", np.full((1, 16, 16, 3), 9, dtype=np.uint8), 8)
    (tmp_path / "a.txt").write_text("nine")
    clips = open_data(Data(source=str(tmp_path), validation=0, **SIZE), seed=0).train
    assert clips.read(0, 0).shape == (1, 16, 16, 3)
    assert clips.span(0, 0) == clips.span(0, 1)


def test_validation_is_spread_over_the_manifest_and_shares_nothing_with_training(tmp_path: Path) -> None:
    rows = [{"file": f"{i:02d}.mkv", "caption": str(i)} for i in range(12)]
    for row in rows:
        (tmp_path / row["file"]).write_bytes(b"x")
    (tmp_path / "clips.jsonl").write_text("\n".join(json.dumps(r) for r in rows))
    split = open_data(Data(source=str(tmp_path), validation=3, **SIZE), seed=0)
    kept = [split.validation.source.captions(Span(i, FRAME), image=False)[0] for i in range(len(split.validation))]
    used = [split.train.source.captions(Span(i, FRAME), image=False)[0] for i in range(len(split.train))]
    assert sorted(kept + used, key=int) == [str(i) for i in range(12)]
    assert np.ptp([int(k) for k in kept]) >= 6
    few = open_data(Data(source=str(tmp_path), validation=1, clips=4, **SIZE), seed=0)
    assert len(few.train) == 3
    with pytest.raises(ValueError, match="leave none to train on"):
        open_data(Data(source=str(tmp_path), validation=12, **SIZE), seed=0)


@pytest.mark.parametrize(
    ("clips", "count", "kept"),
    [(10, 2, [2, 7]), (10, 5, [0, 2, 4, 6, 8]), (10, 1, [4]), (7, 2, [1, 5]), (9, 3, [1, 4, 7])],
)
def test_validation_leaves_as_much_before_the_first_as_behind_the_last(
    tmp_path: Path, clips: int, count: int, kept: list[int]
) -> None:
    """The middles of equal parts, (i + 1/2) clips / count - 1/2; of two that are as near the even one."""
    rows = [{"file": f"{i}.mkv", "caption": str(i)} for i in range(clips)]
    for row in rows:
        (tmp_path / row["file"]).write_bytes(b"x")
    (tmp_path / "clips.jsonl").write_text("\n".join(json.dumps(r) for r in rows))
    held = open_data(Data(source=str(tmp_path), validation=count, **SIZE), seed=0).validation
    assert [int(held.source.captions(Span(i, FRAME), image=False)[0]) for i in range(len(held))] == kept


def test_clips_are_kept_in_memory_until_it_is_full() -> None:
    room = 2 * 3 * 16 * 16 * 3  # bytes: of two clips
    clips = open_data(Data(clips=3, validation=0, memory_gb=room / 2**30, **SIZE), seed=0).train
    first = [clips.read(index, 0) for index in range(3)]
    assert [clips.read(index, 1) is frames for index, frames in enumerate(first)] == [True, True, False]
    assert np.array_equal(clips.read(2, 1), first[2])


@pytest.mark.slow
def test_unreadable_files_are_named_and_too_many_stop_the_run(tmp_path: Path) -> None:
    for i in range(8):
        numbered(tmp_path, f"{i}.mkv", 6)
    (tmp_path / "3.mkv").write_bytes(b"no video")
    (tmp_path / "5.mkv").write_bytes((tmp_path / "4.mkv").read_bytes()[:300])
    clips = open_data(Data(source=str(tmp_path), validation=0, max_bad_share=0.3, **SIZE), seed=0).train
    assert np.array_equal(clips.read(3, 0), clips.read(4, 0))
    assert np.array_equal(clips.read(5, 0), clips.read(6, 0))
    assert {Path(skip.where).name for skip in clips.skips.values()} == {"3.mkv", "5.mkv"}
    strict = open_data(Data(source=str(tmp_path), validation=0, max_bad_share=0.1, **SIZE), seed=0).train
    with pytest.raises(VideoError, match=r"1 of 8 clips cannot be read, more than data.max_bad_share=0.1"):
        strict.read(3, 0)
    for i in range(8):
        (tmp_path / f"{i}.mkv").write_bytes(b"no video")
    none = open_data(Data(source=str(tmp_path), validation=0, max_bad_share=1.0, **SIZE), seed=0).train
    with pytest.raises(VideoError, match="8 of 8 clips cannot be read"):
        none.read(3, 0)


def test_the_shapes_world_is_a_source_with_image_captions() -> None:
    split = open_data(Data(clips=5, validation=2, **SIZE), seed=4)
    assert (len(split.train), len(split.validation)) == (5, 2)
    assert split.train.read(0, 0).shape == (3, 16, 16, 3)
    assert not np.array_equal(split.train.read(0, 0), split.validation.read(0, 0))
    assert set(split.train.source.captions(Span(1, FRAME), image=True)).isdisjoint(
        split.train.source.captions(Span(1, FRAME), image=False)
    )


@pytest.mark.slow
def test_a_random_crop_is_another_each_draw_and_the_same_again(tmp_path: Path) -> None:
    ramp = np.broadcast_to(np.arange(48, dtype=np.uint8)[None, None, :, None] * 5, (3, 16, 48, 3))
    write_video(tmp_path / "wide.mkv", np.ascontiguousarray(ramp), 8)
    (tmp_path / "wide.txt").write_text("wide")
    clips = open_data(Data(source=str(tmp_path), validation=0, crop="random", **SIZE), seed=1).train
    lefts = [int(clips.read(0, draw)[0, 0, 0, 0]) // 5 for draw in range(20)]
    assert len(set(lefts)) > 8
    assert max(lefts) <= 32
    assert lefts == [int(clips.read(0, draw)[0, 0, 0, 0]) // 5 for draw in range(20)]


@pytest.mark.slow
def test_a_smaller_picture_is_not_enlarged_unasked(tmp_path: Path) -> None:
    numbered(tmp_path, "a.mkv", 3)
    size = SIZE | {"height": 32}
    with pytest.raises(VideoError, match=r"16x16 pixels, less than the 32x16 asked for: set data\.upscale: true"):
        open_data(Data(source=str(tmp_path), validation=0, **size), seed=0).train.read(0, 0)
    clips = open_data(Data(source=str(tmp_path), validation=0, upscale=True, **size), seed=0).train
    assert clips.read(0, 0).shape == (3, 32, 16, 3)


def test_parts_of_larger_pictures_are_drawn_and_the_file_must_have_their_pixels(tmp_path: Path) -> None:
    numbered(tmp_path, "a.mkv", 3)
    size = SIZE | {"height": 8, "width": 8}
    parts = open_data(Data(source=str(tmp_path), validation=0, zoom=2.0, crop="random", **size), seed=0).train
    spans = [parts.span(0, draw) for draw in range(8)]
    assert len({span.place for span in spans}) == 8
    whole = open_data(Data(source=str(tmp_path), validation=0, **SIZE), seed=0).train.read(0, 0)
    for span, frames in zip(spans, parts.read_ahead(spans), strict=True):
        top, left = (int(8 * share) for share in span.place)
        assert frames is not None
        np.testing.assert_array_equal(frames, whole[:, top : top + 8, left : left + 8])
    with pytest.raises(VideoError, match=r"16x16 pixels, less than the 24x24 asked for"):
        open_data(Data(source=str(tmp_path), validation=0, zoom=3.0, **size), seed=0).train.read(0, 0)
    zoomed = Data(source=str(tmp_path), zoom=3.0)
    assert choose(Facts(height=16, width=16, is_image=True), [parts.size], zoomed) == "16x16 pixels are less than 24x24"
    with pytest.raises(ValidationError, match="zoom: is of clips of yours"):
        Data(zoom=2.0)


def test_fit_keeps_the_middle_and_never_stretches() -> None:
    wide = np.zeros((2, 20, 60, 3), dtype=np.uint8)
    wide[:, :, 20:40] = 200  # the middle square
    assert fit(wide, 10, 10).mean() > 180
    square = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    assert fit(square, 16, 16) is square
    assert fit(wide, 40, 16).shape == (2, 40, 16, 3)


def test_pixels_come_back_as_the_same_frames() -> None:
    frames = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    pixels = to_pixels(frames)
    assert (pixels.min(), pixels.max(), pixels.shape) == (-1, 1, (3, 1, 16, 16))
    assert np.array_equal(to_frames(pixels), frames)
    assert to_frames(torch.full((1, 3, 1, 2, 2), 1.7)).max() == 255


def test_the_detailed_crop_is_where_the_contrast_is() -> None:
    frames = np.zeros((9, 64, 64, 3), dtype=np.uint8)
    frames[:, 40:56, 40:56] = np.random.default_rng(0).integers(0, 256, (9, 16, 16, 3), dtype=np.uint8)
    rng = np.random.default_rng(1)
    crops = [detailed_crop(frames, 16, 5, rng, tries=32) for _ in range(10)]
    assert all(crop.shape == (5, 16, 16, 3) for crop in crops)
    assert all(crop.any() for crop in crops)
    assert detailed_crop(frames, None, 9, rng, tries=4).shape == frames.shape


@pytest.mark.slow
def test_a_slower_file_is_left_out_or_held_on_screen_by_choice(tmp_path: Path) -> None:
    grays = np.repeat(np.arange(1, 9, dtype=np.uint8), 16 * 16 * 3).reshape(8, 16, 16, 3)
    write_video(tmp_path / "slow.mkv", grays, 4)
    (tmp_path / "slow.txt").write_text("eight grays in two seconds")
    kept = open_data(Data(source=str(tmp_path), validation=0, **SIZE), seed=0).train
    assert fill(kept, [kept.size], 1).dropped[0].why == "4 frames a second are less than 8"
    held = Data(source=str(tmp_path), validation=0, slower="repeat", start="first", **SIZE | {"num_frames": 5})
    clips = open_data(held, seed=0).train
    assert len(fill(clips, [clips.size], 1)) == 1
    assert [int(frame[0, 0, 0]) for frame in clips.read(0, 0)] == [1, 1, 2, 2, 3]


@pytest.mark.slow
def test_files_from_elsewhere_are_fetched_and_what_cannot_be_had_is_named(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    numbered(tmp_path / "there", "a.mkv", 4)
    url = (tmp_path / "there").as_uri()
    rows = [{"file": f"{url}/{name}", "caption": "grays"} for name in ("a.mkv", "gone.mkv")]
    (tmp_path / "clips.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    data = Data(source=str(tmp_path / "clips.jsonl"), validation=0, max_bad_share=0.5, **SIZE)
    clips = open_data(data, 0, tmp_path / "latents" / "files.json").train
    assert len(clips.read(0, 0)) == 3  # also without `fetch` having been called for all
    paths = clips.source.fetch()
    assert [path.exists() for path in paths] == [True, False]
    assert {path.parent for path in paths} == {tmp_path / "latents" / "remote"}
    assert clips.source.name(0) == f"{url}/a.mkv"
    with pytest.raises(VideoError, match=r"gone\.mkv"):
        clips.source.facts(1)
    (tmp_path / "there" / "gone.mkv").write_bytes((tmp_path / "there" / "a.mkv").read_bytes())
    for later in (clips, open_data(data, 0, tmp_path / "latents" / "files.json").train):  # as on another process
        with pytest.raises(VideoError, match=r"gone\.mkv"):
            later.source.facts(1)
    (tmp_path / "latents" / "quarantine.jsonl").unlink()
    assert open_data(data, 0, tmp_path / "latents" / "files.json").train.source.facts(1).duration == 0.5


def test_limits_of_the_configuration_reach_the_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbered(tmp_path, "a.mkv", 4)
    limits = {"read_seconds": 7.0, "read_memory_gb": 1.5, "read_processes": 3}
    reader = open_data(Data(source=str(tmp_path), validation=0, **limits, **SIZE), seed=0).files.reader
    assert (reader.seconds, reader.memory_gb, reader.processes) == (7.0, 1.5, 3)
    monkeypatch.setattr("os.cpu_count", lambda: 12)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert guarded_reader(Data()).processes == 3
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    assert guarded_reader(Data()).processes == 8


def test_a_reader_that_is_not_installed_is_a_mistake_in_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbered(tmp_path, "a.mkv", 4)
    monkeypatch.setitem(sys.modules, "decord", None)
    with pytest.raises(ValueError, match=r"data\.reader: backend='decord' needs decord.*pip install decord"):
        open_data(Data(source=str(tmp_path), validation=0, reader="decord", **SIZE), seed=0)


def transparent(folder: Path, count: int, name: str = "clear.webp") -> None:
    """A clip that is red on the left and shows its ground on the right, and its caption."""
    frames = np.zeros((count, 16, 16, 4), dtype=np.uint8)
    frames[:, :, :8] = (255, 0, 0, 255)
    frames[:, 0, 0, 1] = np.arange(count)  # equal neighbours would become one frame
    frames[:, 15, 7, 3] = 128  # WebP forgets its alpha where the opaque is a rectangle
    first, *others = (Image.fromarray(frame) for frame in frames)
    first.save(folder / name, save_all=True, append_images=others, duration=125, lossless=True)
    (folder / name).with_suffix(".txt").write_text("a bar\n")


@pytest.mark.slow
def test_a_transparent_clip_is_laid_on_drawn_backgrounds_that_are_told(tmp_path: Path) -> None:
    transparent(tmp_path, 4)
    numbered(tmp_path, "opaque.mkv", 4)
    grounds = ("white", "blue", "black to white")
    told = ("{caption} on {background}",)
    data = Data(source=str(tmp_path), validation=0, background=grounds, background_captions=told, **SIZE)
    clips = open_data(data, seed=3).train
    seen = {}
    for draw in range(30):
        span = clips.span(0, draw)
        assert clips.source.captions(span, image=False) == (f"a bar on {span.background}",)
        seen[span.background] = next(iter(clips.source.stream([span])))
    assert set(seen) == set(grounds)
    assert seen["blue"][0, 5, 12].tolist() == [0, 0, 255]
    assert seen["white"][0, 5, 12].tolist() == [255, 255, 255]
    assert seen["black to white"][0, :, 12, 0].tolist() == [round(255 * row / 15) for row in range(16)]
    assert all(frames[0, 5, 3].tolist() == [255, 0, 0] for frames in seen.values())
    opaque = clips.span(1, 0)
    assert opaque.background is None
    assert clips.source.captions(opaque, image=False) == ("clip opaque.mkv",)


@pytest.mark.slow
def test_a_row_may_allow_fewer_backgrounds(tmp_path: Path) -> None:
    transparent(tmp_path, 4)
    manifest = tmp_path / "clips.jsonl"
    row = {"file": "clear.webp", "caption": "a bar", "grounds": ["blue", "pink"]}
    manifest.write_text(json.dumps(row))
    data = Data(source=str(manifest), validation=0, background=("white", "blue"), **SIZE)
    clips = open_data(data, seed=0).train
    assert {clips.span(0, draw).background for draw in range(20)} == {"blue"}
    manifest.write_text(json.dumps(row | {"grounds": ["green"]}))
    with pytest.raises(ValueError, match="none of the backgrounds of its column 'grounds'"):
        open_data(data, seed=0)


def test_validation_may_have_a_source_of_its_own(tmp_path: Path) -> None:
    for folder, names in (("train", "abc"), ("held", "de")):
        (tmp_path / folder).mkdir()
        for name in names:
            numbered(tmp_path / folder, f"{name}.mkv", 4)
    data = Data(source=str(tmp_path / "train"), validation_source=str(tmp_path / "held"), validation=64, **SIZE)
    split = open_data(data, seed=0)
    assert (len(split.train), len(split.validation)) == (3, 2)
    assert Path(split.validation.source.name(1)).name == "e.mkv"


@pytest.mark.slow
def test_clips_of_the_shapes_world_may_stand_beside_files(tmp_path: Path) -> None:
    for name in "abcdef":
        numbered(tmp_path, f"{name}.mkv", 4)
    split = open_data(Data(source=str(tmp_path), shapes=4, validation=2, **SIZE), seed=5)
    train, source = split.train, split.train.source
    assert len(train) == 4 + 4
    assert len(split.validation) == 2 + 1  # shared as in training
    world = ShapesWorld(FRAME, seed=5)
    assert source.captions(train.span(5, 0), image=False) == world.captions(1 + 1)
    spans = [train.span(index, 0) for index in (0, 6, 7, 2)]
    shown = list(source.stream(spans))
    assert [source.name(span.index).split(" ")[0] for span in spans][1:3] == ["shapes", "shapes"]
    assert np.array_equal(shown[1], world[1 + 2].frames)
    assert np.array_equal(shown[3], train.read(2, 0))
    assert np.array_equal(shown[3], next(iter(source.stream(spans[3:]))))
    assert source.facts(7) is None
    filled = fill(train, [FRAME], 1)
    assert len(filled) == 8
    with pytest.raises(ValueError, match="beside clips of yours"):
        Data(source="shapes", shapes=3)
