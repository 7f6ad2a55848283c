"""Rows of a table, each with its place: JSON lines, a JSON list, a table with a delimiter, Parquet. Manifests and
prompts files are both read here; what their columns mean is said elsewhere.

What makes the whole file suspect (a line that does not parse, a column that is there twice) is a ValueError that names
file and line. Only \\n, \\r\\n and \\r end a line: what else looks like an end of one is part of a text. A cell between
quotes may hold them, and may be of any length.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any, TextIO

from videodit.config.kinds import in_short
from videodit.data.plain import EncodingError, encoding_of, is_plain_file, open_text
from videodit.data.remote import LARGEST_TABLE
from videodit.data.rows import Row, columns_named

DELIMITED = {".csv": ",", ".tsv": "\t"}  # whose cells are all texts
SUFFIXES = (".jsonl", ".json", *DELIMITED, ".parquet")
DELIMITERS = (",", ";", "\t", "|")  # of spreadsheets in some countries, and of some tools
BATCH = 1000  # rows of Parquet unpacked at once

Rows = Iterator[tuple[str, Row]]


def rows_of(name: str, file: Path, suffix: str, sought: Sequence[str]) -> Rows:
    """(where, row) of every row of a table of this name that lies in `file`.

    Args:
        suffix: of `SUFFIXES`.
        sought: names of columns (`rows.columns_named`) of which it should have one, by which its delimiter is known.

    Raises:
        ValueError: the file is none of its suffix, not UTF-8, or larger than `LARGEST_TABLE` when it is unpacked.
    """
    if suffix == ".parquet":
        yield from _parquet_rows(name, file, sought)
    elif suffix == ".json":
        yield from _json_rows(name, file)
    elif suffix == ".jsonl":
        for where, line in lines_of(name, file):
            yield where, _object(where, _parsed(line, where, "one object a line is needed"))
    else:
        yield from _table_rows(name, file, DELIMITED[suffix], sought)


def lines_of(name: str, file: Path) -> Iterator[tuple[str, str]]:
    """(where, line) of each that is not empty."""
    with open_text(file, newline=None) as text:
        for number, line in enumerate(_decoded(name, file, text), start=1):
            if line.strip():
                yield f"{name}:{number}", line.rstrip("\n")


def _decoded(name: str, file: Path, text: Iterable[str]) -> Iterator[str]:
    try:
        yield from map(str, text)  # not of the file itself, which an end of this would close
    except UnicodeError as error:
        try:
            content = file.read_bytes() if is_plain_file(file) else b""  # what a pipe gave is gone
            content.decode(encoding_of(file) if content else "ascii")
        except UnicodeDecodeError as exact:  # the other counts from where a piece of the file begins
            line = content[: exact.start].count(b"\n") + 1
            raise ValueError(f"{name}:{line}: is not UTF-8 ({exact.reason}): save it as UTF-8") from error
        raise EncodingError(name, error) from error


def _json_rows(name: str, file: Path) -> Rows:
    with open_text(file, newline=None) as text:
        rows = _parsed("".join(_decoded(name, file, text)), name, "if it has an object a line, call it .jsonl")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{name}: must hold a list of objects, one for each clip")
    return ((f"{name} row {number}", row) for number, row in enumerate(rows, start=1))


def _object(where: str, row: Any) -> Row:
    if not isinstance(row, dict):
        raise ValueError(f"{where}: must be an object, and is a {type(row).__name__}: one JSON object a line is needed")
    return row


def _parsed(text: str, where: str, fix: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:  # also of numbers with thousands of digits
        why = "nested too deep" if isinstance(error, RecursionError) else error
        raise ValueError(f"{where}: is no JSON that can be read ({why}): {fix}") from error


def once(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """A mapping of names of which none stands twice, or ValueError."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{in_short(name)} stands there twice; take one out")
        found[name] = value
    return found


def _table_rows(name: str, file: Path, usual: str, sought: Sequence[str]) -> Rows:
    csv.field_size_limit(2**31 - 1)  # of the whole process: csv has no other
    with open_text(file, newline="") as lines:
        delimiter = _delimiter(name, file, lines, usual, sought)
        reader = csv.reader(_decoded(name, file, lines), delimiter=delimiter, strict=True)
        line = 1  # where a row begins: between quotes it may go on over many
        try:
            columns = next(reader, [])
            try:
                once((column.strip(), None) for column in columns if column.strip())
            except ValueError as error:
                raise ValueError(f"{name}:1: {error}") from None
            while True:
                line = reader.line_num + 1
                cells = next(reader, None)
                if cells is None:
                    return
                if len(cells) > len(columns):
                    raise ValueError(
                        f"{name}:{line}: more values than the first line has columns: put texts that hold the "
                        f"delimiter {delimiter!r} between double quotes"
                    )
                if cells:
                    yield f"{name}:{line}", dict.fromkeys(columns) | dict(zip(columns, cells, strict=False))
        except csv.Error as error:
            why = "a quote is opened and never closed" if "end of data" in str(error) else f"does not parse ({error})"
            raise ValueError(
                f"{name}:{line}: {why}: see to the quotes of the row that begins there; inside of a cell they are "
                f'written twice, as ""'
            ) from error


def _delimiter(name: str, file: Path, lines: TextIO, usual: str, sought: Sequence[str]) -> str:
    """The usual one, unless a column that is sought stands there only by another."""
    for delimiter in dict.fromkeys([usual, *DELIMITERS]):
        lines.seek(0)
        try:
            columns = next(csv.reader(_decoded(name, file, lines), delimiter=delimiter, strict=True), [])
        except csv.Error:
            columns = []
        if columns_named(columns, sought):
            usual = delimiter
            break
    lines.seek(0)
    return usual


def _parquet_rows(name: str, file: Path, sought: Sequence[str]) -> Rows:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ValueError(f'{name}: Parquet needs pyarrow: pip install "videodit[parquet]"') from error
    try:
        with parquet.ParquetFile(file) as table:
            texts = [field.name for field in table.schema_arrow if "binary" not in str(field.type)]
            media = [column for column in columns_named(table.schema_arrow.names, sought) if column not in texts]
            if media and not columns_named(texts, sought):
                raise ValueError(
                    f"{name}: holds bytes in column {media[0]!r}: write each to a file, and the paths to a column of "
                    f"text"
                )
            _check_size(name, _unpacked(table.metadata, texts))
            number, size = count(1), 0
            for batch in table.iter_batches(BATCH, columns=texts):
                _check_size(name, size := size + batch.nbytes)  # what is told once may stand in every row
                yield from ((f"{name} row {next(number)}", row) for row in batch.to_pylist())
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{name}: cannot be read as Parquet ({' '.join(str(error).split())})") from error


def _unpacked(metadata: Any, columns: Sequence[str]) -> int:
    """Bytes of these columns, or parts of them, as the file announces them."""
    groups = (metadata.row_group(number) for number in range(metadata.num_row_groups))
    parts = (group.column(number) for group in groups for number in range(group.num_columns))
    begins = tuple(f"{column}." for column in columns)
    return sum(one.total_uncompressed_size for one in parts if f"{one.path_in_schema}.".startswith(begins))


def _check_size(name: str, size: int) -> None:
    if size > LARGEST_TABLE:
        raise ValueError(
            f"{name}: {size} bytes unpacked, more than the {LARGEST_TABLE} that a table may have: name parts of it"
        )
