"""Two sets of clips side by side: differences of pairs that were asked for the same thing, with how sure they are.

Two means with their intervals compare badly: most of what varies between clips is the prompt, which both sets share. So
clips are paired by prompt and seed (or by name), and the mean of the pairs' differences is what has an interval, by
prompt. Beside it stands a test that asks for no distribution: how often the one is better than the other.

What was measured in another way is not compared, nor are Fréchet distances over unequal numbers of clips, whose bias
depends on that number (Chong & Forsyth 2020, arXiv 1911.07023).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Literal

from videodit.evaluation.measure.clips import without_ending
from videodit.evaluation.report.results import ClipResult, Comparison, Difference, Distance, Protocol, Results, Summary
from videodit.evaluation.report.statistics import paired_difference

Key = Callable[[ClipResult], Any]


def compare(results: Results, other: Results, name: str) -> Comparison:
    """What differs between the clips of `results` and those of `other` (called `name`), measure by measure.

    Raises:
        ValueError: no clip of the one has a partner in the other.
    """
    paired_by, pairs = _pairs(results.clips, other.clips)
    if not pairs:
        raise ValueError(
            f"{name}: no clip has a partner here, neither by prompt and seed nor by a name that these do not "
            "contradict; sample both from one file of prompts"
        )
    differences = {
        metric: _difference(summary, other.summaries.get(metric), pairs)
        for metric, summary in results.summaries.items()
    }
    differences |= {
        metric: _of_distances(distance, other.distances.get(metric)) for metric, distance in results.distances.items()
    }
    return Comparison(
        other=name,
        paired_by=paired_by,
        pairs=tuple((mine.name, theirs.name) for mine, theirs in pairs),
        unpaired=len(results.clips) + len(other.clips) - 2 * len(pairs),
        differences=differences,
    )


def _pairs(
    clips: Sequence[ClipResult], others: Sequence[ClipResult]
) -> tuple[Literal["prompt and seed", "name"], list[tuple[ClipResult, ClipResult]]]:
    asked = all(clip.prompt is not None and clip.seed is not None for clip in (*clips, *others))
    if asked and all(_unique(each, _by_request) for each in (clips, others)):
        return "prompt and seed", _matched(clips, others, _by_request)
    key: Key = _by_stem if all(_unique(each, _by_stem) for each in (clips, others)) else _by_name
    return "name", [pair for pair in _matched(clips, others, key) if not _contradict(*pair)]


def _by_request(clip: ClipResult) -> tuple[str | None, int | None]:
    return clip.prompt, clip.seed


def _by_name(clip: ClipResult) -> str:
    return clip.name


def _by_stem(clip: ClipResult) -> str:
    return without_ending(clip.name)


def _contradict(clip: ClipResult, other: ClipResult) -> bool:
    """Whether two clips of one name are known to be of different prompts or seeds."""
    asked = ((clip.prompt, other.prompt), (clip.seed, other.seed))
    return any(a is not None and b is not None and a != b for a, b in asked)


def _unique(clips: Sequence[ClipResult], key: Key) -> bool:
    return max(Counter(map(key, clips)).values(), default=0) <= 1


def _matched(
    clips: Sequence[ClipResult], others: Sequence[ClipResult], key: Key
) -> list[tuple[ClipResult, ClipResult]]:
    theirs = {key(clip): clip for clip in others}
    return [(clip, theirs[key(clip)]) for clip in clips if key(clip) in theirs]


def _difference(mine: Summary, other: Summary | None, pairs: Sequence[tuple[ClipResult, ClipResult]]) -> Difference:
    name = mine.metric.name
    if why := _incomparable(mine, other):
        return Difference(metric=name, status="skipped", why=why)
    values, others, groups, left_out = [], [], [], Counter[str]()
    for clip, partner in pairs:
        a, b = (each.scores[name].value if name in each.scores else None for each in (clip, partner))
        if (clip.height, clip.width) != (partner.height, partner.width):
            left_out["of another size"] += 1
        elif mine.metric.rewards_stillness and ("still" in clip.flags or "still" in partner.flags):
            left_out["still"] += 1
        elif a is None or b is None:
            left_out["undefined"] += 1
        else:
            values.append(a)
            others.append(b)
            groups.append(clip.prompt if clip.prompt is not None else clip.name)
    if not values:
        why = f"no pair is left ({', '.join(f'{n} {reason}' for reason, n in left_out.items())})"
        return Difference(metric=name, status="skipped", why=why, left_out=dict(left_out))
    found = paired_difference(values, others, groups, mine.metric.better)
    return Difference(
        metric=name,
        status="measured",
        value=found.value,
        low=found.low,
        high=found.high,
        wins=found.wins,
        losses=found.losses,
        ties=found.ties,
        p=found.p,
        n=len(values),
        left_out=dict(left_out),
    )


def _of_distances(mine: Distance, other: Distance | None) -> Difference:
    name = mine.metric.name
    why = _incomparable(mine, other)
    if not why and other is not None and (mine.n, mine.n_reference) != (other.n, other.n_reference):
        why = (
            f"over {mine.n} clips (reference {mine.n_reference}) and over {other.n} ({other.n_reference}): its bias "
            "depends on these numbers; measure equally many"
        )
    if why or other is None or mine.value is None or other.value is None:
        return Difference(metric=name, status="skipped", why=why)
    return Difference(metric=name, status="measured", value=mine.value - other.value, n=mine.n)


def _incomparable(mine: Summary | Distance, other: Summary | Distance | None) -> str:
    """Why two figures say nothing about each other, or nothing."""
    if other is None:
        return "the other set was not measured by it"
    for which, each in (("here", mine), ("there", other)):
        if each.status == "skipped":
            return f"skipped {which}: {each.why}"
    fields = [f for f in Protocol.model_fields if f not in ("n", "fps")]
    fields = [f for f in fields if getattr(mine.protocol, f) != getattr(other.protocol, f)]
    rates = mine.protocol.fps or 0.0, other.protocol.fps or 0.0
    if max(rates) > 1.01 * min(rates):  # 24 frames a second are 23.99 where stamps are rounded
        fields.append("fps")
    said = ", ".join(f"{f} {getattr(mine.protocol, f)!r} and {getattr(other.protocol, f)!r}" for f in fields)
    return f"measured in another way: {said}" if said else ""
