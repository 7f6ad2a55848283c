"""Votes: what is preferred, as a closed form says, whichever side was on the left."""

from __future__ import annotations

import json
import math
import random
import sys
from pathlib import Path

import pytest

from videodit.evaluation.report.votes import Pair, Votes, load_votes, preferences

Choice = str | None


def voted(*choices: Choice, prompts: int = 0, turned: bool = False) -> Votes:
    """A pair a choice, of `new` and `old`; `turned` shows each the other way round."""
    other = {"first": "second", "second": "first"}
    sides = ("old", "new") if turned else ("new", "old")
    return Votes(
        pairs=tuple(
            Pair.model_validate(
                {
                    "prompt": f"p{i % prompts if prompts else i}",
                    "seed": i,
                    "clips": (f"{2 * i}.mp4", f"{2 * i + 1}.mp4"),
                    "sides": sides,
                    "choice": other.get(choice or "", choice) if turned else choice,
                }
            )
            for i, choice in enumerate(choices)
        )
    )


CHOICES = ["first"] * 6 + ["second"] * 2 + ["same"] * 4 + [None] * 3


def test_a_win_rate_counts_half_for_the_same_and_nothing_for_no_vote() -> None:
    (found,) = preferences(voted(*CHOICES))
    assert (found.side, found.other) == ("new", "old")
    assert (found.wins, found.losses, found.ties, found.prompts) == (6, 2, 4, 12)
    assert found.rate.value == pytest.approx((6 + 4 / 2) / 12)
    assert found.p == pytest.approx(2 * sum(math.comb(8, k) for k in range(3)) / 2**8)
    assert found.rate.low < found.rate.value < found.rate.high


def test_who_is_on_the_left_does_not_matter_nor_the_order_of_votes() -> None:
    votes = voted(*CHOICES)
    mixed = [*voted(*CHOICES[::2]).pairs, *voted(*CHOICES[1::2], turned=True).pairs]
    assert preferences(voted(*CHOICES, turned=True)) == preferences(votes)
    named = [pair.model_copy(update={"prompt": f"p{i}"}) for i, pair in enumerate(mixed)]
    random.Random(0).shuffle(named)
    assert preferences(Votes(pairs=tuple(named)))[0].rate.value == preferences(votes)[0].rate.value


def test_votes_on_few_prompts_have_no_interval_however_many_they_are() -> None:
    (found,) = preferences(voted(*["first", "second"] * 20, prompts=4))
    assert (found.rate.low, found.rate.high) == (None, None)
    assert "too few prompts" in str(found)


def test_what_all_prefer_may_yet_be_what_some_do_not() -> None:
    (found,) = preferences(voted(*["first"] * 8))
    assert (found.rate.value, found.rate.high) == (1.0, 1.0)
    assert found.rate.low == pytest.approx(8 / (8 + 1.959964**2))  # Wilson's of 8 in 8


def test_every_two_sides_are_told_apart() -> None:
    third = voted("first", "first").pairs[0].model_copy(update={"sides": ("new", "third")})
    votes = Votes(pairs=(*voted("second").pairs, third))
    assert [(one.side, one.other, one.rate.value) for one in preferences(votes)] == [
        ("new", "old", 0.0),
        ("new", "third", 1.0),
    ]
    assert preferences(Votes(pairs=voted(None).pairs)) == []


def test_a_file_comes_back_as_it_was_with_the_vote_that_was_added(tmp_path: Path) -> None:
    votes = voted("first", None)
    votes.write(tmp_path / "votes.json")
    assert load_votes(tmp_path / "votes.json") == votes
    assert [pair.choice for pair in votes.with_choice(1, "same").pairs] == ["first", "same"]
    with pytest.raises(ValueError, match="choice"):
        votes.with_choice(1, "both")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "cannot be read"),
        ("[]", "no file of votes"),
        ('{"schema": "videodit.evaluation/1", "pairs": []}', "schema"),
    ],
)
def test_what_is_no_file_of_votes_is_named(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=f"{file}.*{said}"):
        load_votes(file)
    with pytest.raises(ValueError, match=r"none\.json"):
        load_votes(tmp_path / "none.json")


def test_the_file_holds_its_schema(tmp_path: Path) -> None:
    voted("same").write(tmp_path / "votes.json")
    assert json.loads((tmp_path / "votes.json").read_text())["schema"] == "videodit.votes/1"


def test_the_command_reads_the_file_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from videodit.commands import evaluate

    votes = voted(*CHOICES)
    votes.write(tmp_path / "votes.json")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["videodit evaluate", "--votes", "votes.json"])
    assert evaluate.main() == 0
    (found,) = preferences(votes)
    assert capsys.readouterr().out == f"{found}\n12 votes, 3 pairs without\n"
    assert "new against old: win rate 67%" in str(found)
    monkeypatch.setattr(sys, "argv", ["videodit evaluate", "--votes", "none.json"])
    assert evaluate.main() == 2
    assert capsys.readouterr().err.startswith("videodit evaluate: none.json: cannot be read as votes")
    assert [file.name for file in tmp_path.iterdir()] == ["votes.json"]
