"""Sizes: closed forms, and errors that name the nearest legal sizes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from videodit.geometry import ClipSize, Strides

WAN = Strides(time=4, space=8, channels=16)


def test_the_latent_of_the_usual_sizes() -> None:
    assert ClipSize(17, 64, 96, 8).latent(WAN, (1, 2, 2)) == (16, 5, 8, 12)
    assert ClipSize(1, 64, 64, 8).latent(WAN, (2, 2, 2)) == (16, 1, 8, 8)
    assert ClipSize(49, 480, 720, 8).latent(Strides(4, 8, 16, frame_step=8)) == (16, 13, 60, 90)
    assert ClipSize(16, 256, 256, 8).latent(Strides(1, 8, 4), (2, 2, 2)) == (4, 16, 32, 32)


@given(st.integers(1, 200), st.sampled_from([(1, None), (4, None), (4, 8), (8, None)]))
def test_a_frame_count_is_legal_or_its_neighbours_are_named(num_frames: int, rule: tuple[int, int | None]) -> None:
    strides = Strides(rule[0], 8, 4, frame_step=rule[1])
    step = rule[1] or rule[0]
    if (num_frames - 1) % step == 0:
        assert strides.pixel_frames(strides.latent_frames(num_frames)) == num_frames
        return
    with pytest.raises(ValueError, match="nearest: ") as error:
        strides.latent_frames(num_frames)
    low, high = (int(n) for n in str(error.value).rpartition(": ")[2].split(" or "))
    assert low < num_frames < high
    assert high - low == step
    assert strides.latent_frames(low) < strides.latent_frames(high)


def test_sides_name_the_nearest_legal_ones() -> None:
    with pytest.raises(ValueError, match="height=100 is not a multiple of 16; nearest: 96 or 112"):
        ClipSize(17, 100, 64, 8).latent(WAN, (1, 2, 2))
    with pytest.raises(ValueError, match="width=5 is not a multiple of 16; nearest: 16"):
        ClipSize(17, 64, 5, 8).latent(WAN, (1, 2, 2))
    with pytest.raises(ValueError, match="fps=0 must be positive"):
        ClipSize(17, 64, 64, 0)


def test_duration_is_from_the_first_frame_to_the_last() -> None:
    assert ClipSize(17, 64, 64, 8).duration == 2.0
    assert ClipSize(17, 64, 64, 8).image() == ClipSize(1, 64, 64, 8)
