"""Shared fixtures. One thread: tiny shapes are slower on several."""

from __future__ import annotations

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from tiny import tiny_dit, tiny_wan

from videodit.pipeline import VideoDiTPipeline
from videodit.text import TextEncoder

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test draws the same numbers each time."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny_pipe() -> VideoDiTPipeline:
    """A whole pipeline of tiny random parts: 4x8x8 VAE, own text encoder, two layers."""
    text = TextEncoder.from_captions(["a red circle moving left", "two blue stars"], width=24, depth=1, heads=2)
    pipe = VideoDiTPipeline(
        tiny_wan(),
        text.text_encoder,
        text.tokenizer,
        tiny_dit(),
        FlowMatchEulerDiscreteScheduler(),
        default_num_frames=9,
        default_height=32,
        default_width=32,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe
