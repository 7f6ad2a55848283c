"""diffusers' schedulers by name: the same noise path walked in other steps.

A scheduler fits a model when it walks the path that the model was trained on. For flow these are the flow-matching
ones, and those that can take flow's sigmas; for epsilon, v and x_0 those of the DDPM family. The new one keeps what
says which path it is (betas, prediction type, shift), and takes its own defaults otherwise.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import diffusers
import torch
from torch import Tensor

from videodit.diffusion.objectives import to_x0
from videodit.diffusion.paths import DiffusionPath, FlowPath

FLOW = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
FLOW_MAP = ("FlowMapEulerDiscreteScheduler", "FlowMatchEulerDiscreteScheduler")  # straight steps, one call each
FLOW_SIGMAS = ("UniPCMultistepScheduler", "DPMSolverMultistepScheduler", "DEISMultistepScheduler")
DIFFUSION = (
    "DDIMScheduler",
    "DDPMScheduler",
    "UniPCMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DEISMultistepScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
)


def is_flow(scheduler: Any) -> bool:
    """Whether a scheduler walks the straight path of flow matching."""
    straight = any(kind.__name__.startswith(("FlowMatch", "FlowMap")) for kind in type(scheduler).__mro__)
    return straight or bool(getattr(scheduler.config, "use_flow_sigmas", False))


def prediction_of(scheduler: Any) -> str | None:
    """What a scheduler takes a model's prediction for: "flow", or "epsilon", "v_prediction", "sample"; None: unsaid.

    One that has the sigmas of flow, and takes the prediction for another than flow, says that other.
    """
    kind = getattr(scheduler.config, "prediction_type", None)
    return "flow" if is_flow(scheduler) and kind in (None, "flow_prediction") else kind


def check_scheduler(scheduler: Any, prediction: str | None) -> None:
    """ValueError where a scheduler takes what the model predicts for another; names those that fit."""
    taken = prediction_of(scheduler)
    if prediction is None or taken is None or taken == prediction:
        return
    given = f"{type(scheduler).__name__} takes the model's prediction for {taken!r}, but this model predicts"
    if prediction == "flow":
        how = "prediction_type='flow_prediction', use_flow_sigmas=True"
        raise ValueError(f"{given} 'flow': take {' or '.join(FLOW)}, or {', '.join(FLOW_SIGMAS)} with {how}")
    raise ValueError(f"{given} {prediction!r}: make one with from_config(pipe.scheduler.config), as it was loaded")


def check_flow_map(scheduler: Any) -> None:
    """ValueError for a scheduler whose steps are not those that a flow map is the mean velocity of."""
    if type(scheduler).__name__ not in FLOW_MAP:
        raise ValueError(
            f"{type(scheduler).__name__} makes other steps than this model, a flow map, was trained for: take "
            f"{' or '.join(FLOW_MAP)}"
        )


def fitting(scheduler: Any) -> tuple[str, ...]:
    """Names of the schedulers that walk the same path."""
    return FLOW + FLOW_SIGMAS if is_flow(scheduler) else DIFFUSION


def scheduler_named(name: str, like: Any) -> Any:
    """The diffusers scheduler of this name for a model that `like` fits.

    Raises:
        ValueError: no such scheduler fits; names those that do.
    """
    if name == type(like).__name__:
        return like
    if name not in fitting(like):
        raise ValueError(f"scheduler {name!r} does not fit this model; these do: {', '.join(fitting(like))}")
    kind: Any = getattr(diffusers, name)
    if not is_flow(like):
        return kind.from_config(like.config)
    shift = like.config.get("shift", like.config.get("flow_shift", 1.0))
    steps = {"num_train_timesteps": like.config.num_train_timesteps}
    if name in FLOW:
        return kind(**steps, shift=shift)
    return kind(**steps, prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)


def shift_of_size(scheduler: Any, tokens: int) -> dict[str, float]:
    """What `set_timesteps` of a scheduler with dynamic shifting is told: mu, a straight line in the number of tokens.

    As Flux has it (diffusers' `calculate_shift`): from `base_shift` at `base_image_seq_len` to `max_shift` at
    `max_image_seq_len`. Nothing for other schedulers.
    """
    config = scheduler.config
    if not config.get("use_dynamic_shifting") or "mu" not in inspect.signature(scheduler.set_timesteps).parameters:
        return {}
    low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    slope = (config.get("max_shift", 1.15) - config.get("base_shift", 0.5)) / (high - low)
    return {"mu": slope * (tokens - low) + config.get("base_shift", 0.5)}


def steps_of_call(
    scheduler: Any,
    steps: int | None,
    timesteps: Sequence[float] | None,
    sigmas: Sequence[float] | None,
    default: int,
) -> int:
    """How many steps are made: as many as there are timesteps or sigmas, else what was asked for, or the default.

    Raises:
        ValueError: none, two of them, numbers that differ, or a scheduler that does not take them.
    """
    own = {name: list(one) for name, one in (("timesteps", timesteps), ("sigmas", sigmas)) if one is not None}
    if len(own) > 1:
        raise ValueError("timesteps and sigmas both say which steps are made: give one")
    for name, values in own.items():
        if name not in inspect.signature(scheduler.set_timesteps).parameters:
            raise ValueError(f"{name}: {type(scheduler).__name__} takes no {name} of one's own")
        if steps is not None and steps != len(values):
            raise ValueError(f"num_inference_steps={steps}, but {len(values)} {name}: give the {name} alone")
        steps = len(values)
    steps = default if steps is None else steps
    if steps < 1:
        raise ValueError(f"num_inference_steps={steps} must be at least 1")
    return steps


def set_times(
    scheduler: Any,
    steps: int,
    timesteps: Sequence[float] | None,
    sigmas: Sequence[float] | None,
    device: torch.device,
    tokens: int,
    usual: Sequence[float] | None = None,
    mu: float | None = None,
) -> None:
    """Sets a scheduler's timesteps for a call, as `steps_of_call` checked it.

    Args:
        tokens: by which times are shifted, where the scheduler shifts them by size. mu: the shift itself, in its place.
        usual: sigmas that the model is sampled with where the call names no steps and the scheduler takes some.
    """
    own = {name: list(one) for name, one in (("timesteps", timesteps), ("sigmas", sigmas)) if one is not None}
    if not own and usual is not None and "sigmas" in inspect.signature(scheduler.set_timesteps).parameters:
        own = {"sigmas": list(usual)}
    how: Any = own or {"num_inference_steps": steps}
    shift = shift_of_size(scheduler, tokens)
    if shift and mu is not None:
        shift = {"mu": mu}
    scheduler.set_timesteps(**how, device=device, **shift)


def clean_estimate(scheduler: Any, prediction: Tensor, latents: Tensor, t: Tensor) -> Tensor:
    """The x_0 that a model's prediction at timestep t implies, given the latents before that step; all `b c f h w`."""
    if hasattr(scheduler, "scale_model_input"):
        latents = scheduler.scale_model_input(latents, t)
    times, prediction = t.to(latents.device).expand(len(latents)), prediction[:, : latents.shape[1]]
    if is_flow(scheduler):
        return to_x0(FlowPath(), "flow", prediction, latents, times.float() / scheduler.config.num_train_timesteps)
    kind = scheduler.config.prediction_type
    return to_x0(DiffusionPath.from_scheduler(scheduler), kind, prediction, latents, times.round().long())
