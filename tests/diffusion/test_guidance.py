"""Classifier-free guidance: closed forms, and diffusers' guider as the reference."""

import pytest
import torch
from diffusers.guiders import ClassifierFreeGuidance

from videodit.diffusion import classifier_free_guidance
from videodit.diffusion.guidance import scales_of_steps, two_scale_guidance


def predictions(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(3, 4, 2, 5, 5, generator=generator, dtype=dtype) for _ in range(2))


@pytest.mark.parametrize("rescale", [0.0, 0.7])
def test_scale_one_is_the_conditional_prediction_exactly(rescale):
    conditional, unconditional = predictions(torch.float32)
    assert torch.equal(classifier_free_guidance(conditional, unconditional, 1.0, rescale), conditional)


def test_guidance_goes_on_from_unconditional_past_conditional_in_every_channel():
    conditional, unconditional = predictions()
    assert torch.equal(classifier_free_guidance(conditional, unconditional, 0.0), unconditional)
    guided = classifier_free_guidance(conditional, unconditional, 2.0)
    torch.testing.assert_close(guided, 2 * conditional - unconditional)


@pytest.mark.parametrize("rescale", [0.0, 0.7, 1.0])
def test_guidance_agrees_with_diffusers_guider(rescale):
    conditional, unconditional = predictions()
    guider = ClassifierFreeGuidance(guidance_scale=4.5, guidance_rescale=rescale)
    expected = guider.forward(conditional, unconditional).pred
    torch.testing.assert_close(classifier_free_guidance(conditional, unconditional, 4.5, rescale), expected)


def test_full_rescale_keeps_each_samples_deviation_whatever_its_neighbours():
    conditional, unconditional = predictions()
    conditional[1] *= 10
    guided = classifier_free_guidance(conditional, unconditional, 7.0, rescale=1.0)
    torch.testing.assert_close(guided.flatten(1).std(dim=1), conditional.flatten(1).std(dim=1))
    for i in range(3):
        alone = classifier_free_guidance(conditional[i : i + 1], unconditional[i : i + 1], 7.0, rescale=1.0)
        torch.testing.assert_close(guided[i : i + 1], alone)


def test_predictions_that_would_be_broadcast_and_rescales_out_of_range_are_refused():
    conditional, unconditional = predictions()
    with pytest.raises(ValueError, match="one shape"):
        classifier_free_guidance(conditional, unconditional[:1], 2.0)
    with pytest.raises(ValueError, match=r"rescale must be in \[0, 1\]"):
        classifier_free_guidance(conditional, unconditional, 2.0, rescale=1.5)


def test_two_scales_are_their_closed_form_and_equal_ones_are_one_guidance():
    told, untold, free = torch.randn(3, 2, 4, 2, 5, 5, generator=torch.Generator().manual_seed(1)).double()
    found = two_scale_guidance(told, untold, free, 4.0, 1.5)
    torch.testing.assert_close(found, 4 * told - 2.5 * untold - 0.5 * free)
    torch.testing.assert_close(two_scale_guidance(told, untold, free, 1.0, 1.0), told)
    for rescale in (0.0, 0.7, 1.0):
        one = classifier_free_guidance(told, free, 3.0, rescale)
        torch.testing.assert_close(two_scale_guidance(told, untold, free, 3.0, 3.0, rescale), one)
    with pytest.raises(ValueError, match="one shape"):
        two_scale_guidance(told[:1], untold, free, 3.0, 2.0)
    with pytest.raises(ValueError, match="rescale"):
        two_scale_guidance(told, untold, free, 3.0, 2.0, 2.0)


def test_full_rescale_of_two_scales_has_the_deviation_of_the_prediction_that_is_told_all():
    told, untold, free = torch.randn(3, 2, 4, 2, 5, 5, generator=torch.Generator().manual_seed(1)).double()
    found = two_scale_guidance(told, untold, free, 6.0, 2.0, rescale=1.0)
    torch.testing.assert_close(found.flatten(1).std(dim=1), told.flatten(1).std(dim=1))


@pytest.mark.parametrize("steps", [1, 2, 5, 8])
def test_an_interval_holds_the_steps_whose_middles_lie_in_it_and_its_ends_belong_to_it(steps):
    middles = [(2 * step + 1) / (2 * steps) for step in range(steps)]
    for middle in middles:
        below = scales_of_steps(3.0, (0.0, middle), steps)
        assert below == [3.0 if other <= middle else 1.0 for other in middles]
        above = scales_of_steps(3.0, (middle, 1.0), steps)
        assert above == [3.0 if other >= middle else 1.0 for other in middles]
