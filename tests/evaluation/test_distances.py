"""Distances between sets, against closed forms and brute force."""

from __future__ import annotations

import numpy as np
import pytest

from videodit.evaluation import distances as room
from videodit.evaluation.distances import Kernel, frechet_distance, frechet_extrapolated, mmd


def drawn(n: int, d: int, seed: int = 0, scale: float = 1.0, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, scale, (n, d))


def with_moments(n: int, mean: np.ndarray, deviations: np.ndarray, seed: int) -> np.ndarray:
    """Samples whose own mean and covariance (over n - 1) are exactly these, the covariance diagonal."""
    rows = drawn(n, len(mean), seed)
    rows -= rows.mean(axis=0)
    white = np.linalg.qr(rows)[0] * np.sqrt(n - 1)
    return white * deviations + mean


def by_eigenvalues(a: np.ndarray, b: np.ndarray) -> float:
    """The definition: |m - m'|^2 + tr S + tr S' - 2 tr (S^1/2 S' S^1/2)^1/2."""
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    values, vectors = np.linalg.eigh(cov_a)
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    inner = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ cov_b @ root), 0)).sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * inner)


def test_frechet_of_diagonal_gaussians_is_its_closed_form() -> None:
    rng = np.random.default_rng(1)
    means, deviations = rng.normal(size=(2, 6)), rng.uniform(0.1, 3, (2, 6))
    a, b = (with_moments(40, means[i], deviations[i], i) for i in range(2))
    expected = ((means[0] - means[1]) ** 2).sum() + ((deviations[0] - deviations[1]) ** 2).sum()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(("n", "m", "d"), [(50, 70, 6), (8, 9, 30), (8, 60, 20), (60, 8, 20)])
def test_frechet_of_many_or_few_samples_is_its_definition(n: int, m: int, d: int) -> None:
    mix = drawn(d, d, 5)
    a, b = drawn(n, d, 1) @ mix, drawn(m, d, 2, 1.5, 0.3) @ mix
    assert frechet_distance(a, b) == pytest.approx(by_eigenvalues(a, b), rel=1e-6)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-10)


@pytest.mark.parametrize(("n", "d"), [(64, 400), (500, 64)])
def test_frechet_of_identical_sets_is_nothing(n: int, d: int) -> None:
    a = drawn(n, d)
    assert abs(frechet_distance(a, a.copy())) < 1e-9
    assert abs(frechet_distance(a, a[::-1])) < 1e-9


def test_frechet_depends_on_the_number_of_samples_and_its_limit_does_not() -> None:
    """Two halves of one source: biased far from 0, more so with fewer samples; the line in 1/N takes most of it off."""
    found = [frechet_extrapolated(drawn(n, 20, 1), drawn(n, 20, 2)) for n in (80, 320)]
    assert found[0].value > 3 * found[1].value > 0
    for one in found:
        assert one.intercept is not None
        assert abs(one.intercept) < 0.2 * one.value
    shifted = frechet_extrapolated(drawn(320, 20, 1), drawn(320, 20, 2, shift=0.5))
    assert shifted.intercept is not None
    assert abs(shifted.intercept - 5) < 0.2 * abs(shifted.value - 5) + 0.3  # 20 * 0.5^2; the means themselves are drawn


@pytest.mark.slow
def test_the_known_bias_of_400_dimensions() -> None:
    assert frechet_distance(drawn(64, 400, 1), drawn(64, 400, 2)) == pytest.approx(549, rel=0.05)
    assert frechet_distance(drawn(2048, 400, 1), drawn(2048, 400, 2)) == pytest.approx(39, rel=0.05)


def test_too_few_samples_for_a_line_say_so() -> None:
    found = frechet_extrapolated(drawn(20, 30, 1), drawn(40, 30, 2))
    assert found.intercept is None
    assert found.value == frechet_distance(drawn(20, 30, 1), drawn(40, 30, 2))
    assert "20 samples of 30 features" in found.why


def test_the_order_of_samples_changes_no_bit() -> None:
    a, b = drawn(64, 10, 1), drawn(80, 10, 2)
    shuffled = np.random.default_rng(0).permutation(a)
    assert frechet_distance(a, b) == frechet_distance(shuffled, b)
    assert frechet_extrapolated(a, b) == frechet_extrapolated(shuffled, b)
    assert mmd(a, b) == mmd(shuffled, b)


def kernel_value(x: np.ndarray, y: np.ndarray, kernel: Kernel, sigma: float) -> float:
    if kernel == "polynomial":
        return float((x @ y / len(x) + 1) ** 3)
    return float(np.exp(-((x - y) ** 2).sum() / (2 * sigma**2)))


@pytest.mark.parametrize("kernel", ["polynomial", "rbf"])
@pytest.mark.parametrize("block", [4, 1000])
def test_mmd_equals_its_double_sum(kernel: Kernel, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "BLOCK", block)
    a, b = drawn(11, 3, 1), drawn(14, 3, 2, shift=0.5)
    sigma = 1.7
    within = [
        np.mean([kernel_value(x[i], x[j], kernel, sigma) for i in range(len(x)) for j in range(len(x)) if i != j])
        for x in (a, b)
    ]
    between = np.mean([kernel_value(x, y, kernel, sigma) for x in a for y in b])
    assert mmd(a, b, kernel, sigma=sigma) == pytest.approx(sum(within) - 2 * between, abs=1e-12)


@pytest.mark.parametrize("kernel", ["polynomial", "rbf"])
def test_mmd_is_unbiased_under_the_null_and_is_positive_for_another_source(kernel: Kernel) -> None:
    values = [mmd(drawn(12, 4, 2 * i), drawn(9, 4, 2 * i + 1), kernel, sigma=2.0) for i in range(600)]
    error = np.std(values) / np.sqrt(len(values))
    assert abs(np.mean(values)) < 4 * error
    assert 0.3 < np.mean(np.array(values) < 0) < 0.8  # below 0 too: nothing is clipped
    assert mmd(drawn(60, 4, 1), drawn(60, 4, 2, shift=1.0), kernel, sigma=2.0) > 10 * error


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (drawn(1, 3), drawn(5, 3), "first set of features is .1, 3.; it must be n d with two samples"),
        (drawn(5, 3), drawn(5, 4), "widths 3 and 4"),
        (drawn(5, 3), np.full((5, 3), np.nan), "sample 0 of the second set of features is not finite; 5 such"),
        (drawn(5, 3), np.full((5, 3), "x"), "give real numbers"),
    ],
)
def test_features_that_are_none_are_refused(a: np.ndarray, b: np.ndarray, message: str) -> None:
    for distance in (frechet_distance, frechet_extrapolated, mmd):
        with pytest.raises(ValueError, match=message):
            distance(a, b)


def test_options_out_of_range_are_refused() -> None:
    a = drawn(5, 3)
    with pytest.raises(ValueError, match="'linear' is none of polynomial, rbf"):
        mmd(a, a, "linear")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="sigma=0"):
        mmd(a, a, "rbf", sigma=0)
    with pytest.raises(ValueError, match="draws=0"):
        frechet_extrapolated(a, a, draws=0)
