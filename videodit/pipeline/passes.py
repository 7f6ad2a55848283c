"""One step's prediction: the passes of guidance, through the model as one batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import signature
from typing import Any

import torch
from diffusers import DDPMScheduler
from diffusers.hooks.group_offloading import _is_group_offload_enabled
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from videodit.caching import predict
from videodit.conditions import Told, asked
from videodit.diffusion.guidance import classifier_free_guidance, two_scale_guidance
from videodit.given import Given


def guided_prediction(
    model: Any,
    scheduler: Any,
    latents: Tensor,
    t: Tensor,
    told_of: Callable[[tuple[int, ...]], Told],
    guidance: tuple[float, float, float],
    given: Given | None,
    noise: Tensor,
    where: dict[str, Any],
    skip: tuple[Sequence[int], float] = ((), 0.0),
    until: Tensor | float = 0.0,
    left_out: Sequence[int] = (),
) -> Tensor:
    """The model's guided prediction; all passes of guidance go through the model as one batch.

    told_of: what the model is told of the clips (rows 0 to b - 1 with the prompt, from b on without).
    guidance: the scale of the prompt, that of the given frames, and rescale.
    skip: numbers of blocks without which the model is worse, and how far to go away from what it then says.
    until: the time at which this step ends, which a flow map is told.
    left_out: numbers of blocks that no pass runs.
    """
    scale, image_scale, rescale = guidance
    shown, count = passes_of(scale, image_scale), len(latents)
    with_it, without = tuple(range(count)), tuple(range(count, 2 * count))
    told = told_of(with_it + without * (len(shown) - 1))
    inputs = [latents] * len(shown)
    if given is not None and not all(shown):
        inputs[-1] = given.under_noise(latents, scheduler, noise, t)
    if hasattr(scheduler, "scale_model_input"):
        inputs = [scheduler.scale_model_input(one, t) for one in inputs]
    if given is not None:
        inputs = [given.put_into(one) if seen else one for one, seen in zip(inputs, shown, strict=True)]
        told = told.also(frame_mask=torch.cat([given.mask & seen for seen in shown]))
    scaled = torch.cat(inputs)
    times = t.to(latents.device).float().expand(len(scaled))
    if asked(model, "until") is not None:
        told = told.also(until=torch.as_tensor(until, device=latents.device).float().expand(len(scaled)))
    prediction = predict(model, count, where, scaled, times, told, left_out).float()
    halved = prediction.shape[1] == 2 * latents.shape[1] and not _takes_variance(scheduler)
    prediction = prediction.chunk(2, dim=1)[0] if halved else prediction
    first, *others = prediction.chunk(len(shown))
    if len(others) == 2:
        guided = two_scale_guidance(first, others[0], others[1], scale, image_scale, rescale)
    else:
        guided = classifier_free_guidance(first, others[0], scale, rescale) if others else first
    layers, away = skip
    if not layers or not away:
        return guided
    own = told.rows(slice(count)).kwargs(model)
    worse = model(scaled[:count], times[:count], **own, skip_layers=[*layers, *left_out], return_dict=False)[0].float()
    return guided + away * (first - (worse.chunk(2, dim=1)[0] if halved else worse))


def remember(model: Any, latents: Tensor, told_of: Callable[[tuple[int, ...]], Told], guided: bool) -> None:
    """Has a model that holds a past (`models.linear`) hold these too: clean latents b c f h w of the clips, told as in
    `guided_prediction`, with the prompt and, where there was guidance, without."""
    if getattr(model, "past", None) is None:
        return
    inputs = torch.cat([latents] * (1 + guided))
    told, times = told_of(tuple(range(len(inputs)))), torch.zeros(len(inputs), device=latents.device)
    if asked(model, "until") is not None:
        told = told.also(until=times)
    with model.past.held():
        model(inputs, times, **told.kwargs(model), return_dict=False)


def check_skipped(model: Any, layers: Sequence[int], steps: Sequence[int]) -> None:
    """ValueError for blocks that a model cannot do without for a pass of guidance, in these steps; says why."""
    _check_blocks("skip_guidance_layers", model, layers)
    if not steps:
        raise ValueError(
            "skip_guidance_layers: no step lies between skip_layer_guidance_start and skip_layer_guidance_stop, shares "
            "of the steps; move them apart, or make more steps"
        )


def check_left_out(model: Any, skipped: Sequence[tuple[float, float, Sequence[int]]]) -> None:
    """ValueError for blocks that cannot be left out by noise level; says why."""
    for low, high, layers in skipped:
        if not 0 <= low < high <= 1:
            raise ValueError(f"skipped_blocks: {low} to {high} are no noise levels, from 0 to 1")
        _check_blocks("skipped_blocks", model, layers)
        if len(set(layers)) == len(model.blocks):
            raise ValueError(f"skipped_blocks: from {low} to {high} no block would be run; leave one")


def _check_blocks(what: str, model: Any, layers: Sequence[int]) -> None:
    if "skip_layers" not in signature(model.forward).parameters:
        raise ValueError(f"{what} is of a VideoDiT, and this model is a {type(model).__name__}")
    if wrong := [layer for layer in layers if not 0 <= layer < len(model.blocks)]:
        raise ValueError(f"{what}: {wrong[0]} is no block of this model: 0 to {len(model.blocks) - 1}")
    if model.is_cache_enabled:
        raise ValueError(f"{what} does not go with a feature cache: take one of them out")


def passes_of(scale: float, image_scale: float) -> list[bool]:
    """Of each pass of guidance whether it is shown the given frames: the first has the prompt too, the second has not,
    the third has neither; those that cannot matter are left out."""
    return [True] + [True] * (scale != image_scale) + [False] * (image_scale != 1)


def with_text_memory(model: Any, told: Told) -> Told:
    """What a model is told, with its memory of the text in place of the text.

    The text stays where a block's weights are there for that block's call alone: under diffusers' group offloading,
    under FSDP, and where they wait elsewhere in training.
    """
    apart = isinstance(model, FSDPModule) or _is_group_offload_enabled(model)
    apart = apart or len({weight.device for weight in model.parameters()}) > 1
    if "prompt_embeds" not in told.tensors or apart:
        return told
    text, mask = told.tensors["prompt_embeds"], told.tensors.get("prompt_attention_mask")
    memory = model.text_memory(text, mask, attention_kwargs=told.attention_kwargs)
    if memory is None:
        return told
    return told.also(text_memory=memory, prompt_embeds=None, prompt_attention_mask=None)


def _takes_variance(scheduler: Any) -> bool:
    """Whether the scheduler wants the second half of a learned range; most leave it to training."""
    learned = getattr(scheduler.config, "variance_type", None) in ("learned", "learned_range")
    return learned and isinstance(scheduler, DDPMScheduler)
