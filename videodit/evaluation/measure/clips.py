"""Clips to be measured: what they are called, what was asked for, and their frames as a stream, never all at once.

Frames of files come from processes with limits (`video.guarded`), a stretch at a time, so that a broken file is an
error that names it and a film of hours takes no more memory than a short one. Frames of arrays come as they are.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from einops import rearrange

from videodit.geometry import covering
from videodit.video import IMAGE_SUFFIXES, VIDEO_SUFFIXES, VideoError, frame_times, probe, read_frames
from videodit.video.guarded import Guarded

STRETCH = 32_000_000  # bytes of frames that are read at once; two such stretches may be in memory
LAST_SHARE = 0.05  # of a step: the last frame is one that is on screen for longer, as stamps are rounded
GIF_TICK = 0.0105  # seconds: a GIF's stamps are whole hundredths
UNEVEN = (
    0.25  # of the usual step between frames; stamps are rounded to a thousandth, in GIFs to a hundredth of a second
)
NATIVE = "native"

Stream = Callable[[int | None], Iterator[np.ndarray]]


@dataclass(frozen=True)
class Clip:
    """A clip, measured frame by frame.

    `stream(side)` gives its frames in order, `uint8 h w 3`, anew with each call; frames whose shorter side is longer
    than `side` pixels come scaled down to it, None: as they are. `height` and `width` are as stored. `fps` 0 is an
    image. `digest` is the sha256 of what the frames come from.
    """

    name: str
    num_frames: int
    fps: float
    height: int
    width: int
    digest: str
    stream: Stream
    prompt: str | None = None
    seed: int | None = None
    path: str | None = None
    start: float = 0.0  # in the file, seconds; end: None: with it
    end: float | None = None

    def size(self, side: int | None) -> tuple[int, int]:
        """Rows and columns of the frames that `stream(side)` gives."""
        small = side is None or min(self.height, self.width) <= side
        return (self.height, self.width) if small or side is None else covering(self.height, self.width, side, side)

    def preprocessing(self, side: int | None) -> str:
        """What `stream(side)` does to frames, as a protocol says it."""
        return NATIVE if self.size(side) == (self.height, self.width) else f"short side {side}, bicubic, antialiased"


def clip_from_array(
    frames: Any, fps: float, *, name: str = "clip", prompt: str | None = None, seed: int | None = None
) -> Clip:
    """A clip of frames in memory.

    Args:
        frames: `f h w 3`, uint8 or float in [0, 1]; or a torch tensor `f 3 h w` in [0, 1], one clip of what the
            pipeline returns. Floats are rounded to 256 levels, as in a file.
        fps: frames a second.

    Raises:
        ValueError: frames of another form, outside [0, 1], not finite; fps not positive.
    """
    array = _uint8(frames)
    if not 0 < fps < math.inf:
        raise ValueError(f"fps={fps} must be positive: how many frames are shown a second?")
    digest = hashlib.sha256(repr(array.shape).encode() + np.ascontiguousarray(array).tobytes()).hexdigest()
    count, height, width, _ = array.shape
    clip = Clip(name, count, fps, height, width, digest, lambda _: iter(array), prompt, seed)

    def stream(side: int | None) -> Iterator[np.ndarray]:
        if clip.size(side) == (height, width):
            return iter(array)
        from videodit.video.decoders import Converter

        return map(Converter(clip.size(side)), array)

    return Clip(name, count, fps, height, width, digest, stream, prompt, seed)


def clip_from_file(
    path: str | Path,
    guard: Guarded,
    *,
    fps: float | None = None,
    start: float = 0.0,
    end: float | None = None,
    name: str | None = None,
    prompt: str | None = None,
    seed: int | None = None,
) -> Clip:
    """A clip of a video or image file, or of a stretch of it (`start` to `end`, seconds).

    Args:
        guard: opens the file, in its own processes.
        fps: frames a second to look at, those on screen at start + i / fps; None: all frames, at the file's own rate.

    Raises:
        VideoError: the file cannot be read, is slower than `fps`, or holds nothing at `start`; or, without `fps`, its
            frames do not come evenly. Frames that turn out to be broken raise it too, when they are reached.
    """
    path = Path(path)
    info = guard.call(probe, str(path))
    if info["is_image"]:
        times, rate = [0.0], 0.0
    elif fps is None:
        times, rate = _own_times(path, guard.call(frame_times, str(path)), start, end), info["fps"]
    else:
        times, rate = _even_times(path, info, fps, start, end)
    if not times:
        raise VideoError(f"{path} is {info['duration']:.3f} s long: there is no frame from {start:g} s on")
    height, width = info["height"], info["width"]
    shown = os.fsencode(path.resolve()).decode("utf-8", "backslashreplace")  # which JSON can hold
    digest = _file_digest(path) + (f" {start:g} {end}" if start or end is not None else "")

    def stream(side: int | None) -> Iterator[np.ndarray]:
        size = clip.size(side)
        options: dict[str, Any] = {} if size == (height, width) else {"cover": (side, side)}
        stretch = max(2, STRETCH // (size[0] * size[1] * 3))
        for first in range(0, len(times), stretch):
            yield from guard.call(read_frames, str(path), times[first : first + stretch], **options)

    clip = Clip(name or path.name, len(times), rate, height, width, digest, stream, prompt, seed, shown, start, end)
    return clip


def one_rate(first: float, second: float) -> bool:
    """Whether two numbers of frames a second are one: 24 are 23.98, and 23.99 where stamps are rounded."""
    return max(first, second) <= 1.01 * min(first, second)


def without_ending(name: str) -> str:
    """A clip's name without the ending of a video or image file, if it has one: the same clip may be .mkv or .mp4."""
    stem, dot, ending = name.rpartition(".")
    return stem if stem and f"{dot}{ending}".lower() in IMAGE_SUFFIXES + VIDEO_SUFFIXES else name


def _own_times(path: Path, stamps: np.ndarray, start: float, end: float | None) -> list[float]:
    """When each frame of the stretch appears."""
    times = stamps[(stamps >= start - 1e-3) & (stamps < (math.inf if end is None else end - 1e-3))]
    steps = np.diff(times)
    allowed = (
        max(UNEVEN * float(np.median(steps)), GIF_TICK if path.suffix.lower() == ".gif" else 0.0) if len(steps) else 0
    )
    if len(steps) and np.abs(steps - np.median(steps)).max() > allowed:
        raise VideoError(
            f"{path}: its frames do not come evenly, {steps.min():.3f} to {steps.max():.3f} s apart, and scores depend "
            "on that: measure at one rate with --fps"
        )
    return [float(time) for time in times]


def _even_times(
    path: Path, info: dict[str, Any], fps: float, start: float, end: float | None
) -> tuple[list[float], float]:
    """Times at a rate, and the rate: a file up to a hundredth slower (29.97 for 30) is taken at its own."""
    own = info["fps"]
    rate = own if own < fps and one_rate(own, fps) else fps
    if rate > own and path.suffix.lower() not in IMAGE_SUFFIXES:  # in which a picture that stays is stored once
        raise VideoError(f"{path} has {own:.3f} frames a second, fewer than {fps:g}: measure at its rate or less")
    last = info["duration"] if end is None else min(end, info["duration"])
    count = max(0, math.ceil((last - start) * rate - LAST_SHARE))
    return [start + i / rate for i in range(count)], rate


def _file_digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise VideoError(f"{path} cannot be read ({error.strerror})") from error


def _uint8(frames: Any) -> np.ndarray:
    if hasattr(frames, "detach"):  # a torch tensor, without importing torch for those who have none
        frames = rearrange(frames.detach().cpu().float().numpy(), "f c h w -> f h w c")
    frames = np.asarray(frames)
    if frames.ndim != 4 or frames.shape[-1] != 3 or not all(frames.shape):
        raise ValueError(f"frames {frames.shape} must be f h w 3, or a torch tensor f 3 h w: one clip, RGB")
    if frames.dtype == np.uint8:
        return frames
    if not np.issubdtype(frames.dtype, np.floating):
        raise ValueError(f"frames are {frames.dtype}; give uint8, or float in [0, 1]")
    if not (frames.min() >= 0 and frames.max() <= 1):  # which is false for NaN too
        raise ValueError("frames of floats must be finite and in [0, 1]; clip or scale them first")
    return np.rint(frames * 255).astype(np.uint8)
