"""Manifests in the forms people have them; nothing is dropped without a count and a reason."""

import json

import pytest

from videodit.data.manifest import CAPTION_COLUMNS, PATH_COLUMNS, Item, read_manifest


@pytest.fixture
def folder(tmp_path):
    """Files that only have to exist: a manifest does not open them."""
    for name in ("a.mp4", "b.mp4", "c.png", "deep/d.mkv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def write_rows(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_jsonl_gives_captions_and_attributes_with_paths_from_its_own_folder(folder, monkeypatch):
    rows = [
        {"file": "a.mp4", "caption": " a cat ", "hair": "red", "seed": 3, "ok": True, "none": None},
        {"file": "deep/d.mkv", "caption": ["a dog", "", "one dog"]},
    ]
    path = write_rows(folder / "list.jsonl", *rows)
    monkeypatch.chdir("/")
    manifest = read_manifest(path)
    assert manifest.items == (
        Item(folder / "a.mp4", ("a cat",), {"hair": "red", "seed": "3", "ok": "true"}),
        Item(folder / "deep/d.mkv", ("a dog", "one dog"), {}),
    )
    assert manifest.skips == ()


@pytest.mark.parametrize(("suffix", "delimiter"), [(".csv", ","), (".tsv", "\t")])
def test_tables_give_the_same(folder, suffix, delimiter):
    path = folder / f"list{suffix}"
    lines = [
        ["video", "text", "hair"],
        ["a.mp4", '"a cat, a ""big"" one\nin two\tlines"', "red"],
        ["b.mp4", "ein Bär", ""],
    ]
    path.write_text("\ufeff" + "\n".join(delimiter.join(line) for line in lines) + "\n", encoding="utf-8")
    assert read_manifest(path).items == (
        Item(folder / "a.mp4", ('a cat, a "big" one\nin two\tlines',), {"hair": "red"}),
        Item(folder / "b.mp4", ("ein Bär",), {"hair": ""}),
    )


@pytest.mark.parametrize("path_column", PATH_COLUMNS)
@pytest.mark.parametrize("caption_column", CAPTION_COLUMNS)
def test_every_accepted_column_name_is_accepted(folder, path_column, caption_column):
    path = write_rows(folder / "list.jsonl", {caption_column: "a cat", path_column: "a.mp4"})
    assert read_manifest(path).items == (Item(folder / "a.mp4", ("a cat",), {}),)


def test_the_first_accepted_name_wins_and_the_other_stays_an_attribute(folder):
    path = write_rows(folder / "list.jsonl", {"text": "b", "caption": "a", "path": "b.mp4", "file": "a.mp4"})
    assert read_manifest(path).items == (Item(folder / "a.mp4", ("a",), {"text": "b", "path": "b.mp4"}),)


def test_absolute_paths_stay(folder, tmp_path_factory):
    path = write_rows(tmp_path_factory.mktemp("other") / "list.jsonl", {"file": str(folder / "a.mp4"), "caption": "a"})
    assert read_manifest(path).items[0].path == folder / "a.mp4"


def test_rows_that_cannot_be_used_are_counted_with_place_and_reason(folder):
    path = write_rows(
        folder / "list.jsonl",
        {"file": "a.mp4", "caption": "a cat"},
        {"file": "a.mp4", "caption": "  "},
        {"file": "a.mp4"},
        {"file": "gone.mp4", "caption": "a ghost"},
        {"file": "deep", "caption": "a folder"},
        {"caption": "no file"},
        {"file": "b.mp4", "caption": 7},
        {"file": "b.mp4", "caption": ["x", 7]},
        {"file": "b.mp4", "caption": []},
    )
    manifest = read_manifest(path)
    assert [item.path.name for item in manifest.items] == ["a.mp4"]
    expected = ["no caption", "no caption", "gone.mp4 does not exist", "not a file", "no path", "other than text"]
    expected += ["other than text", "no caption"]
    assert [skip.where for skip in manifest.skips] == [f"{path}:{line}" for line in range(2, 10)]
    for skip, reason in zip(manifest.skips, expected, strict=True):
        assert reason in skip.why


def test_blank_lines_do_not_shift_the_numbers(folder):
    path = folder / "list.jsonl"
    path.write_text('\n{"file": "a.mp4", "caption": "a"}\n\n{"file": "gone.mp4", "caption": "b"}\n')
    assert read_manifest(path).skips[0].where == f"{path}:4"


@pytest.mark.parametrize("line", ["{not json}", '["a.mp4", "a cat"]', '"a.mp4"', "3"])
def test_a_bad_json_line_is_an_error_with_its_place(folder, line):
    path = folder / "list.jsonl"
    path.write_text('{"file": "a.mp4", "caption": "a"}\n' + line + "\n")
    with pytest.raises(ValueError, match=r"list\.jsonl:2 .*one (JSON )?object a line"):
        read_manifest(path)


def test_a_missing_column_is_an_error_that_names_what_was_seen_and_what_would_do(folder):
    rows = folder / "list.csv"
    rows.write_text("clip,caption\na.mp4,a cat\n")
    with pytest.raises(
        ValueError, match=r"list\.csv has no path column: columns seen: clip, caption;.*file or path or"
    ):
        read_manifest(rows)
    lines = write_rows(folder / "list.jsonl", {"file": "a.mp4", "label": "a cat"})
    with pytest.raises(ValueError, match=r"no caption column: columns seen: file, label;.*caption or text or prompt"):
        read_manifest(lines)


def test_an_unquoted_comma_is_an_error_not_half_a_caption(folder):
    path = folder / "list.csv"
    path.write_text("file,caption\na.mp4,a cat\nb.mp4,a cat, and a dog\n")
    with pytest.raises(ValueError, match=r"list\.csv:3 has more cells"):
        read_manifest(path)


def test_a_quote_that_never_closes_is_an_error(folder):
    path = folder / "list.csv"
    path.write_text('file,caption\na.mp4,"a cat\nb.mp4,a dog\n')
    with pytest.raises(ValueError, match=r"list\.csv:\d does not parse"):
        read_manifest(path)


@pytest.mark.parametrize("name", ["list.jsonl", "list.csv", "a.txt"])
def test_other_encodings_are_an_error(folder, name):
    rows = {"list.jsonl": '{"file": "a.mp4", "caption": "Bär"}', "list.csv": "file,caption\na.mp4,Bär", "a.txt": "Bär"}
    (folder / name).write_bytes(rows[name].encode("latin-1"))
    with pytest.raises(ValueError, match=f"{name} is not UTF-8"):
        read_manifest(folder if name == "a.txt" else folder / name)


@pytest.mark.parametrize("name", ["clips.jsonl", "metadata.jsonl", "metadata.csv", "manifest.jsonl"])
def test_a_folder_is_read_by_the_manifest_in_it(folder, name):
    content = "file,caption\nb.mp4,a dog\n" if name.endswith("csv") else '{"file": "b.mp4", "caption": "a dog"}\n'
    (folder / name).write_text(content)
    (folder / "a.txt").write_text("not read: the manifest says what there is")
    assert read_manifest(folder).items == (Item(folder / "b.mp4", ("a dog",), {}),)


def test_a_folder_without_manifest_takes_captions_from_texts_beside(folder):
    (folder / "a.txt").write_text("a cat\n\n  one cat  \n")
    (folder / "c.txt").write_text("a picture")
    (folder / "deep" / "d.txt").write_text("\n")
    (folder / ".b.mp4").write_bytes(b"half written")
    (folder / "notes.md").write_text("no clip")
    manifest = read_manifest(str(folder))
    assert manifest.items == (
        Item(folder / "a.mp4", ("a cat", "one cat"), {}),
        Item(folder / "c.png", ("a picture",), {}),
    )
    assert [skip.where for skip in manifest.skips] == [str(folder / "b.mp4"), str(folder / "deep" / "d.mkv")]
    assert "b.txt is not beside it" in manifest.skips[0].why
    assert "d.txt is empty" in manifest.skips[1].why


def test_nothing_left_is_an_error_that_says_how_much_was_skipped(folder):
    with pytest.raises(ValueError, match=r"no usable clips \(4 skipped; first: .*a\.mp4: no caption"):
        read_manifest(folder)
    path = write_rows(folder / "list.jsonl", {"file": "gone.mp4", "caption": "a"})
    with pytest.raises(ValueError, match=r"list\.jsonl gives no usable clips \(1 skipped; first: .*:1: .*gone\.mp4"):
        read_manifest(path)


def test_other_sources_are_errors(folder):
    with pytest.raises(ValueError, match=r"nowhere does not exist"):
        read_manifest(folder / "nowhere")
    with pytest.raises(ValueError, match=r"a\.mp4 is no manifest by its suffix"):
        read_manifest(folder / "a.mp4")
