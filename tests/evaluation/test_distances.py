"""Distances against closed forms, a reference by eigenvalues, double loops, and their own bias."""

from collections.abc import Callable

import numpy as np
import pytest

from videodit.evaluation.measure import distances
from videodit.evaluation.measure.distances import Kernel, frechet_distance, frechet_extrapolated, mmd


def gaussian(n: int, d: int, *, seed: int = 0, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d)) + shift


def exactly(mean: np.ndarray, covariance: np.ndarray, *, n: int, seed: int) -> np.ndarray:
    """Samples whose own mean and covariance are these: noise, whitened and dyed."""
    noise = gaussian(n, len(mean), seed=seed)
    noise -= noise.mean(axis=0)
    white = noise @ np.linalg.inv(np.linalg.cholesky(np.cov(noise, rowvar=False))).T
    return mean + white @ np.linalg.cholesky(covariance).T


def root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def frechet_by_eigenvalues(a: np.ndarray, b: np.ndarray) -> float:
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    cross = np.trace(root(root(cov_a) @ cov_b @ root(cov_a)))
    return float(((a.mean(axis=0) - b.mean(axis=0)) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * cross)


def mmd_by_loops(a: np.ndarray, b: np.ndarray, kernel: Kernel, sigma: float) -> float:
    def k(x: np.ndarray, y: np.ndarray) -> float:
        if kernel == "polynomial":
            return (sum(x * y) / len(x) + 1) ** 3
        return np.exp(-sum((x - y) ** 2) / (2 * sigma**2))

    within = [np.mean([k(x, y) for i, x in enumerate(s) for j, y in enumerate(s) if i != j]) for s in (a, b)]
    return float(sum(within) - 2 * np.mean([k(x, y) for x in a for y in b]))


def test_frechet_of_diagonal_gaussians_is_its_closed_form() -> None:
    mean_a, mean_b = np.array([0.0, 1.0, -2.0]), np.array([0.5, 1.0, 1.0])
    var_a, var_b = np.array([1.0, 4.0, 0.25]), np.array([9.0, 1.0, 0.25])
    a, b = exactly(mean_a, np.diag(var_a), n=50, seed=0), exactly(mean_b, np.diag(var_b), n=20, seed=1)
    expected = 0.25 + 9 + (3 - 1) ** 2 + (2 - 1) ** 2
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("n", "m", "d"), [(60, 60, 8), (40, 50, 60), (9, 90, 20), (90, 9, 20), (2, 2, 5), (20, 30, 1)])
def test_frechet_equals_a_reference_by_eigenvalues(n: int, m: int, d: int) -> None:
    mixed = gaussian(d, d, seed=2)
    a, b = gaussian(n, d) @ mixed, gaussian(m, d, seed=1, shift=0.3) * np.linspace(0.1, 2, d)
    expected = (
        frechet_by_eigenvalues(a, b) if d > 1 else (a.mean() - b.mean()) ** 2 + (a.std(ddof=1) - b.std(ddof=1)) ** 2
    )
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("n", "d"), [(512, 64), (64, 64), (32, 400), (2, 3)])
def test_identical_sets_are_no_distance_apart(n: int, d: int) -> None:
    a = gaussian(n, d)
    assert abs(frechet_distance(a, a)) < 1e-9
    assert abs(frechet_distance(a, a[::-1])) < 1e-9
    assert frechet_distance(a, a + 0.5) == pytest.approx(d / 4)


@pytest.mark.slow
def test_frechet_of_one_gaussian_is_biased_by_the_number_of_samples() -> None:
    few, many = gaussian(128, 400), gaussian(4096, 400)
    assert frechet_distance(few[:64], few[64:]) == pytest.approx(549, rel=0.02)
    assert frechet_distance(many[:2048], many[2048:]) == pytest.approx(39, rel=0.02)


def test_samples_in_another_order_or_type_give_the_same_bits() -> None:
    a = np.round(gaussian(80, 6) * 10).astype(np.int16)
    b = gaussian(60, 6, seed=1, shift=3).astype(np.float32)
    a[0, 0] = 0
    again_a, again_b = np.random.default_rng(2).permutation(a).astype(float), b[::-1].astype(np.float64)
    again_a[again_a == 0] = -0.0
    assert frechet_distance(a, b) == frechet_distance(again_a, again_b)
    assert frechet_extrapolated(a, b) == frechet_extrapolated(again_a, again_b)
    assert mmd(a, b) == mmd(again_a, again_b)
    assert mmd(a, b, "rbf") == mmd(again_a, again_b, "rbf")


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_extrapolation_removes_the_bias(shift: float) -> None:
    errors, plain = [], []
    for seed in range(4):
        a, b = gaussian(256, 32, seed=seed), gaussian(256, 32, seed=seed + 100, shift=shift)
        found = frechet_extrapolated(a, b)
        assert found.intercept is not None
        assert found.value == frechet_distance(a, b)
        errors.append(found.intercept - 32 * shift**2)
        plain.append(found.value - 32 * shift**2)
    assert np.mean(plain) > 2
    assert abs(np.mean(errors)) < 0.15 * np.mean(plain)


def test_extrapolation_is_the_line_through_its_subsets() -> None:
    found = frechet_extrapolated(gaussian(64, 4), gaussian(96, 4, seed=1, shift=0.2), draws=2)
    assert found.sizes[0] == (64, 96)
    assert found.sizes[-1] == (32, 48)
    assert all(abs(m / n - 1.5) < 0.04 for n, m in found.sizes)
    over = [1 / n + 1 / m for n, m in found.sizes]
    assert found.intercept == pytest.approx(np.polyfit(over, found.values, 1)[1])
    assert found.values[0] == found.value


def test_identical_sets_extrapolate_to_zero() -> None:
    a = gaussian(100, 10)
    found = frechet_extrapolated(a, a[::-1])
    assert found.intercept is not None
    assert abs(found.intercept) < 1e-9
    assert max(np.abs(found.values)) < 1e-9


def test_extrapolation_draws_by_its_seed() -> None:
    a, b = gaussian(64, 4), gaussian(64, 4, seed=1)
    assert frechet_extrapolated(a, b) == frechet_extrapolated(a, b, seed=0)
    assert frechet_extrapolated(a, b).intercept != frechet_extrapolated(a, b, seed=1).intercept


def test_no_line_is_drawn_through_too_few_samples() -> None:
    for n, d, needed in ((64, 64, "65"), (15, 2, "16")):
        found = frechet_extrapolated(gaussian(200, d), gaussian(n, d, seed=1))
        assert found.intercept is None
        assert f"{n} samples of {d} features" in found.why
        assert needed in found.why
        assert found.value == frechet_distance(gaussian(200, d), gaussian(n, d, seed=1))
    assert frechet_extrapolated(gaussian(65, 64), gaussian(65, 64, seed=1)).intercept is not None


@pytest.mark.parametrize("kernel", ["polynomial", "rbf"])
@pytest.mark.parametrize("block", [3, 2048])
def test_mmd_equals_a_double_loop(kernel: Kernel, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distances, "BLOCK", block)
    a, b = gaussian(10, 5), gaussian(13, 5, seed=1, shift=0.7)
    assert mmd(a, b, kernel, sigma=1.7) == pytest.approx(mmd_by_loops(a, b, kernel, 1.7), rel=1e-10)
    assert mmd(a[:2], b[:2], kernel) == pytest.approx(mmd_by_loops(a[:2], b[:2], kernel, 10.0), rel=1e-9)


@pytest.mark.parametrize("shift", [0.0, 1.0])
@pytest.mark.parametrize("kernel", ["polynomial", "rbf"])
def test_mmd_is_unbiased(kernel: Kernel, shift: float) -> None:
    """Of N(0, 1) and N(shift, 1): the moments' differences s, s^2, s^3 + 3 s weighted 3, 3, 1; Gaussian integrals."""
    moments = 3 * shift**2 + 3 * shift**4 + (shift**3 + 3 * shift) ** 2
    integral = 2 * np.sqrt(4 / 6) * (1 - np.exp(-(shift**2) / 12))  # sigma = 2: sigma^2 + 2 = 6
    expected = moments if kernel == "polynomial" else integral
    rng = np.random.default_rng(0)
    found = [mmd(rng.normal(size=(8, 1)), rng.normal(size=(6, 1)) + shift, kernel, sigma=2.0) for _ in range(2000)]
    assert abs(np.mean(found) - expected) < 4 * np.std(found) / np.sqrt(len(found))


def test_rbf_mmd_keeps_its_digits_far_from_the_origin() -> None:
    a, b = gaussian(30, 4), gaussian(30, 4, seed=1, shift=0.5)
    assert mmd(a + 1e7, b + 1e7, "rbf") == pytest.approx(mmd(a, b, "rbf"), rel=1e-6)


@pytest.mark.parametrize("distance", [frechet_distance, frechet_extrapolated, mmd])
def test_mistakes_are_named(distance: Callable[..., object]) -> None:
    good, bad = gaussian(20, 3), gaussian(20, 3)
    bad[4, 1] = np.nan
    with pytest.raises(ValueError, match=r"second set of features is \(1, 3\).*two samples"):
        distance(good, good[:1])
    with pytest.raises(ValueError, match=r"first set of features is \(20,\)"):
        distance(good[:, 0], good)
    with pytest.raises(ValueError, match="widths 3 and 2"):
        distance(good, good[:, :2])
    with pytest.raises(ValueError, match=r"sample 4 of the second .* not finite; 1 such"):
        distance(good, bad)
    with pytest.raises(ValueError, match="first set of features is complex128"):
        distance(good.astype(complex), good)


def test_options_that_mean_nothing_are_refused() -> None:
    a = gaussian(20, 3)
    with pytest.raises(ValueError, match="'linear' is none of polynomial, rbf"):
        mmd(a, a, "linear")
    with pytest.raises(ValueError, match="sigma=0"):
        mmd(a, a, "rbf", sigma=0)
    with pytest.raises(ValueError, match="draws=0"):
        frechet_extrapolated(a, a, draws=0)
