"""Absurd headers: what fuzzers and attackers write."""

from __future__ import annotations

import struct
import zlib

import numpy as np

from videodit.video import IMAGE_SUFFIXES

from .sound import FRAMES, RATE, Made, Sound, patched

ABSURD = (0, 1, 2**31 - 1, 2**32 - 1)
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
