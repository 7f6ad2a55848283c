"""Damaged files are read as a training run reads them, and what comes back is compared with the sound clip."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np

from videodit.video import IMAGE_SUFFIXES, VideoError, probe, read_clip, read_frames
from videodit.video.guarded import Guarded

from .conftest import BITS, HEIGHT, WIDTH
from .damage.sound import FRAMES, RATE
from .test_every_reader import converted

SECONDS, MEMORY_GB = 100.0, 1.5  # limits of a call; on the busiest machine no file that is read comes near the first
ALTERED = 6.0  # seconds of a call on a file whose damage may make it endless
ENDLESS, HUGE = 0.3, 2.0  # on one that no limit would be long enough for, or that may take it
WEAR = {"bit flipped", "burst", "zeros", "noise", "blocks swapped", "block twice", "block lost"}
ALTERS = WEAR | {"absurd header"}
LIMITS = {"endless": ENDLESS, "huge": HUGE, **dict.fromkeys(ALTERS, ALTERED)}
OUTCOMES = {
    "refused": "VideoError says what is wrong",
    "stopped": "VideoError says that it took too long, wanted too much memory or crashed its process",
    "right": "every frame is the sound clip's for its time, exactly, and all are there",
    "in part": "so are those that are there; others are missing, and what was shown before stays",
    "other times": "exact frames of the sound clip, at times or in an order that the file's header now says",
    "altered": "some frames are not exact, but carry the number of their time, or none can be read off",
    "other number": "some carry another number than their time's",
    "read": "there is nothing to compare with",
}


@dataclass(frozen=True)
class Damaged:
    """A file, the kind of its damage, and the sound file that it was made from ("": from none)."""

    file: str
    damage: str
    sound: str


@dataclass(frozen=True)
class Reading:
    """What came of a file; `seconds` took its longest call."""

    file: str
    damage: str
    sound: str
    outcome: str
    seconds: float
    why: str = ""
    names_the_file: bool = True
    is_like_ffmpeg: bool = True  # altered frames are what a plain decode by FFmpeg gives too


def read_all(folder: Path, made: Sequence[Damaged], *, directly: bool = True) -> list[Reading]:
    """Reads every file in children, two at a time; what they refuse, `directly` in this process too."""
    truth = {path.name: look(direct, path)[0] for path in sorted((folder / "sound").iterdir())}
    with Guarded(2, seconds=SECONDS, memory_gb=MEMORY_GB) as guarded, ThreadPoolExecutor(2) as pool:
        work = pool.map(lambda one: read_one(guarded, folder, one, truth.get(one.sound), directly), made)
        return list(work)


def read_one(guarded: Guarded, folder: Path, one: Damaged, truth: np.ndarray | None, directly: bool) -> Reading:
    path, took = folder / one.file, []

    def call(function: Callable[..., Any], *args: Any) -> Any:
        begin = time.monotonic()
        try:
            return guarded.call(function, *args, seconds=LIMITS.get(one.damage))
        finally:
            took.append(time.monotonic() - begin)

    try:
        frames, own = look(call, path)
    except VideoError as error:
        why = str(error)
        was_stopped = any(words in why for words in ("took more than", "needs more than", "the decoder ("))
        if directly and not was_stopped and not is_refused(path):
            raise AssertionError(f"{path}: refused in a child ({why}), but not without one") from error
        outcome = "stopped" if was_stopped else "refused"
        return Reading(**asdict(one), outcome=outcome, seconds=max(took), why=why, names_the_file=str(path) in why)
    outcome, alike = "read" if truth is None else compare(frames, own, truth), True
    if outcome in ("altered", "other number") and path.suffix not in IMAGE_SUFFIXES:
        others = call(plain, path)
        alike = all(place_of(frame, others) is not None for frame in frames)
    return Reading(**asdict(one), outcome=outcome, seconds=max(took), is_like_ffmpeg=alike)


def look(call: Callable[..., Any], path: Path) -> list[np.ndarray]:
    """What is on screen at the sound clip's times, and at those that the file itself gives."""
    info = call(probe, path)
    info = info if isinstance(info, dict) else asdict(info)
    return [call(read_frames, path, grid(info["duration"], rate)) for rate in (RATE, info["fps"])]


def direct(function: Callable[..., Any], *args: Any) -> Any:
    return function(*args)


def grid(duration: float, rate: float) -> list[float]:
    """The middle of each frame's time, for a clip's worth of frames; of a still image 0."""
    return [time for n in range(FRAMES) if rate and (time := (n + 0.5) / rate) < duration] or [0.0]


def is_refused(path: Path) -> bool:
    """Whether it is refused without a child too, and named."""
    try:
        look(direct, path)
    except VideoError as error:
        return str(path) in str(error)
    return False


def compare(frames: np.ndarray, own: np.ndarray, truth: np.ndarray) -> str:
    """Which outcome it is: `frames` are on screen at the sound clip's times, `own` at the file's."""
    places = [place_of(frame, truth) for frame in frames]
    if places == list(range(len(truth))):
        return "right"
    first = next((place - n for n, place in enumerate(places) if place is not None), 0)
    at_times = [place == n + first or (n > 0 and place == places[n - 1]) for n, place in enumerate(places)]
    by_own_times = {place_of(frame, truth) for frame in own}
    if all(at_times) and by_own_times <= set(places) - {None}:
        return "in part"
    if None not in {*places, *by_own_times}:
        return "other times"
    numbers = [number_of(frame) for frame in truth]
    carried = [(number_of(frame), numbers[min(n + first, len(truth) - 1)]) for n, frame in enumerate(frames)]
    return "altered" if all(number in (None, right) for number, right in carried) else "other number"


def place_of(frame: np.ndarray, truth: np.ndarray) -> int | None:
    """Which of the sound frames it is, exactly."""
    if frame.shape != truth.shape[1:]:
        return None
    found = np.flatnonzero((truth == frame).all(axis=(1, 2, 3)))
    return int(found[0]) if len(found) else None


def number_of(frame: np.ndarray) -> int | None:
    """The number that a picture carries; None where some digit is neither bright nor dark."""
    if frame.shape != (HEIGHT, WIDTH, 3):
        return None
    digits = frame[: HEIGHT // 2].astype(float).reshape(HEIGHT // 2, BITS, -1).mean(axis=(0, 2))
    if np.abs(digits - 120).min() < 40:
        return None
    return int((digits > 120) @ (1 << np.arange(BITS)))


def plain(path: str) -> np.ndarray:
    """All frames in the order of decoding, by FFmpeg alone, where the damage that it finds is an error."""
    with av.open(path) as container:
        container.streams.video[0].codec_context.options = {"err_detect": "explode"}
        return np.stack(list(converted(container)))


def table(readings: Iterable[Reading]) -> str:
    """Counts by damage and outcome."""
    counts = Counter((reading.damage, reading.outcome) for reading in readings)
    kinds = list(dict.fromkeys(damage for damage, _ in counts))
    lines = ["".join(f"{name:>{len(name) + 2}}" for name in OUTCOMES).rjust(100)]
    width = len(lines[0]) - sum(len(name) + 2 for name in OUTCOMES)
    for kind in (*kinds, "all"):
        row = [sum(n for (k, o), n in counts.items() if kind in (k, "all") and o == name) for name in OUTCOMES]
        cells = "".join(f"{n or '':>{len(name) + 2}}" for n, name in zip(row, OUTCOMES, strict=True))
        lines.append(kind.ljust(width) + cells)
    return "\n".join(lines)


def read_or_worse(path: str, *args: Any) -> np.ndarray:
    """`read_clip` as a decoder with faults has it: on some names it crashes, on others it hangs, the first time."""
    if "crash" in Path(path).name:
        os.kill(os.getpid(), signal.SIGSEGV)
    met = Path(f"{path}.met")
    if "hangs_once" in met.name and not met.exists():
        met.touch()
        signal.pause()
    return read_clip(path, *args)
