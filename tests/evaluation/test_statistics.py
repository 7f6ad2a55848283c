"""Intervals, tests and scores against closed forms, enumeration and simulation."""

import itertools
import math
from statistics import NormalDist

import numpy as np
import pytest

from videodit.evaluation.report import statistics
from videodit.evaluation.report.results import Better
from videodit.evaluation.report.statistics import bootstrap_mean, paired_difference, robust_z, sign_test, wilson, worst


def clustered(rng: np.random.Generator, num_groups: int, size: int) -> tuple[np.ndarray, list[str]]:
    """Values around 0 whose groups differ as much as the values within one."""
    values = rng.normal(size=(num_groups, 1)) + rng.normal(size=(num_groups, size))
    return values.ravel(), [f"prompt {index}" for index in range(num_groups) for _ in range(size)]


def test_the_value_is_the_mean_over_all_values_not_over_groups() -> None:
    found = bootstrap_mean([1, 2, 3, 10, 4, 4, 4, 4], list("aaabcdef"))
    assert found.value == 4


STUDENT = {0.5: 0.7267, 0.8: 1.4759, 0.95: 2.5706}  # two-sided quantiles of 5 degrees of freedom, from a table


def test_the_interval_is_that_of_all_possible_resamples_set_apart_as_students_t_is() -> None:
    groups = {"a": [0.0, 1.0], "b": [4.0], "c": [2.0, 2.0, 7.0], "d": [-3.0], "e": [5.0, 6.0], "f": [0.5]}
    values = [value for group in groups.values() for value in group]
    names = [name for name, group in groups.items() for _ in group]
    sums, counts = (np.array([f(group) for group in groups.values()]) for f in (sum, len))
    draws = np.array(list(itertools.product(range(6), repeat=6)))
    means = sums[draws].sum(axis=1) / counts[draws].sum(axis=1)
    for level, t in STUDENT.items():
        tail = NormalDist().cdf(-t * math.sqrt(6 / 5))
        found = bootstrap_mean(values, names, level=level, resamples=100_000)
        np.testing.assert_allclose([found.low, found.high], np.quantile(means, [tail, 1 - tail]), atol=0.08)


def test_the_width_is_that_of_the_variance_between_groups() -> None:
    values, groups = clustered(np.random.default_rng(0), 200, 5)
    found = bootstrap_mean(values, groups)
    assert found.low is not None
    assert found.high is not None
    deviation = math.sqrt(np.var(values.reshape(200, 5).mean(axis=1)) / 200)
    assert found.high - found.low == pytest.approx(2 * 1.959964 * deviation, rel=0.04)


@pytest.mark.slow
def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    found = [bootstrap_mean(*clustered(rng, 40, 4), resamples=1000) for _ in range(300)]
    covered = np.mean([interval.low <= 0 <= interval.high for interval in found])
    assert 0.92 <= covered <= 0.98
    # Clips taken for independent would promise more than they hold: here about 0.76.
    alone = [str(index) for index in range(160)]
    found = [bootstrap_mean(clustered(rng, 40, 4)[0], alone, resamples=1000) for _ in range(300)]
    assert np.mean([interval.low <= 0 <= interval.high for interval in found]) < 0.85


def test_the_interval_of_few_groups_covers_nearly_as_often() -> None:
    rng = np.random.default_rng(0)
    found = [bootstrap_mean(*clustered(rng, 8, 4), resamples=1000) for _ in range(500)]
    covered = np.mean([interval.low <= 0 <= interval.high for interval in found])
    assert 0.91 <= covered <= 0.98  # by simulation 0.93; plain percentiles: 0.88


def test_another_order_gives_the_same_bits() -> None:
    for seed in range(5):
        values, groups = clustered(np.random.default_rng(seed), 7, 50)  # large groups: a plain sum's order shows
        order = np.random.default_rng(1).permutation(len(values))
        found = bootstrap_mean(values[order], [groups[index] for index in order], resamples=1000)
        assert found == bootstrap_mean(values, groups, resamples=1000)


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    values, groups = clustered(np.random.default_rng(0), 10, 2)
    whole = bootstrap_mean(values, groups, resamples=100)
    monkeypatch.setattr(statistics, "BLOCK", 64)
    assert bootstrap_mean(values, groups, resamples=100) == whole
    assert bootstrap_mean(values, groups, resamples=100, seed=1) != whole


def test_equal_values_have_an_interval_of_no_width() -> None:
    found = bootstrap_mean([0.1] * 9, list("aaabbcdef"))
    assert found.low == found.value == found.high == 0.1


@pytest.mark.parametrize(("truth", "prompts"), [(0.9, 6), (0.9, 10), (0.95, 24), (0.5, 12)])
def test_the_interval_of_a_share_covers_the_truth_though_few_say_no(truth: float, prompts: int) -> None:
    rng, names = np.random.default_rng(0), list(map(str, range(prompts)))
    drawn = [(rng.random(prompts) < truth).astype(float) for _ in range(300)]
    found = [bootstrap_mean(values, names, resamples=300, share=True) for values in drawn]
    assert np.mean([one.low <= truth <= one.high for one in found]) > 0.9
    plain = [bootstrap_mean(values, names, resamples=300) for values in drawn]
    assert all(one.low <= it.low and it.high <= one.high for one, it in zip(found, plain, strict=True))


def test_a_share_whose_prompts_say_different_things_is_left_to_the_resamples() -> None:
    values, names = np.tile([0.0, 1.0, 1.0], 8), [str(i // 3) for i in range(24)]
    assert bootstrap_mean(values, names, share=True) == bootstrap_mean(values, names)
    assert wilson(0.9, 10) == pytest.approx((0.5958, 0.9821), abs=1e-4)  # Wilson's, from a table


def test_five_groups_have_a_mean_and_no_interval() -> None:
    for names in ("aaaaaa", "abcdea"):
        found = bootstrap_mean([1, 2, 3, 4, 5, 6], list(names))
        assert (found.value, found.low, found.high) == (3.5, None, None)
    found = bootstrap_mean([1, 2, 3, 4, 5, 6], list("abcdef"))
    assert found.low is not None


def test_sign_test_equals_enumeration_of_all_tosses() -> None:
    for total in range(9):
        heads = [sum(toss) for toss in itertools.product((0, 1), repeat=total)]
        for wins in range(total + 1):
            uneven = abs(wins - total / 2)
            expected = np.mean([abs(count - total / 2) >= uneven for count in heads])
            assert sign_test(wins, total - wins) == pytest.approx(expected, abs=1e-15)


def test_sign_test_of_many_is_near_the_normal_law_and_of_none_is_one() -> None:
    z = (5100 - 5000 - 1) / math.sqrt(10100)  # with the correction for continuity
    assert sign_test(5000, 5100) == pytest.approx(math.erfc(z / math.sqrt(2)), rel=1e-3)
    assert sign_test(0, 0) == 1
    assert sign_test(0, 2000) == 0  # 2^-1999 is below any float


@pytest.mark.parametrize(("better", "wins", "losses"), [("higher", 3, 1), ("lower", 1, 3), ("neither", 3, 1)])
def test_pairs_are_counted_towards_better(better: Better, wins: int, losses: int) -> None:
    values, others, groups = [2.0, 3.0, 4.0, 5.0, 6.0, 7.0], [1.0, 1.0, 1.0, 5.0, 8.0, 7.0], list("abcdef")
    found = paired_difference(values, others, groups, better)
    assert (found.wins, found.losses, found.ties) == (wins, losses, 2)
    assert found.p == pytest.approx(2 * (1 + 4) / 16)
    mean = bootstrap_mean([1, 2, 3, 0, -2, 0], groups)
    assert (found.value, found.low, found.high) == (mean.value, mean.low, mean.high)
    assert found.low is not None
    assert found.value == pytest.approx(4 / 6)


def test_a_set_against_itself_differs_in_nothing() -> None:
    values, groups = clustered(np.random.default_rng(0), 6, 2)
    found = paired_difference(values, values, groups, "higher")
    assert (found.value, found.low, found.high) == (0, 0, 0)
    assert (found.wins, found.losses, found.ties, found.p) == (0, 0, 12, 1)


def test_robust_z_is_its_closed_form_and_passes_over_none() -> None:
    found = robust_z([None, 1.0, 2.0, 3.0, None, 4.0, 100.0])  # median 3, deviations 2 1 0 1 97, MAD 1
    expected = [None, -2 / 1.4826, -1 / 1.4826, 0, None, 1 / 1.4826, 97 / 1.4826]
    assert found == [None if value is None else pytest.approx(value) for value in expected]


def test_robust_z_of_a_gaussian_is_in_standard_deviations() -> None:
    values = np.random.default_rng(0).normal(5, 3, size=20_000)
    np.testing.assert_allclose(np.array(robust_z(list(values)), dtype=float), (values - 5) / 3, atol=0.1)


def test_robust_z_is_finite_where_most_values_are_equal() -> None:
    found = robust_z([1.0, 1.0, 1.0, 1.0, 3.0])  # MAD 0, mean deviation 2 / 5
    assert found == [0, 0, 0, 0, pytest.approx(2 / (math.sqrt(math.pi / 2) * 0.4))]


def test_robust_z_of_a_level_curve_is_zero_even_with_rounding() -> None:
    assert robust_z([0.3, 0.1 + 0.2, 0.3, 0.1 * 3, 0.3]) == [0] * 5
    assert robust_z([0.0] * 4) == [0] * 4


def test_robust_z_of_two_values_is_none() -> None:
    assert robust_z([1.0, None, 2.0]) == [None] * 3
    assert robust_z([]) == []


def test_the_worst_come_first_and_ties_by_frame() -> None:
    curve = [None, 5.0, 9.0, 5.0, 1.0, 5.0, 9.0, 6.0, 4.0, 7.0]
    assert [place.frame for place in worst(curve, "lower")] == [2, 6, 9]
    assert [place.frame for place in worst(curve, "higher", count=5)] == [4, 8]  # 5 is the median: not worse
    first = worst(curve, "higher", count=1)[0]
    assert (first.frame, first.value) == (4, 1.0)
    assert first.z == pytest.approx(4 / 1.4826)  # deviations 0 4 0 4 0 4 1 1 2: MAD 1


def test_a_level_curve_a_short_one_and_one_without_a_better_side_have_no_worst() -> None:
    assert worst([1.0] * 5, "lower") == []
    assert worst([1.0, 9.0], "lower") == []
    assert worst([1.0, 2.0, 9.0], "neither") == []


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="values is empty"):
        bootstrap_mean([], [])
    with pytest.raises(ValueError, match="2 values with 1 groups"):
        bootstrap_mean([1, 2], ["a"])
    with pytest.raises(ValueError, match=r"values\[1\] is nan"):
        bootstrap_mean([1, math.nan], ["a", "b"])
    with pytest.raises(ValueError, match="resamples=0"):
        bootstrap_mean([1], ["a"], resamples=0)
    with pytest.raises(ValueError, match="level=95"):
        bootstrap_mean([1], ["a"], level=95)
    with pytest.raises(ValueError, match="2 values and 1 others"):
        paired_difference([1, 2], [1], ["a", "b"], "higher")
    with pytest.raises(ValueError, match="losses=-1"):
        sign_test(1, -1)
    with pytest.raises(ValueError, match=r"curve\[2\] is inf"):
        robust_z([1.0, 2.0, math.inf])
