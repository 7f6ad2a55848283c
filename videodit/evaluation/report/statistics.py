"""How sure a mean is, whether two sets differ, and where a curve leaves its own ways.

Clips of one prompt are alike, so they are not that many independent clips: intervals resample whole prompts. Nothing
here depends on the order of its input, bit for bit: groups are sorted, sums are exact (`math.fsum`), draws are seeded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from videodit.evaluation.report.results import Better

BLOCK = 2**20  # draws that are in memory at once
FEWEST = 6  # groups that an interval can be had from: of five, not even a sign test could tell 5 %
ROUNDING = 1e-9  # of a curve's largest value: steps below it are no steps


@dataclass(frozen=True)
class Interval:
    """A mean and its interval; without bounds where there are fewer than `FEWEST` groups."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Paired:
    """The mean difference of pairs with its interval, and the count of pairs that fell either way.

    `p` is the sign test's: how likely so uneven a count would be if each pair fell either way by the toss of a coin.
    """

    value: float
    low: float | None
    high: float | None
    wins: int
    losses: int
    ties: int
    p: float


@dataclass(frozen=True)
class Worst:
    """A place of a curve that is worse than its median: `z` is positive, and how far."""

    frame: int
    value: float
    z: float


def bootstrap_mean(
    values: Sequence[float] | np.ndarray,
    groups: Sequence[str],
    *,
    resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
    share: bool = False,
) -> Interval:
    """The mean over all values, and its interval when whole groups are drawn with replacement.

    The cluster bootstrap (Davison and Hinkley 1997, section 3.8; Field and Welsh 2007): a resample draws as many groups
    as there are, each with all its values, and its mean is the sum of their sums over the sum of their counts. The
    bounds are percentiles, set further out where groups are few (Hesterberg 2015, The American Statistician 69:4,
    expanded percentiles): plain ones are as narrow as (G - 1) / G of the variance and a normal law make them.

    values: n; groups: the group (the prompt) of each value. share: they are from 0 to 1, and where all of a group say
    the same, yes, no or undecided, resamples know nothing of what is rare: the interval is Wilson's at least.
    Raises ValueError when there are no values, when they are not finite, when lengths differ, when `resamples` is below
    1 or `level` is not between 0 and 1.
    """
    if resamples < 1:
        raise ValueError(f"resamples={resamples} must be 1 or more")
    if not 0 < level < 1:
        raise ValueError(f"level={level} must be between 0 and 1, as in 0.95")
    members = _by_group(_finite(values, "values"), groups)
    count = sum(map(len, members))
    mean = math.fsum(value for group in members for value in group) / count
    if len(members) < FEWEST:
        return Interval(mean, None, None)
    # Of deviations, so that equal values have an interval of no width and not one of rounding.
    sums = np.array([math.fsum(value - mean for value in group) for group in members])
    counts = np.array([len(group) for group in members])
    rng = np.random.default_rng(seed)
    rows = max(1, BLOCK // len(members))
    means = np.empty(resamples)
    for start in range(0, resamples, rows):
        drawn = rng.integers(len(members), size=(min(rows, resamples - start), len(members)))
        means[start : start + rows] = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    tail = _expanded_tail((1 - level) / 2, len(members))
    low, high = np.quantile(means, [tail, 1 - tail])
    least, most = float(np.min(values)), float(np.max(values))  # no resample's mean is beyond, but for rounding
    low, high = max(least, mean + float(low)), min(most, mean + float(high))
    if share and {math.fsum(group) / len(group) for group in members} <= {0.0, 0.5, 1.0}:
        wide = wilson(mean, len(members), level)
        low, high = min(low, wide[0]), max(high, wide[1])
    return Interval(mean, low, high)


def wilson(share: float, count: int, level: float = 0.95) -> tuple[float, float]:
    """The interval of a share of `count` that say yes or no, which holds at 0 and 1 too (Wilson 1927)."""
    z = -NormalDist().inv_cdf((1 - level) / 2)
    center = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return max(0.0, center - half), min(1.0, center + half)


def _expanded_tail(tail: float, count: int) -> float:
    """The percentile that a percentile interval of `count` groups takes for Student's `tail`."""
    normal, freedom = NormalDist(), count - 1
    z = -normal.inv_cdf(tail)
    # Student's t by its expansion in 1/freedom (Abramowitz and Stegun 26.7.5); to 0.3 % from 5 degrees on
    t = z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    t += (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    return normal.cdf(-t * math.sqrt(count / freedom))


def sign_test(wins: int, losses: int) -> float:
    """Exact two-sided p of the sign test: of `wins` + `losses` fair coins, the chance to fall as unevenly or more so.

    Ties are to be left out before (Conover 1999, section 3.4). 1 where nothing was won or lost.
    Raises ValueError for counts below 0.
    """
    if wins < 0 or losses < 0:
        raise ValueError(f"wins={wins} and losses={losses} must be 0 or more")
    total, fewer = wins + losses, min(wins, losses)
    ways = chosen = 1
    for drawn in range(fewer):
        chosen = chosen * (total - drawn) // (drawn + 1)  # C(total, drawn + 1)
        ways += chosen
    return min(1.0, 2 * ways / 2**total)


def paired_difference(
    values: Sequence[float] | np.ndarray,
    others: Sequence[float] | np.ndarray,
    groups: Sequence[str],
    better: Better,
    *,
    resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> Paired:
    """The mean of `values` less `others`, pair by pair, with `bootstrap_mean`'s interval over groups and the sign test.

    A win is a pair whose value is better than the other's: higher or lower, as `better` says; where it says "neither",
    a higher one. A tie is a difference of exactly 0. The sign test counts each pair for itself, so its p speaks of
    these prompts; the interval, which draws prompts, speaks of others like them.

    values, others: n; groups: the group (the prompt) of each pair.
    Raises ValueError as `bootstrap_mean` does.
    """
    first, second = _finite(values, "values"), _finite(others, "others")
    if len(first) != len(second):
        raise ValueError(f"{len(first)} values and {len(second)} others are no pairs")
    differences = [value - other for value, other in zip(first, second, strict=True)]
    mean = bootstrap_mean(differences, groups, resamples=resamples, level=level, seed=seed)
    higher, lower = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    wins, losses = (lower, higher) if better == "lower" else (higher, lower)
    ties = len(differences) - wins - losses
    return Paired(mean.value, mean.low, mean.high, wins, losses, ties, sign_test(wins, losses))


def robust_z(curve: Sequence[float | None]) -> list[float | None]:
    """Each value's (x - median) / (1.4826 MAD), the score in standard deviations that outliers do not dull.

    The median absolute deviation is 0 where more than half of the values are equal; then the spread is 1.2533 times the
    mean absolute deviation (Iglewicz and Hoaglin 1993), so no score is infinite. A deviation within rounding (1e-9 of
    the largest magnitude) counts as 0: a level curve has scores of 0.

    None stays None, and all are None where fewer than three values are there.
    Raises ValueError for a value that is not finite.
    """
    scores: list[float | None] = [None] * len(curve)
    frames = [frame for frame, value in enumerate(curve) if value is not None]
    values = np.array(_finite([value for value in curve if value is not None], "curve"))
    if len(values) < 3:
        return scores
    deviations = values - np.median(values)
    deviations[np.abs(deviations) <= ROUNDING * np.abs(values).max()] = 0
    spread = 1.4826 * np.median(np.abs(deviations)) or math.sqrt(math.pi / 2) * np.abs(deviations).mean() or 1.0
    for frame, score in zip(frames, deviations / spread, strict=True):
        scores[frame] = float(score)
    return scores


def worst(curve: Sequence[float | None], better: Better, count: int = 3) -> list[Worst]:
    """The at most `count` worst places of a curve, worst first, equally bad ones by frame.

    Only values on the worse side of the median are listed: a level curve has none, nor has one of fewer than three
    values, nor one in which neither way is better. They need not be bad; their z says how far out they are.
    Raises ValueError for a value that is not finite.
    """
    if better == "neither":
        return []
    sign = 1 if better == "lower" else -1
    found = [
        Worst(frame, value, sign * score)
        for frame, (value, score) in enumerate(zip(curve, robust_z(curve), strict=True))
        if value is not None and score is not None and sign * score > 0
    ]
    return sorted(found, key=lambda place: (-place.z, place.frame))[:count]


def _by_group(values: list[float], groups: Sequence[str]) -> list[list[float]]:
    """The values of each group, groups in the order of their names."""
    if not values:
        raise ValueError("values is empty; a mean needs one value or more")
    if len(values) != len(groups):
        raise ValueError(f"{len(values)} values with {len(groups)} groups; give each value its group")
    members: dict[str, list[float]] = {}
    for value, group in zip(values, groups, strict=True):
        members.setdefault(group, []).append(value)
    return [members[group] for group in sorted(members)]


def _finite(values: Sequence[float] | np.ndarray, name: str) -> list[float]:
    numbers = [float(value) for value in values]
    for index, number in enumerate(numbers):
        if not math.isfinite(number):
            raise ValueError(f"{name}[{index}] is {number}; leave out what is not finite, and say so")
    return numbers
