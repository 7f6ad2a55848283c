"""How a clip is measured while its frames stream past: what is kept does not grow with its length.

A measure is shown a `Window` of the last three frames after each frame, and says its `Score` after the last. The window
works out what several measures want (luma, flow) once. Most measures are plain functions of the window, whose values
make the clip's curve (`Curve`); `follow` shows one clip, or a clip and its reference, to many measures in one pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from typing import Protocol

import numpy as np

from videodit.evaluation.measure.flow import DIS, Flow, visible
from videodit.evaluation.measure.pixels import Undefined, directions, luma
from videodit.evaluation.report.results import Metric, Score


class Picture:
    """A frame, `uint8 h w 3`, and what measures want to know of it, worked out once."""

    def __init__(self, pixels: np.ndarray):
        self.pixels = pixels

    @cached_property
    def luma(self) -> np.ndarray:
        """float64 h w in [0, 1], BT.709."""
        return luma(self.pixels)

    @cached_property
    def direction(self) -> np.ndarray:
        """Mean-centred pixels as a vector of length 1, or of zeros where the frame is flat: float64 (h w c)."""
        return directions(self.pixels.reshape(-1) / 255)[0]


class Window:
    """A clip's last frames, three at most, the current one last: what the measures look at."""

    def __init__(self, index: int, fps: float, flow: Flow, first: Picture, pictures: tuple[Picture, ...]):
        self.index = index  # of the current frame, from 0
        self.fps = fps
        self.flow = flow
        self.first = first  # of the clip
        self.pictures = pictures

    def then(self, frame: np.ndarray) -> Window:
        """The window one frame later. Raises ValueError for a frame of another kind or size."""
        if frame.dtype != np.uint8 or frame.shape != self.first.pixels.shape:
            raise ValueError(
                f"frame {self.index + 1} is {frame.dtype} {frame.shape}, the first {self.first.pixels.dtype} "
                f"{self.first.pixels.shape}: all frames of a clip must be alike"
            )
        return Window(self.index + 1, self.fps, self.flow, self.first, (*self.pictures, Picture(frame))[-3:])

    @property
    def current(self) -> Picture:
        return self.pictures[-1]

    @property
    def previous(self) -> Picture:
        return self.pictures[-2]

    @cached_property
    def forward(self) -> np.ndarray:
        """Flow from the previous frame to the current one."""
        return self.flow.between(self.previous.pixels, self.current.pixels)

    @cached_property
    def backward(self) -> np.ndarray:
        return self.flow.between(self.current.pixels, self.previous.pixels)

    @cached_property
    def visible(self) -> np.ndarray:
        """Which pixels (bool h w) of the previous frame can be found in the current one."""
        return visible(self.forward, self.backward)

    @property
    def short_side(self) -> int:
        return min(self.current.pixels.shape[:2])


class Running(Protocol):
    """A measure on its way through a clip, or through a clip and its reference: one window of each."""

    def see(self, *windows: Window) -> None: ...

    def score(self) -> Score:
        """After the last frame."""


@dataclass(frozen=True)
class Measure:
    """What it is, how to begin, and what it looks at: "pixels", "pixels-centred", "luma" or "flow" of some kind."""

    metric: Metric
    start: Callable[[], Running]
    looks_at: str = "pixels"

    def features(self, flow: Flow = DIS) -> str:
        """As a protocol names it."""
        return flow.name if self.looks_at == "flow" else self.looks_at


def follow(
    clips: Sequence[Iterable[np.ndarray]], fps: float, measures: Mapping[str, Measure], flow: Flow = DIS
) -> dict[str, Score]:
    """Shows one clip, or a clip and its reference, to measures: those above, or others made alike."""
    running = {name: measure.start() for name, measure in measures.items()}
    streams = [iter(clip) for clip in clips]
    windows: list[Window] = []
    for index, frames in enumerate(zip_longest(*streams)):
        if any(frame is None for frame in frames):
            counts = [index + (f is not None) + sum(1 for _ in s) for f, s in zip(frames, streams, strict=True)]
            raise ValueError("the clip has {} frames, its reference {}: they must be as many".format(*counts))
        if windows:
            windows = [window.then(frame) for window, frame in zip(windows, frames, strict=True)]
        else:
            windows = [_first(frame, fps, flow) for frame in frames]
            if len({frame.shape for frame in frames}) > 1:
                raise ValueError(
                    "the clip is {}, its reference {}: make them one size".format(*(f.shape for f in frames))
                )
        for one in running.values():
            one.see(*windows)
    if not windows:
        raise ValueError("there are no frames to measure")
    return {name: one.score() for name, one in running.items()}


def _first(frame: np.ndarray, fps: float, flow: Flow) -> Window:
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[-1] != 3 or not frame.size:
        raise ValueError(f"frames must be uint8 h w 3, not {frame.dtype} {frame.shape}")
    picture = Picture(frame)
    return Window(0, fps, flow, picture, (picture,))


def mean_of(values: Sequence[float]) -> float:
    return float(np.mean(values))


class Curve:
    """A measure that is a function of the window: its values are the curve, and `summary` makes the clip's of them.

    Args:
        of: the value at the current frame; None: none here. Raises Undefined where frames do not allow it. An infinite
            value is one for `summary`, but none in the curve.
        frames: so many are needed for the first value.
        late: the value belongs so many frames before the current one.
        summary: of the values there are. Raises Undefined where they have none.
        nothing: why there can be no value although there are frames enough.
    """

    def __init__(
        self,
        of: Callable[..., float | None],
        *,
        frames: int = 2,
        late: int = 0,
        summary: Callable[[Sequence[float]], float] = mean_of,
        nothing: str = "",
    ):
        self._of, self._frames, self._late, self._summary, self._why = of, frames, late, summary, nothing
        self._curve: list[float | None] = []

    def see(self, *windows: Window) -> None:
        self._curve.append(None)
        if len(self._curve) >= self._frames:
            try:
                self._curve[-1 - self._late] = self._of(*windows)
            except Undefined as error:
                self._why = str(error)

    def score(self) -> Score:
        if len(self._curve) < self._frames:
            return Score(value=None, why=too_few(len(self._curve), self._frames))
        values = [value for value in self._curve if value is not None]
        if not values:
            return Score(value=None, why=self._why)
        curve = tuple(None if value is None or np.isinf(value) else value for value in self._curve)
        try:
            return Score(value=self._summary(values), curve=curve)
        except Undefined as error:
            return Score(value=None, why=str(error), curve=curve)


def too_few(count: int, needed: int) -> str:
    if count == 1:
        return "one frame: there is no transition"
    return f"{count} frames are too few: {needed} are needed"
