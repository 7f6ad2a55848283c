"""Small videos whose frames carry their own number in the pixels, so that a wrong frame cannot pass for a right one."""

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

HEIGHT, WIDTH, BITS = 32, 64, 8


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

    def encode(
        name, codec="libx264", *, num_frames=40, rate=30, options=None, pts=None, container=None, rotate=None, tags=()
    ):
        path = tmp_path / name
        with av.open(str(path), "w", options=container or {}) as output:
            output.metadata.update(tags)
            stream = output.add_stream(codec, rate=rate, options=options or {})
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
            if rotate:
                stream.set_display_rotation(*rotate)
            for number in range(num_frames):
                frame = av.VideoFrame.from_ndarray(numbered(number), format="rgb24")
                frame.pts = number if pts is None else pts[number]
                output.mux(stream.encode(frame))
            output.mux(stream.encode())
        return path

    return encode
