"""Models of other projects in and out: diffusers' classes, and the files that the projects themselves publish.

Files are read without running any code that they may hold.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import re
from collections import ChainMap, Counter
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
from videodit.models.formats import FORMATS, ORIGINALS, dit
from videodit.models.formats.table import ConversionError, Format, Report, State, drain, fill, our_config, their_config
from videodit.models.transformer import SIZES, VideoDiT
from videodit.weights import check_finite, fault, is_finite, loading

CLASSES = ", ".join(where.name for where in FORMATS.values())

# ------------------------------------------------------------------------------------------------ diffusers' classes


def from_diffusers(source: str | Path | ModelMixin, subfolder: str | None = None) -> tuple[VideoDiT, Report]:
    """A `VideoDiT` that computes what the diffusers model computes, in its precision.

    Args:
        source: a live `DiTTransformer2DModel`, `PixArtTransformer2DModel`, `LatteTransformer3DModel`,
            `WanTransformer3DModel` or `AnyFlowTransformer3DModel`, whose weights it then shares, or the folder or hub
            name of one (of a whole pipeline, with subfolder="transformer").

    Returns:
        The model, in evaluation mode, and what became of every tensor. A PixArt or DiT becomes a model of `space`
        blocks; a clip of one frame skips Latte's `time` blocks (diffusers: `enable_temporal_attentions=False`).

    Raises:
        ConversionError: another class, or an option that a `VideoDiT` does not have.
    """
    theirs: Any = source if isinstance(source, ModelMixin) else load(source, subfolder)
    where = next((where for where in FORMATS.values() if isinstance(theirs, where.cls)), None)
    if where is None:
        raise ConversionError(f"{type(theirs).__name__} cannot be converted; a VideoDiT can be made from {CLASSES}")
    state, config = theirs.state_dict(), our_config(where, theirs.config)
    if where is dit.FORMAT:
        config["shared_embedder"] = dit.shares_embedder(state, config["num_layers"])
    return fill(functools.partial(VideoDiT, **config), state, where)


def to_diffusers(model: VideoDiT, family: str, *, num_frames: int = 16) -> ModelMixin:
    """The same model as diffusers' DiT, PixArt, Latte, Wan or AnyFlow class, bit for bit; it shares its weights.

    Args:
        family: `dit`, `pixart`, `latte`, `wan` or `anyflow`.
        num_frames: latent frames of every clip, which Latte's class wants to know (its `video_length`).

    Raises:
        ConversionError: the structure is not that class's; says which part.
    """
    if family not in FORMATS:
        raise ConversionError(f"{family!r} is none of {', '.join(FORMATS)}")
    _check_own(model)
    where = FORMATS[family]
    config = their_config(where, model.config) | ({"video_length": num_frames} if family == "latte" else {})
    with init_empty_weights(include_buffers=False):
        theirs = where.cls(**config)
    state, own = drain(model, where), theirs.state_dict()
    missing, extra = sorted(set(own) - set(state) - set(where.unused)), sorted(set(state) - set(own))
    if missing or extra:
        raise ConversionError(f"{where.name} has no place for {extra[:3]} or lacks {missing[:3]}")
    theirs.load_state_dict(state, strict=False, assign=True)
    return theirs.eval()


def _check_own(model: Any) -> None:
    if not isinstance(model, VideoDiT):
        raise ConversionError(
            f"a {type(model).__name__} stays in its image model's own form: .detach() gives the image model back, and "
            "save_time_blocks what it learned"
        )


def load(source: str | Path, subfolder: str | None = None, dtype: torch.dtype | None = None) -> ModelMixin:
    """A diffusers model that can be converted, or is a VideoDiT, whole; ConversionError for anything else.

    Args:
        source, subfolder: a folder or hub name, and what of a pipeline.
    """
    try:
        config: Any = VideoDiT.load_config(str(source), subfolder=subfolder)
        name = config["_class_name"]
    except (OSError, KeyError) as error:
        where = f"{source}/{subfolder}" if subfolder else source
        raise ConversionError(
            f"{where}: no diffusers model here; name a folder with model_index.json or config.json, a checkpoint file, "
            "or a hub name that can be reached"
        ) from error
    if name == "Transformer2DModel":  # as DiT and PixArt were first published
        first = {"ada_norm_zero": "dit", "ada_norm_single": "pixart"}.get(config.get("norm_type"))
        name = FORMATS[first].name if first else name
    if name == VideoDiT.__name__:
        return VideoDiT.from_pretrained(source, subfolder=subfolder, dtype=dtype)
    cls = next((where.cls for where in FORMATS.values() if where.name == name), None)
    if cls is None:
        raise ConversionError(f"{source}: holds a {name}; a VideoDiT can be made from {CLASSES}")
    folder = Path(source, subfolder or "")
    try:
        with loading(folder):
            kwargs = {"dtype": dtype} if dtype else {}
            model, info = cls.from_pretrained(str(source), subfolder=subfolder, output_loading_info=True, **kwargs)
        check_loaded(info, str(source), name, computed=tuple(dit.POSITIONS))
        check_finite(model, folder)
    except (RuntimeError, SafetensorError, ValueError, NotImplementedError) as error:
        raise ConversionError(" ".join(f"{source}: cannot be loaded as {name}: {error}".split())) from error
    return model


# ------------------------------------------------------------------------------------------------ the projects' own

PREFIXES = ("module.", "model.diffusion_model.", "diffusion_model.")  # of wrappers and of ComfyUI
SHARD = re.compile(r"-\d+-of-(?P<files>\d+)\.")
SCALES = (".scale_weight", ".weight_scale")  # beside weights of 8 bits
HINTS = (".scale_input", ".input_scale", ".comfy_quant")  # of how to compute with those


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
    if path.is_file() and (shard := SHARD.search(path.name)) and int(shard["files"]) > 1:
        raise ConversionError(
            f"{path}: one of {shard['files']} files of a model; name their folder, with its config.json"
        )
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    loaded = [_read(file) for file in files]
    if twice := [name for name, files in Counter(name for state in loaded for name in state).items() if files > 1]:
        raise ConversionError(f"{path}: {twice[0]} is in several of its {len(files)} files: leave one model there")
    state, dropped = _unwrapped(loaded[0] if len(loaded) == 1 else dict(ChainMap(*loaded)), path)
    theirs = FrozenDict(own_config(path))
    asked = {"num_attention_heads": num_attention_heads or theirs.get("num_heads"), "sample_size": sample_size}
    try:
        where = _format_of(state)
        if theirs.get("model_type") == "STDiT3":
            config = our_config(where, theirs)
        else:
            config = _said(state, where, asked | {"interpolation_scale": interpolation_scale})
            config["num_layers"] = theirs.get("num_layers", config["num_layers"])
        model, report = fill(functools.partial(VideoDiT, **config), state, where, partial)
    except KeyError as error:
        raise ConversionError(f"{path}: {error.args[0]} is missing: another architecture, or not the whole") from error
    except ValueError as error:
        raise ConversionError(f"{path}: {error}") from error
    report.dropped |= dropped
    return model, report


def own_config(folder: str | Path) -> dict[str, Any]:
    """The configuration of a folder that holds a model as its project publishes it; empty: it is no such folder."""
    try:
        config = json.loads(Path(folder, "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    names = (config.get("_class_name"), config.get("model_type")) if isinstance(config, dict) else ()
    return config if {"WanModel", "STDiT3"} & {*map(str, names)} else {}


def to_checkpoint(model: VideoDiT, family: str) -> State:
    """The weights by the names of the project itself, as its code and ComfyUI read them; they are the model's own.

    Args:
        family: `dit`, `pixart`, `latte`, `stdit3` or `wan`.

    Raises:
        ConversionError: the structure is not that model's; says which part.
    """
    if family not in ORIGINALS:
        raise ConversionError(f"{family!r} is none of {', '.join(ORIGINALS)}")
    _check_own(model)
    if model.own_conditions:
        raise ConversionError(
            f"{family} has no place for what this model is told besides ({model.own_conditions[0].name}): branches go "
            f"out by themselves (convert --control), a pipeline folder holds all"
        )
    several = ORIGINALS[family]
    where = next((where for where in several if where.fits(model.config)), several[0])
    their_config(where, model.config)
    return drain(model, where)


# what tensors of ours say by their sizes, and by being there
SIZED = {
    "caption_channels": ("caption_projection.linear_1.weight", 1),
    "null_caption_length": ("null_caption", 0),
    "freq_dim": ("adaln_single.emb.timestep_embedder.linear_1.weight", 1),
}
THERE = {
    "qk_norm": "blocks.0.attn1.norm_q.weight",
    "cross_attention_norm": "blocks.0.norm_cross.weight",
    "use_additional_conditions": "adaln_single.emb.resolution_embedder.linear_1.weight",
}


def _said(state: State, where: Format, asked: dict[str, Any]) -> dict[str, Any]:
    """Our configuration of the weights of an original: what they say, its format, and what it knows beside them.

    KeyError: a tensor that says something is missing; its name.
    """

    def named(ours: str) -> str:
        return where.places(ours, None)[0].name

    fixed = {key.ours: key.value for key in where.keys if key.ours and key.fixed}
    said = {key: named(name) in state for key, name in THERE.items()} | fixed
    said |= {key: state[named(name)].shape[axis] for key, (name, axis) in SIZED.items() if named(name) in state}
    if (table := state.get(named("embedders.0.class_embedder.weight"))) is not None:
        said["num_classes"] = len(table) - 1
    dim, channels, *patch = state[named("patch_embed.proj.weight")].shape
    width = where.head_dim or {dim: dim // heads for _, dim, heads in SIZES.values()}.get(dim)
    if "qk_norm" not in fixed and said["qk_norm"]:
        width = len(state[named(THERE["qk_norm"])])
    heads = asked["num_attention_heads"] or (dim // width if width else 0)
    if not heads or dim % heads:
        raise ConversionError(f"width {dim} is no published one; give num_attention_heads (a divisor of it)")
    stems = tuple(f"{stem}." for stem, _ in where.blocks)
    blocks = {tuple(name.split(".")[:2]) for name in state if name.startswith(stems)}
    said |= {
        "in_channels": channels,
        "out_channels": len(state[named("proj_out.weight")]) // math.prod(patch),
        "num_layers": len(blocks) // len(fixed["axes"]),
        "num_attention_heads": heads,
        "attention_head_dim": dim // heads,
        "patch_size": (1, *patch)[-3:],
        "mlp_ratio": len(state[named("blocks.0.ff.net.0.proj.weight")]) / dim,
    }
    return {str(key): value for key, value in said.items()} | where.unsaid(said, state, asked)


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


def _unwrapped(loaded: Any, file: Path) -> tuple[State, dict[str, str]]:
    """The state dict in a checkpoint, averaged where it is; 8-bit floats as what they stand for, bfloat16.

    Returns:
        Its tensors, and why those are left out that are of no use here.
    """
    for key in ("ema", "state_dict_ema", "model", "state_dict"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict) or not all(isinstance(v, Tensor) for v in loaded.values()) or not loaded:
        raise ConversionError(f"{file}: holds no state dict of tensors")
    dropped: dict[str, str] = {}
    for prefix in PREFIXES:
        own = {str(name).removeprefix(prefix): x for name, x in loaded.items() if str(name).startswith(prefix)}
        if len(own) == len(loaded) or (own and prefix == "model.diffusion_model."):  # beside a VAE, a text encoder ...
            dropped |= {name: "of another model" for name in loaded if not name.startswith(prefix)}
            loaded = own
    state: State = {}
    for name, tensor in loaded.items():
        if name == "scaled_fp8" or name.endswith(HINTS):
            dropped[name] = "of computing in 8 bits"
            continue
        if tensor.dtype.itemsize == 1 and tensor.dtype.is_floating_point:
            stem = name.removesuffix(".weight")
            key = next((stem + ending for ending in SCALES if stem + ending in loaded), "")
            scale = loaded.get(key, torch.ones(1)).float()
            if scale.numel() not in (1, len(tensor)):
                raise ConversionError(
                    f"{file}: {key} is {tuple(scale.shape)}; one a weight or a row is read, none a block"
                )
            tensor = (tensor.float() * scale.reshape(-1, *[1] * (tensor.ndim - 1))).to(torch.bfloat16)
            dropped |= {key: f"multiplied into {name}"} if key else {}
        elif not tensor.is_floating_point():
            raise ConversionError(f"{file}: {name} is quantized, {tensor.dtype}; take the weights in floating point")
        if not is_finite(tensor):
            raise ConversionError(f"{file}: {name} is not finite, it holds NaN or infinity; the file is damaged")
        state[name] = tensor
    return {name: tensor for name, tensor in state.items() if name not in dropped}, dropped


# beginnings or parts of names, and what tensors of such a name are of
UNKNOWN = {
    "condition_embedder.": "a Wan by diffusers' names; name the folder that it is in, with its config.json",
    ".attn.sr.": "of keys and values that are compressed (PixArt-sigma at 2K), which is not supported",
    "img_emb.": "an image branch (Wan 2.1 I2V), which a VideoDiT does not have",
    ".k_img.": "an image branch (Wan 2.1 I2V), which a VideoDiT does not have",
    "x_embedder_cond.": "of given frames in channels of their own (Open-Sora 1.3), which a VideoDiT does not have",
}


def _format_of(state: State) -> Format:
    """Which of `ORIGINALS` a file is of, by its names. ConversionError: of none, of two, or of one that is unknown."""
    for part, why in UNKNOWN.items():
        if named := [name for name in state if part in name]:
            raise ConversionError(f"{named[0]}: {why}")
    found = [where for several in ORIGINALS.values() for where in several if set(where.marks) <= state.keys()]
    if not found:
        raise ConversionError(
            "neither DiT, PixArt, Latte, Open-Sora nor Wan: another architecture (it holds "
            f"{', '.join(list(state)[:3])})"
        )
    where = max(found, key=lambda where: len(where.marks))
    if other := [other for other in found if not set(other.marks) <= set(where.marks)]:
        raise ConversionError(
            f"a mix of {where.name} ({where.marks[0]}) and {other[0].name} ({other[0].marks[0]}): take one of them"
        )
    return where
