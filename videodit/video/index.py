"""Which frames a file holds and when each is on screen, learned without decoding them.

A demuxing pass collects the presentation stamp (pts) of every packet. It also tells what is cut short, and what an
edit list hides. Where a container has no stamps (AVI, raw H.264), frames are counted by decoding. Animations (GIF,
WebP, APNG) tell how long each of their pictures stays.
"""

import math
import struct
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, cast

import av
import numpy as np
from av.codec import CodecContext
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image

IMAGE_SUFFIXES = (
    *(".apng", ".avif", ".bmp", ".dib", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".mpo", ".pbm"),
    *(".pgm", ".png", ".pnm", ".ppm", ".qoi", ".tga", ".tif", ".tiff", ".webp"),
)
"""Read by Pillow. A .gif, .webp, .avif or .png may hold a clip: `VideoInfo.is_image` tells."""
VIDEO_SUFFIXES = (
    *(".264", ".265", ".3g2", ".3gp", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".h264", ".h265"),
    *(".hevc", ".ivf", ".m1v", ".m2t", ".m2ts", ".m2v", ".m4v", ".mj2", ".mjpeg", ".mjpg", ".mk3d", ".mkv", ".mov"),
    *(".mp4", ".mpe", ".mpeg", ".mpg", ".mts", ".mxf", ".nut", ".obu", ".ogm", ".ogv", ".qt", ".rm", ".rmvb", ".ts"),
    *(".vob", ".webm", ".wmv", ".wtv", ".y4m"),
)
"""Read by PyAV, or by decord or torchcodec on request."""

MAX_PIXELS = 2**26
"""Of a frame. A header that promises more (8192 x 8192) is taken for damage or for an attack on memory."""

_UNSTAMPED = ("avi", "m4v", "mpegvideo")  # the stamps that FFmpeg makes up for them are not those of display
_WITH_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
CONTAINERS = (  # no playlists: they name other files
    "asf,avi,dv,flv,h264,hevc,ivf,m4v,matroska,mjpeg,mov,mpeg,mpegts,mpegvideo,mxf,nut,obu,ogg,rm,wtv,yuv4mpegpipe"
)
_PICTURES = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "QOI", "WEBP")  # no PostScript, which is a program
_BY_NAME = {".tga": "TGA", ".tif": "TIFF", ".tiff": "TIFF"}  # only where they are called so: no mark to know; pages
_STILLS = ("bmp", "gif", "jpeg2000", "mjpeg", "png", "tiff", "webp")  # codecs of covers, which some films have first
_IMAGE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, Image.DecompressionBombError)
_UNTIMED_FRAME = 0.1  # seconds; what browsers give an animation frame whose duration is missing or zero
_REMEMBERED = 64  # files: spans of one file are read one after the other, and a long film has a megabyte of stamps


class VideoError(ValueError):
    """A file that cannot be read or written as asked; the message names the file, what is wrong and the fix."""


class UnsuitableError(VideoError):
    """A file that is sound, and cannot give what was asked: too short, too slow, or no such time in it."""


@dataclass(frozen=True)
class Index:
    """When each frame appears, and how to find it again."""

    starts: np.ndarray  # seconds from the first frame, ascending
    end: float  # seconds, when the last frame leaves the screen
    slack: float = 1e-6  # seconds by which the file's clock may have rounded a start up
    is_image: bool = False
    stamps: np.ndarray | None = None  # pts of each frame; None where only their order is known
    keys: np.ndarray | None = None  # pts of the keyframes
    is_open: bool = False  # some pictures are shown before the keyframe that they follow in the file

    @property
    def fps(self) -> float:
        return len(self.starts) / self.end if self.end else 0.0

    def positions(self, times: Sequence[float]) -> list[int]:
        """Which frame, counted from 0, is on screen at each time."""
        after = np.searchsorted(self.starts, np.asarray(times, dtype=np.float64) + self.slack, side="right")
        return np.maximum(after - 1, 0).tolist()


def checked(
    path: str | Path, suffixes: Sequence[str] = IMAGE_SUFFIXES + VIDEO_SUFFIXES, what: str = "video or image"
) -> Path:
    """The absolute path of a file that has something in it; VideoError says what is wrong with another."""
    path = Path(path)
    if path.is_dir():
        raise VideoError(f"{path} is a folder: name one file in it")
    try:
        size = path.stat().st_size
    except OSError as error:
        raise VideoError(f"{path} cannot be opened ({error.strerror}): check the path") from error
    if not path.is_file():
        raise VideoError(f"{path} is no regular file (a pipe, socket or device): copy what it gives to a file")
    if size == 0:
        raise VideoError(f"{path} is empty (0 bytes): copy or download it again")
    if path.suffix.lower() not in suffixes:
        known = " ".join(sorted(suffixes))
        raise VideoError(f"{path} is no {what} by its name: rename or convert it to one of {known}")
    return path.absolute()  # FFmpeg takes what precedes a colon in a relative path for a protocol


def index(path: Path) -> Index:
    """Of a `checked` path; remembered until the file changes."""
    status = path.stat()
    return _scan(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=_REMEMBERED)
def _scan(path: Path, _modified: int, _size: int) -> Index:
    return _scan_image(path) if is_picture(path) else _scan_video(path)


def is_picture(path: Path) -> bool:
    """Whether Pillow reads it: a still image or an animation."""
    return path.suffix.lower() in IMAGE_SUFFIXES


# Video files, by PyAV.


@contextmanager
def opened(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The file's main video stream, closed afterwards whatever happens; FFmpeg's errors become `VideoError`."""
    try:
        # Containers are looked through for their streams, of which FFmpeg would decode a frame each time to learn what
        # nobody here asks for.
        options = {"skip_frame": "all", "format_whitelist": CONTAINERS}
        with av.open(str(path), options=options, metadata_errors="replace") as container:
            stream = _main_stream(container)
            if stream is None:
                raise VideoError(f"{path} has no video in it: give a file that has")
            if stream.codec_context is None:
                raise VideoError(f"{path} is damaged, or made by a codec unknown here: copy or convert it again")
            stream.codec_context.thread_count = 1  # files are read side by side
            refuse_huge(path, stream.width, stream.height)
            # Without err_detect FFmpeg paints over damage and hands out invented pixels as a good frame. (A stream that
            # is damaged and still well-formed cannot be told: video codecs carry no checksums.)
            stream.codec_context.options = {"err_detect": "explode", "max_pixels": str(MAX_PIXELS)}
            yield container, stream
    except MemoryError:  # FFmpeg's is one of its errors too, and says nothing about the file
        raise
    except (av.error.FFmpegError, OSError) as error:
        reason = error.strerror or "unknown error"
        raise VideoError(
            f"{path} cannot be decoded ({reason}): it is damaged, cut short or no video; copy or convert it again"
        ) from error
    except IndexError as error:  # of PyAV, on a stream that no header has told of
        raise VideoError(f"{path} holds a stream that begins in the middle, or is damaged: convert it again") from error


def _main_stream(container: InputContainer) -> VideoStream | None:
    """The film in a container: what FFmpeg takes for it, unless that is a cover, one picture beside a longer stream."""
    films = [one for one in container.streams.video if not one.disposition & Disposition.attached_pic]
    best = container.streams.best("video")
    if best not in films:
        best = None
    if best is None or (best.codec_context is not None and best.codec_context.name in _STILLS and best.frames <= 1):
        moving = [one for one in films if one.codec_context is None or one.codec_context.name not in _STILLS]
        longer = [one for one in films if one.frames > 1]
        return next(iter([*moving, *longer]), cast("VideoStream | None", best) or next(iter(films), None))
    return cast("VideoStream", best)


def packets_of(container: InputContainer, stream: VideoStream) -> AbstractContextManager[Iterator[Packet]]:
    """To be used in a `with`: a demuxer of PyAV that is left before its end, and not closed, leaks."""
    return closing(cast("Generator[Packet]", container.demux(stream)))


def decoder_of(stream: VideoStream) -> Callable[[Packet], Sequence[VideoFrame]]:
    """What turns the stream's packets into frames.

    VP8 and VP9 carry their alpha beside the picture: FFmpeg's own decoders pass over it, libvpx does not.
    """
    context = stream.codec_context
    tagged = {key.lower(): value for key, value in stream.metadata.items()}.get("alpha_mode") == "1"
    if tagged and context.name in _WITH_ALPHA:
        other = cast("VideoCodecContext", CodecContext.create(_WITH_ALPHA[context.name], "r"))
        other.extradata, other.thread_count, other.options = context.extradata, 1, dict(context.options)
        return other.decode
    return lambda packet: packet.decode()


def decoded(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    """All frames in the order of decoding."""
    with packets_of(container, stream) as packets:
        decode = decoder_of(stream)
        for packet in packets:
            yield from decode(packet)


def refuse_huge(path: Path, width: int, height: int) -> None:
    """VideoError for a frame of more than MAX_PIXELS."""
    if width * height > MAX_PIXELS:
        raise VideoError(
            f"{path} says that its frames are {height}x{width}, more than {MAX_PIXELS / 1e6:.0f} million pixels: it is "
            f"damaged, or must be scaled down first"
        )


class _Packet(NamedTuple):
    pts: int
    is_key: bool
    is_hidden: bool  # decoded for others' sake, but cut away by an edit list
    duration: int


def _scan_video(path: Path) -> Index:
    with opened(path) as (container, stream):
        packets, is_partial = [], False
        by_order = container.format.name in _UNSTAMPED
        with packets_of(container, stream) as found:
            for packet in found:
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
    shown = [packet.pts for packet in packets[first:] if not packet.is_hidden and packet.pts >= packets[first].pts]
    if not shown:
        raise VideoError(f"{path} has no frames to show, all are cut away by its edit list: convert it again")
    stamps = np.unique(np.array(shown, dtype=np.int64))
    if len(stamps) < len(shown):
        raise VideoError(f"{path} has several frames of one time: it is damaged, or joined of parts; convert it again")
    keys = np.array(sorted({packet.pts for packet in packets if packet.is_key}), dtype=np.int64)
    starts = (stamps - stamps[0]) * tick
    gap = float(starts[-1]) / (len(starts) - 1) if len(starts) > 1 else 1 / rate
    slack = tick if tick < gap / 4 else 1e-6
    latest = np.maximum.accumulate([packet.pts if packet.is_key else -math.inf for packet in packets[first:]])
    is_open = any(packet.pts < key for packet, key in zip(packets[first:], latest, strict=True))
    return Index(starts, float(starts[-1]) + gap, slack, False, stamps, keys, is_open)


def _scan_by_order(path: Path) -> Index:
    """Where packets have no stamps, frames are counted by decoding, and come at a constant rate."""
    with opened(path) as (container, stream):
        gap = 1 / float(stream.guessed_rate or stream.average_rate or 25)
        count = sum(1 for _ in decoded(container, stream))
    if not count:
        raise VideoError(f"{path} has no frames that decode: copy or convert it again")
    return Index(np.arange(count) * gap, count * gap)


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
        ticks = (int(hours) * 3600 + int(minutes) * 60 + float(seconds)) / float(stream.time_base or 1)
        return ticks if math.isfinite(ticks) else None
    except (KeyError, ValueError):
        return None


# Images and animations, by Pillow.


@contextmanager
def opened_image(path: Path) -> Iterator[Image.Image]:
    """The image, closed afterwards; whatever goes wrong with it meanwhile becomes `VideoError`."""
    try:
        own = _BY_NAME.get(path.suffix.lower())
        formats = _PICTURES if own is None else (*_PICTURES, own)
        with Image.open(path, formats=formats) as image:
            refuse_huge(path, *image.size)
            yield image
    except VideoError:
        raise
    except _IMAGE_ERRORS as error:
        raise VideoError(f"{path} cannot be read as an image ({error}): copy or convert it again") from error


def _scan_image(path: Path) -> Index:
    with opened_image(path) as image:
        count, first = getattr(image, "n_frames", 1), first_of(image)
        if count - first <= 1 or image.format == "MPO":  # a phone's JPEG, with a depth or brightness map behind it
            return Index(np.zeros(1), 0.0, is_image=True)
        if image.format == "TIFF":
            raise VideoError(f"{path} holds {count} pages, and not when each is shown: save each as a picture")
        ends = np.cumsum([_seconds(image, position) for position in range(first, count)])
    return Index(np.concatenate([[0.0], ends[:-1]]), float(ends[-1]))


def first_of(image: Image.Image) -> int:
    """The number of an animation's first picture: a PNG may have one before it, for those who cannot play it."""
    return int(getattr(image, "default_image", False))


def _seconds(image: Image.Image, position: int) -> float:
    image.seek(position)
    image.load()  # WebP knows its duration only then
    return image.info.get("duration", 0) / 1000 or _UNTIMED_FRAME
