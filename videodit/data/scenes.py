"""A file watched once: where its scenes begin and end, and how much of each is black, stands still or moves.

Cuts are found by PySceneDetect (`AdaptiveDetector`: a frame that differs from the one before by `threshold` times as
much as the frames around it do) on the frames of our own reader, so that a cut is the time of a frame in any container.
A change that takes longer differs little from frame to frame: the same detector finds dissolves where it is given one
frame a second. Black stretches are scenes of their own, which are easy to drop; with fades before or after they are
transitions.

All is measured on small frames, eight times a second whatever the frame rate: at the first frame that appears in each
eighth. A clip's look is its mean colours on a grid of 8 x 9 in each quarter of its length.

Two limits: a dissolve is found only with two seconds of its scene on either side, and a flash is two cuts.
"""

from __future__ import annotations

import base64
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from einops import rearrange

from videodit.video.index import VideoError
from videodit.video.reader import probe, stream_frames

try:
    import cv2
    from scenedetect.common import FrameTimecode
    from scenedetect.detectors import AdaptiveDetector
except ImportError as error:
    raise ImportError(f'clips are prepared with PySceneDetect ({error}): pip install "videodit[prepare]"') from error

VERSION = 1  # of everything below: what another version measured is measured again
SHORT_SIDE = 144  # pixels that are looked at
LOOKS = 8  # a second
GRID = (8, 9)  # rows, columns of a look
QUARTERS = 4

BLACK_LEVEL, BLACK_SHARE = 25, 0.98  # so much of a black frame is at most so bright, of 255
BLACK_SECONDS = 0.2  # a black stretch of at least this length is a scene
FADE_LEVEL = 0.75  # of a scene's median brightness: what is darker, next to black, belongs to the fade
CHANGE_LEVEL, CHANGE_SHARE = 7, 0.001  # the picture changes where more than this share of pixels does by more than this
FROZEN_SECONDS = 1.0  # a picture that stays so long, or as long as its scene, stands still
SLACK = 1e-6  # seconds
_PAD = 2  # frames on either side that the detector compares with: both ends are shown so much longer


@dataclass(frozen=True)
class Scene:
    """A stretch of a file in seconds from its first frame; `end` is the first moment that is no longer in it.

    `motion` is the mean change of luma (0 to 1) a second; `black` the share of black frames; `frozen` the share of time
    in stretches of a second or more without change; `look` the mean colours, `quarters rows columns rgb` in base 64. A
    `transition` is a dissolve or fade between two scenes.
    """

    start: float
    end: float
    motion: float
    black: float
    frozen: float
    look: str
    transition: bool = False


def watch(
    path: str, spans: Sequence[Sequence[float | None]], threshold: float | None, seconds: float
) -> list[list[Scene]]:
    """Scenes of each span (start, end or None for the file's) of a file, in order and without gaps.

    Args:
        threshold: of the detector; None: no cuts are made.
        seconds: longer scenes are cut into equal pieces, each at a frame.

    Raises VideoError when the file cannot be decoded to its end.
    """
    info = probe(path)
    if info.is_image:
        return [[_image(path)] for _ in spans]
    film = _watched(path, info.duration, threshold)
    parts = [(0.0, film.end, False)] if threshold is None else list(_parts(film, threshold))
    found = []
    for first, last in spans:
        begin, stop = first or 0.0, film.end if last is None else min(last, film.end)
        inside = [(max(a, begin), min(b, stop), kind) for a, b, kind in parts if min(b, stop) - max(a, begin) > SLACK]
        found.append([_measured(film, *piece) for part in inside for piece in _pieces(film, *part, seconds)])
    return found


def look_of(text: str) -> np.ndarray:
    """`uint8 quarters rows columns 3` of a scene's `look`."""
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(QUARTERS, *GRID, 3)


def _image(path: str) -> Scene:
    """The scene, of no length, that a still image is."""
    ((_, frame),) = stream_frames(path)
    gray, colours = _small(frame)
    return Scene(0.0, 0.0, 0.0, float(_is_black(gray)), 0.0, _text(np.repeat(colours[None], QUARTERS, axis=0)))


@dataclass
class _Film:
    """What is kept of a file: a dozen bytes a frame, some two hundred an eighth of a second."""

    path: str
    end: float = 0.0
    cuts: list[int] = field(default_factory=list)  # frames that begin a scene
    times: array = field(default_factory=lambda: array("d"))  # of each frame, seconds
    luma: array = field(default_factory=lambda: array("f"))  # mean of each frame, 0 to 255
    black: array = field(default_factory=lambda: array("b"))
    look_times: array = field(default_factory=lambda: array("d"))  # of the first frame in each eighth
    change: array = field(default_factory=lambda: array("f"))  # mean change of luma since the eighth before, 0 to 1
    changed: array = field(default_factory=lambda: array("b"))  # whether it differs from when it last did
    colours: list[np.ndarray] = field(default_factory=list)  # mean of each eighth, uint8 rows columns 3
    _eighth: list[np.ndarray] = field(default_factory=list)  # colours of its frames so far
    _seen: np.ndarray | None = None  # luma when last looked at
    _steady: np.ndarray | None = None  # and when it last changed, so that slow changes add up

    def see(self, time: float, gray: np.ndarray, colours: np.ndarray) -> None:
        """The next frame: its luma, `uint8 h w`, and mean colours, `uint8 rows columns 3`."""
        if self._seen is not None and self._seen.shape != gray.shape:
            raise VideoError(f"{self.path} changes its frame size on the way: cut or convert it to one size")
        if not self.look_times or _eighth_of(time) > _eighth_of(self.look_times[-1]):
            self._look(time, gray)
        self._eighth.append(colours)
        self.times.append(time)
        self.luma.append(float(gray.mean()))
        self.black.append(_is_black(gray))

    def _look(self, time: float, gray: np.ndarray) -> None:
        self.close()
        has_changed = self._steady is None or _differ(gray, self._steady)
        self.look_times.append(time)
        self.change.append(0.0 if self._seen is None else float(cv2.absdiff(gray, self._seen).mean()) / 255)
        self.changed.append(has_changed)
        self._seen, self._steady = gray, gray if has_changed else self._steady

    def close(self) -> None:
        """The eighth is over."""
        if self._eighth:
            self.colours.append(np.mean(self._eighth, axis=0).round().astype(np.uint8))
            self._eighth.clear()

    def frame(self, time: float) -> int:
        """The first that appears at `time` or later."""
        return int(np.searchsorted(np.frombuffer(self.times), time - SLACK))

    def looks(self, start: float, end: float) -> slice:
        """Those whose first frame appears from `start` until before `end`."""
        first, last = np.searchsorted(np.frombuffer(self.look_times), [start - SLACK, end - SLACK])
        return slice(int(first), int(last))

    def time(self, frame: int) -> float:
        return self.times[frame] if frame < len(self.times) else self.end


def _watched(path: str, end: float, threshold: float | None) -> _Film:
    film, cuts = _Film(path, end), _Cuts(threshold) if threshold is not None else None
    for time, frame in stream_frames(path, short_side=SHORT_SIDE):
        film.see(time, *_small(frame))
        if cuts:
            cuts.see(frame)
    film.close()
    film.cuts = cuts.found() if cuts else []
    return film


def _eighth_of(time: float) -> int:
    return int((time + SLACK) * LOOKS)


def _small(frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Luma of a frame, `uint8 h w`, of `SHORT_SIDE` at most, and its mean colours, `uint8 rows columns 3`."""
    height, width = frame.shape[:2]
    if (scale := SHORT_SIDE / min(height, width)) < 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        frame = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
    colours = cv2.resize(frame, GRID[::-1], interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), colours


def _differ(gray: np.ndarray, other: np.ndarray) -> bool:
    return bool((cv2.absdiff(gray, other) > CHANGE_LEVEL).mean() > CHANGE_SHARE)


def _is_black(gray: np.ndarray) -> bool:
    return bool((gray <= BLACK_LEVEL).mean() >= BLACK_SHARE)


class _Cuts:
    """Frames in order go in, the numbers of those that begin a scene come out."""

    def __init__(self, threshold: float):
        self._detector = AdaptiveDetector(threshold, min_scene_len=0)  # what is too short is dropped with its reason
        self._shown, self._found = 0, set[int]()
        self._last: np.ndarray | None = None

    def see(self, frame: np.ndarray) -> None:
        self._last = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
        self._show(1 if self._shown else 1 + _PAD)

    def found(self) -> list[int]:
        self._show(_PAD)
        return sorted(number for number in self._found if 0 < number < self._shown - 2 * _PAD)

    def _show(self, times: int) -> None:
        for _ in range(times):
            cuts = self._detector.process_frame(FrameTimecode(self._shown, 1.0), self._last)
            self._found.update(cut.frame_num - _PAD for cut in cuts)
            self._shown += 1


def _parts(film: _Film, threshold: float) -> Iterator[tuple[float, float, bool]]:
    """(start, end, whether it is a transition) of all that a film is made of."""
    black = np.frombuffer(film.black, np.int8) != 0
    dark = _with_fades(film, _long_runs(film, black))
    cuts = [cut for cut in film.cuts if not dark[cut - 1] or not dark[cut]]
    for first, last in _between([*cuts, *_changes(dark)], len(dark)):
        start, end = film.time(first), film.time(last)
        if dark[first]:
            yield start, end, not black[first:last].all()
        else:
            yield from _without_dissolves(film, start, end, threshold)


def _between(edges: Sequence[int], end: int) -> Iterator[tuple[int, int]]:
    """(first, after the last) of the runs that edges cut 0 to `end` into."""
    return ((a, b) for a, b in pairwise([0, *sorted(edges), end]) if a < b)


def _changes(marked: np.ndarray) -> list[int]:
    """Where a run of marked ones begins or ends."""
    return (np.flatnonzero(np.diff(marked)) + 1).tolist()


def _long_runs(film: _Film, black: np.ndarray) -> np.ndarray:
    """Which frames belong to a black stretch that is long enough to be a scene."""
    marked = black.copy()
    for first, last in _between(_changes(black), len(black)):
        marked[first:last] &= film.time(last) - film.time(first) >= BLACK_SECONDS - SLACK
    return marked


def _with_fades(film: _Film, black: np.ndarray) -> np.ndarray:
    """Those, and frames next to them that are much darker than their scene."""
    luma, dark = np.frombuffer(film.luma, np.float32), black.copy()
    for first, last in _between([*film.cuts, *_changes(black)], len(black)):
        bright = np.flatnonzero(luma[first:last] >= FADE_LEVEL * np.median(luma[first:last]))
        if first > 0 and black[first - 1]:
            dark[first : first + bright[0]] = True
        if last < len(black) and black[last]:
            dark[first + bright[-1] + 1 : last] = True
    return dark


def _without_dissolves(film: _Film, start: float, end: float, threshold: float) -> Iterator[tuple[float, float, bool]]:
    """The parts of a scene: seconds in which it turns into another are transitions."""
    looks = film.looks(start, end)
    colours = film.colours[looks]
    turning = np.zeros(len(colours) + 1, bool)
    for phase in range(LOOKS):
        detector = AdaptiveDetector(threshold, min_scene_len=0)
        for number, colour in enumerate(colours[phase::LOOKS]):
            for cut in detector.process_frame(FrameTimecode(number, 1.0), cv2.cvtColor(colour, cv2.COLOR_RGB2BGR)):
                after = phase + cut.frame_num * LOOKS
                turning[after - LOOKS : after + 1] = True  # the eighth of the later frame too, as it is a mean
    times = [*film.look_times[looks], end]
    times[0] = start
    for a, b in _between(_changes(turning[:-1]), len(colours)):
        yield times[a], times[b], bool(turning[a])


def _pieces(film: _Film, start: float, end: float, kind: bool, seconds: float) -> Iterator[tuple[float, float, bool]]:
    """Equal pieces of a part, none longer than `seconds` by more than half a frame."""
    count = max(1, int(np.ceil((end - start) / seconds - SLACK)))
    frames = np.frombuffer(film.times)
    edges = [start]
    for ideal in np.linspace(start, end, count + 1)[1:-1]:
        after = min(film.frame(ideal), len(frames) - 1)
        nearest = after - (after > 0 and ideal - frames[after - 1] < frames[after] - ideal)
        if edges[-1] + SLACK < frames[nearest] < end - SLACK:
            edges.append(float(frames[nearest]))
    yield from ((a, b, kind) for a, b in pairwise([*edges, end]))


def _measured(film: _Film, start: float, end: float, transition: bool) -> Scene:
    looks = film.looks(start, end)
    times, change = np.frombuffer(film.look_times)[looks], np.frombuffer(film.change, np.float32)[looks]
    moments = times[1:][np.frombuffer(film.changed, np.int8)[looks][1:] != 0]
    gaps = np.diff([start, *moments, end])
    black = np.frombuffer(film.black, np.int8)[film.frame(start) : film.frame(end)]
    return Scene(
        start,
        end,
        motion=round(float(change[1:].sum() / (times[-1] - times[0])), 5) if len(times) > 1 else 0.0,
        black=round(float(black.mean()), 3) if len(black) else 0.0,
        frozen=round(float(gaps[gaps >= min(FROZEN_SECONDS, end - start) - SLACK].sum() / (end - start)), 3),
        look=_look(film, start, end),
        transition=transition,
    )


def _look(film: _Film, start: float, end: float) -> str:
    """Of the eighths that lie within a scene; those at its edges may show its neighbours."""
    eighths = np.floor((np.frombuffer(film.look_times) + SLACK) * LOOKS) / LOOKS
    inside = np.flatnonzero((eighths >= start - SLACK) & (eighths + 1 / LOOKS <= end + SLACK))
    if not len(inside):
        inside = np.array([max(0, np.searchsorted(np.frombuffer(film.look_times), start + SLACK, side="right") - 1)])
    colours = np.stack([film.colours[number] for number in inside]).astype(np.float32)
    quarter = ((eighths[inside] + 0.5 / LOOKS - start) / (end - start) * QUARTERS).astype(int)
    means = [(colours[quarter == q] if (quarter == q).any() else colours).mean(axis=0) for q in range(QUARTERS)]
    return _text(np.stack(means).round().astype(np.uint8))


def _text(look: np.ndarray) -> str:
    return base64.b64encode(rearrange(look, "q h w c -> (q h w c)").tobytes()).decode()
