"""What a run trains: a transformer, fresh or from saved weights, and the text encoder with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers.models.attention import AttentionModuleMixin
from diffusers.utils import is_peft_available
from torch import Tensor, nn

from videodit.conditions import Encoder, Told, asked, has_null, of_size, reads_padding
from videodit.config import Lora, Run
from videodit.config import Model as Shape
from videodit.data.cache import Latents
from videodit.data.live import LiveClips
from videodit.data.text_cache import TextCache
from videodit.geometry import Strides
from videodit.models.checks import check_route
from videodit.models.extended import TimeExtended
from videodit.models.growth import flow_map_of
from videodit.models.linear import remembers
from videodit.models.loading import fresh_extended, load_model
from videodit.models.quantized import quantization
from videodit.models.transformer import SIZES, VideoDiT
from videodit.models.waiting import checkpoint_waiting
from videodit.packaged import named_folder
from videodit.shapes import vocabulary_captions
from videodit.text import TextEncoder, told_in
from videodit.training import inputs

# keys of `model:` and VideoDiT
SHAPE = (
    *("num_layers", "axes", "window", "skips", "patch_size", "mlp_ratio", "qk_norm", "norm_type", "caption_in"),
    "time_positions",
)


class Model(nn.Module):
    """Transformer and, where it is trained along, the text encoder: what the optimizer sees and averages follow.

    A text encoder that is not trained is no part of it: `encoded` holds what it said.
    """

    def __init__(self, transformer: VideoDiT | TimeExtended, text: Encoder, encoded: TextCache | None, pixels: int):
        super().__init__()
        self.transformer = transformer
        self.encoded = encoded
        self.pixels = pixels  # a latent's side
        text.requires_grad_(encoded is None)
        self._text = [text]  # in a list, so that it is not registered
        if encoded is None:
            self.text_encoder = text.parts["text_encoder"]

    @property
    def text(self) -> Encoder:
        return self._text[0]

    def forward(
        self,
        noisy: Tensor,
        timestep: Tensor,
        captions: list[str],
        fps: float,
        given: Tensor | None = None,
        routed: Tensor | None = None,
        until: Tensor | None = None,
        guidance: Tensor | None = None,
        own: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        text = told_in((self.encoded or self.text)(captions))
        if has_null(self.transformer):  # in place of the empty caption
            text["prompt_attention_mask"] = text["prompt_attention_mask"] & torch.tensor(
                [[bool(caption)] for caption in captions], device=text["prompt_attention_mask"].device
            )
        height, width = (side * self.pixels for side in noisy.shape[-2:])
        told = Told(text, fps).to(noisy.device)
        told = told.also(
            size=of_size(height, width, len(noisy), noisy.device),
            # of those that are told a scale: what clips are
            guidance=torch.ones(len(noisy), device=noisy.device) if guidance is None else guidance,
            frame_mask=given,
            until=until,
            **(own or {}),
        )
        route = {} if routed is None else {"routed": routed}  # which a VideoDiT alone takes
        return self.transformer(noisy, timestep, **told.kwargs(self.transformer), **route, return_dict=False)[0]


def build_text(config: Run, captions: list[str]) -> TextEncoder:
    """A small encoder of its own, for the words of these captions, to be trained along."""
    text, world = config.text, config.data.source == "shapes" or config.data.shapes > 0
    return TextEncoder.from_captions(
        [*captions, *(vocabulary_captions() if world else ())],
        width=text.width,
        depth=text.depth,
        max_length=text.max_length or 48,
        seed=config.seed,
    )


def fresh_shape(config: Run, strides: Strides, text_width: int) -> dict[str, Any]:
    """What `VideoDiT.sized` makes a transformer of that starts from nothing."""
    model, data = config.model, config.data
    return {
        "size": model.size,
        "in_channels": strides.channels,
        "out_channels": strides.channels * (2 if config.objective.learned_range else 1),
        "caption_channels": text_width,
        "sample_size": max(data.height, data.width) // strides.space // model.patch_size[1],
        "sample_fps": data.fps / strides.time,
        **{key: getattr(model, key) for key in SHAPE if getattr(model, key) is not None},
    }


def fresh_transformer(config: Run, strides: Strides, text_width: int) -> VideoDiT | TimeExtended:
    """One that starts from nothing. ValueError where `model.image` is no image model that is known."""
    if config.model.image is None:
        return VideoDiT.sized(**fresh_shape(config, strides, text_width))
    try:
        return fresh_extended(config.model.image, config.model.time_every, config.data.fps / strides.time)
    except (ValueError, TypeError) as error:
        raise ValueError(f"model.image: {error}") from error


def build_transformer(config: Run, strides: Strides, text: Encoder) -> VideoDiT | TimeExtended:
    """A fresh transformer, or that of `train.start_from`, as the configuration wants it run.

    Raises:
        ValueError: it does not go with the VAE, the text encoder or the objective; says which, and the fix.
    """
    channels = strides.channels
    if config.train.start_from:
        with inputs.named(config.train.start_from, "transformer, as training and videodit inflate leave it"):
            transformer = load_base(config, **_kept(config))
        _check_shape(transformer, config)
    else:
        transformer = fresh_transformer(config, strides, text.width)  # type: ignore[arg-type]
    source = config.train.start_from or ("model.image" if config.model.image else "model")
    inputs.tell(transformer, config, strides)
    if transformer.in_channels != channels:
        raise ValueError(
            f"{source}: a transformer of {transformer.in_channels} latent channels, but "
            f"the VAE has {channels}; set codec: to the VAE it was trained with"
        )
    if asked(transformer, "class") is not None:
        raise ValueError(
            f"{source}: a transformer that is told a class; grow it with videodit inflate "
            f"--text-encoder ... --drop-classes"
        )
    if asked(transformer, "until") is not None and not config.train.distill:
        raise ValueError(
            f"{source}: a flow map, which would lose what it learned in a plain training; set train.distill, or start "
            f"from its teacher"
        )
    reads, gives = asked(transformer, "text"), text.width if isinstance(text, TextEncoder) else None
    if gives is not None and reads != gives:
        raise ValueError(
            f"{source}: a transformer that reads states of {reads}, "
            f"but the text encoder gives {gives}; set text.source to the one it was trained or grown with"
        )
    if asked(transformer, "pooled") is not None and isinstance(text, TextEncoder):
        raise ValueError(
            f"{source}: a transformer that reads pooled states too, which one text encoder does not give; start from a "
            f"pipeline of its family (videodit inflate), or take a family that reads none"
        )
    if reads_padding(transformer) and isinstance(text, TextEncoder):
        raise ValueError(
            f"{source}: a transformer that attends to padding, of which one text encoder gives more or less by what "
            f"else is in a batch; start from a pipeline of its family (videodit inflate), or take a family that leaves "
            f"it out"
        )
    halves = transformer.out_channels // channels
    if halves != (2 if config.objective.learned_range else 1):
        raise ValueError(
            f"{source}: a transformer with {halves} outputs a channel; set "
            f"objective.learned_range: {'true' if halves == 2 else 'false'}"
        )
    if (config.objective.given_frames or config.objective.frame_times) and transformer.patch_size[0] > 1:
        raise ValueError("objective.given_frames and frame_times need a patch of one frame (model.patch_size[0]: 1)")
    if remembers(transformer) and (late := set(config.objective.given_frames) - {"first", "start"}):
        raise ValueError(f"objective.given_frames.{min(late)}: no frame of {source} sees a later one; leave it out")
    if config.train.routing:
        try:
            check_route(transformer)
        except ValueError as error:
            raise ValueError(f"train.routing={config.train.routing}: {error}") from error
    if config.train.lora:
        add_lora(transformer, config.train.lora, config.train.precision)
    transformer.checkpoint_units(int(config.model.gradient_checkpointing))
    if "activations" in config.model.offload:
        transformer.enable_gradient_checkpointing(checkpoint_waiting)
    if config.model.attention_backend:
        for module in transformer.modules():  # not the model's own method, which sets a default of the process too
            if isinstance(module, AttentionModuleMixin):
                module.set_attention_backend(config.model.attention_backend)
    if config.model.compile:
        transformer.compile_repeated_blocks()
    return transformer


def load_base(config: Run, **how: Any) -> VideoDiT | TimeExtended:
    """The transformer of `train.start_from` on the CPU, in float32 where `how` says nothing else; for `train.distill`
    as the flow map that it becomes.

    Raises:
        ValueError: no flow map can be made of it.
    """
    model = load_model(**place_of_base(config), **how)
    return as_map(model, config) if config.train.distill else model


def as_map(model: VideoDiT | TimeExtended, config: Run) -> VideoDiT:
    """A model to start distillation from, which may be a flow map already."""
    if isinstance(model, VideoDiT) and model.config.flow_map_gate is not None:
        return model
    try:
        return flow_map_of(model)  # type: ignore[arg-type]
    except ValueError as error:
        raise ValueError(f"train.distill: {config.train.start_from}: {error}") from error


def place_of_base(config: Run) -> dict[str, Any]:
    """Where the transformer of `train.start_from` lies."""
    return place_of(str(config.train.start_from))


def place_of(name: str) -> dict[str, Any]:
    """Where a transformer lies: in the folder of a pipeline, or by itself."""
    folder = named_folder(name)
    alone = Path(folder, "config.json").is_file()
    return {"name_or_folder": folder, "subfolder": None if alone else "transformer"}


def is_thin(config: Run) -> bool:
    """Whether the weights under adapters are kept in less than float32, or elsewhere, and so are no part of a state."""
    lora = config.train.lora
    return lora is not None and (lora.base != "float32" or "blocks" in config.model.offload)


def _kept(config: Run) -> dict[str, Any]:
    """How a loader keeps the weights that training starts from; what is not quantized as `train.precision` computes."""
    base = config.train.lora.base if config.train.lora else "float32"
    if base in ("float32", "bfloat16"):
        return {"dtype": getattr(torch, base)}
    dtype = inputs.PRECISIONS[config.train.precision] or torch.float32
    return {"dtype": dtype, "quantization_config": quantization(base, f"train.lora.base: {base}", dtype)}


def _check_shape(transformer: VideoDiT | TimeExtended, config: Run) -> None:
    """ValueError where `model:` asks for another shape than that of the weights to start from."""
    model, default = config.model, Shape()
    layers, width, heads = SIZES[model.size]
    wanted = {key: getattr(model, key) for key in SHAPE if getattr(model, key) != getattr(default, key)}
    if model.size != default.size:
        wanted |= {"num_attention_heads": heads, "attention_head_dim": width // heads}
        wanted.setdefault("num_layers", layers)
    held = dict(transformer.config)
    if model.image is not None:
        wanted |= {f"image.{key}": value for key, value in model.image.items()} | {"time_every": model.time_every}
        held |= {f"image.{key}": value for key, value in held.get("base", {}).items()} | {
            "time_every": held.get("every")
        }
    for key, value in wanted.items():
        have = held.get(key, f"of {type(transformer).__name__}'s own")
        have, value = (tuple(one) if isinstance(one, list) else one for one in (have, value))
        if have != value:
            raise ValueError(
                f"{config.train.start_from}: a transformer of {key} {have}, but the configuration wants {value}; take "
                f"it out of model:, or train from nothing"
            )


def add_lora(transformer: VideoDiT | TimeExtended, lora: Lora, precision: str = "no") -> None:
    """Low-rank adapters on linear layers of the transformer, by peft; only they are trained, in float32, and of a flow
    map what tells it where a step ends and the scale of guidance, which has no weights to be low in rank beside.

    Args:
        precision: that it will compute in. Under autocast an adapter takes its layer's input as it is, where peft would
            keep one more of it, in float32, which is then cast again: the same numbers.

    Raises:
        ValueError: peft is not installed, or no layer has such a name.
    """
    if not is_peft_available():
        raise ValueError("train.lora needs peft: pip install 'videodit[lora]'")
    from peft import LoraConfig
    from peft.tuners.tuners_utils import BaseTunerLayer

    linear = [name for name, module in transformer.named_modules() if isinstance(module, nn.Linear)]
    for target in lora.targets:
        if not any(name == target or name.endswith(f".{target}") for name in linear):
            raise ValueError(f"train.lora.targets: no linear layer's name ends in {target!r}; for example {linear[-1]}")
    transformer.requires_grad_(False)
    transformer.add_adapter(LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=list(lora.targets)))
    if getattr(transformer.config, "flow_map_gate", None) is not None:  # what tells it a second time and a scale
        for part in (transformer.delta_embedder, transformer.guidance_embedder):  # type: ignore[union-attr]
            part.requires_grad_(True)
    for weight in transformer.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()  # peft makes them of the base's own type
    for module in transformer.modules():
        if isinstance(module, BaseTunerLayer):
            setattr(module, "cast_input_dtype_enabled", precision == "no")  # noqa: B010 (it declares none)


def save_lora(transformer: VideoDiT | TimeExtended, lora: Lora, state: dict[str, Tensor], folder: Path) -> None:
    """The adapters of a state dict as diffusers and peft keep them; `transformer.load_lora_adapter(folder)` reads them.

    Args:
        state: that holds its adapters, whole, on the CPU.
    """
    adapted = _weightless(transformer)
    with torch.device("meta"):
        add_lora(adapted, lora)
    adapted.load_state_dict({name: value for name, value in state.items() if ".lora_" in name}, False, assign=True)
    adapted.save_lora_adapter(folder)


def merged(
    transformer: VideoDiT | TimeExtended, state: dict[str, Tensor], base: dict[str, Tensor] | None = None
) -> VideoDiT | TimeExtended:
    """A plain transformer on the CPU, of a state dict that may hold adapters: these are added to the weights.

    Args:
        transformer: whose configuration and adapters' scales count.
        state: its whole state dict, on the CPU; or what was trained of it alone, and then
        base: the weights that adapters are added to.
    """
    given = {**(base or {}), **state}
    weights = {name.replace(".base_layer.", "."): x for name, x in given.items() if ".lora_" not in name}
    for name, down in state.items():
        layer = name.removesuffix(".lora_A.default.weight")
        if layer != name:
            delta = transformer.get_submodule(layer).scaling["default"] * (
                state[f"{layer}.lora_B.default.weight"] @ down
            )
            weights[f"{layer}.weight"] = weights[f"{layer}.weight"] + delta
    plain = _weightless(transformer)
    plain.load_state_dict(weights, assign=True)
    return plain


def _weightless(transformer: VideoDiT) -> VideoDiT:
    """Its like without quantization, and without memory for its weights; what it computes for itself it has."""
    config = {key: value for key, value in transformer.config.items() if key != "quantization_config"}
    with init_empty_weights(include_buffers=False):
        return type(transformer).from_config(config)


def is_chosen(name: str, axis: str, patterns: Sequence[str]) -> bool:
    """Whether `train.weights` names a weight, or the axis of its block."""
    return any(pattern == axis or fnmatchcase(name, pattern) for pattern in patterns)


def choose_weights(model: Model, config: Run, clips: Latents | LiveClips) -> None:
    """Freezes all but `train.weights`, where it names any.

    Raises:
        ValueError: it names nothing of this model, or only what some of the clips would skip.
    """
    patterns = config.train.weights
    if not patterns and not config.train.lora:
        return
    names = {name: "" for name, _ in model.named_parameters()}
    names |= {f"transformer.{n}": model.transformer.axis_of(n) for n, _ in model.transformer.named_parameters()}
    for pattern in patterns:
        if not any(pattern == axis or fnmatchcase(name, pattern) for name, axis in names.items()):
            raise ValueError(f"train.weights: {pattern!r} is neither an axis of this model nor the name of a weight")
    for name, weight in model.named_parameters() if patterns else ():
        weight.requires_grad_(is_chosen(name, names[name], patterns))
    trained = {axis for name, axis in names.items() if model.get_parameter(name).requires_grad}
    if trained != {"time"}:
        return
    images = sum(sample.is_image for sample in clips.samples)
    if config.data.image_share > 0 or images:
        raise ValueError(
            f"images skip the time blocks, and train.weights or lora trains nothing else: set data.image_share: 0, and "
            f"leave the {images} images out of {config.data.source}"
        )
