"""Text-to-video diffusion transformers with spatiotemporal patches; an image is a clip of one frame."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from videodit.attention_maps import sample_with_attention
    from videodit.codec import AutoencoderKLInflated, AutoencoderKLPatch, VideoCodec
    from videodit.extending import extend_in_time
    from videodit.models.branches import load_control, save_control
    from videodit.models.extended import TimeExtended
    from videodit.models.formats.files import from_diffusers
    from videodit.models.growth import grow
    from videodit.models.time_blocks import load_time_blocks, save_time_blocks
    from videodit.models.transformer import VideoDiT
    from videodit.pipeline import VideoDiTPipeline
    from videodit.text import TextEncoder
    from videodit.text.learned import LearnedCaptions

__all__ = [
    "AutoencoderKLInflated",
    "AutoencoderKLPatch",
    "LearnedCaptions",
    "TextEncoder",
    "TimeExtended",
    "VideoCodec",
    "VideoDiT",
    "VideoDiTPipeline",
    "extend_in_time",
    "from_diffusers",
    "grow",
    "load_control",
    "load_time_blocks",
    "sample_with_attention",
    "save_control",
    "save_time_blocks",
]

_ROOMS = {
    "AutoencoderKLInflated": "codec",
    "AutoencoderKLPatch": "codec",
    "LearnedCaptions": "text.learned",
    "TextEncoder": "text",
    "TimeExtended": "models.extended",
    "VideoCodec": "codec",
    "VideoDiT": "models.transformer",
    "VideoDiTPipeline": "pipeline",
    "extend_in_time": "extending",
    "from_diffusers": "models.formats.files",
    "grow": "models.growth",
    "load_control": "models.branches",
    "load_time_blocks": "models.time_blocks",
    "sample_with_attention": "attention_maps",
    "save_control": "models.branches",
    "save_time_blocks": "models.time_blocks",
}


def __getattr__(name: str) -> Any:
    """Loads what is asked for, so that a process that only reads files does without torch."""
    if name not in _ROOMS:
        raise AttributeError(f"module 'videodit' has no attribute {name!r}")
    if "torchao" not in sys.modules:  # diffusers imports it, which prints
        import_module("videodit.command").import_torchao()
    return getattr(import_module(f"videodit.{_ROOMS[name]}"), name)
