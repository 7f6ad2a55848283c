"""Pixels <-> latents over any of diffusers' VAEs: one class, one set of rules, a row a VAE of pictures."""

from videodit.codec.codec import DECODER, FRAMEWISE, VIDEO, VideoCodec

__all__ = ["DECODER", "FRAMEWISE", "VIDEO", "VideoCodec"]
