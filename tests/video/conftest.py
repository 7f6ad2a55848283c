"""Small videos whose frames carry their own number in the pixels, so that a wrong frame cannot pass for a right one."""

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest

HEIGHT, WIDTH, BITS = 32, 64, 8
GOP = {"g": "12", "bf": "3"}


@pytest.fixture(autouse=True)
def children_are_kept() -> None:
    """Here each reads with children of its own, as elsewhere than in tests."""


def numbered(number: int) -> np.ndarray:
    """`uint8 h w c`: the number in binary in the upper half (bright is 1), least significant bit on the left."""
    frame = np.full((HEIGHT, WIDTH, 3), 60, np.uint8)
    for bit, column in enumerate(np.split(frame[: HEIGHT // 2], BITS, axis=1)):
        column[:] = 220 if number >> bit & 1 else 20
    frame[HEIGHT // 2 :, number % WIDTH] = (200, 40, 40)
    return frame


def numbers(frames: np.ndarray) -> list[int]:
    """The numbers that `uint8 f h w c` frames carry."""
    bits = frames[:, 8, WIDTH // BITS // 2 :: WIDTH // BITS, 0] > 120
    return (bits @ (1 << np.arange(BITS))).tolist()


@pytest.fixture
def encode(tmp_path: Path) -> Callable[..., Path]:
    """`encode(name, codec, ...)` writes numbered frames by plain PyAV, not by the writer under test."""
    return partial(write_numbered, tmp_path)


def write_numbered(
    folder: Path,
    name: str,
    codec: str = "libx264",
    *,
    num_frames: int = 40,
    rate: int | Fraction = 30,
    options: Mapping[str, str] | None = None,
    pts: Sequence[int] | None = None,
    container: Mapping[str, str] | None = None,
    rotate: tuple[float, bool] | None = None,
    tags: Mapping[str, str] | None = None,
    pixels: str = "yuv420p",
    size: tuple[int, int] = (HEIGHT, WIDTH),
) -> Path:
    path = folder / name
    with av.open(str(path), "w", options=dict(container or {})) as output:
        output.metadata.update(tags or {})
        stream = output.add_stream(codec, rate=rate, options=dict(options or {}))
        stream.height, stream.width, stream.pix_fmt = *size, pixels
        if rotate:
            stream.set_display_rotation(*rotate)
        for number in range(num_frames):
            picture = np.ascontiguousarray(numbered(number)[: size[0], : size[1]])
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = number if pts is None else pts[number]
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return path


def sequential(path):
    """All frames in the order of decoding, by plain PyAV."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
