"""URLs: what they hold is listed like files here, and fetched whole, once, and to no place but the cache."""

import functools
import http.server
import importlib.util
import io
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest
from fsspec.spec import AbstractFileSystem

from videodit.data.manifest import Item, Skip, read_manifest
from videodit.data.remote import fetch
from videodit.video import VideoError

from .conftest import remote_item, write_tar


def test_commands_are_not_run(tmp_path, cache):
    with pytest.raises(ValueError, match=r"pipe:touch .*: no commands are run"):
        read_manifest(f"pipe:touch {tmp_path / 'ran'}", cache)
    with pytest.raises(ValueError, match=r"pipe:touch .*: no commands are run"):
        read_manifest(f"pipe:touch {tmp_path / 'ran'} s.tar", cache)
    assert not (tmp_path / "ran").exists()


def test_a_remote_manifest_names_files_from_its_own_folder(memory, tmp_path, cache):
    here = tmp_path / "here.mp4"
    here.write_bytes(b"here")
    rows = ["file,caption,start", "a.mp4,a cat,1", "deep/b.mp4,a dog,", f"{here},a fish,"]
    rows += ["memory://other/c.webm,a bird,", "page.html,no clip,", f"{here}.gone,a ghost,"]
    memory.pipe("/set/clips.csv", "\n".join(rows).encode())
    memory.pipe("/set/deep/b.mp4", b"b")
    memory.pipe("/other/c.webm", b"c")
    manifest = read_manifest("memory://set/clips.csv", cache)
    origins = ["memory://set/a.mp4", "memory://set/deep/b.mp4", "memory://other/c.webm"]
    assert [item.origin for item in manifest.items] == origins
    local, page, gone = manifest.skips
    assert page == Skip("memory://set/clips.csv:6", "memory://set/page.html is no video or image by its suffix")
    for skip, line, place in ((local, 4, here), (gone, 7, f"{here}.gone")):  # nor is told whether they are there
        why = f"{place} is not for a manifest from elsewhere to name: copy memory://set/clips.csv here, and look at it"
        assert skip == Skip(f"memory://set/clips.csv:{line}", why)
    absent, deep, other = manifest.items
    assert (absent.start, absent.attributes) == (1.0, {})
    for item, content in ((deep, b"b"), (other, b"c")):
        fetch(item)
        assert item.path.read_bytes() == content
    assert (deep.path.parent, deep.path.suffix, other.path.suffix) == (cache, ".mp4", ".webm")
    with pytest.raises(VideoError, match=r"memory://set/a\.mp4 cannot be fetched: it does not exist"):
        fetch(absent)


def test_a_manifest_here_names_files_elsewhere(memory, tmp_path, cache):
    (tmp_path / "b.mp4").write_bytes(b"b")
    memory.pipe("/set/a.mp4", b"a")
    rows = [{"file": url, "caption": "a cat"} for url in ("memory://set/a.mp4", f"file://{tmp_path}/b.mp4")]
    (tmp_path / "clips.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    for item, content in zip(read_manifest(tmp_path / "clips.jsonl", cache).items, (b"a", b"b"), strict=True):
        fetch(item)
        assert (item.path.read_bytes(), item.path.parent) == (content, cache)


def test_remote_manifests_are_read_anew_and_other_files_once(memory, cache):
    memory.pipe("/set/clips.csv", b"file,caption\na.mp4,a cat\n")
    memory.pipe("/set/a.mp4", b"a")
    (item,) = read_manifest("memory://set/clips.csv", cache).items
    fetch(item)
    memory.pipe("/set/clips.csv", b"file,caption\na.mp4,a dog\n")
    memory.rm("/set/a.mp4")
    (again,) = read_manifest("memory://set/clips.csv", cache).items
    assert (again.path, again.captions) == (item.path, ("a dog",))
    fetch(again)
    assert again.path.read_bytes() == b"a"


def test_what_is_fetched_lands_in_the_home_folder_unless_told(memory, tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    memory.pipe("/set/clips.csv", b"file,caption\na.mp4,a cat\n")
    (item,) = read_manifest("memory://set/clips.csv").items
    assert item.path.parent == tmp_path / ".cache" / "videodit"


def test_files_that_are_here_are_left_alone(tmp_path):
    item = Item(tmp_path / "gone.mp4", ("a cat",), {})
    fetch(item)
    assert list(tmp_path.iterdir()) == []


class Unsteady(AbstractFileSystem):
    """Files of three megabytes. Of a broken one the third never comes; a shared one is opened by four at once."""

    protocol = "unsteady"
    start = threading.Barrier(4)

    def _open(self, path, *args, **kwargs):
        if path.endswith("shared.mp4"):
            self.start.wait(timeout=60)
        file = io.BytesIO(b"x" * (3 << 20))
        return Breaking(file.getvalue()) if path.endswith("broken.mp4") else file


class Breaking(io.BytesIO):
    def read(self, size=-1):
        if self.tell() >= 2 << 20:
            raise ConnectionResetError("the line is dead")
        return super().read(size)


def test_a_fetch_that_fails_in_the_middle_leaves_nothing_behind(cache):
    fsspec.register_implementation("unsteady", Unsteady, clobber=True)
    with pytest.raises(VideoError, match=r"unsteady://broken\.mp4 cannot be fetched \(the line is dead\)"):
        fetch(remote_item(cache, "unsteady://broken.mp4"))
    assert list(cache.iterdir()) == []


def test_several_may_fetch_the_same_at_once(cache):
    fsspec.register_implementation("unsteady", Unsteady, clobber=True)
    item = remote_item(cache, "unsteady://shared.mp4")
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(fetch, item) for _ in range(4)]:
            done.result()
    assert list(cache.iterdir()) == [item.path]
    assert item.path.read_bytes() == b"x" * (3 << 20)


def test_a_cache_that_cannot_be_written_is_named(memory, tmp_path):
    shard = write_tar(tmp_path / "s.tar", {"1.mp4": b"x", "1.txt": "a cat"})
    memory.pipe("/set/a.mp4", b"a")
    (tmp_path / "cache").write_text("a file, where a folder should be")
    for origin in ("memory://set/a.mp4", f"{shard}::1.mp4"):
        with pytest.raises(VideoError, match=r"cannot be (fetched|unpacked).*exists"):
            fetch(remote_item(tmp_path / "cache", origin))


@pytest.mark.parametrize(
    ("url", "package", "extra"),
    [("https://127.0.0.1/a.mp4", "aiohttp", "http"), ("s3://bucket/a.mp4", "s3fs", "s3")],
)
def test_a_protocol_that_needs_a_package_says_which(cache, url, package, extra):
    if importlib.util.find_spec(package):
        pytest.skip(f"{package} is installed")
    with pytest.raises(VideoError, match=rf'{url} cannot be fetched .*pip install "fsspec\[{extra}\]"'):
        fetch(remote_item(cache, url))


def test_a_protocol_that_nobody_knows_is_named(cache):
    with pytest.raises(VideoError, match=r"nope://a\.mp4 cannot be fetched \(Protocol not known: nope\)"):
        fetch(remote_item(cache, "nope://a.mp4"))


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a folder; of `cut.mp4` it promises more than it sends."""

    def log_message(self, format, *args):
        pass

    def do_GET(self):
        if self.path != "/cut.mp4":
            return super().do_GET()
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"too little")


@pytest.mark.slow
def test_clips_and_shards_come_over_http(tmp_path, cache):
    pytest.importorskip("aiohttp")
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "my clip.mp4").write_bytes(
        b"a" * (12 << 20)
    )  # more than fsspec asks for at once: this server sends no ranges
    write_tar(folder / "s.tar", {"1.mp4": b"x", "1.txt": "a bird"})
    (folder / "clips.csv").write_text("file,caption\nmy clip.mp4,a cat\ngone.mp4,a ghost\ncut.mp4,half a cat\n")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        clip, gone, cut = read_manifest(f"{url}/clips.csv?token=7", cache).items
        fetch(clip)
        assert clip.path.read_bytes() == b"a" * (12 << 20)
        with pytest.raises(VideoError, match=rf"{url}/gone\.mp4 cannot be fetched: it does not exist"):
            fetch(gone)
        with pytest.raises(VideoError, match=rf"{url}/cut\.mp4 cannot be fetched \("):
            fetch(cut)
        assert not cut.path.exists()
        (member,) = read_manifest(f"{url}/s.tar?token=7", cache).items
        fetch(member)
        assert (member.captions, member.path.read_bytes()) == (("a bird",), b"x")
    finally:
        server.shutdown()
        server.server_close()
