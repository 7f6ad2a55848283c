"""VAEs of pictures, which see each frame by itself: a row a class of diffusers.

Axes: `n` frames, `c` channels, `h w` rows and columns. Latents are raw: as a row's `moments` give their mean.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    AutoencoderKLTemporalDecoder,
)
from einops import rearrange
from torch import Tensor

from videodit.geometry import Strides

NO_SPREAD = -30.0  # log variance, the least that diffusers' Gaussian keeps


@dataclass(frozen=True)
class Pictures:
    """How a VAE of pictures is used.

    strides: of its configuration. moments: (vae, pixels n 3 h w) -> mean and log variance of raw latents, n 2c h w.
    decode: (vae, raw n c h w) -> pixels n 3 h w; None: all frames of a clip together, which the codec does.
    """

    strides: Callable[[Any], Strides]
    moments: Callable[[Any, Tensor], Tensor]
    decode: Callable[[Any, Tensor], Tensor] | None


def _moments(vae: Any, pixels: Tensor) -> Tensor:
    return vae.encode(pixels).latent_dist.parameters


def _levels(config: Any) -> Strides:
    return Strides(1, 2 ** (len(config.block_out_channels) - 1), config.latent_channels)


def _exact(vae: Any, pixels: Tensor) -> Tensor:
    """Of a VAE without spread."""
    latent = vae.encode(pixels).latent
    return torch.cat([latent, torch.full_like(latent, NO_SPREAD)], dim=1)


def _flux2(vae: Any, pixels: Tensor) -> Tensor:
    """Its latents are 2 x 2 places each: so its transformer has them, and its statistics."""
    p, q = vae.config.patch_size
    moments = vae.encode(pixels).latent_dist.parameters
    return rearrange(moments, "n (two c) (h p) (w q) -> n (two c p q) h w", two=2, p=p, q=q)


def _from_flux2(vae: Any, raw: Tensor) -> Tensor:
    p, q = vae.config.patch_size
    return vae.decode(rearrange(raw, "n (c p q) h w -> n c (h p) (w q)", p=p, q=q)).sample


def _still(vae: Any, pixels: Tensor) -> Tensor:
    """Of a causal video VAE whose decoder learned pictures alone: each frame is the first of its own clip."""
    return rearrange(
        vae.encode(rearrange(pixels, "n c h w -> n c 1 h w")).latent_dist.parameters, "n c 1 h w -> n c h w"
    )


def _from_still(vae: Any, raw: Tensor) -> Tensor:
    return rearrange(vae.decode(rearrange(raw, "n c h w -> n c 1 h w")).sample, "n c 1 h w -> n c h w")


PICTURES: dict[type, Pictures] = {
    AutoencoderKL: Pictures(_levels, _moments, lambda vae, raw: vae.decode(raw).sample),
    AutoencoderKLTemporalDecoder: Pictures(_levels, _moments, None),
    AutoencoderDC: Pictures(
        lambda c: Strides(1, 2 ** (len(c.encoder_block_out_channels) - 1), c.latent_channels),
        _exact,
        lambda vae, raw: vae.decode(raw).sample,
    ),
    AutoencoderKLFlux2: Pictures(
        lambda c: Strides(
            1,
            c.patch_size[0] * 2 ** (len(c.block_out_channels) - 1),
            c.patch_size[0] * c.patch_size[1] * c.latent_channels,
        ),
        _flux2,
        _from_flux2,
    ),
    AutoencoderKLQwenImage: Pictures(
        lambda c: Strides(1, 2 ** len(c.temperal_downsample), c.z_dim), _still, _from_still
    ),
}


def row_of(vae: Any) -> Pictures | None:
    """The row of a VAE of pictures; None of one of videos."""
    return next((row for cls, row in PICTURES.items() if isinstance(vae, cls)), None)
