"""A prompt becomes a clip: the pipeline, the passes of guidance in each step, and the folders where it is saved."""

from .ends import VideoDiTPipelineOutput
from .folders import SHIPPED, named_folder
from .pipeline import VideoDiTPipeline

__all__ = ["SHIPPED", "VideoDiTPipeline", "VideoDiTPipelineOutput", "named_folder"]
