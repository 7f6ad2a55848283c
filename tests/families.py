"""Tiny image models of diffusers with random weights, and whole pipelines of some, shared by the tests."""

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
    FlowMatchEulerDiscreteScheduler,
)
from tiny import awaken
from torch import Tensor, nn
from transformers import (
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

from videodit.models.families import FAMILIES, Frames
from videodit.text.own import own_parts

CAPTIONS = ["a red circle moving left", "two blue stars"]
HEADS: dict[str, Any] = {"attention_head_dim": 16, "num_attention_heads": 4}


def sd3(**config: Any) -> Any:
    shape: dict[str, Any] = {"num_layers": 2, "dual_attention_layers": (0,)} | config
    return diffusers.SD3Transformer2DModel(
        **HEADS,
        **shape,
        sample_size=8,
        in_channels=4,
        out_channels=4,
        joint_attention_dim=32,
        caption_projection_dim=64,
        pooled_projection_dim=32,
        pos_embed_max_size=16,
        qk_norm="rms_norm",
    )


def flux(**config: Any) -> Any:
    shape: dict[str, Any] = {"num_layers": 1, "num_single_layers": 2, "guidance_embeds": True} | config
    return diffusers.FluxTransformer2DModel(
        **HEADS,
        **shape,
        in_channels=16,
        joint_attention_dim=32,
        pooled_projection_dim=16,
        axes_dims_rope=(4, 4, 8),
    )


def flux2() -> Any:
    return diffusers.Flux2Transformer2DModel(
        **HEADS,
        in_channels=16,
        num_layers=1,
        num_single_layers=2,
        joint_attention_dim=32,
        axes_dims_rope=(4, 4, 4, 4),
    )


def sana(num_layers: int = 2) -> Any:
    return diffusers.SanaTransformer2DModel(
        **HEADS,
        in_channels=4,
        out_channels=4,
        num_layers=num_layers,
        num_cross_attention_heads=4,
        cross_attention_head_dim=16,
        cross_attention_dim=64,
        caption_channels=32,
        sample_size=8,
    )


def qwen() -> Any:
    return diffusers.QwenImageTransformer2DModel(
        **HEADS, in_channels=16, out_channels=4, num_layers=2, joint_attention_dim=32, axes_dims_rope=(4, 4, 8)
    )


def z_image() -> Any:
    return diffusers.ZImageTransformer2DModel(
        in_channels=4,
        dim=64,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=4,
        n_kv_heads=4,
        cap_feat_dim=32,
        axes_dims=[4, 4, 8],
        axes_lens=[64, 32, 32],
    )


def lumina2() -> Any:
    return diffusers.Lumina2Transformer2DModel(
        sample_size=8,
        in_channels=4,
        hidden_size=64,
        num_layers=2,
        num_refiner_layers=1,
        num_attention_heads=4,
        num_kv_heads=2,
        multiple_of=16,
        axes_dim_rope=(4, 4, 8),
        axes_lens=(64, 32, 32),
        cap_feat_dim=32,
    )


def pixart() -> Any:
    return diffusers.PixArtTransformer2DModel(
        **HEADS,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        cross_attention_dim=64,
        caption_channels=32,
        sample_size=8,
        use_additional_conditions=False,
    )


def dit() -> Any:
    return diffusers.DiTTransformer2DModel(
        **HEADS, in_channels=4, out_channels=8, num_layers=2, sample_size=8, num_embeds_ada_norm=5
    )


def unet(**config: Any) -> Any:
    return diffusers.UNet2DConditionModel(
        **config,
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=8,
        norm_num_groups=8,
    )


MODELS: dict[str, Callable[[], Any]] = {
    "SD3": sd3,
    "Flux": flux,
    "Flux2": flux2,
    "Sana": sana,
    "Qwen-Image": qwen,
    "Z-Image": z_image,
    "Lumina2": lumina2,
    "PixArt": pixart,
    "DiT": dit,
    "UNet": unet,
}
MASKED = ("Sana", "Qwen-Image", "Z-Image", "Lumina2", "PixArt")  # those that leave padding out


def tiny_image_model(name: str) -> Any:
    """One whose every weight counts."""
    torch.manual_seed(0)
    return awaken(MODELS[name](), scale=0.05)


def told(name: str, image: Any, clips: int = 2, tokens: int = 7) -> dict[str, Tensor]:
    """What a model of a family is told of clips, by the names of a call; one text is shorter where that counts."""
    draw = torch.Generator().manual_seed(1)
    made: dict[str, Tensor] = {}
    for condition in FAMILIES[type(image).__name__].told(image.config):
        if condition.kind == "text":
            made["encoder_hidden_states"] = torch.randn(clips, tokens, condition.width, generator=draw)
        elif condition.kind == "pooled":
            made["pooled_projections"] = torch.randn(clips, condition.width, generator=draw)
        elif condition.kind == "guidance":
            made["guidance"] = torch.linspace(2.0, 3.5, clips)
        elif condition.kind == "class":
            made["class_labels"] = torch.arange(clips)
    if name in MASKED:
        mask = torch.ones(clips, tokens, dtype=torch.bool)
        mask[-1, tokens - 2 :] = False
        made["encoder_attention_mask"] = mask
    return made


def frame_by_frame(image: Any, latents: Tensor, times: Tensor, kw: dict[str, Tensor]) -> Tensor:
    """The bare image model on each frame of b c f h w by itself, called as its family is called."""
    names = {
        "text": "encoder_hidden_states",
        "mask": "encoder_attention_mask",
        "pooled": "pooled_projections",
        "guidance": "guidance",
        "labels": "class_labels",
    }
    call = FAMILIES[type(image).__name__].call
    rows = {ours: kw.get(theirs) for ours, theirs in names.items()}
    return torch.stack([call(image, Frames(frame, times, **rows)) for frame in latents.unbind(2)], dim=2)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------------ pipelines


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


PIPELINES: dict[str, Callable[[], Any]] = {"SD3": sd3_pipeline, "Flux": flux_pipeline, "Z-Image": z_image_pipeline}


def loud(blocks: nn.ModuleList) -> None:
    """Time blocks that say something."""
    draw = torch.Generator().manual_seed(5)
    for block in blocks:
        for linear in (block.attn1.to_out[0], block.ff.net[-1]):  # type: ignore[union-attr, index]
            nn.init.normal_(linear.weight, std=0.05, generator=draw)
