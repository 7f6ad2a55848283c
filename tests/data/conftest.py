"""A store in memory, a cache, and tar shards of named contents."""

import io
import json
import tarfile
from pathlib import Path

import fsspec
import pytest

from videodit.data.manifest import Item


@pytest.fixture
def memory():
    store = fsspec.filesystem("memory")
    yield store
    store.rm("/", recursive=True)


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


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
