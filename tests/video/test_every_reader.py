"""The table of readers: what each gives of every kind of file is what a sequential decode gives, bit for bit.

A reader that would give something else refuses the file by name; those cells are listed here, so that one that begins
to work, or to fail, is seen.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from videodit.video import VideoError, probe, read_frames
from videodit.video.index import index

from .conftest import HEIGHT, WIDTH, numbered, numbers, write_numbered

GOP = {"g": "12", "bf": "3"}
OPEN = "open-gop=1:keyint=12:min-keyint=12:bframes=3:b-adapt=0:scenecut=0"  # B-frames shown before their keyframe
PYRAMID = {"x264-params": "bframes=7:b-pyramid=normal:b-adapt=0:keyint=24:ref=4"}  # B-frames that others refer to
FIELDS = {"x264-params": "interlaced=1:tff=1:keyint=12:bframes=3"}
UNEVEN = [n + n // 3 * 5 for n in range(40)]
ODD = (HEIGHT - 1, WIDTH - 1)
KINDS: dict[str, dict[str, Any]] = {
    "b_frames.mp4": {"options": GOP},
    "b_frames.mkv": {"options": GOP},
    "b_frames.avi": {"options": GOP},
    "b_frames.ts": {"options": GOP},
    "b_frames.h264": {"options": GOP},
    "pyramid.mp4": {"options": PYRAMID},
    "open_gop.mp4": {"options": {"x264-params": OPEN}},
    "open_gop.mkv": {"options": {"x264-params": OPEN}},
    "open_gop.ts": {"options": {"x264-params": OPEN}},
    "open_gop.mpg": {"codec": "mpeg2video", "options": {"bf": "2", "g": "9"}},
    "mpeg4.avi": {"codec": "mpeg4", "options": {"bf": "2", "g": "9"}},
    "hevc.mp4": {"codec": "libx265", "options": {"x265-params": OPEN + ":log-level=none"}},
    "vp8_hidden.webm": {"codec": "libvpx", "options": {"auto-alt-ref": "1", "lag-in-frames": "16"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"g": "12"}},
    "lossless.mkv": {"codec": "ffv1", "pixels": "bgr0"},
    "variable_rate.mp4": {"pts": UNEVEN, "options": GOP},
    "variable_rate.mkv": {"pts": UNEVEN, "options": GOP},
    "edit_list.mp4": {"pts": range(-5, 35), "options": {"bf": "0"}},
    "turned_90.mp4": {"rotate": (90, False), "options": GOP},
    "turned_180.mp4": {"rotate": (180, False), "options": GOP},
    "mirrored.mp4": {"rotate": (90, True), "options": GOP},
    "odd.webm": {"codec": "libvpx-vp9", "size": ODD},
    "odd_444.mp4": {"pixels": "yuv444p", "size": ODD},
    "10_bits.mp4": {"pixels": "yuv420p10le", "options": GOP},
    "10_bits_hevc.mp4": {"codec": "libx265", "pixels": "yuv420p10le", "options": {"x265-params": "log-level=none"}},
    "10_bits_422.mov": {"codec": "prores_ks", "pixels": "yuv422p10le"},
    "interlaced.mp4": {"options": FIELDS},
    "interlaced.mpg": {"codec": "mpeg2video", "options": {"flags": "+ildct+ilme", "bf": "2", "g": "9"}},
    "full_range.mp4": {"pixels": "yuvj420p", "options": GOP},
    "bt709.mp4": {"options": {"x264-params": "colormatrix=bt709:colorprim=bt709:transfer=bt709"}},
}
REFUSED = {
    "pyav": set(),
    "decord": {
        *("b_frames.ts", "open_gop.ts", "b_frames.avi", "mpeg4.avi", "open_gop.mpg", "interlaced.mpg"),
        *("b_frames.h264", "edit_list.mp4", "turned_90.mp4", "mirrored.mp4"),
        *("odd.webm", "10_bits.mp4", "10_bits_hevc.mp4", "interlaced.mp4"),
    },
    "torchcodec": {
        *("b_frames.ts", "open_gop.ts", "b_frames.avi", "mpeg4.avi", "open_gop.mpg", "interlaced.mpg"),
        *("b_frames.h264", "mirrored.mp4", "interlaced.mp4"),
    },
}
ASKED = [0, 39, 11, 12, 13, 1, 23, 38, 24, 12, 30]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("kinds")
    return {name: write_numbered(folder, name, **made) for name, made in KINDS.items()}


def converted(container: Any) -> Iterator[np.ndarray]:
    """Every frame in the order of decoding, by FFmpeg's own `scale` filter and nothing of ours."""
    graph = None
    for frame in container.decode(video=0):
        if graph is None:
            graph = av.filter.Graph()
            nodes = [
                graph.add_buffer(template=container.streams.video[0]),
                graph.add("scale", "flags=bicubic:interl=-1"),
                graph.add("format", "pix_fmts=rgb24"),
                graph.add("buffersink"),
            ]
            graph.link_nodes(*nodes).configure()
        graph.push(frame)
        rgb = graph.pull().to_ndarray()
        rgb = np.rot90(rgb, frame.rotation // 90)
        yield rgb


def sequential(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        frames = np.stack(list(converted(container)))
    return frames[:, :, ::-1] if path.stem == "mirrored" else frames


def skip_without(reader: str) -> None:
    if reader == "torchcodec":
        try:
            import torchcodec.decoders  # noqa: F401
        except (ImportError, RuntimeError, OSError):
            pytest.skip("torchcodec needs FFmpeg's libraries on the system")
    elif reader == "decord":
        pytest.importorskip("decord")


@pytest.mark.parametrize("reader", ["pyav", "decord", "torchcodec"])
@pytest.mark.parametrize("name", KINDS)
def test_frames_asked_for_equal_a_sequential_decode_bit_for_bit(files, name, reader):
    skip_without(reader)
    path, reference = files[name], sequential(files[name])
    times = index(path).starts
    asked = [n for n in ASKED if n < len(times)]
    if name in REFUSED[reader]:
        with pytest.raises(VideoError, match="backend='pyav'"):
            read_frames(path, times[asked], backend=reader)
        return
    assert len(times) == len(reference) == (35 if name == "edit_list.mp4" else 40)
    np.testing.assert_array_equal(read_frames(path, times[asked], backend=reader), reference[asked])


@pytest.mark.parametrize("name", KINDS)
def test_the_frames_are_those_that_were_written(files, name):
    """Their numbers are in the pixels; so a decode that is wrong throughout would be seen too."""
    frames = read_frames(files[name], index(files[name]).starts)
    made = KINDS[name]
    if turn := made.get("rotate"):
        frames = frames[:, :, ::-1] if turn[1] else frames
        frames = np.rot90(frames, -turn[0] // 90, axes=(1, 2))
    first = 5 if name == "edit_list.mp4" else 0
    assert numbers(frames) == list(range(first, 40))
    info = probe(files[name])
    assert (info.height, info.width) == frames.shape[1:3] if not turn or turn[0] == 180 else frames.shape[2:0:-1]
    assert info.interlaced == name.startswith("interlaced")


@pytest.mark.parametrize("name", ["b_frames.mp4", "10_bits.mp4", "interlaced.mp4", "odd.webm"])
def test_colours_are_those_of_ffmpeg_itself(files, name):
    """Not only of the library that PyAV brings: also of the program, where it is installed."""
    command = ["ffmpeg", "-v", "error", "-i", str(files[name]), "-vf", "scale=interl=-1:flags=bicubic"]
    command += ["-pix_fmt", "rgb24", "-f", "rawvideo", "-"]
    try:
        raw = subprocess.run(command, capture_output=True, check=True).stdout
    except FileNotFoundError:
        pytest.skip("the program ffmpeg is not installed")
    frames = read_frames(files[name], index(files[name]).starts)
    np.testing.assert_array_equal(frames, np.frombuffer(raw, np.uint8).reshape(frames.shape))


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_animations_read_by_time_equal_pillow_in_order(tmp_path, suffix):
    path = tmp_path / f"animation{suffix}"
    first, *others = [Image.fromarray(numbered(n)) for n in range(12)]
    options = {"lossless": True} if suffix == ".webp" else {}
    waits = [100, 200, 50] * 4
    first.save(path, save_all=True, append_images=others, duration=waits, loop=0, **options)
    with Image.open(path) as image:
        reference = [(image.seek(n), np.asarray(image.convert("RGB")))[1] for n in range(12)]
    times = np.concatenate([[0], np.cumsum(waits[:-1])]) / 1000
    for reader in ("pyav", "decord", "torchcodec"):  # read by Pillow whatever is asked for
        for order in ([7, 3, 11, 0, 3], [11], list(range(12))):
            frames = read_frames(path, [times[n] for n in order], backend=reader)
            np.testing.assert_array_equal(frames, [reference[n] for n in order])


@pytest.mark.parametrize("reader", ["pyav", "decord", "torchcodec"])
@pytest.mark.parametrize("cover", [(16, 16), (20, 48), (48, 48)])
def test_scaled_frames_cover_what_is_asked_in_their_own_shape(files, reader, cover):
    """And are near to a high-quality scaling of the whole picture (Pillow's antialiased bicubic), from every reader."""
    skip_without(reader)
    path = files["b_frames.mp4"]
    frames = read_frames(path, [0.4, 0.1], backend=reader, cover=cover)
    rows, columns = frames.shape[1:3]
    assert rows == cover[0] or columns == cover[1]
    assert rows >= cover[0]
    assert columns >= cover[1]
    assert columns / rows == pytest.approx(WIDTH / HEIGHT, abs=1 / rows)
    whole = read_frames(path, [0.4, 0.1])
    reference = [Image.fromarray(frame).resize((columns, rows), Image.Resampling.BICUBIC) for frame in whole]
    assert np.abs(frames.astype(int) - np.stack(reference).astype(int)).mean() < 4


def test_turned_frames_are_scaled_as_they_are_shown(files):
    frames = read_frames(files["turned_90.mp4"], [0.4], cover=(32, 16))
    assert frames.shape == (1, 32, 16, 3)
    upright = np.rot90(read_frames(files["b_frames.mp4"], [0.4], cover=(16, 32))[0])
    assert np.abs(frames[0].astype(int) - upright.astype(int)).mean() < 2
