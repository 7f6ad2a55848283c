"""A prompt becomes a clip: the pipeline, the passes of guidance in each step, and the folders where it is saved."""

from .ends import VideoDiTPipelineOutput
from .pipeline import VideoDiTPipeline

__all__ = ["VideoDiTPipeline", "VideoDiTPipelineOutput"]
