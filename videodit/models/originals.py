"""Weights as the projects themselves publish them, read safely: DiT `.pt`, PixArt `.pth`, Latte `.pt`.

The layouts are those of facebookresearch/DiT, PixArt-alpha, PixArt-sigma and Latte (class- and text-to-video).
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from diffusers.models.embeddings import get_1d_sincos_pos_embed_from_grid, get_2d_sincos_pos_embed
from safetensors.torch import load_file
from torch import Tensor

from videodit.models.conversion import ConversionError, Place, Report, State, fill, places
from videodit.models.transformer import SIZES, VideoDiT
from videodit.weights import fault, is_finite


def from_checkpoint(
    file: str | Path,
    *,
    num_attention_heads: int | None = None,
    interpolation_scale: float | None = None,
    sample_size: int | None = None,
) -> tuple[VideoDiT, Report]:
    """A `VideoDiT` with the weights of a DiT `.pt`, PixArt `.pth` or Latte `.pt`, or of the same as safetensors.

    What the file does not say is taken from the published models: the number of heads from the width, and
    PixArt's interpolation scale from its number of places and the length of its null caption.

    Args:
        file: read without running any code that it may hold.
        num_attention_heads: where the width is not a published one.
        interpolation_scale: of the positions, where it is not a published model's.
        sample_size: places a side, where the file holds no table of positions.

    Raises:
        ConversionError: an unreadable file, a pickle with anything but tensors and plain values, another architecture.
    """
    state = _unwrapped(_read(Path(file)), file)
    kind = _kind(state, file)
    names = _LANDMARKS["latte_text" if kind == "latte_text" else "blocks"]
    for name, ndim in zip(names, (4, 2, 2), strict=True):
        if name not in state or state[name].ndim != ndim:
            raise ConversionError(f"{file}: {name} is missing or not of {ndim} dimensions: another architecture")
    embed, mlp, head = (state[name] for name in names)
    dim, channels, patch, _ = embed.shape
    heads = num_attention_heads or {width: heads for _, width, heads in SIZES.values()}.get(dim)
    if heads is None or dim % heads:
        raise ConversionError(f"{file}: width {dim} is no published one; give num_attention_heads (a divisor of it)")
    table = next((n for n in ("pos_embed", "pos_embed.pos_embed") if n in state), None)
    side = sample_size if table is None else math.isqrt(state[table].shape[-2])
    if side is None or (table is not None and side**2 != state[table].shape[-2]):
        raise ConversionError(f"{file}: no square table of positions; give sample_size (tokens a side)")
    blocks = len({name.split(".")[1] for name in state if name.startswith(("blocks.", "transformer_blocks."))})
    temporal = kind in ("latte", "latte_text")
    config: dict[str, Any] = {
        "in_channels": channels,
        "out_channels": len(head) // patch**2,
        "num_layers": blocks // 2 if kind == "latte" else blocks,
        "num_attention_heads": heads,
        "attention_head_dim": dim // heads,
        "axes": ("space", "time") if temporal else ("space",),
        "time_positions": "sincos" if temporal else "rotary",
        "patch_size": (1, patch, patch),
        "norm_type": "ada_norm_single" if kind in ("pixart", "latte_text") else "ada_norm_zero",
        "mlp_ratio": len(mlp) / dim,
        "qk_norm": False,
        "sample_size": side,
        "interpolation_scale": interpolation_scale or 1.0,
    }
    if kind == "pixart":
        config |= _pixart_extras(state, side, interpolation_scale)
    if kind == "latte_text":
        width = state["caption_projection.linear_1.weight"].shape[1]
        config |= {"caption_channels": width, "cross_attention_axes": ("space",)}
    if "y_embedder.embedding_table.weight" in state:
        config["num_classes"] = len(state["y_embedder.embedding_table.weight"]) - 1
    dropped: dict[str, str] = {}
    for name in state:
        if name in ("y_embedder.y_embedding", "caption_projection.y_embedding"):
            dropped[name] = "the null caption of its training; the empty prompt takes its place"
        elif name == table:
            scale = config["interpolation_scale"]
            places = get_2d_sincos_pos_embed(dim, side, base_size=side, interpolation_scale=scale, output_type="pt")
            dropped[name] = _computed(name, state[name], places, "interpolation_scale")
        elif name in ("temp_embed", "temp_pos_embed"):
            frames = torch.arange(state[name].shape[-2])
            times = get_1d_sincos_pos_embed_from_grid(dim, frames, output_type="pt")
            dropped[name] = _computed(name, state[name], times, "the file: its times are not sin-cos")
    return fill(config, state, lambda name, model: _own_places(kind, name, model), dropped)


# tokenizer, first MLP and head: what a configuration is read from
_LANDMARKS = {
    "blocks": ("x_embedder.proj.weight", "blocks.0.mlp.fc1.weight", "final_layer.linear.weight"),
    "latte_text": ("pos_embed.proj.weight", "transformer_blocks.0.ff.net.0.proj.weight", "proj_out.weight"),
}


def _read(file: Path) -> Any:
    if file.is_file() and (why := fault(file)):
        raise ConversionError(f"{file}: cannot be read, it {why}")
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        with torch.serialization.safe_globals([argparse.Namespace]):  # DiT keeps its arguments beside its weights
            return torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ConversionError(f"{file}: no such file") from error
    except UnpicklingError as error:
        raise ConversionError(
            f"{file}: a pickle that holds more than tensors, or no checkpoint; none of it ran. Save a state dict alone"
        ) from error
    except Exception as error:  # a broken file can fail anywhere in its reader
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ConversionError(f"{file}: cannot be read, perhaps truncated ({reason})") from error


def _unwrapped(loaded: Any, file: str | Path) -> State:
    """The state dict in a checkpoint: its averaged weights where it has them."""
    for key in ("ema", "state_dict_ema", "model", "state_dict"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict) or not all(isinstance(v, Tensor) for v in loaded.values()) or not loaded:
        raise ConversionError(f"{file}: holds no state dict of tensors")
    if broken := [name for name, tensor in loaded.items() if not is_finite(tensor)]:
        raise ConversionError(f"{file}: {broken[0]} is not finite, it holds NaN or infinity; the file is damaged")
    return {str(name).removeprefix("module."): tensor for name, tensor in loaded.items()}


def _kind(state: State, file: str | Path) -> str:
    if "temporal_transformer_blocks.0.attn1.to_q.weight" in state:
        return "latte_text"
    if any(".attn.sr." in name for name in state):
        raise ConversionError(
            f"{file}: its keys and values are compressed (PixArt-sigma at 2K), which is not supported"
        )
    if "t_block.1.weight" in state and "y_embedder.y_proj.fc1.weight" in state:
        return "pixart"
    if "blocks.0.adaLN_modulation.1.weight" in state and "x_embedder.proj.weight" in state:
        return "latte" if "temp_embed" in state else "dit"
    raise ConversionError(
        f"{file}: neither DiT, PixArt nor Latte: another architecture (it holds {', '.join(list(state)[:3])})"
    )


def _pixart_extras(state: State, sample_size: int, interpolation_scale: float | None) -> dict[str, Any]:
    null = state.get("y_embedder.y_embedding")
    sigma = null is not None and len(null) == 300  # alpha's captions are of 120 tokens
    scales = {16: 0.5 if sigma else 1.0, 32: 1.0, 64: 2.0, 128: 4.0}
    scale = interpolation_scale or scales.get(sample_size)
    if scale is None:
        raise ConversionError(f"{sample_size} places a side are no published PixArt's; give interpolation_scale")
    return {
        "caption_channels": state["y_embedder.y_proj.fc1.weight"].shape[1],
        "use_additional_conditions": "csize_embedder.mlp.0.weight" in state,
        "interpolation_scale": scale,
    }


def _computed(name: str, stored: Tensor, expected: Tensor, what: str) -> str:
    """Why a table of positions is left out: the model computes the same. ConversionError where it does not."""
    rounding = 1e-3 if stored.dtype.itemsize > 2 else 1e-2
    fits = stored.numel() == expected.numel()
    if not fits or not torch.allclose(stored.reshape(expected.shape).double(), expected.double(), atol=rounding):
        raise ConversionError(f"{name}: not the positions that this model computes; look at {what}")
    return "computed, not stored"


def _own_places(kind: str, name: str, model: VideoDiT) -> list[Place]:
    """Where a project's own checkpoint keeps our tensor `name`."""
    if kind == "latte_text":
        return places("latte", name, model)
    if name == "scale_shift_table":
        return [Place("final_layer.scale_shift_table")]
    block = ".".join(name.split(".")[:2]) + "." if name.startswith("blocks.") else ""
    module, dot, leaf = name.removeprefix(block).rpartition(".")
    theirs, part, parts = _OWN_MODULES.get(module, (module, 0, 1))
    patch = (module, leaf) == ("patch_embed.proj", "weight")
    return [Place(f"{block}{theirs}{dot}{leaf}", part, parts, patch, model.patch_size[1])]


# our module: theirs, and which part of how many it is there
_OWN_MODULES = {
    "patch_embed.proj": ("x_embedder.proj", 0, 1),
    "attn1.to_q": ("attn.qkv", 0, 3),
    "attn1.to_k": ("attn.qkv", 1, 3),
    "attn1.to_v": ("attn.qkv", 2, 3),
    "attn1.to_out.0": ("attn.proj", 0, 1),
    "attn2.to_q": ("cross_attn.q_linear", 0, 1),
    "attn2.to_k": ("cross_attn.kv_linear", 0, 2),
    "attn2.to_v": ("cross_attn.kv_linear", 1, 2),
    "attn2.to_out.0": ("cross_attn.proj", 0, 1),
    "ff.net.0.proj": ("mlp.fc1", 0, 1),
    "ff.net.2": ("mlp.fc2", 0, 1),
    "modulation": ("adaLN_modulation.1", 0, 1),
    "proj_out": ("final_layer.linear", 0, 1),
    # DiT and Latte
    "modulation_out": ("final_layer.adaLN_modulation.1", 0, 1),
    "embedders.0.timestep_embedder.linear_1": ("t_embedder.mlp.0", 0, 1),
    "embedders.0.timestep_embedder.linear_2": ("t_embedder.mlp.2", 0, 1),
    "embedders.0.class_embedder": ("y_embedder.embedding_table", 0, 1),
    # PixArt
    "adaln_single.emb.timestep_embedder.linear_1": ("t_embedder.mlp.0", 0, 1),
    "adaln_single.emb.timestep_embedder.linear_2": ("t_embedder.mlp.2", 0, 1),
    "adaln_single.emb.resolution_embedder.linear_1": ("csize_embedder.mlp.0", 0, 1),
    "adaln_single.emb.resolution_embedder.linear_2": ("csize_embedder.mlp.2", 0, 1),
    "adaln_single.emb.aspect_ratio_embedder.linear_1": ("ar_embedder.mlp.0", 0, 1),
    "adaln_single.emb.aspect_ratio_embedder.linear_2": ("ar_embedder.mlp.2", 0, 1),
    "adaln_single.linear": ("t_block.1", 0, 1),
    "caption_projection.linear_1": ("y_embedder.y_proj.fc1", 0, 1),
    "caption_projection.linear_2": ("y_embedder.y_proj.fc2", 0, 1),
}
