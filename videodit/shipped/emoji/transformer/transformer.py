"""Lets diffusers' `AutoModel` find the class of this folder; videodit must be installed."""

from videodit.models.transformer import VideoDiT  # noqa: F401
