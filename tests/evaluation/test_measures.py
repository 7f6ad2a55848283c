"""Measures that stream: closed forms, brute force over whole arrays, and what they say where they have no value."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
import pytest
from corruptions import parade
from footage import place

from videodit.evaluation.measure.flow import DIS, Flow
from videodit.evaluation.measure.measures import MEASURES, PAIRED, measure
from videodit.evaluation.measure.pixels import frame_consistency, motion_per_second
from videodit.evaluation.measure.streaming import Measure, Window, follow
from videodit.evaluation.measure.whole import spectrum
from videodit.evaluation.report.results import Score

from ..holding import counted_arrays
from .frames import flat, known_flow, noise, sliding

FLOW = ("motion_smoothness", "motion_per_second", "dynamic_degree", "warping_error", "visible_share")


def one(name: str, frames: np.ndarray, fps: float = 8.0, flow: Flow = DIS) -> Score:
    return measure(frames, fps, [name], flow=flow)[name]


def value(name: str, frames: np.ndarray, fps: float = 8.0, flow: Flow = DIS) -> float:
    score = one(name, frames, fps, flow)
    assert score.value is not None, score.why
    return score.value


# --- closed forms ----------------------------------------------------------------------------------------------------


def test_constant_frames_51_levels_apart_flicker_by_a_fifth() -> None:
    score = one("temporal_flickering", flat(0, 51, 102))
    assert score.value == pytest.approx(0.8, abs=1e-12)
    assert score.curve == pytest.approx((None, 0.8, 0.8))


def test_a_linear_fade_is_perfectly_smooth() -> None:
    fade = flat(*range(10, 210, 10))
    assert value("luma_second_difference", fade) == pytest.approx(0, abs=1e-12)
    assert value("high_frequency_energy", fade) == pytest.approx(0, abs=1e-12)
    assert value("change_per_second", fade, fps=4) == pytest.approx(4 * 10 / 255)


def test_a_fade_in_rounded_steps_is_nearly_smooth() -> None:
    assert value("high_frequency_energy", flat(*(np.arange(64) * 0.5).astype(int))) < 0.5  # +1, +0, +1 ... of 255


def test_second_differences_belong_to_the_middle_frame() -> None:
    score = one("luma_second_difference", flat(0, 0, 51, 51))
    assert score.curve == pytest.approx((None, 0.2, 0.2, None))
    assert score.value == pytest.approx(0.2)


@pytest.mark.parametrize("count", [8, 17, 32, 33, 40, 100])
def test_energy_of_alternating_frames_is_all_high_and_of_slow_waves_all_low(count: int) -> None:
    alternating = flat(*(128 + 50 * (-1) ** np.arange(count)))
    assert value("high_frequency_energy", alternating) == pytest.approx(1, abs=0.01 if count > 8 else 0.05)
    slow = flat(*(128 + 100 * np.sin(2 * np.pi * np.arange(count) / 16)))
    assert value("high_frequency_energy", slow) < (0.01 if count > 8 else 0.1)


@pytest.mark.parametrize("count", [32, 64])
def test_a_wave_below_and_one_above_half_the_nyquist_frequency_share_by_their_energy(count: int) -> None:
    times = np.arange(count)
    low, high = np.cos(2 * np.pi * times / 8), np.cos(2 * np.pi * times * 3 / 8)
    frames = flat(*(128 + 60 * low + 30 * high).round())
    assert value("high_frequency_energy", frames) == pytest.approx(30**2 / (60**2 + 30**2), rel=0.03)


def test_the_last_frames_of_a_clip_count_in_its_spectrum() -> None:
    still = [128] * 32  # the first segment; a second one would end at frame 47
    assert value("high_frequency_energy", flat(*still, *[88, 168] * 4, *[128] * 4)) > 0.9
    assert value("high_frequency_energy", flat(*still, *[128] * 12)) == 0


def test_energies_sum_to_the_mean_square_of_white_noise() -> None:
    frequencies, energies = spectrum(np.random.default_rng(0).standard_normal((32, 20_000)))
    assert energies.sum() == pytest.approx(1, rel=0.1)  # a line has been taken off: two of 32 degrees
    inner = energies[(frequencies > 0.1) & (frequencies < 0.5)]
    assert inner.max() / inner.min() < 1.1
    assert frequencies[-1] == 0.5


def test_a_shift_by_twelve_pixels_warps_to_nothing() -> None:
    clip = sliding(5, 12)
    scores = measure(clip, 8.0, ["warping_error", "visible_share", "motion_per_second"])
    assert scores["warping_error"].value == pytest.approx(0, abs=2e-5)
    assert 0.7 < (scores["visible_share"].value or 0) <= 148 / 160 + 1e-9  # twelve columns leave the picture
    assert scores["motion_per_second"].value == pytest.approx(8 * 12 / 96, rel=0.03)


def test_warping_error_of_a_brightening_still_is_its_square() -> None:
    frames = np.stack([place(1)[:64, :64] // 2 + level for level in (0, 20, 40)])
    still = Flow("none", lambda a, b: np.zeros((*a.shape[:2], 2), np.float32))
    score = one("warping_error", frames, flow=still)
    assert score.curve[1:] == pytest.approx(((20 / 255) ** 2,) * 2, rel=1e-5)
    assert one("visible_share", frames, flow=still).value == 1


def test_where_nothing_can_be_followed_there_is_no_warping_error() -> None:
    away = known_flow(1000)
    score = one("warping_error", flat(0, 10, 20), flow=away)
    assert (score.value, score.curve) == (None, ())
    assert "no pixel can be followed" in score.why
    assert value("visible_share", flat(0, 10, 20), flow=away) == 0


def test_even_motion_is_smooth_and_a_frame_out_of_line_is_not() -> None:
    clip = sliding(7, 6)
    smooth = one("motion_smoothness", clip)
    assert [entry is None for entry in smooth.curve] == [True, False, True, False, True, False, True]
    assert smooth.value is not None
    assert smooth.value > 0.985
    clip[3] = 255 - clip[3]
    spoiled = one("motion_smoothness", clip)
    assert spoiled.curve[3] is not None
    assert spoiled.curve[3] < 0.8
    assert spoiled.curve[1] == smooth.curve[1]


def test_motion_is_in_short_sides_a_second() -> None:
    frames = flat(0, 10, 20, height=48, width=96)
    assert value("motion_per_second", frames, fps=10, flow=known_flow(3, 4)) == pytest.approx(10 * 5 / 48)
    assert one("dynamic_degree", frames, fps=10, flow=known_flow(3, 4)).curve[1] == pytest.approx(10 * 5 / 48)


@pytest.mark.parametrize(("fps", "pixels"), [(8, 6), (16, 3), (24, 2)])
def test_dynamic_degree_has_vbenchs_threshold_at_any_rate(fps: float, pixels: float) -> None:
    frames = flat(*range(0, 160, 10), height=256, width=256)
    assert value("dynamic_degree", frames, fps, known_flow(pixels * 1.01)) == 1
    assert value("dynamic_degree", frames, fps, known_flow(pixels * 0.99)) == 0


@pytest.mark.parametrize(("moving", "expected"), [(3, 0), (4, 1)])
def test_a_clip_of_16_frames_is_dynamic_when_four_transitions_are(moving: int, expected: int) -> None:
    def between(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        flow = np.zeros((*a.shape[:2], 2), np.float32)
        flow[:3, :, 0] = 50.0 if a[0, 0, 0] < 10 * moving else 0.0  # 3 of 48 rows: over 5 %
        return flow

    frames = flat(*range(0, 160, 10), height=48, width=48)
    assert value("dynamic_degree", frames, flow=Flow("some", between)) == expected


def test_two_still_frames_are_not_dynamic() -> None:
    assert value("dynamic_degree", np.repeat(sliding(1, 0), 2, axis=0)) == 0


def test_neighbours_a_tenth_apart_have_20_db_and_black_beside_white_its_ssim() -> None:
    assert value("temporal_psnr", flat(100, 125)) == pytest.approx(20 * np.log10(255 / 25))
    assert value("temporal_ssim", flat(0, 255)) == pytest.approx(1e-4 / (1 + 1e-4), rel=1e-6)


def test_temporal_psnr_is_that_of_the_mean_error() -> None:
    score = one("temporal_psnr", flat(0, 0, 51, 51))  # one transition of three has an error, of (1 / 5)^2
    assert score.value == pytest.approx(-10 * np.log10(0.04 / 3))
    assert score.curve == (None, None, pytest.approx(-10 * np.log10(0.04)), None)


def test_frozen_share_counts_transitions_without_change() -> None:
    moving = sliding(5, 3)
    assert value("frozen_share", moving) == 0
    score = one("frozen_share", moving[[0, 1, 1, 1, 2]])
    assert score.value == 0.5
    assert score.curve == (None, 0, 1, 1, 0)


@pytest.mark.parametrize("at", [1, 2, 5, 8])
def test_a_cut_is_found_where_it_is(at: int) -> None:
    pytest.importorskip("scenedetect")
    clip = np.concatenate([parade(1)[:at], parade(2)[: 9 - at]])
    score = one("cuts", clip)
    assert score.value == 1
    assert score.curve == (None, *(float(i == at) for i in range(1, 9)))
    assert value("cuts", parade(1)) == 0


# --- the same as over whole arrays ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(24, 32), (37, 53)])
def test_consistency_is_that_of_the_array_and_of_brute_force(shape: tuple[int, int]) -> None:
    base = noise(1, *shape)[0] // 2
    frames = np.stack([base + noise(1, *shape, seed=i)[0] // (2 + i) for i in range(6)])
    scores = measure(frames, 8.0, ["consistency_consecutive", "consistency_all_pairs", "consistency_first_prev"])
    consecutive, all_pairs, first_prev = scores.values()
    r = np.corrcoef(frames.reshape(6, -1).astype(np.float64))
    assert consecutive.curve[1:] == pytest.approx(np.diagonal(r, 1), abs=1e-12)
    assert all_pairs.value == pytest.approx((r.sum() - 6) / 30, abs=1e-12)
    assert first_prev.curve[1:] == pytest.approx((np.diagonal(r, 1) + r[0, 1:]) / 2, abs=1e-12)
    assert consecutive.value == pytest.approx(float(frame_consistency(frames)), abs=1e-12)
    assert all_pairs.value == pytest.approx(float(frame_consistency(frames, "all-pairs")), abs=1e-12)
    assert first_prev.value == pytest.approx(float(frame_consistency(frames, "first+prev")), abs=1e-12)
    assert all_pairs.curve == ()


@pytest.mark.parametrize("variant", ["consecutive", "all-pairs", "first+prev"])
def test_flat_frames_are_like_each_other_and_unlike_all_else(variant: str) -> None:
    frames = np.concatenate([flat(30, 200), noise(2), flat(7), 255 - noise(1)])
    name = next(n for n, m in MEASURES.items() if m.metric.variant == variant)
    assert value(name, frames) == pytest.approx(float(frame_consistency(frames, variant)), abs=1e-12)  # type: ignore[arg-type]


def test_change_is_that_of_the_array() -> None:
    frames = noise(5, 37, 53)
    assert value("change_per_second", frames, 12) == pytest.approx(float(motion_per_second(frames, 12)), rel=1e-12)


@pytest.mark.slow
def test_a_measure_alone_says_what_it_says_among_all() -> None:
    clip = parade(4)[:9]
    together = measure(clip, 8.0)
    assert list(together) == list(MEASURES)
    assert {name: one(name, clip) for name in MEASURES} == together
    assert measure(iter(clip), 8.0) == together


def test_odd_sizes_are_measured() -> None:
    scores = measure(sliding(9, 2, 37, 53), 8.0)
    assert [name for name, score in scores.items() if score.value is None] == []


def test_a_still_clip_is_best_where_the_table_says_so() -> None:
    still, best = np.repeat(parade(2)[:1], 9, axis=0), {"higher": 1.0, "lower": 0.0}
    for name, score in measure(still, 8.0).items():
        metric = MEASURES[name].metric
        if name == "temporal_psnr":
            assert "infinite" in score.why
        elif metric.rewards_stillness:
            assert score.value == pytest.approx(best[metric.better], abs=1e-6), name
    assert not MEASURES["frozen_share"].metric.rewards_stillness
    assert value("frozen_share", still) == 1
    assert value("motion_per_second", still) == pytest.approx(0, abs=1e-6)


# --- what cannot be measured ------------------------------------------------------------------------------------------


def test_one_frame_has_no_transition() -> None:
    for name, score in measure(flat(3), 8.0).items():
        assert score.value is None
        assert score.curve == ()
        assert score.why == "one frame: there is no transition", name


def test_two_frames_have_what_needs_no_third() -> None:
    scores = measure(parade(0)[:2], 8.0)
    without = {name: score.why for name, score in scores.items() if score.value is None}
    assert without == {
        "luma_second_difference": "2 frames are too few: 3 are needed",
        "high_frequency_energy": "2 frames are too few: 8 are needed",
        "motion_smoothness": "2 frames are too few: 3 are needed",
    }


def test_frames_too_small_for_a_measure_have_all_others() -> None:
    scores = measure(noise(9, 8, 10), 8.0)
    without = {name for name, score in scores.items() if score.value is None}
    assert without == {*FLOW, "temporal_ssim"}
    assert "10x8 are too small for optical flow" in scores["warping_error"].why
    assert "smaller than the 11 pixels" in scores["temporal_ssim"].why
    assert scores["warping_error"].curve == ()


def test_equal_frames_have_no_psnr() -> None:
    assert "equal" in one("temporal_psnr", flat(9, 9)).why


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([], "no frames"),
        ([np.zeros((8, 8, 3))], "uint8 h w 3, not float64"),
        ([np.zeros((8, 8), np.uint8)], r"not uint8 \(8, 8\)"),
        ([np.zeros((8, 8, 4), np.uint8)], r"\(8, 8, 4\)"),
        ([*flat(1), *flat(2), *flat(2, width=30)], r"frame 2 is uint8 \(24, 30, 3\), the first uint8 \(24, 32, 3\)"),
        ([*flat(1), flat(1)[0] / 255], "frame 1 is float64"),
    ],
)
def test_other_frames_are_refused_by_name(frames: list[np.ndarray], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure(frames, 8.0, ["temporal_flickering"])


def test_unknown_measures_are_named_beside_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"no measure flickr; there are consistency_consecutive, .*frozen_share"):
        measure(flat(1, 2), 8.0, ["flickr"])


def test_what_is_not_installed_is_only_missed_where_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    monkeypatch.setitem(sys.modules, "scenedetect.detectors", None)
    free = [name for name, found in MEASURES.items() if not found.metric.needs]
    assert set(MEASURES) - set(free) == {*FLOW, "cuts"}
    assert all(score.value is not None for score in measure(sliding(9, 2), 8.0, free).values())
    for name in (*FLOW, "cuts"):
        with pytest.raises(ImportError, match="pip install"):
            measure(sliding(9, 2), 8.0, [name])


# --- memory, further measures -----------------------------------------------------------------------------------------


def most(count: int) -> int:
    """Bytes of arrays at the most, while a clip of so many frames of 4,608 bytes streams past all measures."""
    seen = []

    def frames() -> Iterator[np.ndarray]:
        rng = np.random.default_rng(0)
        for _ in range(count):
            seen.append(held())
            yield rng.integers(0, 256, (32, 48, 3), np.uint8)

    with counted_arrays() as held:
        measure(frames(), 8.0)
    return max(seen)


@pytest.mark.parametrize("count", [140, pytest.param(340, marks=pytest.mark.slow)])
def test_memory_does_not_grow_with_the_clip(count: int) -> None:
    assert 4608 < most(count) < most(40) + (count - 40) * 1000  # no frames are kept; a curve takes 8 bytes of each


def test_other_measures_and_flows_can_join_the_pass() -> None:
    seen = []

    class Sizes:
        def see(self, *windows: Window) -> None:
            seen.append((len(windows), windows[0].index, len(windows[0].pictures)))

        def score(self) -> Score:
            return Score(value=float(len(seen)))

    own = Measure(MEASURES["cuts"].metric, Sizes)
    assert follow([flat(1, 2, 3, 4)], 8.0, {"sizes": own})["sizes"].value == 4
    assert seen == [(1, 0, 1), (1, 1, 2), (1, 2, 3), (1, 3, 3)]
    assert MEASURES["warping_error"].features() == "dis-medium"
    assert MEASURES["warping_error"].features(known_flow(1)) == "known"
    assert MEASURES["temporal_ssim"].features(known_flow(1)) == "luma"


def test_the_tables_say_what_each_measure_is() -> None:
    for table in (MEASURES, PAIRED):
        for name, found in table.items():
            assert found.metric.name == name
            assert len(found.metric.definition) > 30
