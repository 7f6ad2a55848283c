"""What comes from elsewhere reads no files of ours, and takes no more of the machine than it announces."""

import gzip
import http.server
import importlib.util
import io
import os
import threading
from contextlib import contextmanager

import fsspec
import pytest

from videodit.data import remote
from videodit.data.manifest import read_manifest
from videodit.data.plain import LARGEST_TEXT
from videodit.data.remote import fetch, may_name
from videodit.video import VideoError

from .conftest import found, lines, put, remote_item

needs_http = pytest.mark.skipif(importlib.util.find_spec("aiohttp") is None, reason="needs aiohttp")


@pytest.mark.parametrize(
    ("manifest", "place", "may"),
    [
        ("https://a.org/set.jsonl", "clips/a.mp4", True),
        ("https://a.org/set.jsonl", "https://b.org/a.mp4", True),
        ("s3://bucket/set.jsonl", "s3://other/a.mp4", True),
        ("s3://bucket/set.jsonl", "HTTPS://b.org/a.mp4", True),
        ("https://a.org/set.jsonl", "/home/me/own.mp4", False),
        ("https://a.org/set.jsonl", "file:///home/me/own.mp4", False),
        ("https://a.org/set.jsonl", "local://home/me/own.mp4", False),
        ("https://a.org/set.jsonl", "s3://mine/own.mp4", False),
        ("https://a.org/set.jsonl", "simplecache::file:///home/me/own.mp4", False),
    ],
)
def test_a_manifest_from_elsewhere_names_what_is_beside_it_or_on_the_web(manifest, place, may):
    assert may_name(manifest, place) is may


def test_captions_of_links_that_lead_out_of_the_source_are_refused(tmp_path):
    data, private = tmp_path / "data", tmp_path / "private"
    put(private / "secret.txt", "secret words")
    for name in ("in", "out", "blob"):
        put(data / f"{name}.mp4")
    put(data / "texts" / "in.txt", "own words")
    (data / "in.txt").symlink_to("texts/in.txt")
    (data / "out.txt").symlink_to(private / "secret.txt")
    (data / "blob.mp4").unlink()
    for name in ("mp4", "txt"):  # as the cache of the hub has them
        (data / f"blob.{name}").symlink_to(put(tmp_path / "blobs" / f"{name}0", f"from a blob, {name}"))
    manifest = read_manifest(data)
    assert {item.path.name: item.captions for item in manifest.items} == {
        "in.mp4": ("own words",),
        "blob.mp4": ("from a blob, txt",),
    }
    (skip,) = manifest.skips
    assert (skip.where, skip.item) == (str(data / "out.mp4"), None)
    assert "leads out of" in skip.why


def test_a_caption_longer_than_any_is_left_out_by_name(tmp_path):
    for name in ("a", "b"):
        put(tmp_path / f"{name}.mp4")
        put(tmp_path / f"{name}.txt", "a cat")
    with (tmp_path / "b.txt").open("wb") as text:
        text.truncate(100_000_000)
    (skip,) = read_manifest(tmp_path).skips
    assert skip.where == str(tmp_path / "b.mp4")
    assert f"b.txt has 100000000 bytes, more than the {LARGEST_TEXT} of a text" in skip.why
    rows = [{"file": f"{name}.mp4", "caption": "x" * size} for name, size in (("a", 5), ("b", LARGEST_TEXT + 1))]
    (skip,) = read_manifest(put(tmp_path / "set.jsonl", lines(*rows))).skips
    assert "letters, more than" in skip.why


@pytest.mark.parametrize("name", ["set.jsonl", "set.csv", "set.tar", "videos.txt"])
@pytest.mark.parametrize("kind", ["pipe", "/dev/zero"])
def test_pipes_and_devices_are_no_sources(tmp_path, name, kind):
    put(tmp_path / "a.mp4")
    put(tmp_path / "prompts.txt", "a cat")
    if kind == "pipe":
        os.mkfifo(tmp_path / name)
    else:
        (tmp_path / name).symlink_to(kind)
    with pytest.raises(ValueError, match=r"no regular file|no usable clips"):
        read_manifest(tmp_path if name == "videos.txt" else tmp_path / name)
    rows = [{"file": name, "caption": "a pipe"}, {"file": "a.mp4", "caption": "a cat"}]
    assert found(put(tmp_path / "rows.jsonl", lines(*rows))) == [("a.mp4", "a cat")]


@contextmanager
def serving(answer):
    """The address of a server that answers each request with `answer(handler)`."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.0"

        def do_HEAD(self):
            self.send_error(405)

        def do_GET(self):
            try:
                answer(self)
            except (BrokenPipeError, ConnectionResetError):
                ended.set()

        def log_message(self, *_):
            pass

    ended = threading.Event()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def answer(handler, body, **headers):
    handler.send_response(200)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


@pytest.mark.slow
@needs_http
def test_what_comes_packed_may_not_grow_without_bound(tmp_path):
    bomb = gzip.compress(bytes(50_000_000))
    grows = pytest.raises(VideoError, match=rf"bytes to which {len(bomb)} packed ones may grow")
    with serving(lambda one: answer(one, bomb, Content_Encoding="gzip", Content_Length=len(bomb))) as url, grows:
        fetch(remote_item(tmp_path, f"{url}/a.mp4"))
    asked = []
    plain = gzip.compress(b"a cat")

    def pack(one):
        asked.append(one.headers["Accept-Encoding"])
        answer(one, plain, Content_Encoding="gzip", Content_Length=len(plain))

    with serving(pack) as url:
        fetch(remote_item(tmp_path, f"{url}/a.mp4"))
    assert (tmp_path / "clip.mp4").read_bytes() == b"a cat"
    assert asked[-1] == "identity"


@pytest.mark.slow
@needs_http
def test_a_stream_without_end_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "UNANNOUNCED", 5_000_000)

    def pour(one):
        answer(one, b"")
        while True:
            one.wfile.write(bytes(100_000))

    with serving(pour) as url:
        with pytest.raises(VideoError, match=r"more than the 5000000 bytes of a file whose size is not announced"):
            fetch(remote_item(tmp_path, f"{url}/a.mp4"))
        monkeypatch.setattr("videodit.data.manifest.LARGEST_TABLE", 1_000_000)
        with pytest.raises(VideoError, match=r"more than the 1000000 bytes that a manifest may have"):
            read_manifest(f"{url}/set.jsonl", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@needs_http
def test_a_trickle_is_left(tmp_path, monkeypatch):
    clock = iter(range(0, 10_000, 50))
    monkeypatch.setattr(remote, "monotonic", lambda: next(clock))  # 50 s pass between two pieces
    waiting = threading.Event()

    def drip(one):
        answer(one, b"")
        while not waiting.wait(0.01):
            one.wfile.write(b"x")
            one.wfile.flush()

    with serving(drip) as url, pytest.raises(VideoError, match=r"only \d+ bytes came in 100 s"):
        fetch(remote_item(tmp_path, f"{url}/a.mp4"))
    waiting.set()


def test_more_than_was_announced_or_fits_is_refused(tmp_path, monkeypatch):
    store = fsspec.filesystem("memory")
    store.pipe("/who/a.mp4", bytes(5_000_000))
    monkeypatch.setattr(type(store), "size", lambda self, path: 1000, raising=False)
    monkeypatch.setattr(remote, "_most", lambda *_: (1000, "that were announced"))
    with pytest.raises(VideoError, match=r"a\.mp4 .*more than the 1000 bytes that were announced"):
        fetch(remote_item(tmp_path, "memory://who/a.mp4"))
    monkeypatch.setattr(remote, "_most", lambda *_: (10**9, ""))
    monkeypatch.setattr(remote.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 2_000_000}))
    with pytest.raises(VideoError, match=r"a\.mp4 .*the disk is full"):
        fetch(remote_item(tmp_path, "memory://who/a.mp4"))
    store.rm("/who", recursive=True)


@pytest.mark.parametrize("announced", [None, 1000])
def test_of_a_store_whose_files_do_not_say_their_size_the_store_is_asked(tmp_path, announced):
    """What is opened is a plain stream; a store that does not know either may give more."""

    class Silent(fsspec.AbstractFileSystem):
        protocol = "silent"

        def _open(self, path, *args, **kwargs):
            return io.BytesIO(bytes(5000))

        def size(self, path):
            if announced is None:
                raise NotImplementedError
            return announced

    fsspec.register_implementation("silent", Silent, clobber=True)
    item = remote_item(tmp_path, "silent://a.mp4")
    if announced is None:
        fetch(item)
        assert item.path.stat().st_size == 5000
    else:
        with pytest.raises(VideoError, match="more than the 1000 bytes that were announced"):
            fetch(item)
        assert list(tmp_path.iterdir()) == []
