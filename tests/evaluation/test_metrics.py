"""Metrics against closed forms and brute force."""

from typing import get_args

import numpy as np
import pytest

from videodit.evaluation.metrics import (
    ConsistencyVariant,
    box_reduced,
    frame_consistency,
    is_still,
    motion_per_second,
    psnr,
)

VARIANTS = get_args(ConsistencyVariant)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape)


def test_psnr_of_a_constant_error_is_its_closed_form() -> None:
    a = np.full((3, 4, 4, 3), 100, dtype=np.uint8)
    assert psnr(a, a + 10) == pytest.approx(20 * np.log10(255 / 10))
    assert psnr(a / 255, (a + 10) / 255) == pytest.approx(psnr(a, a + 10))


def test_psnr_is_one_number_a_clip_over_all_its_frames() -> None:
    a = np.zeros((2, 2, 4, 4, 3))
    b = a.copy()
    b[1, 0] = 0.2  # half of the second clip
    np.testing.assert_allclose(psnr(a, b), [np.inf, -10 * np.log10(0.02)])


def test_psnr_refuses_clips_of_different_shapes() -> None:
    with pytest.raises(ValueError, match="same size"):
        psnr(np.zeros((2, 4, 4, 3)), np.zeros((1, 4, 4, 3)))


@pytest.mark.parametrize("variant", VARIANTS)
def test_consistency_equals_brute_force(variant: ConsistencyVariant) -> None:
    base = noise(8, 8, 3)
    frames = np.stack([base, 0.7 * base + 0.3 * noise(8, 8, 3, seed=1), 1 - base, noise(8, 8, 3, seed=2)])
    r = np.corrcoef(frames.reshape(4, -1))  # the correlation is the cosine of mean-centred vectors
    expected = {
        "consecutive": (r[0, 1] + r[1, 2] + r[2, 3]) / 3,
        "all-pairs": np.mean([r[i, j] for i in range(4) for j in range(4) if i != j]),
        "first+prev": np.mean([(max(0, r[t, t - 1]) + max(0, r[t, 0])) / 2 for t in range(1, 4)]),
    }
    assert frame_consistency(frames, variant) == pytest.approx(expected[variant], abs=1e-12)


@pytest.mark.parametrize("variant", VARIANTS)
def test_consistency_is_one_for_a_static_clip_and_near_zero_for_noise(variant: ConsistencyVariant) -> None:
    static = np.repeat(noise(1, 32, 32, 3), 5, axis=0)
    assert frame_consistency(static, variant) == pytest.approx(1)
    assert abs(frame_consistency(noise(5, 32, 32, 3), variant)) < 0.05


def test_consistency_of_flat_frames_is_one_among_themselves_and_zero_with_others() -> None:
    flat = np.stack([np.full((8, 8, 3), 0.2), np.full((8, 8, 3), 0.9)])
    assert frame_consistency(flat) == 1
    assert frame_consistency(np.concatenate([flat, noise(1, 8, 8, 3)])) == pytest.approx(0.5)


def test_measures_keep_leading_axes_and_take_uint8() -> None:
    clips = (noise(2, 3, 8, 8, 3) * 255).astype(np.uint8)
    for measure in (frame_consistency, lambda c: motion_per_second(c, 8), lambda c: psnr(c, c[..., ::-1, :])):
        np.testing.assert_allclose(measure(clips), [measure(clips[0] / 255), measure(clips[1] / 255)])


def test_motion_of_a_brightening_clip_is_its_rate() -> None:
    frames = np.broadcast_to(np.array([0.1, 0.15, 0.2])[:, None, None, None], (3, 4, 4, 3))
    assert motion_per_second(frames, fps=8) == pytest.approx(0.05 * 8)
    blue = np.zeros((2, 4, 4, 3))
    blue[1, ..., 2] = 1
    assert motion_per_second(blue, fps=1) == pytest.approx(0.0722)  # BT.709: blue is dark


def test_a_static_clip_is_still_and_a_moving_one_is_not() -> None:
    static = np.repeat(noise(1, 8, 8, 3), 3, axis=0)
    assert is_still(motion_per_second(static, 8))
    assert not is_still(motion_per_second(np.roll(static, 1, axis=2) * np.arange(3)[:, None, None, None], 8))


def test_box_reduced_averages_boxes_and_leaves_small_frames() -> None:
    frames = (noise(2, 8, 12, 3) * 255).astype(np.uint8)
    expected = frames.reshape(2, 4, 2, 6, 2, 3).mean(axis=(2, 4))
    np.testing.assert_allclose(box_reduced(frames, 4), expected, atol=0.51)
    assert box_reduced(frames, 5) is frames


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="'mean' is none of consecutive, all-pairs"):
        frame_consistency(noise(2, 4, 4, 3), "mean")
    with pytest.raises(ValueError, match="two frames or more"):
        frame_consistency(noise(1, 4, 4, 3))
    with pytest.raises(ValueError, match="two frames or more"):
        motion_per_second(noise(3, 4, 4), 8)
    with pytest.raises(ValueError, match="int64"):
        psnr(np.zeros((1, 2, 2, 3), dtype=int), np.zeros((1, 2, 2, 3), dtype=int))
