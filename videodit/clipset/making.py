"""Making what is asked for: each clip once, with its settings in it and beside it."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diffusers.models.attention_dispatch import _AttentionBackendRegistry

from videodit.attention_maps import (
    ATTENTION,
    WordMap,
    check_replaceable,
    check_watchable,
    maps_of,
    watching,
    write_overlays,
)
from videodit.caching import set_cache
from videodit.clipset.decoding import Preview, Watch, decoded
from videodit.clipset.files import conditions_of, frames_of, sound_of
from videodit.clipset.outputs import check_outputs, clear_left, is_made
from videodit.clipset.requests import FILES, Request
from videodit.clipset.texts import Texts, embeds_of, encode_texts, prompts_of
from videodit.conditions import asked
from videodit.config.kinds import Guidance, Positive, Share, Steps, check, usable_backend
from videodit.diffusion.schedulers import scheduler_named
from videodit.disk import replace_text
from videodit.geometry import ClipSize
from videodit.long import long_clip
from videodit.memory import check_decode, free_text_encoder
from videodit.pipeline import VideoDiTPipeline
from videodit.text import Word
from videodit.video import check_writable, write_video
from videodit.video.index import checked
from videodit.weights import state_hash

if TYPE_CHECKING:
    from videodit.clipset.upscaling import SecondStage

# of the pipeline's call, and passed on to it where they are said
SKIPPING = (
    "skip_guidance_layers",
    "skip_layer_guidance_scale",
    "skip_layer_guidance_start",
    "skip_layer_guidance_stop",
)


@dataclass(frozen=True)
class Sampling:
    """How clips are made, as `VideoDiTPipeline` takes it; `scheduler` is a name of diffusers. None: the model's own.

    ValueError names what is of another kind or out of range.
    """

    steps: Steps | None = None
    guidance_scale: Guidance | None = None
    guidance_rescale: Share = 0.0
    guidance_interval: tuple[Share, Share] = (0.0, 1.0)
    image_guidance_scale: Guidance = 1.0
    skip_guidance_layers: list[int] | None = None
    skip_layer_guidance_scale: Guidance | None = None
    skip_layer_guidance_start: Share | None = None
    skip_layer_guidance_stop: Share | None = None
    skipped_blocks: list | None = None  # by noise level; none: []
    tile_size: Positive | None = None
    true_cfg_scale: Guidance | None = None  # of a model that is told guidance_scale itself
    conditions: list[str] | None = None  # of one's own, "name=file" or "name=numbers"
    condition_scale: dict[str, float] | None = None  # of those that a branch reads
    scheduler: str | None = None
    cache: str | None = None  # of features: a name of `caching.CACHES`, with or without a number
    dtype: str | None = None  # this and what follows: what was done to the pipeline, for the clips' settings
    compile: bool | None = None
    layerwise_casting: bool | None = None
    quantize: str | None = None
    vae_tiling: bool | None = None
    lora: list[str] | None = None  # adapters, each with its weight behind "="
    text_states: str | None = None  # the encoder they are of, where they come from a file

    def __post_init__(self) -> None:
        check(self)
        if self.guidance_interval[0] > self.guidance_interval[1]:
            raise ValueError(f"guidance_interval={self.guidance_interval} must be two rising shares of the steps")
        if not self.skip_guidance_layers:
            for name in SKIPPING[1:]:
                if getattr(self, name) is not None:
                    raise ValueError(
                        f"{name} is of skip_guidance_layers, and none are named: name some, or leave it out"
                    )

    def resolved(self, pipe: VideoDiTPipeline) -> Sampling:
        """With the model's own steps and guidance where none are said."""
        return replace(
            self,
            steps=pipe.config.default_num_inference_steps if self.steps is None else self.steps,
            guidance_scale=pipe.config.default_guidance_scale if self.guidance_scale is None else self.guidance_scale,
            skipped_blocks=pipe.config.default_skipped_blocks if self.skipped_blocks is None else self.skipped_blocks,
        )


def make_clips(
    pipe: VideoDiTPipeline,
    requests: Sequence[Request],
    paths: Sequence[Path],
    sampling: Sampling | None = None,
    *,
    model: str,
    model_digest: str | None = None,
    texts: Texts | None = None,
    keeps_text_encoder: bool = True,
    batch_size: int = 8,
    preview: int | None = None,
    attention: bool = False,
    watch: Watch | None = None,
    upscale: SecondStage | None = None,
    inputs: Sequence[str | Path] = (),
    overwrite: bool = False,
    renew: bool = False,
    writes: bool = True,
) -> Iterator[Path]:
    """Makes a clip a request, each from its own seed, and writes it; gives the paths as clips are there.

    Args:
        paths: a file a clip; their endings choose the format (`video.write_video`).
        sampling: how; None: as `Sampling` has it.
        model: what the settings say it was made by.
        model_digest: `weights_digest`, taken before the weights were offloaded; None: as they are now.
        texts: states of all prompts (`texts.read_texts`); None: they are encoded first.
        keeps_text_encoder: False lets go of it once they are, and the pipeline with none.
        batch_size: clips of one size made together.
        preview: after how many steps each a clip that is being made is shown beside its file (`Preview`); None: never.
        attention: maps of its words beside each clip (`attention_maps.write_overlays`), in a folder of its name
            that ends with `.attention`; a clip that is there without them is made again.
        watch: told after each step how many are made of how many, of the clips that are being made (for a long clip: of
            the window); what it raises ends the making, and nothing is left of a clip that was not ready.
        upscale: makes each clip larger before it is written; None: they stay as they are made.
        inputs: files that must stay as they are, beside those that the requests name.
        overwrite: make again what is there with other settings, or was not made here, instead of an error.
        renew: make again what is there and was made here.
        writes: False for all but one of several processes that make each clip together (`set_sequence_group`).

    Raises:
        ValueError: an option is out of range, or, before anything is made, two requests share a file, one would be
            written over a file that is read, or a file is there that was made with other settings, or not here.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1")
    if preview is not None and preview < 1:
        raise ValueError(f"preview={preview} must be at least 1 step")
    for backend in _backends(pipe.transformer):
        usable_backend(backend)
    sampling = (sampling or Sampling()).resolved(pipe)
    between = asked(pipe.transformer, "guidance") is None or (sampling.true_cfg_scale or 1.0) != 1.0
    if lost := [one.negative_prompt for one in requests if one.negative_prompt and not between]:
        may = "set true_cfg_scale above 1, or " if asked(pipe.transformer, "until") is None else ""
        raise ValueError(f"negative_prompt has no effect at true_cfg_scale=1: {may}leave {lost[0]!r} out")
    if sampling.scheduler is not None:
        pipe.scheduler = scheduler_named(sampling.scheduler, pipe.scheduler)
    made_by = {
        **asdict(sampling),
        "guidance_interval": list(sampling.guidance_interval),
        "scheduler": type(pipe.scheduler).__name__,
        "model": model,
        "model_digest": model_digest or weights_digest(pipe),
    }
    made_by = {name: value for name, value in made_by.items() if value is not None}
    told = [one.partition("=")[2] for one in sampling.conditions or ()]
    if any(digests := [_digest(Path(one)) if Path(one).is_file() else None for one in told]):
        made_by["conditions_digest"] = digests
    made_by |= upscale.settings if upscale else {}
    if attention and sampling.tile_size:
        raise ValueError("attention maps are of whole pictures, and tile_size cuts them: take one of them out")
    set_cache(pipe, sampling.cache)
    folders = _attention_folders(pipe, requests, paths, texts) if attention else []
    settings = [_settings(pipe, request) | made_by for request in requests]
    check_outputs(paths, settings, [*inputs, *(one[name] for one in settings for name in FILES if name in one)])
    if upscale is not None:
        for one in settings:
            upscale.check(one)
    missing = [not is_made(*each, overwrite=overwrite, renew=renew) for each in zip(paths, settings, strict=True)]
    missing = [one or not folder.exists() for one, folder in zip(missing, folders, strict=True)] if folders else missing
    for path, wanted, one in zip(paths, missing, settings, strict=True):
        if wanted and writes:
            check_writable(path)
        elif writes and not path.with_suffix(".json").exists():  # the run before ended between a clip and its settings
            _write_settings(path, one)
    if writes:
        clear_left(paths, settings)
    batches = _batches(settings, missing, batch_size)
    if texts is None:
        todo = [requests[i] for batch in batches for i in batch]
        texts = encode_texts(pipe.text, *prompts_of(todo)) if todo else Texts({}, {})
    encoder: Any = pipe.text if attention else None
    words = {one.prompt: encoder.words(encoder.read(one.prompt).prompt) for one in requests} if attention else None
    if not keeps_text_encoder:
        free_text_encoder(pipe)
    done = 0
    for batch in batches:
        every = preview if writes else None
        look = Preview(every, [paths[i] for i in batch], watch) if every is not None or watch is not None else None
        lacking = [i for i in batch if missing[i]]
        clips = _sample(pipe, [settings[i] for i in lacking], texts, look, [settings[i] for i in batch], words)
        for index, (frames, maps) in zip(lacking, clips, strict=True):
            frames = upscale(frames, settings[index]) if upscale and writes else frames
            if writes:
                _write(paths[index], frames, settings[index], sound_of(pipe, settings[index], paths[index]), maps)
            else:
                deque(frames, maxlen=0)  # they are made as they are asked for
        yield from paths[done : batch[-1] + 1]
        done = batch[-1] + 1
    yield from paths[done:]


def weights_digest(pipe: VideoDiTPipeline) -> str:
    """Of the weights that make a clip of a text's states, quantized ones as the numbers that they stand for."""
    parts = {name: getattr(pipe, name, None) for name in ("transformer", "transformer_2", "vae")}
    weights = {
        f"{name}.{k}": w for name, part in parts.items() if part is not None for k, w in part.state_dict().items()
    }
    return state_hash({k: w if type(w) is torch.Tensor else w.dequantize() for k, w in weights.items()})


def _backends(model: torch.nn.Module) -> set[str]:
    """The attention backends that its modules run, or, where they name none, that of the process."""
    named = [getattr(getattr(module, "processor", None), "_attention_backend", None) for module in model.modules()]
    active, _ = _AttentionBackendRegistry.get_active_backend()
    return {str(getattr(name, "value", name)) for name in {*named, active} if name is not None}


def _settings(pipe: VideoDiTPipeline, request: Request) -> dict[str, Any]:
    size = pipe.default_size
    own = {"num_frames": size.num_frames, "height": size.height, "width": size.width, "fps": size.fps}
    asked = {field.name: getattr(request, field.name) for field in fields(Request)}
    files = {f"{name}_digest": _digest(checked(asked[name])) for name in FILES if asked[name] is not None}
    if request.video is not None and request.strength is None:
        own["given_frames"] = 1
    if request.last_video is not None:
        own["last_given_frames"] = pipe.codec.strides.time
    sized = {name: value for name, value in own.items() if asked[name] is None}
    return {name: value for name, value in (asked | sized | files).items() if value is not None}


def _digest(file: Path) -> str:
    """Of what is in a file; of no device, which would never end."""
    try:
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()[:12]
    except OSError as error:
        raise ValueError(f"{file}: cannot be read ({error.strerror})") from error


def _batches(settings: Sequence[Mapping[str, Any]], missing: Sequence[bool], size: int) -> list[list[int]]:
    """Numbers of clips to make together, where one of them is missing: neighbours of one size; long ones alone.

    Which ones are together does not depend on what is there: sums of floats are rounded otherwise in another batch, and
    a set that was stopped ends in the same files as one that was not.
    """
    batches: list[list[int]] = []
    for index, one in enumerate(settings):
        batch = batches[-1] if batches else []
        if not batch or _windowed(one) or len(batch) == size or _size(one) != _size(settings[batch[0]]):
            batches.append([])
        batches[-1].append(index)
    return [batch for batch in batches if any(missing[i] for i in batch)]


def _size(settings: Mapping[str, Any]) -> tuple[Any, ...]:
    """What clips that are made together have in common."""
    numbers = ("num_frames", "height", "width", "fps", "strength", "given_frames", "last_given_frames")
    return *(name in settings for name in FILES), *map(settings.get, numbers), _windowed(settings)


def _windowed(settings: Mapping[str, Any]) -> bool:
    return "overlap" in settings or "loop" in settings


def _sample(
    pipe: VideoDiTPipeline,
    settings: Sequence[Mapping[str, Any]],
    texts: Texts,
    look: Preview | None,
    batch: Sequence[Mapping[str, Any]],
    words: Mapping[str, Sequence[Word]] | None = None,
) -> Iterator[tuple[np.ndarray | Iterator[np.ndarray], list[WordMap]]]:
    """The frames of each clip, as they are made among their whole batch, and the maps of its prompt's `words`."""
    one = settings[0]
    options: dict[str, Any] = {
        **embeds_of(texts, *([each[name] for each in batch] for name in ("prompt", "negative_prompt"))),
        "true_cfg_scale": one.get("true_cfg_scale", 1.0),
        "height": one["height"],
        "width": one["width"],
        "fps": one["fps"],
        "num_inference_steps": one["steps"],
        "guidance_scale": one["guidance_scale"],
        "guidance_rescale": one["guidance_rescale"],
        "guidance_interval": tuple(one["guidance_interval"]),
        "image_guidance_scale": one["image_guidance_scale"],
        **{name: one[name] for name in (*SKIPPING, "skipped_blocks", "tile_size", "condition_scale") if name in one},
        "conditions": conditions_of(pipe, one),
        "callback_on_step_end": look,
        **{name: [frames_of(name, each) for each in batch] for name in FILES if name in one},
    }
    if _windowed(one):
        how = {name: one.get(name) for name in ("overlap", "window")}
        alone = options | {name: options[name][0] for name in FILES if name in one}
        yield long_clip(pipe, None, one["num_frames"], loop="loop" in one, seed=one["seed"], **how, **alone), []
        return
    ends = "last_image" in one or "last_video" in one  # which the pipeline puts to the decoded frames
    if not ends:
        size = ClipSize(one["num_frames"], one["height"], one["width"], one["fps"])
        check_decode(pipe.codec, (1, *size.latent(pipe.codec.strides, pipe.transformer.patch_size)), whole=False)
    with nullcontext() if words is None else watching(pipe, len(batch)) as watched:
        output: Any = pipe(
            num_frames=one["num_frames"],
            strength=one.get("strength"),
            generator=[torch.Generator().manual_seed(each["seed"]) for each in batch],
            output_type="np" if ends else "latent",
            **options,
        )
    maps: list[list[WordMap]] = [[]] * len(batch)
    if words is not None and watched is not None:
        said = [words[each["prompt"]] for each in batch]
        maps = maps_of(watched, said, one["num_frames"], pipe.strides, pipe.transformer.patch_size)
    wanted = set(map(id, settings))
    for each, clip, own in zip(batch, output.frames, maps, strict=True):
        if id(each) in wanted:
            yield np.rint(clip * 255).astype(np.uint8) if ends else decoded(pipe.codec, clip), own


def _attention_folders(
    pipe: VideoDiTPipeline, requests: Sequence[Request], paths: Sequence[Path], texts: Texts | None
) -> list[Path]:
    """Where maps of each clip's words go. ValueError where there can be none, or something else is there."""
    check_watchable(pipe)
    if texts is not None:
        raise ValueError("attention maps are of words, and these texts are states: leave --text-states out")
    if any(one.windowed for one in requests):
        raise ValueError("attention maps are of one walk, and a long clip or a loop is made in windows: leave them out")
    folders = [path.with_suffix(ATTENTION) for path in paths]
    for folder in folders:
        check_replaceable(folder)
    return folders


def _write(
    path: Path,
    frames: np.ndarray | Iterator[np.ndarray],
    settings: Mapping[str, Any],
    sound: str | None,
    maps: Sequence[WordMap] = (),
) -> None:
    if maps:
        frames = np.stack(list(frames))
        write_overlays(path.with_suffix(ATTENTION), frames, maps, settings["fps"])
    metadata = {"comment": json.dumps(settings), "title": settings["prompt"]}
    path.with_suffix(".json").unlink(missing_ok=True)  # the clip is made when its settings stand beside it
    write_video(path, frames, settings["fps"], metadata=metadata, sound=sound)
    _write_settings(path, settings)


def _write_settings(path: Path, settings: Mapping[str, Any]) -> None:
    replace_text(path.with_suffix(".json"), json.dumps(settings, indent=1) + "\n")
