"""Where a token is: what is added to it for its place and its time, and by what its queries and keys are turned.

Axes: `b` batch, `f` frames, `s` places, `d` width, `e` width of a head. Rotary positions are by axis of attention, each
(cos, sin), broadcastable to b f s h e/2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from diffusers.models.embeddings import get_1d_sincos_pos_embed_from_grid, get_2d_sincos_pos_embed
from einops import rearrange, repeat
from torch import Tensor

Rotary = dict[str, tuple[Tensor, Tensor]]
THETA = 10000.0  # longest period of rotary positions by number, over 2 pi


class Grid(NamedTuple):
    """The tokens of a call: `frames` of rows x columns, shown at `seconds` (1 f or b f, fp32), the first of them that
    of number `first` of its clip."""

    frames: int
    rows: int
    columns: int
    seconds: Tensor
    first: int = 0


def grid(tokens: Tensor, rows: int, patch_frames: int, fps: float | Tensor, first: int = 0) -> Grid:
    """Of tokens b f s d, each of `patch_frames` at `fps` (a number or b), behind `first` frames of them."""
    rate = torch.as_tensor(fps, dtype=torch.float32, device=tokens.device)
    index = torch.arange(first, first + tokens.shape[1], dtype=torch.float32, device=tokens.device) * patch_frames
    seconds = index / rearrange(torch.atleast_1d(rate), "b -> b 1")
    return Grid(tokens.shape[1], rows, tokens.shape[2] // rows, seconds, first)


@dataclass(frozen=True)
class SincosPlaces:
    """2D sin-cos positions, s d: each side is scaled to `base / scale`, so that places mean the same at any size.

    As in PixArt-alpha (Chen et al. 2023), which scales DiT's fixed table (Peebles & Xie 2022). Without a base, sides
    are scaled to those of a square of as many places, times 1 / (`scale` sqrt(s)), as in Open-Sora 1.2.
    """

    dim: int
    base: int | None
    scale: float

    def __call__(self, at: Grid) -> Tensor:
        side = math.sqrt(at.rows * at.columns)
        table = get_2d_sincos_pos_embed(
            self.dim,
            (at.rows, at.columns),
            base_size=self.base or round(side),
            interpolation_scale=self.scale * (1.0 if self.base else side),
            device=at.seconds.device,
            output_type="pt",
        )
        return table.float()


@dataclass(frozen=True)
class SincosFrames:
    """Sin-cos positions in time, b f 1 d, fp32, counted in frames at `fps` (Latte, Ma et al. 2024)."""

    dim: int
    fps: float

    def __call__(self, at: Grid) -> Tensor:
        flat = rearrange(at.seconds * self.fps, "b f -> (b f)")
        table = get_1d_sincos_pos_embed_from_grid(self.dim, flat, output_type="pt")
        return rearrange(table.float(), "(b f) d -> b f 1 d", b=len(at.seconds))


@dataclass(frozen=True)
class SecondsRotary:
    """Rotary positions in time, by the second, for attention along time.

    The pairs turn once in `periods[0]` to `periods[1]` seconds, in geometric steps, so that a frame rate is nothing
    but a spacing of times.
    """

    head_dim: int
    periods: tuple[float, float]

    def __call__(self, at: Grid) -> Rotary:
        pairs = self.head_dim // 2
        part = torch.arange(pairs, device=at.seconds.device, dtype=torch.float32) / max(pairs - 1, 1)
        turns = (1 / self.periods[0]) * (self.periods[0] / self.periods[1]) ** part  # a second
        angles = rearrange(at.seconds, "b f -> b f 1 1 1") * (2 * math.pi * turns)
        return dict.fromkeys(("time", "joint", "window", "linear"), (angles.cos(), angles.sin()))


@dataclass(frozen=True)
class FramesRotary:
    """Rotary positions in time, by the number of the frame, for attention along time (Open-Sora 1.2)."""

    head_dim: int

    def __call__(self, at: Grid) -> Rotary:
        angles = rearrange(turned(at.frames, self.head_dim, at.seconds.device, at.first), "f e -> 1 f 1 1 e").float()
        return dict.fromkeys(("time", "joint", "window", "linear"), (angles.cos(), angles.sin()))


@dataclass(frozen=True)
class GridRotary:
    """Rotary positions by number of frame, row and column, which share the head's pairs, for all attention (Wan)."""

    head_dim: int

    def __call__(self, at: Grid) -> Rotary:
        side = 2 * (self.head_dim // 6)
        parts = [
            turned(count, width, at.seconds.device, first)
            for count, width, first in zip(
                at[:3], (self.head_dim - 2 * side, side, side), (at.first, 0, 0), strict=True
            )
        ]
        f, h, w = at[:3]
        spread = [
            repeat(part, f"{axis} e -> 1 (f) (h w) 1 e", f=f, h=h, w=w) for axis, part in zip("fhw", parts, strict=True)
        ]
        angles = torch.cat(spread, dim=-1)
        return dict.fromkeys(
            ("space", "time", "joint", "window", "linear"), (angles.cos().float(), angles.sin().float())
        )


def turned(count: int, width: int, device: torch.device, first: int = 0) -> Tensor:
    """Angles of `count` numbers from `first` on, count width/2: RoFormer's (Su et al. 2021), in fp64 where there is."""
    dtype = torch.float32 if device.type == "mps" else torch.float64
    turns = THETA ** (-torch.arange(0, width, 2, device=device, dtype=dtype) / width)
    return torch.outer(torch.arange(first, first + count, device=device, dtype=dtype), turns)


def rotate(x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Turns each pair (first half, second half) of the head's width by its angle, in fp32."""
    cos, sin = rotary
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1).to(x.dtype)


TIME_POSITIONS = ("rotary", "sincos", "both", "frames", "grid")


def positions_of(config: Any) -> tuple[SincosPlaces | None, SincosFrames | None, Any]:
    """What a model adds to its tokens for their places, and for their frames, and its rotary positions."""
    width, kind = config.num_attention_heads * config.attention_head_dim, config.time_positions
    places = SincosPlaces(width, config.sample_size, config.interpolation_scale)
    frames = SincosFrames(width, config.sample_fps) if kind in ("sincos", "both") else None
    rotary: Any = None
    if kind in ("rotary", "both"):
        rotary = SecondsRotary(config.attention_head_dim, tuple(config.rotary_periods))
    elif kind == "frames":
        rotary = FramesRotary(config.attention_head_dim)
    elif kind == "grid":
        rotary = GridRotary(config.attention_head_dim)
    return None if kind == "grid" else places, frames, rotary
