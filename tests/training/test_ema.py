"""Averages of the weights: against diffusers, closed forms and numeric integrals; reconstruction against tracking."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.distributed as dist
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from videodit.training.ema import (
    PowerAverage,
    WeightAverage,
    gamma_from_sigma_rel,
    posthoc_coefficients,
    sigma_rel_from_gamma,
)

SHAPES = [(3, 4), (5,), (2, 1, 2)]
SIGMA_RELS = [1e-4, 0.01, 0.05, 0.10, 0.2, 0.2886]
KINDS = [lambda weights: WeightAverage(weights, 0.9), lambda weights: PowerAverage(weights, 0.1)]
kinds = pytest.mark.parametrize("kind", KINDS, ids=["exponential", "power"])


def some_weights(dtype: torch.dtype = torch.float32, seed: int = 0) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in SHAPES]


def move(weights: list[nn.Parameter], seed: int) -> None:
    """One step of training, as far as an average can tell."""
    generator = torch.Generator().manual_seed(1000 + seed)
    with torch.no_grad():
        for weight in weights:
            weight += torch.randn(weight.shape, generator=generator).to(weight.dtype)


def masses(num_steps: int, step: int, sigma_rel: float) -> np.ndarray:
    """What weights 1 .. num_steps count for in the power average at `step`: the density's mass in each interval."""
    edges = np.minimum(np.arange(num_steps + 1) / step, 1.0)
    return np.diff(edges ** (gamma_from_sigma_rel(sigma_rel) + 1))


# ------------------------------------------------------------------------------------------------------- what they are


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.9999])
def test_the_exponential_average_is_that_of_diffusers_from_the_first_update(decay: float) -> None:
    weights = some_weights()
    ours = WeightAverage(weights, decay)
    theirs = EMAModel(weights, decay=decay, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
    for step in range(20):
        move(weights, step)
        ours.update()
        theirs.step(weights)
        torch.testing.assert_close(ours.averages, theirs.shadow_params)
    assert ours.updates == theirs.optimization_step == 20


@pytest.mark.parametrize("sigma_rel", [0.05, 0.1, 0.25])
def test_the_power_average_is_the_sum_over_history_that_its_profile_says(sigma_rel: float) -> None:
    weights = some_weights()
    average, history = PowerAverage(weights, sigma_rel), []
    for step in range(50):
        move(weights, step)
        average.update()
        history.append([weight.detach().double() for weight in weights])
    mass = torch.from_numpy(masses(50, 50, sigma_rel))
    assert mass.sum() == pytest.approx(1)
    for i, found in enumerate(average.averages):
        expected = torch.tensordot(mass, torch.stack([then[i] for then in history]), dims=1)
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)  # weights up to 20, float32


@kinds
def test_the_first_update_takes_the_weights_whole(kind) -> None:
    weights = some_weights()
    average = kind(weights)
    move(weights, 0)
    average.update()
    assert all(torch.equal(a, w) for a, w in zip(average.averages, weights, strict=True))


@kinds
def test_weights_that_stand_still_are_their_own_average(kind) -> None:
    weights = some_weights()
    average = kind(weights)
    for _ in range(9):
        average.update()
    assert all(torch.equal(a, w) for a, w in zip(average.averages, weights, strict=True))


@kinds
def test_half_precision_weights_keep_a_float32_average(kind) -> None:
    """It is that of the same weights in float32, to the bit, and only what is applied is rounded."""
    weights = some_weights(torch.bfloat16)
    wide = [nn.Parameter(weight.detach().float()) for weight in weights]
    average, expected = kind(weights), kind(wide)
    for step in range(20):
        move(weights, step)
        with torch.no_grad():
            for one, other in zip(wide, weights, strict=True):
                one.copy_(other)
        average.update()
        expected.update()
    assert all(a.dtype == torch.float32 for a in average.averages)
    assert all(torch.equal(a, e) for a, e in zip(average.averages, expected.averages, strict=True))
    assert any(not torch.equal(a, a.bfloat16().float()) for a in average.averages)
    with average.applied():
        for weight, a in zip(weights, average.averages, strict=True):
            assert torch.equal(weight, a.bfloat16())


# ------------------------------------------------------------------------------------------- lent out, saved, sharded


@kinds
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_applied_puts_the_average_in_and_the_weights_back_bit_for_bit(kind, dtype: torch.dtype) -> None:
    weights = some_weights(dtype)
    with torch.no_grad():
        weights[0][0, :3] = torch.tensor([math.nan, -0.0, math.inf])
    average = kind(weights)
    move(weights[1:], 0)
    average.update()
    move(weights[1:], 1)
    before, identities = bits(weights), [id(weight) for weight in weights]
    with average.applied():
        assert bits(weights) == bits([a.to(dtype) for a in average.averages]) != before
        assert all(weight.requires_grad and weight.grad_fn is None for weight in weights)
    assert bits(weights) == before
    assert [id(weight) for weight in average.weights] == identities


@kinds
def test_applied_puts_the_weights_back_after_an_exception(kind) -> None:
    weights = some_weights()
    average = kind(weights)
    move(weights, 0)
    before = bits(weights)

    def sample_and_fail() -> None:
        with average.applied():
            assert bits(weights) != before
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample_and_fail()
    assert bits(weights) == before


def bits(tensors: list[nn.Parameter] | list[Tensor]) -> list[list[int]]:
    return [tensor.detach().view(torch.uint8).flatten().tolist() for tensor in tensors]


@kinds
def test_resume_law_a_loaded_average_goes_on_as_if_never_stopped(kind) -> None:
    weights = some_weights()
    straight, broken = kind(weights), kind(weights)
    for step in range(20):
        move(weights, step)
        straight.update()
        broken.update()
        if step == 9:
            state = copy.deepcopy(broken.state_dict())
            assert state.keys() == {"updates", "averages"}
            broken = kind(some_weights(seed=1))
            tensors = broken.averages
            broken.load_state_dict(state)
            assert all(a is b for a, b in zip(broken.averages, tensors, strict=True))  # in place
            broken.weights = weights
    assert straight.updates == broken.updates == 20
    assert bits(straight.averages) == bits(broken.averages)


def test_a_state_of_other_weights_is_refused_and_nothing_of_it_loaded() -> None:
    average = WeightAverage(some_weights(), 0.9)
    before = bits(average.averages)
    with pytest.raises(ValueError, match="averages 2 weights, but there are 3"):
        average.load_state_dict({"updates": 5, "averages": [torch.zeros(3, 4), torch.zeros(5)]})
    with pytest.raises(ValueError, match=r"Average 1 of the state has shape \(1,\), but the weight \(5,\)"):
        average.load_state_dict({"updates": 5, "averages": [torch.zeros(3, 4), torch.zeros(1), torch.zeros(2, 1, 2)]})
    assert bits(average.averages) == before
    assert average.updates == 0


@pytest.fixture
def mesh() -> Iterator[dist.DeviceMesh]:
    """A world of one: enough for DTensors to refuse an operation that they cannot do."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


@kinds
def test_sharded_weights_have_the_average_of_plain_ones_and_stay_sharded(kind, mesh: dist.DeviceMesh) -> None:
    def sharded(tensors: list[nn.Parameter]) -> list[nn.Parameter]:
        return [nn.Parameter(distribute_tensor(tensor.detach().clone(), mesh, [Shard(0)])) for tensor in tensors]

    plain = some_weights()
    parts = sharded(plain)
    one, other = kind(plain), kind(parts)
    for step in range(5):
        move(plain, step)
        with torch.no_grad():
            for part, now in zip(parts, sharded(plain), strict=True):
                part.copy_(now)
        one.update()
        other.update()
    other.load_state_dict(copy.deepcopy(other.state_dict()))
    with one.applied(), other.applied():
        for tensor, expected in zip(parts + other.averages, plain + one.averages, strict=True):
            assert isinstance(tensor, DTensor)
            assert tensor.placements == (Shard(0),)
            torch.testing.assert_close(tensor.full_tensor(), expected)


@pytest.mark.parametrize("decay", [-0.1, 1.0, math.nan])
def test_decays_that_average_nothing_are_refused(decay: float) -> None:
    with pytest.raises(ValueError, match="decay of the average must be in"):
        WeightAverage(some_weights(), decay)


# -------------------------------------------------------------------------------------------------- lengths of profiles


@pytest.mark.parametrize("sigma_rel", SIGMA_RELS)
def test_gamma_and_sigma_rel_are_each_others_inverse(sigma_rel: float) -> None:
    assert sigma_rel_from_gamma(gamma_from_sigma_rel(sigma_rel)) == pytest.approx(sigma_rel, rel=1e-13)


@pytest.mark.parametrize("gamma", [0.01, 0.5, 6.94, 16.97, 200.0])
def test_sigma_rel_is_the_standard_deviation_of_the_profile(gamma: float) -> None:
    nodes, quadrature = np.polynomial.legendre.leggauss(400)
    tau = (nodes + 1) / 2
    mass = quadrature * tau**gamma / (quadrature * tau**gamma).sum()
    mean = (mass * tau).sum()
    deviation = math.sqrt((mass * (tau - mean) ** 2).sum())
    assert sigma_rel_from_gamma(gamma) == pytest.approx(deviation, rel=1e-6)
    assert gamma_from_sigma_rel(deviation) == pytest.approx(gamma, rel=1e-5, abs=1e-6)


def test_the_lengths_of_the_paper() -> None:
    """Karras et al. 2024, sec. 3.1: sigma_rel 0.05 and 0.10 are gamma 16.97 and 6.94."""
    assert gamma_from_sigma_rel(0.05) == pytest.approx(16.97, abs=0.005)
    assert gamma_from_sigma_rel(0.10) == pytest.approx(6.94, abs=0.005)


@pytest.mark.parametrize("sigma_rel", [-0.1, 0.0, math.sqrt(1 / 12), 0.3, math.nan])
def test_lengths_that_no_profile_has_are_refused(sigma_rel: float) -> None:
    with pytest.raises(ValueError, match="sigma_rel must be above 0 and below"):
        PowerAverage(some_weights(), sigma_rel)


# ------------------------------------------------------------------------------------------------------------ post hoc


def test_an_average_that_was_stored_is_its_own_reconstruction() -> None:
    steps, sigma_rels = [*range(100, 1001, 100)] * 2, [0.05] * 10 + [0.10] * 10
    for i in (2, 9, 15, 19):
        found = posthoc_coefficients(steps, sigma_rels, steps[i], sigma_rels[i])
        np.testing.assert_allclose(found, np.eye(20)[i], atol=1e-9)


def test_a_snapshot_stored_twice_counts_once() -> None:
    found = posthoc_coefficients([50, 100, 100], [0.05, 0.05, 0.05], 100, 0.05)
    np.testing.assert_allclose([found[0], found[1] + found[2]], [0, 1], atol=1e-9)


def test_coefficients_are_the_least_squares_fit_of_the_profiles_over_time() -> None:
    """The densities themselves on a fine grid, fitted by numpy, rather than integrals of their products."""
    steps, sigma_rels, target = [4, 8, 12, 12], [0.08, 0.1, 0.06, 0.2], (9, 0.12)
    tau = (np.arange(120_000) + 0.5) / 10_000

    def density(step: int, sigma_rel: float) -> np.ndarray:
        gamma = gamma_from_sigma_rel(sigma_rel)
        return np.where(tau <= step, (gamma + 1) / step * (tau / step) ** gamma, 0)

    stored = np.stack([density(*snapshot) for snapshot in zip(steps, sigma_rels, strict=True)], axis=1)
    expected, *_ = np.linalg.lstsq(stored, density(*target), rcond=None)
    found = posthoc_coefficients(steps, sigma_rels, *target)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize(("step", "sigma_rel"), [(1000, 0.075), (1000, 0.15), (600, 0.07)])
def test_a_length_never_tracked_is_reconstructed_as_if_it_had_been(step: int, sigma_rel: float) -> None:
    """Within 0.2 % of how far the average lies from the weights, from snapshots every 50 steps, on a random walk.

    What error to expect, the masses tell: of a walk of unit steps x_k, sum_i m_i w_i is sum_k x_k (sum of m_i, i >= k),
    so its variance is the sum over k of the square in the bracket. That expectation is below 0.2 % and is met, but for
    float32 and chance (4096 weights: a few percent of the error); the nearest of the stored averages is off by > 10 %.
    """
    weight = nn.Parameter(torch.zeros(4096))
    tracked = {s: PowerAverage([weight], s) for s in (0.05, 0.10, sigma_rel)}
    stored: dict[tuple[int, float], Tensor] = {}
    generator = torch.Generator().manual_seed(0)
    for now in range(1, 1001):
        with torch.no_grad():
            weight += torch.randn(4096, generator=generator)
        for average in tracked.values():
            average.update()
        if now % 50 == 0:
            stored |= {(now, s): tracked[s].averages[0].clone() for s in (0.05, 0.10)}
        if now == step:
            direct, weight_then = tracked[sigma_rel].averages[0].clone(), weight.detach().clone()

    coefficients = posthoc_coefficients(*zip(*stored, strict=True), step, sigma_rel)
    rebuilt = sum(c * snapshot.double() for c, snapshot in zip(coefficients, stored.values(), strict=True))
    scale = (direct - weight_then).norm().item()
    error = (rebuilt - direct).norm().item() / scale

    mass = masses(1000, step, sigma_rel)
    missed = sum(c * masses(1000, *key) for c, key in zip(coefficients, stored, strict=True)) - mass
    expected = deviation_on_a_walk(missed) / deviation_on_a_walk(mass - np.eye(1000)[step - 1])
    assert error == pytest.approx(expected, rel=0.1, abs=2e-5)
    assert error < 2e-3
    assert min((stored[step, s] - direct).norm().item() / scale for s in (0.05, 0.10)) > 0.1


def deviation_on_a_walk(mass: np.ndarray) -> float:
    return math.sqrt((np.cumsum(mass[::-1]) ** 2).sum())


@pytest.mark.parametrize(
    ("steps", "sigma_rels", "target", "said"),
    [
        ([], [], (1, 0.1), "must be one at least"),
        ([10], [0.1, 0.05], (10, 0.1), "1 steps and 2 sigma_rels"),
        ([10, 20], [0.1, 0.1], (21, 0.1), r"must be in \[1, 20\], but is 21"),
        ([10, 20], [0.1, 0.1], (0, 0.1), "but is 0"),
        ([0, 20], [0.1, 0.1], (20, 0.1), "steps count from 1"),
        ([10], [0.1], (10, 0.3), "sigma_rel must be above 0"),
    ],
)
def test_reconstructions_that_cannot_be_are_refused(steps, sigma_rels, target, said) -> None:
    with pytest.raises(ValueError, match=said):
        posthoc_coefficients(steps, sigma_rels, *target)
