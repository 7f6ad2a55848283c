"""Text that others wrote: UTF-8 whatever the locale says, in lines that end at \\n alone; and natural order."""

from __future__ import annotations

import codecs
import re
import stat
from io import TextIOWrapper
from pathlib import Path
from typing import TextIO

LARGEST_TEXT = 1 << 20  # bytes of a caption, or of a file beside a clip
_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


class EncodingError(ValueError):
    """A text in another encoding than it must have. To guess which would put wrong letters into captions."""

    def __init__(self, name: str, error: UnicodeError):
        super().__init__(f"{name} is not UTF-8 ({getattr(error, 'reason', error)}): save it as UTF-8")


def is_plain_file(path: Path) -> bool:
    """Whether a file with content of its own is there: no folder, pipe, socket or device."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):
        return False


def encoding_of(file: Path) -> str:
    """UTF-8, unless a mark at the beginning says that it is UTF-16 or UTF-32. Others cannot be told apart."""
    with file.open("rb") as content:
        return _encoding(content.read(4))


def _encoding(start: bytes) -> str:
    return next((name for mark, name in _MARKS if start.startswith(mark)), "UTF-8")


def open_text(file: Path, newline: str | None = "\n") -> TextIO:
    """To read, a pipe too; what comes with a mark (`encoding_of`) comes without it."""
    content = file.open("rb")
    encoding = _encoding(content.peek(4))
    return TextIOWrapper(content, "utf-8-sig" if encoding == "UTF-8" else encoding, newline=newline)


def lines_of(file: Path, largest: int | None = None) -> list[str]:
    """Its lines without their ends, \\n or \\r\\n: what else Unicode counts as the end of a line may stand in one.

    Raises:
        ValueError: it is no regular file, or longer than `largest` bytes; names it and the fix.
        EncodingError: it is not UTF-8.
    """
    if not is_plain_file(file):
        raise ValueError(f"{file} is no regular file (a pipe, socket or device): copy what it gives to a file")
    if largest is not None and file.stat().st_size > largest:
        raise ValueError(f"{file} has {file.stat().st_size} bytes, more than the {largest} of a text: shorten it")
    try:
        with open_text(file) as text:
            return [line.removesuffix("\n").removesuffix("\r") for line in text]
    except UnicodeError as error:
        raise EncodingError(str(file), error) from error


def natural(name: str) -> tuple[object, ...]:
    """Sorts names as people count: "2" before "10"."""
    numbers = re.split(r"([0-9]+)", name)
    numbers[1::2] = [f"{len(digits.lstrip('0')):04}{digits.lstrip('0')}" for digits in numbers[1::2]]
    return *numbers, name
