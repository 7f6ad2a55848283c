"""Measures of clips that need no weights: consistency, flicker, smoothness, motion, cuts; alone or against a reference.

`MEASURES` are of one clip, `PAIRED` of a clip and its reference, frame by frame; `measure` and `measure_pair` take them
in one pass over the frames (`streaming`). The same frames give the same numbers, on any number of threads.

A clip that does not move scores best in most of them (`rewards_stillness`): print motion beside them, and leave still
clips out of their means. All depend on the size of the frames and, but for what is "a second", on the frame rate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import numpy as np

from videodit.evaluation.measure.flow import DIS, Flow, midpoint, warp
from videodit.evaluation.measure.pixels import STILL_BELOW, Undefined, ssim
from videodit.evaluation.measure.streaming import Curve, Measure, Picture, Running, Window, follow
from videodit.evaluation.measure.whole import AllPairs, Cuts, HighFrequency
from videodit.evaluation.report.results import Better, Metric, Score

VBENCH_FPS, VBENCH_PIXELS, VBENCH_SIDE = 8, 6, 256  # dynamic degree: 6 pixels of 256, from frame to frame at 8 fps
DYNAMIC_SPEED = VBENCH_FPS * VBENCH_PIXELS / VBENCH_SIDE  # short sides a second


def measure(
    frames: Iterable[np.ndarray], fps: float, names: Sequence[str] | None = None, *, flow: Flow = DIS
) -> dict[str, Score]:
    """Scores of a clip, `uint8 h w 3` frames in order, in one pass; None: of all `MEASURES`.

    A measure that the clip is too short or too small for has no value but says why.

    Raises:
        ValueError: no frames, frames that are not `uint8 h w 3` or not of one size, a name that is none of `MEASURES`.
        ImportError: what a measure needs is not installed.
    """
    return follow([frames], fps, _chosen(MEASURES, names), flow)


def measure_pair(
    frames: Iterable[np.ndarray],
    reference: Iterable[np.ndarray],
    fps: float,
    names: Sequence[str] | None = None,
    *,
    flow: Flow = DIS,
) -> dict[str, Score]:
    """Scores of a clip against its reference, frame by frame: see `measure`, with `PAIRED` for `MEASURES`.

    Raises ValueError also where the two differ in size or in the number of frames.
    """
    return follow([frames, reference], fps, _chosen(PAIRED, names), flow)


def _chosen(measures: Mapping[str, Measure], names: Sequence[str] | None) -> dict[str, Measure]:
    if unknown := [name for name in names or () if name not in measures]:
        raise ValueError(f"there is no measure {', '.join(unknown)}; there are {', '.join(measures)}")
    return {name: measures[name] for name in (measures if names is None else names)}


# --- of a window -----------------------------------------------------------------------------------------------------


def _cosine(a: Picture, b: Picture) -> float:
    if not a.direction.any() or not b.direction.any():
        return float(a.direction.any() == b.direction.any())
    return float((a.direction * b.direction).sum())


def _consecutive(window: Window) -> float:
    return _cosine(window.previous, window.current)


def _first_and_previous(window: Window) -> float:
    return (max(0.0, _consecutive(window)) + max(0.0, _cosine(window.first, window.current))) / 2


def _absolute(a: np.ndarray, b: np.ndarray) -> float:
    """Mean absolute difference of two uint8 arrays."""
    return float(np.abs(np.subtract(a, b, dtype=np.int16)).mean())


def _flickering(window: Window) -> float:
    return (255 - _absolute(window.previous.pixels, window.current.pixels)) / 255


def _second_difference(window: Window) -> float:
    before, middle, after = (picture.luma for picture in window.pictures)
    return float(np.abs(after - 2 * middle + before).mean())


def _smoothness(window: Window) -> float | None:
    """Of the odd frame before the current one, as its neighbours foretell it."""
    if window.index % 2:
        return None
    a, middle, b = (picture.pixels for picture in window.pictures)
    guess = midpoint(a, b, window.flow.between(a, b), window.flow.between(b, a))
    return (255 - float(np.abs(guess - middle).mean(dtype=np.float64))) / 255


def _speeds(window: Window) -> np.ndarray:
    """Of each pixel, in short sides a second."""
    return np.hypot(window.forward[..., 0], window.forward[..., 1]) * (window.fps / window.short_side)


def _speed(window: Window) -> float:
    return float(_speeds(window).mean(dtype=np.float64))


def _top_speed(window: Window) -> float:
    speeds = _speeds(window).reshape(-1)
    count = max(1, int(0.05 * speeds.size))
    return float(np.partition(speeds, -count)[-count:].mean(dtype=np.float64))


def _is_dynamic(speeds: Sequence[float]) -> float:
    needed = max(1, round(4 * (len(speeds) + 1) / 16))
    return float(sum(speed > DYNAMIC_SPEED for speed in speeds) >= needed)


def _change(window: Window) -> float:
    return float(np.abs(window.current.luma - window.previous.luma).mean()) * window.fps


def _frozen(window: Window) -> float:
    return float(_change(window) < STILL_BELOW)


def _warping_error(window: Window) -> float | None:
    if not window.visible.any():
        return None
    before, after = (picture.pixels.astype(np.float32) / 255 for picture in (window.previous, window.current))
    return float(((warp(after, window.forward) - before) ** 2)[window.visible].mean(dtype=np.float64))


def _visible_share(window: Window) -> float:
    return float(window.visible.mean())


def _psnr(a: Picture, b: Picture) -> float:
    """In dB; infinite for equal frames."""
    error = float(np.square(np.subtract(a.pixels, b.pixels, dtype=np.float64)).mean()) / 255**2
    return -10 * float(np.log10(error)) if error else np.inf


def _joint_psnr(values: Sequence[float]) -> float:
    """Of the mean squared error over all, from the PSNR of each."""
    if not (error := float(np.mean(10 ** (-np.array(values) / 10)))):
        raise Undefined("the frames that are compared are equal: their PSNR is infinite")
    return -10 * float(np.log10(error))


def _temporal_psnr(window: Window) -> float:
    return _psnr(window.previous, window.current)


def _temporal_ssim(window: Window) -> float:
    return ssim(window.previous.luma, window.current.luma)


def _paired_psnr(window: Window, reference: Window) -> float:
    return _psnr(window.current, reference.current)


def _paired_ssim(window: Window, reference: Window) -> float:
    return ssim(window.current.luma, reference.current.luma)


def _tof(window: Window, reference: Window) -> float:
    return float(np.abs(window.forward - reference.forward).sum(axis=-1).mean(dtype=np.float64))


# --- the tables ------------------------------------------------------------------------------------------------------


def _table(*measures: Measure) -> dict[str, Measure]:
    return {measure.metric.name: measure for measure in measures}


def _measure(
    name: str,
    definition: str,
    start: Callable[[], Running],
    looks_at: str = "pixels",
    *,
    better: Better = "lower",
    title: str = "",
    unit: str = "",
    variant: str = "",
    needs: str = "",
    still_is_best: bool = False,
) -> Measure:
    metric = Metric(
        name=name,
        title=title or name.replace("_", " ").capitalize(),
        definition=definition,
        better=better,
        unit=unit,
        variant=variant,
        rewards_stillness=still_is_best,
        needs=needs or ("cv2" if looks_at == "flow" else ""),
    )
    return Measure(metric, start, looks_at)


MEASURES = _table(
    _measure(
        "consistency_consecutive",
        "Mean cosine of neighbouring frames, as vectors of pixels less their own mean",
        partial(Curve, _consecutive),
        "pixels-centred",
        better="higher",
        title="Frame consistency, consecutive",
        variant="consecutive",
        still_is_best=True,
    ),
    _measure(
        "consistency_all_pairs",
        "Mean cosine of all pairs of frames (Tune-A-Video's competition code), on pixels less their own mean",
        AllPairs,
        "pixels-centred",
        better="higher",
        title="Frame consistency, all pairs",
        variant="all-pairs",
        still_is_best=True,
    ),
    _measure(
        "consistency_first_prev",
        "Mean over frames of the cosines with the first and with the previous one, each at least 0, halved (VBench's "
        "rule), on pixels less their own mean",
        partial(Curve, _first_and_previous),
        "pixels-centred",
        better="higher",
        title="Frame consistency, first and previous",
        variant="first+prev",
        still_is_best=True,
    ),
    _measure(
        "temporal_flickering",
        "(255 - mean absolute difference of neighbouring frames) / 255 (VBench); only of static scenes does it say "
        "that they do not flicker",
        partial(Curve, _flickering),
        better="higher",
        still_is_best=True,
    ),
    _measure(
        "luma_second_difference",
        "Mean of |Y(i+1) - 2 Y(i) + Y(i-1)|, Y in [0, 1]: change that does not go on evenly",
        partial(Curve, _second_difference, frames=3, late=1),
        "luma",
        still_is_best=True,
    ),
    _measure(
        "high_frequency_energy",
        "Share of the temporal energy of luma, averaged over 16 x 16 boxes, above half the Nyquist frequency (Welch: "
        "segments of 32 frames, half overlapping, detrended, Hann window; 8-bit rounding added to the whole)",
        HighFrequency,
        "luma",
        variant="welch-32",
        still_is_best=True,
    ),
    _measure(
        "motion_smoothness",
        "(255 - mean absolute difference) / 255 between each odd frame and the one that its even neighbours foretell "
        "by the midpoint of flow (Super SloMo, eq. 4); VBench's has the same form, with AMT in place of flow",
        partial(Curve, _smoothness, frames=3, late=1),
        "flow",
        better="higher",
        variant="flow midpoint",
        still_is_best=True,
    ),
    _measure(
        "motion_per_second",
        "Mean length of the flow, in short sides of the frame a second",
        partial(Curve, _speed),
        "flow",
        better="neither",
        unit="short sides/s",
    ),
    _measure(
        "change_per_second",
        "Mean absolute change of luma, Y in [0, 1], a second: not movement alone, flicker and noise count too",
        partial(Curve, _change),
        "luma",
        better="neither",
        unit="1/s",
    ),
    _measure(
        "dynamic_degree",
        "1 where the clip moves: the fastest 5 % of pixels pass 6/256 of the short side in an eighth of a second, in a "
        "quarter as many transitions as there are frames (VBench's rule at any rate, but in one at least)",
        partial(Curve, _top_speed, summary=_is_dynamic),
        "flow",
        better="neither",
        variant="at least one",
    ),
    _measure(
        "warping_error",
        "Mean squared error, RGB in [0, 1], between a frame and the next one warped back by flow, where nothing is "
        "occluded, at a motion boundary or outside of the picture (Lai et al. 2018)",
        partial(Curve, _warping_error, nothing="no pixel can be followed from any frame to the next"),
        "flow",
        variant="visible and inside",
        still_is_best=True,
    ),
    _measure(
        "visible_share",
        "Share of pixels that the warping error looks at",
        partial(Curve, _visible_share),
        "flow",
        better="neither",
    ),
    _measure(
        "temporal_psnr",
        "PSNR of neighbouring frames; the clip's is that of the mean squared error over all transitions",
        partial(Curve, _temporal_psnr, summary=_joint_psnr),
        better="higher",
        title="Temporal PSNR",
        unit="dB",
        variant="joint error",
        still_is_best=True,
    ),
    _measure(
        "temporal_ssim",
        "SSIM of neighbouring frames, on luma (Wang et al. 2004: 11 x 11 Gaussian of sigma 1.5, border left out)",
        partial(Curve, _temporal_ssim),
        "luma",
        better="higher",
        title="Temporal SSIM",
        variant="gaussian 11, valid",
        still_is_best=True,
    ),
    _measure(
        "cuts",
        "Hard cuts in the clip, by PySceneDetect's AdaptiveDetector at 3.0",
        Cuts,
        unit="cuts",
        variant="adaptive 3.0",
        still_is_best=True,
        needs="scenedetect",
    ),
    _measure(
        "frozen_share",
        f"Share of transitions in which luma changes by less than {STILL_BELOW:g} a second",
        partial(Curve, _frozen),
        "luma",
    ),
)

PAIRED = _table(
    _measure(
        "paired_psnr",
        "PSNR against the reference, of the mean squared error over the whole clip",
        partial(Curve, _paired_psnr, frames=1, summary=_joint_psnr),
        better="higher",
        title="PSNR against the reference",
        unit="dB",
        variant="joint error",
    ),
    _measure(
        "paired_ssim",
        "SSIM against the reference, on luma (Wang et al. 2004: 11 x 11 Gaussian of sigma 1.5, border left out)",
        partial(Curve, _paired_ssim, frames=1),
        "luma",
        better="higher",
        title="SSIM against the reference",
        variant="gaussian 11, valid",
    ),
    _measure(
        "tof",
        "Mean over pixels of |u - u'| + |v - v'| between the clip's flow and the reference's (TecoGAN)",
        partial(Curve, _tof),
        "flow",
        title="tOF against the reference",
        unit="px",
        variant="L1 of both components",
    ),
)
