"""Latte (Ma et al. 2024): diffusers' `LatteTransformer3DModel` (0.42), and the project's `.pt`, of class or text."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from diffusers import LatteTransformer3DModel
from diffusers.models.embeddings import get_1d_sincos_pos_embed_from_grid

from videodit.models.formats import dit, pixart
from videodit.models.formats.table import ConversionError, Key, State


def _scale(config: Any) -> float:
    """Ours; the class derives it from its size. ConversionError: another than that."""
    theirs = max(config.sample_size * dit.square(config) // 64, 1)
    if config.interpolation_scale != theirs:
        raise ConversionError(f"it needs interpolation_scale={theirs}, but this model has {config.interpolation_scale}")
    return theirs


KEYS = [
    Key("axes", None, ("space", "time")),
    *pixart.TEXT_KEYS,
    Key("cross_attention_axes", None, ("space",)),
    Key("time_positions", None, "sincos"),
    Key("use_additional_conditions", None, False),
    Key("interpolation_scale", None, read=pixart.default_scale, write=_scale),
]
FORMAT = replace(
    pixart.FORMAT,
    name="LatteTransformer3DModel",
    keys=KEYS,
    blocks=(("transformer_blocks", {}), ("temporal_transformer_blocks", {})),
    cls=LatteTransformer3DModel,
)


def _tables(frames: str, places: str) -> Any:
    """The positions that its files keep: those of places, and of as many frames as it was trained on."""

    def tables(config: Any, state: State) -> State:
        count = state[frames].shape[-2] if frames in state else 16
        width = config.num_attention_heads * config.attention_head_dim
        times = get_1d_sincos_pos_embed_from_grid(width, torch.arange(count), output_type="pt")
        return {places: dit.place_table(config, state)["pos_embed"], frames: times.float()[None]}

    return tables


# of the project's own files: diffusers' names (text), or one list of blocks (class)
ORIGINAL_TEXT = replace(
    FORMAT,
    name="Latte",
    unused={"caption_projection.y_embedding": pixart.NULL},
    computed=_tables("temp_pos_embed", "pos_embed.pos_embed"),
    marks=("temporal_transformer_blocks.0.attn1.to_q.weight",),
    unsaid=dit.sized,
)
ORIGINAL = replace(
    dit.ORIGINAL,
    name="Latte of classes",
    keys=[*dit.OWN_KEYS[1:], Key("axes", None, ("space", "time")), Key("time_positions", None, "sincos")],
    computed=_tables("temp_embed", "pos_embed"),
    marks=(*dit.MARKS, "temp_embed"),
)
