"""Models of other projects in and out: diffusers' classes, and the files that the projects themselves publish.

Files are read without running any code that they may hold.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import is_zipfile

import torch
from accelerate import init_empty_weights
from diffusers import ModelMixin
from diffusers.configuration_utils import FrozenDict
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from videodit.models.checks import check_loaded
from videodit.models.formats import dit, latte, pixart, stdit3, wan
from videodit.models.formats.table import (
    ConversionError,
    Format,
    Key,
    Report,
    State,
    drain,
    fill,
    our_config,
    their_config,
)
from videodit.models.transformer import SIZES, VideoDiT
from videodit.weights import check_finite, fault, is_finite, loading

FAMILIES: dict[str, Any] = {"dit": dit, "pixart": pixart, "latte": latte, "wan": wan}
CLASSES: dict[str, type[ModelMixin]] = {name: family.CLASS for name, family in FAMILIES.items()}
COMPUTED = ("pos_embed.pos_embed",)  # by diffusers' classes

# ------------------------------------------------------------------------------------------------ diffusers' classes


def from_diffusers(source: str | Path | ModelMixin, subfolder: str | None = None) -> tuple[VideoDiT, Report]:
    """A `VideoDiT` that computes what the diffusers model computes, in its precision.

    Args:
        source: a live `DiTTransformer2DModel`, `PixArtTransformer2DModel`, `LatteTransformer3DModel` or
            `WanTransformer3DModel`, whose weights it then shares, or the folder or hub name of one (of a whole
            pipeline, with subfolder="transformer").

    Returns:
        The model, in evaluation mode, and what became of every tensor. A PixArt or DiT becomes a model of `space`
        blocks; a clip of one frame skips Latte's `time` blocks (diffusers: `enable_temporal_attentions=False`).

    Raises:
        ConversionError: another class, or an option that a `VideoDiT` does not have.
    """
    theirs: Any = source if isinstance(source, ModelMixin) else load(source, subfolder)
    family = next((family for name, family in FAMILIES.items() if isinstance(theirs, CLASSES[name])), None)
    if family is None:
        raise ConversionError(f"{type(theirs).__name__} cannot be converted; a VideoDiT can be made from {_names()}")
    state = theirs.state_dict()
    config = our_config(family.KEYS, theirs.config, type(theirs).__name__)
    if family is dit:
        config["shared_embedder"] = dit.shares_embedder(state, config["num_layers"])
    return fill(functools.partial(VideoDiT, **config), state, family.FORMAT)


def to_diffusers(model: VideoDiT, family: str, *, num_frames: int = 16) -> ModelMixin:
    """The same model as diffusers' DiT, PixArt, Latte or Wan class, bit for bit; it shares its weights.

    Args:
        family: `dit`, `pixart`, `latte` or `wan`.
        num_frames: latent frames of every clip, which Latte's class wants to know (its `video_length`).

    Raises:
        ConversionError: the structure is not that class's; says which part.
    """
    if family not in FAMILIES:
        raise ConversionError(f"{family!r} is none of {', '.join(FAMILIES)}")
    cls: Any = CLASSES[family]
    config = their_config(FAMILIES[family].KEYS, model.config, cls.__name__)
    with init_empty_weights(include_buffers=False):
        theirs = cls(**config | ({"video_length": num_frames} if family == "latte" else {}))
    state = drain(model, FAMILIES[family].FORMAT)
    own = theirs.state_dict()
    missing, extra = sorted(set(own) - set(state) - set(COMPUTED)), sorted(set(state) - set(own))
    if missing or extra:
        raise ConversionError(f"{cls.__name__} has no place for {extra[:3]} or lacks {missing[:3]}")
    theirs.load_state_dict(state, strict=False, assign=True)
    return theirs.eval()


def load(source: str | Path, subfolder: str | None = None, dtype: torch.dtype | None = None) -> ModelMixin:
    """A diffusers model that can be converted, from a folder or hub name, whole; ConversionError for anything else."""
    try:
        config: Any = VideoDiT.load_config(str(source), subfolder=subfolder)
        name = config["_class_name"]
    except (OSError, KeyError) as error:
        where = f"{source}/{subfolder}" if subfolder else source
        raise ConversionError(
            f"{where}: no diffusers model here, neither a folder with config.json nor a hub name"
        ) from error
    if name == "Transformer2DModel":  # as DiT and PixArt were first published
        kinds = {"ada_norm_zero": dit.CLASS.__name__, "ada_norm_single": pixart.CLASS.__name__}
        name = kinds.get(config.get("norm_type"), name)
    for cls in CLASSES.values():
        if cls.__name__ == name:
            return _load_whole(cls, str(source), subfolder=subfolder, **({"dtype": dtype} if dtype else {}))
    raise ConversionError(f"{source}: holds a {name}; a VideoDiT can be made from {_names()}")


def _load_whole(cls: Any, name: str, **kwargs: Any) -> Any:
    """`cls.from_pretrained(name)` of a diffusers class; ConversionError where it cannot be loaded whole."""
    try:
        folder = Path(name, kwargs.get("subfolder") or "")
        with loading(folder):
            model, info = cls.from_pretrained(name, output_loading_info=True, **kwargs)
        check_loaded(info, name, cls.__name__, computed=COMPUTED)
        check_finite(model, folder)
    except (RuntimeError, SafetensorError, ValueError, NotImplementedError) as error:
        raise ConversionError(" ".join(f"{name}: cannot be loaded as {cls.__name__}: {error}".split())) from error
    return model


def _names() -> str:
    return ", ".join(cls.__name__ for cls in CLASSES.values())


# ------------------------------------------------------------------------------------------------ the projects' own

ORIGINALS: dict[str, Format] = {
    "dit": dit.ORIGINAL,
    "pixart": pixart.ORIGINAL,
    "latte": latte.ORIGINAL,
    "latte_text": latte.ORIGINAL_TEXT,
    "stdit3": stdit3.ORIGINAL,
    "wan": wan.ORIGINAL,
}
PREFIXES = ("module.", "model.diffusion_model.", "diffusion_model.")  # of wrappers and of ComfyUI


def from_checkpoint(
    source: str | Path,
    *,
    num_attention_heads: int | None = None,
    interpolation_scale: float | None = None,
    sample_size: int | None = None,
    partial: bool = False,
) -> tuple[VideoDiT, Report]:
    """A `VideoDiT` with the weights of DiT, PixArt, Latte, Open-Sora 1.2 or Wan as these projects publish them.

    What the weights do not say is taken from the published models: the number of heads from the width, and PixArt's
    interpolation scale from its number of places and the length of its null caption.

    Args:
        source: a `.pt`, `.pth` or `.safetensors` file, or a folder of safetensors with the project's `config.json`.
        num_attention_heads: where the width is not a published one.
        interpolation_scale: of the positions, where it is not a published model's.
        sample_size: places a side, where the file holds no table of positions.
        partial: take what there is: missing tensors as in a fresh model, and without those that have no place.

    Raises:
        ConversionError: an unreadable file, a pickle with anything but tensors and plain values, another architecture.
    """
    path = Path(source)
    state, theirs = _folder(path) if path.is_dir() else (_unwrapped(_read(path), path), FrozenDict())
    kind = _kind(state, path)
    heads = num_attention_heads or theirs.get("num_heads")
    try:
        if kind == "wan":
            config = wan.original_config(state, heads)
        elif kind == "stdit3":
            config = our_config(stdit3.KEYS, theirs, "STDiT3") if theirs else stdit3.original_config(state, heads)
        else:
            config = _image_config(kind, state, heads, interpolation_scale, sample_size)
    except KeyError as error:
        raise ConversionError(f"{path}: {error.args[0]} is missing: another architecture, or not the whole") from error
    except ConversionError as error:
        raise ConversionError(f"{path}: {error}") from error
    return fill(functools.partial(VideoDiT, **config), state, ORIGINALS[kind], partial)


def is_original(folder: str | Path) -> bool:
    """Whether a folder holds a model as its project publishes it, with a configuration of the project's own."""
    try:
        config = json.loads(Path(folder, "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and (
        config.get("_class_name") == "WanModel" or config.get("model_type") == "STDiT3"
    )


def to_checkpoint(model: VideoDiT, family: str) -> State:
    """The weights by the names of the project itself, as its code and ComfyUI read them; they are the model's own.

    Args:
        family: `dit`, `pixart`, `latte`, `latte_text`, `stdit3` or `wan`.

    Raises:
        ConversionError: the structure is not that model's; says which part.
    """
    if family not in ORIGINALS:
        raise ConversionError(f"{family!r} is none of {', '.join(ORIGINALS)}")
    keys: list[Key] = {"stdit3": stdit3, "latte_text": latte}.get(family, FAMILIES.get(family, dit)).KEYS
    their_config(keys, model.config, ORIGINALS[family].name)
    return drain(model, ORIGINALS[family])


# tokenizer, first MLP and head: what a configuration is read from
_LANDMARKS = {
    "latte_text": ("pos_embed.proj.weight", "transformer_blocks.0.ff.net.0.proj.weight", "proj_out.weight"),
}
_BLOCKS = ("x_embedder.proj.weight", "blocks.0.mlp.fc1.weight", "final_layer.linear.weight")


def _image_config(
    kind: str, state: State, heads: int | None, interpolation_scale: float | None, sample_size: int | None
) -> dict[str, Any]:
    """Of DiT, PixArt and Latte: what their weights say."""
    names = _LANDMARKS.get(kind, _BLOCKS)
    for name, ndim in zip(names, (4, 2, 2), strict=True):
        if name not in state or state[name].ndim != ndim:
            raise ConversionError(f"{name} is missing or not of {ndim} dimensions: another architecture")
    embed, mlp, head = (state[name] for name in names)
    dim, channels, patch, _ = embed.shape
    heads = heads or {width: heads for _, width, heads in SIZES.values()}.get(dim)
    if heads is None or dim % heads:
        raise ConversionError(f"width {dim} is no published one; give num_attention_heads (a divisor of it)")
    table = next((n for n in ("pos_embed", "pos_embed.pos_embed") if n in state), None)
    side = sample_size if table is None else math.isqrt(state[table].shape[-2])
    if side is None or (table is not None and side**2 != state[table].shape[-2]):
        raise ConversionError("no square table of positions; give sample_size (tokens a side)")
    blocks = len({name.split(".")[1] for name in state if name.startswith(("blocks.", "transformer_blocks."))})
    family: Any = {"dit": dit, "pixart": pixart}.get(kind, latte)
    return {
        "in_channels": channels,
        "out_channels": len(head) // patch**2,
        "num_layers": blocks // 2 if kind == "latte" else blocks,
        "num_attention_heads": heads,
        "attention_head_dim": dim // heads,
        "axes": ("space",),
        "patch_size": (1, patch, patch),
        "mlp_ratio": len(mlp) / dim,
        "qk_norm": False,
        "sample_size": side,
        "interpolation_scale": interpolation_scale or 1.0,
    } | family.original_config(state, side, interpolation_scale)


def _read(file: Path) -> Any:
    if file.is_file() and (why := fault(file)):
        raise ConversionError(f"{file}: cannot be read, it {why}")
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        with torch.serialization.safe_globals([argparse.Namespace]):  # DiT keeps its arguments beside its weights
            return torch.load(file, map_location="cpu", weights_only=True, mmap=is_zipfile(file))
    except FileNotFoundError as error:
        raise ConversionError(f"{file}: no such file") from error
    except UnpicklingError as error:
        raise ConversionError(
            f"{file}: a pickle that holds more than tensors, or no checkpoint; none of it ran. Save a state dict alone"
        ) from error
    except Exception as error:  # a broken file can fail anywhere in its reader
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ConversionError(f"{file}: cannot be read, perhaps truncated ({reason})") from error


def _folder(folder: Path) -> tuple[State, FrozenDict]:
    """The weights of all safetensors in a folder, and its configuration."""
    state: State = {}
    for file in sorted(folder.glob("*.safetensors")):
        state |= _read(file)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8")) if state else {}
    return _unwrapped(state, folder), FrozenDict(config)


def _unwrapped(loaded: Any, file: Path) -> State:
    """The state dict in a checkpoint: its averaged weights where it has them; 8-bit floats as what they stand for."""
    for key in ("ema", "state_dict_ema", "model", "state_dict"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict) or not all(isinstance(v, Tensor) for v in loaded.values()) or not loaded:
        raise ConversionError(f"{file}: holds no state dict of tensors")
    for prefix in PREFIXES:
        if all(str(name).startswith(prefix) for name in loaded):
            loaded = {str(name).removeprefix(prefix): tensor for name, tensor in loaded.items()}
    state = _widened(loaded)
    if broken := [name for name, tensor in state.items() if not is_finite(tensor)]:
        raise ConversionError(f"{file}: {broken[0]} is not finite, it holds NaN or infinity; the file is damaged")
    return state


def _widened(state: State) -> State:
    """Weights of 8-bit floats, times the scale beside them (`X.scale_weight`) where there is one, as bfloat16."""
    wide = {}
    for name, tensor in state.items():
        if name == "scaled_fp8" or name.endswith((".scale_weight", ".scale_input")):
            continue
        if tensor.dtype.itemsize == 1 and tensor.dtype.is_floating_point:
            scale = state.get(name.removesuffix("weight") + "scale_weight", torch.ones(()))
            tensor = (tensor.float() * scale.float()).to(torch.bfloat16)
        wide[name] = tensor
    return wide


def _kind(state: State, file: Path) -> str:
    if "temporal_transformer_blocks.0.attn1.to_q.weight" in state:
        return "latte_text"
    if any(".attn.sr." in name for name in state):
        raise ConversionError(
            f"{file}: its keys and values are compressed (PixArt-sigma at 2K), which is not supported"
        )
    if "condition_embedder.time_proj.weight" in state:
        raise ConversionError(f"{file}: a Wan by diffusers' names; name the folder that it is in, with its config.json")
    if "patch_embedding.weight" in state and "time_projection.1.weight" in state:
        return "wan"
    if "spatial_blocks.0.attn.qkv.weight" in state and "temporal_blocks.0.attn.qkv.weight" in state:
        return "stdit3"
    if "t_block.1.weight" in state and "y_embedder.y_proj.fc1.weight" in state:
        return "pixart"
    if "blocks.0.adaLN_modulation.1.weight" in state and "x_embedder.proj.weight" in state:
        return "latte" if "temp_embed" in state else "dit"
    raise ConversionError(
        f"{file}: neither DiT, PixArt, Latte, Open-Sora nor Wan: another architecture (it holds "
        f"{', '.join(list(state)[:3])})"
    )
