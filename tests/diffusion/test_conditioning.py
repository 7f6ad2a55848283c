"""Given frames: what each kind means at every length, how often it is drawn, and the clean frames put in."""

import itertools
from collections import Counter
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st

from videodit.diffusion.conditioning import GivenFrames, choose_kind, draw_given, with_given
from videodit.diffusion.objectives import loss
from videodit.diffusion.paths import FlowPath
from videodit.shapes import rng_for

KINDS = get_args(GivenFrames)
every_kind = pytest.mark.parametrize("kind", KINDS)


def draws(kind: GivenFrames, num_frames: int, count: int) -> list[tuple[bool, ...]]:
    rng = rng_for(7, num_frames)
    return [tuple(draw_given(kind, num_frames, rng).tolist()) for _ in range(count)]


def meant(kind: GivenFrames, f: int) -> set[tuple[bool, ...]]:
    """Every mask that the kind may draw, by what its docstring says: all masks, filtered."""
    if f == 1:
        return {(False,)}
    masks = [m for m in itertools.product((False, True), repeat=f) if any(m) and not all(m)]
    if f == 2 and kind in ("ends", "inner"):
        kind = "first"
    missing = {m: [i for i in range(f) if not m[i]] for m in masks}
    rule = {
        "first": lambda m: m[0] and sum(m) == 1,
        "last": lambda m: m[-1] and sum(m) == 1,
        "ends": lambda m: m[0] and m[-1] and sum(m) == 2,
        "start": lambda m: m[0] and missing[m][-1] == f - 1 and missing[m][-1] - missing[m][0] + 1 == len(missing[m]),
        "inner": lambda m: m[0] and m[-1] and missing[m][-1] - missing[m][0] + 1 == len(missing[m]),
        "any": lambda m: True,
    }[kind]
    return {m for m in masks if rule(m)}


@every_kind
@pytest.mark.parametrize("num_frames", range(1, 8))
def test_each_kind_draws_all_that_it_means_and_nothing_else_each_as_likely(kind, num_frames):
    expected = meant(kind, num_frames)
    count = 30 * len(expected)
    seen = Counter(draws(kind, num_frames, count))
    assert set(seen) == expected  # 30 draws a mask: one is missed in e^-30 of the cases
    chi_square = sum((n - 30) ** 2 / 30 for n in seen.values())
    freedom = len(expected) - 1
    assert chi_square <= freedom + 5 * np.sqrt(2 * freedom)


@settings(deadline=None)
@for_all(st.sampled_from(KINDS), st.integers(1, 40), st.integers(0, 2**32))
def test_some_frames_are_given_and_some_are_left_but_an_image_is_given_nothing(kind, num_frames, seed):
    given = draw_given(kind, num_frames, rng_for(seed))
    assert given.dtype == np.bool_
    assert given.shape == (num_frames,)
    assert not given.all()
    assert given.any() == (num_frames > 1)
    assert np.array_equal(given, draw_given(kind, num_frames, rng_for(seed)))


@pytest.mark.slow
@pytest.mark.parametrize("num_frames", [2, 3, 5, 24])
def test_any_gives_each_frame_with_one_half_and_two_of_them_as_the_condition_says(num_frames):
    """Not all and not none is symmetric, so one half stays exact; pairs: (2^(f-2) - 1) masks of 2^f - 2 give both."""
    count = 20_000
    masks = np.array(draws("any", num_frames, count))
    deviation = np.sqrt(0.25 / count)
    assert np.abs(masks.mean(axis=0) - 0.5).max() < 5 * deviation
    both = (2 ** (num_frames - 2) - 1) / (2**num_frames - 2)
    assert abs((masks[:, 0] & masks[:, -1]).mean() - both) < 5 * deviation


@pytest.mark.parametrize(("kind", "num_frames", "said"), [("middle", 4, "Unknown kind"), ("any", 0, "at least one")])
def test_draws_that_cannot_be_are_refused(kind, num_frames, said):
    with pytest.raises(ValueError, match=said):
        draw_given(kind, num_frames, rng_for(0))


# --------------------------------------------------------------------------------------------------------------- kinds


@pytest.mark.parametrize("shares", [{}, {"any": 1.0}, {"any": 0.3, "first": 0.1}, dict.fromkeys(KINDS, 0.15)])
def test_kinds_have_their_shares_of_the_draws_and_none_has_the_rest(shares):
    seen = Counter(choose_kind(shares, (i + 0.5) / 2000) for i in range(2000))
    expected = {**shares, None: 1 - sum(shares.values())}
    assert seen == {kind: round(2000 * share) for kind, share in expected.items() if round(2000 * share)}


@for_all(st.floats(0, 1, exclude_max=True))
def test_the_order_in_which_shares_are_written_does_not_matter(u):
    shares = {"first": 0.2, "inner": 0.3, "any": 0.1, "last": 0.0}
    kind = choose_kind(shares, u)
    assert kind != "last"
    assert kind == choose_kind(dict(reversed(shares.items())), u)


def test_shares_that_sum_to_one_in_decimals_are_accepted():
    assert choose_kind(dict(zip(KINDS, (0.1, 0.2, 0.3, 0.15, 0.2, 0.05), strict=True)), 0.5) in KINDS


@pytest.mark.parametrize(
    ("shares", "u", "said"),
    [
        ({"firsts": 0.1}, 0.5, "Unknown kind of given frames 'firsts': choose among first, last"),
        ({"first": -0.1, "any": 0.2}, 0.5, "must not be negative, but are first: -0.1"),
        ({"first": float("nan")}, 0.5, "first: nan"),
        ({"first": 0.7, "any": 0.4}, 0.5, "sum to 1.1, more than 1: lower some"),
        ({"first": 0.7}, 1.0, "u must be in"),
    ],
)
def test_shares_that_are_none_are_refused(shares, u, said):
    with pytest.raises(ValueError, match=said):
        choose_kind(shares, u)


# ------------------------------------------------------------------------------------------------------------- latents


def test_given_frames_are_exactly_clean_and_the_others_exactly_as_they_were():
    noisy, clean = torch.randn(2, 2, 3, 4, 5, 6, generator=torch.Generator().manual_seed(0)).unbind()
    given = torch.tensor([[True, False, False, True], [False, False, True, False]])
    mixed = with_given(noisy, clean, given)
    for b in range(2):
        for f in range(4):
            assert torch.equal(mixed[b, :, f], (clean if given[b, f] else noisy)[b, :, f])


def test_half_precision_clean_frames_stay_exact_among_wider_noisy_ones():
    clean = torch.randn(1, 2, 2, 3, 3).bfloat16()
    mixed = with_given(torch.randn(1, 2, 2, 3, 3), clean, torch.tensor([[True, False]]))
    assert mixed.dtype == torch.float32
    assert torch.equal(mixed[:, :, 0], clean[:, :, 0].float())


def test_a_training_step_learns_nothing_from_given_frames():
    x0, noise = torch.randn(2, 2, 3, 5, 4, 4, generator=torch.Generator().manual_seed(0)).unbind()
    given = torch.from_numpy(np.stack([draw_given("any", 5, rng_for(0, i)) for i in range(2)]))
    x_t = with_given(FlowPath().add_noise(x0, noise, torch.tensor([0.3, 0.8])), x0, given).requires_grad_()
    loss(2 * x_t, noise - x0, mask=~given).sum().backward()
    assert torch.equal(x_t.grad.abs().amax(dim=(1, 3, 4)) > 0, ~given)


@pytest.mark.parametrize(
    ("clean", "given", "said"),
    [
        (torch.zeros(1, 2, 3, 4, 5), torch.zeros(2, 3, dtype=torch.bool), "must have one shape"),
        (torch.zeros(2, 2, 3, 4, 4), torch.zeros(2, 3), "must be bool"),
        (torch.zeros(2, 2, 3, 4, 4), torch.zeros(3, 2, dtype=torch.bool), r"of shape \(2, 3\) \(b f\)"),
    ],
)
def test_masks_and_latents_that_do_not_fit_are_refused(clean, given, said):
    with pytest.raises(ValueError, match=said):
        with_given(torch.zeros(2, 2, 3, 4, 4), clean, given)
