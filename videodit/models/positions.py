"""Where a token is: what is added to it for its place, and what is added or rotated for its time.

Axes: `b` batch, `f` frames, `s` places, `d` width, `e` width of a head.
"""

from __future__ import annotations

import math

import torch
from diffusers.models.embeddings import get_1d_sincos_pos_embed_from_grid, get_2d_sincos_pos_embed
from einops import rearrange
from torch import Tensor


def frame_seconds(num_frames: int, patch_frames: int, fps: float | Tensor, device: torch.device) -> Tensor:
    """When each of so many frames of tokens is shown, each of `patch_frames` at `fps` (a number or b): 1 f or b f,
    fp32."""
    rate = torch.as_tensor(fps, dtype=torch.float32, device=device)
    index = torch.arange(num_frames, dtype=torch.float32, device=device) * patch_frames
    return index / rearrange(torch.atleast_1d(rate), "b -> b 1")


def spatial_positions(
    rows: int, columns: int, dim: int, base: int, interpolation_scale: float, device: torch.device
) -> Tensor:
    """2D sin-cos positions, s d: each side is scaled to `base / interpolation_scale`, so that places mean the same at
    any size.

    As in PixArt-alpha (Chen et al. 2023), which scales DiT's fixed table (Peebles & Xie 2022).
    """
    return get_2d_sincos_pos_embed(
        dim,
        (rows, columns),
        base_size=base,
        interpolation_scale=interpolation_scale,
        device=device,
        output_type="pt",
    ).float()


def temporal_sincos(positions: Tensor, dim: int) -> Tensor:
    """Sin-cos positions in time, b f -> b f 1 d, fp32 (Latte, Ma et al. 2024)."""
    table = get_1d_sincos_pos_embed_from_grid(dim, rearrange(positions, "b f -> (b f)"), output_type="pt")
    return rearrange(table.float(), "(b f) d -> b f 1 d", b=len(positions))


def temporal_rotary(seconds: Tensor, head_dim: int, periods: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Rotary positions in time, for frames shown at `seconds` (b f): (cos, sin), each b f 1 1 e/2, fp32.

    The pairs turn once in `periods[0]` to `periods[1]` seconds, in geometric steps, so that a frame rate is nothing
    but a spacing of times.
    """
    pairs = head_dim // 2
    part = torch.arange(pairs, device=seconds.device, dtype=torch.float32) / max(pairs - 1, 1)
    turns = (1 / periods[0]) * (periods[0] / periods[1]) ** part  # a second
    angles = rearrange(seconds.float(), "b f -> b f 1 1 1") * (2 * math.pi * turns)
    return angles.cos(), angles.sin()
