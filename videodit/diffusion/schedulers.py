"""diffusers' schedulers by name: the same noise path walked in other steps.

A scheduler fits a model when it walks the path that the model was trained on. For flow these are the flow-matching
ones, and those that can take flow's sigmas; for epsilon, v and x_0 those of the DDPM family. The new one keeps what
says which path it is (betas, prediction type, shift), and takes its own defaults otherwise.
"""

from __future__ import annotations

import inspect
from typing import Any

import diffusers
from torch import Tensor

from videodit.diffusion.objectives import to_x0
from videodit.diffusion.paths import DiffusionPath, FlowPath

FLOW = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
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
    return type(scheduler).__name__ in FLOW or bool(getattr(scheduler.config, "use_flow_sigmas", False))


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


def clean_estimate(scheduler: Any, prediction: Tensor, latents: Tensor, t: Tensor) -> Tensor:
    """The x_0 that a model's prediction at timestep t implies, given the latents before that step; all `b c f h w`."""
    if hasattr(scheduler, "scale_model_input"):
        latents = scheduler.scale_model_input(latents, t)
    times, prediction = t.to(latents.device).expand(len(latents)), prediction[:, : latents.shape[1]]
    if is_flow(scheduler):
        return to_x0(FlowPath(), "flow", prediction, latents, times.float() / scheduler.config.num_train_timesteps)
    kind = scheduler.config.prediction_type
    return to_x0(DiffusionPath.from_scheduler(scheduler), kind, prediction, latents, times.round().long())
