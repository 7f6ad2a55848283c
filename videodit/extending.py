"""Any image transformer of diffusers becomes a video model: alone, or with its own VAE, text encoders and scheduler."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, ModelMixin

from videodit.codec import VideoCodec
from videodit.geometry import ClipSize
from videodit.models.extended import TimeExtended
from videodit.models.families import FAMILIES, class_of, family_of, name_of
from videodit.models.time_blocks import load_time_blocks
from videodit.packaged import named_folder
from videodit.pipeline import VideoDiTPipeline
from videodit.text import PARTS, ROWS
from videodit.weights import check_finite, loading

log = logging.getLogger(__name__)

MODELS = ("transformer", "unet")  # what a pipeline calls its image model


def extend_in_time(
    source: ModelMixin | DiffusionPipeline | str | Path,
    *,
    every: int = 1,
    num_frames: int = 17,
    fps: float = 8.0,
    vae: torch.nn.Module | None = None,
    rotary_periods: tuple[float, float] = (0.5, 64.0),
    time_blocks: str | Path | None = None,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> TimeExtended | VideoDiTPipeline:
    """A video model that is an image model on every frame until it is trained.

    Args:
        source: an image model of `models.families`, a pipeline of one, or the folder or hub name of either.
        every: one time block behind each so many of its blocks.
        num_frames, fps: of a pipeline's clips, where a call says nothing; of a model alone, its latent frames a second.
        vae: another one than the pipeline's own, of as many channels.
        rotary_periods: shortest and longest period of the time blocks' positions, in seconds.
        time_blocks: a folder of time blocks that were trained with this image model (`save_time_blocks`), in the place
            of new ones; `every` and `rotary_periods` are theirs.
        dtype: of what is loaded.
        seed: of the new weights.

    Returns:
        A pipeline, where a pipeline was given; else the model. Both in evaluation mode; the image model is in it, as it
        is (`.image`).

    Raises:
        ValueError: a model of no known family, a video model, a VAE of other channels, or a size that it cannot do.
    """
    if isinstance(source, str | Path):
        source = _loaded(named_folder(str(source)), dtype)

    def extended(image: Any, latent_fps: float) -> TimeExtended:
        if time_blocks is not None:
            return load_time_blocks(image, time_blocks).eval()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return TimeExtended(image, every=every, sample_fps=latent_fps, rotary_periods=rotary_periods).eval()

    if not isinstance(source, DiffusionPipeline):
        return extended(source, fps)
    parts: dict[str, Any] = source.components
    image: Any = next((parts[name] for name in MODELS if parts.get(name) is not None), None)
    codec = VideoCodec(parts["vae"] if vae is None else vae)
    family = family_of(image)
    if codec.strides.channels != (channels := family.channels(image.config)[0]):
        raise ValueError(f"a VAE of {codec.strides.channels} channels, but {type(image).__name__} has {channels}")
    side, patch = _side(source, image, codec), family.patch(image.config)
    size = ClipSize(num_frames, side, side, fps)
    size.latent(codec.strides, (1, patch, patch))  # a length that the VAE has not is an error
    model = extended(image, fps / codec.strides.time)
    asked = {name: one.default for name, one in inspect.signature(type(source).__call__).parameters.items()}
    told = any(condition.kind == "guidance" for condition in model.conditions)
    scale = asked["guidance_scale"] if told or "true_cfg_scale" not in asked else asked["true_cfg_scale"]
    if left := left_out(parts):
        log.warning("%s: its %s is no part of a video pipeline, and left out", type(source).__name__, ", ".join(left))
    labels: dict[int, str] = {}
    for label, number in getattr(source, "labels", {}).items():
        labels[number] = f"{labels[number]}, {label}" if number in labels else label
    return VideoDiTPipeline(
        vae=codec.vae,
        transformer=model,
        scheduler=source.scheduler,
        **{"text_encoder": None, "tokenizer": None} | {name: parts[name] for name in PARTS if name in parts},
        text_pipeline=_text_pipeline(source, model),
        id2label=labels or None,
        default_num_frames=num_frames,
        default_height=size.height,
        default_width=size.width,
        default_fps=fps,
        default_num_inference_steps=asked["num_inference_steps"],
        default_guidance_scale=scale + model.family.scale_above,
    )


def _text_pipeline(pipe: DiffusionPipeline, model: TimeExtended) -> str | None:
    """That of the pipeline itself, if it is one that makes pictures of text alone; else its family's."""
    name = type(pipe).__name__
    return name if model.family.text and name in ROWS else model.family.text


def left_out(parts: Mapping[str, Any]) -> list[str]:
    """Those parts of an image pipeline that a video pipeline has no place for."""
    kept = {*MODELS, *PARTS, "vae", "scheduler"}
    return [name for name, part in parts.items() if part is not None and name not in kept]


def left_out_at(source: str | Path) -> list[str]:
    """Likewise, of a folder or hub name; none of a model alone."""
    try:
        index: Any = DiffusionPipeline.load_config(named_folder(str(source)))
    except OSError:
        return []
    return left_out({name: part[0] for name, part in index.items() if isinstance(part, list | tuple) and part})


def family_at(source: str | Path) -> str | None:
    """The class of the image model in a folder or under a hub name, if it is of a known family; loads no weights."""
    try:
        name = named_folder(str(source))
        part = _part_in(DiffusionPipeline.load_config(name))
    except OSError:
        name, part = str(source), None
    else:
        if part is None:
            return None
    try:
        found = name_of(TimeExtended.load_config(name, **({"subfolder": part} if part else {})))
    except OSError:
        return None
    return found if found in FAMILIES else None


def _part_in(index: Any) -> str | None:
    """What a pipeline calls its image model; None: it has none."""
    return next((part for part in MODELS if (index.get(part) or [None])[0] is not None), None)


def _loaded(name: str, dtype: torch.dtype) -> Any:
    try:
        index: Any = DiffusionPipeline.load_config(name)
    except OSError:
        return _model(name, None, dtype)
    part = _part_in(index)
    if part is None:
        raise ValueError(f"{name}: a {index['_class_name']} without {' or '.join(MODELS)}")
    own = {part: _model(name, part, dtype)} | {one: None for one in PARTS if one in index and index[one][0] is None}
    with loading(name):
        pipe = DiffusionPipeline.from_pretrained(name, dtype=dtype, **own)
    for module_name, module in pipe.components.items():
        if isinstance(module, torch.nn.Module) and module_name != part:
            check_finite(module, Path(name, module_name))
    return pipe


def _model(name: str, part: str | None, dtype: torch.dtype) -> Any:
    config: Any = TimeExtended.load_config(name, **({"subfolder": part} if part else {}))
    cls = class_of(name_of(config))
    with loading(Path(name, part or "")):
        model = cls.from_pretrained(name, dtype=dtype, **({"subfolder": part} if part else {}))
    check_finite(model, Path(name, part or ""))
    return model


def _side(pipe: Any, image: Any, codec: VideoCodec) -> int:
    """Of the pictures that a pipeline makes where it is told no size."""
    if image.config.get("sample_size"):
        return int(image.config.sample_size) * codec.strides.space
    return int(getattr(pipe, "default_sample_size", 128)) * getattr(pipe, "vae_scale_factor", 8)
