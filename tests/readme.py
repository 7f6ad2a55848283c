"""What the README tells its reader to type, run in this process, shared by the tests."""

from __future__ import annotations

import importlib
import shlex
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def commands(section: str) -> list[list[str]]:
    """The commands of a section's first block, without the interpreter, as words."""
    block = (ROOT / "README.md").read_text(encoding="utf-8").partition(f"## {section}\n")[2].partition("```")[2]
    return [shlex.split(line, comments=True)[1:] for line in block.partition("```")[0].strip().splitlines()]


def tool(words: list[str]) -> int:
    """The exit status of a tool, the first of the words, with the others as its arguments."""
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        sys.argv = words
        return importlib.import_module(Path(words[0]).stem).main()
    finally:
        sys.path.pop(0)
