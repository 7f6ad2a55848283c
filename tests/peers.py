"""Tiny pipelines of diffusers with random weights, that ours are held against."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from tiny import awaken

from videodit.text import TextEncoder

PROMPTS = ["a red circle", "two blue stars moving left"]


def tiny_wan_pipeline(experts: int = 1, pixels: int = 8) -> WanPipeline:
    """A WanPipeline of tiny random parts, of one expert or two, with the VAE of 2.1 or (16 pixels a latent) 2.2."""
    torch.manual_seed(0)
    text = TextEncoder.from_captions(PROMPTS, width=20, depth=1, heads=2, max_length=512)
    more = {"in_channels": 12, "out_channels": 12, "patch_size": 2, "is_residual": True, "scale_factor_spatial": 16}
    channels = {"z_dim": 4, "latents_mean": [0.1] * 4, "latents_std": [0.8] * 4}
    vae = AutoencoderKLWan(
        base_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, **channels, **(more if pixels == 16 else {})
    )
    shape = {"num_attention_heads": 2, "attention_head_dim": 20, "in_channels": 4, "out_channels": 4, "text_dim": 20}
    shape |= {"freq_dim": 32, "ffn_dim": 60, "num_layers": 2}
    models = [awaken(WanTransformer3DModel(**shape), seed, scale=0.1) for seed in range(experts)]
    return WanPipeline(
        text.tokenizer,
        text.text_encoder,
        vae.eval(),
        UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
        models[0],
        models[1] if experts > 1 else None,
        boundary_ratio=0.875 if experts > 1 else None,
        expand_timesteps=pixels == 16,
    )
