"""What is worth nothing is told by name and wins no mean; true clips are not told so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from corruptions import parade
from footage import film, pan, place
from sets import some

from videodit.evaluation.measure.clips import Clip, clip_from_array
from videodit.evaluation.measure.worth import Looks, is_still
from videodit.evaluation.report.compare import compare
from videodit.evaluation.report.results import EMPTY, load_results
from videodit.evaluation.suite import evaluate
from videodit.geometry import ClipSize
from videodit.shapes import ShapesWorld
from videodit.video import read_frames
from videodit.video.writer import write_video

COUNT, HEIGHT, WIDTH = 17, 128, 160
BY_TURNS = (np.arange(COUNT) % 2)[:, None, None, None]


def bytes_of(values: np.ndarray) -> np.ndarray:
    return values.round().clip(0, 255).astype(np.uint8)


def flat(level: float) -> np.ndarray:
    return np.full((COUNT, HEIGHT, WIDTH, 3), level)


def grain(sigma: float) -> np.ndarray:
    return sigma * np.random.default_rng(0).standard_normal((COUNT, HEIGHT, WIDTH, 3))


def through_h264(folder: Path, frames: np.ndarray) -> np.ndarray:
    path = film(folder / "filmed.mp4", frames, 8, options={"crf": "18"})
    return read_frames(str(path), [(i + 0.3) / 8 for i in range(COUNT)])


def from_nan(folder: Path) -> np.ndarray:
    """What is written of a pipeline's frames that are no numbers."""
    with np.errstate(invalid="ignore"):
        shown = np.rint(flat(np.nan) * 255).astype(np.uint8)
    write_video(folder / "nan.mkv", shown, 8)
    return read_frames(str(folder / "nan.mkv"), [(i + 0.3) / 8 for i in range(COUNT)])


def drifting(folder: Path) -> np.ndarray:
    """A picture on which a soft light of four gray levels goes from the one side to the other."""
    light = np.linspace(-2, 2, COUNT)[:, None, None, None] * np.linspace(-1, 1, WIDTH)[:, None]
    return bytes_of(pan(0, 1)[0] * 0.9 + 5 + light)


KINDS: dict[str, tuple[tuple[str, ...], Callable[[Path], np.ndarray]]] = {
    "gray": (("blank", "still"), lambda _: bytes_of(flat(128))),
    "one colour": (("blank", "still"), lambda _: bytes_of(flat(1) * [200.0, 30.0, 90.0])),
    "black": (("black", "still"), lambda _: bytes_of(flat(4))),
    "white": (("white", "still"), lambda _: bytes_of(flat(253))),
    "of NaN": (("black", "still"), from_nan),
    "gray with grain": (("blank", "still"), lambda _: bytes_of(flat(128) + grain(4))),
    "gray with grain, filmed": (("blank", "still"), lambda at: through_h264(at, bytes_of(flat(128) + grain(4)))),
    "gray that flickers": (("blank", "still"), lambda _: bytes_of(flat(128) + 40 * BY_TURNS)),
    "noise": (("noise",), lambda _: bytes_of(flat(128) + grain(60))),
    "noise without colour": (("noise",), lambda _: bytes_of(flat(128) + grain(60)[..., :1])),
    "noise, filmed": (("noise",), lambda folder: through_h264(folder, bytes_of(flat(128) + grain(60)))),
    "noise that stands": (("noise", "still"), lambda _: np.repeat(bytes_of(flat(128) + grain(60))[:1], COUNT, axis=0)),
    "frozen": (("still",), lambda _: np.repeat(pan(3, 1), COUNT, axis=0)),
    "frozen under grain": (("still",), lambda _: bytes_of(pan(3, 1) + grain(4))),
    "frozen, filmed": (("still",), lambda folder: through_h264(folder, bytes_of(pan(3, 1) + grain(4)))),
    "frozen, by turns brighter": (("still",), lambda _: bytes_of(pan(3, 1) * 0.8 + 20 * BY_TURNS)),
    "less motion than one sees": (("still",), drifting),
    "two pictures": (("still", "cut"), lambda _: np.repeat(np.stack([pan(3, 1)[0], pan(4, 1)[0]]), [9, 8], axis=0)),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_clip_that_is_worth_nothing_is_told_by_name_and_wins_no_mean(kind: str, tmp_path: Path) -> None:
    flags, make = KINDS[kind]
    names = ["consistency_consecutive", "temporal_flickering", "change_per_second"]
    good = [clip_from_array(pan(i, COUNT), 8, name=f"{i}.mkv") for i in range(2)]
    bad = clip_from_array(make(tmp_path), 8, name="worthless.mkv")
    metrics = [*names, *(["cuts"] if "cut" in flags else [])]
    results, alone = evaluate([*good, bad], metrics=metrics), evaluate(good, metrics=metrics)
    assert [clip.flags for clip in results.clips] == [(), (), flags]
    for name in names[:2]:
        assert results.summaries[name].value == alone.summaries[name].value, name
        assert sum(results.summaries[name].left_out.values()) == 1
    motion = results.summaries["change_per_second"]
    if set(flags) & set(EMPTY):  # and what only stands still counts as what it is: no motion
        assert motion.value == alone.summaries["change_per_second"].value
        assert motion.left_out == {flags[0]: 1}
    told = next(line for line in results.to_text().splitlines() if line.startswith(f"1 of 3 clips: {flags[0]}"))
    assert "worthless.mkv" in told
    (tmp_path / "results.json").write_text(results.to_json())
    assert load_results(tmp_path / "results.json").clips[2].flags == flags


@pytest.mark.slow
def test_the_same_clip_for_two_prompts_is_a_duplicate_through_a_codec_too(tmp_path: Path) -> None:
    clips: list[Clip] = some(4)
    frames = pan(7, COUNT)
    write_video(tmp_path / "b.mp4", frames, 8)
    again = read_frames(str(tmp_path / "b.mp4"), [(i + 0.3) / 8 for i in range(COUNT)])
    assert not np.array_equal(again, frames)
    twice = [
        clip_from_array(frames, 8, name="a.mkv", prompt="a dog", seed=0),
        clip_from_array(again, 8, name="b.mkv", prompt="a cat", seed=0),
        clip_from_array(frames, 8, name="c.mkv", prompt="a dog", seed=1),
    ]
    metrics = ["consistency_consecutive"]
    results, alone = evaluate([*clips, *twice], metrics=metrics), evaluate(clips, metrics=metrics)
    assert {clip.name for clip in results.clips if "duplicate" in clip.flags} == {"a.mkv", "b.mkv", "c.mkv"}
    summary = results.summaries["consistency_consecutive"]
    assert (summary.value, summary.left_out) == (alone.summaries["consistency_consecutive"].value, {"duplicate": 3})
    assert "3 of 7 clips: duplicate (a.mkv, b.mkv, c.mkv)" in results.to_text()
    compared = compare(results, results, "itself").differences["consistency_consecutive"]
    assert (compared.n, compared.left_out) == (4, {"duplicate": 3})


def test_a_clip_asked_for_twice_is_no_duplicate_and_empty_ones_are_told_apart_from_them() -> None:
    frames, gray = pan(7, COUNT), bytes_of(flat(90))
    same = [clip_from_array(frames, 8, name=name, prompt="a dog", seed=0) for name in "ab"]
    unasked = [clip_from_array(pan(8, COUNT), 8, name=name) for name in "cd"]
    empty = [clip_from_array(gray, 8, name=name, prompt=name) for name in "ef"]
    results = evaluate([*same, *unasked, *empty], metrics=["frozen_share"])
    assert [clip.flags for clip in results.clips] == [(), (), (), (), ("blank", "still"), ("blank", "still")]


def test_half_of_the_frames_are_enough_to_be_empty() -> None:
    shown = pan(2, COUNT)
    for count, flags in ((8, ()), (9, ("black",))):
        frames = shown.copy()
        frames[:count] = 0
        assert [flag for flag in flags_of(frames) if flag in EMPTY] == list(flags)


def test_a_picture_may_be_empty_and_is_never_still() -> None:
    assert flags_of(bytes_of(flat(128))[:1]) == ("blank",)
    assert flags_of(pan(2, 1)) == ()


@pytest.mark.slow
def test_true_clips_are_worth_something() -> None:
    clips = [pan(i, COUNT, (0.25, 0.5, 1, 1.5, 3)[i % 5]) for i in range(30)] + [parade(i)[:COUNT] for i in range(20)]
    for count, seed in ((17, 5), (25, 6)):
        world = ShapesWorld(ClipSize(count, 64, 64, 8.0), seed=seed)
        drawn = [world[i] for i in range(75)]
        clips += [one.frames for one in drawn if any(thing.motion != "still" for thing in one.scene.things)]
    assert len(clips) > 180
    assert [flags_of(clip) for clip in clips] == [()] * len(clips)


def test_a_thing_that_stands_is_still_and_one_that_goes_is_not() -> None:
    frames = np.repeat(bytes_of(np.full((1, 64, 64, 3), 40)), COUNT, axis=0)
    frames[:, 20:28, 20:28] = 200
    assert is_still(frames)
    for i in range(COUNT):
        frames[i, 20:28, 20:28], frames[i, 20:28, 20 + i : 28 + i] = 40, 200
    assert not is_still(frames)
    assert is_still(place(0)[None])


def flags_of(frames: np.ndarray) -> tuple[str, ...]:
    looks = Looks(len(frames))
    assert sum(1 for _ in looks.watching(frames)) == len(frames)
    return looks.flags
