"""Measures of pixels against closed forms and brute force."""

from typing import get_args

import numpy as np
import pytest

from videodit.evaluation.measure.pixels import (
    ConsistencyVariant,
    Undefined,
    box_means,
    box_reduced,
    frame_consistency,
    is_still,
    motion_per_second,
    psnr,
    ssim,
)

VARIANTS = get_args(ConsistencyVariant)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape)


def test_psnr_of_a_constant_error_is_its_closed_form() -> None:
    a = np.full((3, 4, 4, 3), 100, dtype=np.uint8)
    assert psnr(a, a + 10) == pytest.approx(20 * np.log10(255 / 10))
    assert psnr(a / 255, (a + 10) / 255) == pytest.approx(psnr(a, a + 10))


def test_psnr_of_a_tenth_is_20_db() -> None:
    black = np.zeros((2, 4, 4, 3))
    assert psnr(black, black + 0.1) == pytest.approx(20)


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


def test_ssim_of_black_and_white_is_its_closed_form() -> None:
    black = np.zeros((16, 20))
    assert ssim(black, black + 1) == pytest.approx(1e-4 / (1 + 1e-4), rel=1e-9)
    assert ssim(black + 0.3, black + 0.3) == pytest.approx(1, abs=1e-12)


def test_ssim_equals_its_definition_window_by_window() -> None:
    a, b = noise(14, 17), 0.6 * noise(14, 17) + 0.4 * noise(14, 17, seed=1)
    y, x = np.mgrid[-5:6, -5:6]
    weights = np.exp(-(x**2 + y**2) / (2 * 1.5**2))
    weights /= weights.sum()
    values = []
    for top in range(4):
        for left in range(7):
            p, q = (image[top : top + 11, left : left + 11] for image in (a, b))
            mp, mq = (weights * p).sum(), (weights * q).sum()
            vp, vq = (weights * (p - mp) ** 2).sum(), (weights * (q - mq) ** 2).sum()
            covariance = (weights * (p - mp) * (q - mq)).sum()
            top_ = (2 * mp * mq + 1e-4) * (2 * covariance + 9e-4)
            values.append(top_ / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4)))
    assert ssim(a, b) == pytest.approx(np.mean(values), abs=1e-12)


def test_ssim_needs_a_whole_window_and_one_size() -> None:
    with pytest.raises(Undefined, match="40x10 are smaller than the 11 pixels"):
        ssim(noise(10, 40), noise(10, 40))
    with pytest.raises(ValueError, match="same size"):
        ssim(noise(20, 20), noise(20, 21))


@pytest.mark.parametrize("shape", [(32, 48), (37, 53), (5, 40)])
def test_box_means_weigh_every_pixel_once(shape: tuple[int, int]) -> None:
    image = noise(*shape)
    means = box_means(image, 16)
    rows, columns = min(shape[0], 16), 16
    assert means.shape == (rows, columns)
    edges = [[n * i // count for i in range(count + 1)] for n, count in zip(shape, (rows, columns), strict=True)]
    expected = [
        [image[a:b, c:d].mean() for c, d in zip(edges[1], edges[1][1:], strict=False)]
        for a, b in zip(edges[0], edges[0][1:], strict=False)
    ]
    np.testing.assert_allclose(means, expected, atol=1e-12)


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
