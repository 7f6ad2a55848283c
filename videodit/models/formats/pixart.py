"""PixArt-alpha, sigma (Chen et al. 2023, 2024): diffusers' `PixArtTransformer2DModel` (0.42), the projects' `.pth`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusers import PixArtTransformer2DModel

from videodit.models.formats.dit import FUSED, IMAGE_KEYS, POSITIONS, place_table, sized
from videodit.models.formats.table import Config, ConversionError, Format, Key, State, reads_text, rows, width


def _captions(config: Any) -> int:
    if config.caption_channels is None or config.cross_attention_dim != width(config):
        raise ConversionError(
            f"caption_channels={config.caption_channels}, cross_attention_dim={config.cross_attention_dim}: text must "
            f"be projected to the width of the model, {width(config)}"
        )
    return config.caption_channels


# what diffusers' PixArt and Latte have alike
TEXT_KEYS = [
    *IMAGE_KEYS,
    Key("norm_type", "norm_type", "ada_norm_single"),
    Key("caption_channels", read=_captions, write=reads_text),
    Key(None, "cross_attention_dim", write=width),
    Key(None, "num_embeds_ada_norm", 1000),
    Key("caption_length", None, None),
    Key("null_caption_length", None, None),
]


def default_scale(config: Any) -> int:
    """Of the positions, where the configuration of diffusers' class says none: one for 512 pixels."""
    return max(config.sample_size // 64, 1)


def _scale(config: Any) -> float:
    return config.interpolation_scale if config.interpolation_scale is not None else default_scale(config)


def _is_told_sizes(config: Any) -> bool:
    """As the class decides where its configuration does not."""
    given = config.use_additional_conditions
    return config.sample_size == 128 if given is None else given


KEYS = [
    Key("axes", None, ("space",)),
    *TEXT_KEYS,
    Key("interpolation_scale", read=_scale),
    Key("use_additional_conditions", read=_is_told_sizes),
]
FORMAT = Format(
    "PixArtTransformer2DModel",
    KEYS,
    rows("patch_embed.proj  pos_embed.proj  patch"),
    (("transformer_blocks", {}),),
    unused=POSITIONS,
    cls=PixArtTransformer2DModel,
)

TEXT_FUSED = FUSED | rows("""
    attn2.to_q      cross_attn.q_linear
    attn2.to_k      cross_attn.kv_linear  0/2
    attn2.to_v      cross_attn.kv_linear  1/2
    attn2.to_out.0  cross_attn.proj
""")
OWN_MODULES = rows("""
    scale_shift_table                                final_layer.scale_shift_table
    patch_embed.proj                                 x_embedder.proj                patch
    proj_out                                         final_layer.linear
    adaln_single.emb.timestep_embedder.linear_1      t_embedder.mlp.0
    adaln_single.emb.timestep_embedder.linear_2      t_embedder.mlp.2
    adaln_single.emb.resolution_embedder.linear_1    csize_embedder.mlp.0
    adaln_single.emb.resolution_embedder.linear_2    csize_embedder.mlp.2
    adaln_single.emb.aspect_ratio_embedder.linear_1  ar_embedder.mlp.0
    adaln_single.emb.aspect_ratio_embedder.linear_2  ar_embedder.mlp.2
    adaln_single.linear                              t_block.1
    caption_projection.linear_1                      y_embedder.y_proj.fc1
    caption_projection.linear_2                      y_embedder.y_proj.fc2
""")
NULL = "the null caption of its training; the empty prompt takes its place"


def _scaled(said: Config, state: State, asked: Mapping[str, Any]) -> Config:
    """Its places a side, and the scale of the model that was published with so many."""
    places, null = sized(said, state, asked), state.get("y_embedder.y_embedding")
    side, sigma = places["sample_size"], null is not None and len(null) == 300  # alpha's captions are of 120 tokens
    scale = asked["interpolation_scale"] or {16: 0.5 if sigma else 1.0, 32: 1.0, 64: 2.0, 128: 4.0}.get(side)
    if scale is None:
        raise ConversionError(f"{side} places a side are no published PixArt's; give interpolation_scale")
    return places | {"interpolation_scale": scale}


ORIGINAL = Format(
    "PixArt",
    KEYS,
    OWN_MODULES,
    (("blocks", TEXT_FUSED),),
    unused={"y_embedder.y_embedding": NULL},
    computed=place_table,
    marks=("t_block.1.weight", "blocks.0.cross_attn.q_linear.weight"),
    unsaid=_scaled,
)
