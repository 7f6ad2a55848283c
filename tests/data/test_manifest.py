"""Manifests in the forms people have them; nothing is dropped without a count and a reason."""

import csv
import datetime
import json
import math
import sys

import pytest

from videodit.data.manifest import CAPTION_COLUMNS, CAPTION_LISTS, CLIP_LISTS, PATH_COLUMNS, Item, read_manifest


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


def write_parquet(path, columns):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table(columns), path, row_group_size=2)
    return path


def test_parquet_gives_the_same_and_leaves_bytes_out(folder):
    columns = {
        "path": ["a.mp4", "b.mp4", "gone.mp4", "c.png"],
        "caption": [["a cat", "one cat"], ["a dog"], ["a ghost"], None],
        "fps": [24.0, None, 8.0, 8.0],
        "tags": [["x", "y"], [], [], []],
        "day": [datetime.date(2024, 2, 29), None, None, None],
        "thumbnail": [b"jpeg"] * 4,
    }
    path = write_parquet(folder / "list.parquet", columns)
    manifest = read_manifest(path)
    assert manifest.items == (
        Item(folder / "a.mp4", ("a cat", "one cat"), {"fps": "24.0", "tags": '["x", "y"]', "day": '"2024-02-29"'}),
        Item(folder / "b.mp4", ("a dog",), {"tags": "[]"}),
    )
    assert [(skip.where, skip.why) for skip in manifest.skips] == [
        (f"{path} row 3", f"{folder / 'gone.mp4'} does not exist"),
        (f"{path} row 4", "no caption in column 'caption'"),
    ]


@pytest.mark.parametrize("clip", [b"mp4", {"bytes": b"mp4", "path": "a.mp4"}])
def test_parquet_that_holds_the_videos_is_refused_with_the_fix(folder, clip):
    path = write_parquet(folder / "list.parquet", {"video": [clip], "caption": ["a cat"]})
    with pytest.raises(ValueError, match=r"list\.parquet: holds bytes in column 'video': write each to a file"):
        read_manifest(path)


def test_parquet_that_holds_the_videos_and_names_them_is_read_by_the_names(folder):
    columns = {"video": [b"mp4"], "file_name": ["a.mp4"], "caption": ["a cat"]}
    path = write_parquet(folder / "list.parquet", columns)
    assert read_manifest(path).items == (Item(folder / "a.mp4", ("a cat",), {}),)


def test_damaged_parquet_and_a_missing_library_are_errors(folder, monkeypatch):
    path = folder / "list.parquet"
    path.write_bytes(b"PAR1 and then nothing")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "pyarrow", None)
        with pytest.raises(ValueError, match=r'list\.parquet.*pip install "videodit\[parquet\]"'):
            read_manifest(path)
    pytest.importorskip("pyarrow")
    with pytest.raises(ValueError, match=r"list\.parquet: cannot be read as Parquet"):
        read_manifest(path)


def test_a_list_of_json_objects_gives_the_same(folder):
    path = folder / "list.json"
    path.write_text(
        json.dumps([{"path": "a.mp4", "cap": ["a cat", "one cat"]}, {"path": "b.mp4", "cap": []}], indent=2)
    )
    manifest = read_manifest(path)
    assert manifest.items == (Item(folder / "a.mp4", ("a cat", "one cat"), {}),)
    assert manifest.skips[0].where == f"{path} row 2"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            '{"path": "a.mp4", "cap": "a"}\n{"path": "b.mp4", "cap": "b"}',
            r"list\.json: is no JSON that can be read .*call it \.jsonl",
        ),
        ('{"a.mp4": "a cat"}', r"list\.json: must hold a list of objects"),
        ('["a.mp4"]', r"list\.json: must hold a list of objects"),
    ],
)
def test_other_json_is_an_error(folder, content, message):
    (folder / "list.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_manifest(folder / "list.json")


def test_tables_of_open_sora_keep_what_they_declare_as_attributes(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("other") / "meta.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["", "path", "text", "num_frames", "height", "width", "aspect_ratio", "fps"])  # as pandas does
        writer.writerow([0, folder / "a.mp4", "a cat, sitting", 51, 720, 1280, 0.5625, 25.0])
    declared = {"num_frames": "51", "height": "720", "width": "1280", "aspect_ratio": "0.5625", "fps": "25.0"}
    assert read_manifest(path).items == (Item(folder / "a.mp4", ("a cat, sitting",), {"": "0", **declared}),)


@pytest.mark.parametrize(
    ("columns", "start", "end"),
    [
        ({"start": 1.5, "end": 4}, 1.5, 4.0),
        ({"start_time": "1.5", "end_time": " 4 "}, 1.5, 4.0),
        ({"start": 2}, 2.0, None),
        ({"end": "0.5"}, 0.0, 0.5),
        ({"start": "", "end": ""}, 0.0, None),
        ({"start": None, "end_time": 3}, 0.0, 3.0),
    ],
)
def test_start_and_end_make_a_clip_a_stretch_of_its_file_and_no_attribute(folder, columns, start, end):
    path = write_rows(folder / "list.jsonl", {"file": "a.mp4", "caption": "a", "hair": "red", **columns})
    assert read_manifest(path).items == (Item(folder / "a.mp4", ("a",), {"hair": "red"}, start, end),)


def test_a_stretch_that_cannot_be_is_skipped_with_its_place(folder):
    wrong = [(-1, 2), (3, 3), (3, 2), (math.nan, 2), (0, math.nan), (0, math.inf), (math.inf, None)]
    wrong += [("0:00:01", 2), (True, 2), ([1], 2), (None, 0)]
    rows = [{"file": "a.mp4", "caption": "a", "start": start, "end": end} for start, end in [(0, 1), *wrong]]
    path = write_rows(folder / "list.jsonl", *rows)
    manifest = read_manifest(path)
    assert [(item.start, item.end) for item in manifest.items] == [(0.0, 1.0)]
    assert [skip.where for skip in manifest.skips] == [f"{path}:{line}" for line in range(2, len(rows) + 1)]
    assert all("give seconds with 0 <= start < end" in skip.why for skip in manifest.skips)


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
    with pytest.raises(ValueError, match=r"list\.jsonl:2: .*one (JSON )?object a line"):
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
    with pytest.raises(ValueError, match=r"list\.csv:3: more values than the first line has columns"):
        read_manifest(path)


def test_a_quote_that_never_closes_is_an_error(folder):
    path = folder / "list.csv"
    path.write_text('file,caption\na.mp4,"a cat\nb.mp4,a dog\n')
    with pytest.raises(ValueError, match=r"list\.csv:2: a quote is opened and never closed"):
        read_manifest(path)


@pytest.mark.parametrize("name", ["list.jsonl", "list.csv", "a.txt"])
def test_other_encodings_are_an_error(folder, name):
    rows = {"list.jsonl": '{"file": "a.mp4", "caption": "Bär"}', "list.csv": "file,caption\na.mp4,Bär", "a.txt": "Bär"}
    (folder / name).write_bytes(rows[name].encode("latin-1"))
    line = {"list.jsonl": ":1:", "list.csv": ":2:", "a.txt": ""}[name]
    with pytest.raises(ValueError, match=f"{name}{line} is not UTF-8"):
        read_manifest(folder if name == "a.txt" else folder / name)


@pytest.mark.parametrize("name", ["clips.jsonl", "metadata.jsonl", "metadata.csv", "manifest.jsonl"])
def test_a_folder_is_read_by_the_manifest_in_it(folder, name):
    content = "file,caption\nb.mp4,a dog\n" if name.endswith("csv") else '{"file": "b.mp4", "caption": "a dog"}\n'
    (folder / name).write_text(content)
    (folder / "a.txt").write_text("not read: the manifest says what there is")
    assert read_manifest(folder).items == (Item(folder / "b.mp4", ("a dog",), {}),)


def test_a_folder_is_read_by_the_parquet_in_it(folder):
    write_parquet(folder / "metadata.parquet", {"file_name": ["b.mp4"], "text": ["a dog"]})
    assert read_manifest(folder).items == (Item(folder / "b.mp4", ("a dog",), {}),)


def test_a_split_of_a_folder_is_read_where_it_is_the_only_one(folder):
    write_rows(folder / "deep" / "metadata.jsonl", {"file_name": "d.mkv", "text": "a dog"})
    for name in ("a.mp4", "b.mp4", "c.png"):
        (folder / name).rename(folder / "deep" / name)
    assert read_manifest(folder).items == (Item(folder / "deep" / "d.mkv", ("a dog",), {}),)
    (folder / ".cache").mkdir()
    (folder / ".cache" / "metadata.csv").write_text("not ours")
    assert len(read_manifest(folder).items) == 1


def test_several_splits_or_clips_beside_the_split_are_refused_by_name(folder):
    write_rows(folder / "deep" / "metadata.jsonl", {"file_name": "d.mkv", "text": "a dog"})
    with pytest.raises(ValueError, match=r"name one: .*deep$"):
        read_manifest(folder)
    for name in ("a.mp4", "b.mp4", "c.png"):
        (folder / name).unlink()
    (folder / "train").mkdir()
    (folder / "train" / "metadata.csv").write_text("file_name,text\n../deep/d.mkv,a dog\n")
    with pytest.raises(ValueError, match=r"name one: .*deep or .*train$"):
        read_manifest(folder)
    assert len(read_manifest(folder / "train").items) == 1


@pytest.mark.parametrize("clips", CLIP_LISTS)
@pytest.mark.parametrize("captions", CAPTION_LISTS)
def test_lists_of_clips_and_captions_are_read_side_by_side(folder, clips, captions):
    (folder / clips).write_text("deep/d.mkv\na.mp4\ngone.mp4\n")
    (folder / captions).write_text("a dog, running\na cat\u2028on a mat\na ghost", encoding="utf-8")
    manifest = read_manifest(folder)
    assert manifest.items == (
        Item(folder / "deep/d.mkv", ("a dog, running",), {}),
        Item(folder / "a.mp4", ("a cat\u2028on a mat",), {}),
    )
    assert manifest.skips[0].where == f"{folder / clips}:3"


def test_lists_of_unequal_length_are_an_error_that_names_both_and_counts(folder):
    (folder / "videos.txt").write_text("a.mp4\nb.mp4\n")
    (folder / "prompts.txt").write_text("a cat\n\na dog\n")
    with pytest.raises(ValueError, match=r"videos\.txt has 2 lines, .*prompts\.txt 3"):
        read_manifest(folder)


@pytest.mark.parametrize(
    ("one", "two"), [(("videos.txt",), ("prompt.txt", "prompts.txt")), (("prompts.txt",), ("video.txt", "videos.txt"))]
)
def test_two_lists_for_the_same_are_an_error(folder, one, two):
    for name in (*one, *two):
        (folder / name).write_text("a.mp4\n")
    with pytest.raises(ValueError, match=rf"^{folder / two[0]}, {folder / two[1]} are there: keep one"):
        read_manifest(folder)


def test_of_several_caption_columns_without_a_value_the_first_is_named(folder):
    rows = [{"file": "a.mp4", "caption": None, "text": None}, {"file": "b.mp4", "caption": None, "text": "a dog"}]
    manifest = read_manifest(write_rows(folder / "list.jsonl", *rows))
    assert manifest.items == (Item(folder / "b.mp4", ("a dog",), {}),)
    assert manifest.skips[0].why == "no caption in column 'caption'"


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


def test_clips_without_captions_are_items_where_that_is_asked_for(tmp_path):
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "a.txt").write_text("a caption")
    (tmp_path / "b.txt").write_text("  ")
    for source in (tmp_path, tmp_path / "rows.jsonl"):
        assert [item.path.name for item in read_manifest(tmp_path).items] == ["a.mp4"]
        found = read_manifest(source, captions=False)
        assert [(item.path.name, item.captions) for item in found.items] == [
            ("a.mp4", ("a caption",)),
            ("b.mp4", ()),
            ("c.mp4", ()),
        ]
        assert found.skips == ()
        rows = [{"file": "a.mp4", "caption": "a caption"}, {"file": "b.mp4", "caption": ""}, {"file": "c.mp4"}]
        (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))


def test_a_manifest_without_the_caption_column_gives_clips_where_none_are_asked_for(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"x")
    path = write_rows(tmp_path / "videos.jsonl", {"file": "a.mp4", "seed": 3})
    (item,) = read_manifest(path, captions=False).items
    assert (item.path.name, item.captions, item.attributes) == ("a.mp4", (), {"seed": "3"})
    with pytest.raises(ValueError, match="no caption column: columns seen: file, seed"):
        read_manifest(path)
