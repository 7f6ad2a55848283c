"""DiT (Peebles & Xie 2022): diffusers' `DiTTransformer2DModel` (0.42), and the `.pt` of facebookresearch/DiT."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from diffusers import DiTTransformer2DModel
from diffusers.models.embeddings import get_2d_sincos_pos_embed

from videodit.models.formats.table import Config, ConversionError, Format, Key, Place, State, rows


def square(config: Any) -> int:
    """The side of the patch. ConversionError: it is not square, or of several frames."""
    pt, ph, pw = config.patch_size
    if pt != 1 or ph != pw:
        raise ConversionError(f"it has square patches of one frame, but this model has patch_size={[pt, ph, pw]}")
    return ph


def _side(config: Any) -> int:
    if config.sample_size is None:
        raise ConversionError("its places are of one size, but this model has sample_size=None")
    return config.sample_size * square(config)


# what diffusers' DiT, PixArt and Latte have alike
IMAGE_KEYS = [
    *map(Key, ("in_channels", "num_layers", "num_attention_heads", "attention_head_dim", "activation_fn")),
    *map(Key, ("attention_bias", "norm_elementwise_affine", "norm_eps")),
    Key("out_channels", write=lambda c: c.out_channels or c.in_channels),
    Key("patch_size", read=lambda c: (1, c.patch_size, c.patch_size), write=square),
    Key("sample_size", read=lambda c: c.sample_size // c.patch_size, write=_side),
    Key("mlp_ratio", None, 4.0),
    Key("freq_dim", None, 256),
    Key("qk_norm", None, False),
    Key(None, "dropout", 0.0),
    Key(None, "attention_type", "default"),
]
CLASS_KEYS = [
    *IMAGE_KEYS,
    Key("norm_type", "norm_type", "ada_norm_zero"),
    Key("num_classes", "num_embeds_ada_norm"),
    Key("interpolation_scale", None, 1.0),
    Key("caption_channels", None, None),
]
KEYS = [Key("axes", None, ("space",)), *CLASS_KEYS, Key("timestep_freq_shift", None, 1)]
OWN_KEYS = [Key("axes", None, ("space",)), *CLASS_KEYS, Key("timestep_freq_shift", None, 0)]


def _embedders(name: str, config: Any) -> list[Place] | None:
    """diffusers keeps an embedding of time and class in every block."""
    if not name.startswith("embedders."):
        return None
    _, index, rest = name.split(".", 2)
    rest = rest.replace("class_embedder.", "class_embedder.embedding_table.")
    blocks = range(config.num_layers * len(config.axes)) if config.shared_embedder else [int(index)]
    return [Place(f"transformer_blocks.{i}.norm1.emb.{rest}") for i in blocks]


POSITIONS = {"pos_embed.pos_embed": "computed, not stored"}
FORMAT = Format(
    "DiTTransformer2DModel",
    KEYS,
    cls=DiTTransformer2DModel,
    modules=rows("""
        patch_embed.proj  pos_embed.proj  patch
        modulation_out    proj_out_1
        proj_out          proj_out_2
    """),
    blocks=(("transformer_blocks", {"modulation": Place("norm1.linear"), "norm2": Place("norm3")}),),
    more=_embedders,
    unused=POSITIONS,
)


def shares_embedder(state: State, layers: int) -> bool:
    """Whether all blocks of diffusers' class embed time and class alike."""
    first = {name: tensor for name, tensor in state.items() if name.startswith("transformer_blocks.0.norm1.emb.")}
    return all(
        tensor.is_meta or torch.equal(tensor, state[name.replace("blocks.0.", f"blocks.{i}.")])
        for name, tensor in first.items()
        for i in range(1, layers)
    )


# of the project's own files: fused queries, keys and values, as in timm
FUSED = rows("""
    attn1.to_q      attn.qkv            0/3
    attn1.to_k      attn.qkv            1/3
    attn1.to_v      attn.qkv            2/3
    attn1.to_out.0  attn.proj
    ff.net.0.proj   mlp.fc1
    ff.net.2        mlp.fc2
    modulation      adaLN_modulation.1
""")
OWN_MODULES = rows("""
    patch_embed.proj                        x_embedder.proj                 patch
    proj_out                                final_layer.linear
    modulation_out                          final_layer.adaLN_modulation.1
    embedders.0.timestep_embedder.linear_1  t_embedder.mlp.0
    embedders.0.timestep_embedder.linear_2  t_embedder.mlp.2
    embedders.0.class_embedder              y_embedder.embedding_table
""")


def place_table(config: Any, state: State) -> State:
    """The positions that files of DiT, PixArt and Latte keep."""
    width, side = config.num_attention_heads * config.attention_head_dim, config.sample_size
    scale = config.interpolation_scale
    table = get_2d_sincos_pos_embed(width, side, base_size=side, interpolation_scale=scale, output_type="pt")
    return {"pos_embed": table.float()[None]}


def sized(said: Config, state: State, asked: Mapping[str, Any]) -> Config:
    """Its places a side, by the table of their positions. ConversionError: there is none, or it is of no square."""
    table = next((state[name] for name in ("pos_embed", "pos_embed.pos_embed") if name in state), None)
    side = asked["sample_size"] if table is None else math.isqrt(table.shape[-2])
    if side is None or (table is not None and side**2 != table.shape[-2]):
        raise ConversionError("no square table of positions; give sample_size (tokens a side)")
    return {"sample_size": side, "interpolation_scale": asked["interpolation_scale"] or 1.0}


MARKS = ("blocks.0.adaLN_modulation.1.weight", "x_embedder.proj.weight")
ORIGINAL = Format("DiT", OWN_KEYS, OWN_MODULES, (("blocks", FUSED),), computed=place_table, marks=MARKS, unsaid=sized)
