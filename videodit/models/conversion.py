"""Weights of DiT, PixArt and Latte as a `VideoDiT`, with equal numerics, and back to diffusers' classes.

A family differs from ours in names and in a few layouts, never in arithmetic. For each of our tensors `places` says
where a family keeps it; loading walks that list one way and giving back walks it the other way, so that a round trip
returns every bit. Whatever a checkpoint holds besides is named in the report, or is an error.

Sources: `DiTTransformer2DModel`, `PixArtTransformer2DModel`, `LatteTransformer3DModel` (diffusers 0.42). The files that
the projects themselves publish are read in `originals`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import DiTTransformer2DModel, LatteTransformer3DModel, ModelMixin, PixArtTransformer2DModel
from safetensors import SafetensorError
from torch import Tensor

from videodit.models.checks import check_loaded
from videodit.models.transformer import VideoDiT
from videodit.weights import check_finite, loading

State = dict[str, Tensor]
CLASSES: dict[str, type[ModelMixin]] = {
    "dit": DiTTransformer2DModel,
    "pixart": PixArtTransformer2DModel,
    "latte": LatteTransformer3DModel,
}


class ConversionError(ValueError):
    """Weights that cannot be converted; the message names the tensor or key, and why."""


@dataclass
class Report:
    """What became of every tensor, one line each; no tensor is missing from it.

    copied: taken as it is; grown: made from another by a rule; fresh: initialized; dropped: of the source, and why.
    """

    copied: dict[str, str] = field(default_factory=dict)
    grown: dict[str, str] = field(default_factory=dict)
    fresh: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        kinds = ("copied", "grown", "fresh", "dropped")
        lines = [", ".join(f"{len(getattr(self, kind))} {kind}" for kind in kinds)]
        for kind in kinds:
            lines += [f"{kind:8}{name}" + (f"   {why}" if why else "") for name, why in getattr(self, kind).items()]
        return "\n".join(lines)


# ------------------------------------------------------------------------------------------------ diffusers' classes


def from_diffusers(source: str | Path | ModelMixin, subfolder: str | None = None) -> tuple[VideoDiT, Report]:
    """A `VideoDiT` that computes what the diffusers model computes, in its precision.

    Args:
        source: a live `DiTTransformer2DModel`, `PixArtTransformer2DModel` or `LatteTransformer3DModel`, or the folder
            or hub name of one (of a whole pipeline, with subfolder="transformer").

    Returns:
        The model, in evaluation mode, and what became of every tensor. A PixArt or DiT becomes a model of `space`
        blocks; a clip of one frame skips Latte's `time` blocks (diffusers: `enable_temporal_attentions=False`).

    Raises:
        ConversionError: another class, or an option that a `VideoDiT` does not have.
    """
    theirs = source if isinstance(source, ModelMixin) else load(source, subfolder)
    family = _family(theirs)
    state = theirs.state_dict()
    dropped = {name: "computed, not stored" for name in state if name == "pos_embed.pos_embed"}
    config = _config_from(family, theirs, state)
    return fill(config, state, lambda name, model: places(family, name, model), dropped)


def to_diffusers(model: VideoDiT, family: str, *, num_frames: int = 16) -> ModelMixin:
    """The same model as diffusers' DiT, PixArt or Latte class, bit for bit.

    Args:
        family: `dit`, `pixart` or `latte`.
        num_frames: latent frames of every clip, which Latte's class wants to know (its `video_length`).

    Raises:
        ConversionError: the structure is not that class's; says which part.
    """
    if family not in CLASSES:
        raise ConversionError(f"{family!r} is none of {', '.join(CLASSES)}")
    config = _config_to(family, model) | ({"video_length": num_frames} if family == "latte" else {})
    theirs: Any = CLASSES[family](**config)
    state = {
        place.name: place.give(tensor).clone()
        for name, tensor in model.state_dict().items()
        for place in places(family, name, model)
    }
    missing = [name for name in theirs.state_dict() if name not in state and "pos_embed.pos_embed" not in name]
    extra = [name for name in state if name not in theirs.state_dict()]
    if missing or extra:
        raise ConversionError(f"{CLASSES[family].__name__} has no place for {extra[:3]} or lacks {missing[:3]}")
    theirs.load_state_dict(state, strict=False, assign=True)
    return theirs.eval()


def load(source: str | Path, subfolder: str | None = None) -> ModelMixin:
    """A diffusers DiT, PixArt or Latte from a folder or hub name, whole; ConversionError for anything else."""
    try:
        config: Any = VideoDiT.load_config(str(source), subfolder=subfolder)
        name = config["_class_name"]
    except (OSError, KeyError) as error:
        where = f"{source}/{subfolder}" if subfolder else source
        raise ConversionError(
            f"{where}: no diffusers model here, neither a folder with config.json nor a hub name"
        ) from error
    if name == "Transformer2DModel":  # as DiT and PixArt were first published
        kinds = {"ada_norm_zero": DiTTransformer2DModel.__name__, "ada_norm_single": PixArtTransformer2DModel.__name__}
        name = kinds.get(config.get("norm_type"), name)
    for cls in CLASSES.values():
        if cls.__name__ == name:
            return _load_whole(cls, str(source), subfolder=subfolder)
    raise ConversionError(f"{source}: holds a {name}; a VideoDiT can be made from {_class_names()}")


def _load_whole(cls: Any, name: str, **kwargs: Any) -> Any:
    """`cls.from_pretrained(name)` of a diffusers class; ConversionError where it cannot be loaded whole."""
    try:
        folder = Path(name, kwargs.get("subfolder") or "")
        with loading(folder):
            model, info = cls.from_pretrained(name, output_loading_info=True, **kwargs)
        check_loaded(info, name, cls.__name__, computed=("pos_embed.pos_embed",))
        check_finite(model, folder)
    except (RuntimeError, SafetensorError, ValueError, NotImplementedError) as error:
        raise ConversionError(" ".join(f"{name}: cannot be loaded as {cls.__name__}: {error}".split())) from error
    return model


def _family(theirs: ModelMixin) -> str:
    for family, cls in CLASSES.items():
        if isinstance(theirs, cls):
            return family
    raise ConversionError(f"{type(theirs).__name__} cannot be converted; a VideoDiT can be made from {_class_names()}")


def _class_names() -> str:
    return ", ".join(cls.__name__ for cls in CLASSES.values())


def _config_from(family: str, theirs: Any, state: State) -> dict[str, Any]:
    """Our configuration for a diffusers model; ConversionError for options that we do not have."""
    c = theirs.config
    dim = c.num_attention_heads * c.attention_head_dim
    if c.get("dropout"):
        raise ConversionError(f"dropout={c.dropout}: a VideoDiT has none; set it to 0 in the source's config.json")
    if c.get("attention_type", "default") != "default":
        raise ConversionError(f"attention_type={c.attention_type!r}: gated attention is not supported")
    config = {
        "in_channels": c.in_channels,
        "out_channels": c.out_channels,
        "num_layers": c.num_layers,
        "num_attention_heads": c.num_attention_heads,
        "attention_head_dim": c.attention_head_dim,
        "axes": ("space",),
        "patch_size": (1, c.patch_size, c.patch_size),
        "mlp_ratio": 4.0,
        "activation_fn": c.activation_fn,
        "attention_bias": c.attention_bias,
        "norm_elementwise_affine": c.norm_elementwise_affine,
        "norm_eps": c.norm_eps,
        "norm_type": c.norm_type,
        "qk_norm": False,
        "sample_size": c.sample_size // c.patch_size,
    }
    if family == "dit":
        embedders = [name for name in state if ".norm1.emb." in name and name.startswith("transformer_blocks.0.")]
        shared = all(
            theirs.device.type == "meta" or torch.equal(state[name], state[name.replace("blocks.0.", f"blocks.{i}.")])
            for name in embedders
            for i in range(1, c.num_layers)
        )
        return config | {
            "num_classes": c.num_embeds_ada_norm,
            "shared_embedder": shared,
            "timestep_freq_shift": 1,
        }
    if c.norm_type != "ada_norm_single":
        raise ConversionError(f"norm_type={c.norm_type!r}: only 'ada_norm_single' is supported for this class")
    if c.caption_channels is None or c.cross_attention_dim != dim:
        raise ConversionError(
            f"caption_channels={c.caption_channels}, cross_attention_dim={c.cross_attention_dim}: text must be "
            f"projected to the width of the model, {dim}"
        )
    config |= {"caption_channels": c.caption_channels}
    scale = max(c.sample_size // 64, 1)
    if family == "pixart":
        return config | {
            "interpolation_scale": c.interpolation_scale if c.interpolation_scale is not None else scale,
            "use_additional_conditions": theirs.use_additional_conditions,
        }
    return config | {
        "axes": ("space", "time"),
        "cross_attention_axes": ("space",),
        "time_positions": "sincos",
        "interpolation_scale": scale,
    }


def _config_to(family: str, model: VideoDiT) -> dict[str, Any]:
    """The diffusers configuration of a model; ConversionError where the class lacks something that it uses."""
    c = model.config
    cls = CLASSES[family].__name__
    axes = ("space", "time") if family == "latte" else ("space",)
    dim = c.num_attention_heads * c.attention_head_dim
    wanted: dict[str, Any] = {
        "axes": axes,
        "norm_type": "ada_norm_zero" if family == "dit" else "ada_norm_single",
        "mlp_ratio": 4.0,
    }
    if family == "dit":
        wanted |= {"timestep_freq_shift": 1, "interpolation_scale": 1.0, "caption_channels": None}
    if family == "latte":
        wanted |= {
            "cross_attention_axes": ("space",),
            "time_positions": "sincos",
            "use_additional_conditions": False,
            "interpolation_scale": max(c.sample_size * c.patch_size[1] // 64, 1),
        }
    for key, value in wanted.items():
        have = c[key]
        if (tuple(have) if isinstance(have, list | tuple) else have) != value:
            raise ConversionError(f"{cls} needs {key}={_plain(value)}, but this model has {_plain(have)}")
    if any(isinstance(module, torch.nn.RMSNorm) for module in model.modules()):
        raise ConversionError(f"{cls} has no QK-norm, but this model has qk_norm={_plain(c.qk_norm)}")
    if family == "dit" and c.num_classes is None:
        raise ConversionError(f"{cls} is told a class, but this model has num_classes=None")
    if family != "dit" and c.caption_channels is None:
        raise ConversionError(f"{cls} reads a text, but this model has caption_channels=None")
    pt, ph, pw = c.patch_size
    if pt != 1 or ph != pw:
        raise ConversionError(
            f"{cls} has square patches of one frame, but this model has patch_size={_plain(c.patch_size)}"
        )
    config = {
        "in_channels": c.in_channels,
        "out_channels": model.out_channels,
        "num_layers": c.num_layers,
        "num_attention_heads": c.num_attention_heads,
        "attention_head_dim": c.attention_head_dim,
        "patch_size": ph,
        "activation_fn": c.activation_fn,
        "attention_bias": c.attention_bias,
        "norm_elementwise_affine": c.norm_elementwise_affine,
        "norm_eps": c.norm_eps,
        "norm_type": c.norm_type,
        "sample_size": c.sample_size * ph,
        "num_embeds_ada_norm": c.num_classes if family == "dit" else 1000,
    }
    if family == "dit":
        return config
    config |= {"caption_channels": c.caption_channels, "cross_attention_dim": dim}
    if family == "pixart":
        config |= {
            "interpolation_scale": c.interpolation_scale,
            "use_additional_conditions": c.use_additional_conditions,
        }
    return config


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else repr(value) if isinstance(value, str) else value


# ----------------------------------------------------------------------------------------- where a family keeps what


@dataclass(frozen=True)
class Place:
    """A tensor of theirs, of which ours is part `part` of `parts` along the first axis, in the shape of ours."""

    name: str
    part: int = 0
    parts: int = 1
    patch: bool = False  # theirs is a convolution d c h w, ours a matrix d (c h w)
    size: int = 1  # of the patch

    def take(self, tensor: Tensor) -> Tensor:
        tensor = tensor.chunk(self.parts)[self.part] if self.parts > 1 else tensor
        return tensor.flatten(1) if self.patch else tensor

    def give(self, tensor: Tensor) -> Tensor:
        if not self.patch:
            return tensor
        return tensor.unflatten(1, (-1, self.size, self.size))


def places(family: str, name: str, model: VideoDiT) -> list[Place]:
    """Where a diffusers class keeps our tensor `name`; several places hold the same where we share it."""
    if name.startswith("patch_embed."):
        weight = name.endswith("weight")
        return [Place("pos_embed." + name.removeprefix("patch_embed."), patch=weight, size=model.patch_size[1])]
    if name.startswith("blocks."):
        _, index, rest = name.split(".", 2)
        stem, number = "transformer_blocks", int(index)
        if family == "latte":
            number, temporal = divmod(number, 2)
            stem = "temporal_transformer_blocks" if temporal else stem
        if family == "dit":
            rest = rest.replace("modulation.", "norm1.linear.").replace("norm2.", "norm3.")
        return [Place(f"{stem}.{number}.{rest}")]
    if family == "dit":
        if name.startswith("embedders."):
            _, index, rest = name.split(".", 2)
            rest = rest.replace("class_embedder.", "class_embedder.embedding_table.")
            blocks = range(len(model.blocks)) if model.config.shared_embedder else [int(index)]
            return [Place(f"transformer_blocks.{i}.norm1.emb.{rest}") for i in blocks]
        return [Place(name.replace("modulation_out.", "proj_out_1.").replace("proj_out.", "proj_out_2."))]
    return [Place(name)]


def fill(
    config: dict[str, Any],
    state: State,
    where: Callable[[str, VideoDiT], list[Place]],
    dropped: dict[str, str],
) -> tuple[VideoDiT, Report]:
    """A model of this configuration with a checkpoint's weights, each of them used or `dropped` for a reason.

    Raises:
        ConversionError: a tensor is missing, does not fit, or has no place in the model.
    """
    with torch.device("meta"):
        model = VideoDiT(**config)
    ours, report, used = {}, Report(dropped=dropped), set(dropped)
    for name, tensor in model.state_dict().items():
        sources = where(name, model)
        for place in sources:
            if place.name not in state:
                raise ConversionError(f"the weights lack {place.name}, for {name}: another architecture")
            taken = place.take(state[place.name])
            if taken.shape != tensor.shape:
                raise ConversionError(
                    f"{place.name} gives {tuple(taken.shape)}, but {name} is {tuple(tensor.shape)}: another model"
                )
            ours[name] = taken.clone()
            used.add(place.name)
        report.copied[name] = sources[0].name + (f" and {len(sources) - 1} equal" if len(sources) > 1 else "")
    if left := sorted(set(state) - used):
        raise ConversionError(f"{len(left)} tensors have no place in a VideoDiT: {', '.join(left[:5])}")
    model.load_state_dict(ours, assign=True)
    return model.eval(), report
