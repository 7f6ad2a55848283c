"""Schedulers by name: each that is said to fit walks the model's path to the clip that the model means."""

from __future__ import annotations

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from diffusers.pipelines.flux.pipeline_flux import calculate_shift

from videodit.diffusion.schedulers import (
    DIFFUSION,
    FLOW,
    FLOW_SIGMAS,
    check_scheduler,
    fitting,
    is_flow,
    prediction_of,
    scheduler_named,
    shift_of_size,
)


def walked(scheduler: object, clean: torch.Tensor, kind: str, steps: int = 12) -> torch.Tensor:
    """Where the steps lead, if every prediction is the true one for `clean`."""
    s: object = scheduler
    s.set_timesteps(steps)
    x = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0)) * getattr(s, "init_noise_sigma", 1.0)
    alphas = None if kind == "flow" else s.alphas_cumprod.double()
    for t in s.timesteps:
        seen = s.scale_model_input(x, t) if hasattr(s, "scale_model_input") else x
        if kind == "flow":
            sigma = float(t) / 1000
            predicted = (
                (seen - clean) / sigma if sigma else torch.zeros_like(seen)
            )  # noise - clean on the straight path
        else:
            alpha = float(alphas[int(t.round().clamp(0, 999))])
            predicted = (seen - alpha**0.5 * clean) / (1 - alpha) ** 0.5
        x = s.step(predicted.float(), t, x, return_dict=False)[0]
    return x


@pytest.mark.parametrize("name", FLOW + FLOW_SIGMAS)
def test_each_that_fits_flow_reaches_what_the_model_means(name: str) -> None:
    clean = torch.randn(1, 2, 3, 4, 4)
    scheduler = scheduler_named(name, FlowMatchEulerDiscreteScheduler(shift=3.0))
    assert type(scheduler).__name__ == name
    assert is_flow(scheduler)
    torch.testing.assert_close(walked(scheduler, clean, "flow"), clean, rtol=0, atol=2e-2)


@pytest.mark.parametrize("name", DIFFUSION)
def test_each_that_fits_epsilon_reaches_what_the_model_means(name: str) -> None:
    clean = torch.randn(1, 2, 3, 4, 4).clamp(-1, 1)
    trained = DDPMScheduler(beta_schedule="scaled_linear", beta_start=1e-4, beta_end=0.02, clip_sample=False)
    scheduler = scheduler_named(name, trained)
    assert scheduler.config.beta_schedule == "scaled_linear"
    apart = (walked(scheduler, clean, "epsilon", 50) - clean).abs().mean()
    assert apart < 0.1


def test_the_shift_that_the_model_was_trained_with_stays() -> None:
    trained = FlowMatchEulerDiscreteScheduler(shift=5.0)
    for name in FLOW:
        assert scheduler_named(name, trained).config.shift == 5
    unipc = scheduler_named("UniPCMultistepScheduler", trained)
    assert unipc.config.flow_shift == 5
    assert scheduler_named("FlowMatchEulerDiscreteScheduler", unipc).config.shift == 5
    assert scheduler_named("FlowMatchEulerDiscreteScheduler", trained) is trained


def test_one_of_another_path_is_refused_with_those_that_fit() -> None:
    with pytest.raises(ValueError, match="'DDIMScheduler' does not fit this model; these do: FlowMatchEuler"):
        scheduler_named("DDIMScheduler", FlowMatchEulerDiscreteScheduler())
    with pytest.raises(ValueError, match=r"'FlowMatchEulerDiscreteScheduler' does not fit.*DDIMScheduler"):
        scheduler_named("FlowMatchEulerDiscreteScheduler", DDPMScheduler())
    assert fitting(DDPMScheduler()) == DIFFUSION


def test_dynamic_shift_is_a_line_in_the_number_of_tokens() -> None:
    dynamic = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15)
    assert shift_of_size(dynamic, 256) == {"mu": pytest.approx(0.5)}
    assert shift_of_size(dynamic, 4096) == {"mu": pytest.approx(1.15)}
    assert shift_of_size(dynamic, 2176) == {"mu": pytest.approx((0.5 + 1.15) / 2)}
    assert shift_of_size(FlowMatchEulerDiscreteScheduler(), 256) == {}
    assert shift_of_size(UniPCMultistepScheduler(), 256) == {}


@pytest.mark.parametrize("tokens", [64, 256, 1000, 4096, 20_000])
@pytest.mark.parametrize("own", [{}, {"base_image_seq_len": 100, "max_image_seq_len": 900, "base_shift": 0.3}])
def test_dynamic_shift_is_that_of_diffusers_pipelines(tokens: int, own: dict[str, float]) -> None:
    """Also of a scheduler that says nothing of lengths and shifts: then they are those of the pipelines."""
    theirs = {"base_image_seq_len": "base_seq_len", "max_image_seq_len": "max_seq_len", "base_shift": "base_shift"}
    expected = {"mu": pytest.approx(calculate_shift(tokens, **{theirs[name]: value for name, value in own.items()}))}
    assert shift_of_size(FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, **own), tokens) == expected
    silent = UniPCMultistepScheduler(use_dynamic_shifting=True, time_shift_type="exponential", use_flow_sigmas=True)
    assert "base_shift" not in silent.config
    assert shift_of_size(silent, tokens) == {"mu": pytest.approx(calculate_shift(tokens))}


SIGMAS = {"use_flow_sigmas": True}


@pytest.mark.parametrize(
    ("scheduler", "kind"),
    [
        (FlowMatchEulerDiscreteScheduler(), "flow"),
        (UniPCMultistepScheduler(prediction_type="flow_prediction", **SIGMAS), "flow"),
        (DPMSolverMultistepScheduler(prediction_type="epsilon", **SIGMAS), "epsilon"),
        (DDIMScheduler(prediction_type="v_prediction"), "v_prediction"),
        (DDPMScheduler(prediction_type="sample"), "sample"),
    ],
    ids=["flow", "flow sigmas", "epsilon under flow sigmas", "v", "sample"],
)
def test_a_scheduler_fits_what_it_takes_a_prediction_for_and_nothing_else(scheduler: object, kind: str) -> None:
    assert prediction_of(scheduler) == kind
    for predicted in ("flow", "epsilon", "v_prediction", "sample"):
        if predicted == kind:
            check_scheduler(scheduler, predicted)
            continue
        with pytest.raises(ValueError, match=f"prediction for '{kind}', but this model predicts '{predicted}'"):
            check_scheduler(scheduler, predicted)
    check_scheduler(scheduler, None)


@pytest.mark.parametrize("name", FLOW + FLOW_SIGMAS)
def test_one_made_for_a_flow_model_takes_its_prediction_for_flow(name: str) -> None:
    assert prediction_of(scheduler_named(name, FlowMatchEulerDiscreteScheduler(shift=3.0))) == "flow"
