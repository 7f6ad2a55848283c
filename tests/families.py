"""Tiny image models of diffusers with random weights, and whole pipelines of some, shared by the tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import torch
from tiny import awaken
from torch import Tensor, nn

from videodit.models.families import FAMILIES, Frames

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


def dit(num_embeds_ada_norm: int = 5) -> Any:
    return diffusers.DiTTransformer2DModel(
        **HEADS, in_channels=4, out_channels=8, num_layers=2, sample_size=8, num_embeds_ada_norm=num_embeds_ada_norm
    )


def hunyuan(**config: Any) -> Any:
    lengths = {"text_len": 3, "text_len_t5": 4}
    shape: dict[str, Any] = lengths | {"use_style_cond_and_image_meta_size": False} | config
    return diffusers.HunyuanDiT2DModel(
        **HEADS,
        **shape,
        in_channels=4,
        patch_size=2,
        hidden_size=64,
        sample_size=8,
        num_layers=4,
        mlp_ratio=2.0,
        cross_attention_dim=32,
        cross_attention_dim_t5=24,
        pooled_projection_dim=16,
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
    "HunyuanDiT": hunyuan,
    "UNet": unet,
}
MASKED = ("Sana", "Qwen-Image", "Z-Image", "Lumina2", "PixArt")  # those that leave padding out


def tiny_image_model(name: str) -> Any:
    """One whose every weight counts."""
    torch.manual_seed(0)
    return awakened(MODELS[name]())


def awakened(image: Any) -> Any:
    return awaken(image, scale=0.05)


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
    if name == "HunyuanDiT":  # of three and of four tokens, which it says itself
        made["encoder_hidden_states"][..., -1] = 1
        made["encoder_hidden_states"][-1, [2, 6], -1] = 0
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


def loud(blocks: nn.ModuleList) -> None:
    """Time blocks that say something."""
    draw = torch.Generator().manual_seed(5)
    for block in blocks:
        for linear in (block.attn1.to_out[0], block.ff.net[-1]):  # type: ignore[union-attr, index]
            nn.init.normal_(linear.weight, std=0.05, generator=draw)
