"""Tiny models with random weights, shared by the tests."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler

from videodit.models.transformer import VideoDiT
from videodit.pipeline import VideoDiTPipeline
from videodit.text import TextEncoder

Module = TypeVar("Module", bound=torch.nn.Module)

PEER: dict[str, Any] = {  # what the tiny instances of diffusers' classes have in common
    "num_attention_heads": 2,
    "attention_head_dim": 24,
    "in_channels": 4,
    "out_channels": 8,
    "num_layers": 2,
    "sample_size": 8,
    "patch_size": 2,
    "activation_fn": "gelu-approximate",
}


def awaken(model: Module, seed: int = 0, scale: float = 0.2) -> Module:
    """Random weights everywhere, also where the model starts at zero, so that no path is silent."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            size = scale if parameter.ndim > 1 else scale / 2
            parameter.add_(size * torch.randn(parameter.shape, generator=generator).to(parameter))
    return model.eval()


def tiny_dit(**config: object) -> VideoDiT:
    """A model of two layers and width 32, awake."""
    shape: dict = {
        "in_channels": 4,
        "num_layers": 2,
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "caption_channels": 24,
        "sample_size": 4,
        "sample_fps": 2.0,
    }
    torch.manual_seed(0)
    return awaken(VideoDiT(**(shape | config)))


def tiny_wan() -> AutoencoderKLWan:
    torch.manual_seed(0)
    return AutoencoderKLWan(
        base_dim=4,
        decoder_base_dim=4,
        z_dim=4,
        dim_mult=[2, 4, 4],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        patch_size=2,
        in_channels=12,
        out_channels=12,
        is_residual=True,
        latents_mean=[0.1, -0.2, 0.3, 0.0],
        latents_std=[0.5, 1.5, 2.0, 1.0],
    ).eval()


def tiny_pipeline() -> VideoDiTPipeline:
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
