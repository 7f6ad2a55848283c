"""Training times: their distributions against closed forms and diffusers, the shift against the flow schedulers."""

import math

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.training_utils import compute_density_for_timestep_sampling
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Normal

from videodit.diffusion import index_from_time, shift_for, shift_time, times_from_uniform

U = torch.linspace(0, 1, 1001, dtype=torch.float64)


def test_uniform_times_are_the_draws():
    assert torch.equal(times_from_uniform(U, "uniform"), U)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.7, 1.5), (-1.0, 0.3)])
def test_logit_normal_times_have_a_normal_logit(mean, std):
    inside = U[1:-1]
    t = times_from_uniform(inside, "logit_normal", logit_mean=mean, logit_std=std)
    torch.testing.assert_close(Normal(mean, std).cdf(torch.logit(t)), inside)
    assert times_from_uniform(U, "logit_normal", logit_mean=mean, logit_std=std)[[0, -1]].tolist() == [0, 1]


def test_a_higher_logit_mean_trains_on_more_noise():
    assert (times_from_uniform(U[1:-1], logit_mean=0.5) > times_from_uniform(U[1:-1])).all()


@pytest.mark.parametrize("scale", [-1.0, 0.0, 1.29, 2 / (math.pi - 2)])
def test_mode_times_cover_the_path_and_are_as_dense_as_in_diffusers(scale):
    t = times_from_uniform(U, "mode", mode_scale=scale)
    torch.testing.assert_close(t[[0, 500, 1000]], torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64))
    assert (t.diff() < 1e-12).all()
    draw = torch.rand(64, generator=torch.Generator().manual_seed(3))
    expected = compute_density_for_timestep_sampling(
        "mode", 64, mode_scale=scale, generator=torch.Generator().manual_seed(3)
    )
    torch.testing.assert_close(times_from_uniform(draw, "mode", mode_scale=scale), expected)


def test_a_positive_mode_scale_prefers_the_middle_and_a_negative_one_the_ends():
    middle = [((times_from_uniform(U, "mode", mode_scale=s) - 0.5).abs() < 0.25).float().mean() for s in (1.0, 0, -1)]
    assert middle[0] > middle[1] + 0.05 > middle[2] + 0.1


@pytest.mark.parametrize("distribution", ["uniform", "logit_normal", "mode"])
def test_batch_law_a_time_depends_on_its_own_draw_alone(distribution):
    draws = torch.rand(5, 3, generator=torch.Generator().manual_seed(0))
    together = times_from_uniform(draws, distribution)
    assert together.dtype == torch.float32
    for i in range(5):
        torch.testing.assert_close(together[i], times_from_uniform(draws[i], distribution), rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"distribution": "normal"}, "Unknown distribution of times 'normal'"),
        ({"logit_std": 0.0}, "logit_std must be positive"),
        ({"distribution": "mode", "mode_scale": 2.0}, "mode_scale must be in"),
        ({"distribution": "mode", "mode_scale": -1.1}, "mode_scale must be in"),
    ],
)
def test_distributions_that_do_not_exist_are_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        times_from_uniform(U, **arguments)


def test_half_precision_draws_are_refused():
    with pytest.raises(ValueError, match="halves lose steps"):
        times_from_uniform(U.bfloat16())


def test_every_index_has_an_equal_share_of_the_times_and_the_last_is_never_passed():
    t = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    assert torch.bincount(index_from_time(t, 1000)).tolist() == [4] * 1000
    assert index_from_time(torch.tensor([0.0, 1 - 2**-24, 1.0]), 1000).tolist() == [0, 999, 999]


@pytest.mark.parametrize("shift", [0.25, 3, 3.0])
def test_shift_is_that_of_the_flow_scheduler(shift):
    plain, shifted = FlowMatchEulerDiscreteScheduler(), FlowMatchEulerDiscreteScheduler(shift=shift)
    torch.testing.assert_close(shift_time(plain.sigmas, shift), shifted.sigmas)


@settings(max_examples=50, deadline=None)
@given(st.floats(0.05, 20), st.floats(0.05, 20))
def test_shifts_keep_the_ends_and_compose_by_multiplying(a, b):
    shifted = shift_time(U, a)
    assert shifted[[0, -1]].tolist() == pytest.approx([0, 1])
    assert (shifted.diff() > 0).all()
    torch.testing.assert_close(shift_time(shifted, b), shift_time(U, a * b))


def test_shift_scales_the_noise_to_signal_ratio():
    t = U[1:-1]
    torch.testing.assert_close(shift_time(t, 3.0) / (1 - shift_time(t, 3.0)), 3 * t / (1 - t))


def test_shift_for_grows_with_the_root_of_the_tokens_and_is_never_nothing():
    assert shift_for(4096, 1024) == 2
    assert shift_for(1024, 1024, base_shift=1.5) == 1.5
    assert shift_for(80, 320, base_shift=3.0) == 1.5
    short = shift_time(torch.tensor(0.5), shift_for(1, 4096))  # integer division once made this 0 elsewhere
    torch.testing.assert_close(short, torch.tensor(1 / 65))


def test_shifts_that_are_not_positive_are_refused():
    for call in (
        lambda: shift_time(U, 0),
        lambda: shift_for(0, 4),
        lambda: shift_for(4, -1),
        lambda: shift_for(4, 4, 0),
    ):
        with pytest.raises(ValueError, match="positive"):
            call()
