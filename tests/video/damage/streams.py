"""Stamps that jump, streams that start over, sound files under another's name, and what is no picture at all."""

from __future__ import annotations

import io
import struct
import wave
import zipfile
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np

from .sound import Made, Sound, patched


def jumping_stamps(sound: Sound, rng: np.random.Generator) -> Made:
    """MPEG-TS whose pictures are stamped back and forth, all alike, at random, and far apart."""
    whole = sound["h264.ts"].read_bytes()
    ways: dict[str, Callable[[int, int], int]] = {
        "back and forth": lambda n, pts: pts + (n % 2) * 900_000,
        "backwards": lambda n, pts: 2**32 - pts,
        "all alike": lambda n, pts: 126_000,
        "at random": lambda n, pts: int(rng.integers(2**33)),
        "far apart": lambda n, pts: n * 2**28,
    }
    for way, change in ways.items():
        content, place, number = whole, 0, 0
        while (place := content.find(b"\0\0\1\xe0", place + 1)) > 0:
            for field in (9, 14)[: 1 + (content[place + 7] >> 6 & 1)]:  # pts, and dts where there is one
                content = restamped(content, place + field, lambda pts, n=number, change=change: change(n, pts))
            number += 1
        yield f"stamps: {way}", ".ts", content, "h264.ts"


def restamped(content: bytes, place: int, change: Callable[[int], int]) -> bytes:
    """With another stamp: 33 bits in five bytes, by 3, 15 and 15 (ISO 13818-1, 2.4.3.7)."""
    b = content[place : place + 5]
    pts = change((b[0] >> 1 & 7) << 30 | (b[1] << 7 | b[2] >> 1) << 15 | b[3] << 7 | b[4] >> 1) % 2**33
    new = (b[0] & 0xF1 | pts >> 29 & 0xE, pts >> 22 & 255, pts >> 14 & 254 | 1, pts >> 7 & 255, pts << 1 & 254 | 1)
    return patched(content, place, bytes(new))


def joined_streams(sound: Sound, rng: np.random.Generator) -> Made:
    """MPEG program streams that start over again and again; in the midst of one, sound begins."""
    whole, name = sound["mpeg2.mpg"].read_bytes(), "mpeg2.mpg"
    song = b"\0\0\1\xc0" + struct.pack(">H", 103) + b"\x80\0\0" + bytes(100)
    yield "block twice: all of it", ".mpg", whole * 20, name
    yield "block twice: and sound begins", ".mpg", whole * 150 + song + whole * 150, name


def wrong_endings(sound: Sound, rng: np.random.Generator) -> Made:
    """Sound files under another's name (which some decoders do not mind), and what is no picture at all."""
    for name, suffix in (
        ("faststart.mp4", ".gif"),
        ("faststart.mp4", ".png"),
        ("faststart.mp4", ".mkv"),
        ("h264.mkv", ".mp4"),
        ("h264.ts", ".mp4"),
        ("raw.h264", ".mp4"),
        ("mpeg4.avi", ".mp4"),
        ("animation.gif", ".mp4"),
        ("animation.png", ".webm"),
        ("animation.webp", ".mp4"),
        ("animation.gif", ".png"),
        ("still.png", ".mp4"),
        ("still.png", ".jpg"),
        ("still.jpg", ".mp4"),
        ("still.bmp", ".avi"),
    ):
        yield f"wrong ending: {name}", suffix, sound[name].read_bytes(), name
    for what, content in {
        "text": b"this is no video\n" * 50,
        "error page": b"<!DOCTYPE html><html><body><h1>404 Not Found</h1></body></html>",
        "archive": archive(sound["faststart.mp4"]),
        "tone": tone(),
        "song": song(),
        "playlist of a file that is there": b"ffconcat version 1.0\nfile sound/faststart.mp4\n",
        "playlist of pieces": b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsound/h264.ts\n#EXT-X-ENDLIST\n",
        "playlist from the net": b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://localhost:9/clip.ts\n",
        "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 32\n%%EndComments\n{ } loop\n%%EOF\n",
        "subtitles": b"1\n00:00:00,000 --> 00:00:01,000\nhello\n",
    }.items():
        for suffix in (".mp4", ".ts", ".png"):
            yield f"no picture: {what}", suffix, content, ""


def archive(path: Path) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as packed:
        packed.writestr(zipfile.ZipInfo("clip.mp4"), path.read_bytes())
    return file.getvalue()


def tone() -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", "none"))
        sound.writeframes(bytes(8000))
    return file.getvalue()


def song() -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        stream = output.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        output.mux([*stream.encode(frame), *stream.encode()])
    return file.getvalue()
