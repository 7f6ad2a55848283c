"""What is asked for: clips to make, read from a prompts file."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from videodit.data.manifest import CAPTION_COLUMNS

log = logging.getLogger(__name__)

FILES = ("image", "last_image", "video", "last_video")
NAME_COLUMNS = ("name", "file", "path", "video_path", "file_name")


@dataclass(frozen=True)
class Request:
    """One clip to make. What is None is the model's own; sizes are in pixels and frames, `fps` in frames a second."""

    prompt: str
    seed: int = 0
    negative_prompt: str = ""
    num_frames: int | None = None
    height: int | None = None
    width: int | None = None
    fps: float | None = None
    image: str | None = None  # a file: the clip's first frame
    last_image: str | None = None  # a file: its last frame
    video: str | None = None  # a file: to go on from, or, with `strength`, to remake
    last_video: str | None = None  # a file: what the clip leads to
    strength: float | None = None
    given_frames: int | None = None  # of `video`, its last ones, from which the clip goes on
    last_given_frames: int | None = None  # of `last_video`, its first ones, to which the clip leads
    loop: bool | None = None  # from its last frame the clip goes on to its first
    overlap: int | None = None  # a long clip: made in windows, of which each goes on from so many frames of the last
    window: int | None = None  # frames of such a window; None: the model's own number

    def __post_init__(self) -> None:
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
    """The lines of a prompts file: `.txt`, a prompt a line; `.csv`, `.tsv`, `.jsonl` or `.json`, a row a clip.

    Columns: `prompt` (or `caption`, `text` ...) and, each where wanted, the other fields of `Request`; files are
    relative to the prompts file. Other columns are named in a warning. A line without a seed of its own has `seed` +
    its number, from 0.

    Raises:
        ValueError: the file cannot be read or holds no prompt, or a line has none or a value of the wrong kind; names
            file and line.
    """
    path = Path(file)
    requests, unused = [], set()
    for number, (where, row) in enumerate(rows_of(path)):
        column = next((name for name in CAPTION_COLUMNS if row.get(name)), None)
        if column is None or not str(row[column]).strip():
            raise ValueError(f"{where}: no prompt; fill one of {', '.join(CAPTION_COLUMNS)}")
        values: dict[str, Any] = {"prompt": str(row[column]).strip(), "seed": seed + number}
        for field in fields(Request)[1:]:
            if row.get(field.name) not in (None, ""):
                values[field.name] = _value(where, field.name, row[field.name], path.parent)
        unused |= row.keys() - values.keys() - {column, *NAME_COLUMNS, *(f.name for f in fields(Request))}
        try:
            requests.append(Request(**values))
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
    if not requests:
        raise ValueError(f"{path}: holds no prompt; write one a line")
    if unused:
        log.warning("%s: the columns %s say nothing of how a clip is made: not used", path, ", ".join(sorted(unused)))
    return requests


def rows_of(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(file and line, row) of every line that is not empty."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read as text ({error})") from error
    kind = path.suffix.lower()
    if kind in (".csv", ".tsv"):
        for number, row in enumerate(csv.DictReader(text.splitlines(), delimiter="\t" if kind == ".tsv" else ","), 2):
            if None in row:
                raise ValueError(f"{path}:{number}: more values than the first line has columns; quote commas")
            yield f"{path}:{number}", row
        return
    if kind == ".json":
        found = _parsed(text, str(path))
        if not isinstance(found, list):
            raise ValueError(f"{path}: must hold a list of objects, a clip each")
        lines = [(f"{path} item {number}", one) for number, one in enumerate(found)]
    elif kind == ".jsonl":
        numbered = [(f"{path}:{number}", line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
        lines = [(where, _parsed(line, where)) for where, line in numbered]
    else:
        lines = [(f"{path}:{n}", {"prompt": line}) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
    for where, row in lines:
        if not isinstance(row, dict):
            raise ValueError(f"{where}: must be an object with a prompt")
        yield where, row


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{where}: is no JSON ({error})") from error


def _value(where: str, name: str, value: Any, folder: Path) -> Any:
    """A column's value as `Request` has it."""
    if name == "negative_prompt":
        return str(value)
    if name in FILES:
        return str(folder / str(value))
    if name == "loop":
        if str(value).lower() not in ("true", "false", "1", "0", "yes", "no"):
            raise ValueError(f"{where}: loop is {value!r}; it must be true or false")
        return str(value).lower() in ("true", "1", "yes") or None
    any_number = name in ("fps", "strength")
    try:
        number = float(value)
        if not any_number and number != int(number):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        kind = "a number" if any_number else "a whole number"
        raise ValueError(f"{where}: {name} is {value!r}; it must be {kind}") from None
    return number if any_number else int(number)
