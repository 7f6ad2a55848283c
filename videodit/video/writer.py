"""Frames to files: one call, the format by the suffix, the whole file or none.

| suffix  | what is written                                                    | metadata is kept as     |
|---------|--------------------------------------------------------------------|-------------------------|
| `.mp4`  | H.264, yuv420p, BT.709 limited range (converted and tagged)        | one tag a key           |
| `.mkv`  | FFV1: lossless RGB                                                 | one tag a key           |
| `.gif`  | 256 colours a frame, 50 fps at most                                | JSON in the comment     |
| `.webp` | lossless RGB                                                       | JSON in EXIF 0x010E     |
| `.png`  | lossless; one frame a file, several a folder `<stem>/0000.png`...  | one text chunk a key    |

A file is written under a temporary name beside its target and renamed when complete. GIF and WebP merge equal
neighbouring frames into one that stays longer: the times on screen are kept, the count of frames is not.
"""

import errno
import json
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fractions import Fraction
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation, VideoReformatter
from av.video.stream import VideoStream
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from videodit.disk import held, scratch_beside
from videodit.video.index import CONTAINERS, VideoError, opened_image
from videodit.video.sound import SOUNDING, Track

OUTPUT_SUFFIXES = (".mp4", ".mkv", ".gif", ".webp", ".png")
_CONTAINER_KEYS = {"major_brand", "minor_version", "compatible_brands", "encoder", "creation_time"}
_DESCRIPTION = 0x010E  # EXIF ImageDescription
BITEXACT = {"fflags": "+bitexact"}  # or Matroska numbers its tracks at random
STEADY = "mbtree=0"  # x264's vectorized macroblock tree gives other bytes each time


def write_video(
    path: str | Path,
    frames: np.ndarray | Iterable[np.ndarray],
    fps: float,
    *,
    metadata: Mapping[str, str] | None = None,
    crf: int = 18,
    keyframe_every: int | None = None,
    sound: str | Path | None = None,
) -> Path:
    """Write `uint8 f h w c` RGB frames at `fps` (frames a second); returns the path written.

    `frames` is an array or any iterable of `h w c` frames; .mp4, .mkv and .png take them one by one and never
    hold the whole clip. The suffix picks the format (table above). Several frames to `out.png` become the folder
    `out/` with `0000.png`, `0001.png`, ..., which is then the path returned; such a folder from an earlier
    run is replaced, any other is left alone. Folders on the way are made.

    `metadata` goes into the file (every PNG of a folder) and comes back by `read_metadata`; its keys are made of
    a-z, 0-9 and _. Of .mp4 only: `crf` is H.264's quality, 0 (best) to 51; `keyframe_every` closes a group of pictures
    after so many frames at most (None: H.264's usual 250), so that a reader that jumps has less to decode. Of .mp4 and
    .mkv: `sound`, a file of which the clip gets as much as it is long, one channel (AAC; FLAC).

    Raises `ValueError` for an unknown suffix, no frames, frames that are not uint8 RGB of one size, odd sizes
    for .mp4, or bad fps, crf or keys; `VideoError` when the file cannot be written. Nothing is left behind then.
    """
    path, rate, metadata = Path(path), _rate(fps), _checked_metadata(metadata or {})
    if not 0 <= crf <= 51:
        raise ValueError(f"crf={crf} is out of range: pick 0 (best) to 51 (worst)")
    if keyframe_every is not None and keyframe_every < 1:
        raise ValueError(f"keyframe_every={keyframe_every} must be 1 or more frames")
    codec_options = {"crf": str(crf), "x264-params": STEADY} | ({"g": str(keyframe_every)} if keyframe_every else {})
    writers: dict[str, Callable[[Path, Iterator[np.ndarray]], None]] = {
        ".mp4": partial(_write_mp4, rate=rate, metadata=metadata, codec_options=codec_options, sound=sound),
        ".mkv": partial(_write_mkv, rate=rate, metadata=metadata, sound=sound),
        ".gif": partial(_write_gif, rate=rate, metadata=metadata),
        ".webp": partial(_write_webp, rate=rate, metadata=metadata),
        ".png": partial(_write_png, metadata=metadata),
    }
    suffix = _known_suffix(path)
    if sound is not None and suffix not in SOUNDING:
        raise ValueError(f"{path}: a {suffix} has no sound; write {' or '.join(SOUNDING)}")
    checked = _checked_frames(frames)
    head = list(islice(checked, 2))
    if not head:
        raise ValueError(f"no frames to write to {path}: give at least one")
    checked = chain(head, checked)
    is_folder = suffix == ".png" and len(head) > 1
    if is_folder:
        path = path.with_suffix("")
        _refuse_other_folder(path)
        writers[suffix] = partial(_write_png_folder, metadata=metadata)
    with _complete(path, is_folder=is_folder) as unfinished:
        writers[suffix](unfinished, checked)
    return path


def check_writable(path: str | Path) -> None:
    """Raise now what `write_video` would raise for this path later, before a clip is computed for it.

    Raises `ValueError` for an unknown suffix, `VideoError` when no file can be made there. Folders on the way are
    made; nothing else is left.
    """
    path = Path(path)
    _known_suffix(path)
    unfinished = scratch_beside(path, path.suffix)
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.touch()
        unfinished.unlink()
    except OSError as error:
        raise _not_written(path, error) from error


def read_metadata(path: str | Path) -> dict[str, str]:
    """What `write_video` was given as `metadata`: keys in lower case, without those the container adds itself.

    Carried by .mp4, .mkv, .gif, .webp and .png (for a folder of PNGs, ask for one of them). A comment that
    is not ours comes back under "comment". Raises `VideoError` when the file cannot be opened.
    """
    path = Path(path)
    try:
        if path.suffix.lower() in (".gif", ".webp", ".png"):
            return _image_metadata(path)
        whitelist = {"format_whitelist": CONTAINERS}
        with av.open(str(path.absolute()), options=whitelist, metadata_errors="replace") as container:
            tags = {key.lower(): value for key, value in container.metadata.items()}
    except (av.error.FFmpegError, OSError, SyntaxError) as error:
        raise VideoError(f"{path} cannot be opened ({error}): give a .mp4, .mkv, .gif, .webp or .png file") from error
    return {key: value for key, value in tags.items() if key not in _CONTAINER_KEYS}


def contact_sheet(
    clips: Sequence[np.ndarray],
    path: str | Path,
    *,
    labels: Sequence[str] | None = None,
    columns: int = 6,
    scale: int = 1,
) -> Path:
    """A PNG to look at: one row for each `uint8 f h w c` clip, `columns` frames evenly from first to last.

    A clip with fewer frames shows each once. `labels` (one a clip) are written above the rows, wrapped to the
    width of the sheet; `scale` enlarges by a whole number. Returns `path`.

    Raises `ValueError` for no clips, frames that are not uint8 RGB, a wrong number of labels or a suffix other than
    .png, `VideoError` when the file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"{path}: a contact sheet is a .png")
    if not len(clips) or columns < 1 or scale < 1:
        raise ValueError(
            f"a contact sheet needs clips, columns >= 1 and scale >= 1, not {len(clips)}, {columns}, {scale}"
        )
    if labels is not None and len(labels) != len(clips):
        raise ValueError(f"{len(labels)} labels for {len(clips)} clips: give one each")
    strips = [_strip(clip, columns, scale) for clip in clips]
    width = max(strip.width for strip in strips)
    rows = [(_label(label, width), strip) for label, strip in zip(labels or [""] * len(strips), strips, strict=True)]
    sheet = Image.new("RGB", (width, sum(top.height + strip.height for top, strip in rows)), "white")
    y = 0
    for part in chain.from_iterable(rows):
        sheet.paste(part, (0, y))
        y += part.height
    with _complete(path) as unfinished:
        sheet.save(unfinished, format="PNG")
    return path


@contextmanager
def _complete(path: Path, *, is_folder: bool = False) -> Iterator[Path]:
    """A temporary name beside `path` that becomes `path` at the end, or disappears on any error."""
    unfinished = scratch_beside(path, path.suffix)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with held(unfinished, is_folder=is_folder):
            yield unfinished
            if path.is_dir() and is_folder:
                shutil.rmtree(path)
            unfinished.replace(path)
    except (av.error.FFmpegError, OSError) as error:
        raise _not_written(path, error) from error
    finally:
        if unfinished.is_dir():
            shutil.rmtree(unfinished, ignore_errors=True)
        elif unfinished.exists():
            unfinished.unlink()


def _not_written(path: Path, error: OSError | av.error.FFmpegError) -> VideoError:
    return VideoError(f"{path} cannot be written ({error.strerror or error}): check the folder and the space left")


def _known_suffix(path: Path) -> str:
    if path.suffix.lower() not in OUTPUT_SUFFIXES:
        raise ValueError(f"{path}: the suffix {path.suffix!r} is unknown; pick one of {' '.join(OUTPUT_SUFFIXES)}")
    return path.suffix.lower()


def _rate(fps: float) -> Fraction:
    if not 0 < fps <= 1000:
        raise ValueError(f"fps={fps} is out of range: frames a second, above 0 and at most 1000")
    return Fraction(float(fps)).limit_denominator(1001)  # 30000/1001 and its like stay exact


def _checked_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    for key, value in metadata.items():
        plain = key.isascii() and key.replace("_", "a").isalnum() and key == key.lower()
        if not plain or key in _CONTAINER_KEYS or not isinstance(value, str):
            raise ValueError(f"metadata {key!r}={value!r}: keys are made of a-z, 0-9, _ and free; values are strings")
    return dict(metadata)


def _checked_frames(frames: np.ndarray | Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Contiguous `uint8 h w c` frames, all of the first one's size."""
    size = None
    for number, frame in enumerate(frames):
        frame = np.asarray(frame)
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or not frame.size:
            raise ValueError(
                f"frame {number} is {frame.dtype} of shape {frame.shape}: uint8 h w 3 (RGB, 0 to 255) is needed"
            )
        if frame.shape != (size := size or frame.shape):
            raise ValueError(f"frame {number} has shape {frame.shape}, the first has {size}: give one size")
        yield np.ascontiguousarray(frame)


def _write_mp4(
    path: Path,
    frames: Iterator[np.ndarray],
    *,
    rate: Fraction,
    metadata: dict[str, str],
    codec_options: dict[str, str],
    sound: str | Path | None,
) -> None:
    first = next(frames)
    height, width = first.shape[:2]
    if height % 2 or width % 2:
        even = f"{height + height % 2} x {width + width % 2} or {max(2, height // 2 * 2)} x {max(2, width // 2 * 2)}"
        raise ValueError(
            f"{height} x {width} (height x width) does not fit .mp4, whose colours have half the pixels: use even "
            f"sizes ({even}), or write .mkv"
        )
    container_options = {"movflags": "+faststart+use_metadata_tags"}
    with _encoder(path, first, "libx264", rate, codec_options, container_options, metadata, sound) as (stream, encode):
        stream.pix_fmt = "yuv420p"
        stream.codec_context.colorspace = Colorspace.ITU709
        stream.codec_context.color_range = ColorRange.MPEG
        stream.codec_context.color_primaries = ColorPrimaries.BT709
        stream.codec_context.color_trc = ColorTrc.BT709
        for frame in chain([first], frames):
            encode(
                frame,
                format="yuv420p",
                dst_colorspace=Colorspace.ITU709,
                dst_color_range=ColorRange.MPEG,
                interpolation=Interpolation.BICUBIC,
            )


def _write_mkv(
    path: Path, frames: Iterator[np.ndarray], *, rate: Fraction, metadata: dict[str, str], sound: str | Path | None
) -> None:
    first = next(frames)
    with _encoder(path, first, "ffv1", rate, {}, BITEXACT, metadata, sound) as (stream, encode):
        stream.pix_fmt = "bgr0"
        for frame in chain([first], frames):
            encode(frame, format="bgr0")


@contextmanager
def _encoder(
    path: Path,
    first: np.ndarray,
    codec: str,
    rate: Fraction,
    codec_options: dict[str, str],
    container_options: dict[str, str],
    metadata: dict[str, str],
    sound: str | Path | None,
) -> Iterator[tuple[VideoStream, Callable[..., None]]]:
    """The stream to set up, and a function that takes the next `uint8 h w c` frame and how to reformat it."""
    reformatter = VideoReformatter()
    with av.open(str(path.absolute()), "w", options=container_options) as container:
        container.metadata.update(metadata)
        stream = container.add_stream(codec, rate=rate, options=codec_options)
        assert isinstance(stream, VideoStream)
        stream.height, stream.width = first.shape[:2]
        stream.codec_context.thread_count = 1  # by their number the file would be another on another machine
        track, count = Track(container, sound, path.suffix.lower()) if sound is not None else None, 0

        def encode(frame: np.ndarray, **target: Any) -> None:
            nonlocal count
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture = reformatter.reformat(picture, threads=1, **target)
            picture.pts, picture.time_base = count, 1 / rate
            count += 1
            container.mux(stream.encode(picture))

        yield stream, encode
        container.mux(stream.encode())
        if track is not None:
            track.write(float(count / rate))


def _write_gif(path: Path, frames: Iterator[np.ndarray], *, rate: Fraction, metadata: dict[str, str]) -> None:
    if rate > 50:
        raise ValueError(f"fps={float(rate):g} is too fast for .gif, whose frames last 0.02 s or more: use fps <= 50")
    comment = json.dumps(metadata).encode() if metadata else b""
    _save_animation(path, frames, rate, tick=10, format="GIF", loop=0, comment=comment)


def _write_webp(path: Path, frames: Iterator[np.ndarray], *, rate: Fraction, metadata: dict[str, str]) -> None:
    exif = Image.Exif()
    if metadata:
        exif[_DESCRIPTION] = json.dumps(metadata)  # ASCII, as EXIF wants
    _save_animation(path, frames, rate, tick=1, format="WEBP", loop=0, lossless=True, exif=exif)


def _save_animation(path: Path, frames: Iterator[np.ndarray], rate: Fraction, *, tick: int, **options: Any) -> None:
    """By Pillow. `tick` is the format's unit of time in ms: frames begin at the last tick before their time."""
    first, *others = (Image.fromarray(frame) for frame in frames)
    starts = [math.floor(i * 1000 / rate / tick) * tick for i in range(len(others) + 2)]
    durations = np.diff(starts).tolist()
    first.save(path, save_all=True, append_images=others, duration=durations, **options)


def _write_png(path: Path, frames: Iterator[np.ndarray], *, metadata: dict[str, str]) -> None:
    chunks = PngInfo()
    for key, value in metadata.items():
        chunks.add_itxt(key, value)
    (frame,) = frames
    Image.fromarray(frame).save(path, format="PNG", pnginfo=chunks)


def _write_png_folder(path: Path, frames: Iterator[np.ndarray], *, metadata: dict[str, str]) -> None:
    for number, frame in enumerate(frames):
        _write_png(path / f"{number:04d}.png", iter([frame]), metadata=metadata)


def _refuse_other_folder(path: Path) -> None:
    ours = path.is_dir() and all(file.suffix == ".png" and file.stem.isdigit() for file in path.iterdir())
    if path.exists() and not ours:
        raise VideoError(
            f"{path} is in the way and holds other things than a clip's PNGs: move it or pick another name"
        )


def _image_metadata(path: Path) -> dict[str, str]:
    with opened_image(path) as image:
        if path.suffix.lower() == ".png":
            image.load()  # text may follow the pixels
            return {str(key): str(value) for key, value in getattr(image, "text", {}).items()}
        comment = image.info.get("comment") or image.getexif().get(_DESCRIPTION) or ""
    text = comment.decode(errors="replace") if isinstance(comment, bytes) else str(comment)
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, dict):
        return {str(key): str(value) for key, value in found.items()}
    return {"comment": text} if text else {}


def _strip(clip: np.ndarray, columns: int, scale: int) -> Image.Image:
    """`columns` frames of a clip side by side, with a line of white after each."""
    frames = list(_checked_frames(clip))
    if not frames:
        raise ValueError("a clip without frames cannot be shown: leave it out")
    picked = np.linspace(0, len(frames) - 1, min(columns, len(frames))).round().astype(int)
    tiles = [frames[i].repeat(scale, axis=0).repeat(scale, axis=1) for i in picked]
    return Image.fromarray(np.concatenate([np.pad(t, ((0, 2), (0, 2), (0, 0)), constant_values=255) for t in tiles], 1))


def _label(text: str, width: int) -> Image.Image:
    """The text in black on white, wrapped at words to `width` pixels, a longer word within; no height without text."""
    font = ImageFont.load_default()
    lines: list[str] = []

    def fitting(word: str) -> Iterator[str]:
        while word:
            end = next((n for n in range(1, len(word)) if font.getlength(word[: n + 1]) > width - 4), len(word))
            yield word[:end]
            word = word[end:]

    for word in chain.from_iterable(map(fitting, text.split())):
        if lines and font.getlength(f"{lines[-1]} {word}") <= width - 4:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    image = Image.new("RGB", (width, 13 * len(lines)), "white")
    ImageDraw.Draw(image).multiline_text((2, 0), "\n".join(lines), fill="black", font=font, spacing=3)
    return image
