"""A store in memory, a cache, files and tar shards of named contents, and what is found in them."""

import io
import json
import tarfile
from pathlib import Path

import fsspec
import pytest

from videodit.data.manifest import Item, read_manifest


@pytest.fixture
def memory():
    store = fsspec.filesystem("memory")
    yield store
    store.rm("/", recursive=True)


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def put(path, content=b"x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def lines(*rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def found(source, **options):
    """Of each clip the name of its file, and its captions."""
    return [(item.path.name, *item.captions) for item in read_manifest(source, **options).items]


def write_tar(path: Path, files: dict[str, bytes | str | dict], links: dict[str, bytes] | None = None) -> Path:
    """A tar of named contents (a dict as JSON), then of `links`: names and the type of member they are."""
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            text = json.dumps(content) if isinstance(content, dict) else content
            data = text.encode() if isinstance(text, str) else text
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        for name, kind in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "../../outside.mp4"
            tar.addfile(member)
    return path


def remote_item(cache: Path, origin: str) -> Item:
    return Item(cache / "clip.mp4", ("a cat",), {}, origin=origin)
