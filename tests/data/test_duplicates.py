"""Clips that show the same are found, and no others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from footage import film, pan
from hypothesis import given, settings
from hypothesis import strategies as st

from videodit.data.duplicates import BANDS, TOLERANCE, Seen
from videodit.data.scenes import look_of, watch

CLIPS = {seed: pan(seed, 72) for seed in range(4)}
COPIES = {
    "smaller.mp4": {"size": (72, 90)},
    "larger.mp4": {"size": (192, 240)},
    "coarse.mp4": {"options": {"crf": "40"}},
    "other.mkv": {"codec": "mpeg4", "options": {"b": "1M"}},
}


def look(path: Path) -> tuple[np.ndarray, float]:
    ((scene,),) = watch(str(path), [(0.0, None)], None, 1e9)
    return look_of(scene.look), scene.end - scene.start


@pytest.fixture(scope="module")
def looks(tmp_path_factory: pytest.TempPathFactory) -> dict[int, tuple[np.ndarray, float]]:
    folder = tmp_path_factory.mktemp("clips")
    return {number: look(film(folder / f"{number}.mp4", frames)) for number, frames in CLIPS.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", COPIES)
def test_a_copy_is_found_among_other_clips(
    looks: dict[int, tuple[np.ndarray, float]], tmp_path: Path, name: str
) -> None:
    seen = Seen()
    for number, clip in looks.items():
        assert seen.find(*clip) is None
        seen.add(number, *clip)
    for number, frames in CLIPS.items():
        copy = look(film(tmp_path / name, frames, **COPIES[name]))
        assert seen.find(*copy) == number


def test_a_copy_at_another_rate_is_found(tmp_path: Path) -> None:
    seen = Seen()
    seen.add(7, *look(film(tmp_path / "a.mp4", CLIPS[0], 24)))
    assert seen.find(*look(film(tmp_path / "b.mp4", CLIPS[0][::2], 12))) == 7


@pytest.mark.slow
def test_a_scene_of_a_film_is_found_alone(tmp_path: Path) -> None:
    """Its look has nothing of the scenes before and after."""
    path = film(tmp_path / "film.mp4", np.concatenate([CLIPS[1][:50], CLIPS[0], CLIPS[2]]))
    scene = watch(str(path), [(0.0, None)], 3.0, 1e9)[0][1]
    seen = Seen()
    seen.add(7, *look(film(tmp_path / "a.mp4", CLIPS[0])))
    assert seen.find(look_of(scene.look), scene.end - scene.start) == 7


def test_clips_that_differ_in_one_thing_are_two(tmp_path: Path) -> None:
    """Simple pictures, of which bits of brightness alone could not tell a red hat from a green one."""
    frames = np.full((48, 128, 160, 3), 120, np.uint8)
    frames[:, 40:100, 60:100] = (180, 90, 90)
    red, green = frames.copy(), frames.copy()
    red[:, 40:56, 60:100], green[:, 40:56, 60:100] = (200, 30, 30), (30, 92, 30)
    seen = Seen()
    seen.add(0, *look(film(tmp_path / "red.mp4", red)))
    assert seen.find(*look(film(tmp_path / "green.mp4", green))) is None


@pytest.mark.slow
def test_the_same_place_at_another_time_is_another_clip(tmp_path: Path) -> None:
    seen = Seen()
    seen.add(0, *look(film(tmp_path / "a.mp4", pan(1, 72))))
    assert seen.find(*look(film(tmp_path / "b.mp4", pan(1, 72, start=72)))) is None


@pytest.mark.parametrize(
    ("seconds", "found"), [(3.91, 0), (4.09, 0), (3.8, None), (4.2, None), (8.0, None), (0.0, None)]
)
def test_length_tells_clips_apart(seconds: float, found: int | None) -> None:
    """A photograph filmed for four seconds is none filmed for eight, nor the photograph."""
    any_look = np.random.default_rng(0).integers(0, 256, (4, 8, 9, 3), np.uint8)
    seen = Seen()
    seen.add(0, any_look, 4.0)
    assert seen.find(any_look, seconds) == found


def test_of_several_the_first_is_named() -> None:
    looks = np.random.default_rng(0).integers(0, 200, (1, 4, 8, 9, 3), np.uint8)
    seen = Seen()
    for number in (5, 3, 9):
        seen.add(number, looks[0] + np.uint8(number), 1.0)
    assert seen.find(looks[0] + np.uint8(4), 1.0) == 5


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_what_differs_in_fewer_bits_than_there_are_bands_is_always_found(seed: int) -> None:
    """Bits: whether a cell is brighter than the one to its left. Swapping a rise and a fall of little turns them."""
    rng = np.random.default_rng(seed)
    first = rng.integers(0, 2, (4, 8, 9, 1), np.int16) * 6 + 100  # all steps are +6, 0 or -6
    first = first.repeat(3, axis=-1)
    second = first.copy()
    rows = first.reshape(32, 9, 3), second.reshape(32, 9, 3)
    for row in rng.choice(32, (BANDS - 1) // 2, replace=False):
        rows[1][row, rng.integers(0, 9)] += rng.choice([-6, 6])  # one cell has two neighbours: two bits at most
    seen = Seen()
    seen.add(0, first.astype(np.uint8), 2.0)
    assert seen.find(second.astype(np.uint8), 2.0) == 0


def test_rows_that_are_brighter_as_a_whole_are_the_same_look() -> None:
    """No cell is brighter or darker than the one to its left for that: none of 256 bits turns."""
    first = np.random.default_rng(0).integers(50, 200, (4, 1, 9, 3), np.uint8).repeat(8, axis=1)
    second = first.copy()
    second[:, ::2] += TOLERANCE // 2
    second[:, 1::2] -= TOLERANCE // 2
    seen = Seen()
    seen.add(0, first, 2.0)
    assert seen.find(second, 2.0) == 0
    assert seen.find(first[..., ::-1, :], 2.0) is None


def test_a_colour_beyond_the_tolerance_is_another_clip() -> None:
    first = np.full((4, 8, 9, 3), 100, np.uint8)
    seen = Seen()
    seen.add(0, first, 2.0)
    for more, found in ((TOLERANCE, 0), (TOLERANCE + 1, None)):
        second = first.copy()
        second[2, 3, 4, 1] += more
        assert seen.find(second, 2.0) == found


@pytest.mark.slow
def test_many_clips_are_compared_with_few() -> None:
    """Each with those of its bands alone: of a thousand different looks next to none share one."""
    rng = np.random.default_rng(0)
    seen = Seen()
    for number in range(1000):
        seen.add(number, rng.integers(0, 256, (4, 8, 9, 3), np.uint8), 2.0)
    sizes = [len(places) for bands in seen._bands for places in bands.values()]
    assert len(sizes) > 0.99 * 1000 * BANDS
