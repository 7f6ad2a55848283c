"""What is asked for: clips to make, read from a prompts file."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from videodit.config.kinds import Count, Place, Positive, Rate, Seed, Strength, Text, check, in_short, place
from videodit.data.rows import CAPTION_COLUMNS, Row
from videodit.data.tables import DELIMITED, SUFFIXES, lines_of, once, rows_of

log = logging.getLogger(__name__)

FILES = ("image", "last_image", "video", "last_video")
NAME_COLUMNS = ("name", "file", "path", "video_path", "file_name")


@dataclass(frozen=True)
class Request:
    """One clip to make. What is None is the model's own; sizes are in pixels and frames, `fps` in frames a second.

    ValueError names what is of another kind or out of range.
    """

    prompt: Text
    seed: Seed = 0
    negative_prompt: Text = ""
    num_frames: Positive | None = None
    height: Positive | None = None
    width: Positive | None = None
    fps: Rate | None = None
    image: Place | None = None  # a file: the clip's first frame
    last_image: Place | None = None  # a file: its last frame
    video: Place | None = None  # a file: to go on from, or, with `strength`, to remake
    last_video: Place | None = None  # a file: what the clip leads to
    strength: Strength | None = None
    given_frames: Positive | None = None  # of `video`, its last ones, from which the clip goes on
    last_given_frames: Positive | None = None  # of `last_video`, its first ones, to which the clip leads
    loop: bool | None = None  # from its last frame the clip goes on to its first
    overlap: Count | None = None  # a long clip: made in windows, of which each goes on from so many frames of the last
    window: Positive | None = None  # frames of such a window; None: the model's own number

    def __post_init__(self) -> None:
        check(self)
        if not self.prompt.strip():
            raise ValueError("the prompt is empty; say what the clip should show")
        if self.video is None and (self.strength is not None or self.given_frames is not None):
            raise ValueError("strength and given_frames are about a video: name it")
        if self.strength is not None and self.given_frames is not None:
            raise ValueError("a video is either gone on from (given_frames) or remade (strength); give one")
        if self.last_given_frames is not None and self.last_video is None:
            raise ValueError("last_given_frames are of a video: name it as last_video")
        if self.window is not None and self.overlap is None and not self.loop:
            raise ValueError("a window is part of a long clip: give overlap too, the frames that windows share")
        if self.loop and (self.last_image is not None or self.last_video is not None):
            raise ValueError("a loop ends where it begins: give no last image or video")
        if self.windowed and self.strength is not None:
            raise ValueError("a long clip is made window after window and cannot remake a video: give no strength")

    @property
    def windowed(self) -> bool:
        """Whether it is made window after window."""
        return self.overlap is not None or bool(self.loop)


def read_requests(file: str | Path, seed: int = 0) -> list[Request]:
    """The lines of a prompts file: `.txt`, a prompt each; rows of `.csv`, `.tsv`, `.jsonl`, `.json`, `.parquet`.

    Columns: `prompt` (or `caption`, `text` ...) and, each where wanted, the other fields of `Request`; files are
    relative to the prompts file. Other columns are named in a warning. A line without a seed of its own has `seed` +
    its number, from 0.

    Raises:
        ValueError: the file cannot be read or holds no prompt, or a line has none or a value of the wrong kind; names
            file and line.
    """
    path = Path(file)
    requests, unused = [], set()
    for number, (where, row) in enumerate(prompt_rows(path)):
        column = next((name for name in CAPTION_COLUMNS if row.get(name)), None)
        if column is None or not str(row[column]).strip():
            raise ValueError(f"{where}: no prompt; fill one of {', '.join(CAPTION_COLUMNS)}")
        unused |= row.keys() - {column, *NAME_COLUMNS, *(field.name for field in fields(Request))}
        in_table = path.suffix.lower() in DELIMITED
        try:
            values: dict[str, Any] = {"prompt": _text(column, row[column]).strip(), "seed": seed + number}
            for field in fields(Request)[1:]:
                if row.get(field.name) not in (None, ""):
                    values[field.name] = _value(field.name, row[field.name], path.parent, in_table)
            requests.append(Request(**values))
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
    if not requests:
        raise ValueError(f"{path}: holds no prompt; write one a line")
    if unused:
        log.warning("%s: the columns %s say nothing of how a clip is made: not used", path, ", ".join(sorted(unused)))
    return requests


def prompt_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """(where, row) of every line of a prompts file that is not empty; a table's cells are texts.

    Names of columns are taken without spaces around them and in small letters.

    Raises:
        ValueError: it cannot be read as what its ending says, or a column stands twice; names file and line.
    """
    suffix = path.suffix.lower()
    try:
        if suffix not in SUFFIXES:
            yield from ((where, {"prompt": line}) for where, line in lines_of(str(path), path))
            return
        for where, row in rows_of(str(path), path, suffix, CAPTION_COLUMNS):
            named = ((name.strip().lower(), value) for name, value in row.items() if name.strip() or value)
            try:
                yield where, once(named)
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read as text ({error})") from error


def _value(name: str, value: Any, folder: Path, is_text: bool) -> Any:
    """A column's value as `Request` has it; in a table all are texts."""
    if name == "negative_prompt":
        return _text(name, value)
    if name in FILES:
        return str(folder / place(_text(name, value)))
    if name == "loop":
        if str(value).lower() not in ("true", "false", *(("1", "0", "yes", "no") if is_text else ())):
            raise ValueError(f"loop is {in_short(value)}; it must be true or false")
        return str(value).lower() in ("true", "1", "yes") or None
    return _number(name, value, is_text, any_number=name in ("fps", "strength"))


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} is {in_short(value)}; it must be text")
    return value


def _number(name: str, value: Any, is_text: bool, *, any_number: bool) -> int | float:
    """Whole ones to their last digit: those of 2^53 and more have no exact float."""
    kind = "a number" if any_number else "a whole number"
    try:
        if isinstance(value, bool) or isinstance(value, str) != is_text:
            raise TypeError
        if any_number:
            return float(value)
        whole = int(value) if isinstance(value, int) or re.fullmatch(r"\s*[+-]?[0-9]+\s*", str(value)) else None
        if whole is None and float(value) == int(float(value)):
            kind += " below 2^53, or written without point and exponent"
            whole = int(float(value)) if abs(float(value)) < 2**53 else None
        if whole is None:
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{name} is {in_short(value)}; it must be {kind}") from None
    return whole
