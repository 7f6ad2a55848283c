"""What FFmpeg and Pillow open is read whatever its ending, frame for frame; a cover is never taken for its film."""

import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from videodit.video import IMAGE_SUFFIXES, VIDEO_SUFFIXES, VideoError, frame_times, probe, read_frames, read_metadata

FRAMES, RATE, BITS = 12, 25, 4
FORMATS = {  # of each ending: codec, muxer
    **{".264": ("libx264", "h264"), ".h264": ("libx264", "h264"), ".265": ("libx265", "hevc")},
    **{".h265": ("libx265", "hevc"), ".hevc": ("libx265", "hevc"), ".ivf": ("libvpx", "ivf")},
    **{".3g2": ("libx264", "3g2"), ".3gp": ("libx264", "3gp"), ".f4v": ("libx264", "f4v"), ".m4v": ("libx264", "mp4")},
    **{".mj2": ("libx264", "mov"), ".mov": ("libx264", "mov"), ".qt": ("libx264", "mov"), ".mp4": ("libx264", "mp4")},
    **{".asf": ("wmv2", "asf"), ".wmv": ("wmv2", "asf"), ".avi": ("mpeg4", "avi"), ".divx": ("mpeg4", "avi")},
    **{".mk3d": ("libx264", "matroska"), ".mkv": ("libx264", "matroska"), ".webm": ("libvpx", "webm")},
    **{".ogm": ("libvpx", "ogg"), ".ogv": ("libvpx", "ogg"), ".flv": ("flv", "flv"), ".nut": ("libx264", "nut")},
    **{".m1v": ("mpeg1video", "mpeg1video"), ".m2v": ("mpeg2video", "mpeg2video"), ".mpe": ("mpeg1video", "mpeg")},
    **{".mpeg": ("mpeg1video", "mpeg"), ".mpg": ("mpeg2video", "mpeg"), ".vob": ("mpeg2video", "vob")},
    **dict.fromkeys((".m2t", ".m2ts", ".mts", ".ts"), ("mpeg2video", "mpegts")),
    **{".mjpeg": ("mjpeg", "mjpeg"), ".mjpg": ("mjpeg", "mjpeg"), ".mxf": ("mpeg2video", "mxf")},
    **{".rm": ("rv20", "rm"), ".rmvb": ("rv20", "rm"), ".wtv": ("mpeg2video", "wtv"), ".dv": ("dvvideo", "dv")},
    **{".obu": ("libsvtav1", "obu"), ".y4m": ("rawvideo", "yuv4mpegpipe")},
}
SIZES = {"dvvideo": (576, 720), "rv20": (288, 352)}  # rows, columns: which allow no others


def striped(number: int, rows: int, columns: int) -> np.ndarray:
    """uint8 h w c: the number in binary as upright bars."""
    frame = np.full((rows, columns, 3), 30, np.uint8)
    for bit, bar in enumerate(np.array_split(frame, BITS, axis=1)):
        bar[:] = 220 if number >> bit & 1 else 30
    return frame


def numbers(frames: np.ndarray) -> list[int]:
    bars = [bar.mean(axis=(1, 2, 3)) > 125 for bar in np.array_split(frames, BITS, axis=2)]
    return sum(bar.astype(int) << bit for bit, bar in enumerate(bars)).tolist()


def write(path: Path, codec: str, muxer: str) -> Path:
    rows, columns = SIZES.get(codec, (64, 128))
    with av.open(str(path), "w", format=muxer) as output:
        options = {} if codec in ("dvvideo", "rawvideo") else {"b": "4000000"}
        stream = output.add_stream(codec, rate=RATE, options=options)
        stream.height, stream.width = rows, columns
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for number in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(striped(number, rows, columns), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return path


def test_the_table_has_every_ending():
    assert set(FORMATS) == set(VIDEO_SUFFIXES)


@pytest.mark.parametrize("ending", sorted(FORMATS))
def test_a_video_of_any_ending_gives_its_frames_at_their_times(tmp_path, ending):
    codec, muxer = FORMATS[ending]
    try:
        path = write(tmp_path / f"clip{ending}", codec, muxer)
    except av.codec.codec.UnknownCodecError:
        pytest.skip(f"no encoder for {codec}")
    times = frame_times(path)
    assert times.tolist() == pytest.approx([number / RATE for number in range(FRAMES)], abs=2e-3)
    assert numbers(read_frames(path, times.tolist())) == list(range(FRAMES))
    assert numbers(read_frames(path, times[[7, 3]].tolist())) == [7, 3]


@pytest.mark.parametrize("ending", sorted(IMAGE_SUFFIXES))
def test_an_image_of_any_ending_gives_its_colours(tmp_path, ending):
    picture = np.zeros((24, 40, 3), np.uint8)
    picture[:, :20], picture[:, 20:] = (200, 200, 200), (20, 20, 20)
    image = Image.fromarray(picture).convert("1" if ending == ".pbm" else "L" if ending == ".pgm" else "RGB")
    kind = {".apng": "PNG", ".dib": "BMP", ".j2k": "JPEG2000", ".jfif": "JPEG", ".jpe": "JPEG", ".pnm": "PPM"}
    image.save(tmp_path / f"x{ending}", format=kind.get(ending))
    info = probe(tmp_path / f"x{ending}")
    (frame,) = read_frames(tmp_path / f"x{ending}", [0.0])
    assert (info.height, info.width, info.is_image) == (24, 40, True)
    if ending != ".pbm":
        assert np.abs(frame[:, 2:18].astype(int) - 200).max() <= 6
        assert np.abs(frame[:, 24:].astype(int) - 20).max() <= 6


def test_an_animation_in_avif_is_a_clip(tmp_path):
    pictures = [Image.fromarray(striped(number, 32, 64)) for number in (1, 2, 3)]
    pictures[0].save(tmp_path / "x.avif", save_all=True, append_images=pictures[1:], duration=200)
    assert probe(tmp_path / "x.avif").duration == pytest.approx(0.6)
    assert numbers(read_frames(tmp_path / "x.avif", [0.0, 0.2, 0.4])) == [1, 2, 3]


def test_pages_of_a_tiff_have_no_times_and_are_refused(tmp_path):
    page = Image.new("RGB", (32, 32))
    page.save(tmp_path / "x.tif", save_all=True, append_images=[page])
    with pytest.raises(VideoError, match=r"x\.tif holds 2 pages"):
        probe(tmp_path / "x.tif")


@pytest.mark.parametrize(
    ("ending", "codec"), [(".mp4", "mjpeg"), (".mp4", "png"), (".mov", "mjpeg"), (".mov", "png"), (".mkv", "mjpeg")]
)
@pytest.mark.parametrize("flags", ["default", "default+attached_pic", "attached_pic", ""])
def test_a_cover_that_comes_first_is_not_the_film(tmp_path, ending, codec, flags):
    named = {"default": av.stream.Disposition.default, "attached_pic": av.stream.Disposition.attached_pic}
    with av.open(str(tmp_path / f"film{ending}"), "w") as output:
        cover = output.add_stream(codec, rate=RATE)
        cover.width = cover.height = 200
        cover.pix_fmt = "yuvj420p" if codec == "mjpeg" else "rgb24"
        cover.disposition = sum((named[flag] for flag in flags.split("+") if flag), av.stream.Disposition(0))
        film = output.add_stream("libx264", rate=RATE)
        film.width, film.height, film.pix_fmt = 128, 64, "yuv420p"
        film.disposition = av.stream.Disposition.original
        picture = av.VideoFrame.from_ndarray(np.full((200, 200, 3), 90, np.uint8), format="rgb24")
        picture.pts, picture.time_base = 0, Fraction(1, RATE)
        output.mux(cover.encode(picture))
        output.mux(cover.encode())
        for number in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(striped(number, 64, 128), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            output.mux(film.encode(frame))
        output.mux(film.encode())
    info = probe(tmp_path / f"film{ending}")
    assert (info.height, info.width, info.num_frames) == (64, 128, FRAMES)
    assert numbers(read_frames(tmp_path / f"film{ending}", [3 / RATE])) == [3]


def test_a_film_of_pictures_stays_the_film(tmp_path):
    path = write(tmp_path / "x.avi", "mjpeg", "avi")
    assert probe(path).num_frames == FRAMES


def test_metadata_is_read_by_no_more_decoders_than_frames(tmp_path):
    """A playlist names other files, PostScript is a program."""
    Image.new("RGB", (8, 8)).save(tmp_path / "x.eps")
    (tmp_path / "x.eps").rename(tmp_path / "x.png")
    (tmp_path / "x.mp4").write_text(
        f"ffconcat version 1.0\nfile {write(tmp_path / 'real.mkv', 'libx264', 'matroska')}\n"
    )
    for name in ("x.png", "x.mp4"):
        with pytest.raises(VideoError, match=name):
            read_metadata(tmp_path / name)
    deep = Image.new("RGB", (8, 8))
    deep.save(tmp_path / "deep.gif", comment=b"[" * 100_000)
    assert set(read_metadata(tmp_path / "deep.gif")) == {"comment"}
    deep.save(tmp_path / "own.gif", comment=json.dumps({"seed": 3}).encode())
    assert read_metadata(tmp_path / "own.gif") == {"seed": "3"}
