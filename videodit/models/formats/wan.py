"""Wan 2.1 and 2.2 (Wan team 2025): diffusers' `WanTransformer3DModel` (0.42), and the project's own files.

All tokens see each other, and the text with its padding. What it calls `norm2` (its own files: `norm3`) stands before
the cross-attention. TI2V-5B differs in sizes, and in times a frame; the two experts of A14B are two models.
"""

from __future__ import annotations

from typing import Any

from diffusers import WanTransformer3DModel

from videodit.models.formats.table import HALVES, IN_FRONT, PATCH_3D, ConversionError, Format, Its, Key, State

CLASS = WanTransformer3DModel
HEAD_DIM = 128  # of all that is published; its own files do not say
TOKENS = 512  # of every text

FIXED = [
    Key("axes", None, ("joint",)),
    Key("time_positions", None, "grid"),
    Key("norm_type", None, "ada_norm_single"),
    Key("qk_norm", None, True),
    Key("cross_attention_qk_norm", None, True),
    Key("caption_length", None, TOKENS),
    Key("activation_fn", None, "gelu-approximate"),
    Key("attention_bias", None, True),
    Key("norm_elementwise_affine", None, False),
    Key("use_additional_conditions", None, False),
    Key("fps_embedding", None, None),
]


def _width(config: Any) -> int:
    return config.num_attention_heads * config.attention_head_dim


def _text(config: Any) -> int:
    if config.caption_channels is None:
        raise ConversionError("it reads a text, but this model has caption_channels=None")
    return config.caption_channels


KEYS = [
    *FIXED,
    *map(Key, ("in_channels", "num_layers", "num_attention_heads", "attention_head_dim", "freq_dim")),
    Key("out_channels", write=lambda c: c.out_channels or c.in_channels),
    Key("patch_size", read=lambda c: tuple(c.patch_size)),
    Key("caption_channels", "text_dim", write=_text),
    Key("mlp_ratio", "ffn_dim", read=lambda c: c.ffn_dim / _width(c), write=lambda c: round(_width(c) * c.mlp_ratio)),
    Key("cross_attention_norm", "cross_attn_norm"),
    Key("qk_norm_type", "qk_norm", "rms_norm_across_heads"),
    Key("norm_eps", "eps", 1e-6),
    Key(None, "image_dim", None),  # of the image branch of Wan 2.1 I2V
    Key(None, "added_kv_proj_dim", None),
    Key(None, "pos_embed_seq_len", None),
]

_EMBEDDER = "condition_embedder"
FORMAT = Format(
    CLASS.__name__,
    {
        "patch_embed.proj": Its("patch_embedding", layout=PATCH_3D),
        "adaln_single.emb.timestep_embedder": Its(f"{_EMBEDDER}.time_embedder"),
        "adaln_single.emb.timestep_embedder.linear_1": Its(f"{_EMBEDDER}.time_embedder.linear_1"),
        "adaln_single.emb.timestep_embedder.linear_2": Its(f"{_EMBEDDER}.time_embedder.linear_2"),
        "adaln_single.linear": Its(f"{_EMBEDDER}.time_proj"),
        "caption_projection.linear_1": Its(f"{_EMBEDDER}.text_embedder.linear_1"),
        "caption_projection.linear_2": Its(f"{_EMBEDDER}.text_embedder.linear_2"),
        "scale_shift_table": Its("scale_shift_table", layout=IN_FRONT),
    },
    (
        (
            "blocks",
            {
                "attn1.to_q": Its("attn1.to_q", layout=HALVES),
                "attn1.to_k": Its("attn1.to_k", layout=HALVES),
                "attn1.norm_q": Its("attn1.norm_q", layout=HALVES),
                "attn1.norm_k": Its("attn1.norm_k", layout=HALVES),
                "norm_cross": Its("norm2"),
                "ff.net.0.proj": Its("ffn.net.0.proj"),
                "ff.net.2": Its("ffn.net.2"),
                "scale_shift_table": Its("scale_shift_table", layout=IN_FRONT),
            },
        ),
    ),
)
ORIGINAL = Format(
    "Wan",
    {
        "patch_embed.proj": Its("patch_embedding", layout=PATCH_3D),
        "adaln_single.emb.timestep_embedder.linear_1": Its("time_embedding.0"),
        "adaln_single.emb.timestep_embedder.linear_2": Its("time_embedding.2"),
        "adaln_single.linear": Its("time_projection.1"),
        "caption_projection.linear_1": Its("text_embedding.0"),
        "caption_projection.linear_2": Its("text_embedding.2"),
        "scale_shift_table": Its("head.modulation", layout=IN_FRONT),
        "proj_out": Its("head.head"),
    },
    (
        (
            "blocks",
            {
                "attn1.to_q": Its("self_attn.q", layout=HALVES),
                "attn1.to_k": Its("self_attn.k", layout=HALVES),
                "attn1.norm_q": Its("self_attn.norm_q", layout=HALVES),
                "attn1.norm_k": Its("self_attn.norm_k", layout=HALVES),
                "attn1.to_v": Its("self_attn.v"),
                "attn1.to_out.0": Its("self_attn.o"),
                "attn2.to_q": Its("cross_attn.q"),
                "attn2.to_k": Its("cross_attn.k"),
                "attn2.to_v": Its("cross_attn.v"),
                "attn2.norm_q": Its("cross_attn.norm_q"),
                "attn2.norm_k": Its("cross_attn.norm_k"),
                "attn2.to_out.0": Its("cross_attn.o"),
                "norm_cross": Its("norm3"),
                "ff.net.0.proj": Its("ffn.0"),
                "ff.net.2": Its("ffn.2"),
                "scale_shift_table": Its("modulation", layout=IN_FRONT),
            },
        ),
    ),
)


def original_config(state: State, heads: int | None) -> dict[str, Any]:
    """What its weights say. ConversionError: they have an image branch, or more heads are meant than fit."""
    if branch := [name for name in state if name.startswith("img_emb.") or ".k_img." in name]:
        raise ConversionError(f"{branch[0]}: an image branch (Wan 2.1 I2V), which a VideoDiT does not have")
    patch = state["patch_embedding.weight"]
    dim = len(patch)
    heads = heads or dim // HEAD_DIM
    if not heads or dim % heads:
        raise ConversionError(f"width {dim} is not made of heads of {HEAD_DIM}; give num_attention_heads")
    config = {key.ours: key.value for key in FIXED} | {
        "in_channels": patch.shape[1],
        "out_channels": len(state["head.head.weight"]) // patch[0, 0].numel(),
        "num_layers": 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks.")),
        "num_attention_heads": heads,
        "attention_head_dim": dim // heads,
        "patch_size": tuple(patch.shape[2:]),
        "caption_channels": state["text_embedding.0.weight"].shape[1],
        "freq_dim": state["time_embedding.0.weight"].shape[1],
        "mlp_ratio": len(state["blocks.0.ffn.0.weight"]) / dim,
        "cross_attention_norm": "blocks.0.norm3.weight" in state,
        "qk_norm_type": "rms_norm_across_heads",
    }
    return {str(key): value for key, value in config.items()}
