"""The sampling command, called as a test calls it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from videodit.commands import sample as sample_video


def run(monkeypatch: pytest.MonkeyPatch, *args: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["sample_video.py", *map(str, args)])
    try:
        return sample_video.main()
    except SystemExit as end:  # of its parser
        return end.code
