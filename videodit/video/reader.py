"""Frames from files: what is on screen at a given time, or an error that says why it cannot be known.

A demuxing pass collects the presentation stamp (pts) of every packet, without decoding. Times asked for are
mapped to stamps, the container is sought to the keyframe before, and a decoded frame is kept only when its own
stamp is one that was wanted: a seek that lands elsewhere costs time, never a wrong frame. Pictures displayed
before the keyframe where decoding starts (an open group of pictures) lean on frames not decoded, so they are
left to a pass that starts earlier. Still images and animations (GIF, WebP, APNG) are read by Pillow.

Pixels come as stored: displayed orientation, but no correction for non-square pixels, interlacing or HDR;
files without a colour tag are BT.601, as to every other reader.
"""

import math
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, cast

import av
import numpy as np
from av.buffer import Buffer
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from PIL import Image, ImageOps

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp")
"""Read by Pillow. A .gif, .webp or .png may hold a clip: `VideoInfo.is_image` tells."""
VIDEO_SUFFIXES = (
    *(".3gp", ".avi", ".flv", ".h264", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts"),
    *(".ogv", ".ts", ".webm", ".wmv"),
)
"""Read by PyAV, or by decord on request."""

_IMAGE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)
_UNTIMED_FRAME = 0.1  # seconds; what browsers give an animation frame whose duration is missing or zero


class VideoError(ValueError):
    """A file that cannot be read or written as asked; the message names the file, what is wrong and the fix."""


@dataclass(frozen=True)
class VideoInfo:
    """What a file holds. Sizes are in pixels as displayed, after rotation metadata.

    `fps` is the average rate, `num_frames / duration`; `duration`, in seconds, runs from the first frame to the
    end of the last. A still image has one frame, `fps` 0.0 and `duration` 0.0.
    """

    path: Path
    num_frames: int
    fps: float
    height: int
    width: int
    duration: float
    is_image: bool


def probe(path: str | Path) -> VideoInfo:
    """Count the frames of a video or image file and measure them; decodes only the first.

    Raises `VideoError` for a path that is missing, a folder, empty, cut short, or not a video or image.
    """
    absolute = _checked(path)
    index = _index(absolute)
    height, width = _load(absolute, index, [0], "pyav").shape[1:3]
    return VideoInfo(Path(path), len(index.starts), index.fps, height, width, index.end, index.is_image)


def read_frames(path: str | Path, times: Sequence[float], *, backend: str = "pyav") -> np.ndarray:
    """The frames on screen at `times`, as `uint8 f h w c` RGB, one for each time and in their order.

    `times` are seconds from the first frame. The frame on screen at t is the last that appears at or before t,
    where "at" allows for the rounding of the file's own clock. A still image is on screen at time 0 only; its
    transparent parts are shown over white, and its EXIF orientation is applied.

    `backend` concerns video files: "pyav", or "decord" (optional; refused for MPEG transport streams and where its
    frame times disagree with the file, but it can still mistake a frame in an open group of pictures).

    Raises `VideoError` when the file cannot be decoded or a time lies outside it, `ValueError` for an unknown
    backend or no times, `ImportError` when decord is asked for and not installed.
    """
    path = _checked(path)
    index = _index(path)
    if not len(times):
        raise ValueError(f"no times to read from {path}: give at least one")
    for time in times:
        if not -index.slack <= time < index.end - index.slack and not (index.is_image and time == 0):
            screen = "a still image, on screen at time 0 only" if index.is_image else f"{index.end:.3f} s long"
            raise VideoError(f"{path} is {screen}: there is no frame at {time:.3f} s; ask for times inside it")
    return _load(path, index, index.positions(times), backend)


def read_clip(
    path: str | Path, num_frames: int, fps: float, *, start: float = 0.0, backend: str = "pyav"
) -> np.ndarray:
    """`num_frames` frames at `fps` from `start` (seconds) on, as `uint8 f h w c` RGB: see `read_frames`.

    Frame i is the one on screen at `start + i / fps`. A file up to 1 % slower than `fps` (29.97 for 30) is read at
    its own pace instead, each frame once. Nothing is invented: `VideoError` when the file ends too early (with
    the length it could give), when it is slower still, so that a frame would come twice, or when an image is
    asked for several frames.
    """
    if num_frames < 1 or not 0 < fps < math.inf or not 0 <= start < math.inf:
        raise ValueError(f"num_frames >= 1, fps > 0, start >= 0 are needed, not {num_frames}, {fps}, {start}")
    path = _checked(path)
    index = _index(path)
    if num_frames == 1:
        return read_frames(path, [start], backend=backend)
    if index.is_image:
        raise VideoError(f"{path} is a still image and cannot give {num_frames} frames: ask for num_frames=1")
    pace = index.fps if index.fps < fps <= 1.01 * index.fps else fps
    possible = max(0, math.ceil((index.end - index.slack - start) * pace - 1e-9))
    if num_frames > possible:
        raise VideoError(
            f"{path} is too short: {index.end:.3f} s long, it gives {possible} frames at {fps:g} fps from "
            f"{start:g} s, not {num_frames}; ask for fewer frames, a higher fps or an earlier start"
        )
    times = [start + i / pace for i in range(num_frames)]
    if pace > index.fps and len(set(index.positions(times))) < num_frames:
        raise VideoError(
            f"{path} has {index.fps:.3f} frames a second on average, too few for {fps:g} fps without showing "
            f"some twice: ask for fps <= {math.floor(index.fps * 1000) / 1000:g}"
        )
    return read_frames(path, times, backend=backend)


@dataclass(frozen=True)
class _Index:
    """When each frame appears, and how to find it again."""

    starts: np.ndarray  # seconds from the first frame, ascending
    end: float  # seconds, when the last frame leaves the screen
    slack: float = 1e-6  # seconds by which the file's clock may have rounded a start up
    is_image: bool = False
    stamps: np.ndarray | None = None  # pts of each frame; None where only their order is known
    keys: np.ndarray | None = None  # pts of the keyframes

    @property
    def fps(self) -> float:
        return len(self.starts) / self.end if self.end else 0.0

    def positions(self, times: Sequence[float]) -> list[int]:
        """Which frame, counted from 0, is on screen at each time."""
        after = np.searchsorted(self.starts, np.asarray(times, dtype=np.float64) + self.slack, side="right")
        return np.maximum(after - 1, 0).tolist()


def _checked(path: str | Path) -> Path:
    path = Path(path)
    if path.is_dir():
        raise VideoError(f"{path} is a folder: name one file in it")
    try:
        size = path.stat().st_size
    except OSError as error:
        raise VideoError(f"{path} cannot be opened ({error.strerror}): check the path") from error
    if size == 0:
        raise VideoError(f"{path} is empty (0 bytes): copy or download it again")
    if path.suffix.lower() not in IMAGE_SUFFIXES + VIDEO_SUFFIXES:
        known = " ".join(sorted(IMAGE_SUFFIXES + VIDEO_SUFFIXES))
        raise VideoError(f"{path} is no video or image by its name: rename or convert it to one of {known}")
    return path.absolute()  # FFmpeg takes what precedes a colon in a relative path for a protocol


def _index(path: Path) -> _Index:
    status = path.stat()
    return _scan(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=256)  # epochs read the same files again; a changed file has another key
def _scan(path: Path, _modified: int, _size: int) -> _Index:
    return _scan_image(path) if path.suffix.lower() in IMAGE_SUFFIXES else _scan_video(path)


def _load(path: Path, index: _Index, positions: list[int], backend: str) -> np.ndarray:
    """Frames by position, `uint8 f h w c`, in the order asked for."""
    if backend not in ("pyav", "decord"):
        raise ValueError(f"backend {backend!r} is unknown: pick 'pyav' or 'decord'")
    if path.suffix.lower() in IMAGE_SUFFIXES:
        found = _images(path, set(positions))
    elif backend == "decord":
        found = _decord_frames(path, index, sorted(set(positions)))
    else:
        found = _pyav_frames(path, index, sorted(set(positions)))
    if len({frame.shape for frame in found.values()}) > 1:
        raise VideoError(f"{path} changes its frame size on the way: cut or convert it to one size")
    return np.stack([found[position] for position in positions])


# Video files, by PyAV.


@contextmanager
def _opened(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The file's main video stream, closed afterwards whatever happens; FFmpeg's errors become `VideoError`."""
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            stream = container.streams.best("video")
            if not isinstance(stream, VideoStream) or stream.disposition & Disposition.attached_pic:
                raise VideoError(f"{path} has no video in it: give a file that has")
            if stream.codec_context is None:
                raise VideoError(f"{path} is damaged, or made by a codec unknown here: copy or convert it again")
            # Without this FFmpeg paints over damage and hands out invented pixels as a good frame. (A stream that is
            # damaged and still well-formed cannot be told: video codecs carry no checksums.)
            stream.codec_context.options = {"err_detect": "explode"}
            yield container, stream
    except (av.error.FFmpegError, OSError) as error:
        reason = error.strerror or "unknown error"
        raise VideoError(
            f"{path} cannot be decoded ({reason}): it is damaged, cut short or no video; copy or convert it again"
        ) from error


class _Packet(NamedTuple):
    pts: int
    is_key: bool
    is_hidden: bool  # decoded for others' sake, but cut away by an edit list
    duration: int


def _scan_video(path: Path) -> _Index:
    with _opened(path) as (container, stream):
        packets, is_partial = [], False
        by_order = container.format.name == "avi"  # no stamps in it; those FFmpeg makes up are not in display order
        for packet in container.demux(stream):
            if packet.size:
                by_order |= packet.pts is None
                is_partial |= packet.is_corrupt
                stamp = _Packet(packet.pts or 0, packet.is_keyframe, packet.is_discard, packet.duration or 0)
                packets.append(stamp)
        if not packets:
            raise VideoError(f"{path} has no frames: copy or convert it again")
        end = None if by_order else max(packet.pts + packet.duration for packet in packets)
        _refuse_cut(path, stream, len(packets), end, is_partial)
        tick, rate = float(stream.time_base or 0), float(stream.average_rate or 25)
    if by_order:
        return _scan_by_order(path)

    first = next((i for i, packet in enumerate(packets) if packet.is_key), 0)
    # What comes or shows before the first keyframe cannot be decoded by anyone: it is no frame.
    shown = {packet.pts for packet in packets[first:] if not packet.is_hidden and packet.pts >= packets[first].pts}
    if not shown:
        raise VideoError(f"{path} has no frames to show, all are cut away by its edit list: convert it again")
    stamps = np.array(sorted(shown), dtype=np.int64)
    keys = np.array(sorted({packet.pts for packet in packets if packet.is_key}), dtype=np.int64)
    starts = (stamps - stamps[0]) * tick
    gap = float(starts[-1]) / (len(starts) - 1) if len(starts) > 1 else 1 / rate
    return _Index(starts, float(starts[-1]) + gap, tick if tick < gap / 4 else 1e-6, stamps=stamps, keys=keys)


def _scan_by_order(path: Path) -> _Index:
    """Where packets have no stamps, frames are counted by decoding, and come at a constant rate."""
    with _opened(path) as (container, stream):
        gap = 1 / float(stream.guessed_rate or stream.average_rate or 25)
        count = sum(1 for _ in container.decode(stream))
    if not count:
        raise VideoError(f"{path} has no frames that decode: copy or convert it again")
    return _Index(np.arange(count) * gap, count * gap)


def _refuse_cut(path: Path, stream: VideoStream, count: int, end: int | None, is_partial: bool) -> None:
    """Raise for a file that holds less than its header promises, or whose last packet is partial.

    A header counts also the frames that an edit list hides, so fewer packets alone prove nothing where stamps
    are known: the time they reach (`end`, in ticks) must fall short as well. Matroska promises a time only.
    """
    promised = stream.duration if stream.frames else _tagged_duration(stream)
    half_frame = 0.5 / float((stream.average_rate or 25) * (stream.time_base or 1))
    fewer = not stream.frames or count < stream.frames
    shorter = end is None or (promised is not None and end - min(stream.start_time or 0, 0) < promised - half_frame)
    if is_partial or (fewer and shorter and (stream.frames or promised is not None)):
        promise = f" of {stream.frames}" if stream.frames else ""
        raise VideoError(f"{path} is cut short or damaged: only {count}{promise} frames are there; copy it again")


def _tagged_duration(stream: VideoStream) -> float | None:
    """Matroska's DURATION tag (hours:minutes:seconds) in ticks; None without one."""
    try:
        hours, minutes, seconds = stream.metadata["DURATION"].split(":")
        return (int(hours) * 3600 + int(minutes) * 60 + float(seconds)) / float(stream.time_base or 1)
    except (KeyError, ValueError):
        return None


def _pyav_frames(path: Path, index: _Index, positions: list[int]) -> dict[int, np.ndarray]:
    wanted = {position if index.stamps is None else int(index.stamps[position]): position for position in positions}
    found: dict[int, np.ndarray] = {}
    # A seek may land late, and an error after a seek may only mean missing references: such frames are tried again
    # from a keyframe earlier, and at last from the first packet, where an error is an error.
    for earlier in (0, 1):
        if lost := set(wanted) - set(found):
            with _opened(path) as (container, stream):
                for key, run in _runs(index, sorted(lost), earlier):
                    if key is not None:
                        container.seek(key, stream=stream)
                    with suppress(av.error.FFmpegError):
                        found |= _collect(container, stream, index, set(run))
    if lost := set(wanted) - set(found):
        with _opened(path) as (container, stream):
            found |= _collect(container, stream, index, lost)
    if lost := set(wanted) - set(found):
        time = index.starts[wanted[min(lost)]]
        raise VideoError(f"{path} does not decode at {time:.3f} s: it is damaged there; copy or convert it again")
    return {wanted[stamp]: frame for stamp, frame in found.items()}


def _runs(index: _Index, stamps: list[int], earlier: int) -> Iterator[tuple[int | None, list[int]]]:
    """Stamps best decoded in one go, each with the keyframe to seek to, `earlier` before its own (None: no seek)."""
    if index.keys is None or not len(index.keys):
        yield None, stamps
        return
    groups = (np.searchsorted(index.keys, stamps, side="right") - 1).tolist()
    begin = 0
    for i in range(1, len(stamps) + 1):
        if i == len(stamps) or groups[i] > groups[i - 1] + 1:
            key = groups[begin] - earlier
            yield (int(index.keys[key]) if key > 0 else None), stamps[begin:i]
            begin = i


def _collect(container: InputContainer, stream: VideoStream, index: _Index, wanted: set[int]) -> dict[int, np.ndarray]:
    """Decode from where the container stands until the last wanted stamp; returns those that were met."""
    found, last = {}, max(wanted)
    reformatter = VideoReformatter()  # one for all frames: a fresh scaler for each costs up to three times more
    frames = enumerate(container.decode(stream)) if index.stamps is None else _stamped(container, stream, index)
    for stamp, frame in frames:
        if stamp in wanted and not frame.is_corrupt:
            rgb = reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
            found[stamp] = _upright(rgb, frame)
        if stamp >= last:
            break
    return found


def _stamped(container: InputContainer, stream: VideoStream, index: _Index) -> Iterator[tuple[int, VideoFrame]]:
    """Frames from the next keyframe on, without the pictures shown before it, whose references are missing."""
    landing = None if index.keys is not None and len(index.keys) else -math.inf
    for packet in container.demux(stream):
        if packet.size and packet.pts is not None:
            if landing is None and packet.is_keyframe:
                landing = packet.pts
            if landing is None or packet.pts < landing:
                continue
        for frame in packet.decode():
            if frame.pts is not None:
                yield frame.pts, frame


def _upright(rgb: np.ndarray, frame: VideoFrame) -> np.ndarray:
    """`h w c` as displayed. A display matrix [[a, b, u], [c, d, v], ...] takes (x, y) to (ax + cy, bx + dy)."""
    side = cast("Buffer | None", frame.side_data.get("DISPLAYMATRIX"))
    if side is None:
        return rgb
    a, b, _, c, d = np.frombuffer(bytes(side), dtype=np.int32)[:5].tolist()
    if abs(b) > abs(a):
        rgb, a, d = rgb.swapaxes(0, 1), c, b
    return rgb[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


# Video files, by decord.


def _decord_frames(path: Path, index: _Index, positions: list[int]) -> dict[int, np.ndarray]:
    try:
        import decord
    except ImportError as error:
        raise ImportError(
            "backend='decord' needs decord, which is not installed: `pip install decord` (Linux x86-64 and Windows "
            "only), or use backend='pyav'"
        ) from error
    if path.suffix.lower() in (".m2ts", ".mts", ".ts"):
        raise VideoError(f"{path}: decord gives wrong frames of MPEG transport streams; read it with backend='pyav'")
    try:
        reader = decord.VideoReader(str(path), num_threads=1)
        starts = np.asarray(reader.get_frame_timestamp(range(len(reader))))[:, 0]
        slack = index.slack + 1e-3  # decord keeps its times in single precision
        if len(starts) != len(index.starts) or np.abs(starts - starts[0] - index.starts).max() > slack:
            raise VideoError(f"{path}: decord sees other frames than the file holds; read it with backend='pyav'")
        frames = reader.get_batch(positions).asnumpy()
    except decord.DECORDError as error:
        raise VideoError(f"{path} cannot be decoded by decord; read it with backend='pyav'") from error
    return dict(zip(positions, frames, strict=True))


# Images and animations, by Pillow.


@contextmanager
def _image(path: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as image:
            yield image
    except VideoError:
        raise
    except _IMAGE_ERRORS as error:
        raise VideoError(f"{path} cannot be read as an image ({error}): copy or convert it again") from error


def _scan_image(path: Path) -> _Index:
    with _image(path) as image:
        count = getattr(image, "n_frames", 1)
        if count == 1:
            return _Index(np.zeros(1), 0.0, is_image=True)
        ends = np.cumsum([_seconds(image, position) for position in range(count)])
    return _Index(np.concatenate([[0.0], ends[:-1]]), float(ends[-1]))


def _seconds(image: Image.Image, position: int) -> float:
    image.seek(position)
    image.load()  # WebP knows its duration only then
    return image.info.get("duration", 0) / 1000 or _UNTIMED_FRAME


def _images(path: Path, positions: set[int]) -> dict[int, np.ndarray]:
    found = {}
    with _image(path) as image:
        for position in sorted(positions):
            image.seek(position)
            if image.mode.startswith(("I", "F")):
                raise VideoError(f"{path} has more than 8 bits a channel, which would be clipped: convert it to 8")
            found[position] = np.asarray(_over_white(ImageOps.exif_transpose(image)))
    return found


def _over_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
