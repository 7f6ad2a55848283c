"""From clips to one number with its interval and its protocol, and from two sets to a distance.

Clips that are worth nothing are left out of the mean of measures that reward it, and counted. Intervals are by prompt:
clips of one prompt with several seeds stand or fall together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from videodit.evaluation.measure.distances import frechet_extrapolated, jedi, mmd
from videodit.evaluation.measure.feature_metrics import FEATURE_METRICS
from videodit.evaluation.measure.plan import DISTANCES, Plan, extractor_of, needs_reference
from videodit.evaluation.report.results import ClipResult, Distance, Protocol, Summary
from videodit.evaluation.report.statistics import bootstrap_mean

Vectors = dict[str, np.ndarray | str]  # of a clip, by extractor; or why there is none


@dataclass(frozen=True)
class Circumstances:
    """How everything was measured: what was planned, at which size and rate."""

    plan: Plan
    side: int | None
    resampled: bool
    fps: float | None
    reference: str = ""  # digest of the clips that are compared with

    def protocol(self, name: str, n: int) -> Protocol:
        plan, metric = self.plan, self.plan.metrics[name]
        measure = plan.streaming.get(name) or plan.paired.get(name)
        which = extractor_of(name) if name in FEATURE_METRICS or name in DISTANCES else ""
        extractor = getattr(plan.extractors, which) if which and measure is None else None
        frames = "native" if self.side is None else f"short side at most {self.side}, bicubic, antialiased"
        return Protocol(
            metric=name,
            variant=metric.variant,
            features=measure.features(plan.extractors.flow) if measure else extractor.name if extractor else "",
            model_hash=extractor.hash if extractor else "",
            preprocessing=extractor.preprocessing if extractor else frames,
            sampling=(getattr(extractor, "sampling", "all") + (" by time" if self.resampled else "")),
            reference=self.reference if needs_reference(name) else "",
            fps=self.fps,
            n=n,
            estimator="squared distance of sets" if name in DISTANCES else "mean of clips",
        )


def summary(name: str, clips: Sequence[ClipResult], around: Circumstances) -> Summary:
    """The mean of a measure over clips, with a 95 % interval by prompt."""
    metric, values, groups, left_out = around.plan.metrics[name], [], [], Counter[str]()
    for clip in clips:
        score = clip.scores.get(name)
        if flag := clip.left_out(metric):
            left_out[flag] += 1
        elif score is not None and score.value is not None:
            values.append(score.value)
            groups.append(clip.prompt if clip.prompt is not None else clip.name)
        elif score is not None:
            left_out[score.why] += 1
    protocol = around.protocol(name, len(values))
    why = around.plan.why_not.get(name, "")
    if not values and not why:
        why = f"no clip is left: {', '.join(f'{n} of them: {reason}' for reason, n in left_out.items())}"
    found = None if why else bootstrap_mean(values, groups, share=metric.unit == "share")
    return Summary(
        metric=metric,
        status="skipped" if found is None else "measured",
        why=why,
        **({} if found is None else {"value": found.value, "low": found.low, "high": found.high}),
        left_out=dict(left_out),
        protocol=protocol,
        signature=protocol.signature(),
    )


def distance(name: str, mine: Sequence[Vectors], others: Sequence[Vectors], around: Circumstances) -> Distance:
    """A distance between the set of clips and the reference, on one extractor's vectors."""
    which, metric = DISTANCES[name]
    a, b = _usable(mine, which), _usable(others, which)
    protocol = around.protocol(name, len(a))
    why = around.plan.why_not.get(name, "")
    if not why and min(len(a), len(b)) < 2:
        why = f"{len(a)} clips and {len(b)} of the reference can be used; two of each are needed{_first(mine, which)}"
    value = extrapolated = None
    without = ""
    if not why:
        plain = {"mmd": mmd, "jedi": jedi}.get(name.partition("_")[0])
        if plain:
            value = plain(np.stack(a), np.stack(b))
        else:
            found = frechet_extrapolated(np.stack(a), np.stack(b))
            value, extrapolated, without = found.value, found.intercept, found.why
    return Distance(
        metric=metric,
        status="skipped" if why else "measured",
        why=why or without,
        value=value,
        extrapolated=extrapolated,
        n=len(a),
        n_reference=len(b),
        left_out=_left_out([*mine, *others], which),
        protocol=protocol,
        signature=protocol.signature() + f"|n_reference:{len(b)}",
    )


def _usable(sets: Sequence[Vectors], which: str) -> list[np.ndarray]:
    return [vector for one in sets if isinstance(vector := one.get(which), np.ndarray)]


def _left_out(sets: Sequence[Mapping[str, np.ndarray | str]], which: str) -> dict[str, int]:
    return dict(Counter(why for one in sets if isinstance(why := one.get(which), str)))


def _first(sets: Sequence[Vectors], which: str) -> str:
    reasons = _left_out(sets, which)
    return f" ({next(iter(reasons))})" if reasons else ""
