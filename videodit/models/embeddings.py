"""From latents, times and places to tokens: the 3D-patch tokenizer, its inverse, and positions.

Axes: `b` batch, `c` channels, `f` frames, `h w` rows and columns, `s = h*w` places, `d` width; `pt ph pw` the patch.
"""

from __future__ import annotations

import math

import torch
from diffusers.models.embeddings import get_2d_sincos_pos_embed
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import pad

Patch = tuple[int, int, int]


class PatchEmbed(nn.Module):
    """Cuts a latent b c f h w into patches of `pt x ph x pw` and projects each to one token: b f' s d.

    A frame count that `pt` does not divide is padded with zeros *before* the first frame, so that an image, or the
    first frame of a causal latent, always sits in the last tap of its patch.
    """

    def __init__(self, patch_size: Patch, in_channels: int, dim: int):
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Linear(in_channels * math.prod(patch_size), dim)

    def forward(self, latent: Tensor) -> Tensor:
        pt, ph, pw = self.patch_size
        latent = pad(latent, (0, 0, 0, 0, -latent.shape[2] % pt, 0))
        return self.proj(rearrange(latent, "b c (f pt) (h ph) (w pw) -> b f (h w) (c pt ph pw)", pt=pt, ph=ph, pw=pw))


def unpatchify(tokens: Tensor, patch_size: Patch, num_frames: int, height: int) -> Tensor:
    """Token outputs b f' s (pt ph pw c) -> b c f h w of `num_frames` frames and `height` rows: undoes `PatchEmbed`."""
    pt, ph, pw = patch_size
    latent = rearrange(
        tokens, "b f (h w) (pt ph pw c) -> b c (f pt) (h ph) (w pw)", pt=pt, ph=ph, pw=pw, h=height // ph
    )
    return latent[:, :, -num_frames:]


def spatial_positions(rows: int, columns: int, dim: int, base: int, device: torch.device) -> Tensor:
    """2D sin-cos positions, s d: each side is scaled to `base`, so that places mean the same at any size.

    As in PixArt-alpha (Chen et al. 2023), which scales DiT's fixed table (Peebles & Xie 2022).
    """
    return get_2d_sincos_pos_embed(dim, (rows, columns), base_size=base, device=device, output_type="pt").float()


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
