"""Frames of the size asked for: covered, cut where it is said, and pixels there and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from videodit.data.transforms import detailed_crop, fit, to_frames, to_pixels


def places(height: int, width: int, frames: int = 2) -> np.ndarray:
    """uint8 f h w c whose pixels hold their own row, column and frame."""
    f, y, x = np.meshgrid(np.arange(frames), np.arange(height), np.arange(width), indexing="ij")
    return np.stack([y, x, f], axis=-1).astype(np.uint8)


@pytest.mark.parametrize(
    ("shape", "place", "corner"),
    [
        ((60, 20), (0.25, 1.0), (10, 0)),  # tall: of 40 rows too many a quarter is cut off above
        ((60, 20), (1.0, 0.25), (40, 0)),
        ((20, 60), (0.25, 1.0), (0, 40)),  # wide
        ((20, 60), (1.0, 0.25), (0, 10)),
        ((60, 20), (0.5, 0.5), (20, 0)),
        ((20, 20), (0.1, 0.9), (0, 0)),
    ],
)
def test_what_is_cut_out_begins_where_the_place_says(
    shape: tuple[int, int], place: tuple[float, float], corner: tuple[int, int]
) -> None:
    cut = fit(places(*shape), 20, 20, place)
    assert cut.shape == (2, 20, 20, 3)
    assert tuple(cut[1, 0, 0]) == (*corner, 1)
    np.testing.assert_array_equal(cut, places(*shape)[:, corner[0] : corner[0] + 20, corner[1] : corner[1] + 20])


@pytest.mark.parametrize(("place", "corner"), [((0.0, 1.0), (0, 40)), ((0.5, 0.25), (20, 10)), ((1.0, 0.0), (40, 0))])
def test_of_a_picture_three_times_as_large_a_part_is_cut_to_the_pixel(
    place: tuple[float, float], corner: tuple[int, int]
) -> None:
    cut = fit(places(60, 60), 20, 20, place, zoom=3.0)
    np.testing.assert_array_equal(cut, places(60, 60)[:, corner[0] : corner[0] + 20, corner[1] : corner[1] + 20])


@pytest.mark.parametrize("shape", [(24, 80), (80, 24)])
def test_a_larger_picture_is_scaled_until_it_just_covers_and_keeps_its_proportions(shape: tuple[int, int]) -> None:
    """A ramp stays a ramp, half as many pixels long, so twice as steep."""
    frames = places(*shape)
    cut = fit(frames, 12, 12).astype(int)
    assert cut.shape == (2, 12, 12, 3)
    inner = cut[0, 2:-2, 2:-2]
    np.testing.assert_allclose(np.diff(inner[..., 0], axis=0), 2, atol=1)
    np.testing.assert_allclose(np.diff(inner[..., 1], axis=1), 2, atol=1)
    assert abs(inner[..., 0].mean() - (shape[0] - 1) / 2) < 1  # the middle stays the middle
    assert abs(inner[..., 1].mean() - (shape[1] - 1) / 2) < 1


def test_pixels_and_frames_are_each_others_inverse_and_what_is_outside_is_clamped() -> None:
    frames = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    pixels = to_pixels(frames)
    assert pixels.shape == (3, 1, 16, 16)
    assert (float(pixels.min()), float(pixels.max())) == (-1.0, 1.0)
    np.testing.assert_array_equal(to_frames(pixels), frames)
    np.testing.assert_array_equal(to_frames(torch.stack([pixels, pixels])), np.stack([frames, frames]))
    assert to_frames(torch.tensor([-1.5, -1.0, 0.0, 1.0, 1.5]).reshape(1, 5, 1, 1)).ravel().tolist() == [
        0,
        0,
        128,
        255,
        255,
    ]


def noisy_at(shape: tuple[int, int, int], at: tuple[int, int, int], side: int) -> np.ndarray:
    """Gray everywhere, but for a cube of noise."""
    frames = np.full((*shape, 3), 128, np.uint8)
    cube = tuple(slice(begin, begin + side) for begin in at)
    frames[cube] = np.random.default_rng(0).integers(0, 256, frames[cube].shape)
    return frames


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(6, 10, 30), (6, 30, 10), (20, 12, 12)])
def test_of_many_crops_the_one_with_most_contrast_is_taken_wherever_it_lies(shape: tuple[int, int, int]) -> None:
    """As far into each axis as there is room: an axis taken for another would not reach there."""
    at = tuple(extent - 4 for extent in shape)
    frames = noisy_at(shape, at, 4)
    crop = detailed_crop(frames, 4, 4, np.random.default_rng(1), tries=12_000)
    np.testing.assert_array_equal(crop, frames[at[0] :, at[1] :, at[2] :])


def test_a_crop_is_no_larger_than_the_clip_and_one_try_is_as_good_as_many_where_there_is_one() -> None:
    frames = places(8, 10, frames=3)
    np.testing.assert_array_equal(detailed_crop(frames, None, 9, np.random.default_rng(0), tries=3), frames)
    np.testing.assert_array_equal(detailed_crop(frames, 99, 3, np.random.default_rng(0), tries=3), frames)
    assert detailed_crop(frames, 9, 2, np.random.default_rng(0), tries=3).shape == (2, 8, 9, 3)


@pytest.mark.parametrize("axis", [1, 2])
def test_contrast_is_that_of_every_second_row_and_column(axis: int) -> None:
    """Of five crops of 4 along an axis of 8 the first has most of it there, and the last where all pixels count."""
    line = np.array([78, 128, 178, 128, 128, 128, 128, 255], np.uint8)
    frames = np.broadcast_to(line[:, None, None] if axis == 1 else line[:, None], (1, *((8, 4), (4, 8))[axis - 1], 3))
    crop = detailed_crop(frames, 4, 1, np.random.default_rng(0), tries=50)
    np.testing.assert_array_equal(crop, frames[:, :4, :4])


def test_every_crop_is_as_likely_as_any_other() -> None:
    frames = places(6, 6, frames=2)
    rng = np.random.default_rng(0)
    corners = [tuple(detailed_crop(frames, 4, 1, rng, tries=1)[0, 0, 0]) for _ in range(900)]
    counts = [corners.count((y, x, f)) for y in range(3) for x in range(3) for f in range(2)]
    assert sum(counts) == 900
    assert min(counts) > 50 / 2  # of 50 each
