"""diffusers' feature caches on `VideoDiT`: steps that reuse what an earlier step computed.

| cache | what is reused | its number |
|---|---|---|
| `first-block` | all blocks but the first, while its residual changes little (ParaAttention) | relative change |
| `pyramid-attention` | attention (Zhao et al. 2024, arXiv 2408.12588) | steps an attention along space |
| `taylorseer` | the whole model, as a Taylor series in the step (Liu et al. 2025, 2503.06923) | steps a full one |
| `sea` | all blocks, while the filtered latent changes little (arXiv 2602.18993); flow models | accumulated change |

What a cache holds is one call's: it begins anew with each call of the pipeline, and where a pass of guidance begins to
be left out or to be run. `first-block` and `sea` decide by content; there the model runs for each clip by itself, so
that none decides for its neighbours. diffusers' others are not offered: FasterCache takes the pass without the prompt
first and in every step, MagCache needs ratios measured for each model and number of steps, TextKVCache is for another
model.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from diffusers.hooks import (
    FirstBlockCacheConfig,
    PyramidAttentionBroadcastConfig,
    SeaCacheConfig,
    TaylorSeerCacheConfig,
)
from einops import rearrange
from torch import Tensor

from videodit.diffusion.schedulers import is_flow

CACHES = {"first-block": 0.1, "pyramid-attention": 2, "taylorseer": 3, "sea": 0.25}
BY_CONTENT = (FirstBlockCacheConfig, SeaCacheConfig)


def named_cache(text: str) -> tuple[str, float]:
    """(name, number) of `NAME` or `NAME=NUMBER`; a number that is not there is that of `CACHES`.

    Raises:
        ValueError: no such cache, or a number that is none of its kind.
    """
    name, _, number = text.partition("=")
    if name not in CACHES:
        raise ValueError(f"cache {name!r} is none of {', '.join(CACHES)}; write NAME or NAME=NUMBER")
    counts = isinstance(CACHES[name], int)
    try:
        value = float(number) if number else CACHES[name]
        if not 0 <= value < float("inf") or (counts and (value < 2 or value != int(value))):
            raise ValueError
    except ValueError:
        kind = "a whole number of steps, 2 or more" if counts else "a number, 0 or more"
        raise ValueError(f"cache {text!r}: {number} must be {kind}") from None
    return name, value


def set_cache(pipe: Any, cache: str | None) -> None:
    """Puts a pipeline's model under a cache, as `named_cache` reads it, in place of what it had; None: under none.

    Raises:
        ValueError: as `named_cache`, or `sea` for a model that is no flow model.
    """
    named = None if cache is None else named_cache(cache)
    for model in filter(None, (pipe.transformer, getattr(pipe, "transformer_2", None))):
        config = named and _config(pipe, *named)
        if model.is_cache_enabled:
            model.disable_cache()
        if config is not None:
            model.enable_cache(config)


def _config(pipe: Any, name: str, value: float) -> Any:
    if name == "first-block":
        return FirstBlockCacheConfig(threshold=value)
    if name == "sea":
        if not is_flow(pipe.scheduler):
            raise ValueError(f"cache sea is for flow models, not for {type(pipe.scheduler).__name__}; take another")
        return SeaCacheConfig(threshold=value, raw_vision_callback=lambda model, args, kwargs: list(args[0]))
    if name == "taylorseer":
        return TaylorSeerCacheConfig(cache_interval=int(value), taylor_factors_dtype=torch.float32, use_lite_mode=True)
    along_time = [getattr(block, "axis", "space") == "time" for block in pipe.transformer.units]
    places = [
        tuple(rf"^blocks\.{i}\." for i, time in enumerate(along_time) if time is wanted) for wanted in (False, True)
    ]

    def left() -> float:
        """Of the walk, in thousandths, so that ranges are of steps: a shifted schedule is nearly all above t = 800."""
        return 1000 * float((pipe.scheduler.timesteps <= pipe.current_timestep).float().mean())

    return PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=int(value),
        temporal_attention_block_skip_range=int(value) + 1,
        cross_attention_block_skip_range=int(value) + 2,
        spatial_attention_timestep_skip_range=(100, 900),
        temporal_attention_timestep_skip_range=(100, 900),
        cross_attention_timestep_skip_range=(100, 900),
        spatial_attention_block_identifiers=places[0],
        temporal_attention_block_identifiers=places[1],
        current_timestep_callback=left,
    )


def forget(model: Any) -> None:
    """What the model's cache holds, if it has one, is of another walk."""
    if model.is_cache_enabled:
        model._reset_stateful_cache()


def check_cache(model: Any, latent_frames: int) -> None:
    """ValueError where a cache that closes at the last block is asked for an image, which may skip that one, or leaves
    blocks out of which others see the states."""
    if getattr(model.config, "skips", None) and model.is_cache_enabled and isinstance(model._cache_config, BY_CONTENT):
        raise ValueError("this cache leaves blocks out, and this model has long skips (skips): take taylorseer")
    ends = [getattr(model.units[place], "axis", "") for place in (0, -1)]
    skips = latent_frames == 1 and "time" in ends
    if skips and model.is_cache_enabled and isinstance(model._cache_config, BY_CONTENT):
        name = type(model._cache_config).__name__.removesuffix("Config")
        raise ValueError(
            f"{name} watches the {'last' if ends[-1] == 'time' else 'first'} block, which an image skips: take "
            f"taylorseer for images, or no cache"
        )


def predict(
    model: Any,
    clips: int,
    where: dict[str, Any],
    latents: Tensor,
    times: Tensor,
    told: Any,
    left_out: Collection[int] = (),
) -> Tensor:
    """`model(latents, times)[0]`, told what a `conditions.Told` holds, under the model's cache.

    Args:
        clips: how many; the rows of all tensors are clips, once a pass.
        where: in the walk: what diffusers' `cache_context` takes.
        left_out: numbers of blocks that are not run; none under a cache.
    """
    if not model.is_cache_enabled:
        how = {"skip_layers": left_out} if left_out else {}
        return model(latents, times, **told.kwargs(model), **how, return_dict=False)[0]
    if not isinstance(model._cache_config, BY_CONTENT):
        with model.cache_context("clips", **where):
            return model(latents, times, **told.kwargs(model), return_dict=False)[0]
    predictions = []
    for clip in range(clips):
        rows = slice(clip, None, clips)
        with model.cache_context(f"clip {clip}", **where):
            own = told.rows(rows).kwargs(model)
            predictions.append(model(latents[rows], times[rows], **own, return_dict=False)[0])
    return rearrange(torch.stack(predictions), "b k c f h w -> (k b) c f h w")
