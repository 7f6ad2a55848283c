"""Where scenes begin and end, and what is measured of them."""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest
from footage import HEIGHT, WIDTH, black, film, pan, still, turned
from PIL import Image

from videodit.data.scenes import Scene, look_of, watch
from videodit.video import VideoError, probe

pytestmark = pytest.mark.slow

LENGTHS = (31, 44, 27)
KINDS = {
    "b_frames.mp4": {"rate": 24, "options": {"bf": "3", "g": "250"}},
    "b_frames.mkv": {"rate": 30, "options": {"bf": "3"}},
    "fast.mp4": {"rate": 60},
    "slow.mp4": {"rate": 8},
    "transport.ts": {"rate": 25, "options": {"bf": "2"}},
    "no_stamps.avi": {"rate": 25, "codec": "mpeg4", "options": {"b": "4M"}},
    "poor.webm": {
        "rate": 24,
        "codec": "libvpx",
        "options": {"crf": "40", "b": "200k"},
    },
}
MILLISECOND = 1.01e-3  # the clock of Matroska


def scenes(path: Path, seconds: float = 1e9, threshold: float | None = 3.0) -> list[Scene]:
    return watch(str(path), [(0.0, None)], threshold, seconds)[0]


def starts(found: list[Scene]) -> list[float]:
    """Of all scenes but the first; they are to follow each other without gaps."""
    assert found[0].start == 0.0
    assert [one.end for one in found[:-1]] == [one.start for one in found[1:]]
    return [one.start for one in found[1:]]


def blocks(seed: int, count: int) -> np.ndarray:
    """Squares of one colour each; one of them moves."""
    rng = np.random.default_rng(seed)
    picture = rng.integers(0, 256, (8, 10, 3), np.uint8).repeat(16, axis=0).repeat(16, axis=1)
    frames = np.stack([picture] * count)
    for number, frame in enumerate(frames):
        frame[40:56, (7 * number) % 140 : (7 * number) % 140 + 16] = 255 - picture[0, 0]
    return frames


@pytest.mark.parametrize("name", [*list(KINDS)[:-1], pytest.param("poor.webm", marks=pytest.mark.slow)])
@pytest.mark.parametrize("content", [pan, blocks])
def test_a_cut_is_the_time_of_the_first_frame_of_a_scene(tmp_path: Path, name: str, content) -> None:
    frames = np.concatenate([content(seed, count) for seed, count in enumerate(LENGTHS)])
    path = film(tmp_path / name, frames, **KINDS[name])
    rate = KINDS[name]["rate"]
    found = scenes(path)
    assert starts(found) == pytest.approx([31 / rate, 75 / rate], abs=MILLISECOND)
    assert found[-1].end == probe(path).duration
    assert not any(scene.transition for scene in found)


@pytest.mark.parametrize("name", ["variable.mp4", "variable.mkv"])
def test_a_cut_at_a_variable_rate_is_where_its_frame_appears(tmp_path: Path, name: str) -> None:
    frames = np.concatenate([pan(seed, count) for seed, count in enumerate(LENGTHS)])
    gaps = np.random.default_rng(0).choice([17, 33, 40, 67], len(frames) - 1).tolist()
    pts = list(accumulate([0, *gaps]))
    found = scenes(film(tmp_path / name, frames, pts=pts, options={"bf": "2"}))
    assert starts(found) == pytest.approx([pts[31] / 1000, pts[75] / 1000], abs=MILLISECOND)


@pytest.mark.parametrize("cut", [1, 2, 38, 39])
def test_a_single_foreign_frame_at_an_end_is_cut_off(tmp_path: Path, cut: int) -> None:
    frames = np.concatenate([pan(1, 40)[:cut], pan(2, 40)[: 40 - cut]])
    assert starts(scenes(film(tmp_path / "a.mp4", frames))) == pytest.approx([cut / 24])


@pytest.mark.parametrize("speed", [0.3, 2, 12])
def test_a_scene_that_moves_is_whole(tmp_path: Path, speed: float) -> None:
    assert len(scenes(film(tmp_path / "a.mp4", pan(3, 120, speed)))) == 1


def test_without_a_threshold_nothing_is_cut(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", np.concatenate([pan(1, 24), black(24), pan(2, 24)]))
    assert len(scenes(path)) == 3
    assert len(scenes(path, threshold=None)) == 1


def test_a_flash_belongs_to_no_scene(tmp_path: Path) -> None:
    frames = pan(1, 72)
    frames[30] = 250
    assert starts(scenes(film(tmp_path / "a.mp4", frames))) == pytest.approx([30 / 24, 31 / 24])


@pytest.mark.parametrize("count", [4, 12, 24])
def test_a_dissolve_is_cut_out(tmp_path: Path, count: int) -> None:
    before, after = pan(1, 84 + count, 0.5), pan(2, 84 + count, 0.5)
    frames = np.concatenate([before[:84], turned(before[84:], after[:count]), after[count:]])
    first, middle, last = scenes(film(tmp_path / "a.mp4", frames))
    assert (first.transition, middle.transition, last.transition) == (False, True, False)
    assert 84 / 24 - 1 <= middle.start <= 84 / 24
    assert (84 + count) / 24 <= middle.end <= (84 + count) / 24 + 1.125


def test_black_stretches_are_scenes_of_their_own(tmp_path: Path) -> None:
    found = scenes(film(tmp_path / "a.mp4", np.concatenate([black(12), pan(1, 48), black(12), pan(2, 36), black(6)])))
    assert starts(found) == pytest.approx([12 / 24, 60 / 24, 72 / 24, 108 / 24])
    assert [scene.black for scene in found] == [1, 0, 1, 0, 1]
    assert not any(scene.transition for scene in found)


@pytest.mark.parametrize("count", [6, 24])
def test_fades_are_transitions_with_the_black_between_them(tmp_path: Path, count: int) -> None:
    fade = np.linspace(1, 0, count)[:, None, None, None]
    out, back = pan(1, 48 + count), pan(2, 48 + count)
    out[48:] = (out[48:] * fade).astype(np.uint8)
    back[:count] = (back[:count] * fade[::-1]).astype(np.uint8)
    first, middle, last = scenes(film(tmp_path / "a.mp4", np.concatenate([out, black(12), back])))
    assert [scene.transition for scene in (first, middle, last)] == [False, True, False]
    assert 48 / 24 < middle.start <= (48 + count / 2) / 24  # the first, bright part of a fade stays
    assert (60 + 3 * count / 2) / 24 <= middle.end < (60 + 2 * count) / 24


def test_a_few_black_frames_are_no_scene(tmp_path: Path) -> None:
    gray = 0.4 * pan(1, 60).mean(axis=-1, keepdims=True)  # too dark for a cut
    frames = gray.repeat(3, axis=-1).astype(np.uint8)
    frames[30:33] = 4
    (scene,) = scenes(film(tmp_path / "a.mp4", frames))
    assert scene.black == pytest.approx(3 / 60, abs=1e-3)


@pytest.mark.parametrize(("name", "rate"), [("a.mp4", 24), ("b.mkv", 30)])
def test_long_scenes_are_cut_into_equal_pieces_at_frames(tmp_path: Path, name: str, rate: int) -> None:
    path = film(tmp_path / name, pan(1, 100), rate)
    found = scenes(path, seconds=1.0)
    count = int(np.ceil(100 / rate))
    assert len(found) == count
    frames = [scene.start * rate for scene in found]
    assert frames == pytest.approx([round(100 / count * i) for i in range(count)], abs=MILLISECOND * rate)


def test_a_scene_of_the_longest_length_is_not_cut(tmp_path: Path) -> None:
    assert len(scenes(film(tmp_path / "a.mp4", pan(1, 48)), seconds=2.0)) == 1


def test_spans_of_a_file_are_looked_at_apart(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", np.concatenate([pan(1, 48), pan(2, 48)]))
    first, second = watch(str(path), [(0.5, 1.5), (1.0, None)], 3.0, 1e9)
    assert [(one.start, one.end) for one in first] == [(0.5, 1.5)]
    assert [time for one in second for time in (one.start, one.end)] == pytest.approx([1.0, 2.0, 2.0, 4.0])


def test_motion_is_that_of_a_second_at_any_rate(tmp_path: Path) -> None:
    measured = []
    for rate in (12, 24, 48):
        frames = pan(1, 3 * rate, 48, seconds_a_frame=1 / rate)
        measured += [one.motion for one in scenes(film(tmp_path / f"{rate}.mp4", frames, rate))]
    wide = pan(1, 3 * 8, 48, seconds_a_frame=1 / 8) @ np.array([0.299, 0.587, 0.114]) / 255
    expected = 8 * np.abs(np.diff(wide, axis=0)).mean()  # what an eighth of a second changes
    assert measured == pytest.approx([expected] * 3, rel=0.1)


def test_what_stands_still_is_told_from_what_is_shown_for_long(tmp_path: Path) -> None:
    moves = pan(1, 48, 3)
    (half,) = scenes(film(tmp_path / "half.mp4", np.concatenate([moves, np.stack([moves[-1]] * 48)])))
    assert half.frozen == pytest.approx(0.5, abs=0.05)
    (twos,) = scenes(
        film(tmp_path / "twos.mp4", moves.repeat(2, axis=0))
    )  # each picture for two frames, as in cartoons
    assert twos.frozen == 0
    (film_of_a_photo,) = scenes(film(tmp_path / "photo.mp4", still(1, 48)))
    assert (film_of_a_photo.frozen, film_of_a_photo.motion) == (1.0, pytest.approx(0, abs=1e-3))
    pts = [0, 40, 80, 2080, 2120, 2160]
    (held,) = scenes(film(tmp_path / "held.mp4", moves[:6], pts=pts))
    assert held.frozen == pytest.approx(2.0 / probe(tmp_path / "held.mp4").duration, abs=0.05)


def test_what_moves_slowly_does_not_stand_still(tmp_path: Path) -> None:
    """Four columns a second: from eighth to eighth the soft picture is all but the same."""
    (scene,) = scenes(film(tmp_path / "a.mp4", pan(1, 96, 4 / 24)))
    assert scene.frozen == 0.0


def test_noise_of_a_camera_is_no_movement(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 3, (24, HEIGHT * 3, WIDTH * 3, 1))
    frames = (still(1, 24).repeat(3, axis=1).repeat(3, axis=2) + noise).clip(0, 255).astype(np.uint8)
    (scene,) = scenes(film(tmp_path / "a.mp4", frames))
    assert scene.frozen == 1.0


def test_a_small_thing_that_moves_is_movement(tmp_path: Path) -> None:
    frames = still(1, 48)
    for number, frame in enumerate(frames):
        frame[60:68, 2 * number : 2 * number + 8] = 250  # a three-hundredth of the picture
    (scene,) = scenes(film(tmp_path / "a.mp4", frames))
    assert scene.frozen == 0.0


@pytest.mark.parametrize("begin", [0.0, 0.4])
@pytest.mark.parametrize("eighth", [0, 3, 15])
def test_a_stretch_shorter_than_an_eighth_looks_like_the_eighth_that_it_lies_in(
    tmp_path: Path, eighth: int, begin: float
) -> None:
    levels = np.arange(20, 20 + 16 * 12, 12, dtype=np.uint8)  # of two seconds, three frames an eighth
    frames = np.broadcast_to(levels.repeat(3)[:, None, None, None], (48, HEIGHT, WIDTH, 3))
    path = film(tmp_path / "a.mp4", np.ascontiguousarray(frames))
    (scene,) = watch(str(path), [((eighth + begin) / 8, (eighth + 0.8) / 8)], None, 1e9)[0]
    assert np.abs(look_of(scene.look).astype(int) - int(levels[eighth])).max() < 6


@pytest.mark.parametrize(("level", "bright", "is_black"), [(25, 0, 1), (26, 0, 0), (0, 200, 1), (0, 201, 0)])
def test_a_picture_is_black_where_98_of_100_pixels_are_at_most_25(
    tmp_path: Path, level: int, bright: int, is_black: int
) -> None:
    picture = np.full((100, 100, 3), level, np.uint8)
    picture.reshape(-1, 3)[:bright] = 255
    Image.fromarray(picture).save(tmp_path / "a.png")
    (scene,) = scenes(tmp_path / "a.png")
    assert scene.black == is_black


def test_a_file_that_changes_its_size_is_an_error(tmp_path: Path) -> None:
    small = film(tmp_path / "small.h264", pan(1, 24), size=(96, 160))
    large = film(tmp_path / "large.h264", pan(2, 24))
    (tmp_path / "both.h264").write_bytes(small.read_bytes() + large.read_bytes())
    with pytest.raises(VideoError, match=r"both\.h264 changes its frame size"):
        scenes(tmp_path / "both.h264")
