"""Pixels <-> latents over any of diffusers' VAEs: one class, one set of rules, a row a VAE of pictures;
two classes of our own."""

from videodit.codec.codec import DECODER, FRAMEWISE, VIDEO, VideoCodec, keep_statistics
from videodit.codec.inflated_vae import AutoencoderKLInflated
from videodit.codec.patch_vae import AutoencoderKLPatch

__all__ = [
    "DECODER",
    "FRAMEWISE",
    "VIDEO",
    "AutoencoderKLInflated",
    "AutoencoderKLPatch",
    "VideoCodec",
    "keep_statistics",
]
