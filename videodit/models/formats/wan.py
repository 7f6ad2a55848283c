"""Wan 2.1 and 2.2 (Wan team 2025): diffusers' `WanTransformer3DModel` (0.42), and the project's own files; and AnyFlow,
a flow map of it (`AnyFlowTransformer3DModel`), which is told a second time.

All tokens see each other, and the text with its padding. What it calls `norm2` (its own files: `norm3`) stands before
the cross-attention. TI2V-5B differs in sizes, and in times a frame; the two experts of A14B are two models.
"""

from __future__ import annotations

from diffusers import AnyFlowTransformer3DModel, WanTransformer3DModel

from videodit.models.formats.table import Format, Key, reads_text, rows, width

COMMON = [
    Key("axes", None, ("joint",)),
    Key("time_positions", None, "grid"),
    Key("norm_type", None, "ada_norm_single"),
    Key("qk_norm", None, True),
    Key("cross_attention_qk_norm", None, True),
    Key("caption_length", None, 512),
    Key("activation_fn", None, "gelu-approximate"),
    Key("attention_bias", None, True),
    Key("norm_elementwise_affine", None, False),
    Key("use_additional_conditions", None, False),
    Key("fps_embedding", None, None),
    *map(Key, ("in_channels", "num_layers", "num_attention_heads", "attention_head_dim", "freq_dim")),
    Key("out_channels", write=lambda c: c.out_channels or c.in_channels),
    Key("patch_size", read=lambda c: tuple(c.patch_size)),
    Key("caption_channels", "text_dim", write=reads_text),
    Key("mlp_ratio", "ffn_dim", read=lambda c: c.ffn_dim / width(c), write=lambda c: round(width(c) * c.mlp_ratio)),
    Key("cross_attention_norm", "cross_attn_norm"),
    Key("norm_eps", "eps", 1e-6),
    Key("guidance_embeds", None, False),
    Key(None, "image_dim", None),  # of the image branch of Wan 2.1 I2V
]
KEYS = [
    *COMMON,
    Key("qk_norm_type", "qk_norm", "rms_norm_across_heads"),
    Key("flow_map_gate", None, None),
    Key(None, "added_kv_proj_dim", None),
    Key(None, "pos_embed_seq_len", None),
]
KEYS_OF_MAP = [
    *COMMON,
    Key("qk_norm_type", None, "rms_norm_across_heads"),
    Key("flow_map_gate", "gate_value"),
    Key(None, "deltatime_type", "r"),  # it is told the time itself to which it goes
]

_ENDS = """
    patch_embed.proj                             patch_embedding                            patch-3d
    adaln_single.emb.timestep_embedder.linear_1  condition_embedder.time_embedder.linear_1
    adaln_single.emb.timestep_embedder.linear_2  condition_embedder.time_embedder.linear_2
    adaln_single.linear                          condition_embedder.time_proj
    caption_projection.linear_1                  condition_embedder.text_embedder.linear_1
    caption_projection.linear_2                  condition_embedder.text_embedder.linear_2
    scale_shift_table                            scale_shift_table                          in-front
"""
_BLOCK = """
    attn1.to_q         attn1.to_q         halves
    attn1.to_k         attn1.to_k         halves
    attn1.norm_q       attn1.norm_q       halves
    attn1.norm_k       attn1.norm_k       halves
    norm_cross         norm2
    ff.net.0.proj      ffn.net.0.proj
    ff.net.2           ffn.net.2
    scale_shift_table  scale_shift_table  in-front
"""
FORMAT = Format("WanTransformer3DModel", KEYS, rows(_ENDS), (("blocks", rows(_BLOCK)),), cls=WanTransformer3DModel)
_SECOND = """
    delta_embedder.linear_1  condition_embedder.delta_embedder.linear_1
    delta_embedder.linear_2  condition_embedder.delta_embedder.linear_2
"""
FLOW_MAP = Format(
    "AnyFlowTransformer3DModel",
    KEYS_OF_MAP,
    rows(_ENDS + _SECOND),
    (("blocks", rows(_BLOCK)),),
    cls=AnyFlowTransformer3DModel,
)
_OWN_ENDS = """
    patch_embed.proj                             patch_embedding    patch-3d
    adaln_single.emb.timestep_embedder.linear_1  time_embedding.0
    adaln_single.emb.timestep_embedder.linear_2  time_embedding.2
    adaln_single.linear                          time_projection.1
    caption_projection.linear_1                  text_embedding.0
    caption_projection.linear_2                  text_embedding.2
    scale_shift_table                            head.modulation    in-front
    proj_out                                     head.head
"""
_OWN_BLOCK = """
    attn1.to_q         self_attn.q        halves
    attn1.to_k         self_attn.k        halves
    attn1.norm_q       self_attn.norm_q   halves
    attn1.norm_k       self_attn.norm_k   halves
    attn1.to_v         self_attn.v
    attn1.to_out.0     self_attn.o
    attn2.to_q         cross_attn.q
    attn2.to_k         cross_attn.k
    attn2.to_v         cross_attn.v
    attn2.norm_q       cross_attn.norm_q
    attn2.norm_k       cross_attn.norm_k
    attn2.to_out.0     cross_attn.o
    norm_cross         norm3
    ff.net.0.proj      ffn.0
    ff.net.2           ffn.2
    scale_shift_table  modulation         in-front
"""
ORIGINAL = Format(
    "Wan",
    KEYS,
    rows(_OWN_ENDS),
    (("blocks", rows(_OWN_BLOCK)),),
    marks=("patch_embedding.weight", "time_projection.1.weight"),
    head_dim=128,
)
