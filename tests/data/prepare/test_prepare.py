"""Raw files become clips: what is kept, what is dropped and why, and that nothing is lost or overwritten on the way."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from footage import black, film, pan, still, turned
from PIL import Image

from videodit.data.limits import Options
from videodit.data.manifest import read_manifest
from videodit.data.prepare import prepare, summary
from videodit.video import probe, read_clip, read_frames, stream_frames

from .conftest import name, rows, spans

pytestmark = pytest.mark.slow


def test_scenes_of_a_film_become_clips_of_its_caption(raw: Path, made: Callable) -> None:
    film(raw / "sub" / "film.mp4", np.concatenate([pan(1, 48), pan(2, 36), pan(3, 12)]), caption="three places")
    kept, dropped, report = made()
    assert spans(kept) == [("film.mp4", 0.0, 2.0), ("film.mp4", 2.0, 3.5)]
    assert [(row["caption"], row["height"], row["width"], row["fps"]) for row in kept] == [
        ("three places", 128, 160, 24.0)
    ] * 2
    assert [row["seconds"] for row in kept] == [2.0, 1.5]
    assert [(row["reason"], row["start"], row["end"]) for row in dropped] == [
        ("short", pytest.approx(3.5), pytest.approx(4.0))
    ]
    assert report["shared_caption"] == 2
    assert "2 clips come from sources that were cut" in summary(report)


def test_columns_that_are_of_a_whole_file_are_told_where_it_was_cut(raw: Path, made: Callable) -> None:
    film(raw / "film.mp4", np.concatenate([pan(1, 48), pan(2, 36)]))
    (raw / "mask.mkv").write_bytes(b"a mask")
    told = {"mask": "mask.mkv", "loud": [0.5, 1.0], "camera": 3.0, "note": "mask " * 99, "names": ["a", "b"]}
    row = {"file_name": "film.mp4", "caption": "two places"} | told
    (raw / "metadata.jsonl").write_text(json.dumps(row) + "\n")
    kept, _, report = made()
    assert [row["start"] for row in kept] == [0.0, 2.0]
    assert report["of_whole_file"] == ["loud", "mask"]
    assert "loud, mask: of whole files" in summary(report)
    film(raw / "film.mp4", pan(1, 48))
    assert made(overwrite=True)[2]["of_whole_file"] == []


def test_transparent_clips_that_are_written_anew_are_told(raw: Path, made: Callable) -> None:
    cut_out = np.dstack([pan(1, 1)[0], np.full((128, 160), 255, np.uint8)])
    cut_out[:32, :32, 3] = 0
    Image.fromarray(cut_out).save(raw / "a.png")
    Image.fromarray(pan(2, 1)[0]).save(raw / "b.png")
    assert made()[2]["laid_on_white"] == 0  # spans: the file stays
    report = made(write="clips", overwrite=True)[2]
    assert report["laid_on_white"] == 1
    assert "1 clips are transparent, and were written on white: --write spans" in summary(report)


@pytest.fixture(scope="module")
def junk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file for each reason to drop a whole file, named by it; for all tests, to be read only."""
    folder, frames = tmp_path_factory.mktemp("junk"), pan(9, 48)
    film(folder / "hdr.mp4", pan(10, 48), options={"x264-params": "transfer=smpte2084"})
    film(folder / "interlaced.mp4", pan(11, 48), options={"x264-params": "interlaced=1"})
    film(folder / "nonsquare.mp4", pan(12, 48), pixel_aspect=Fraction(4, 3))
    film(folder / "small.mp4", pan(13, 48), size=(96, 160))
    film(folder / "slow.mp4", pan(14, 20), 5)
    film(folder / "short.mp4", pan(15, 18))
    film(folder / "black.mp4", black(48))
    film(folder / "frozen.mp4", np.concatenate([frames, np.stack([frames[-1]] * 48)]))
    film(folder / "still.mp4", still(16, 48) + np.tile([0, 1], 24)[:, None, None, None].astype(np.uint8))
    (folder / "unreadable.mp4").write_bytes(b"no video at all")
    return folder


def test_each_reason_drops_the_file_that_has_it_and_no_other(raw: Path, junk: Path, made: Callable) -> None:
    shutil.copytree(junk, raw, dirs_exist_ok=True)
    reasons = {path.name: path.stem for path in junk.iterdir()}
    film(raw / "a_good.mp4", pan(1, 48))
    film(raw / "duplicate.mp4", pan(1, 48), size=(192, 240), options={"crf": "30"})
    kept, dropped, _ = made(max_frozen=0.4)
    assert [name(row) for row in kept] == ["a_good.mp4"]
    found = {name(row): row["reason"] for row in dropped}
    assert found.pop("still.mp4") in ("still", "frozen")
    reasons.pop("still.mp4")
    assert found == reasons | {"duplicate.mp4": "duplicate"}
    assert all(row["why"] for row in dropped)
    assert next(row["why"] for row in dropped if row["reason"] == "duplicate").startswith(f"as {raw}/a_good.mp4 from 0")


@pytest.mark.parametrize(
    ("file", "options"),
    [
        ("hdr.mp4", {"keep": ("hdr",)}),
        ("interlaced.mp4", {"keep": ("interlaced",)}),
        ("nonsquare.mp4", {"keep": ("nonsquare",)}),
        ("small.mp4", {"min_size": 96}),
        ("slow.mp4", {"min_fps": 5.0}),
        ("short.mp4", {"min_seconds": 0.75}),
        ("black.mp4", {"max_black": 1.0, "max_frozen": 1.0, "min_motion": 0.0}),
        ("frozen.mp4", {"max_frozen": 0.6}),
        ("still.mp4", {"max_frozen": 1.0, "min_motion": 0.0}),
    ],
)
def test_each_reason_has_an_option_that_takes_it_back(
    raw: Path, junk: Path, made: Callable, file: str, options: dict
) -> None:
    shutil.copy(junk / file, raw)
    assert made()[0] == []
    assert [name(row) for row in made(overwrite=True, **options)[0]] == [file]


def test_what_moves_too_little_is_still(raw: Path, made: Callable) -> None:
    film(raw / "a.mp4", pan(1, 48))
    ((row,), _, _) = made()
    _, (drop,), _ = made(overwrite=True, min_motion=row["motion"] * 1.01)
    assert drop["reason"] == "still"
    assert len(made(overwrite=True, min_motion=row["motion"] * 0.99)[0]) == 1


def test_a_dissolve_is_dropped_by_its_own_name(raw: Path, made: Callable) -> None:
    before, after = pan(1, 96, 0.5), pan(2, 96, 0.5)
    film(raw / "a.mp4", np.concatenate([before[:84], turned(before[84:], after[:12]), after[12:]]))
    kept, dropped, _ = made()
    assert [row["reason"] for row in dropped] == ["transition"]
    assert len(kept) == 2


def test_copies_of_a_file_are_decoded_once(raw: Path, made: Callable) -> None:
    film(raw / "a.mp4", pan(1, 48), caption="first")
    shutil.copy(raw / "a.mp4", raw / "b.mp4")
    kept, dropped, _ = made()
    assert [name(row) for row in kept] == ["a.mp4"]
    assert [(name(row), row["why"]) for row in dropped] == [("b.mp4", f"the same bytes as {raw}/a.mp4")]
    assert (raw.parent / "out" / "analysis.jsonl").read_text().count('["scenes"') == 1
    assert [name(row) for row in made(overwrite=True, keep=("duplicate",))[0]] == ["a.mp4", "b.mp4"]


def test_different_clips_of_one_place_are_both_kept(raw: Path, made: Callable) -> None:
    film(raw / "a.mp4", pan(1, 48))
    film(raw / "b.mp4", pan(1, 48, start=60))
    assert len(made()[0]) == 2


def test_images_are_kept_by_size_and_content(raw: Path, made: Callable) -> None:
    for file, picture in {
        "a.png": pan(1, 1)[0],
        "b.jpg": pan(1, 1)[0],
        "c.png": pan(2, 1)[0],
        "d.png": black(1)[0],
    }.items():
        Image.fromarray(picture).save(raw / file)
    Image.fromarray(pan(3, 1)[0][:100]).save(raw / "e.png")
    (raw / "a.txt").write_text("a place\n")
    kept, dropped, report = made()
    assert [(name(row), row["caption"], row["height"], row["width"]) for row in kept] == [
        ("a.png", "a place", 128, 160),
        ("c.png", "", 128, 160),
    ]
    assert not {"start", "end", "motion"} & set(kept[0])
    assert {name(row): row["reason"] for row in dropped} == {"b.jpg": "duplicate", "d.png": "black", "e.png": "small"}
    assert report["total"] == {"clips": 0, "images": 5, "seconds": 0}


@pytest.mark.parametrize("options", [{}, {"max_seconds": 2.0}, {"cuts": False}, {"min_size": 1000}])
def test_every_second_is_kept_or_dropped(raw: Path, junk: Path, made: Callable, options: dict) -> None:
    shutil.copytree(junk, raw, dirs_exist_ok=True)
    film(raw / "a.mkv", np.concatenate([pan(1, 50), black(10), pan(2, 40), pan(3, 7), pan(4, 61)]), 25)
    film(raw / "b.mp4", pan(1, 50), 25)
    shutil.copy(raw / "b.mp4", raw / "c.mp4")
    kept, dropped, report = made(**options)
    for path in raw.iterdir():
        if path.stem != "unreadable":
            parts = sorted((row["start"], row["end"]) for row in kept + dropped if name(row) == path.name)
            edges = [edge for part in parts for edge in part]
            assert edges[0] == 0
            assert edges[-1] == probe(path).duration
            assert edges[1:-1:2] == edges[2::2]
    total = sum(probe(path).duration for path in raw.iterdir() if path.stem != "unreadable")
    counts = [report["kept"], *report["dropped"].values()]
    assert sum(count["seconds"] for count in counts) == pytest.approx(total, abs=0.01)
    assert report["total"]["seconds"] == pytest.approx(total, abs=1e-3)
    assert sum(count["clips"] for count in counts) == len(kept) + len(dropped)


def test_a_damaged_file_among_good_ones_is_reported(raw: Path, made: Callable, children: None) -> None:
    for seed in range(3):
        film(raw / f"{seed}.mp4", pan(seed, 48))
    data = bytearray((raw / "1.mp4").read_bytes())
    begin = data.index(b"mdat")
    size = int.from_bytes(data[begin - 4 : begin])
    data[begin + size * 6 // 10 : begin + size * 9 // 10] = b"\xa5" * (size * 9 // 10 - size * 6 // 10)
    (raw / "1.mp4").write_bytes(data)
    kept, dropped, report = made()
    assert [name(row) for row in kept] == ["0.mp4", "2.mp4"]
    assert [(name(row), row["reason"], row["end"]) for row in dropped] == [("1.mp4", "unreadable", pytest.approx(2))]
    assert "unreadable" in summary(report)


def test_stretches_of_a_manifest_are_looked_at_alone(raw: Path, made: Callable) -> None:
    film(raw / "film.mp4", np.concatenate([pan(1, 48), pan(2, 48)]))
    listed = [
        {"file": "film.mp4", "text": ["one", "two"], "start": 0.5, "end": 1.75, "mood": "calm", "motion": "?"},
        {"file": "film.mp4", "text": "across", "start": 1.0},
        {"file": "film.mp4", "text": "beyond", "start": 3.0, "end": 9.0},
        {"file": "gone.mp4", "text": "nowhere"},
    ]
    (raw / "clips.jsonl").write_text("".join(json.dumps(row) + "\n" for row in listed))
    kept, dropped, report = made()
    assert spans(kept) == [("film.mp4", 0.5, 1.75), ("film.mp4", 1.0, 2.0), ("film.mp4", 2.0, 4.0)]
    assert [row["caption"] for row in kept] == [["one", "two"], "across", "across"]
    assert (kept[0]["mood"], type(kept[0]["motion"])) == ("calm", float)
    assert [row["reason"] for row in dropped] == ["left_out", "outside"]
    assert [dropped[1]["start"], dropped[1]["end"]] == pytest.approx([3, 4])
    assert dropped[0]["file"].endswith("clips.jsonl:4")
    assert (dropped[0]["start"], dropped[0]["end"]) == (0.0, 0.0)  # nothing is known of it
    assert report["total"]["seconds"] == pytest.approx(1.25 + 3 + 1)


def test_files_from_elsewhere_are_fetched_and_named_as_they_were(raw: Path, tmp_path: Path) -> None:
    film(tmp_path / "far" / "a.mp4", pan(1, 48))
    listed = [f"file://{tmp_path}/far/{file}" for file in ("a.mp4", "lost.mp4")]
    (raw / "clips.jsonl").write_text("".join(json.dumps({"file": url, "caption": "x"}) + "\n" for url in listed))
    prepare(raw, tmp_path / "out", Options(), cache=tmp_path / "cache", show=False)
    assert [row["file"] for row in rows(tmp_path / "out" / "clips.jsonl")] == listed[:1]
    assert [(row["file"], row["reason"]) for row in rows(tmp_path / "out" / "dropped.jsonl")] == [
        (listed[1], "unreadable")
    ]


@pytest.mark.parametrize("write", ["spans", "clips"])
def test_an_animation_is_a_clip(raw: Path, made: Callable, write: str) -> None:
    first, *others = (Image.fromarray(picture) for picture in pan(1, 20, 8))
    first.save(raw / "a.gif", save_all=True, append_images=others, duration=100)
    ((row,), _, _) = made(write=write, **({"size": 64} if write == "clips" else {}))
    assert (row["seconds"], row["fps"]) == (2.0, 10.0)
    assert (row["height"], row["width"]) == ((64, 80) if write == "clips" else (128, 160))
    if write == "clips":
        assert probe(raw.parent / "out" / row["file"]).num_frames == 20


def test_the_manifest_is_read_as_it_stands(raw: Path, made: Callable) -> None:
    film(raw / "film.mp4", np.concatenate([pan(1, 48), pan(2, 48)]), caption="two places")
    made()
    first, second = read_manifest(raw.parent / "out").items
    assert first.path.samefile(raw / "film.mp4")
    assert (first.start, second.start, second.end) == pytest.approx((0, 2, 4))
    assert first.captions == second.captions == ("two places",)


def test_paths_are_relative_beside_the_folder_and_absolute_elsewhere(raw: Path, made: Callable, tmp_path: Path) -> None:
    film(raw / "a.mp4", pan(1, 48))
    assert made()[0][0]["file"] == "../raw/a.mp4"
    prepare(raw, tmp_path / "deep" / "down", Options(), show=False)
    assert rows(tmp_path / "deep" / "down" / "clips.jsonl")[0]["file"] == str(raw / "a.mp4")


def test_clips_without_captions_are_counted(raw: Path, made: Callable) -> None:
    film(raw / "a.mp4", pan(1, 48), caption="with")
    film(raw / "b.mp4", pan(2, 48))
    kept, _, report = made()
    assert [row["caption"] for row in kept] == ["with", ""]
    assert report["without_caption"] == 1
    assert "1 clips have no caption" in summary(report)


# Written clips.


def test_written_clips_hold_the_frames_of_their_scenes(raw: Path, made: Callable) -> None:
    frames = np.concatenate([pan(1, 48, 4), pan(2, 37, 4)])
    film(raw / "film.mkv", frames, 25, options={"crf": "10"}, caption="two places")
    kept, _, _ = made(write="clips")
    assert [(row["source"], row["source_start"], row["source_end"]) for row in kept] == [
        (str(raw / "film.mkv"), 0.0, 1.92),
        (str(raw / "film.mkv"), 1.92, pytest.approx(3.4)),
    ]
    for row, part in zip(kept, (frames[:48], frames[48:]), strict=True):
        path = raw.parent / "out" / row["file"]
        clip = read_clip(path, len(part), 25).astype(int)
        assert probe(path).num_frames == len(part)
        apart = np.abs(clip - part).mean()
        assert apart < np.abs(clip[1:] - part[:-1]).mean() / 2  # its own frames, not those before or after
        assert apart < np.abs(clip[:-1] - part[1:]).mean() / 2
    assert [item.path.name for item in read_manifest(raw.parent / "out").items] == [name(row) for row in kept]


def test_written_clips_are_scaled_and_have_keyframes_for_quick_jumps(raw: Path, made: Callable) -> None:
    import av

    film(raw / "wide.mp4", pan(1, 60), size=(200, 300))
    film(raw / "small.mp4", pan(2, 60))
    kept, _, _ = made(write="clips", size=130)
    sizes = {row["source"].split("/")[-1]: (row["height"], row["width"]) for row in kept}
    assert sizes == {"small.mp4": (128, 160), "wide.mp4": (130, 194)}
    for row in kept:
        path = raw.parent / "out" / row["file"]
        assert (probe(path).height, probe(path).width) == (row["height"], row["width"])
        with av.open(str(path)) as container:
            keys = [number for number, frame in enumerate(container.decode(video=0)) if frame.key_frame]
        assert np.diff([*keys, 60]).max() <= 16


def test_a_variable_rate_becomes_its_average(raw: Path, made: Callable) -> None:
    pts = [*range(0, 1000, 25), *range(1000, 3000, 50)]
    film(raw / "a.mp4", pan(1, len(pts)), pts=pts)
    ((row,), _, _) = made(write="clips")
    info = probe(raw.parent / "out" / row["file"])
    assert info.fps == pytest.approx(80 / 3, rel=0.01)
    assert info.duration == pytest.approx(3.0, abs=0.05)
    times = [0.2, 0.7, 1.2, 1.9, 2.6]
    shown, expected = read_frames(info.path, times), read_frames(raw / "a.mp4", times)
    assert np.abs(shown.astype(int) - expected).mean() < 6  # the right frame or its neighbour


def test_overlapping_stretches_and_images_are_written_too(raw: Path, made: Callable) -> None:
    film(raw / "a.mp4", pan(1, 72))
    Image.fromarray(pan(2, 1, 0)[0]).resize((480, 384)).save(raw / "b.png")
    listed = [("a.mp4", 0.0, 2.0), ("a.mp4", 1.0, 3.0), ("b.png", None, None)]
    lines = [json.dumps({"file": file, "caption": "x", "start": a, "end": b}) + "\n" for file, a, b in listed]
    (raw / "clips.jsonl").write_text("".join(lines))
    kept, _, _ = made(write="clips", size=192)
    out = raw.parent / "out"
    assert [probe(out / row["file"]).num_frames for row in kept] == [48, 48, 1]
    first, second = (read_clip(out / row["file"], 48, 24).astype(int) for row in kept[:2])
    assert np.abs(first[24:] - second[:24]).mean() < 4
    assert (kept[2]["height"], kept[2]["width"]) == (192, 240)
    ((_, picture),) = stream_frames(out / kept[2]["file"])
    assert picture.shape == (192, 240, 3)


def test_clips_in_shards_can_only_be_written(raw: Path, made: Callable) -> None:
    film(raw.parent / "k.mp4", pan(1, 48))
    (raw.parent / "k.txt").write_text("a place\n")
    with tarfile.open(raw / "0.tar", "w") as shard:
        for file in ("k.mp4", "k.txt"):
            shard.add(raw.parent / file, file)
    with pytest.raises(ValueError, match="--write clips"):
        prepare(raw, raw.parent / "out", Options(), cache=raw.parent / "cache", show=False)
    prepare(raw, raw.parent / "out", Options(write="clips"), cache=raw.parent / "cache", show=False)
    (row,) = rows(raw.parent / "out" / "clips.jsonl")
    assert (row["caption"], row["source"]) == ("a place", f"{raw}/0.tar::k.mp4")
    assert probe(raw.parent / "out" / row["file"]).num_frames == 48
