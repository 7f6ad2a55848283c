"""STDiT3 of Open-Sora 1.2 (Zheng et al. 2024), as the project publishes it; diffusers has no class of it.

Its velocity is data - noise, ours noise - data: the head's weights change their sign. Frame rates are those of the
clip, of which a latent frame holds four. Positions are scaled by pixels there, here by latent places of eight pixels
each. The null caption is learned, and stands for a text that is masked out.
"""

from __future__ import annotations

from typing import Any

import torch

from videodit.models.formats.pixart import OWN_MODULES, TEXT_FUSED
from videodit.models.formats.table import Format, Key, State, rows, width

PIXELS = 8  # a latent place
SIDE = 512  # pixels, whose positions are not scaled


def _scale(theirs: Any) -> float:
    """By which positions are divided, for a call of one token."""
    return PIXELS * theirs.patch_size[1] / theirs.input_sq_size


def _side(ours: Any) -> int:
    return round(PIXELS * ours.patch_size[1] / ours.interpolation_scale)


def _learns_range(ours: Any) -> bool:
    return ours.out_channels == 2 * ours.in_channels


KEYS = [
    Key("axes", None, ("space", "time")),
    Key("norm_type", None, "ada_norm_single"),
    Key("time_positions", None, "frames"),
    Key("images_skip_time", None, False),
    Key("sample_size", None, None),
    Key("fps_embedding", None, 4.0),
    Key("sample_fps", None, 6.0),
    Key("num_layers", "depth"),
    Key("num_attention_heads", "num_heads"),
    Key("attention_head_dim", None, read=lambda c: c.hidden_size // c.num_heads),
    Key(None, "hidden_size", write=width),
    *map(Key, ("in_channels", "mlp_ratio", "caption_channels", "qk_norm")),
    Key("out_channels", "pred_sigma", read=lambda c: c.in_channels * (1 + c.pred_sigma), write=_learns_range),
    Key("patch_size", read=lambda c: tuple(c.patch_size)),
    Key("null_caption_length", "model_max_length"),
    Key("interpolation_scale", "input_sq_size", read=_scale, write=_side),
    Key(None, "kernel_size", None),  # of the windows of Open-Sora 1.3
    Key(None, "use_spatial_rope", False),
    Key(None, "skip_temporal", False),
    Key(None, "skip_y_embedder", False),
]


def _frequencies(config: Any, state: State) -> State:
    width = config.attention_head_dim
    return {"rope.freqs": 1 / 10000 ** (torch.arange(0, width, 2).float() / width)}


_SPACE = TEXT_FUSED | rows("""
    attn1.norm_q  attn.q_norm
    attn1.norm_k  attn.k_norm
""")
_TIME = _SPACE | rows("""
    attn1.to_q    attn.qkv     0/3 halves
    attn1.to_k    attn.qkv     1/3 halves
    attn1.norm_q  attn.q_norm  halves
    attn1.norm_k  attn.k_norm  halves
""")
_ENDS = OWN_MODULES | rows("""
    patch_embed.proj                         x_embedder.proj         patch-3d
    proj_out                                 final_layer.linear      negated
    fps_embedder.timestep_embedder.linear_1  fps_embedder.mlp.0
    fps_embedder.timestep_embedder.linear_2  fps_embedder.mlp.2
    null_caption                             y_embedder.y_embedding
""")
ORIGINAL = Format(
    "STDiT3",
    KEYS,
    _ENDS,
    (("spatial_blocks", _SPACE), ("temporal_blocks", _TIME)),
    computed=_frequencies,
    marks=("spatial_blocks.0.attn.qkv.weight", "temporal_blocks.0.attn.qkv.weight"),
    head_dim=72,
    unsaid=lambda said, state, asked: {"interpolation_scale": PIXELS * said["patch_size"][1] / SIDE},
)
