"""Tar shards, here and by URL: their samples are listed like files, and broken or hostile ones are named."""

import os
import tarfile

import pytest

from videodit.data.manifest import read_manifest
from videodit.data.remote import fetch
from videodit.video import VideoError

from .conftest import remote_item, write_tar


def test_a_shard_gives_the_samples_that_share_a_key(tmp_path, cache):
    files = {
        "a/1.mp4": b"first" * 300_000,
        "a/1.txt": "a cat\n\none cat\n",
        "a/1.json": {"caption": "not this one", "fps": 8, "start": 1, "end": 2.5},
        "a/2.thumb.jpg": b"small",
        "a/2.webm": b"second",
        "a/2.json": {"text": ["a dog", "one dog"], "nested": {"k": None}},
        "b/1.seg.PNG": b"third",
        "b/1.txt": "a picture",
        "b/1.cls": "7",
        "README": "passed over",
        "a/.3.mp4": b"passed over",
    }
    shard = write_tar(tmp_path / "s.tar", files)
    manifest = read_manifest(shard, cache)
    assert manifest.skips == ()
    first, second, third = manifest.items
    assert (first.captions, first.start, first.end) == (("a cat", "one cat"), 1.0, 2.5)
    assert first.attributes == {"caption": "not this one", "fps": "8"}
    assert (second.captions, second.attributes) == (("a dog", "one dog"), {"nested": '{"k": null}'})
    assert (third.captions, third.attributes) == (("a picture",), {})
    assert first.origin == f"{shard}::a/1.mp4"
    for item, content in ((first, b"first" * 300_000), (second, b"second"), (third, b"third")):
        assert not item.path.exists()
        fetch(item)
        assert item.path.read_bytes() == content
    assert [item.path.suffix for item in manifest.items] == [".mp4", ".webm", ".png"]
    assert {path.parent for path in (item.path for item in manifest.items)} == {cache}


def test_samples_that_cannot_be_used_are_counted_with_their_key(tmp_path, cache):
    files = {
        **{"good.mp4": b"x", "good.txt": "a cat", "mute.mp4": b"x", "blank.mp4": b"x", "blank.txt": " \n"},
        **{"lone.txt": "a cat", "latin.mp4": b"x", "latin.txt": "Bär".encode("latin-1"), "bad.mp4": b"x"},
        **{"bad.json": "{", "list.mp4": b"x", "list.json": "[]", "deep.mp4": b"x", "deep.json": "[" * 100_000},
        **{
            "long.mp4": b"x",
            "long.txt": "a" * (1 << 20) + "b",
            "late.mp4": b"x",
            "late.json": {"text": "a", "end": -1},
        },
    }
    manifest = read_manifest(write_tar(tmp_path / "s.tar", files), cache)
    assert [item.captions for item in manifest.items] == [("a cat",)]
    reasons = {"mute": "no caption", "blank": "no caption", "lone": "no video or image among its files (txt)"}
    reasons |= dict.fromkeys(("latin", "bad", "deep", "long"), "cannot be read") | {"list": "other than an object"}
    reasons |= {"late": "0 <= start < end"}
    assert {skip.where for skip in manifest.skips} == {f"{tmp_path / 's.tar'}::{key}" for key in reasons}
    for skip in manifest.skips:
        assert reasons[skip.where.split("::")[1]] in skip.why


def test_a_folder_and_a_brace_pattern_give_shards_in_order(tmp_path, cache, monkeypatch):
    for number in (8, 9, 10, 11):
        write_tar(tmp_path / f"s-{number:02d}.tar", {"1.mp4": b"%d" % number, "1.txt": f"number {number}"})

    def captions(source):
        return [item.captions[0] for item in read_manifest(source, cache).items]

    assert captions(tmp_path) == [f"number {n}" for n in (8, 9, 10, 11)]
    assert captions(tmp_path / "s-{08..10}.tar") == [f"number {n}" for n in (8, 9, 10)]
    assert captions(tmp_path / "s-{11,08}.tar") == ["number 11", "number 8"]
    assert captions(tmp_path / "{s,s}-{08..09}.tar") == [f"number {n}" for n in (8, 9, 8, 9)]
    with pytest.raises(ValueError, match=r"s-12\.tar does not exist"):
        read_manifest(tmp_path / "s-{11..12}.tar", cache)
    items = read_manifest(tmp_path, cache).items
    assert len({item.path for item in items}) == 4, "equal names in different shards are different clips"
    monkeypatch.chdir(tmp_path)
    (relative,) = read_manifest("s-08.tar", cache).items
    monkeypatch.chdir("/")
    fetch(relative)
    assert relative.path.read_bytes() == b"8"


def test_a_folder_with_shards_and_clips_is_an_error(tmp_path, cache):
    write_tar(tmp_path / "s.tar", {"1.mp4": b"x", "1.txt": "a cat"})
    (tmp_path / "b.mp4").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"shards \(s\.tar\) and clips \(b\.mp4\)"):
        read_manifest(tmp_path, cache)


def test_a_shard_that_is_written_anew_gives_other_clips(tmp_path, cache):
    shard = write_tar(tmp_path / "s.tar", {"1.mp4": b"old", "1.txt": "a cat"})
    (old,) = read_manifest(shard, cache).items
    fetch(old)
    write_tar(shard, {"1.mp4": b"newer", "1.txt": "a cat"})
    os.utime(shard, (1e9, 1e9))
    (new,) = read_manifest(shard, cache).items
    fetch(new)
    assert (old.path.read_bytes(), new.path.read_bytes()) == (b"old", b"newer")


def test_hostile_members_are_written_nowhere_but_to_the_cache(tmp_path, cache):
    folder = tmp_path / "data"
    folder.mkdir()
    names = ["../../up", str(tmp_path / "absolute"), "a/../../../b", "x\\y", "new\nline/x", "\udcff", "q?#*{1,2}"]
    files = {f"{name}{suffix}": content for name in names for suffix, content in ((".mp4", b"x"), (".txt", "a cat"))}
    kinds = [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]
    links = {f"link{i}.mp4": kind for i, kind in enumerate(kinds)}
    shard = write_tar(folder / "s.tar", {**files, "link0.txt": "a cat"}, {**links, "folder.mp4": tarfile.DIRTYPE})
    before = set(tmp_path.rglob("*"))
    manifest = read_manifest(shard, cache)
    for item in manifest.items:
        fetch(item)
        assert item.path.read_bytes() == b"x"
    assert len(manifest.items) == len(names)
    made = set(tmp_path.rglob("*")) - before - {cache}
    assert {path.parent for path in made} == {cache}
    assert all(len(path.name) == 36 and path.stem.isalnum() for path in made)
    skips = {skip.where.split("::")[1]: skip.why for skip in manifest.skips}
    assert skips.pop("link0").startswith("no video or image")
    assert skips == dict.fromkeys(links, "a link or a device: only plain files are read")
    with pytest.raises(VideoError, match=r"s\.tar::link0\.mp4 cannot be fetched: the shard holds no such file"):
        fetch(remote_item(cache, f"{shard}::link0.mp4"))


def test_a_shard_that_is_cut_off_anywhere_is_an_error(tmp_path, cache):
    files = {"1.mp4": b"x" * 600, "1.txt": "a cat", "2.mp4": b"y" * 512, "2.txt": "a dog"}
    whole = write_tar(tmp_path / "whole.tar", files).read_bytes()
    content = 4 * 512 + 1024 + 3 * 512  # headers; contents, in blocks
    assert whole[content:].strip(b"\0") == b""
    for end in range(0, content + 1, 256):
        (tmp_path / "cut.tar").write_bytes(whole[:end])
        with pytest.raises(VideoError, match=r"cut\.tar is no whole tar file"):
            read_manifest(tmp_path / "cut.tar", cache)
    (tmp_path / "cut.tar").write_bytes(whole[: content + 512])
    assert len(read_manifest(tmp_path / "cut.tar", cache).items) == 2


def test_other_broken_shards_are_errors(tmp_path, cache):
    whole = write_tar(tmp_path / "s.tar", {"1.mp4": b"x", "1.txt": "a cat", "2.mp4": b"y"}).read_bytes()
    (tmp_path / "s.tar").write_bytes(whole[:2048] + b"z" * 512 + whole[2560:])  # the header of the third
    with pytest.raises(VideoError, match=r"s\.tar is no whole tar file: it breaks off at byte 2048"):
        read_manifest(tmp_path / "s.tar", cache)
    with tarfile.open(tmp_path / "s.tar", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("1.mp4"))
    with pytest.raises(VideoError, match=r"s\.tar is no whole tar file"):
        read_manifest(tmp_path / "s.tar", cache)
    write_tar(tmp_path / "s.tar", {"1.mp4": b"x"})
    with tarfile.open(tmp_path / "s.tar", "a") as tar:
        tar.addfile(tarfile.TarInfo("1.mp4"))
    with pytest.raises(VideoError, match=r"s\.tar is no whole tar file: it holds 1\.mp4 twice"):
        read_manifest(tmp_path / "s.tar", cache)


@pytest.mark.parametrize("size", [b"\xff" * 11 + b"\x00", b"\x80" + b"\x00" * 3 + b"\x40" + b"\x00" * 7])  # -256, 2**62
@pytest.mark.parametrize("kind", [b"0", b"x", b"L", b"5", b"Z"])
def test_headers_made_to_harm_end_in_an_error_that_names_the_shard(tmp_path, cache, size, kind):
    whole = bytearray(write_tar(tmp_path / "s.tar", {"1.mp4": b"x", "1.txt": "a cat", "2.mp4": b"y"}).read_bytes())
    header = whole[1024:1536]
    header[124:136], header[156:157], header[148:156] = size, kind, b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    whole[1024:1536] = header
    (tmp_path / "s.tar").write_bytes(whole)
    with pytest.raises(ValueError, match=r"s\.tar"):
        read_manifest(tmp_path / "s.tar", cache)


def test_a_remote_shard_is_fetched_whole_and_once(memory, tmp_path, cache):
    for number in (0, 1):
        shard = write_tar(tmp_path / "s.tar", {"1.mp4": b"%d" % number, "1.txt": f"number {number}"})
        memory.pipe(f"/set/{number}.tar", shard.read_bytes())
    items = read_manifest("memory://set/{0..1}.tar", cache).items
    assert [item.origin for item in items] == ["memory://set/0.tar::1.mp4", "memory://set/1.tar::1.mp4"]
    memory.rm("/set", recursive=True)
    assert read_manifest("memory://set/{0..1}.tar", cache).items == items
    for number, item in enumerate(items):
        fetch(item)
        assert item.path.read_bytes() == b"%d" % number


def test_a_member_that_is_not_there_and_a_broken_remote_shard_are_named(memory, tmp_path, cache):
    whole = write_tar(tmp_path / "s.tar", {"1.mp4": b"x", "1.txt": "a cat"}).read_bytes()
    memory.pipe("/set/s.tar", whole)
    memory.pipe("/set/cut.tar", whole[:700])
    with pytest.raises(
        VideoError, match=r"memory://set/s\.tar::2\.mp4 cannot be fetched: the shard holds no such file"
    ):
        fetch(remote_item(cache, "memory://set/s.tar::2.mp4"))
    with pytest.raises(
        VideoError, match=r"memory://set/cut\.tar is no whole tar file: .*delete its copy .*cache.*\.tar"
    ):
        read_manifest("memory://set/cut.tar", cache)
    with pytest.raises(VideoError, match=r"memory://set/gone\.tar cannot be fetched: it does not exist"):
        read_manifest("memory://set/gone.tar", cache)
