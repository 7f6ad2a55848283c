"""The rows of a prompts file, as plain values: a text, a table, JSON, Parquet.

Names of columns are taken without spaces around them and in small letters. Only \\n, \\r\\n and \\r end a line: what
else looks like an end of one is part of a prompt. A cell between quotes may hold them, and may be of any length.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from videodit.config.kinds import in_short
from videodit.data.manifest import CAPTION_COLUMNS

Row = Mapping[str, Any]


def rows_of(path: Path) -> Iterator[tuple[str, Row]]:
    """(file and line, row) of every line that is not empty; a table's cells are texts.

    Raises:
        ValueError: it cannot be read as what its ending says, or a column stands twice; names file and line.
    """
    kind = path.suffix.lower()
    if kind == ".parquet":
        yield from _parquet_rows(path)
    elif is_table(path):
        yield from _table_rows(path, _lines(path), "\t" if kind == ".tsv" else ",")
    elif kind == ".json":
        found = _parsed("".join(_lines(path)), str(path))
        if not isinstance(found, list):
            raise ValueError(f"{path}: must hold a list of objects, a clip each")
        yield from (_row(f"{path} item {number}", one) for number, one in enumerate(found))
    else:
        lines = [(f"{path}:{n}", line.rstrip("\n")) for n, line in enumerate(_lines(path), 1) if line.strip()]
        yield from (_row(at, _parsed(line, at) if kind == ".jsonl" else {"prompt": line}) for at, line in lines)


def is_table(path: Path) -> bool:
    """Whether all that its rows hold is text, numbers too."""
    return path.suffix.lower() in (".csv", ".tsv")


def _lines(path: Path) -> list[str]:
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read as text ({error})") from error
    try:
        return list(io.StringIO(content.decode("utf-8-sig"), newline=None))
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(f"{path}:{line}: is not UTF-8 ({error.reason}); save it as UTF-8") from error


def _table_rows(path: Path, lines: Sequence[str], delimiter: str) -> Iterator[tuple[str, Row]]:
    csv.field_size_limit(2**31 - 1)  # of the whole process: csv has no other
    known = [d for d in (delimiter, ",", ";", "\t") if _names(lines[:1], d) & set(CAPTION_COLUMNS)]
    cells = _cells(path, csv.reader(lines, delimiter=known[0] if known else delimiter, strict=True))
    columns = next(cells, ("", []))[1]
    for where, row in cells:
        if len(row) > len(columns):
            raise ValueError(f"{where}: more values than the first line has columns; quote commas")
        yield where, _named(where, [(name, cell) for name, cell in zip(columns, row, strict=False) if name or cell])


def _names(lines: Sequence[str], delimiter: str) -> set[str]:
    return {name.strip(' "\n').lower() for line in lines for name in line.split(delimiter)}


def _cells(path: Path, reader: Any) -> Iterator[tuple[str, list[str]]]:
    """(file and line, cells) of every row; the line is the one that the row begins in."""
    while True:
        where = f"{path}:{reader.line_num + 1}"
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            why = "a quote is opened and never closed" if "end of data" in str(error) else f"does not parse ({error})"
            raise ValueError(f'{where}: {why}; close it, and write quotes inside of a cell twice, as ""') from error
        if row:
            yield where, row


def _parquet_rows(path: Path) -> Iterator[tuple[str, Row]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ValueError(f'{path}: Parquet needs pyarrow: pip install "videodit[parquet]"') from error
    try:
        with parquet.ParquetFile(path) as table:
            plain = [field.name for field in table.schema_arrow if "binary" not in str(field.type)]
            rows = [row for batch in table.iter_batches(columns=plain) for row in batch.to_pylist()]
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read as Parquet ({' '.join(str(error).split())})") from error
    yield from (_row(f"{path} row {number}", row) for number, row in enumerate(rows, 1))


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_once)
    except ValueError as error:
        raise ValueError(f"{where}: is no JSON that can be read ({error})") from error
    except RecursionError as error:
        raise ValueError(f"{where}: is no JSON that can be read (nested too deep)") from error


def _row(where: str, row: Any) -> tuple[str, Row]:
    if not isinstance(row, dict):
        raise ValueError(f"{where}: must be an object with a prompt")
    return where, _named(where, row.items())


def _named(where: str, pairs: Iterable[tuple[str, Any]]) -> Row:
    """The values by the names of their columns, of which none stands twice."""
    try:
        return _once((name.strip().lower(), value) for name, value in pairs)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _once(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{in_short(name)} stands there twice; take one out")
        found[name] = value
    return found
