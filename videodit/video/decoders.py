"""Frames of a file by their position, from the decoder that was asked for, bit for bit the same from each.

| backend      | how a wrong frame is kept out                                                    |
|--------------|----------------------------------------------------------------------------------|
| `pyav`       | a frame is kept only when its own stamp is one that was wanted; a seek that lands |
|              | elsewhere costs time. Damage inside a stream is an error                          |
| `torchcodec` | the stamp of every frame it gives is compared with the index; mirrored and        |
|              | interlaced files are refused                                                      |
| `decord`     | its table of times is compared with the index; turned and interlaced files, and   |
|              | colours that it converts otherwise, are refused                                   |

The last two lose their place where groups of pictures are open: such files they read from the beginning.

Pixels are converted by FFmpeg's `scale` filter (bicubic, as torchcodec and FFmpeg itself do it; PyAV's own conversion
differs on 10-bit files), and the chroma of interlaced pictures field by field, which the other two do not. Where a
smaller size is asked for, `pyav` scales in the same step; frames of the others are scaled after the conversion, which
differs from it by rounding. Pictures come as stored: displayed orientation, but no correction for non-square pixels,
interlacing or HDR; files without a colour tag are BT.601, as to every other reader.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from fractions import Fraction
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, cast

import av
import av.filter
import numpy as np
from av.buffer import Buffer
from av.container import InputContainer
from av.sidedata.sidedata import SideDataContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image, ImageOps

from videodit.config.ground import WHITE
from videodit.geometry import covering
from videodit.video.ground import lay
from videodit.video.index import (
    Index,
    UnsuitableError,
    VideoError,
    decoded,
    decoder_of,
    first_of,
    is_picture,
    opened,
    opened_image,
    packets_of,
)

BACKENDS = ("pyav", "decord", "torchcodec")
Size = tuple[int, int]  # rows, columns


def load(
    path: Path, index: Index, positions: Sequence[int], backend: str, cover: Size | None, background: str = WHITE
) -> np.ndarray:
    """Frames by position, `uint8 f h w c`, in the order asked for.

    With `cover`, they are scaled until they just cover so many rows and columns. What is transparent is laid on
    `background` (`ground`) first.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend {backend!r} is unknown: pick one of {', '.join(BACKENDS)}")
    wanted = sorted(set(positions))
    if is_picture(path):
        pictures = images(path, wanted, background)  # one in memory at a time
        found = dict(zip(wanted, map(Converter(cover, background), pictures) if cover else pictures, strict=True))
    elif backend == "pyav":
        found = _pyav_frames(path, index, wanted, cover, background)
    else:
        frames = (_decord_frames if backend == "decord" else _torchcodec_frames)(path, index, wanted)
        found = dict(zip(wanted, map(Converter(cover, background), frames) if cover else frames, strict=True))
    if len({frame.shape for frame in found.values()}) > 1:
        raise VideoError(f"{path} changes its frame size on the way: cut or convert it to one size")
    return np.stack([found[position] for position in positions])


class Converter:
    """Frames as decoded, or `uint8 h w c` -> `uint8 h w c` RGB, upright, scaled to cover a size if one is given.

    What is transparent is laid on a background before it is scaled, so that edges stay clean.
    """

    def __init__(self, cover: Size | None = None, background: str = WHITE):
        self._cover, self._background = cover, background
        self._graph: Any = None
        self._made_for: tuple[object, ...] = ()

    def __call__(self, frame: VideoFrame | np.ndarray) -> np.ndarray:
        if isinstance(frame, np.ndarray):
            frame = VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        turn = turn_of(frame)
        if has_alpha(frame):
            frame = VideoFrame.from_ndarray(lay(rgba_of(frame), self._background), format="rgb24")
        kind = (frame.width, frame.height, frame.format.name, turn.is_sideways)
        if kind != self._made_for:
            self._graph, self._made_for = self._build(frame, turn.is_sideways), kind
        self._graph.push(frame)
        return turn(self._graph.pull().to_ndarray())

    def _build(self, frame: VideoFrame, is_sideways: bool) -> Any:
        how = "interl=-1"
        if self._cover:
            rows, columns = self._cover[::-1] if is_sideways else self._cover
            rows, columns = covering(frame.height, frame.width, rows, columns)
            how = f"{columns}:{rows}"  # fields are blended: scaled one by one they would stay apart
        return _graph(frame, how, "rgb24")


def _graph(frame: VideoFrame, how: str, pixel_format: str) -> Any:
    """FFmpeg's `scale` filter from a frame's size and format to another."""
    graph = av.filter.Graph()
    graph.threads = 1  # files are read side by side
    source = graph.add_buffer(
        width=frame.width,
        height=frame.height,
        format=frame.format,
        time_base=frame.time_base or Fraction(1, 1000),
    )
    scale, rgb = graph.add("scale", f"{how}:flags=bicubic"), graph.add("format", f"pix_fmts={pixel_format}")
    sink = graph.add("buffersink")
    source.link_to(scale)
    scale.link_to(rgb)
    rgb.link_to(sink)
    graph.configure()
    return graph


def has_alpha(frame: VideoFrame) -> bool:
    return any(component.is_alpha for component in frame.format.components)


def rgba_of(frame: VideoFrame) -> np.ndarray:
    """uint8 h w 4 as stored, alpha not multiplied in."""
    graph = _graph(frame, "interl=-1", "rgba")
    graph.push(frame)
    return graph.pull().to_ndarray()


class Turn(NamedTuple):
    """From stored to displayed orientation."""

    is_sideways: bool = False
    flip_rows: bool = False
    flip_columns: bool = False

    @property
    def is_mirrored(self) -> bool:
        return (self.flip_rows != self.flip_columns) != self.is_sideways

    def __call__(self, rgb: np.ndarray) -> np.ndarray:
        rgb = rgb.swapaxes(0, 1) if self.is_sideways else rgb
        return rgb[:: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]


def turn_of(frame: VideoFrame) -> Turn:
    """A display matrix [[a, b, u], [c, d, v], ...] takes (x, y) to (ax + cy, bx + dy)."""
    # Not `frame.side_data`: that refers back to the frame, which then waits for the garbage collector with its picture.
    side = cast("Buffer | None", cast("Any", SideDataContainer)(frame).get("DISPLAYMATRIX"))
    if side is None:
        return Turn()
    a, b, _, c, d = np.frombuffer(bytes(side), dtype=np.int32)[:5].tolist()
    return Turn(True, b < 0, c < 0) if abs(b) > abs(a) else Turn(False, d < 0, a < 0)


# PyAV.


def first_frame(path: Path, index: Index) -> tuple[VideoFrame, float]:
    """As decoded, and the width over the height of its pixels as stored."""
    with opened(path) as (container, stream):
        if index.stamps is None:
            frames: Iterator[tuple[int, VideoFrame]] = enumerate(decoded(container, stream))
        else:
            frames = stamped(container, stream, index)
        first = 0 if index.stamps is None else index.stamps[0]
        for stamp, frame in frames:
            if stamp == first and not frame.is_corrupt:
                aspect = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio
                return frame, float(aspect or 1)
    raise VideoError(f"{path} does not decode at its beginning: it is damaged; copy or convert it again")


def _pyav_frames(
    path: Path, index: Index, positions: list[int], cover: Size | None, background: str
) -> dict[int, np.ndarray]:
    stamps = {position if index.stamps is None else int(index.stamps[position]): position for position in positions}
    found: dict[int, np.ndarray] = {}
    convert = Converter(cover, background)
    # A seek may land late, and an error after a seek may only mean missing references: such frames are tried again
    # from a keyframe earlier, and at last from the first packet, where an error is an error.
    for earlier in (0, 1):
        if lost := set(stamps) - set(found):
            with opened(path) as (container, stream):
                for key, run in _runs(index, sorted(lost), earlier):
                    if key is not None:
                        container.seek(key, stream=stream)
                    with suppress(av.error.FFmpegError):
                        found |= _collect(container, stream, index, set(run), convert, skips=not earlier)
    if lost := set(stamps) - set(found):
        with opened(path) as (container, stream):
            found |= _collect(container, stream, index, lost, convert)
    if lost := set(stamps) - set(found):
        time = index.starts[stamps[min(lost)]]
        raise VideoError(f"{path} does not decode at {time:.3f} s: it is damaged there; copy or convert it again")
    return {stamps[stamp]: frame for stamp, frame in found.items()}


def _runs(index: Index, stamps: list[int], earlier: int) -> Iterator[tuple[int | None, list[int]]]:
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


def _collect(
    container: InputContainer,
    stream: VideoStream,
    index: Index,
    wanted: set[int],
    convert: Converter,
    *,
    skips: bool = False,
) -> dict[int, np.ndarray]:
    """Decode from where the container stands until the last wanted stamp; returns those that were met.

    Args:
        skips: pictures that no other leans on need not be decoded where they are not wanted.
    """
    found, last = {}, max(wanted)
    frames: Iterator[tuple[int, VideoFrame]]
    if index.stamps is None:
        frames = enumerate(decoded(container, stream))
    else:
        frames = stamped(container, stream, index, wanted if skips else None)
    for stamp, frame in frames:
        if stamp in wanted and not frame.is_corrupt:
            found[stamp] = convert(frame)
        if stamp >= last:
            break
    return found


def stamped(
    container: InputContainer, stream: VideoStream, index: Index, only: set[int] | None = None
) -> Iterator[tuple[int, VideoFrame]]:
    """Frames from the next keyframe on, without the pictures shown before it, whose references are missing.

    Of H.264, pictures that are not in `only` and that no other refers to (nal_ref_idc 0: most B-frames) are passed over
    undecoded. Of other codecs FFmpeg cannot tell, or there are none.
    """
    landing = None if index.keys is not None and len(index.keys) else -math.inf
    context, decode = stream.codec_context, decoder_of(stream)
    skips = only is not None and context.name == "h264"
    with packets_of(container, stream) as packets:
        for packet in packets:
            if packet.size and packet.pts is not None:
                if landing is None and packet.is_keyframe:
                    landing = packet.pts
                if landing is None or packet.pts < landing:
                    continue
            if skips and only is not None:
                context.skip_frame = "DEFAULT" if packet.pts in only else "NONREF"
            for frame in decode(packet):
                if frame.pts is not None:
                    yield frame.pts, frame


# decord and torchcodec.


def library(backend: str) -> Any:
    """The module that a backend needs; ImportError says how to get it."""
    try:
        return import_module({"pyav": "av", "torchcodec": "torchcodec.decoders"}.get(backend, backend))
    except (ImportError, RuntimeError, OSError) as error:
        get = {
            "decord": "`pip install decord` (Linux x86-64 and Windows only)",
            "torchcodec": "`pip install torchcodec` in the version that goes with your torch, and FFmpeg's libraries "
            "from your system's packages",
        }[backend]
        raise ImportError(
            f"backend={backend!r} needs {backend}, which cannot be loaded: {get}; or use 'pyav'"
        ) from error


def _decord_frames(path: Path, index: Index, positions: list[int]) -> Sequence[np.ndarray]:
    decord = library("decord")
    if path.suffix.lower() in (".m2ts", ".mts", ".ts"):
        raise UnsuitableError(
            f"{path}: decord gives wrong frames of MPEG transport streams; read it with backend='pyav'"
        )
    _refuse_what_decord_shows_otherwise(path, index)
    try:
        reader = decord.VideoReader(str(path), num_threads=1)
        starts = np.asarray(reader.get_frame_timestamp(range(len(reader))))[:, 0]
        slack = index.slack + 1e-3  # decord keeps its times in single precision
        if len(starts) != len(index.starts) or np.abs(starts - starts[0] - index.starts).max() > slack:
            raise UnsuitableError(f"{path}: decord sees other frames than the file holds; read it with backend='pyav'")
        if index.is_open:
            return [frame.asnumpy() for n, frame in enumerate(_first(reader, positions[-1] + 1)) if n in positions]
        return reader.get_batch(positions).asnumpy()
    except (decord.DECORDError, RuntimeError) as error:
        raise UnsuitableError(f"{path} cannot be decoded by decord; read it with backend='pyav'") from error


def _first(reader: Any, count: int) -> Iterator[Any]:
    return (reader.next() for _ in range(count))


def _refuse_what_decord_shows_otherwise(path: Path, index: Index) -> None:
    """Turns; and chroma between rows, interpolated bilinearly except for plain 8 bits, where there is but one way."""
    frame, _ = first_frame(path, index)
    _refuse_alpha(path, frame, "decord")
    is_plain = frame.format.name in ("yuv420p", "yuvj420p") and frame.width % 2 == frame.height % 2 == 0
    if frame.format.chroma_height(1024) < 1024 and not is_plain:
        kind = f"{frame.format.name}, {frame.height}x{frame.width}"
        raise UnsuitableError(f"{path} ({kind}): decord gives other colours of it; read it with backend='pyav'")
    turn = turn_of(frame)
    if turn.is_sideways or turn.is_mirrored or frame.interlaced_frame:
        kind = "interlaced" if frame.interlaced_frame else "turned or mirrored"
        raise UnsuitableError(f"{path} is {kind}, which decord gets wrong; read it with backend='pyav'")


def _refuse_alpha(path: Path, frame: VideoFrame, library: str) -> None:
    if has_alpha(frame):
        raise UnsuitableError(f"{path} is transparent, which {library} drops; read it with backend='pyav'")


def _torchcodec_frames(path: Path, index: Index, positions: list[int]) -> Sequence[np.ndarray]:
    torchcodec = library("torchcodec")
    frame, _ = first_frame(path, index)
    _refuse_alpha(path, frame, "torchcodec")
    if frame.interlaced_frame or turn_of(frame).is_mirrored:
        kind = "interlaced" if frame.interlaced_frame else "mirrored"
        raise UnsuitableError(f"{path} is {kind}, which torchcodec gets wrong; read it with backend='pyav'")
    try:
        decoder = torchcodec.VideoDecoder(str(path), dimension_order="NHWC", seek_mode="exact", num_ffmpeg_threads=1)
        begin = decoder.get_frame_at(0).pts_seconds
        count = len(decoder)
        if index.is_open:
            found = [one for n in range(positions[-1] + 1) if (one := decoder.get_frame_at(n)) and n in positions]
        else:
            found = [decoder.get_frame_at(n) for n in positions]
    except (RuntimeError, ValueError, IndexError) as error:
        raise UnsuitableError(f"{path} cannot be decoded by torchcodec; read it with backend='pyav'") from error
    starts = np.array([one.pts_seconds - begin for one in found])
    if count != len(index.starts) or np.abs(starts - index.starts[positions]).max() > index.slack + 1e-6:
        raise UnsuitableError(f"{path}: torchcodec sees other frames than the file holds; read it with backend='pyav'")
    return [one.data.numpy() for one in found]


# Images and animations, by Pillow.


def picture_facts(path: Path) -> tuple[int, int, bool]:
    """Rows, columns and whether anything is transparent, of the first picture of an image or animation."""
    with opened_image(path) as image:
        image.seek(first_of(image))
        _refuse_deep(path, image)
        first = ImageOps.exif_transpose(image)
        is_clear = first.has_transparency_data and np.asarray(first.convert("RGBA"))[..., 3].min() < 255
        return first.height, first.width, bool(is_clear)


def images(path: Path, positions: Sequence[int], background: str = WHITE) -> Iterator[np.ndarray]:
    """Frames of an image or animation, `uint8 h w c` RGB, at ascending positions."""
    with opened_image(path) as image:
        for position in positions:
            image.seek(first_of(image) + position)
            _refuse_deep(path, image)
            yield _opaque(ImageOps.exif_transpose(image), background)


def _refuse_deep(path: Path, image: Image.Image) -> None:
    if image.mode.startswith(("I", "F")):
        raise VideoError(f"{path} has more than 8 bits a channel, which would be clipped: convert it to 8")


def _opaque(image: Image.Image, background: str) -> np.ndarray:
    if not image.has_transparency_data:
        return np.asarray(image.convert("RGB"))
    return lay(np.asarray(image.convert("RGBA")), background)
