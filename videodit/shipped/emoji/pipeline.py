"""Lets `DiffusionPipeline.from_pretrained` find the class of this folder; videodit must be installed."""

from videodit.pipeline import VideoDiTPipeline  # noqa: F401
