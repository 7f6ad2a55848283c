"""Bombs: small files that ask for much."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image

from .headers import png_chunk
from .sound import FRAMES, Made, Sound, patched

WIDE = 8000  # squared, of pixels: just below what is taken for damage


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
