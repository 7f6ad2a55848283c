"""Text-to-video diffusion transformers with spatiotemporal patches; an image is a clip of one frame."""

from videodit.codec import VideoCodec
from videodit.models.transformer import VideoDiT
from videodit.pipeline import VideoDiTPipeline
from videodit.text import TextEncoder

__all__ = ["TextEncoder", "VideoCodec", "VideoDiT", "VideoDiTPipeline"]
