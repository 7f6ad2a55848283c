"""Frames from files: what is on screen at a given time, or an error that says why it cannot be known.

Times asked for are mapped to frames by the file's own stamps (`index`), never by counting at a rate; the frames come
from PyAV, decord or torchcodec, by choice, and are the same (`decoders`). Still images and animations (GIF, WebP, APNG)
are clips too, read by Pillow. What damaged files do to a process, `guarded` keeps away from it.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from videodit.config.ground import WHITE
from videodit.video.decoders import (
    Converter,
    first_frame,
    has_alpha,
    images,
    load,
    picture_facts,
    rgba_of,
    stamped,
    turn_of,
)
from videodit.video.index import Index, UnsuitableError, VideoError, checked, decoded, index, is_picture, opened

Slower = Literal["error", "repeat"]
HDR_TRANSFERS = (16, 18)  # SMPTE ST 2084 (PQ) and ARIB STD-B67 (HLG), by their numbers in ITU-T H.273


@dataclass(frozen=True)
class VideoInfo:
    """What a file holds. Sizes are in pixels as displayed, after rotation metadata.

    `fps` is the average rate, `num_frames / duration`; `duration`, in seconds, runs from the first frame to the
    end of the last. A still image has one frame, `fps` 0.0 and `duration` 0.0. `pixel_aspect` is the width over the
    height of a pixel (1.0: square). Of the first frame: `interlaced` where it holds two fields, `hdr` where its
    brightness is coded for such a display (PQ or HLG), so that its pixels, which are given as they are, look pale;
    `transparent` where one sees through it in places.
    """

    path: Path
    num_frames: int
    fps: float
    height: int
    width: int
    duration: float
    is_image: bool
    interlaced: bool = False
    hdr: bool = False
    pixel_aspect: float = 1.0
    transparent: bool = False


def probe(path: str | Path) -> VideoInfo:
    """Count the frames of a video or image file and measure them; decodes only the first.

    Raises `VideoError` for a path that is missing, a folder, empty, cut short, or not a video or image.
    """
    absolute = checked(path)
    found = index(absolute)
    count = len(found.starts)
    if is_picture(absolute):
        height, width, transparent = picture_facts(absolute)
        return VideoInfo(
            Path(path), count, found.fps, height, width, found.end, found.is_image, transparent=transparent
        )
    frame, aspect = first_frame(absolute, found)
    size = frame.height, frame.width
    if turn_of(frame).is_sideways:
        size, aspect = size[::-1], 1 / aspect
    interlaced, hdr = bool(frame.interlaced_frame), int(frame.color_trc) in HDR_TRANSFERS
    transparent = has_alpha(frame) and bool(rgba_of(frame)[..., 3].min() < 255)
    return VideoInfo(Path(path), count, found.fps, *size, found.end, False, interlaced, hdr, aspect, transparent)


def frame_times(path: str | Path) -> np.ndarray:
    """When each frame appears, in seconds from the first: float64, ascending. Raises `VideoError` as `probe` does."""
    return np.asarray(index(checked(path)).starts, dtype=np.float64)


def read_frames(
    path: str | Path,
    times: Sequence[float],
    *,
    backend: str = "pyav",
    cover: tuple[int, int] | None = None,
    background: str = WHITE,
) -> np.ndarray:
    """The frames on screen at `times`, as `uint8 f h w c` RGB, one for each time and in their order.

    `times` are seconds from the first frame. The frame on screen at t is the last that appears at or before t,
    where "at" allows for the rounding of the file's own clock. A still image is on screen at time 0 only; its EXIF
    orientation is applied.

    `background` is what transparent parts are laid on: a colour (`white`, `#ff8800`), or two, top and bottom of a
    gradient (`white to blue`).

    `backend` concerns video files: "pyav", or "decord" or "torchcodec" (optional, refused where they would give other
    frames; unlike PyAV here, they paint over damage inside a stream). `cover`, rows and columns, has frames scaled
    (bicubic, antialiased) until they just cover it, in their own aspect ratio.

    Raises `UnsuitableError` when a time lies outside the file, `VideoError` when it cannot be decoded, `ValueError` for
    an unknown backend or no times, `ImportError` when a backend is asked for and not installed.
    """
    path = checked(path)
    found = index(path)
    if not len(times):
        raise ValueError(f"no times to read from {path}: give at least one")
    for time in times:
        if not -found.slack <= time < found.end - found.slack and not (found.is_image and time == 0):
            screen = "a still image, on screen at time 0 only" if found.is_image else f"{found.end:.3f} s long"
            raise UnsuitableError(f"{path} is {screen}: there is no frame at {time:.3f} s; ask for times inside it")
    return load(path, found, found.positions(times), backend, cover, background)


def read_clip(
    path: str | Path,
    num_frames: int,
    fps: float,
    start: float = 0.0,
    slower: Slower = "error",
    backend: str = "pyav",
    cover: tuple[int, int] | None = None,
    background: str = WHITE,
) -> np.ndarray:
    """`num_frames` frames at `fps` from `start` (seconds) on, as `uint8 f h w c` RGB: see `read_frames`.

    Frame i is the one on screen at `start + i / fps`. A file up to 1 % slower than `fps` (29.97 for 30) is read at
    its own pace instead, each frame once. Where it is slower still, so that a frame would come twice, that is an error,
    or with `slower="repeat"` it does come twice. Nothing is invented: `UnsuitableError` also when the file ends too
    early (with the length it could give), or when an image is asked for several frames.
    """
    if num_frames < 1 or not 0 < fps < math.inf or not 0 <= start < math.inf:
        raise ValueError(f"num_frames >= 1, fps > 0, start >= 0 are needed, not {num_frames}, {fps}, {start}")
    path = checked(path)
    found = index(path)
    if num_frames == 1:
        return read_frames(path, [start], backend=backend, cover=cover, background=background)
    if found.is_image:
        raise UnsuitableError(f"{path} is a still image and cannot give {num_frames} frames: ask for num_frames=1")
    pace = found.fps if found.fps < fps <= 1.01 * found.fps else fps
    possible = max(0, math.ceil((found.end - found.slack - start) * pace - 1e-9))
    if num_frames > possible:
        raise UnsuitableError(
            f"{path} is too short: {found.end:.3f} s long, it gives {possible} frames at {fps:g} fps from "
            f"{start:g} s, not {num_frames}; ask for fewer frames, a higher fps or an earlier start"
        )
    times = [start + i / pace for i in range(num_frames)]
    if slower == "error" and pace > found.fps and len(set(found.positions(times))) < num_frames:
        raise UnsuitableError(
            f"{path} has {found.fps:.3f} frames a second on average, too few for {fps:g} fps without showing "
            f"some twice: ask for fps <= {math.floor(found.fps * 1000) / 1000:g}, or for slower='repeat'"
        )
    return read_frames(path, times, backend=backend, cover=cover, background=background)


def stream_frames(path: str | Path, *, short_side: int | None = None) -> Iterator[tuple[float, np.ndarray]]:
    """Every frame in order, one in memory at a time: when it appears, in seconds from the first, and `uint8 h w c` RGB.

    Args:
        short_side: scale down so that the shorter side has so many pixels; smaller frames stay as they are.

    Raises `VideoError` when the file cannot be decoded to its end.
    """
    path = checked(path)
    found = index(path)
    yield from zip(found.starts.tolist(), _all_frames(path, found, short_side), strict=True)


def _all_frames(path: Path, found: Index, short_side: int | None) -> Iterator[np.ndarray]:
    if is_picture(path):
        yield from images(path, range(len(found.starts)))
        return
    with opened(path) as (container, stream):
        small = short_side is not None and short_side < min(stream.width, stream.height)
        convert = Converter((short_side, short_side) if small and short_side else None)
        if found.stamps is None:
            yield from map(convert, decoded(container, stream))
            return
        waiting = iter(found.stamps.tolist())
        stamp = next(waiting)
        for pts, frame in stamped(container, stream, found):
            if pts == stamp and not frame.is_corrupt:
                yield convert(frame)
                if (stamp := next(waiting, None)) is None:
                    return
    raise VideoError(f"{path} does not decode to its end: it is damaged; copy or convert it again")
