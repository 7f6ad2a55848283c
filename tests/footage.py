"""Small videos that look like filmed ones: a window moves over a wide picture of soft colours. By plain PyAV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

HEIGHT, WIDTH = 128, 160
MILLI = Fraction(1, 1000)


def place(seed: int) -> np.ndarray:
    """A wide picture, `uint8 h w c`, with its own colours: large soft shapes, and finer ones on them."""
    rng = np.random.default_rng(seed)
    wide = HEIGHT * 2, WIDTH * 4
    layers = [
        np.asarray(Image.fromarray(rng.integers(0, 256, (rows, columns, 3), np.uint8)).resize(wide[::-1]), np.float32)
        for rows, columns in ((4, 10), (24, 60))
    ]
    tint = rng.uniform(0.35, 1.0, 3).astype(np.float32)
    return ((0.7 * layers[0] + 0.3 * layers[1]) * tint).clip(0, 255).astype(np.uint8)


def pan(seed: int, count: int, speed: float = 1.5, *, start: float = 0.0, seconds_a_frame: float = 1.0) -> np.ndarray:
    """`uint8 f h w c`: `count` frames of a place, by `speed` columns a frame (or a second, by `seconds_a_frame`)."""
    wide = place(seed)
    at = [round(start + speed * seconds_a_frame * i) for i in range(count)]
    return np.stack([np.roll(wide, -x, axis=1)[HEIGHT // 2 : HEIGHT // 2 + HEIGHT, :WIDTH] for x in at])


def still(seed: int, count: int) -> np.ndarray:
    return pan(seed, count, 0.0)


def black(count: int) -> np.ndarray:
    return np.full((count, HEIGHT, WIDTH, 3), 4, np.uint8)


def turned(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """One clip that turns into another, frame by frame."""
    share = ((np.arange(len(first)) + 1) / (len(first) + 1))[:, None, None, None]
    return (first * (1 - share) + second * share).astype(np.uint8)


def film(
    path: Path,
    frames: np.ndarray,
    rate: int | Fraction = 24,
    codec: str = "libx264",
    *,
    options: Mapping[str, str] | None = None,
    pts: Sequence[int] | None = None,
    size: tuple[int, int] | None = None,
    pixel_aspect: Fraction | None = None,
    caption: str = "",
) -> Path:
    """Writes frames at a rate, or each at its own `pts` in milliseconds; with a caption beside it if there is one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as output:
        stream = output.add_stream(codec, rate=rate, options=dict(options or {}))
        stream.height, stream.width = size or frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        if pixel_aspect:
            stream.codec_context.sample_aspect_ratio = pixel_aspect
        if pts is not None:
            stream.codec_context.time_base = MILLI
        for number, picture in enumerate(frames):
            if size:
                picture = np.asarray(Image.fromarray(picture).resize(size[::-1], Image.Resampling.BICUBIC))
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = (number, 1 / Fraction(rate)) if pts is None else (pts[number], MILLI)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    if caption:
        path.with_suffix(".txt").write_text(caption + "\n")
    return path
