"""Prompts files: what stands there is what is asked for, to the last digit and sign; what is wrong is named by line."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from footage import pan
from hypothesis import given, settings
from hypothesis import strategies as st

from videodit.clipset import Request, Sampling, find_clips, read_requests
from videodit.config.kinds import Seed, argument
from videodit.video import write_video

SEPARATORS = ("\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1e")
TABLES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")


def written(folder: Path, ending: str, rows: list[dict[str, Any]]) -> Path:
    """A prompts file of these rows."""
    file, columns = folder / f"p{ending}", list(rows[0])
    if ending == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        kinds = {"seed": pyarrow.uint64()}
        arrays = {name: pyarrow.array([row[name] for row in rows], kinds.get(name)) for name in columns}
        parquet.write_table(pyarrow.table(arrays), file)
    elif ending == ".jsonl":
        file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    elif ending == ".json":
        file.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    else:
        cells = [columns, *([str(value) for value in row.values()] for row in rows)]
        quoted = [['"' + cell.replace('"', '""') + '"' for cell in row] for row in cells]
        with file.open("w", encoding="utf-8", newline="") as out:
            out.writelines(("\t" if ending == ".tsv" else ",").join(row) + "\r\n" for row in quoted)
    return file


@pytest.mark.parametrize("ending", TABLES)
def test_seeds_of_64_bits_and_signs_of_all_kinds_stay_as_they_are(tmp_path: Path, ending: str) -> None:
    seeds = [2**53 + 1, 1234567890123456789, 2**64 - 1, 0]
    prompts = ['a "red" circle, and\nits shadow', f"one{''.join(SEPARATORS)}two", "é 走る \U0001f600", "long " * 40_000]
    rows = [{"prompt": prompt, "seed": seed} for prompt, seed in zip(prompts, seeds, strict=True)]
    found = read_requests(written(tmp_path, ending, rows))
    assert [request.seed for request in found] == seeds
    assert [request.prompt for request in found] == [prompt.strip() for prompt in prompts]
    assert all(type(request.seed) is int for request in found)


def test_only_line_ends_end_a_prompt(tmp_path: Path) -> None:
    prompts = [f"one{sign}two" for sign in SEPARATORS]
    (tmp_path / "p.txt").write_bytes("\r\n".join(prompts).encode())
    assert [request.prompt for request in read_requests(tmp_path / "p.txt")] == prompts


@pytest.mark.parametrize("header", ["prompt;seed", " Prompt ; SEED", "prompt\tseed"])
def test_a_table_may_have_another_delimiter_and_capitals(tmp_path: Path, header: str) -> None:
    delimiter = "\t" if "\t" in header else ";"
    (tmp_path / "p.csv").write_text(f"{header}\na red, small circle{delimiter}3\n")
    assert read_requests(tmp_path / "p.csv") == [Request("a red, small circle", 3)]


def test_files_of_rows_lie_beside_it_or_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/a/home")
    (tmp_path / "p.csv").write_text("prompt,image\na,x.png\nb,~/x.png\n")
    assert [one.image for one in read_requests(tmp_path / "p.csv")] == [str(tmp_path / "x.png"), "/a/home/x.png"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.jsonl", '{"prompt": "a"}\n{"prompt": ["a", "b"]}', "p.jsonl:2: prompt is ['a', 'b']; it must be text"),
        ("p.jsonl", '{"prompt": 7}', "p.jsonl:1: prompt is 7; it must be text"),
        ("p.jsonl", '{"prompt": "a", "negative_prompt": {"a": 1}}', "p.jsonl:1: negative_prompt is {'a': 1}"),
        ("p.jsonl", '{"prompt": "a", "image": 3}', "p.jsonl:1: image is 3; it must be text"),
        ("p.jsonl", '{"prompt": "a", "seed": true}', "p.jsonl:1: seed is True; it must be a whole number"),
        ("p.jsonl", '{"prompt": "a", "seed": "3"}', "p.jsonl:1: seed is '3'; it must be a whole number"),
        ("p.jsonl", '{"prompt": "a", "seed": [3]}', "p.jsonl:1: seed is [3]"),
        ("p.jsonl", '{"prompt": "a", "seed": 1e19}', "p.jsonl:1: seed is 1e+19; it must be a whole number below 2^53"),
        ("p.jsonl", '{"prompt": "a", "fps": NaN}', "p.jsonl:1: fps=nan must be a finite number"),
        ("p.jsonl", '{"prompt": "a", "fps": true}', "p.jsonl:1: fps is True; it must be a number"),
        ("p.jsonl", '{"prompt": "a", "loop": 1}', "p.jsonl:1: loop is 1; it must be true or false"),
        ("p.jsonl", '{"prompt": "a", "seed": -1}', "p.jsonl:1: seed=-1 must be greater than or equal to 0"),
        ("p.jsonl", f'{{"prompt": "a", "seed": {2**64}}}', "p.jsonl:1: seed=18446744073709551616 must be less than"),
        ("p.jsonl", f'{{"prompt": "a", "x": {"9" * 5000}}}', "p.jsonl:1: is no JSON that can be read"),
        ("p.jsonl", f'{{"prompt": "a", "x": {"[" * 100_000}', "p.jsonl:1: is no JSON that can be read"),
        ("p.json", "[" * 100_000, "p.json: is no JSON that can be read"),
        ("p.jsonl", '{"prompt": "a", "prompt": "b"}', "p.jsonl:1: is no JSON that can be read ('prompt' stands"),
        ("p.jsonl", '{"prompt": "a", "Prompt ": "b"}', "p.jsonl:1: 'prompt' stands there twice"),
        ("p.jsonl", '{"prompt": "a \\ud800"}', "p.jsonl:1: prompt='a \\ud800' holds half a surrogate pair"),
        ("p.jsonl", '{"prompt": "a \\u0000"}', "p.jsonl:1: prompt='a \\x00' holds a NUL"),
        ("p.csv", "prompt,fps\na,1e-308", "p.csv:2: fps=1e-308 must be greater than or equal to 0.001"),
        ("p.csv", "prompt,fps\na,nan", "p.csv:2: fps=nan must be a finite number"),
        ("p.csv", "prompt,strength,video\na,2,v", "p.csv:2: strength=2.0 must be less than or equal to 1"),
        ("p.csv", "prompt,seed\na,1e30", "p.csv:2: seed is '1e30'; it must be a whole number below 2^53"),
        ("p.csv", f"prompt,seed\na,{'9' * 5000}", "p.csv:2: seed is '9999"),
        ("p.csv", 'prompt,seed\na,1\n"b,2\nc,3\nd,4\n', "p.csv:3: a quote is opened and never closed"),
        ("p.csv", 'prompt,seed\n"b,2\n"c",3\n', "p.csv:2: does not parse"),
        ("p.csv", 'prompt,seed\n"a\nb",1\nc,x\n', "p.csv:4: seed is 'x'"),
        ("p.csv", "prompt,prompt\na,b", "p.csv:1: 'prompt' stands there twice"),
        ("p.csv", b"prompt\na\nb\xff", "p.csv:3: is not UTF-8"),
        ("p.txt", b"a\nb\n\xff\xfe", "p.txt:3: is not UTF-8"),
        ("p.parquet", "no parquet", "p.parquet: cannot be read as Parquet"),
    ],
)
def test_what_cannot_be_is_named_by_its_line(tmp_path: Path, name: str, text: str | bytes, message: str) -> None:
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=r"p\.") as error:
        read_requests(tmp_path / name)
    assert str(error.value).startswith(f"{tmp_path}/{message}")
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize(
    "make",
    [
        lambda: Request("a", seed=True),
        lambda: Request("a", seed=2**64),
        lambda: Request("a", seed=1.0),
        lambda: Request("a", fps=float("inf")),
        lambda: Request("a", num_frames=0),
        lambda: Request("a", width=10**10),
        lambda: Request(7),
        lambda: Sampling(steps=0),
        lambda: Sampling(guidance_scale=float("nan")),
        lambda: Sampling(guidance_rescale=1.5),
        lambda: Sampling(guidance_interval=(0.8, 0.2)),
        lambda: Sampling(image_guidance_scale="2"),
        lambda: Sampling(compile=1),
    ],
)
def test_a_request_of_other_kinds_cannot_be(make: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match="must"):
        make()


@pytest.mark.parametrize("text", ["nan", "-1", "1.5", "true", "", "0x10", str(2**64)])
def test_an_argument_of_a_kind_takes_no_other(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="must be"):
        argument(Seed)(text)
    assert argument(Seed)(str(2**64 - 1)) == 2**64 - 1


def test_prompts_of_clips_are_read_alike(tmp_path: Path) -> None:
    write_video(tmp_path / "clips" / "a.mkv", pan(0, 3), 8)
    (tmp_path / "p.csv").write_text(f"Name;Prompt;Seed\na.mkv;one\u2028two;{2**63 + 1}\n", encoding="utf-8")
    (found,) = find_clips(tmp_path / "clips", tmp_path / "p.csv")
    assert (found.prompt, found.seed) == ("one\u2028two", 2**63 + 1)


ROWS = [
    {"prompt": "a red, circle", "seed": 2**63 + 1, "fps": 8.5, "loop": True},
    {"caption": 'a "star"\n', "image": "a.png", "num_frames": 9},
]
TABLE = 'prompt,seed,fps,loop\n"a red, ""small"" circle",9007199254740993,8.5,yes\n"two\nlines",3,,\n'
SOURCES = [
    (".jsonl", "\n".join(map(json.dumps, ROWS))),
    (".json", json.dumps(ROWS)),
    (".csv", TABLE),
    (".tsv", TABLE.replace(",", "\t")),
    (".txt", "a red circle\n\nb\u2028c\n"),
]
PIECES = ['"', '""', "\n", "\r", "\0", "\x85", "\u2028", "\ud800", ",", "\t", ";", "NaN", "[" * 2000, "9" * 5000, "{}"]


@st.composite
def mutated_prompts(draw: st.DrawFn) -> tuple[str, bytes]:
    ending, text = draw(st.sampled_from(SOURCES))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 8)))
        text = (
            text[:start] + draw(st.sampled_from([*PIECES, "", text[start:end] * 2]) | st.text(max_size=3)) + text[end:]
        )
    return ending, text.encode("utf-8", "surrogatepass")


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(mutated_prompts())
def test_whatever_a_prompts_file_holds_it_is_requests_or_an_error_that_names_it(mutated: tuple[str, bytes]) -> None:
    ending, content = mutated
    with TemporaryDirectory() as folder:
        file = Path(folder) / f"p{ending}"
        file.write_bytes(content)
        assert is_requests_or_named(file)


def is_requests_or_named(file: Path) -> bool:
    try:
        return all(isinstance(one, Request) for one in read_requests(file))
    except ValueError as error:
        return type(error) is ValueError and str(error).startswith(str(file)) and "\n" not in str(error)
