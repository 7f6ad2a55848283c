"""Latte (Ma et al. 2024): diffusers' `LatteTransformer3DModel` (0.42), and the project's `.pt`, of class or text."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from diffusers import LatteTransformer3DModel
from diffusers.models.embeddings import get_1d_sincos_pos_embed_from_grid

from videodit.models.formats import dit, pixart
from videodit.models.formats.table import ConversionError, Key, State

CLASS = LatteTransformer3DModel


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
    pixart.FORMAT, name=CLASS.__name__, blocks=(("transformer_blocks", {}), ("temporal_transformer_blocks", {}))
)


def _tables(frames: str, places: str) -> Any:
    """The positions that its files keep: those of places, and of as many frames as it was trained on."""

    def tables(config: Any, state: State) -> State:
        count = state[frames].shape[-2] if frames in state else 16
        width = config.num_attention_heads * config.attention_head_dim
        times = get_1d_sincos_pos_embed_from_grid(width, torch.arange(count), output_type="pt")
        return {places: dit.place_table(config, state)["pos_embed"], frames: times.float()[None]}

    return tables


# of the project's own files: one list of blocks (class), or diffusers' names (text)
ORIGINAL = replace(dit.ORIGINAL, name="Latte", computed=_tables("temp_embed", "pos_embed"))
ORIGINAL_TEXT = replace(
    FORMAT,
    name="Latte (text)",
    unused=lambda name: pixart.NULL if name == "caption_projection.y_embedding" else "",
    computed=_tables("temp_pos_embed", "pos_embed.pos_embed"),
)


def original_config(state: State, *_: Any) -> dict[str, Any]:
    """What its weights say beyond what those of DiT, PixArt and Latte say alike."""
    config: dict[str, Any] = {"axes": ("space", "time"), "time_positions": "sincos"}
    if "caption_projection.linear_1.weight" not in state:
        return dit.original_config(state) | config
    width = state["caption_projection.linear_1.weight"].shape[1]
    return config | {"norm_type": "ada_norm_single", "caption_channels": width, "cross_attention_axes": ("space",)}
