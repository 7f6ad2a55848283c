"""What tools say, such that a terminal shows it and obeys nothing in it.

Names of files and captions come from anywhere, and a terminal takes control characters for commands: to clear the
screen, to write over the line before, to show a text backwards.
"""

from __future__ import annotations

import argparse
import io
import logging
import re
import sys
from typing import Any, NoReturn

_OBEYED = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # controls, without tab and line end
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # the order in which letters are shown
    "\u2028\u2029\ud800-\udfff]"  # other line ends; bytes of a file's name that are no text
)


def shown(text: object) -> str:
    """A text as it can be printed: what a terminal would obey comes as an escape (`\\x1b`)."""
    return _OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


class Parser(argparse.ArgumentParser):
    """Of a tool's command line, described by its docstring: what is wrong is told in one line, with exit status 2."""

    def __init__(self, description: str | None, **options: Any):
        super().__init__(description=description, formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def error(self, message: str) -> NoReturn:
        message = re.sub(r"^argument (\S+): ", r"\1 ", message)
        self.exit(
            2, shown(f"{self.prog.replace('.py', '', 1)}: {message}; --help tells more").replace("\n", " ") + "\n"
        )


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return shown(super().format(record))


def log_to_terminal(level: int) -> None:
    """Has messages of that level printed to stderr, a line each, and lets letters that the locale lacks be escaped."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter("%(message)s"))
    logging.basicConfig(level=level, handlers=[handler])
