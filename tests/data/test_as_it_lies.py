"""Folders, tables and shards in the forms that tools, spreadsheets and file systems give them."""

import json
import os
import unicodedata

import pytest

from videodit.data.manifest import Item, read_manifest
from videodit.data.plain import natural

from .conftest import found, lines, put, write_tar

# Folders.


def test_linked_folders_are_followed_each_once_and_loops_are_named(tmp_path):
    data, other = tmp_path / "data", tmp_path / "other"
    for path in (data / "b.mp4", data / "real" / "a.mp4", other / "deep" / "c.mp4"):
        put(path)
        put(path.with_suffix(".txt"), path.stem)
    (data / "again").symlink_to("real")  # before the real one by its name
    (data / "linked").symlink_to(other)
    (other / "loop").symlink_to(data)
    (other / "self").symlink_to("self")
    manifest = read_manifest(data)
    assert [str(item.path.relative_to(data)) for item in manifest.items] == ["b.mp4", "linked/deep/c.mp4", "real/a.mp4"]
    assert {skip.where for skip in manifest.skips} == {str(data / "again"), str(data / "linked" / "loop")}
    assert all("loop" in skip.why for skip in manifest.skips)


def test_what_looks_like_a_clip_and_is_none_is_named_by_its_ending(tmp_path):
    for name in ("a.mp4", "a.txt", "b.heic", "b.txt", "c.XYZ", "c.txt", "d", "d.txt", "e.psd", "a.json", "notes.md"):
        put(tmp_path / name)
    manifest = read_manifest(tmp_path)
    assert [item.path.name for item in manifest.items] == ["a.mp4"]
    assert {skip.where.rpartition("/")[2]: skip.why.partition(" are not read")[0] for skip in manifest.skips} == {
        "b.heic": "files that end in .heic",
        "c.XYZ": "files that end in .XYZ",
        "d": "files without an ending",
        "e.psd": "files that end in .psd",
    }
    (tmp_path / "a.mp4").unlink()
    with pytest.raises(ValueError, match=r"no usable clips \(4 skipped; first: .*heic are not read: convert"):
        read_manifest(tmp_path)


def test_pipes_and_links_to_nothing_are_named(tmp_path):
    put(tmp_path / "a.mp4")
    put(tmp_path / "a.txt", "a cat")
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "gone.mp4").symlink_to("nowhere.mp4")
    whys = {skip.where.rpartition("/")[2]: skip.why for skip in read_manifest(tmp_path).skips}
    assert whys == {"pipe.mp4": "it is a pipe, socket or device", "gone.mp4": "it is a link to nothing"}


@pytest.mark.parametrize(("clip", "text"), [("CLIP.MP4", "CLIP.TXT"), ("CLIP.MP4", "CLIP.txt"), ("c.mp4", "c.Txt")])
def test_endings_in_capitals_are_endings(tmp_path, clip, text):
    put(tmp_path / clip)
    put(tmp_path / text, "a cat")
    assert found(tmp_path) == [(clip, "a cat")]


def test_one_caption_for_two_files_of_a_name_is_told(tmp_path):
    for name in ("a.mp4", "a.jpg", "b.mp4"):
        put(tmp_path / name)
        put((tmp_path / name).with_suffix(".txt"), "a cat")
    manifest = read_manifest(tmp_path)
    assert len(manifest.items) == 3
    (note,) = manifest.notes
    assert note.where == f"{tmp_path / 'a.txt'} (a.jpg, a.mp4)"
    assert "thumbnail" in note.what


@pytest.mark.parametrize(
    ("names", "pattern"),
    [
        ([f"{n:04}.png" for n in (1, 2, 3, 4)], "-start_number 1 -i '{}/%04d.png'"),
        ([f"v1_frame{n}.jpg" for n in (8, 9, 10)], "-start_number 8 -i '{}/v1_frame%d.jpg'"),
    ],
)
def test_numbered_pictures_without_captions_are_told_to_look_like_frames(tmp_path, names, pattern):
    for name in names:
        put(tmp_path / "walk" / name)
    put(tmp_path / "walk.txt", "a square walks")
    put(tmp_path / "b.mp4")
    put(tmp_path / "b.txt", "a cat")
    (skip,) = read_manifest(tmp_path).skips
    assert skip.where == str(tmp_path / "walk")
    assert f"{len(names)} numbered pictures look like the frames of one clip" in skip.why
    assert pattern.format(tmp_path / "walk") in skip.why
    assert len(read_manifest(tmp_path, captions=False).items) == 1 + len(names)
    for name in names[:1]:
        put((tmp_path / "walk" / name).with_suffix(".txt"), "a picture")
    assert len(read_manifest(tmp_path).items) == 2, "pictures with captions of their own are pictures"


def test_only_line_feeds_end_a_line_of_captions(tmp_path):
    inside = "\u2028\u2029\x85\x0b\x0c\x1c\x1e\r"
    put(tmp_path / "a.mp4")
    put(tmp_path / "a.txt", f"one{inside}line\r\n two \n")
    assert found(tmp_path) == [("a.mp4", f"one{inside}line", "two")]
    (tmp_path / "a.txt").unlink()
    put(tmp_path / "videos.txt", "a.mp4\r\n")
    put(tmp_path / "prompts.txt", f"one{inside}line\n")
    assert found(tmp_path) == [("a.mp4", f"one{inside}line")]
    put(tmp_path / "list.jsonl", lines({"file": "a.mp4", "caption": "one\u2028\x85line"}))
    put(tmp_path / "list.csv", f'file,caption\r\na.mp4,"one{inside}\nline"\r\n')
    assert found(tmp_path / "list.jsonl") == [("a.mp4", "one\u2028\x85line")]
    assert found(tmp_path / "list.csv") == [("a.mp4", f"one{inside}\nline")]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_mark_at_the_beginning_tells_the_encoding_which_is_told(tmp_path, encoding):
    put(tmp_path / "a.mp4")
    put(tmp_path / "a.txt", "ein Bär\n".encode(encoding))
    put(tmp_path / "list.csv", "file;caption\na.mp4;ein Bär\n".encode(encoding))
    for source in (tmp_path, tmp_path / "list.csv"):
        assert found(source) == [("a.mp4", "ein Bär")]
        told = [note.what for note in read_manifest(source).notes]
        assert len(told) == (encoding != "utf-8-sig")
        assert all(encoding.upper() in what for what in told)


def test_videos2caption_lies_beside_its_videos(tmp_path):
    for name in ("0.mp4", "1.mp4"):
        put(tmp_path / "videos" / name)
    rows = [{"path": "0.mp4", "cap": ["one"], "resolution": {"width": 4}}, {"path": "videos/1.mp4", "cap": ["two"]}]
    put(tmp_path / "videos2caption.json", json.dumps(rows))
    assert found(tmp_path) == [("0.mp4", "one"), ("1.mp4", "two")]


def write_split(folder, split, *numbers):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    for part, number in enumerate(numbers):
        put(folder / "videos" / f"{number}.mp4")
        columns = {"video": [f"videos/{number}.mp4"], "caption": [f"clip {number}"]}
        path = put(folder / "data" / f"{split}-{part:05}-of-{len(numbers):05}.parquet")
        parquet.write_table(pyarrow.table(columns), path)


def test_parquet_files_of_one_split_in_data_are_read_with_paths_from_the_folder_above(tmp_path):
    write_split(tmp_path, "train", 0, 1)
    both = [("0.mp4", "clip 0"), ("1.mp4", "clip 1")]
    assert found(tmp_path) == both
    write_split(tmp_path, "test", 2)
    with pytest.raises(ValueError, match=r"several splits.*data/test\*\.parquet or .*data/train\*\.parquet"):
        read_manifest(tmp_path)
    assert found(tmp_path / "data" / "train*.parquet") == both
    assert found(tmp_path / "data" / "train-{00000..00001}-of-00002.parquet") == both


# Patterns.


@pytest.mark.slow
def test_patterns_fit_files_in_natural_order(tmp_path):
    for number in (1, 2, 10):
        write_tar(tmp_path / f"part-{number}.tar", {"1.mp4": b"x", "1.txt": f"part {number}"})
        put(tmp_path / "clips" / f"{number}.mp4")
        put(tmp_path / "clips" / f"{number}.txt", f"clip {number}")
    cache = tmp_path / "cache"
    assert [caption for _, caption in found(tmp_path / "part-*.tar", cache=cache)] == ["part 1", "part 2", "part 10"]
    assert found(tmp_path / "cl?ps" / "*.mp4") == [(f"{n}.mp4", f"clip {n}") for n in (1, 2, 10)]
    assert found(tmp_path / "{clips,clips}") == 2 * found(tmp_path / "clips")
    for pattern in ("*.csv", "{3..4}*.tar"):
        with pytest.raises(ValueError, match=r"no file fits this pattern"):
            read_manifest(tmp_path / pattern)
    with pytest.raises(ValueError, match=r"names nothing"):
        read_manifest(tmp_path / "{4..3}.tar")
    with pytest.raises(ValueError, match=r"names more than"):
        read_manifest(tmp_path / "{0..999999999999}.tar")


def test_signs_of_patterns_in_names_that_are_there_are_only_names(tmp_path):
    put(tmp_path / "set[1]{a,b}*" / "a.mp4")
    put(tmp_path / "set[1]{a,b}*" / "a.txt", "a cat")
    assert found(tmp_path / "set[1]{a,b}*") == [("a.mp4", "a cat")]


def test_natural_order_counts():
    names = ["clip", "clip 1", "clip 2", "clip 02b", "clip 10", "clip 0000000000000000000000011", "clip " + "9" * 5000]
    shuffled = [*names[1::2], *names[::2]]
    assert sorted(shuffled, key=natural) == names


# Columns and rows.


@pytest.mark.parametrize("header", ["Video,Caption", " VIDEO , caption ", "Video Path,TEXT", "file-name,Prompt"])
def test_columns_are_found_whatever_their_capitals_and_spaces(tmp_path, header):
    put(tmp_path / "a.mp4")
    path = put(tmp_path / "set.csv", header + ",Start,END\na.mp4,a cat,1,2\n")
    assert read_manifest(path).items == (Item(tmp_path / "a.mp4", ("a cat",), {}, 1.0, 2.0),)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_tables_of_any_delimiter_are_read(tmp_path, delimiter, suffix):
    put(tmp_path / "a.mp4")
    rows = [["video", "caption"], ["a.mp4", '"a cat, a dog; and | a\tfish"']]
    path = put(tmp_path / f"set{suffix}", "\n".join(delimiter.join(row) for row in rows))
    assert found(path) == [("a.mp4", "a cat, a dog; and | a\tfish")]


def test_each_row_is_read_by_the_first_column_that_it_fills(tmp_path):
    for name in ("a.mp4", "b.png"):
        put(tmp_path / name)
    rows = [{"video_path": "a.mp4", "caption": "film"}, {"image_path": "b.png", "text": "still"}, {"caption": "none"}]
    path = put(tmp_path / "set.jsonl", lines(*rows))
    assert found(path) == [("a.mp4", "film"), ("b.png", "still")]
    assert read_manifest(path).skips[0].why == "no path in column 'video_path' or 'image_path'"
    table = put(tmp_path / "set.csv", "image,video,caption\nb.png,a.mp4,film\nb.png,,still\n")
    film, still = read_manifest(table).items
    assert film == Item(tmp_path / "a.mp4", ("film",), {"image": "b.png"}), "beside a video, a picture is its thumbnail"
    assert still == Item(tmp_path / "b.png", ("still",), {"video": ""})


def test_a_column_that_is_there_twice_is_an_error(tmp_path):
    path = put(tmp_path / "set.csv", "file,caption,caption\na.mp4,a,b\n")
    with pytest.raises(ValueError, match=r"set\.csv:1: 'caption' stands there twice"):
        read_manifest(path)


@pytest.mark.parametrize("rest", ["", 'c.mp4,"closed"\n', "c.mp4,fine\n" * 3])
def test_a_quote_that_is_never_closed_is_named_with_the_line_where_it_opens(tmp_path, rest):
    path = put(tmp_path / "set.csv", 'file,caption\na.mp4,"two\nlines"\nb.mp4,"a cat\n' + rest)
    with pytest.raises(ValueError, match=r"set\.csv:4: .*quotes of the row that begins there"):
        read_manifest(path)


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_are_found_in_the_other_normal_form_of_unicode(tmp_path, forms):
    on_disk, said = (unicodedata.normalize(form, "café/が.mp4") for form in forms)
    put(tmp_path / on_disk)
    put(tmp_path / "set.jsonl", lines({"file": said, "caption": "a cat"}))
    assert [item.path for item in read_manifest(tmp_path / "set.jsonl").items] == [tmp_path / on_disk]
    (tmp_path / "set.jsonl").unlink()
    put((tmp_path / on_disk).parent / said.rpartition("/")[2].replace(".mp4", ".txt"), "a dog")
    assert found(tmp_path) == [(on_disk.rpartition("/")[2], "a dog")]


def test_backslashes_join_folders_where_no_file_is_called_so(tmp_path):
    put(tmp_path / "sub" / "a.mp4")
    put(tmp_path / "sub\\b.mp4")
    rows = [{"file": f"sub\\{name}", "caption": name} for name in ("a.mp4", "b.mp4", "c.mp4")]
    manifest = read_manifest(put(tmp_path / "set.jsonl", lines(*rows)))
    assert [item.path for item in manifest.items] == [tmp_path / "sub" / "a.mp4", tmp_path / "sub\\b.mp4"]
    assert "backslashes" in manifest.skips[0].why


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
@pytest.mark.parametrize("value", ["[" * 100_000 + "]" * 100_000, "9" * 5000])
def test_json_too_deep_or_with_too_long_numbers_is_named(tmp_path, suffix, value):
    row = '{"file": "a.mp4", "caption": "a", "x": ' + value + "}"
    path = put(tmp_path / f"set{suffix}", f"[{row}]" if suffix == ".json" else f"\n{row}\n")
    with pytest.raises(
        ValueError, match=r"set\.json: is no JSON" if suffix == ".json" else r"set\.jsonl:2: is no JSON"
    ) as named:
        read_manifest(path)
    assert ("(nested too deep)" in str(named.value)) == value.startswith("[")


def test_names_that_no_file_can_have_are_left_out(tmp_path):
    put(tmp_path / "a.mp4")
    rows = [{"file": name, "caption": "a cat"} for name in ("a.mp4", "x" * 5000 + ".mp4", "nul\0.mp4")]
    rows.append({"file": "a.mp4", "caption": "half \ud800 a letter"})
    path = put(tmp_path / "set.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    manifest = read_manifest(path)
    assert len(manifest.items) == 1
    assert [skip.where for skip in manifest.skips] == [f"{path}:{line}" for line in (2, 3, 4)]
    assert "half of a letter" in manifest.skips[2].why


# Shards.


def test_dots_in_keys_make_samples_of_their_own(tmp_path):
    files = {f"take.v1.{n}{ending}": f"take {n}" for n in (0, 5) for ending in (".mp4", ".txt")}
    files |= {"walk.slow.webm": "x", "walk.slow.json": {"caption": "slow"}, "walk.slow.cls": "3"}
    files |= {"take.v1.0.depth.png": "x", "plain.mp4": "x", "plain.txt": "plain", "plain.thumb.jpg": "x"}
    manifest = read_manifest(write_tar(tmp_path / "s.tar", files), tmp_path / "cache")
    clips = {item.origin.rpartition("::")[2]: item.captions for item in manifest.items}
    assert clips == {
        "take.v1.0.mp4": ("take 0",),
        "take.v1.5.mp4": ("take 5",),
        "walk.slow.webm": ("slow",),
        "plain.mp4": ("plain",),
    }
    assert manifest.skips == ()


def test_clips_of_one_key_are_never_made_one_in_silence(tmp_path):
    files = {"a.low.mp4": "x", "a.high.mp4": "x", "a.txt": "a cat", "b.depth.png": "x", "b.png": "x", "b.txt": "b"}
    files |= {"c.0.png": "x", "c.1.png": "x", "c.txt": "c"}
    shard = write_tar(tmp_path / "s.tar", files)
    manifest = read_manifest(shard, tmp_path / "cache")
    assert [item.origin.rpartition("::")[2] for item in manifest.items] == ["a.low.mp4", "b.png", "c.0.png"]
    assert [skip.where for skip in manifest.skips] == [f"{shard}::a.high.mp4", f"{shard}::c.1.png"]
    assert all("up to its first dot" in skip.why for skip in manifest.skips)
