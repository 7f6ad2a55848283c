"""Averages of the weights over training: what is sampled from and shipped, while the weights themselves go on moving.

Two kinds, both in float32 and updated after every optimizer step as average <- average + share (weights - average):

    WeightAverage     share = 1 - min(decay, 1 - n^(-3/4))      exponential, with a warm-up over the n-th update
    PowerAverage      share = 1 - (1 - 1/n)^(gamma + 1)         a power function of training time

The exponential one forgets at a fixed rate; the power one (Karras et al. 2024, arXiv 2312.02696, sec. 3.1) spans a
fixed part of the training so far, however long, for at time t it is the mean of the weights w under the density

    p(tau) = (gamma + 1) tau^gamma / t^(gamma + 1),   0 < tau <= t

The product of the updates' factors telescopes, and gives w_i exactly the mass of p between i - 1 and i. The density's
standard deviation over t, sigma_rel, is how gamma is named: 0.05 and 0.10 are the paper's two. And since a density is
well approximated by a weighted sum of others, averages of *any* length can be made after training out of snapshots of
a few (sec. 3.2): `posthoc_coefficients`.

Tensors are touched only by elementwise operations in place, so weights may be DTensors: each rank keeps its own shard.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


class RunningAverage:
    """A float32 average of weights, of which the kinds below say how much each update takes in.

    Until the first update it is the weights as they are, and the first update takes the weights whole.

    Args:
        weights: averaged together, in this order; on the device, and sharded, as they will be during training.
    """

    def __init__(self, weights: Sequence[nn.Parameter]):
        self.weights = list(weights)
        self.averages = [weight.detach().to(torch.float32, copy=True) for weight in self.weights]
        self.updates = 0

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights as they are now: once after each optimizer step."""
        self.updates += 1
        now = [weight.to(torch.float32) for weight in self.weights]
        torch._foreach_lerp_(self.averages, now, self._share(self.updates))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the weights hold the average, in their own precision; afterwards, whatever happens, what they held.

        Costs a second copy of the weights. Do not step or update inside.
        """
        held = [weight.detach().clone() for weight in self.weights]
        try:
            _copy(self.averages, self.weights)
            yield
        finally:
            _copy(held, self.weights)

    def state_dict(self) -> dict[str, Any]:
        """`updates`, their number, and `averages`, the list of the live float32 tensors (not copies)."""
        return {"updates": self.updates, "averages": self.averages}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict`; values go into the tensors at hand, which stay on their device and sharded.

        Raises:
            ValueError: if the state is of other weights: another number of them, or of other shapes. Nothing is loaded.
        """
        loaded = state["averages"]
        if len(loaded) != len(self.averages):
            raise ValueError(
                f"The state averages {len(loaded)} weights, but there are {len(self.averages)}: load it into the model "
                f"that it was saved from."
            )
        for i, (theirs, ours) in enumerate(zip(loaded, self.averages, strict=True)):
            if theirs.shape != ours.shape:
                raise ValueError(
                    f"Average {i} of the state has shape {tuple(theirs.shape)}, but the weight {tuple(ours.shape)}: "
                    f"load it into the model that it was saved from."
                )
        _copy(loaded, self.averages)
        self.updates = state["updates"]

    def _share(self, update: int) -> float:
        """How much of the weights goes into the average at an update, counted from 1."""
        raise NotImplementedError


class WeightAverage(RunningAverage):
    """The exponential average: of `decay`, but shorter early on, so that it forgets where training began.

    The warm-up is that of diffusers' `EMAModel(use_ema_warmup=True, inv_gamma=1, power=3/4)`: it reaches a decay of
    0.999 after 10 thousand updates, 0.9999 after 215 thousand.

    Args:
        decay: in [0, 1), of the average at each update once warmed up.

    Raises:
        ValueError: if the decay is out of range.
    """

    def __init__(self, weights: Sequence[nn.Parameter], decay: float):
        if not 0 <= decay < 1:
            raise ValueError(f"The decay of the average must be in [0, 1), but is {decay}; 0.9999 is common.")
        super().__init__(weights)
        self.decay = decay

    def _share(self, update: int) -> float:
        return 1 - min(self.decay, 1 - update**-0.75)


class PowerAverage(RunningAverage):
    """The average under a power function of training time (Karras et al. 2024, sec. 3.1).

    Args:
        sigma_rel: the profile's standard deviation as a part of the training so far, in (0, sqrt(1/12)).

    Raises:
        ValueError: if sigma_rel is out of range.
    """

    def __init__(self, weights: Sequence[nn.Parameter], sigma_rel: float):
        self.gamma = gamma_from_sigma_rel(sigma_rel)
        super().__init__(weights)

    def _share(self, update: int) -> float:
        return 1 - (1 - 1 / update) ** (self.gamma + 1)


def _copy(source: Sequence[Tensor], destination: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for theirs, ours in zip(source, destination, strict=True):
            ours.copy_(theirs)


# ------------------------------------------------------------------------------------------------- lengths of profiles


def gamma_from_sigma_rel(sigma_rel: float) -> float:
    """The exponent gamma > 0 of the profile tau^gamma on [0, 1] whose standard deviation is sigma_rel.

    Inverts sigma_rel = sqrt(gamma + 1) / ((gamma + 2) sqrt(gamma + 3)) (sec. 3.1), which with k = sigma_rel^-2 is a
    cubic in u = gamma + 2, u^3 + u^2 - k u + k = 0, and in x = u + 1/3 without a square, x^3 - p x + q = 0. Its three
    roots are real; the greatest, by Viète's formula, is the positive gamma.

    Raises:
        ValueError: if sigma_rel is not in (0, sqrt(1/12)); at the upper end the profile is flat.
    """
    if not 0 < sigma_rel < math.sqrt(1 / 12):
        raise ValueError(
            f"sigma_rel must be above 0 and below {math.sqrt(1 / 12):.4f} (all of training alike), but is {sigma_rel}; "
            f"0.05 to 0.1 are common."
        )
    k = sigma_rel**-2
    p, q = k + 1 / 3, 4 / 3 * k + 2 / 27
    angle = math.acos(-1.5 * q / p * math.sqrt(3 / p)) / 3
    return 2 * math.sqrt(p / 3) * math.cos(angle) - 7 / 3


def sigma_rel_from_gamma(gamma: float) -> float:
    """The standard deviation of the profile tau^gamma on [0, 1] (sec. 3.1)."""
    return math.sqrt(gamma + 1) / ((gamma + 2) * math.sqrt(gamma + 3))


def posthoc_coefficients(
    steps: Sequence[int], sigma_rels: Sequence[float], target_step: int, target_sigma_rel: float
) -> np.ndarray:
    """Weights, float64 (n,), with which n stored power averages sum to one of a length that was never tracked.

    The sum's profile is the closest, in least squares over training time, to that of `target_sigma_rel` at
    `target_step` (Karras et al. 2024, sec. 3.2). Some may be negative, and they sum to one only as nearly as the
    profiles meet: how far from one they sum says how well.

    Args:
        steps: (n,) the update after which each snapshot was taken, counted from 1.
        sigma_rels: (n,) the length of each.
        target_step: at most the last of `steps`: what came later is in no snapshot. Best one of `steps`: only there
            does a stored profile end as the target's does.
        target_sigma_rel: best between the stored lengths; far outside of them no sum of theirs comes close.

    Raises:
        ValueError: if there are no snapshots, the lists differ in length, a step is below 1, the target lies beyond the
            last snapshot, or a length is out of range.
    """
    if not steps or len(steps) != len(sigma_rels):
        raise ValueError(
            f"Each snapshot needs a step and a sigma_rel, and there must be one at least, but there are {len(steps)} "
            f"steps and {len(sigma_rels)} sigma_rels."
        )
    if min(*steps, target_step) < 1 or target_step > max(steps):
        raise ValueError(
            f"Snapshots reach from step {min(steps)} to {max(steps)}; steps count from 1, and the target must "
            f"be in [1, {max(steps)}], but is {target_step}: choose another."
        )
    times = np.array([*steps, target_step], dtype=np.float64)
    gammas = np.array([gamma_from_sigma_rel(s) for s in (*sigma_rels, target_sigma_rel)])
    products = _inner_products(times, gammas)

    # Profiles of unit norm make a matrix of unit diagonal, the best conditioned of all scalings (to a factor of n).
    norm = np.sqrt(products.diagonal())
    cosines = products / np.outer(norm, norm)
    solution, *_ = np.linalg.lstsq(cosines[:-1, :-1], cosines[:-1, -1], rcond=None)
    return solution * norm[-1] / norm[:-1]


def _inner_products(times: np.ndarray, gammas: np.ndarray) -> np.ndarray:
    """Integrals of the products of each two densities p (above), all n n: elementary, as powers of tau up to min(t, s).

    For s <= t, of exponents g (t) and h (s):  (g + 1) (h + 1) / (g + h + 1) * (s / t)^g / t.
    """
    t, s = times[:, None], times[None, :]
    g, h = gammas[:, None], gammas[None, :]
    later, power = np.maximum(t, s), np.where(s <= t, g, h)
    return (g + 1) * (h + 1) / (g + h + 1) * (np.minimum(t, s) / later) ** power / later
