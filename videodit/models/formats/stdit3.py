"""STDiT3 of Open-Sora 1.2 (Zheng et al. 2024), as the project publishes it; diffusers has no class of it.

Its velocity is data - noise, ours noise - data: the head's weights change their sign. Frame rates are those of the
clip, of which a latent frame holds four. Positions are scaled by pixels there, here by latent places of eight pixels
each. The null caption is learned, and stands for a text that is masked out.
"""

from __future__ import annotations

from typing import Any

import torch

from videodit.models.formats.pixart import OWN_MODULES, TEXT_FUSED
from videodit.models.formats.table import ConversionError, Format, Key, State, rows

HEAD_DIM = 72  # of all that is published; a file alone does not say
PIXELS = 8  # a latent place
SIDE = 512  # pixels, whose positions are not scaled


def _scale(theirs: Any) -> float:
    """By which positions are divided, for a call of one token."""
    return PIXELS * theirs.patch_size[1] / theirs.input_sq_size


def _side(ours: Any) -> int:
    return round(PIXELS * ours.patch_size[1] / ours.interpolation_scale)


def _learns_range(ours: Any) -> bool:
    return ours.out_channels == 2 * ours.in_channels


FIXED = [
    Key("axes", None, ("space", "time")),
    Key("norm_type", None, "ada_norm_single"),
    Key("time_positions", None, "frames"),
    Key("images_skip_time", None, False),
    Key("sample_size", None, None),
    Key("fps_embedding", None, 4.0),
    Key("sample_fps", None, 6.0),
]
KEYS = [
    *FIXED,
    Key("num_layers", "depth"),
    Key("num_attention_heads", "num_heads"),
    Key("attention_head_dim", None, read=lambda c: c.hidden_size // c.num_heads),
    Key(None, "hidden_size", write=lambda c: c.num_attention_heads * c.attention_head_dim),
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
_CONDITIONED = "of given frames in channels of their own (Open-Sora 1.3)"
ORIGINAL = Format("STDiT3", _ENDS, (("spatial_blocks", _SPACE), ("temporal_blocks", _TIME)), computed=_frequencies)


def original_config(state: State, heads: int | None) -> dict[str, Any]:
    """What its weights say. ConversionError: they are of another version, or do not say how many heads there are."""
    if "x_embedder_cond.proj.weight" in state:
        raise ConversionError(f"x_embedder_cond: {_CONDITIONED}, which a VideoDiT does not have")
    patch, null = state["x_embedder.proj.weight"], state["y_embedder.y_embedding"]
    dim, norm = len(patch), state.get("temporal_blocks.0.attn.q_norm.weight")
    heads = heads or dim // (HEAD_DIM if norm is None else len(norm))
    if not heads or dim % heads:
        raise ConversionError(f"width {dim} is not made of heads of {HEAD_DIM}; give num_attention_heads")
    config = {str(key.ours): key.value for key in FIXED}
    return config | {
        "in_channels": patch.shape[1],
        "out_channels": len(state["final_layer.linear.weight"]) // patch[0, 0].numel(),
        "num_layers": 1 + max(int(name.split(".")[1]) for name in state if name.startswith("spatial_blocks.")),
        "num_attention_heads": heads,
        "attention_head_dim": dim // heads,
        "patch_size": tuple(patch.shape[2:]),
        "caption_channels": null.shape[1],
        "null_caption_length": null.shape[0],
        "mlp_ratio": len(state["spatial_blocks.0.mlp.fc1.weight"]) / dim,
        "qk_norm": norm is not None,
        "interpolation_scale": PIXELS * patch.shape[-1] / SIDE,
    }
