"""Whole models in and out: diffusers' DiT, PixArt, Latte and Wan pipelines, transformers alone, checkpoint files.

The transformer is converted (`models.formats`); VAE, text encoder, tokenizer and scheduler go
over as they are.
"""

from __future__ import annotations

import inspect
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import safetensors.torch
import torch
from diffusers import (
    AnyFlowPipeline,
    AutoencoderKL,
    DiffusionPipeline,
    DiTPipeline,
    LattePipeline,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    WanPipeline,
)

from videodit.codec import VideoCodec
from videodit.disk import whole, write_sums, writing
from videodit.geometry import ClipSize
from videodit.models.formats.files import from_checkpoint, from_diffusers, load, own_config, to_checkpoint, to_diffusers
from videodit.models.formats.table import ConversionError, Report
from videodit.models.loading import CLASSES, load_model
from videodit.models.transformer import VideoDiT
from videodit.packaged import named_folder
from videodit.pipeline import VideoDiTPipeline
from videodit.text import TextEncoder
from videodit.weights import check_finite, loading


@dataclass(frozen=True)
class Known:
    """A pipeline that can be converted: how many tokens of a prompt it reads, and whether it lower-cases them; what it
    takes where a call says nothing, as `VideoDiTPipeline` names it."""

    tokens: int
    lowercase: bool = True
    defaults: dict[str, Any] = field(default_factory=dict)


_WAN = {
    "default_num_frames": 81,
    "default_height": 480,
    "default_width": 832,
    "default_fps": 16.0,
    "default_num_inference_steps": 50,
    "default_guidance_scale": 5.0,
}
# of Wan 2.2, as its project samples them: TI2V-5B, told a time a frame, and the two experts of A14B
_TI2V = {"default_num_frames": 121, "default_height": 704, "default_width": 1280, "default_fps": 24.0}
_EXPERTS = {"default_num_inference_steps": 40, "default_guidance_scale": 4.0}
_MAP = {"default_num_inference_steps": 4, "default_guidance_scale": 1.0}  # of a flow map, which has it in itself
PIPELINES = {
    "DiTPipeline": Known(0),
    "PixArtAlphaPipeline": Known(120),
    "PixArtSigmaPipeline": Known(300),
    "LattePipeline": Known(120),
    "WanPipeline": Known(512, lowercase=False, defaults=_WAN),
    "AnyFlowPipeline": Known(512, lowercase=False, defaults=_WAN | _MAP),
}
OF_IMAGES = ("dit", "pixart", "latte")  # whose pipelines of diffusers have AutoencoderKL and no flow
EXPERTS = ("transformer", "transformer_2")
NATIVE = ("DiTTransformer2DModel", "PixArtTransformer2DModel")  # image models that a `VideoDiT` is grown from
PARTS = ("vae", "text_encoder", "tokenizer", "scheduler", *EXPERTS)


def open_model(
    source: str | Path, dtype: torch.dtype = torch.float32, **unsaid: Any
) -> tuple[VideoDiT | VideoDiTPipeline, Report]:
    """Whatever holds a model, as one: a pipeline or transformer, ours or of `PIPELINES`' families, or a file.

    Args:
        source: a folder or hub name, a packaged model, or a project's own checkpoint (`.pt`, `.pth`, `.safetensors`, or
            a folder of them with the project's `config.json`).
        dtype: of the weights.
        **unsaid: what such a checkpoint does not say of itself; see `from_checkpoint`.

    Returns:
        The model, and what became of every tensor where it was converted (empty where it is ours already).

    Raises:
        ConversionError: none of these, or it cannot be loaded whole.
    """
    try:
        name = named_folder(str(source))
    except FileNotFoundError as error:
        raise ConversionError(str(error)) from error
    if is_checkpoint(name):
        model, report = from_checkpoint(name, **unsaid)
        return _cast(model, dtype), report
    if given := [key for key in ("num_attention_heads", "interpolation_scale", "partial") if unsaid.get(key)]:
        raise ConversionError(f"{name}: {given[0]} is of a project's own checkpoint, and this is none")
    try:
        return _open_folder(name, dtype)
    except ConversionError:
        raise
    except Exception as error:  # loaders of three libraries, on whatever the folder holds
        raise ConversionError(" ".join(f"{name}: cannot be loaded: {type(error).__name__}: {error}".split())) from error


def is_checkpoint(name: str) -> bool:
    """Whether it is a project's own: a file, or a folder with its `config.json`."""
    return Path(name).suffix in (".pt", ".pth", ".safetensors") or Path(name).is_file() or bool(own_config(name))


def _open_folder(name: str, dtype: torch.dtype) -> tuple[VideoDiT | VideoDiTPipeline, Report]:
    try:
        index: Any = DiffusionPipeline.load_config(name)
    except OSError:  # no pipeline: a transformer alone
        if VideoDiT.load_config(name).get("_class_name") in CLASSES:
            return load_model(name, dtype=dtype), Report()
        model, report = from_diffusers(load(name, dtype=_loaded_in(name, None, dtype)))
        return _cast(model, dtype), report
    if "VideoDiTPipeline" in index["_class_name"]:  # alone, or behind the name of its module
        return VideoDiTPipeline.from_pretrained(name, dtype=dtype), Report()
    _known(index["_class_name"])
    there = [part for part in EXPERTS if (index.get(part) or [None])[0] is not None]
    with loading(name):
        models = {part: load(name, part, _loaded_in(name, part, dtype)) for part in there}
        theirs = DiffusionPipeline.from_pretrained(name, dtype=dtype, **models)
    for part in ("vae", "text_encoder"):
        if (module := theirs.components.get(part)) is not None:
            check_finite(module, Path(name, part))
    pipe, report = pipeline_from_diffusers(theirs)
    for part in there:
        _cast(getattr(pipe, part), dtype)
    return pipe, report


def _loaded_in(name: str, part: str | None, dtype: torch.dtype) -> torch.dtype:
    """How a transformer is loaded that will be cast: whole, but for those of Wan, which are too large, and whose class
    keeps most of what embeds times itself."""
    large = "Wan" in str(VideoDiT.load_config(name, subfolder=part).get("_class_name"))
    return dtype if large else torch.float32


def _known(name: str) -> Known:
    """What is known of a pipeline's class. ConversionError: nothing."""
    if name not in PIPELINES:
        raise ConversionError(
            f"{name} cannot be converted; a VideoDiTPipeline can be made from {', '.join(PIPELINES)}. Its transformer "
            "alone may be: name the folder of that"
        )
    return PIPELINES[name]


def _cast(model: VideoDiT, dtype: torch.dtype) -> VideoDiT:
    """All its numbers in a type; below float32 without what is computed in that, as loading has it."""
    kept = set(model._keep_in_fp32_modules or ()) if dtype != torch.float32 else set()
    for name, weight in (*model.named_parameters(), *model.named_buffers()):
        if weight.is_floating_point():
            weight.data = weight.data.to(torch.float32 if kept & set(name.split(".")) else dtype)
    return model


def halve(model: VideoDiT | VideoDiTPipeline) -> None:
    """Rounds what was left in float32 of a model in float16 (what embeds times) to that as well, for a small file."""
    parts = model.components.values() if isinstance(model, VideoDiTPipeline) else [model]
    for part in parts:
        if not isinstance(part, torch.nn.Module) or getattr(part, "hf_quantizer", None) is not None:
            continue
        for parameter in part.parameters():
            if parameter.is_floating_point():
                parameter.data = parameter.data.half()


def save_whole(model: VideoDiT | VideoDiTPipeline | DiffusionPipeline, folder: Path, notes: dict[str, str]) -> None:
    """Saves a model, and each note under its file's name, into a new folder: whole, or not at all (DiskError).

    Where its parts were loaded from (`_name_or_path`) is of this machine, and stays out of the configurations.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with writing(folder), TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
        model.save_pretrained(Path(scratch) / "model")
        for file in (Path(scratch) / "model").rglob("*.json"):
            config = json.loads(file.read_text(encoding="utf-8"))
            if config.pop("_name_or_path", None) is not None:
                file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        for name, text in notes.items():
            (Path(scratch) / "model" / name).write_text(text)
        write_sums(Path(scratch) / "model", sorted(f for f in (Path(scratch) / "model").rglob("*.*") if f.is_file()))
        (Path(scratch) / "model").rename(folder)


def save_file(model: VideoDiT | VideoDiTPipeline, family: str, file: Path) -> None:
    """Saves a transformer as one file by its project's own names; ConversionError where it is not that project's."""
    transformer = model.transformer if isinstance(model, VideoDiTPipeline) else model
    if isinstance(model, VideoDiTPipeline) and model.transformer_2 is not None:
        raise ConversionError("a single file holds one expert: name the folder of its transformer, or transformer_2")
    state = {name: tensor.contiguous() for name, tensor in to_checkpoint(transformer, family).items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole(file) as scratch:
        safetensors.torch.save_file(state, scratch, metadata={"format": "pt"})


def pipeline_from_diffusers(theirs: DiffusionPipeline) -> tuple[VideoDiTPipeline, Report]:
    """A diffusers DiT, PixArt (alpha, sigma), Latte, Wan or AnyFlow pipeline with its own VAE, text encoder, scheduler.

    Of a Wan of two experts, that for the noisier times is `transformer`, the other `transformer_2`.

    Returns:
        The pipeline, and what became of every tensor of its transformers.

    Raises:
        ConversionError: another pipeline, or a transformer that a `VideoDiT` cannot be.
    """
    name = type(theirs).__name__
    known, parts = _known(name), dict(theirs.components)
    if (tokenizer := parts.get("tokenizer")) is not None:
        tokenizer.model_max_length = known.tokens
        tokenizer.init_kwargs["lowercase_prompts"] = known.lowercase  # their pipelines do so in code
    report, model = Report(), parts["transformer"].config
    for part in EXPERTS:
        if parts.get(part) is not None:
            parts[part], found = from_diffusers(parts[part])
            report = found if part == "transformer" else report.and_of(found, part)
    if (takes := parts["transformer"].in_channels) != (gives := VideoCodec(parts["vae"]).strides.channels):
        raise ConversionError(
            f"its transformer takes {takes} channels, and its VAE gives {gives}: pictures beside the noise are not "
            "given by a VideoDiTPipeline. Its transformer alone can be converted: name the folder of that"
        )
    names: dict[int, list[str]] = {}
    for label, number in getattr(theirs, "labels", {}).items():  # a DiT's: several names a class
        names.setdefault(number, []).append(label)
    asked = {name: one.default for name, one in inspect.signature(type(theirs).__call__).parameters.items()}
    defaults = {f"default_{name}": asked[name] for name in ("num_inference_steps", "guidance_scale")} | known.defaults
    defaults |= _TI2V if theirs.config.get("expand_timesteps") else {}
    defaults |= _EXPERTS if theirs.config.get("boundary_ratio") is not None else {}
    if "default_height" not in defaults:
        side = model.sample_size * VideoCodec(parts["vae"]).strides.space
        frames = model.video_length if name == "LattePipeline" else 1
        defaults |= {"default_num_frames": frames, "default_height": side, "default_width": side}
    shown = {number: ", ".join(labels) for number, labels in names.items()} or None
    kept: dict[str, Any] = {part: parts.get(part) for part in PARTS}
    config = {"boundary_ratio": theirs.config.get("boundary_ratio"), "id2label": shown} | defaults
    return VideoDiTPipeline(**kept, **config), report


def pipeline_to_diffusers(pipe: VideoDiTPipeline, family: str) -> DiffusionPipeline:
    """The same parts as diffusers' DiT, PixArt, Latte, Wan or AnyFlow pipeline.

    Args:
        family: `dit`, `pixart` (sigma where it reads 300 tokens), `latte`, `wan` or `anyflow`.

    Raises:
        ConversionError: the transformer's structure is not that class's; says which part.
    """
    if family in OF_IMAGES:
        _check_of_images(pipe, family)
    if pipe.transformer_2 is not None and family != "wan":
        raise ConversionError(f"of two experts {family} has no second: name the folder of one, transformer_2 or this")
    strides, size = VideoCodec(pipe.vae).strides, pipe.default_size
    if family == "latte" and size.fps / strides.time != pipe.transformer.config.sample_fps:
        raise ConversionError(
            f"LattePipeline counts frames, not seconds: these clips have {size.fps / strides.time:g} latent frames a "
            f"second and the model's own {pipe.transformer.config.sample_fps:g}"
        )
    transformer = to_diffusers(pipe.transformer, family, num_frames=strides.latent_frames(size.num_frames))
    parts = {"vae": pipe.vae, "transformer": transformer, "scheduler": pipe.scheduler}
    if family == "dit":
        return DiTPipeline(**parts, id2label=pipe.config.id2label)
    parts |= {"text_encoder": pipe.text_encoder, "tokenizer": pipe.tokenizer}
    if family == "wan":  # of which the one of 16 pixels a latent is told a time a frame (TI2V)
        second = pipe.transformer_2 and to_diffusers(pipe.transformer_2, family)
        experts = {"transformer_2": second, "boundary_ratio": pipe.config.boundary_ratio}
        return WanPipeline(**parts, **experts, expand_timesteps=strides.space == 16)
    if family == "anyflow":
        return AnyFlowPipeline(**parts)
    sigma = pipe.text.max_length == PIPELINES["PixArtSigmaPipeline"].tokens
    cls = LattePipeline if family == "latte" else PixArtSigmaPipeline if sigma else PixArtAlphaPipeline
    return cls(**parts)


def _check_of_images(pipe: VideoDiTPipeline, family: str) -> None:
    """ConversionError where diffusers' DiT, PixArt and Latte pipelines would do otherwise with what this one has."""
    name, vae = type(pipe.scheduler).__name__, pipe.vae
    if not hasattr(pipe.scheduler, "init_noise_sigma") or pipe.config.get("prediction_type") == "flow":
        raise ConversionError(f"diffusers' {family} pipeline walks no flow ({name}); its transformer alone can be had")
    if not isinstance(vae, AutoencoderKL) or vae.config.get("shift_factor"):
        kind = f"{type(vae).__name__}" + (" with a shift_factor" if vae.config.get("shift_factor") else "")
        raise ConversionError(f"diffusers' {family} pipeline decodes by a plain AutoencoderKL, and this has an {kind}")
    lengths = (120,) if family == "latte" else (120, 300)
    if family != "dit" and pipe.text.max_length not in lengths:
        read = " or ".join(map(str, lengths))
        raise ConversionError(
            f"diffusers' {family} pipeline reads {read} tokens of a prompt, not {pipe.text.max_length}"
        )


def grown_pipeline(
    pipe: VideoDiTPipeline,
    transformer: VideoDiT,
    vae: torch.nn.Module,
    text: TextEncoder | None = None,
    *,
    num_frames: int,
    fps: float,
) -> VideoDiTPipeline:
    """A pipeline around a grown transformer, its VAE and (None: as before) text encoder, for clips of `num_frames`.

    ConversionError: a pipeline of two experts.
    """
    if pipe.transformer_2 is not None:
        raise ConversionError("a pipeline of two experts: grow each by itself, transformer and transformer_2")
    parts = pipe.components | {"transformer": transformer, "vae": vae}
    if text is not None:
        parts |= {"text_encoder": text.text_encoder, "tokenizer": text.tokenizer}
    size = ClipSize(num_frames, pipe.default_size.height, pipe.default_size.width, fps)
    size.latent(VideoCodec(vae).strides, transformer.patch_size)  # a length or size that the VAE has not is an error
    config = {key: value for key, value in pipe.config.items() if key.startswith("default_")}
    del config["default_skipped_blocks"]  # numbers of other blocks
    config["trained_guidance"] = pipe.config.trained_guidance
    config |= {f"default_{key}": value for key, value in asdict(size).items()}
    labels = pipe.config.id2label if transformer.config.num_classes is not None else None
    return VideoDiTPipeline(**parts, **config, id2label=labels)
