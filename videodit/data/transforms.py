"""Frames as decoded -> frames at the size that a run asks for."""

from __future__ import annotations

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import interpolate

from videodit.geometry import covering


def fit(
    frames: np.ndarray, height: int, width: int, place: tuple[float, float] = (0.5, 0.5), zoom: float = 1.0
) -> np.ndarray:
    """Scales uint8 f h w c until it covers `zoom` times height x width (bicubic, antialiased), then cuts that out.

    `place` is where: 0 at the top or left, 1 at the bottom or right, one half in the middle.
    """
    _, h, w, _ = frames.shape
    rows, columns = covering(h, w, round(zoom * height), round(zoom * width))
    if (h, w) == (rows, columns) == (height, width):
        return frames
    if (h, w) != (rows, columns):
        pixels = rearrange(torch.from_numpy(frames).float(), "f h w c -> f c h w")
        pixels = interpolate(pixels, (rows, columns), mode="bicubic", antialias=True).round().clamp(0, 255)
        frames = rearrange(pixels, "f c h w -> f h w c").byte().numpy()
    top, left = int((rows - height) * place[0]), int((columns - width) * place[1])
    return frames[:, top : top + height, left : left + width]


def to_pixels(frames: np.ndarray) -> Tensor:
    """uint8 f h w c -> float32 c f h w in [-1, 1]."""
    return rearrange(torch.from_numpy(np.ascontiguousarray(frames)).float() / 127.5 - 1, "f h w c -> c f h w")


def to_frames(pixels: Tensor) -> np.ndarray:
    """Float (b) c f h w in [-1, 1] -> uint8 (b) f h w c, rounded and clamped."""
    values = ((pixels.float() + 1) * 127.5).round().clamp(0, 255).byte()
    return rearrange(values, "... c f h w -> ... f h w c").cpu().numpy()


def detailed_crop(
    frames: np.ndarray, side: int | None, num_frames: int, rng: np.random.Generator, tries: int
) -> np.ndarray:
    """Of `tries` random crops (num_frames x side x side; None: whole pictures) the one with most contrast.

    Flat crops teach a VAE nothing; contrast is the standard deviation over every second row and column of the crop, a
    channel at a time.
    """
    f, h, w, _ = frames.shape
    side_h, side_w, num_frames = min(side or h, h), min(side or w, w), min(num_frames, f)
    best, best_contrast = frames[:num_frames, :side_h, :side_w], -1.0
    for _ in range(tries if (side_h, side_w) != (h, w) or num_frames < f else 1):
        t, y, x = (rng.integers(n + 1) for n in (f - num_frames, h - side_h, w - side_w))
        crop = frames[t : t + num_frames, y : y + side_h, x : x + side_w]
        contrast = float(crop[:, ::2, ::2].std(axis=(0, 1, 2)).sum())
        if contrast > best_contrast:
            best, best_contrast = crop, contrast
    return best
