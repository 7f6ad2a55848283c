"""The clean latents that a step's prediction implies, under each kind of scheduler: those that were noised."""

from __future__ import annotations

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    UniPCMultistepScheduler,
)

from videodit.diffusion.schedulers import clean_estimate

BETAS = {"beta_schedule": "scaled_linear", "beta_start": 1e-4, "beta_end": 0.02}


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("scheduler", [DDIMScheduler, EulerDiscreteScheduler, HeunDiscreteScheduler])
def test_it_is_what_was_noised_whatever_the_scale_a_scheduler_walks_at(scheduler: type, kind: str) -> None:
    """Euler and Heun walk x_0 + sigma n, and scale it down for the model; the prediction is of what the model sees."""
    walks = scheduler(**BETAS, prediction_type=kind, timestep_spacing="leading")
    walks.set_timesteps(10)
    clean, noise = torch.randn(2, 2, 4, 3, 2, 2)
    alphas = DDIMScheduler(**BETAS).alphas_cumprod
    for t in walks.timesteps[::3].clone():
        walks.set_timesteps(10)  # they count the steps they take: each is the first of a walk
        alpha, sigma = alphas[int(t)].sqrt(), (1 - alphas[int(t)]).sqrt()
        seen = alpha * clean + sigma * noise
        latents = seen if scheduler is DDIMScheduler else seen / alpha
        said = {"epsilon": noise, "v_prediction": alpha * noise - sigma * clean, "sample": clean}[kind]
        torch.testing.assert_close(clean_estimate(walks, said, latents, t), clean, rtol=1e-3, atol=1e-3)
        with_variance = torch.cat([said, torch.randn_like(said)], dim=1)
        torch.testing.assert_close(clean_estimate(walks, with_variance, latents, t), clean, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "scheduler",
    [
        FlowMatchEulerDiscreteScheduler(shift=3.0),
        UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
    ],
    ids=["euler", "unipc"],
)
def test_on_the_straight_path_too(scheduler: object) -> None:
    scheduler.set_timesteps(8)
    clean, noise = torch.randn(2, 2, 4, 3, 2, 2)
    for t in scheduler.timesteps:
        sigma = float(t) / 1000
        latents = (1 - sigma) * clean + sigma * noise
        torch.testing.assert_close(clean_estimate(scheduler, noise - clean, latents, t), clean, rtol=1e-4, atol=1e-4)
