"""One reader for manifests and prompts files: what both take, and how much they may unpack to."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from videodit.clipset import Request, read_requests
from videodit.data import tables
from videodit.data.manifest import read_manifest


def manifest_in(file: Path) -> list[str]:
    (file.parent / "a.mp4").write_bytes(b"x")
    return [item.captions[0] for item in read_manifest(file).items]


def prompts_in(file: Path) -> list[str]:
    return [request.prompt for request in read_requests(file)]


both = pytest.mark.parametrize("read", [manifest_in, prompts_in])


def parquet_of(file: Path, columns: dict[str, list], **options: object) -> Path:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table(columns), file, **options)
    return file


@both
def test_a_table_of_any_delimiter_and_encoding_that_is_marked_is_read(tmp_path: Path, read) -> None:
    for number, delimiter in enumerate(",;\t|"):
        file = tmp_path / f"{number}.csv"
        row = delimiter.join(["a.mp4", '"ein Bär, er; |\tgeht"'])
        file.write_text(f"File{delimiter} CAPTION\n{row}\n", encoding="utf-16")
        assert read(file) == ["ein Bär, er; |\tgeht"]


@both
@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_a_name_that_stands_twice_in_an_object_is_an_error(tmp_path: Path, read, suffix: str) -> None:
    row = '{"file": "a.mp4", "caption": "one", "caption": "two"}'
    (file := tmp_path / f"p{suffix}").write_text(f"[{row}]" if suffix == ".json" else row)
    with pytest.raises(ValueError, match=rf"p\{suffix}.*'caption' stands there twice; take one out"):
        read(file)


@both
def test_parquet_that_unpacks_to_more_than_a_table_may_have_is_refused_unread(
    tmp_path: Path, read, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "LARGEST_TABLE", 1_000_000)
    columns = {"file": ["a.mp4"] * 3, "caption": ["a" * 400_000, "b" * 400_000, "c" * 400_000]}
    file = parquet_of(tmp_path / "p.parquet", columns, compression="zstd", row_group_size=1)
    assert file.stat().st_size < 10_000
    with monkeypatch.context() as patch:
        patch.setattr(tables, "BATCH", "nothing is read")
        with pytest.raises(ValueError, match=r"p\.parquet: 12\d{5} bytes unpacked, more than the 1000000 that a table"):
            read(file)
    fits = parquet_of(tmp_path / "fits.parquet", {name: some[:2] for name, some in columns.items()})
    assert read(fits) == ["a" * 400_000, "b" * 400_000]


@both
def test_parquet_that_tells_a_text_once_for_many_rows_is_left_when_they_are_too_much(
    tmp_path: Path, read, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "LARGEST_TABLE", 1_000_000)
    file = parquet_of(tmp_path / "p.parquet", {"file": ["a.mp4"] * 3000, "caption": ["a" * 10_000] * 3000})
    with pytest.raises(ValueError, match=r"p\.parquet: 1\d{7} bytes unpacked, more than the 1000000 that a table"):
        read(file)


@both
def test_columns_of_bytes_are_not_read_and_do_not_count(tmp_path: Path, read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "LARGEST_TABLE", 1_000_000)
    media = [{"bytes": os.urandom(2_000_000), "path": "x"}]
    assert read(parquet_of(tmp_path / "p.parquet", {"file": ["a.mp4"], "caption": ["a cat"], "x": media})) == ["a cat"]


def test_prompts_may_come_through_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "p")
    threading.Thread(target=(tmp_path / "p").write_text, args=("a red circle\n\nb\n",), daemon=True).start()
    assert read_requests(tmp_path / "p") == [Request("a red circle", 0), Request("b", 1)]


def test_rows_of_an_array_are_counted_as_those_of_a_file(tmp_path: Path) -> None:
    (file := tmp_path / "p.json").write_text(json.dumps([{"prompt": "a"}, {"prompt": 7}]))
    with pytest.raises(ValueError, match=r"p\.json row 2: prompt is 7"):
        read_requests(file)
