"""Rows of a manifest file, each with its place: JSON lines, a JSON list, a table with a delimiter, Parquet.

What makes the whole file suspect (a line that does not parse, a column that is there twice) is a ValueError that names
file and line.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

from videodit.data.plain import open_text
from videodit.data.rows import PATH_COLUMNS, Row, columns_named

DELIMITERS = (",", ";", "\t", "|")  # of spreadsheets in some countries, and of some tools

Rows = Iterator[tuple[str, Row]]


def rows_of(manifest: str, file: Path, suffix: str) -> Rows:
    """(where, row) of every row of a manifest that lies in `file`.

    Raises:
        ValueError: the suffix is of no manifest, or the file does not parse.
    """
    if suffix not in READERS:
        raise ValueError(
            f"{manifest} is no manifest by its suffix: use {', '.join(READERS)}, .tar shards, or a folder of clips"
        )
    return READERS[suffix](manifest, file)


def _jsonl_rows(manifest: str, file: Path) -> Rows:
    with open_text(file) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            row = _parsed(line, f"{manifest}:{number}", "one object a line is needed")
            if not isinstance(row, dict):
                raise ValueError(f"{manifest}:{number} is a {type(row).__name__}: one JSON object a line is needed")
            yield f"{manifest}:{number}", row


def _json_rows(manifest: str, file: Path) -> Rows:
    with open_text(file) as text:
        rows = _parsed(text.read(), manifest, "if it has an object a line, call it .jsonl")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{manifest} holds something other than a list of objects, one for each clip")
    return ((f"{manifest} row {number}", row) for number, row in enumerate(rows, start=1))


def _parsed(text: str, where: str, fix: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # also of numbers with thousands of digits
        why = "nested too deep" if isinstance(error, RecursionError) else error
        raise ValueError(f"{where} is not JSON ({why}): {fix}") from error


def _table_rows(manifest: str, file: Path) -> Rows:
    with open_text(file, newline="") as lines:
        delimiter = _delimiter(lines, "\t" if file.suffix.lower() == ".tsv" else ",")
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        line = 1  # where a row begins: between quotes it may go on over many
        try:
            names = next(reader, [])
            if twice := [name for name in names if name.strip() and names.count(name) > 1]:
                raise ValueError(f"{manifest}:1 has the column {twice[0]!r} twice: rename one")
            while True:
                line = reader.line_num + 1
                cells = next(reader, None)
                if cells is None:
                    return
                if len(cells) > len(names):
                    raise ValueError(
                        f"{manifest}:{line} has more cells than there are columns: put texts that hold the delimiter "
                        f"{delimiter!r} between double quotes"
                    )
                if cells:
                    yield f"{manifest}:{line}", dict.fromkeys(names) | dict(zip(names, cells, strict=False))
        except csv.Error as error:
            raise ValueError(
                f"{manifest}:{line} does not parse ({error}): check the quotes of the row that begins there"
            ) from error


def _delimiter(lines: TextIO, usual: str) -> str:
    """The usual one, unless a file's name stands in a column only by another."""
    for delimiter in dict.fromkeys([usual, *DELIMITERS]):
        lines.seek(0)
        try:
            names = next(csv.reader(lines, delimiter=delimiter, strict=True), [])
        except csv.Error:
            names = []
        if columns_named(names, PATH_COLUMNS):
            usual = delimiter
            break
    lines.seek(0)
    return usual


def _parquet_rows(manifest: str, file: Path) -> Rows:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ValueError(f'{manifest}: Parquet needs pyarrow: pip install "videodit[parquet]"') from error
    try:
        with parquet.ParquetFile(file) as table:
            texts = [field.name for field in table.schema_arrow if "binary" not in str(field.type)]
            media = [name for name in columns_named(table.schema_arrow.names, PATH_COLUMNS) if name not in texts]
            if media and not columns_named(texts, PATH_COLUMNS):
                raise ValueError(
                    f"{manifest} holds the files themselves, as bytes in column {media[0]!r}: write each to a "
                    f"file, and the paths to a column of text"
                )
            rows = chain.from_iterable(batch.to_pylist() for batch in table.iter_batches(columns=texts))
            for number, row in enumerate(rows, start=1):
                yield f"{manifest} row {number}", row
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{manifest} does not parse as Parquet ({error})") from error


READERS: dict[str, Callable[[str, Path], Rows]] = {
    ".jsonl": _jsonl_rows,
    ".json": _json_rows,
    ".csv": _table_rows,
    ".tsv": _table_rows,
    ".parquet": _parquet_rows,
}
