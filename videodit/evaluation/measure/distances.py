"""Distances between two sets of feature vectors: Fréchet's, its limit for many samples, and the unbiased MMD.

A Fréchet distance is biased by the number of samples: two sets from one N(0, I) of 400 dimensions are 549 apart with 64
samples each and 39 apart with 2048. So a distance goes with its N, two distances compare only at the same N, and
`frechet_extrapolated` estimates what is left for N to infinity. The MMD has no such bias, and wants no more samples
than dimensions.

Features are n d, of any real dtype, computed in float64. Every function first sorts the samples by their content: the
results depend on the sets alone, bit for bit, not on the order in which the samples come.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

Kernel = Literal["polynomial", "rbf"]

NUM_SIZES = 8
FEWEST_TO_EXTRAPOLATE = 16  # below, the eight sizes between N / 2 and N are not eight
BLOCK = 2048  # samples a side of the kernel's blocks: 32 MiB each, whatever the number of samples


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Squared Fréchet distance of the Gaussians fitted to two sets (Dowson and Landau 1982; Heusel et al. 2017).

    |m_a - m_b|^2 + tr(S_a) + tr(S_b) - 2 tr((S_a S_b)^1/2), with S the covariances over n - 1. With S_a = A^T A, A the
    centred samples over sqrt(n - 1), the last trace is the sum of the singular values of A B^T: no matrix root is
    taken, sets with fewer samples than dimensions are no special case, and identical sets give 0 to 13 digits of tr(S).
    That rounding may leave it just below 0; it is not clipped.

    a, b: features n d and m d.
    Raises ValueError for fewer than two samples, for widths that differ and for values that are not finite.
    """
    return _frechet(*_pair(a, b))


@dataclass(frozen=True)
class Extrapolation:
    """A Fréchet distance and the intercept of the line through the distances of subsets, over 1/N.

    `intercept` is None where no such line can be had; `why` then says so, and `sizes` and `values` are empty.
    """

    value: float  # of all samples: what `frechet_distance` gives
    intercept: float | None
    why: str
    sizes: tuple[tuple[int, int], ...]  # of the subsets of the first and of the second set, from all samples down
    values: tuple[float, ...]  # the mean distance at each of these sizes


def frechet_extrapolated(a: np.ndarray, b: np.ndarray, *, draws: int = 4, seed: int = 0) -> Extrapolation:
    """The Fréchet distance freed from most of its bias (Chong and Forsyth 2020, "Effectively Unbiased FID").

    To first order the bias is K_a / n + K_b / m. Eight shares between 1 and 1/2, even in 1/share, scale both sets
    alike, so that all of the bias is linear in 1/n + 1/m; at each share the distances of `draws` random pairs of
    subsets are averaged, and a line of least squares is followed to 0.

    The line holds for many more samples than dimensions. For two sets from one N(0, I), d = 100, it removes all of the
    bias with 2 d samples each, 85 % with 1.3 d, 70 % with d + 1; with d or fewer it means nothing and there is none.
    The two sets must be independent: where they share samples the subsets share fewer, and the limit comes out low.
    (Identical sets are given identical subsets, and the limit 0.) The subsets overlap, so the fit has no error bar.

    a, b: features n d and m d. The same sets and seed give the same bits, in whatever order the samples come.
    Raises ValueError as `frechet_distance` does, and for `draws` below 1.
    """
    if draws < 1:
        raise ValueError(f"draws={draws} must be 1 or more")
    a, b = _pair(a, b)
    fewest, width = min(len(a), len(b)), a.shape[1]
    if fewest <= max(width, FEWEST_TO_EXTRAPOLATE - 1):
        enough = max(width + 1, FEWEST_TO_EXTRAPOLATE)
        why = f"{fewest} samples of {width} features: the line in 1/N needs at least {enough} in either set"
        return Extrapolation(_frechet(a, b), None, why, (), ())
    sizes = []
    values = []
    for index, share in enumerate(1 / np.linspace(1, 2, NUM_SIZES)):
        n, m = round(len(a) * share), round(len(b) * share)
        seeds = [(seed, index, draw) for draw in range(draws if index else 1)]  # there is one set of all samples
        sizes.append((n, m))
        values.append(float(np.mean([_frechet(_subset(a, n, key), _subset(b, m, key)) for key in seeds])))
    inverse = np.array([1 / n + 1 / m for n, m in sizes])
    lever = inverse - inverse.mean()
    slope = lever @ np.array(values) / (lever @ lever)
    intercept = float(np.mean(values) - slope * inverse.mean())
    return Extrapolation(values[0], intercept, "", tuple(sizes), tuple(values))


def mmd(a: np.ndarray, b: np.ndarray, kernel: Kernel = "polynomial", *, sigma: float = 10.0) -> float:
    """Unbiased squared maximum mean discrepancy (Gretton et al. 2012, Lemma 6).

    From one source it is below 0 in half of the draws. Kernels:

    - "polynomial": (x . y / d + 1)^3, the kernel inception distance's (Binkowski et al. 2018), here over all samples
      and not averaged over subsets;
    - "rbf": exp(-|x - y|^2 / (2 sigma^2)), that of CMMD (Jayasumana et al. 2024), which takes CLIP features of norm 1,
      sigma = 10, the biased estimator, and prints 1000 times the value.

    a, b: features n d and m d. Memory is bounded by the features themselves; time goes with (n + m)^2 d.
    Raises ValueError for another kernel, a sigma that is not positive, and as `frechet_distance` does.
    """
    if kernel not in get_args(Kernel):
        raise ValueError(f"kernel={kernel!r} is none of {', '.join(get_args(Kernel))}")
    if not sigma > 0:
        raise ValueError(f"sigma={sigma} must be positive")
    a, b = _pair(a, b)
    if kernel == "rbf":  # in units of sigma, near the origin: distances of far-off features lose digits
        center = a.mean(axis=0)
        a, b = (a - center) / sigma, (b - center) / sigma
    within = [_sum_within(x, kernel) / (len(x) * (len(x) - 1)) for x in (a, b)]
    return float(sum(within) - 2 * _sum_between(a, b, kernel) / (len(a) * len(b)))


def _frechet(a: np.ndarray, b: np.ndarray) -> float:
    mean_a, mean_b = a.mean(axis=0), b.mean(axis=0)
    root_a, root_b = (a - mean_a) / np.sqrt(len(a) - 1), (b - mean_b) / np.sqrt(len(b) - 1)
    cross = np.linalg.svd(_short(root_a) @ _short(root_b).T, compute_uv=False).sum()
    return float(((mean_a - mean_b) ** 2).sum() + (root_a**2).sum() + (root_b**2).sum() - 2 * cross)


def _short(root: np.ndarray) -> np.ndarray:
    """A matrix with the same root^T root and no more rows than columns."""
    return np.asarray(np.linalg.qr(root, mode="r")) if len(root) > root.shape[1] else root


def _subset(samples: np.ndarray, size: int, key: tuple[int, ...]) -> np.ndarray:
    """The same places for the same key and number of samples, so that identical sets give identical subsets."""
    if size == len(samples):
        return samples
    return samples[np.random.default_rng(key).permutation(len(samples))[:size]]


def _sum_within(x: np.ndarray, kernel: Kernel) -> float:
    """The kernel's sum over all ordered pairs of different samples."""
    total = 0.0
    for start in range(0, len(x), BLOCK):
        block, rest = x[start : start + BLOCK], x[start + BLOCK :]
        values = _kernel(block, block, kernel)
        total += values.sum() - np.trace(values) + 2 * _sum_between(block, rest, kernel)
    return total


def _sum_between(x: np.ndarray, y: np.ndarray, kernel: Kernel) -> float:
    total = 0.0
    for i in range(0, len(x), BLOCK):
        for j in range(0, len(y), BLOCK):
            total += _kernel(x[i : i + BLOCK], y[j : j + BLOCK], kernel).sum()
    return total


def _kernel(x: np.ndarray, y: np.ndarray, kernel: Kernel) -> np.ndarray:
    products = x @ y.T
    if kernel == "polynomial":
        base = products / x.shape[1] + 1
        return base * base * base
    squares = (x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1) - 2 * products
    # Less 1, which the MMD does not see: with sigma = 10 and unit vectors every value is near 1, and digits are saved.
    return np.expm1(-np.maximum(squares, 0) / 2)  # a square just below 0 is rounding


def _pair(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    first, second = _sorted(a, "first"), _sorted(b, "second")
    if first.shape[1] != second.shape[1]:
        raise ValueError(
            f"features of widths {first.shape[1]} and {second.shape[1]} cannot be compared; take both sets from one "
            "extractor"
        )
    return first, second


def _sorted(features: np.ndarray, name: str) -> np.ndarray:
    """Checked, as float64, in an order that depends on the samples' content alone and on nothing in it."""
    features = np.asarray(features)
    if features.ndim != 2 or len(features) < 2 or features.shape[1] < 1:
        raise ValueError(f"the {name} set of features is {features.shape}; it must be n d with two samples or more")
    if features.dtype.kind not in "fiu":
        raise ValueError(f"the {name} set of features is {features.dtype}; give real numbers")
    rows = np.ascontiguousarray(features, dtype=np.float64) + 0.0  # -0 is 0
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(bad):
        raise ValueError(
            f"sample {bad[0]} of the {name} set of features is not finite; {len(bad)} such samples are to be left out"
        )
    return rows[sorted(range(len(rows)), key=lambda i: hashlib.blake2b(rows[i].data).digest())]
