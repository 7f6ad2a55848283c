"""Damaged and hostile files, made by a seed from small numbered clips, and what the reader makes of each.

    python -m tests.video.damaged OUT --seed 0          # writes the files, reads each, prints a table

Every file is read as a training run reads it: in a process of its own, with limits on time and memory. What comes back
is compared with the sound clip that the file was made from (`OUTCOMES`).
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import signal
import struct
import time
import wave
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from videodit.video import IMAGE_SUFFIXES, VideoError, probe, read_clip, read_frames
from videodit.video.guarded import Guarded

from .conftest import BITS, HEIGHT, WIDTH, numbered, write_numbered
from .test_every_reader import converted

FRAMES, RATE = 24, 25  # a frame takes 40 ms, which every format's clock can say
STILL = 5  # the number that still images carry
SECONDS, MEMORY_GB = 6.0, 1.5  # limits of a call
WIDE = 8000  # squared, of pixels: just below what is taken for damage
ABSURD = (0, 1, 2**31 - 1, 2**32 - 1)
GOP = {"g": "12", "bf": "3", "crf": "10"}
CLIPS: dict[str, dict[str, Any]] = {
    "faststart.mp4": {"options": GOP, "container": {"movflags": "faststart"}},
    "index_last.mp4": {"options": GOP},
    "fragments.mp4": {"options": GOP, "container": {"movflags": "frag_keyframe+empty_moov"}},
    "hevc.mp4": {"codec": "libx265", "options": {"x265-params": "keyint=12:log-level=none"}},
    "h264.mkv": {"options": GOP},
    "vp8.webm": {"codec": "libvpx", "options": {"auto-alt-ref": "1", "lag-in-frames": "16"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"g": "12"}},
    "mpeg4.avi": {"codec": "mpeg4", "options": {"bf": "2", "g": "9"}},
    "h264.ts": {"options": GOP},
    "mpeg2.mpg": {"codec": "mpeg2video", "options": {"bf": "2", "g": "9"}},
    "raw.h264": {"options": GOP},
    "h264.flv": {"options": GOP},
    "wmv2.wmv": {"codec": "wmv2"},
}
ANIMATIONS: dict[str, dict[str, Any]] = {
    "animation.gif": {},
    "animation.webp": {"lossless": True},
    "animation.png": {},
}
STILLS: dict[str, dict[str, Any]] = {
    "still.png": {},
    "still.jpg": {"quality": 95},
    "still.bmp": {},
    "still.webp": {"lossless": True},
}

Sound = dict[str, Path]
Made = Iterator[tuple[str, str, bytes, str]]  # damage ("kind: detail"), suffix, content, sound file ("": of none)


@dataclass(frozen=True)
class Damaged:
    """A file, the kind of its damage, and the sound file that it was made from ("": from none)."""

    file: str
    damage: str
    sound: str


def make(folder: Path, seed: int = 0, sample: int = 0) -> list[Damaged]:
    """Writes the corpus, the same for a seed: sound files into `folder/sound`, damaged ones into `folder`.

    Args:
        sample: so many of the cheap ones only (0: all).
    """
    sound, rng = make_sound(folder / "sound"), np.random.default_rng(seed)
    wanted = [one for maker in CHEAP for one in maker(sound, rng)]
    if sample:
        wanted = wanted[:: len(wanted) // sample][:sample]
    else:
        wanted += [one for maker in COSTLY for one in maker(sound, rng)]
    made = [Damaged(f"sound/{name}", "none", name) for name in sound]
    for damage, suffix, content, source in wanted:
        name = "".join(c if c.isalnum() else "_" for c in f"{damage} {Path(source).stem}").strip("_")
        made.append(Damaged(f"{len(made):03d}_{name}{suffix}", damage.partition(":")[0], source))
        (folder / made[-1].file).write_bytes(content)
    return made + ([] if sample else odd_places(folder, sound))


def make_sound(folder: Path) -> Sound:
    """A clip of FRAMES numbered frames of every kind, and stills."""
    folder.mkdir(parents=True, exist_ok=True)
    exact = {"fflags": "bitexact"}  # Matroska would draw random numbers
    for name, how in CLIPS.items():
        how = how | {"container": exact | how.get("container", {})}
        write_numbered(folder, name, num_frames=FRAMES, rate=RATE, **how)
    first, *others = [Image.fromarray(numbered(n)) for n in range(FRAMES)]
    for name, how in ANIMATIONS.items():
        first.save(folder / name, save_all=True, append_images=others, duration=1000 // RATE, loop=0, **how)
    for name, how in STILLS.items():
        Image.fromarray(numbered(STILL)).save(folder / name, **how)
    return {name: folder / name for name in (*CLIPS, *ANIMATIONS, *STILLS)}


# Wear: what disks, networks and interrupted copies do to any file.


def worn_files(sound: Sound, rng: np.random.Generator) -> Made:
    for name, path in sound.items():
        content = path.read_bytes()
        for damage, changed in (*cut(content), *worn(content, rng), *moved(content, rng)):
            yield damage, path.suffix, changed, name


def cut(content: bytes) -> Iterator[tuple[str, bytes]]:
    size = len(content)
    for share in (0.01, 0.1, 0.3, 0.45, 0.6, 0.75, 0.9, 0.98):
        yield "cut", content[: max(2, int(share * size))]
    yield "cut", content[:-1]
    yield "one byte", content[:1]
    yield "empty", b""


def worn(content: bytes, rng: np.random.Generator) -> Iterator[tuple[str, bytes]]:
    """Wrong bits at the beginning (of most formats the header), in the middle and at the end."""
    size, stretch = len(content), max(1, len(content) // 25)
    for begin, end in ((0, min(200, size // 4)), (size // 4, 3 * size // 4), (3 * size // 4, size)):
        place = int(rng.integers(begin, max(begin + 1, end - stretch)))
        yield "bit flipped", flipped(content, rng.integers(begin, end, 1), rng)
        yield "bit flipped", flipped(content, rng.integers(begin, end, 1), rng)
        yield "burst", flipped(content, rng.integers(place, place + stretch, 16), rng)
        yield "zeros", patched(content, place, bytes(stretch))
        yield "noise", patched(content, place, rng.bytes(stretch))


def moved(content: bytes, rng: np.random.Generator) -> Iterator[tuple[str, bytes]]:
    """Blocks lost, doubled, swapped."""
    size = len(content) // 8
    blocks = [content[i : i + size] for i in range(0, len(content), size)]
    first, second = sorted(rng.choice(range(1, len(blocks) - 1), 2, replace=False).tolist())
    swapped = list(blocks)
    swapped[first], swapped[second] = blocks[second], blocks[first]
    yield "blocks swapped", b"".join(swapped)
    yield "block twice", b"".join([*blocks[: first + 1], *blocks[first:]])
    yield "block lost", b"".join([*blocks[:second], *blocks[second + 1 :]])
    yield "beginning lost", b"".join(blocks[2:])


def flipped(content: bytes, places: np.ndarray, rng: np.random.Generator) -> bytes:
    """With one bit flipped at each of the places."""
    changed = bytearray(content)
    for place in places.tolist():
        changed[place] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def patched(content: bytes, place: int, value: bytes) -> bytes:
    return content[:place] + value + content[place + len(value) :]


# Absurd headers: what fuzzers and attackers write.

MP4_FIELDS = {  # four bytes each, so many bytes from the box's name
    b"mvhd": (16, 20),  # clock, duration
    b"tkhd": (24, 80, 84),  # duration, width, height
    b"mdhd": (16, 20),
    b"stts": (8, 12, 16),  # entries; samples and duration of the first
    b"ctts": (8, 12, 16),
    b"stss": (8, 12),
    b"stsc": (8, 12, 16, 20),
    b"stsz": (8, 12, 16),  # size of all, count, size of the first
    b"stco": (8, 12),
    b"elst": (8, 12, 16, 20),  # entries; duration, begin and rate of the first
    b"avc1": (28, -4),  # width and height, two bytes each; size of the box
    b"moov": (-4,),
    b"mdat": (-4,),
}


def absurd_mp4(sound: Sound, rng: np.random.Generator) -> Made:
    name = "faststart.mp4"
    whole = sound[name].read_bytes()
    for box, fields in MP4_FIELDS.items():
        for field in fields:
            for value in ABSURD:
                changed = patched(whole, whole.index(box) + field, value.to_bytes(4, "big"))
                yield f"absurd header: {box.decode()} {field} {value}", ".mp4", changed, name
    sizes = whole.index(b"stsz")
    yield "absurd header: samples", ".mp4", patched(whole, sizes + 8, struct.pack(">II", 1, 2**31)), name
    for box in (b"moov", b"trak", b"udta"):
        nested = b"".join(struct.pack(">I4s", 8 * depth, box) for depth in range(20_000, 0, -1))
        changed = whole[: whole.index(b"moov") - 4] + nested
        yield f"absurd header: {box.decode()} in itself", ".mp4", changed, name


def absurd_edits(sound: Sound, rng: np.random.Generator) -> Made:
    """Edit lists: rows of duration (of the movie's clock), begin (of the track's), rate."""
    whole = sound["index_last.mp4"].read_bytes()
    tick = int.from_bytes(whole[whole.index(b"mdhd") + 16 :][:4], "big")
    lists = {
        "loops": [(1000 * FRAMES // RATE, tick // RATE * 2, 1)] * 2000,
        "stands still": [(1000, 0, 0)],
        "runs backwards": [(1000, 0, -1)],
        "waits for ever": [(2**32 - 1, -1, 1), (1000, 0, 1)],
        "begins after the end": [(1000, 2**31 - 1, 1)],
        "is empty": [],
    }
    for what, rows in lists.items():
        packed = b"".join(struct.pack(">IiI", long, begin, (rate << 16) & 0xFFFFFFFF) for long, begin, rate in rows)
        yield (
            f"edit list: {what}",
            ".mp4",
            with_edits(whole, struct.pack(">II", 0, len(rows)) + packed),
            "index_last.mp4",
        )


def with_edits(whole: bytes, content: bytes) -> bytes:
    place = whole.index(b"elst") - 4
    old = int.from_bytes(whole[place : place + 4], "big")
    changed = whole[:place] + struct.pack(">I4s", 8 + len(content), b"elst") + content + whole[place + old :]
    for box in (b"moov", b"trak", b"edts"):
        place = changed.index(box) - 4
        size = int.from_bytes(changed[place : place + 4], "big") + 8 + len(content) - old
        changed = patched(changed, place, size.to_bytes(4, "big"))
    return changed


MATROSKA_SIZES = {  # elements whose size is changed
    "Segment": "18538067",
    "SeekHead": "114d9b74",
    "Tracks": "1654ae6b",
    "Cluster": "1f43b675",
    "Cues": "1c53bb6b",
}
MATROSKA_VALUES = {  # elements with their size, whose value is changed
    "TimestampScale": "2ad7b183",
    "Duration": "448988",
    "PixelWidth": "b081",
    "Timestamp": "e781",
    "SimpleBlock": "a3",
}


def absurd_matroska(sound: Sound, rng: np.random.Generator) -> Made:
    name = "h264.mkv"
    whole = sound[name].read_bytes()
    cluster = whole.index(bytes.fromhex(MATROSKA_SIZES["Cluster"]))
    for element, code in MATROSKA_SIZES.items():
        place = whole.index(bytes.fromhex(code)) + len(code) // 2
        bits = 7 * (9 - whole[place].bit_length())
        for value in (0, 1, 2**bits - 2, 2**bits - 1):  # the last says "unknown"
            changed = patched(whole, place, (value | 1 << bits).to_bytes(bits // 7, "big"))
            yield f"absurd header: {element} size {value}", ".mkv", changed, name
    for element, code in MATROSKA_VALUES.items():
        known = bytes.fromhex(code)
        place = whole.index(known, cluster if element in ("Timestamp", "SimpleBlock") else 0) + len(known)
        width = known[-1] & 0x7F if len(known) > 1 else 1
        for first in (b"\0", b"\1", b"\x7f", b"\xff"):
            changed = patched(whole, place, first + first[-1:] * (width - 1))
            yield f"absurd header: {element} {first.hex()}", ".mkv", changed, name
    yield "absurd header: SeekHead of itself", ".mkv", seeking_itself(whole), name
    yield "block twice: clusters", ".mkv", whole[:cluster] + whole[cluster:] * 1000, name


def seeking_itself(whole: bytes) -> bytes:
    head, segment = whole.index(bytes.fromhex("114d9b74")), whole.index(bytes.fromhex("18538067")) + 12
    place = 0
    while (place := whole.find(bytes.fromhex("53ac"), place + 1)) > 0:
        whole = patched(whole, place + 3, (head - segment).to_bytes(whole[place + 2] & 0x7F, "big"))
    return whole


def absurd_pictures(sound: Sound, rng: np.random.Generator) -> Made:
    whole = {name: path.read_bytes() for name, path in sound.items() if path.suffix in IMAGE_SUFFIXES}
    jpg, bmp, gif = whole["still.jpg"], whole["still.bmp"], whole["animation.gif"]
    for value in (0, 1, 60_000, 2**31 - 1, 2**32 - 1):
        four, kind = value.to_bytes(4, "big"), f"absurd header: {value}"
        for name, chunk, field, new in (
            ("still.png", b"IHDR", 0, four * 2),
            ("still.png", b"IHDR", 4, four),
            ("animation.png", b"acTL", 0, four),
            ("animation.png", b"fcTL", 4, four * 2),
        ):
            yield f"{kind} {chunk.decode()}", ".png", with_chunk(whole[name], chunk, field, new), name
        yield kind, ".bmp", patched(bmp, 18, four[::-1] * 2), "still.bmp"
    for value in (0, 1, 60_000, 65_535):
        two, kind = value.to_bytes(2, "little"), f"absurd header: {value}"
        yield f"{kind} screen", ".gif", patched(gif, 6, two * 2), "animation.gif"
        yield f"{kind} frame", ".gif", patched(gif, gif.index(b"\x2c\0\0\0\0") + 5, two * 2), "animation.gif"
        yield kind, ".jpg", patched(jpg, jpg.index(b"\xff\xc0") + 5, two[::-1] * 2), "still.jpg"
        webp = whole["animation.webp"]
        yield kind, ".webp", patched(webp, webp.index(b"VP8X") + 12, (two + b"\0") * 2), "animation.webp"
    for name, chunk in (("still.png", b"IDAT"), ("animation.png", b"fdAT")):
        long = (2**31 - 1).to_bytes(4, "big")
        yield "absurd header: a long chunk", ".png", patched(whole[name], whole[name].index(chunk) - 4, long), name
    for wait in (0, 65_535):
        content, place = gif, 0
        while (place := content.find(b"\x21\xf9\x04", place + 1)) > 0:
            content = patched(content, place + 4, wait.to_bytes(2, "little"))
        yield f"stamps: waits of {wait}", ".gif", content, "animation.gif"
    yield "cut: in a frame's header", ".gif", gif[: gif.rindex(b"\x2c\0\0\0\0") + 9], "animation.gif"


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def with_chunk(png: bytes, kind: bytes, field: int, value: bytes) -> bytes:
    """With bytes of a chunk changed, and its checksum made good."""
    place = png.index(kind)
    size = int.from_bytes(png[place - 4 : place], "big")
    content = patched(png[place + 4 : place + 4 + size], field, value)
    return png[: place - 4] + png_chunk(kind, content) + png[place + 8 + size :]


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


# Bombs: small files that ask for much.


def huge_canvases(sound: Sound, rng: np.random.Generator) -> Made:
    for side, bits, colour in ((20_000, 1, 0), (WIDE, 8, 0), (WIDE, 8, 6), (WIDE, 16, 6)):
        yield f"huge: {side} squared, {bits} bits", ".png", png_of_zeros(side, bits, colour), ""
    yield "huge: 24 frames of 14 million pixels", ".gif", gif_of_points(3700, FRAMES), ""
    h264, vp8, mpeg = (sound[name].read_bytes() for name in ("raw.h264", "vp8.webm", "mpeg2.mpg"))
    for side in (WIDE, 65_520):
        yield f"huge: {side} by its codec", ".h264", with_size(h264, side // 16, side // 16), "raw.h264"
    for side in (WIDE, 16_383):
        new = patched(vp8, vp8.index(b"\x9d\x01\x2a") + 3, struct.pack("<HH", side, side))
        yield f"huge: {side} by its codec", ".webm", new, "vp8.webm"
    new = patched(mpeg, mpeg.index(b"\0\0\1\xb3") + 4, b"\xff\xff\xff")
    yield "huge: 4095 by its codec", ".mpg", new, "mpeg2.mpg"
    png = sound["still.png"].read_bytes()
    place, packed = png.index(b"IDAT") - 4, zlib.compress(bytes(300_000_000), 1)
    for kind, head in ((b"zTXt", b"a\0\0"), (b"iCCP", b"a\0\0"), (b"iTXt", b"a\0\1\0\0\0")):
        new = png[:place] + png_chunk(kind, head + packed) + png[place:]
        yield f"huge: {kind.decode()} packed", ".png", new, "still.png"


def png_of_zeros(side: int, bits: int, colour: int) -> bytes:
    """A true black picture, well packed; colour 0 is gray, 6 has four channels."""
    row = bytes(1 + side * bits * (4 if colour == 6 else 1) // 8)
    packer = zlib.compressobj(1)
    data = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", data) + png_chunk(b"IEND", b"")


def with_size(h264: bytes, columns: int, rows: int) -> bytes:
    """H.264 (High profile) whose parameter set says another size, in macroblocks (ITU-T H.264, 7.3.2.1.1)."""
    begin = h264.index(b"\0\0\1\x67") + 4
    end = h264.index(b"\0\0\1", begin)
    bits = "".join(f"{byte:08b}" for byte in h264[begin:end].replace(b"\0\0\3", b"\0\0"))
    place = 24

    def golomb() -> int:
        nonlocal place
        zeros = bits.index("1", place) - place
        value = int(bits[place + zeros : place + 2 * zeros + 1], 2) - 1
        place += 2 * zeros + 1
        return value

    for _ in range(4):  # its number, chroma, bit depths
        golomb()
    place += 2
    golomb()
    if golomb() == 0:  # the way of the picture order
        golomb()
    golomb()
    place += 1
    before = bits[:place]
    golomb(), golomb()
    sizes = "".join(f"{n:b}".rjust(2 * n.bit_length() - 1, "0") for n in (columns, rows))
    changed = before + sizes + bits[place:].rstrip("0")
    changed += "0" * (-len(changed) % 8)
    packed = bytes(int(changed[i : i + 8], 2) for i in range(0, len(changed), 8))
    for last in range(4):
        packed = packed.replace(bytes([0, 0, last]), bytes([0, 0, 3, last]))
    return h264[:begin] + packed + h264[end:]


def endless(sound: Sound, rng: np.random.Generator) -> Made:
    """Animations of a few bytes a frame: very many, or a few thousand on a wide canvas. A clip 4000 times over."""
    for side, count in ((2, 200_000), (WIDE, 2_000)):
        what = f"endless: {count} frames of {side} squared"
        yield what, ".gif", gif_of_points(side, count), ""
        yield what, ".png", apng_of_points(side, count), ""
        yield what, ".webp", webp_of_points(side, count), ""
    yield "endless: starts over 4000 times", ".mpg", sound["mpeg2.mpg"].read_bytes() * 4000, ""


def gif_of_points(side: int, count: int) -> bytes:
    """One dot a frame, each shown for 10 ms."""
    frame = b"\x21\xf9\x04\0\1\0\0\0" + b"\x2c" + struct.pack("<HHHH", 0, 0, 1, 1) + b"\0" + b"\2\2\x44\1\0"
    return b"GIF89a" + struct.pack("<HH", side, side) + b"\x80\0\0" + b"\0\0\0\xff\xff\xff" + frame * count + b";"


def apng_of_points(side: int, count: int) -> bytes:
    wide = png_of_zeros(side, 8, 0)[: -len(png_chunk(b"IEND", b""))]
    place, point = wide.index(b"IDAT") - 4, zlib.compress(b"\0\0")
    first = struct.pack(">IIIIIHHBB", 0, side, side, 0, 0, 1, 100, 0, 0)
    pieces = [wide[:place], png_chunk(b"acTL", struct.pack(">II", count, 0)), png_chunk(b"fcTL", first), wide[place:]]
    for n in range(1, count):
        frame = struct.pack(">IIIIIHHBB", 2 * n - 1, 1, 1, 0, 0, 1, 100, 0, 0)
        pieces += [png_chunk(b"fcTL", frame), png_chunk(b"fdAT", struct.pack(">I", 2 * n) + point)]
    return b"".join([*pieces, png_chunk(b"IEND", b"")])


def webp_of_points(side: int, count: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (1, 1)).save(file, "WEBP", lossless=True)
    point, wide = file.getvalue()[12:], (side - 1).to_bytes(3, "little") * 2
    frame = riff(b"ANMF", bytes(12) + (10).to_bytes(3, "little") + b"\0" + point)
    return riff(b"RIFF", b"WEBP" + riff(b"VP8X", b"\2\0\0\0" + wide) + riff(b"ANIM", bytes(6)) + frame * count)


def riff(kind: bytes, content: bytes) -> bytes:
    return kind + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)


def odd_places(folder: Path, sound: Sound) -> list[Damaged]:
    """What is no file, though its name says so; and sound files whose names FFmpeg could read as something else."""
    (folder / "folder.mp4").mkdir(exist_ok=True)
    for name, target in {"loop.mp4": "loop.mp4", "nothing.mp4": "nowhere.mp4", "zeros.mp4": "/dev/zero"}.items():
        (folder / name).symlink_to(target)
    for name in ("pipe.mp4", "pipe.gif"):
        os.mkfifo(folder / name)  # nobody writes into it
    places = ("folder.mp4", "loop.mp4", "nothing.mp4", "zeros.mp4", "pipe.mp4", "pipe.gif")
    names = ("%03d.mp4", "concat:a|b.mp4", "-i.mp4", "new\nline.mp4", "na\u00efve \U0001f3ac.mp4", "\udcff.mp4")
    for name in names:
        (folder / name).write_bytes(sound["faststart.mp4"].read_bytes())
    return [*(Damaged(n, "no file", "") for n in places), *(Damaged(n, "odd name", "faststart.mp4") for n in names)]


Maker = Callable[[Sound, np.random.Generator], Made]
CHEAP: tuple[Maker, ...] = (
    *(worn_files, absurd_mp4, absurd_edits, absurd_matroska, absurd_pictures, jumping_stamps),
    wrong_endings,
)
COSTLY: tuple[Maker, ...] = (joined_streams, huge_canvases, endless)


def read_or_worse(path: str, *args: Any) -> np.ndarray:
    """`read_clip` as a decoder with faults has it: on some names it crashes, on others it hangs, the first time."""
    if "crash" in Path(path).name:
        os.kill(os.getpid(), signal.SIGSEGV)
    met = Path(f"{path}.met")
    if "hangs_once" in met.name and not met.exists():
        met.touch()
        time.sleep(1000)
    return read_clip(path, *args)


# Reading them.

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
            return guarded.call(function, *args)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="an empty folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", type=Path, help="a JSON file to write what came of each file to")
    options = parser.parse_args()
    made = make(options.out, options.seed)
    begin = time.monotonic()
    readings = read_all(options.out, made)
    found = {
        "seconds": time.monotonic() - begin,
        "longest": max(reading.seconds for reading in readings),
        "child_gb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9,
        "own_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
    }
    print(table(readings))
    print(", ".join(f"{name} {value:.2f}" for name, value in found.items()))
    if options.report:
        options.report.write_text(json.dumps({**found, "readings": [asdict(reading) for reading in readings]}))


if __name__ == "__main__":
    from tests.video import damaged  # by its name, so that children find its functions

    damaged.main()
