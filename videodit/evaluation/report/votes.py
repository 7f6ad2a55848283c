"""Votes of people who saw two clips of one prompt and seed beside each other and did not know which was whose.

A file of pairs, voted on or not yet. What is preferred is told as a win rate: the share of votes for one side, where
"same" counts half to either. Votes on one prompt are alike, so its interval draws whole prompts (`bootstrap_mean`).
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import Field, ValidationError

from videodit.disk import replace_text
from videodit.evaluation.report.results import Record
from videodit.evaluation.report.statistics import Interval, bootstrap_mean, sign_test

Schema = Literal["videodit.votes/1"]
VOTES = "votes.json"
WON = {"first": 1.0, "same": 0.5, "second": 0.0}


class Pair(Record):
    """Two clips of one prompt and seed, in the order in which they are shown."""

    prompt: str
    seed: int
    clips: tuple[str, str] = Field(description="files beside this one: on the left (first), on the right (second)")
    sides: tuple[str, str] = Field(description="whose they are: a model and how it samples")
    choice: Literal["first", "second", "same"] | None = Field(None, description="which is better; None: no vote yet")


class Votes(Record):
    """All pairs of a folder."""

    schema_: Schema = Field("videodit.votes/1", alias="schema", serialization_alias="schema")
    pairs: tuple[Pair, ...]

    def with_choice(self, number: int, choice: str) -> Votes:
        pairs = list(self.pairs)
        pairs[number] = Pair.model_validate(pairs[number].model_dump() | {"choice": choice})
        return self.model_copy(update={"pairs": tuple(pairs)})

    def write(self, path: Path) -> None:
        replace_text(path, self.model_dump_json(indent=1, by_alias=True) + "\n")


class Preference(NamedTuple):
    """How often `side` was preferred to `other`; `p` is the sign test's, without ties."""

    side: str
    other: str
    rate: Interval
    wins: int
    losses: int
    ties: int
    prompts: int
    p: float

    def __str__(self) -> str:
        low, high = self.rate.low, self.rate.high
        within = "too few prompts for an interval" if low is None or high is None else f"{low:.0%} to {high:.0%}"
        return (
            f"{self.side} against {self.other}: win rate {self.rate.value:.0%} ({within}); {self.wins} won, "
            f"{self.losses} lost, {self.ties} the same, of {self.prompts} prompts; p {self.p:.3g}"
        )


def preferences(votes: Votes) -> list[Preference]:
    """What was preferred, for every two sides that were voted on; sides in the order of their names."""
    scores: dict[tuple[str, str], list[tuple[float, str]]] = defaultdict(list)
    for pair in votes.pairs:
        if pair.choice is not None:
            won, (side, other) = WON[pair.choice], pair.sides
            turned = side > other
            scores[(other, side) if turned else (side, other)].append((1 - won if turned else won, pair.prompt))
    return [_preference(*sides, *zip(*scores[sides], strict=True)) for sides in sorted(scores)]


def _preference(side: str, other: str, won: tuple[float, ...], prompts: tuple[str, ...]) -> Preference:
    wins, losses = won.count(1.0), won.count(0.0)
    ties, rate = len(won) - wins - losses, bootstrap_mean(won, prompts, share=True)
    return Preference(side, other, rate, wins, losses, ties, len(set(prompts)), sign_test(wins, losses))


def load_votes(path: str | Path) -> Votes:
    """A votes.json, checked.

    Raises:
        ValueError: it cannot be read, or is not of this schema; names the file and the first place that is wrong.
    """
    path = Path(path)
    try:
        return Votes.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(
            f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}; it is no file of votes"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: cannot be read as votes ({error})") from error
