"""Where on the path to train: the distribution of t, and its shift towards noise for larger clips.

Esser et al. 2024 (arXiv 2403.03206), sec. 3.1 and 5.3.2. t = 0 is data, t = 1 is noise. Times are a function of uniform
draws rather than of a generator, so that each sample's draw can be keyed by (seed, step, sample) and depends on nothing
else in its batch (diffusers' `compute_density_for_timestep_sampling` draws for a batch at once; the densities are its).
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

TimeDistribution = Literal["logit_normal", "mode", "uniform"]


def times_from_uniform(
    u: Tensor,
    distribution: TimeDistribution = "logit_normal",
    logit_mean: float = 0.0,
    logit_std: float = 1.0,
    mode_scale: float = 1.29,
) -> Tensor:
    """Training times t in [0, 1], of the shape and precision of u, from uniform draws u in [0, 1].

    Args:
        u: float32 or float64, any shape.
        distribution: "uniform", t = u; "logit_normal" (eq. 19), logit(t) normal with `logit_mean` (above 0: more noise)
            and `logit_std`, by its inverse distribution function; "mode" (eq. 20), denser in the middle
            (`mode_scale` above 0, at most 2 / (pi - 2)) or at the ends (below 0, at least -1). As in the paper, t of
            "mode" falls as u rises.

    Raises:
        ValueError: if u is of another type, the distribution is unknown, or its parameter is out of range.
    """
    if u.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"Uniform draws must be float32 or float64 (halves lose steps), but are {u.dtype}.")
    match distribution:
        case "uniform":
            return u
        case "logit_normal":
            if logit_std <= 0:
                raise ValueError(f"logit_std must be positive, but is {logit_std}.")
            return torch.sigmoid(logit_mean + logit_std * torch.special.ndtri(u))
        case "mode":
            if not -1 <= mode_scale <= 2 / (math.pi - 2):
                raise ValueError(f"mode_scale must be in [-1, {2 / (math.pi - 2):.4f}], but is {mode_scale}.")
            return 1 - u - mode_scale * (torch.cos(math.pi / 2 * u) ** 2 - 1 + u)
    raise ValueError(f"Unknown distribution of times {distribution!r}: choose one of {get_args(TimeDistribution)}.")


def index_from_time(t: Tensor, num_train_timesteps: int) -> Tensor:
    """The step, int64 in [0, num_train_timesteps), of a schedule of discrete steps in which t in [0, 1] falls."""
    return (t * num_train_timesteps).long().clamp(max=num_train_timesteps - 1)


def shift_time(t: Tensor, shift: float) -> Tensor:
    """Move times in [0, 1] towards noise (shift > 1) or data (shift < 1): a t / (1 + (a - 1) t); 0 and 1 stay.

    Esser et al. 2024, eq. 23 with a = sqrt(m / n); the same map as `shift` of diffusers' flow-matching schedulers.

    Raises:
        ValueError: if shift is not positive.
    """
    if shift <= 0:
        raise ValueError(f"shift must be positive (1 leaves times alone), but is {shift}.")
    return shift * t / (1 + (shift - 1) * t)


def shift_for(num_tokens: int, base_tokens: int, base_shift: float = 1.0) -> float:
    """The shift at which a clip of num_tokens looks as noisy as one of base_tokens under base_shift.

    A clip of k times the tokens averages its noise over k times the evidence, so sigma/alpha must grow by sqrt(k)
    (Esser et al. 2024, sec. 5.3.2, eq. 23): base_shift * sqrt(num_tokens / base_tokens).

    Raises:
        ValueError: if an argument is not positive.
    """
    if min(num_tokens, base_tokens, base_shift) <= 0:
        raise ValueError(f"Token counts and shift must be positive, but are {num_tokens}, {base_tokens}, {base_shift}.")
    return base_shift * math.sqrt(num_tokens / base_tokens)
