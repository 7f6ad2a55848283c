"""What an evaluation found, in a form that can be stored, compared and checked: one schema, versioned.

A number without its protocol says nothing: every score of this module stands under a `Protocol` that says what was
measured, by which model, on which frames, over how many clips; its `signature()` is the line for a paper. Values are
those of clips; a `Summary` is their mean with a bootstrap interval. Where something could not be measured there is no
number but a reason.

Curves are aligned to frames: `curve[i]` belongs to frame i, for a measure of transitions to the step from i - 1 to i,
and is None where the measure has no value there (the first frame; frames that a measure leaves out).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Schema = Literal["videodit.evaluation/1"]
SCHEMA: Schema = "videodit.evaluation/1"
Better = Literal["higher", "lower", "neither"]
Status = Literal["measured", "skipped"]
NAMED = 8  # clips in a line of text; the rest is counted
Flag = Literal["black", "white", "blank", "noise", "duplicate", "still", "frozen", "cut"]
EMPTY: tuple[Flag, ...] = ("black", "white", "blank", "noise", "duplicate")  # worth nothing, whatever they score


class Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, ser_json_inf_nan="null")


class Metric(Record):
    """What a measure is: its name, what it means, which way is better, and exactly how it is defined."""

    name: str = Field(description="as in --metrics: temporal_flickering, clip_consistency_all_pairs")
    title: str = Field(description="for people")
    definition: str = Field(description="one sentence, with its source")
    better: Better = "higher"
    unit: str = ""
    variant: str = Field("", description="which of the definitions in use: consecutive, all-pairs, first+prev ...")
    rewards_stillness: bool = Field(
        False, description="a clip that does not move scores best, so still clips are left out of its mean"
    )
    rewards_emptiness: bool = Field(
        False, description="gray, noise or one clip for all prompts can score well, so these are left out of its mean"
    )
    needs: str = Field("", description="what it cannot do without: '', a package, or 'clip', 'dino' ... weights")


class Protocol(Record):
    """How a number came about. Two numbers are comparable where their protocols differ in nothing but `n`."""

    metric: str
    variant: str = ""
    features: str = Field("", description="the extractor: pixels-centred, dis-medium, a model's name")
    model_hash: str = Field("", description="sha256 of the extractor's weights, 12 digits; '' where there are none")
    preprocessing: str = Field("", description="size, filter and antialiasing between the file and the measure")
    sampling: str = Field("", description="which frames: all, 16 evenly; by time, where a rate was chosen")
    reference: str = Field("", description="sha256 over what it was compared with, 12 digits; '' where with nothing")
    fps: float | None = Field(None, description="frames a second that were looked at; None: of images alone")
    n: int = Field(0, description="clips in the mean")
    estimator: str = Field("mean of clips", description="how clips become one number")

    def signature(self) -> str:
        """One line to paste into a paper."""
        parts = {
            "metric": self.metric,
            "variant": self.variant,
            "features": self.features + (f"@{self.model_hash}" if self.model_hash else ""),
            "frames": self.preprocessing,
            "sampling": self.sampling,
            "reference": self.reference,
            "fps": "" if self.fps is None else f"{self.fps:g}",
            "n": str(self.n),
            "estimator": self.estimator,
            "schema": SCHEMA,
        }
        return "|".join(f"{key}:{value.replace('|', '/')}" for key, value in parts.items() if value)


class Score(Record):
    """One measure of one clip. `value` is None where it is not defined for this clip; `why` then says so."""

    value: float | None
    why: str = ""
    curve: tuple[float | None, ...] = Field((), description="a value a frame; empty: the measure has none")


class Moment(Record):
    """One of a clip's worst places: the step from frame `frame` - 1 to `frame` in the curve of `metric`."""

    metric: str
    frame: int
    time: float = Field(description="seconds from the first frame")
    value: float
    z: float = Field(description="robust z-score in the clip's own curve, towards worse: (x - median) / (1.4826 MAD)")


class Nearest(Record):
    """The true clip nearest to a clip."""

    name: str
    distance: float = Field(description="root mean square of the differences of pixels, 0 to 1, at 32x32")
    phase: int = Field(description="by how many twelfths of its length it is ahead")
    asked: bool | None = Field(None, description="whether its caption is the clip's prompt; None: that is no caption")
    motion: float | None = Field(
        None, description="change from frame to frame, over that of the nearest true clip with the prompt for a caption"
    )
    alike: float | None = Field(
        None, description="correlation of what each of the two is beside its own mean over time: -1 to 1, noise 0"
    )


class Nearness(Record):
    """How near clips are to true clips, and those to each other."""

    source: str
    n: int = Field(description="true clips")
    mean: float = Field(description="of the clips' distances to the nearest of them")
    among_median: float = Field(description="of true clips' distances to the nearest other")
    close: float = Field(description="half of that")
    remembered: tuple[str, ...] = Field(description="clips that are nearer to a true one than `close`")
    named: int = Field(0, description="clips whose prompt is the caption of a true clip")
    asked: int = Field(0, description="of these, the nearest true clip is such a one")
    moving: int = Field(0, description="of these, those that change half to twice as much as that does")
    alike: float | None = Field(None, description="of these, how alike they change to it, on average")
    left_out: dict[str, str] = Field({}, description="true clips that cannot be read, and why")


class ClipResult(Record):
    """All that was found of one clip."""

    name: str
    path: str | None = None
    start: float = Field(0.0, description="where in its file it begins, in seconds")
    end: float | None = Field(None, description="and where it ends; none: with the file")
    digest: str = Field(description="sha256 of the file, or of the frames")
    prompt: str | None = None
    seed: int | None = None
    num_frames: int
    fps: float
    height: int = Field(description="as measured, in pixels")
    width: int
    flags: tuple[Flag, ...] = ()
    scores: dict[str, Score] = {}
    worst: tuple[Moment, ...] = ()
    nearest: Nearest | None = None

    def left_out(self, metric: Metric) -> Flag | None:
        """What keeps the clip out of the mean of a measure, which it would win by being worth nothing."""
        if metric.rewards_stillness and "still" in self.flags:
            return "still"
        rewarded = metric.rewards_stillness or metric.rewards_emptiness
        return next((flag for flag in self.flags if flag in EMPTY and rewarded), None)


class Summary(Record):
    """A measure over all clips: the mean and its 95 % interval, or why there is none."""

    metric: Metric
    status: Status
    why: str = ""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    left_out: dict[str, int] = Field({}, description="clips that are not in the mean, by reason")
    protocol: Protocol
    signature: str


class Distance(Record):
    """Between the set of clips and the reference set, on one extractor's features."""

    metric: Metric
    status: Status
    why: str = ""
    value: float | None = None
    extrapolated: float | None = Field(
        None, description="of a Fréchet distance: the intercept of a line in 1/N; `why` tells if there is none"
    )
    n: int = 0
    n_reference: int = 0
    left_out: dict[str, int] = Field({}, description="clips of either set that are not in it, by reason")
    protocol: Protocol
    signature: str


class Failure(Record):
    """A clip that could not be measured."""

    name: str
    why: str


class Difference(Record):
    """A measure's difference between two sets, over pairs with the same prompt and seed (or name): this minus other."""

    metric: str
    status: Status
    why: str = ""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    wins: int = Field(0, description="pairs in which this set is better")
    losses: int = 0
    ties: int = 0
    p: float | None = Field(None, description="of the exact two-sided sign test; ties are left out")
    n: int = Field(0, description="pairs")
    left_out: dict[str, int] = {}


class Comparison(Record):
    """This set against another one."""

    other: str
    paired_by: Literal["prompt and seed", "name"]
    pairs: tuple[tuple[str, str], ...] = Field(description="names of the clips: of this set, of the other")
    unpaired: int = Field(description="clips of either set without a partner")
    differences: dict[str, Difference]


class Results(Record):
    """Everything: what was asked, each measure over all clips, each clip, and what could not be measured."""

    schema_: Schema = Field(SCHEMA, alias="schema", serialization_alias="schema")
    version: str = Field(description="of videodit")
    settings: dict[str, Any] = {}
    summaries: dict[str, Summary]
    distances: dict[str, Distance] = {}
    clips: tuple[ClipResult, ...]
    failures: tuple[Failure, ...] = ()
    comparison: Comparison | None = None
    nearest: Nearness | None = None

    def to_text(self) -> str:
        """A line a measure, and what could not be measured, for people to read."""
        found: list[Summary | Distance] = [*self.summaries.values(), *self.distances.values()]
        lines = [_line(one) for one in found if one.value is not None]
        for flag in get_args(Flag):
            if flagged := [clip.name for clip in self.clips if flag in clip.flags]:
                lines.append(f"{len(flagged)} of {len(self.clips)} clips: {flag} ({_some(flagged)})")
        lines += [f"skipped: {one.metric.name}: {one.why}" for one in found if one.status == "skipped"]
        lines += [f"failed: {failure.name}: {failure.why}" for failure in self.failures]
        if self.nearest:
            lines += _nearness_lines(self.nearest, len(self.clips))
        if self.comparison:
            lines += _comparison_lines(self.comparison, self.summaries)
        return "\n".join([*lines, f"{len(self.clips)} measured, {len(self.failures)} failed"])

    def to_json(self) -> str:
        return self.model_dump_json(indent=1, by_alias=True) + "\n"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def _line(one: Summary | Distance) -> str:
    interval = ""
    if isinstance(one, Summary) and one.low is not None and one.high is not None:
        interval = f"{one.low:#.4g} to {one.high:#.4g}"
    if isinstance(one, Distance) and one.extrapolated is not None:
        interval = f"{one.extrapolated:#.4g} at 1/N = 0"
    left_out = f", {sum(one.left_out.values())} left out" if one.left_out else ""
    return f"{one.metric.name:28} {one.value:#12.4g}  {interval:24} {one.metric.unit:16} n {one.protocol.n}{left_out}"


def _nearness_lines(found: Nearness, clips: int) -> list[str]:
    remembered = f"; remembered: {_some(found.remembered)}" if found.remembered else ""
    asked = (
        f"of {found.named} made from the caption of a true clip {found.asked} are nearest to that one, and "
        f"{found.moving} change half to twice as much as it, alike by {found.alike or 0:.2f} on average"
    )
    return [
        f"nearest of {found.n} true clips: at {found.mean:.3f} on average, where true clips are "
        f"{found.among_median:.3f} apart; {len(found.remembered)} of {clips} are nearer than {found.close:.3f}"
        f"{remembered}",
        *([asked] if found.named else []),
        *(f"left out of the true clips: {name}: {why}" for name, why in found.left_out.items()),
    ]


def _comparison_lines(found: Comparison, summaries: Mapping[str, Summary]) -> list[str]:
    lines = [f"against {found.other}: {len(found.pairs)} pairs by {found.paired_by}, {found.unpaired} clips without"]
    for name, one in found.differences.items():
        if one.value is None:
            lines.append(f"{name:28} not compared: {one.why}")
            continue
        interval = f"{one.low:#.4g} to {one.high:#.4g}" if one.low is not None and one.high is not None else ""
        either = name in summaries and summaries[name].metric.better == "neither"
        more, less = ("higher", "lower") if either else ("better", "worse")
        test = f"{more} {one.wins}, {less} {one.losses}, equal {one.ties}, p {one.p:.3g}" if one.p is not None else ""
        unit = summaries[name].metric.unit if name in summaries else ""
        lines.append(f"{name:28} {one.value:+#12.4g}  {interval:24} {unit:16} {test}".rstrip())
    return lines


def load_results(path: str | Path) -> Results:
    """A results.json, checked.

    Raises:
        ValueError: it is not there, no JSON, or not of this schema; names the file and the first place that is wrong.
    """
    path = Path(path)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read as results ({error})") from error
    if not isinstance(values, Mapping) or values.get("schema") != SCHEMA:
        said = values.get("schema") if isinstance(values, Mapping) else None
        raise ValueError(f"{path}: its schema is {said!r}, not {SCHEMA!r}: evaluate the clips again")
    try:
        return Results.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
