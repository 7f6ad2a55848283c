"""What a run learns from and towards, as its configuration names it: codec, encoded clips, captions, noising path."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import diffusers
import torch
from accelerate import PartialState
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    FlowMapEulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)
from torch import Tensor

from videodit.codec import VideoCodec
from videodit.codec.maps import map_width
from videodit.codec.past import past_width
from videodit.conditions import Encoder
from videodit.config import Run
from videodit.data.buckets import Buckets, fill, sizes_of
from videodit.data.cache import Latents, encode_clips
from videodit.data.clips import Split, open_data
from videodit.data.live import LiveClips
from videodit.data.manifest import Skip
from videodit.data.text_cache import TextCache
from videodit.diffusion import paths
from videodit.diffusion.schedulers import check_scheduler, is_flow
from videodit.geometry import Strides
from videodit.models import Condition
from videodit.models.transformer import VideoDiT
from videodit.packaged import named_folder
from videodit.text import TextEncoder, saved_captions, text_pipeline
from videodit.text import load_text as load_text_of
from videodit.text.learned import LearnedCaptions
from videodit.training import parallel
from videodit.training.precision import tell_of_bfloat16

log = logging.getLogger(__name__)

T = TypeVar("T")
PRECISIONS = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def load_codec(config: Run) -> VideoCodec:
    """The VAE that a run encodes with: `codec`, or `<output>/vae` as `train_vae` leaves it."""
    return _of_codec(config, VideoCodec.from_pretrained)


def strides_of_codec(config: Run) -> Strides:
    """Its strides, of which its configuration is enough."""
    return _of_codec(config, VideoCodec.strides_of)


def _of_codec(config: Run, read: Callable[[str], T]) -> T:
    wanted = config.codec or str(Path(config.output) / "vae")
    fix = "name a saved one in codec:" if config.codec else "run videodit train-vae with this config, or set codec:"
    with named(wanted, f"VAE; {fix}"):
        folder = named_folder(wanted)
        if config.codec is None and not Path(folder).is_dir():
            raise FileNotFoundError("there is no such folder")
        return read(folder)


@contextmanager
def named(source: str, what: str) -> Iterator[None]:
    """Turns a loader's OSError, of many lines, into a ValueError of one: `source` holds no `what`."""
    try:
        yield
    except OSError as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{source}: no {what} ({reason})") from error


def load_text(config: Run) -> Encoder | None:
    """The saved text encoder that a run names, `text.source` or that of `train.start_from`; None: it builds its own."""
    folder, started = config.text.source or config.train.start_from, config.train.start_from
    if not folder:
        return None
    if config.text.precision != "no" and not is_frozen(config):
        raise ValueError(
            f"text.precision is of an encoder that is not trained, but that of {folder} is trained: leave it out, "
            "or name a fixed one in text.source"
        )
    with named(folder, "text encoder"):
        like = named_folder(started) if started else None
        max_length, dtype = config.text.max_length, PRECISIONS[config.text.precision] or torch.float32
        return load_text_of(named_folder(folder), like, max_length=max_length, dtype=dtype)


@dataclass(frozen=True)
class Survey:
    """The clips of a run and their buckets, known without decoding any: to train on, and kept out to measure on."""

    split: Split
    train: Buckets
    validation: Buckets


def conditions_of(config: Run, strides: Strides | None) -> list[Condition]:
    """What `model.conditions` says that the model is told; without strides, of maps as wide as none are."""
    found: list[Condition] = []
    how: Any
    for name, told in config.model.conditions.items():
        if told.kind == "channels":
            of = told.of or "vae"
            width = 0 if strides is None else map_width(of, strides)
            one = Condition(
                name, "channels", width, told.dropout > 0, of=of, from_clip=told.from_clip, branch=told.branch or 0
            )
            found.append(replace(one, factor=told.factor) if told.of == "small" else one)
        elif told.kind == "tokens":
            if told.of == "past":
                width = 0 if strides is None else past_width(strides.channels)
                how = {"of": "past", "from_clip": True, "frames": told.frames}
                found.append(Condition(name, "tokens", width, True, **how))
                continue
            encoder = str(told.encoder or "")
            found.append(Condition(name, "tokens", told.width, told.dropout > 0, of="states", encoder=encoder))
        else:
            how = {"per": told.per, "of": told.of or "numbers", "from_clip": told.from_clip}
            found.append(Condition(name, "vectors", told.width, told.dropout > 0, **how))
    return found


def survey(config: Run) -> Survey:
    """Measures the files of a run (once: `data.files`) and puts them into their buckets.

    Raises:
        ValueError: the source cannot be used, too many files are unreadable, or no clip fills a bucket.
    """
    data = config.data
    with PartialState(cpu=not torch.accelerator.is_available(), timeout=parallel.TIMEOUT).main_process_first():
        split = open_data(data, config.seed, latents_folder(config) / "files.json", conditions_of(config, None))
        if fetched := [*split.train.source.fetch(), *split.validation.source.fetch()]:
            split.files.measure(fetched, "measuring files")
    if PartialState().is_main_process:
        split.tell()
    sizes = sizes_of(data)
    train, validation = fill(split.train, sizes, data.spans), fill(split.validation, sizes, 1)
    for number, size in enumerate(sizes):
        if not train.spans[size] and (data.buckets or not len(train)):
            key = f"data.buckets.{number}" if data.buckets else "data"
            whys = [*train.dropped, *split.train.skips.values(), *split.skips]
            first = f"; the first left out: {whys[0].where}: {whys[0].why}" if whys else ""
            raise ValueError(f"{key}: no clip of {data.source} fills {size}{first}")
    return Survey(split, train, validation)


def open_clips(config: Run, codec: VideoCodec) -> tuple[Latents | LiveClips, Latents]:
    """The clips to train on, as `data.encode` says, and those kept out, encoded where they are not there yet."""
    found = survey(config)
    if config.data.encode == "each_step":
        _, validation = _encoded(config, codec, replace(found, train=Buckets({}, [])))
        train = found.split.train
        train.source.recall()  # what was found bad meanwhile is left out, as it will be when the run goes on
        return LiveClips(train, fill(train, sizes_of(config.data), config.data.spans)), validation
    return _encoded(config, codec, found)


def _encoded(config: Run, codec: VideoCodec, found: Survey) -> tuple[Latents, Latents]:
    if fetched := [*found.split.train.source.fetch(), *found.split.validation.source.fetch()]:
        with PartialState().main_process_first():
            found.split.files.hash(fetched, "hashing files")
    precision = PRECISIONS[config.data.encode_precision]
    tell_of_bfloat16("data.encode_precision", config.data.encode_precision, PartialState().device)
    codec.vae.to(PartialState().device)
    parts = ((found.split.train, found.train), (found.split.validation, found.validation))
    for _ in range(2):  # a bad file met in the second part may hold clips of the first; all else is there by then
        encoded = [
            encode_clips(
                *(clips, buckets, codec, latents_folder(config), precision),
                images=config.data.image_share > 0,
                conditions=conditions_of(config, codec.strides),
            )
            for clips, buckets in parts
        ]
    found.split.files.reader.close()
    codec.vae.to("cpu")
    if PartialState().is_main_process:
        for skip in left_out(found):
            log.warning("left out %s: %s", skip.where, skip.why)
    return encoded[0], encoded[1]


@torch.no_grad()
def encode(config: Run, codec: VideoCodec, pixels: Tensor) -> Tensor:
    """Normalized latents b c f h w, float32, of pixels b 3 f h w in [-1, 1], on their device."""
    codec.vae.to(pixels.device)
    precision = PRECISIONS[config.data.encode_precision]
    with torch.autocast(pixels.device.type, precision, enabled=precision is not None):
        return codec.encode(pixels).float()


def left_out(found: Survey) -> list[Skip]:
    """What is not trained or measured on, and why."""
    parts = ((found.split.train, found.train), (found.split.validation, found.validation))
    return [*found.split.skips, *(skip for clips, b in parts for skip in (*clips.skips.values(), *b.dropped))]


def tell(transformer: Any, config: Run, strides: Strides) -> None:
    """Has a transformer told what `model.conditions` says, silently at first.

    ValueError: it cannot be, or it is told something already that is not there.
    """
    conditions, source = conditions_of(config, strides), config.train.start_from or "model"
    if not isinstance(transformer, VideoDiT):
        if conditions:
            raise ValueError(f"{source}: a {type(transformer).__name__}, of which model.conditions are not")
        return
    if left := [one.name for one in transformer.own_conditions if one.name not in config.model.conditions]:
        raise ValueError(f"{source}: a transformer that is told {left[0]!r}: name it in model.conditions")
    known = [one.name for one in transformer.own_conditions]
    if config.train.lora and (new := [one.name for one in conditions if one.name not in known]):
        raise ValueError(
            f"model.conditions.{new[0]}: begins silent, and train.lora trains no more than adapters: train without, or "
            f"start from a model that is told it"
        )
    try:
        transformer.add_conditions(conditions)
    except ValueError as error:
        raise ValueError(f"model.conditions: {source}: {error}") from error


def captions_of(*caches: Latents | LiveClips) -> list[str]:
    """Every wording of the samples."""
    return [c for cache in caches for s in cache.samples for c in (*s.captions, *s.image_captions)]


def encode_text_of(config: Run, text: Encoder, captions: list[str]) -> TextCache:
    """The states of all captions and of the empty one, encoded where they are not there yet."""
    text.to(PartialState().device)
    encoded = TextCache(latents_folder(config), text, [*captions, ""])
    text.to("cpu")
    return encoded


def learned_of(
    config: Run, text: Encoder, encoded: TextCache | None, clips: Latents | LiveClips, saved: Path | None = None
) -> LearnedCaptions | None:
    """What the model will have been shown; None where its text encoder is trained, or is a family's.

    saved: the checkpoint that it goes on from, of other data; None: what it starts from says what it was shown before.
    """
    if encoded is None or not isinstance(text, TextEncoder):
        return None
    place = saved or (named_folder(config.train.start_from) if config.train.start_from else None)
    before = saved_captions(place) if place else None
    if before is not None and not before.is_of(text):
        before = None
    more = place is not None and (before is None or before.config["words"] is None)
    return LearnedCaptions.of(captions_of(clips), encoded, before, more=more)


def is_frozen(config: Run) -> bool:
    """Whether the text encoder is not trained, so that captions are encoded once."""
    started = config.train.start_from
    of_family = bool(started) and text_pipeline(named_folder(started or "")) is not None
    return bool(config.text.source or config.train.lora or config.train.distill) or of_family


def legs_ahead(run: Run) -> Iterator[Run]:
    """The legs of a run before any of them has been trained: all start from what the first starts from, and a teacher
    that an earlier one is to become is that too ("": a model of this run's own shape)."""
    ahead: list[str] = []
    for leg in run.legs():
        changes: dict[str, Any] = {"start_from": run.train.start_from}
        if leg.train.distill and leg.train.distill.teacher in ahead:
            changes["distill"] = leg.train.distill.model_copy(update={"teacher": run.train.start_from or ""})
        ahead.append(f"{leg.output}/pipeline")
        yield leg.model_copy(update={"train": leg.train.model_copy(update=changes)})


def latents_folder(config: Run) -> Path:
    """Where a run keeps what it encoded, and what it knows of files; runs may share it."""
    return Path(config.latents) if config.latents else Path(config.output) / "latents"


def own_scheduler(config: Run) -> Any:
    """The scheduler of the pipeline that a run starts from, with which an image model was made, and is sampled; None of
    a model alone, whose maker knows the objective.

    Raises:
        ValueError: it is for predictions of another type than `objective.prediction_type`.
    """
    folder = named_folder(config.train.start_from or "")
    try:
        index: Any = DiffusionPipeline.load_config(folder)
    except OSError:
        log.warning("%s: a model alone, so it is noised and sampled as objective: says", folder)
        return None
    with named(folder, "scheduler"):
        scheduler = getattr(diffusers, index["scheduler"][1]).from_pretrained(folder, subfolder="scheduler")
    try:
        check_scheduler(scheduler, config.objective.prediction_type)
    except ValueError as error:
        raise ValueError(f"objective.prediction_type: {error}") from error
    return scheduler


def defaults_of(start_from: str | None) -> dict[str, Any]:
    """Steps and scale of guidance of the pipeline that a run starts from, by which what is trained is sampled too."""
    if not start_from:
        return {}
    try:
        index: Any = DiffusionPipeline.load_config(named_folder(start_from))
    except OSError:  # a transformer alone
        return {}
    names = ("default_num_inference_steps", "default_guidance_scale")
    return {name: index[name] for name in names if index.get(name) is not None}


def path_of(scheduler: Any) -> paths.Path:
    """The noising path that a scheduler walks back."""
    return paths.FlowPath() if is_flow(scheduler) else paths.DiffusionPath.from_scheduler(scheduler)


def build_path(config: Run) -> tuple[paths.Path, Any]:
    """The noising path of an objective, and the scheduler that samples from it."""
    objective = config.objective
    if objective.prediction_type == "flow":
        for key in ("learned_range", "min_snr_gamma"):
            if getattr(objective, key):
                raise ValueError(f"objective.{key} is not defined for flow; leave it out, or choose epsilon")
        kind = FlowMapEulerDiscreteScheduler if config.train.distill else FlowMatchEulerDiscreteScheduler
        return paths.FlowPath(), kind(shift=objective.shift)
    if config.train.distill:
        raise ValueError(f"train.distill is of flow, and objective.prediction_type is {objective.prediction_type}")
    scheduler = DDIMScheduler(
        prediction_type=objective.prediction_type,
        clip_sample=False,
        timestep_spacing="trailing",
        rescale_betas_zero_snr=objective.prediction_type != "epsilon",
    )
    return paths.DiffusionPath.from_scheduler(scheduler), scheduler
