"""What a run learns from and towards, as its configuration names it: codec, encoded clips, captions, noising path."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

from videodit.codec import VideoCodec
from videodit.config import Run
from videodit.data.cache import LatentCache, TextCache, cache_key, encode_clips
from videodit.data.source import open_data
from videodit.diffusion import objectives
from videodit.pipeline import named_folder
from videodit.text import TextEncoder

log = logging.getLogger(__name__)

PRECISIONS = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def load_codec(config: Run) -> VideoCodec:
    """The VAE that a run encodes with: `codec`, or `<output>/vae` as `train_vae` leaves it."""
    folder = named_folder(config.codec) if config.codec else str(Path(config.output) / "vae")
    if config.codec is None and not Path(folder).is_dir():
        raise ValueError(
            f"{folder}: no VAE here; run tools/train_vae.py with this config, or set codec: to a saved VAE"
        )
    with named(folder, "VAE; run tools/train_vae.py with this config, or set codec: to a saved one"):
        return VideoCodec.from_pretrained(folder)


@contextmanager
def named(source: str, what: str) -> Iterator[None]:
    """Turns a loader's OSError, of many lines, into a ValueError of one: `source` holds no `what`."""
    try:
        yield
    except OSError as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{source}: no {what} ({reason})") from error


def load_text(config: Run) -> TextEncoder | None:
    """The saved text encoder that a run names, `text.source` or that of `train.start_from`; None: it builds its own."""
    folder = config.text.source or config.train.start_from
    if not folder:
        return None
    with named(folder, "text encoder"):
        return TextEncoder.from_pretrained(named_folder(folder), dtype=torch.float32)


def encode_clips_of(config: Run, codec: VideoCodec) -> tuple[LatentCache, LatentCache]:
    """Latents of the clips to train on and of those kept out, encoded where they are not there yet."""
    data, fingerprint = open_data(config.data, config.seed), codec.fingerprint()
    for skip in data.skips:
        log.warning("left out %s: %s", skip.where, skip.why)
    caches = []
    for part, clips, spans in (("train", data.train, config.data.spans), ("validation", data.validation, 1)):
        key = cache_key(config.data, config.seed, fingerprint, part)
        precision = PRECISIONS[config.data.encode_precision]
        with torch.autocast(codec.device.type, precision, enabled=precision is not None):
            cache = encode_clips(clips, codec, latents_folder(config) / f"{part}-{key[:8]}", key, spans)
        for where, why in cache.skips:
            log.warning("left out %s: %s", where, why)
        caches.append(cache)
    return caches[0], caches[1]


def captions_of(*caches: LatentCache) -> list[str]:
    """Every wording in the caches."""
    return [c for cache in caches for e in cache.entries for c in (*e.captions, *e.image_captions)]


def encode_text_of(config: Run, text: TextEncoder, captions: list[str]) -> TextCache:
    """The states of all captions and of the empty one, encoded where they are not there yet."""
    return TextCache(latents_folder(config) / "text.safetensors", text, [*captions, ""])


def latents_folder(config: Run) -> Path:
    """Where a run keeps what it encoded; each set of data and VAE has a folder of its own in it."""
    return Path(config.latents) if config.latents else Path(config.output) / "latents"


def build_path(config: Run) -> tuple[objectives.Path, Any]:
    """The noising path of an objective, and the scheduler that samples from it."""
    objective = config.objective
    if objective.prediction_type == "flow":
        for key in ("learned_range", "min_snr_gamma"):
            if getattr(objective, key):
                raise ValueError(f"objective.{key} is not defined for flow; leave it out, or choose epsilon")
        return objectives.FlowPath(), FlowMatchEulerDiscreteScheduler(shift=objective.shift)
    scheduler = DDIMScheduler(
        prediction_type=objective.prediction_type,
        clip_sample=False,
        timestep_spacing="trailing",
        rescale_betas_zero_snr=objective.prediction_type != "epsilon",
    )
    return objectives.DiffusionPath.from_scheduler(scheduler), scheduler
