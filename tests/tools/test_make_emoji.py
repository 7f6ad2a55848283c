"""videodit make-emoji: what is missing is one line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from videodit.commands import make_emoji


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["make_emoji.py", *map(str, words)])
    try:
        return make_emoji.main()
    except SystemExit as end:  # of its parser
        return int(end.code or 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "is missing: run `npm pack @lobehub/fluent-emoji-anim-1@1.0.0`"),
        (["--held-out"], "is missing: run `npm pack"),
        (["--pairs", "-1"], "--pairs -1 must be"),
        (["--pairs", "many"], "--pairs"),
        (["--seed", "0.5"], "--seed"),
    ],
)
def test_what_is_missing_or_wrong_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    said: str,
) -> None:
    assert run(monkeypatch, "--packages", tmp_path, "--out", tmp_path / "out", *options) == 2
    error = capsys.readouterr().err
    (line,) = [line for line in error.splitlines() if line.startswith("make_emoji: ")]
    assert said in line
