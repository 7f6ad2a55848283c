"""How sure a mean is, and where a curve is worst: against closed forms, counting and simulation."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest

from videodit.evaluation.results import Better
from videodit.evaluation.statistics import Worst, bootstrap_mean, paired_difference, robust_z, sign_test, worst


def test_the_value_is_the_mean_of_all_values_however_groups_are_sized() -> None:
    values, groups = [1.0, 2.0, 3.0, 10.0], ["a", "a", "a", "b"]
    found = bootstrap_mean(values, groups)
    assert found.value == 4.0
    assert (found.low, found.high) == (2.0, 10.0)  # both groups are a, or both are b, in a quarter of the draws each


def test_order_changes_no_bit() -> None:
    rng = np.random.default_rng(0)
    values, groups = rng.normal(size=50), [f"p{i // 3}" for i in range(50)]
    order = rng.permutation(50)
    assert bootstrap_mean(values, groups) == bootstrap_mean(values[order], [groups[i] for i in order])


def test_one_group_has_no_interval_and_equal_values_one_of_no_width() -> None:
    assert bootstrap_mean([1.0, 3.0], ["a", "a"]).low is None
    found = bootstrap_mean([0.1] * 7, list("abcdefg"))
    assert found.value == found.low == found.high == pytest.approx(0.1)


def test_the_interval_is_as_wide_as_theory_says() -> None:
    """Of equally large groups the mean's variance is that of group means over their number."""
    rng = np.random.default_rng(1)
    values = rng.normal(size=(200, 4)) + rng.normal(size=(200, 1))
    found = bootstrap_mean(values.reshape(-1), [str(i // 4) for i in range(800)])
    assert found.low is not None
    assert found.high is not None
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.mean(axis=1).std() / math.sqrt(200), rel=0.05)


@pytest.mark.slow
def test_the_interval_covers_the_truth_as_often_as_it_says_where_clips_of_a_prompt_are_alike() -> None:
    rng = np.random.default_rng(2)
    groups = [str(i // 5) for i in range(200)]
    hits = naive = 0
    for _ in range(300):
        values = (rng.normal(size=(40, 1)) + 0.3 * rng.normal(size=(40, 5))).reshape(-1)
        found = bootstrap_mean(values, groups, resamples=1000)
        alone = bootstrap_mean(values, [str(i) for i in range(200)], resamples=1000)
        hits += found.low <= 0 <= found.high  # type: ignore[operator]
        naive += alone.low <= 0 <= alone.high  # type: ignore[operator]
    assert 0.90 < hits / 300 < 0.98
    assert naive / 300 < 0.75  # as if they were independent


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (5, 0), (3, 4), (7, 2), (6, 6)])
def test_the_sign_test_counts_all_ways_coins_can_fall(wins: int, losses: int) -> None:
    total, fewer = wins + losses, min(wins, losses)
    falls = [sum(coins) for coins in product((0, 1), repeat=total)]
    as_uneven = sum(min(heads, total - heads) <= fewer for heads in falls)
    assert sign_test(wins, losses) == pytest.approx(as_uneven / 2**total)


@pytest.mark.parametrize(("better", "expected"), [("higher", (2, 1, 1)), ("lower", (1, 2, 1)), ("neither", (2, 1, 1))])
def test_a_win_is_on_the_better_side_and_a_tie_is_equal(better: Better, expected: tuple[int, int, int]) -> None:
    found = paired_difference([3.0, 2.0, 1.0, 5.0], [1.0, 1.0, 4.0, 5.0], list("abcd"), better)
    assert found.value == 0.0
    assert (found.wins, found.losses, found.ties) == expected
    assert found.p == 1.0


def test_robust_z_is_in_units_of_the_median_deviation() -> None:
    assert robust_z([None, 1.0, 2.0, 3.0, 4.0, 10.0]) == pytest.approx(
        [None, *((x - 3) / (1.4826 * 1) for x in (1.0, 2.0, 3.0, 4.0, 10.0))]
    )
    # more than half of the values equal: the mean deviation stands in
    assert robust_z([1.0, 1.0, 1.0, 1.0, 6.0]) == pytest.approx([0, 0, 0, 0, 5 / (1.2533 * 1)], rel=1e-3)
    assert robust_z([0.3, 0.1 + 0.2, 0.3]) == [0, 0, 0]
    assert robust_z([1.0, None, 2.0]) == [None, None, None]


def test_the_worst_places_are_on_the_worse_side_alone() -> None:
    curve = [None, 1.0, 0.9, 1.0, 0.2, 1.1, 0.9, 1.0]
    assert [place.frame for place in worst(curve, "higher")] == [4, 2, 6]
    assert worst(curve, "higher", 1) == [Worst(4, 0.2, pytest.approx(0.8 / (1.4826 * 0.1)))]
    assert [place.frame for place in worst(curve, "lower")] == [5]
    assert worst(curve, "neither") == []
    assert worst([0.5] * 5, "higher") == []


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap_mean([], []), "values is empty"),
        (lambda: bootstrap_mean([1.0], ["a", "b"]), "1 values"),
        (lambda: bootstrap_mean([math.nan], ["a"]), "finite"),
        (lambda: bootstrap_mean([1.0], ["a"], resamples=0), "resamples=0"),
        (lambda: bootstrap_mean([1.0], ["a"], level=1), "level=1"),
        (lambda: sign_test(-1, 2), "wins=-1"),
        (lambda: paired_difference([1.0], [1.0, 2.0], ["a"], "higher"), "1 values and 2 others"),
    ],
)
def test_mistakes_are_named(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]
