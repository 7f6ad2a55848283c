"""Low-rank adapters (Hu et al. 2021) in the key styles in which they are passed on, through the tables of the formats.

A linear layer's weight gets scale * up @ down. Files name the layer as diffusers' class does ("transformer.X.lora_A"),
as the project's own code does ("diffusion_model.X.lora_A" or "lora_down", ComfyUI), or likewise with "_" for "."
("lora_unet_X.lora_down", kohya and musubi-tuner). A layer that is several of ours is cut along its outputs; several
that are one of theirs become one, whose rank is their sum where they look at different directions. A layer's bias may
get something too ("X.diff_b", ComfyUI; "X.lora_B.bias", peft). Differences that are zero, as norms have them in files
of ComfyUI, are none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers.configuration_utils import FrozenDict
from torch import Tensor

from videodit.models.formats import FORMATS, ORIGINALS
from videodit.models.formats.table import ConversionError, Format, Place, State
from videodit.weights import WeightsError

STYLES = {  # how they name a layer and its halves
    "diffusers": ("transformer.", "lora_A", "lora_B"),
    "original": ("diffusion_model.", "lora_A", "lora_B"),
    "kohya": ("lora_unet_", "lora_down", "lora_up"),
}
OURS = Format("VideoDiT", [], {}, (("blocks", {}),))


def _of_image(name: str, config: Any) -> list[Place]:
    """An image model's layers by its own names, so that its pipeline takes them, and time blocks beside: called
    `time_blocks` where its own blocks are called so."""
    own = name.removeprefix("image.")
    beside = own == name and config["base"]["_class_name"] == "HunyuanDiT2DModel"
    return [Place(f"time_{own}" if beside else own)]


EXTENDED = Format("its image model", [], {}, (), more=_of_image)
PREFIXES = ("transformer.", "unet.", "model.diffusion_model.", "diffusion_model.", "base_model.model.", "lora_unet_")
PART = re.compile(
    r"(?P<layer>.+)\.(?:(?P<half>lora_A|lora_B|lora_down|lora_up)(?:\.[^.]+)?\.weight|(?P<alpha>alpha)|(?P<whole>diff_b)|"
    r"lora_B(?:\.[^.]+)?\.(?P<bias>bias))"
)


@dataclass(frozen=True)
class Pair:
    """down: r in; up: out r; bias: out. A layer's weight gets `scale * up @ down`, its bias `scale * bias`."""

    down: Tensor
    up: Tensor
    scale: float
    bias: Tensor | None = None

    @property
    def alpha(self) -> float:
        """The scale as peft and kohya write it: times the rank."""
        return self.scale * len(self.down)


def formats_of(config: Any) -> tuple[Format, Format]:
    """How the family of a model names its layers: in diffusers' class, and in its own files."""
    if "axes" not in config:
        return EXTENDED, EXTENDED
    if config.get("flow_map_gate") is not None:  # its layers are called as those of the model that it is a map of
        return formats_of(FrozenDict({**config, "flow_map_gate": None, "guidance_embeds": False}))
    if tuple(config["axes"]) in (("window",), ("linear",)):  # the same weights, of other attention
        return formats_of(
            FrozenDict({**config, "axes": ("joint",), "window": None, "qk_norm": bool(config["qk_norm"])})
        )
    for family, several in ORIGINALS.items():
        if (own := next((where for where in several if where.fits(config)), None)) is not None:
            theirs = FORMATS.get(family, OURS)
            return (theirs if theirs.fits(config) else OURS), own
    return OURS, OURS


def part_of(config: Any) -> str:
    """What pipelines of diffusers call a model of this family, in files of adapters too."""
    return "unet" if "UNet" in config.get("base", {}).get("_class_name", "") else "transformer"


def read(
    state: Mapping[str, Tensor], metadata: Mapping[str, Any] | None, config: Any, shapes: Mapping[str, tuple[int, int]]
) -> tuple[dict[str, Pair], list[str]]:
    """The adapters of a file by our layers, and its keys that no layer of this model has.

    Args:
        state: of the file. metadata: diffusers' own beside it (`lora_alpha`, `alpha_pattern` ...), where it has some.
        config: of the model. shapes: of its linear layers' weights, (out, in).

    Raises:
        WeightsError: half an adapter, or one of other shapes than its layer's; names the layer.
    """
    metadata = {re.sub(r"^(transformer|unet)\.", "", key): value for key, value in (metadata or {}).items()}
    found: dict[str, dict[str, Any]] = {}
    keys: dict[str, list[str]] = {}
    stray = []
    for key, tensor in state.items():
        name = next((key.removeprefix(prefix) for prefix in PREFIXES if key.startswith(prefix)), key)
        if key.endswith((".diff", ".diff_b")) and not tensor.any():
            continue
        if (match := PART.fullmatch(name)) is None:
            stray.append(key)
            continue
        half = {"lora_A": "down", "lora_down": "down", "lora_B": "up", "lora_up": "up"}.get(
            match["half"] or ""
        ) or next(name for name in ("alpha", "whole", "bias") if match[name])
        if half in found.setdefault(match["layer"], {}):
            raise WeightsError(f"{key}: its layer has such a half already, by another name")
        found[match["layer"]][half] = tensor
        keys.setdefault(match["layer"], []).append(key)
    layers = _best([_layers(one, config, shapes) for one in (*formats_of(config), OURS)], found)
    pairs = {}
    for layer, halves in found.items():
        if layer not in layers:
            stray += keys[layer]
            continue
        if not {"down", "up"} & halves.keys() and "whole" in halves:
            outs, ins = layers[layer][0][1].parts * shapes[layers[layer][0][0]][0], shapes[layers[layer][0][0]][1]
            halves |= {"down": halves["whole"].new_zeros(1, ins), "up": halves["whole"].new_zeros(outs, 1)}
        if not {"down", "up"} <= halves.keys():
            raise WeightsError(f"half an adapter: 1 of its {len(state)} tensors is alone, {keys[layer][0]}")
        down, up = halves["down"], halves["up"]
        if not all(half.ndim == 2 and half.numel() and half.is_floating_point() for half in (down, up)):
            have = " @ ".join(f"{half.dtype} {tuple(half.shape)}" for half in (up, down))
            raise WeightsError(f"{layer}: {have} is no pair of floating-point matrices")
        scale = _scale(layer, len(down), halves.get("alpha"), metadata)
        if {"whole", "bias"} <= halves.keys():
            raise WeightsError(f"{layer}: both diff_b and a bias of lora_B say what its bias gets")
        if "whole" in halves and not scale:  # nothing but the bias
            scale, up = 1.0, torch.zeros_like(up)
        bias = halves["whole"] / scale if "whole" in halves else halves.get("bias")
        for ours, place in layers[layer]:
            outs, ins = shapes[ours]
            if (*up.shape, *down.shape) != (place.parts * outs, len(down), len(down), ins):
                have = f"{tuple(up.shape)} @ {tuple(down.shape)}"
                raise WeightsError(f"{layer}: {have} does not fit this model's {ours} {shapes[ours]}: of another base")
            if bias is not None and (bias.shape != (len(up),) or not bias.is_floating_point()):
                raise WeightsError(f"{layer}: a bias of {bias.dtype} {tuple(bias.shape)} for {len(up)} outputs")
            pairs[ours] = Pair(down, place.take(up, config), scale, None if bias is None else place.take(bias, config))
    return pairs, stray


def write(pairs: Mapping[str, Pair], config: Any, style: str) -> tuple[State, dict[str, Any]]:
    """The adapters of our layers as a file of another style has them, and diffusers' metadata where it reads some.

    Raises:
        ConversionError: no such style, or a layer that the format does not have as one.
    """
    if style not in STYLES:
        raise ConversionError(f"{style!r} is none of {', '.join(STYLES)}")
    theirs, own = formats_of(config)
    where = theirs if style == "diffusers" else own
    groups: dict[str, dict[int, tuple[Pair, Place]]] = {}
    for layer, pair in pairs.items():
        places = where.places(f"{layer}.weight", config)
        place = places[0]
        if len(places) > 1 or not place.layout.rows:
            raise ConversionError(f"{layer}: no linear layer of its own in {where.name}; leave it out of the adapter")
        bias = None if pair.bias is None else place.layout.give(pair.bias, config)
        given = replace(pair, up=place.layout.give(pair.up, config), bias=bias)
        groups.setdefault(place.name.removesuffix(".weight"), {})[place.part] = given, place
    state: State = {}
    whole = {layer: _joined(parts) for layer, parts in groups.items()}
    for layer, pair in whole.items():
        prefix, down, up = STYLES[style]
        prefix = f"{part_of(config)}." if style == "diffusers" else prefix
        name = prefix + (layer.replace(".", "_") if style == "kohya" else layer)
        state |= {f"{name}.{down}.weight": pair.down.contiguous(), f"{name}.{up}.weight": pair.up.contiguous()}
        if style != "diffusers":
            state[f"{name}.alpha"] = torch.tensor(pair.alpha)
        if pair.bias is not None:
            said, bias = (f"{up}.bias", pair.bias) if style == "diffusers" else ("diff_b", pair.bias * pair.scale)
            state[f"{name}.{said}"] = bias.contiguous()
    return state, peft_config(whole) if style == "diffusers" else {}


def peft_config(pairs: Mapping[str, Pair]) -> dict[str, Any]:
    """What peft is told of adapters, by layer."""
    # peft looks at the ends of names: of a layer whose name another's ends with, at all of it
    ends = {layer.partition(".")[2] for layer in pairs}
    said = {layer: f"^{layer}" if layer in ends else layer for layer in pairs}
    ranks = {said[layer]: len(pair.down) for layer, pair in pairs.items()}
    alphas = {said[layer]: pair.alpha for layer, pair in pairs.items()}
    return {
        "r": max(ranks.values()),
        "lora_alpha": max(alphas.values()),
        "rank_pattern": dict(ranks) if len(set(ranks.values())) > 1 else {},
        "alpha_pattern": dict(alphas) if len(set(alphas.values())) > 1 else {},
        "target_modules": sorted(pairs),
        **({"lora_bias": True} if any(pair.bias is not None for pair in pairs.values()) else {}),
    }


def _layers(where: Format, config: Any, shapes: Iterable[str]) -> dict[str, list[tuple[str, Place]]]:
    """Their layers, also with "_" for ".", and which of ours each is."""
    layers: dict[str, list[tuple[str, Place]]] = {}
    for layer in shapes:
        places = where.places(f"{layer}.weight", config)
        if len(places) == 1 and places[0].layout.rows:
            layers.setdefault(places[0].name.removesuffix(".weight"), []).append((layer, places[0]))
    return layers | {name.replace(".", "_"): ours for name, ours in layers.items()}


def _best(maps: list[dict[str, Any]], found: Iterable[str]) -> dict[str, Any]:
    """The first of those that know most of the layers."""
    return max(maps, key=lambda layers: sum(name in layers for name in found))


def _scale(layer: str, rank: int, alpha: Tensor | None, metadata: Mapping[str, Any]) -> float:
    patterns = metadata.get("alpha_pattern") or {}
    named = (value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", layer))
    value = alpha if alpha is not None else next(named, metadata.get("lora_alpha", rank))
    try:
        return float(value) / (rank**0.5 if alpha is None and metadata.get("use_rslora") else rank)
    except (TypeError, ValueError) as error:
        raise WeightsError(f"{layer}: its alpha is no number: {value}") from error


def _joined(parts: Mapping[int, tuple[Pair, Place]]) -> Pair:
    """The adapter of a layer of which these are parts, along its outputs."""
    ((first, place), *_) = parts.values()
    if place.parts == 1:
        return first
    rows = len(first.up)
    alike = all(torch.equal(pair.down, first.down) and pair.scale == first.scale for pair, _ in parts.values())
    if alike:  # they look at the same directions
        ups = [parts[i][0].up if i in parts else first.up.new_zeros(first.up.shape) for i in range(place.parts)]
        return Pair(first.down, torch.cat(ups), first.scale, _biases(parts, place.parts))
    ups = [pair.up * (pair.scale / first.scale) for pair, _ in parts.values()]
    up = first.up.new_zeros(place.parts, rows, sum(up.shape[1] for up in ups))
    column = 0
    for part, block in zip(parts, ups, strict=True):
        up[part, :, column : column + block.shape[1]] = block
        column += block.shape[1]
    down = torch.cat([pair.down for pair, _ in parts.values()])
    return Pair(down, up.flatten(0, 1), first.scale, _biases(parts, place.parts))


def _biases(parts: Mapping[int, tuple[Pair, Place]], count: int) -> Tensor | None:
    """Of the layer, at the first part's scale; None: none has one."""
    first = next(iter(parts.values()))[0]
    if all(pair.bias is None for pair, _ in parts.values()):
        return None
    none = first.up.new_zeros(len(first.up))
    own = {i: none if pair.bias is None else pair.bias * (pair.scale / first.scale) for i, (pair, _) in parts.items()}
    return torch.cat([own.get(i, none) for i in range(count)])
