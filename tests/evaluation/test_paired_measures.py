"""Measures of a clip against its reference."""

from __future__ import annotations

import numpy as np
import pytest

from videodit.evaluation.measure.measures import PAIRED, measure_pair
from videodit.evaluation.measure.pixels import psnr

from .frames import flat, known_flow, sliding


def test_paired_psnr_is_of_the_whole_clip() -> None:
    clip = sliding(4, 2)
    spoiled = clip.copy()
    spoiled[2, :10] //= 2
    score = measure_pair(spoiled, clip, 8.0)["paired_psnr"]
    assert score.value == pytest.approx(float(psnr(spoiled, clip)))
    assert score.curve == (None, None, pytest.approx(float(psnr(spoiled[2:3], clip[2:3]))), None)


def test_a_clip_against_itself() -> None:
    clip = sliding(3, 2)
    scores = measure_pair(clip, clip, 8.0)
    assert list(scores) == list(PAIRED)
    assert scores["paired_psnr"].value is None
    assert "infinite" in scores["paired_psnr"].why
    assert scores["paired_ssim"].value == pytest.approx(1)
    assert scores["tof"].value == 0


def test_paired_ssim_of_black_against_white() -> None:
    score = measure_pair(flat(0, 0), flat(255, 255), 8.0, ["paired_ssim"])["paired_ssim"]
    assert score.curve == pytest.approx((1e-4 / (1 + 1e-4),) * 2, rel=1e-6)


def test_tof_is_the_difference_of_the_shifts() -> None:
    moving, still = sliding(4, 5), np.repeat(sliding(1, 5), 4, axis=0)
    assert measure_pair(moving, still, 8.0, ["tof"])["tof"].value == pytest.approx(5, rel=0.05)
    both = measure_pair(flat(0, 10), flat(200, 210), 8.0, ["tof"], flow=known_flow(3, 4))["tof"]
    assert both.value == 0
    apart = measure_pair(flat(0, 10), flat(210, 200), 8.0, ["tof"], flow=known_flow(3, 4))["tof"]
    assert apart.curve == (None, 14)  # (3, 4) against (-3, -4): |6| + |8|


def test_one_paired_frame_has_no_flow_but_a_psnr() -> None:
    scores = measure_pair(flat(0), flat(51), 8.0)
    assert scores["paired_psnr"].value == pytest.approx(-20 * np.log10(0.2))
    assert scores["tof"].why == "one frame: there is no transition"


@pytest.mark.parametrize(("ours", "theirs"), [(3, 5), (5, 3), (0, 2)])
def test_a_reference_of_another_length_is_refused(ours: int, theirs: int) -> None:
    clips = sliding(ours or 1, 1)[:ours], sliding(theirs, 1)
    with pytest.raises(ValueError, match=f"the clip has {ours} frames, its reference {theirs}"):
        measure_pair(*clips, 8.0)
    with pytest.raises(ValueError, match=f"the clip has {ours} frames, its reference {theirs}"):
        measure_pair(*map(iter, clips), 8.0)


def test_a_reference_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the clip is \(24, 32, 3\), its reference \(24, 30, 3\)"):
        measure_pair(flat(0, 1), flat(0, 1, width=30), 8.0)
