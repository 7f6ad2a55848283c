"""From latents and times to tokens: the 3D-patch tokenizer, its inverse, and the embedding of time and class.

Axes: `b` batch, `c` channels, `f` frames, `h w` rows and columns, `s = h*w` places, `d` width; `pt ph pw` the patch.
"""

from __future__ import annotations

import math

import torch
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import pad, silu

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


class MapEmbed(nn.Module):
    """A map b c f h w beside the latent, as what is added to its tokens, b f' s d: nothing until it is trained.

    One channel more says that a row is told, so that a map of zeros is something else than none, which adds exactly
    nothing.
    """

    def __init__(self, patch_size: Patch, width: int, dim: int):
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Linear((width + 1) * math.prod(patch_size), dim, bias=False)
        nn.init.zeros_(self.proj.weight)

    def forward(self, value: Tensor, told: Tensor) -> Tensor:
        rows = told.to(value.dtype).reshape(-1, 1, 1, 1, 1)
        value = torch.cat([torch.where(rows > 0, value, 0.0), rows.expand(-1, 1, *value.shape[2:])], dim=1)
        pt, ph, pw = self.patch_size
        value = pad(value, (0, 0, 0, 0, -value.shape[2] % pt, 0)).to(self.proj.weight.dtype)
        return self.proj(rearrange(value, "b c (f pt) (h ph) (w pw) -> b f (h w) (c pt ph pw)", pt=pt, ph=ph, pw=pw))


class VectorEmbed(nn.Module):
    """Numbers b c, or b f c, as what is added to the embedding of times, b 1 d or b f d; nothing until it is trained,
    and, as of maps, nothing for a row that is not told."""

    def __init__(self, width: int, dim: int):
        super().__init__()
        self.linear_1 = nn.Linear(width + 1, dim, bias=False)
        self.linear_2 = nn.Linear(dim, dim, bias=False)
        nn.init.zeros_(self.linear_2.weight)

    def forward(self, value: Tensor, told: Tensor) -> Tensor:
        value = value[:, None] if value.ndim == 2 else value
        rows = told.to(value.dtype).reshape(-1, 1, 1)
        value = torch.cat([torch.where(rows > 0, value, 0.0), rows.expand(-1, value.shape[1], 1)], dim=-1)
        return self.linear_2(silu(self.linear_1(value.to(self.linear_1.weight.dtype))))


def unpatchify(tokens: Tensor, patch_size: Patch, num_frames: int, height: int) -> Tensor:
    """Token outputs b f' s (pt ph pw c) -> b c f h w of `num_frames` frames and `height` rows: undoes `PatchEmbed`."""
    pt, ph, pw = patch_size
    latent = rearrange(
        tokens, "b f (h w) (pt ph pw c) -> b c (f pt) (h ph) (w pw)", pt=pt, ph=ph, pw=pw, h=height // ph
    )
    return latent[:, :, -num_frames:]


def at_length(text: Tensor, mask: Tensor | None, length: int) -> Tensor:
    """Text states b m e as `length` tokens, zeros where the mask leaves one out and behind the last."""
    text = text if mask is None else text.masked_fill(~rearrange(mask, "b m -> b m 1"), 0.0)
    return pad(text, (0, 0, 0, length - text.shape[1]))


def told_nothing(text: Tensor, mask: Tensor, null: Tensor) -> tuple[Tensor, Tensor]:
    """Text states b m e and their mask b m, with the text `null` (m' e) in each row that masks all of its tokens."""
    empty, longer = ~mask.any(dim=1, keepdim=True), max(0, len(null) - text.shape[1])
    text, mask = pad(text, (0, 0, 0, longer)), pad(mask, (0, longer))
    seen = torch.arange(text.shape[1], device=mask.device) < len(null)
    null = pad(null.to(text.dtype), (0, 0, 0, text.shape[1] - len(null)))
    return torch.where(rearrange(empty, "b m -> b m 1"), null, text), torch.where(empty, seen, mask)


class TimeEmbedding(nn.Module):
    """Time and, where there are classes, class as one vector: n, n -> n d in fp32 (DiT, Peebles & Xie 2022).

    Args:
        num_classes: besides "none", which is the last row of the table. None: time alone.
        freq_shift: of the sinusoids, as in diffusers (its DiT: 1; the paper's: 0).
    """

    def __init__(self, dim: int, num_classes: int | None, freq_shift: int):
        super().__init__()
        self.time_proj = Timesteps(256, flip_sin_to_cos=True, downscale_freq_shift=freq_shift)
        self.timestep_embedder = TimestepEmbedding(256, dim)
        self.class_embedder = nn.Embedding(num_classes + 1, dim) if num_classes is not None else None

    def forward(self, timestep: Tensor, class_labels: Tensor | None) -> Tensor:
        weights = self.timestep_embedder.linear_1.weight.dtype
        embedded = self.timestep_embedder(self.time_proj(timestep).to(weights))
        return embedded if self.class_embedder is None else embedded + self.class_embedder(class_labels)
