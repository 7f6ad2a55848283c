"""Which clips there are, and what is said of each: read from a manifest, or from a folder as it lies.

| source         | clips                                           | captions                                      |
|----------------|-------------------------------------------------|-----------------------------------------------|
| `.jsonl`       | a JSON object a line                            | a string, or a list of strings to choose from |
| `.csv`, `.tsv` | a row each, columns named in the first          | a string                                      |
| a folder       | its manifest; else all videos and images in it, | each line of `x.txt` beside `x.mp4`           |
|                | at any depth, in the order of their paths       |                                               |

Rows that cannot be used are never dropped in silence: each becomes a `Skip` that says where and why. What makes
the whole file suspect (a column that is missing, a line that does not parse) is an error.
"""

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videodit.video.reader import IMAGE_SUFFIXES, VIDEO_SUFFIXES

PATH_COLUMNS = ("file", "path", "video", "video_path", "file_name", "mp4")
CAPTION_COLUMNS = ("caption", "text", "prompt")
FOLDER_MANIFESTS = ("clips.jsonl", "metadata.jsonl", "metadata.csv", "manifest.jsonl")


@dataclass(frozen=True)
class Item:
    """One clip or image: its file, one caption or several that say the same, and the row's other columns.

    Attributes that are not strings in a JSONL row are kept as JSON text (`3` as "3", `true` as "true").
    """

    path: Path
    captions: tuple[str, ...]
    attributes: Mapping[str, str]


@dataclass(frozen=True)
class Skip:
    """A row or file that was left out: `where` is "file:line" or a file, `why` is for people to read."""

    where: str
    why: str


@dataclass(frozen=True)
class Manifest:
    """The usable clips, in the order of the source, and what was left out."""

    items: tuple[Item, ...]
    skips: tuple[Skip, ...]


def read_manifest(source: str | Path) -> Manifest:
    """Read a `.jsonl`, `.csv` or `.tsv` manifest, or a folder (table above); see `PATH_COLUMNS`, `CAPTION_COLUMNS`.

    Of several path or caption columns the first in the order of those lists is taken. Paths are relative to the
    manifest's folder. A folder is read by the first of `FOLDER_MANIFESTS` it has; without one, hidden files are
    passed over. Files are looked for, not opened: damage shows when they are read. A row without caption or
    without its file, and a file without captions, is skipped and counted.

    Raises `ValueError`, naming the file and where it applies the line, for a source that does not exist or has
    another suffix, a column that is missing, a line that does not parse, or when nothing usable is left.
    """
    source = Path(source)
    if not source.exists():
        raise ValueError(f"{source} does not exist: give a .jsonl, .csv or .tsv manifest, or a folder of clips")
    manifest = next((source / name for name in FOLDER_MANIFESTS if (source / name).is_file()), None)
    if source.is_dir() and manifest is None:
        found = [_from_file(path, source) for path in _media(source)]
    else:
        found = list(_from_rows(manifest or source))
    items = tuple(one for one in found if isinstance(one, Item))
    skips = tuple(one for one in found if isinstance(one, Skip))
    if not items:
        first = f"; first: {skips[0].where}: {skips[0].why}" if skips else ""
        raise ValueError(f"{manifest or source} gives no usable clips ({len(skips)} skipped{first})")
    return Manifest(items, skips)


def _from_rows(manifest: Path) -> Iterator[Item | Skip]:
    suffix = manifest.suffix.lower()
    if suffix not in (".jsonl", ".csv", ".tsv"):
        raise ValueError(f"{manifest} is no manifest by its suffix: use .jsonl, .csv or .tsv, or a folder of clips")
    try:
        rows = list(_json_rows(manifest) if suffix == ".jsonl" else _table_rows(manifest))
    except UnicodeDecodeError as error:
        raise ValueError(f"{manifest} is not UTF-8 ({error.reason}): save it as UTF-8") from error
    columns = list(dict.fromkeys(column for _, row in rows for column in row))
    path_column = _column(manifest, columns, PATH_COLUMNS, "path")
    caption_column = _column(manifest, columns, CAPTION_COLUMNS, "caption")
    for line, row in rows:
        yield _from_row(f"{manifest}:{line}", manifest.parent, row, path_column, caption_column)


def _column(manifest: Path, columns: list[str], accepted: tuple[str, ...], what: str) -> str:
    for name in accepted:
        if name in columns:
            return name
    seen = ", ".join(columns) or "none"
    raise ValueError(f"{manifest} has no {what} column: columns seen: {seen}; name one of them {' or '.join(accepted)}")


def _from_row(
    where: str, folder: Path, row: Mapping[str, object], path_column: str, caption_column: str
) -> Item | Skip:
    name, caption = row.get(path_column), row.get(caption_column)
    if not isinstance(name, str) or not name.strip():
        return Skip(where, f"no path in column {path_column!r}")
    texts: list[Any] = caption if isinstance(caption, list) else [caption or ""]
    if not all(isinstance(text, str) for text in texts):
        return Skip(where, f"column {caption_column!r} holds something other than text or a list of texts")
    captions = tuple(text.strip() for text in texts if text.strip())
    if not captions:
        return Skip(where, f"no caption in column {caption_column!r}")
    path = folder / name.strip()
    if not path.is_file():
        return Skip(where, f"{path} does not exist" if not path.exists() else f"{path} is not a file")
    others = {
        key: value for key, value in row.items() if key not in (path_column, caption_column) and value is not None
    }
    return Item(path, captions, {key: v if isinstance(v, str) else json.dumps(v) for key, v in others.items()})


def _json_rows(manifest: Path) -> Iterator[tuple[int, dict[str, object]]]:
    with manifest.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{manifest}:{number} is not JSON ({error}): one object a line is needed") from error
            if not isinstance(row, dict):
                raise ValueError(f"{manifest}:{number} is a {type(row).__name__}: one JSON object a line is needed")
            yield number, row


def _table_rows(manifest: Path) -> Iterator[tuple[int, dict[str, object]]]:
    delimiter = "\t" if manifest.suffix.lower() == ".tsv" else ","
    with manifest.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter=delimiter, strict=True)
        try:
            for row in reader:
                if None in row:
                    raise ValueError(
                        f"{manifest}:{reader.line_num} has more cells than there are columns: put texts that hold "
                        f"the delimiter {delimiter!r} between double quotes"
                    )
                yield reader.line_num, dict(row)
        except csv.Error as error:
            raise ValueError(f"{manifest}:{reader.line_num} does not parse ({error}): check its quotes") from error


def _media(folder: Path) -> list[Path]:
    suffixes = IMAGE_SUFFIXES + VIDEO_SUFFIXES
    files = (path for path in folder.rglob("*") if path.suffix.lower() in suffixes and path.is_file())
    return sorted(path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def _from_file(path: Path, folder: Path) -> Item | Skip:
    beside = path.with_suffix(".txt")
    if not beside.is_file():
        return Skip(str(path), f"no caption: {beside.name} is not beside it")
    try:
        lines = beside.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{beside} is not UTF-8 ({error.reason}): save it as UTF-8") from error
    captions = tuple(line.strip() for line in lines if line.strip())
    return Item(path, captions, {}) if captions else Skip(str(path), f"no caption: {beside.name} is empty")
