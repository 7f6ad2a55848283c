"""Measures of a clip as a whole: what is no mean of values at its frames. Their memory does not grow with the clip."""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import Any

import numpy as np

from videodit.evaluation.measure.pixels import box_means
from videodit.evaluation.measure.streaming import Window, too_few
from videodit.evaluation.report.results import Score

CUT_THRESHOLD = 3.0  # of PySceneDetect's AdaptiveDetector: its default
SEGMENT, FEWEST, CELLS = 32, 8, 16  # frames of a spectrum, at most and at least; boxes on a side
ROUNDING = 1 / 12 / 255**2  # energy of rounding to 8 bits


class AllPairs:
    """Mean cosine of all pairs of frames, from the sum of their directions: |sum|^2 holds each product twice."""

    def __init__(self) -> None:
        self._sum: np.ndarray | float = 0.0
        self._count = self._flat = 0

    def see(self, *windows: Window) -> None:
        direction = windows[0].current.direction
        self._sum = self._sum + direction
        self._count += 1
        self._flat += not direction.any()

    def score(self) -> Score:
        if self._count < 2:
            return Score(value=None, why=too_few(self._count, 2))
        directed, flat = self._count - self._flat, self._flat
        products = float(np.square(self._sum).sum()) - directed + flat * (flat - 1)
        return Score(value=products / (self._count * (self._count - 1)))


class HighFrequency:
    """Share of the energy of luma above half the Nyquist frequency, over a grid of boxes: Welch's method.

    Segments of 32 frames overlap by half, and the last one ends with the clip; a shorter clip is one segment. A
    straight line is taken off each box's luma, and a Hann window laid over the rest. The energy of rounding to 8 bits
    is added to the whole: a picture in which nothing happens has no share, and a fade in rounded steps next to none.
    """

    def __init__(self) -> None:
        self._boxes: deque[np.ndarray] = deque(maxlen=SEGMENT)
        self._count = self._fresh = self._segments = 0
        self._high = self._all = 0.0

    def see(self, *windows: Window) -> None:
        self._boxes.append(box_means(windows[0].current.luma, CELLS).reshape(-1))
        self._count += 1
        self._fresh += 1
        if self._count == SEGMENT or (self._count > SEGMENT and self._fresh == SEGMENT // 2):
            self._add()

    def score(self) -> Score:
        if self._count < FEWEST:
            return Score(value=None, why=too_few(self._count, FEWEST))
        if self._fresh:
            self._add()
        return Score(value=self._high / (self._all + self._segments * ROUNDING))

    def _add(self) -> None:
        frequencies, energies = spectrum(np.stack(self._boxes))
        self._high += float(energies[frequencies > 0.25].sum())
        self._all += float(energies.sum())
        self._segments += 1
        self._fresh = 0


def spectrum(series: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies (in cycles a frame, 0 to 0.5) and energies of series (f k), which are detrended and windowed before.

    The energies are means over k and sum to the mean square of what is left of the series.
    """
    count = len(series)
    times = np.arange(count) - (count - 1) / 2
    rest = series - series.mean(axis=0)
    rest = rest - np.outer(times, (times[:, None] * rest).sum(axis=0) / (times**2).sum())
    hann = np.sin(np.pi * (np.arange(count) + 0.5) / count) ** 2
    energies = np.square(np.abs(np.fft.rfft(rest * hann[:, None], axis=0))).mean(axis=1) / (count * (hann**2).sum())
    frequencies = np.fft.rfftfreq(count)
    return frequencies, energies * np.where((frequencies == 0) | (frequencies == 0.5), 1, 2)


class Cuts:
    """The number of hard cuts, by PySceneDetect's AdaptiveDetector: 1.0 in the curve at frames that begin a scene.

    It compares a frame with two more on either side, so the ends of the clip are shown to it two frames longer.
    """

    def __init__(self) -> None:
        try:
            import cv2
            from scenedetect.common import FrameTimecode
            from scenedetect.detectors import AdaptiveDetector
        except ImportError as error:
            raise ImportError(
                f'cuts are found with PySceneDetect ({error}): pip install "videodit[prepare]"'
            ) from error
        self._detector = AdaptiveDetector(CUT_THRESHOLD, min_scene_len=0)
        self._around = self._detector.window_width
        self._time, self._bgr = FrameTimecode, partial(cv2.cvtColor, code=cv2.COLOR_RGB2BGR)
        self._curve: list[float | None] = []
        self._shown = 0
        self._last: Any = None

    def see(self, *windows: Window) -> None:
        self._last = self._bgr(np.ascontiguousarray(windows[0].current.pixels))
        self._curve.append(0.0 if self._curve else None)
        self._show(1 if self._shown else 1 + self._around)

    def score(self) -> Score:
        if len(self._curve) < 2:
            return Score(value=None, why=too_few(len(self._curve), 2))
        self._show(self._around)
        return Score(value=sum(value or 0.0 for value in self._curve), curve=tuple(self._curve))

    def _show(self, times: int) -> None:
        for _ in range(times):
            for cut in self._detector.process_frame(self._time(self._shown, 1.0), self._last):
                if 0 < (frame := cut.frame_num - self._around) < len(self._curve):
                    self._curve[frame] = 1.0
            self._shown += 1
