"""Tiny pipelines of image models with random weights, and their parts, shared by the tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
)
from families import awakened, hunyuan, tiny_image_model
from transformers import (
    BertConfig,
    BertModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Gemma2Config,
    Gemma2Model,
    Qwen3Config,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
)

from videodit.text.own import own_parts

CAPTIONS = ["a red circle moving left", "two blue stars"]


def tiny_picture_vae() -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        latent_channels=4,
        norm_num_groups=4,
        layers_per_block=1,
        shift_factor=0.1,
        scaling_factor=0.8,
    ).eval()


def tiny_dc() -> AutoencoderDC:
    torch.manual_seed(0)
    return AutoencoderDC(
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)),
        upsample_block_type="interpolate",
        downsample_block_type="conv",
        decoder_norm_types="rms_norm",
        scaling_factor=0.41407,
    ).eval()


def tiny_qwen_vae() -> AutoencoderKLQwenImage:
    torch.manual_seed(0)
    return AutoencoderKLQwenImage(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 2],
        num_res_blocks=1,
        temperal_downsample=[False],
        latents_mean=[0.1, -0.2, 0.3, 0.0],
        latents_std=[0.5, 1.5, 2.0, 1.0],
    ).eval()


def tiny_flux2_vae() -> AutoencoderKLFlux2:
    torch.manual_seed(0)
    vae = AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        latent_channels=4,
        norm_num_groups=4,
        layers_per_block=1,
    ).eval()
    vae.bn.running_mean.copy_(torch.linspace(-1, 1, 16))
    vae.bn.running_var.copy_(torch.linspace(0.5, 2, 16))
    return vae


def tiny_deep_vae() -> AutoencoderKL:
    """A side of eight pixels a place."""
    torch.manual_seed(0)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4,) * 4,
        latent_channels=4,
        norm_num_groups=2,
        layers_per_block=1,
    ).eval()


def words(length: int = 12) -> Any:
    tokenizer = own_parts(CAPTIONS, 16, 1, 2, 0)[1]
    tokenizer.model_max_length = length
    return tokenizer


def clip(width: int, pooled: bool) -> Any:
    tokenizer = words()
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=width,
        max_position_embeddings=12,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=0,
        pad_token_id=tokenizer.pad_token_id,
    )
    return (CLIPTextModelWithProjection if pooled else CLIPTextModel)(config).eval()


def t5(width: int = 32) -> Any:
    config = T5Config(
        vocab_size=len(words()), d_model=width, d_kv=8, d_ff=16, num_layers=1, num_heads=2, dropout_rate=0.0
    )
    return T5EncoderModel(config).eval()


def sd3_pipeline() -> Any:
    torch.manual_seed(1)
    return diffusers.StableDiffusion3Pipeline(
        transformer=tiny_image_model("SD3"),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=tiny_picture_vae(),
        text_encoder=clip(16, pooled=True),
        tokenizer=words(),
        text_encoder_2=clip(16, pooled=True),
        tokenizer_2=words(),
        text_encoder_3=t5(),
        tokenizer_3=words(),
    )


def flux_pipeline() -> Any:
    torch.manual_seed(1)
    return diffusers.FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, base_image_seq_len=4, max_image_seq_len=64
        ),
        vae=tiny_picture_vae(),
        text_encoder=clip(16, pooled=False),
        tokenizer=words(),
        text_encoder_2=t5(),
        tokenizer_2=words(),
        transformer=tiny_image_model("Flux"),
    )


def z_image_pipeline() -> Any:
    torch.manual_seed(1)
    tokenizer = words()
    tokenizer.chat_template = (
        "{% for message in messages %}{{ message['role'] }} moving {{ message['content'] }} {% endfor %}circle left"
    )
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
    )
    return diffusers.ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=tiny_picture_vae(),
        text_encoder=Qwen3Model(config).eval(),
        tokenizer=tokenizer,
        transformer=tiny_image_model("Z-Image"),
    )


def gemma() -> Any:
    config = Gemma2Config(
        vocab_size=len(words()),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        sliding_window=16,
    )
    return Gemma2Model(config).eval()


def gemma_pipeline(name: str) -> Any:
    """Sana's or Lumina2's, which have a way of their own with negative prompts."""
    torch.manual_seed(1)
    cls, vae = {"Sana": (diffusers.SanaPipeline, tiny_dc), "Lumina2": (diffusers.Lumina2Pipeline, tiny_picture_vae)}[
        name
    ]
    return cls(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(),
        text_encoder=gemma(),
        tokenizer=words(300),
        transformer=tiny_image_model(name),
    )


def diffusion(**how: Any) -> DDIMScheduler:
    """Of betas as Stable Diffusion has them."""
    return DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False, **how)


def stable_pipeline(scheduler: Any = None) -> Any:
    """Stable Diffusion's."""
    torch.manual_seed(1)
    return diffusers.StableDiffusionPipeline(
        vae=tiny_picture_vae(),
        text_encoder=clip(32, pooled=False),
        tokenizer=words(),
        unet=tiny_image_model("UNet"),
        scheduler=scheduler or diffusion(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def hunyuan_pipeline(told_size: bool = False) -> Any:
    """Its lengths are those that its pipeline always takes."""
    torch.manual_seed(1)
    tokenizer = words(77)
    image = hunyuan(text_len=77, text_len_t5=256, use_style_cond_and_image_meta_size=told_size)
    bert = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=77,
    )
    return diffusers.HunyuanDiTPipeline(
        vae=tiny_deep_vae(),
        text_encoder=BertModel(bert).eval(),
        tokenizer=tokenizer,
        transformer=awakened(image),
        scheduler=diffusion(prediction_type="v_prediction"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        text_encoder_2=t5(24),
        tokenizer_2=words(256),
    )


PIPELINES: dict[str, Callable[[], Any]] = {"SD3": sd3_pipeline, "Flux": flux_pipeline, "Z-Image": z_image_pipeline}
