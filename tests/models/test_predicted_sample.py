"""A network of x_0 in a flow model: `sample_std`."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
import torch
from tiny import tiny_dit

from videodit.exchange import ConversionError, to_diffusers
from videodit.models.formats import FORMATS, ORIGINALS
from videodit.models.formats.table import Format
from videodit.models.transformer import VideoDiT, velocity


def test_a_predicted_sample_and_what_is_seen_are_weighed_by_how_sure_they_are() -> None:
    """Of a Gaussian x_0 of mean F and deviation s, seen as x_t, the expectation, by solving its normal equations."""
    rng, std = np.random.default_rng(0), 0.3
    guess, x_t = rng.normal(size=(2, 1, 2, 3, 4, 4))
    for t in (1e-3, 0.2, 0.5, 0.9, 1.0):
        seen = np.array([[1.0], [1 - t]])  # two observations of x_0: F itself, and x_t = (1 - t) x_0 + t n
        precision = np.diag([1 / std**2, 1 / t**2])
        observed = np.stack([guess.ravel(), x_t.ravel()])
        likeliest = np.linalg.solve(seen.T @ precision @ seen, seen.T @ precision @ observed).reshape(guess.shape)
        made = velocity(torch.tensor(guess), torch.tensor(x_t), torch.full((1, 1), t, dtype=torch.float64), std)
        np.testing.assert_allclose(made.numpy(), (x_t - likeliest) / t, rtol=1e-9, atol=1e-9)
    at_zero = velocity(torch.tensor(guess), torch.tensor(x_t), torch.zeros(1, 1), std)
    torch.testing.assert_close(at_zero, -torch.tensor(x_t))


def test_a_model_of_x_0_returns_the_velocity_of_each_frames_time() -> None:
    told, plain = tiny_dit(sample_std=0.3), tiny_dit()
    told.load_state_dict(plain.state_dict())
    mask, rng = torch.tensor([[True, False, False], [False, False, True]]), torch.Generator().manual_seed(1)
    x = {"hidden_states": torch.randn(2, 4, 3, 8, 8, generator=rng), "timestep": torch.tensor([100.0, 800.0])}
    x["encoder_hidden_states"] = torch.randn(2, 5, 24, generator=rng)
    times = torch.where(mask, 0.0, x["timestep"][:, None] / 1000)
    expected = velocity(plain(**x, frame_mask=mask).sample, x["hidden_states"], times, 0.3)
    torch.testing.assert_close(told(**x, frame_mask=mask).sample, expected)


@pytest.mark.parametrize("where", [*FORMATS.values(), *chain(*ORIGINALS.values())])
def test_every_format_says_that_it_has_no_place_for_it(where: Format) -> None:
    key = next(key for key in where.keys if key.ours == "sample_std")
    assert (key.fixed, key.value, key.its) == (True, None, None)


@pytest.mark.parametrize("wrong", [{"sample_std": 0.0}, {"sample_std": 0.3, "in_channels": 4, "out_channels": 8}])
def test_what_no_model_can_have_is_named(wrong: dict) -> None:
    with pytest.raises(ValueError, match="sample_std"):
        VideoDiT(**wrong)


def test_classes_that_have_no_place_for_it_are_refused() -> None:
    """They would take x_0 for the velocity."""
    shape = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 1, "in_channels": 4}
    shape |= {"axes": ("space",), "qk_norm": False, "caption_channels": 24, "time_positions": "rotary"}
    assert to_diffusers(VideoDiT(**shape), "pixart")
    with pytest.raises(ConversionError, match="sample_std"):
        to_diffusers(VideoDiT(**shape, sample_std=0.3), "pixart")
