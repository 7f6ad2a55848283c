"""Wear: what disks, networks and interrupted copies do to any file."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .sound import Made, Sound, patched


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
