"""The package's commands, run in this process, and those that the README tells its reader to type."""

from __future__ import annotations

import importlib
import shlex
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def commands(section: str) -> list[list[str]]:
    """The commands of a section's first block as words, without `videodit` before them."""
    block = (ROOT / "README.md").read_text(encoding="utf-8").partition(f"## {section}\n")[2].partition("```")[2]
    lines = [shlex.split(line, comments=True) for line in block.partition("```")[0].strip().splitlines()]
    assert all(line[0] == "videodit" for line in lines)
    return [line[1:] for line in lines]


def tool(name: str, *words: object) -> int:
    """The exit status of `videodit NAME WORDS`."""
    sys.argv = [f"videodit {name}", *map(str, words)]
    try:
        return importlib.import_module(f"videodit.commands.{name.replace('-', '_')}").main()
    except SystemExit as end:  # of its parser
        return int(end.code or 0)
