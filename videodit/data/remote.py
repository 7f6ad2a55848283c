"""Files that are not here yet: copied from where fsspec reaches, or taken out of tar shards, when they are needed.

Everything lands in one folder, the cache, under a name made here from the hash of the origin: no name that a manifest
or a shard gives is ever written to. A file appears there whole or not at all, so that processes may fetch the same one
at once. What is there is not asked for again: delete the cache to have it anew.

Who sends a file is not trusted: it may not send more than it announced, nor without end, nor so slowly that it never
ends, nor packed so that little becomes much.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from threading import Lock
from time import monotonic
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple
from uuid import uuid4

import fsspec

from videodit.video import VideoError

if TYPE_CHECKING:
    from videodit.data.rows import Item

CHUNK = 1 << 20
LARGEST_TABLE = 1 << 30  # bytes of a manifest
UNANNOUNCED = 1 << 30  # bytes of a file whose sender does not tell its size
EXPANSION = 100  # times that what comes packed may grow
GRACE, SLOWEST = 60.0, 20_000  # seconds, and bytes a second after them
_EXTRAS = {"https": "http", "s3a": "s3", "az": "abfs"}  # extras of fsspec that are not called as their protocol
_HTTP = re.compile("https?://", re.IGNORECASE)
_MEMBER = re.compile(r"(?P<shard>.+?\.tar(?:\?.*?)?)::(?P<name>.+)", re.DOTALL | re.IGNORECASE)


class Member(NamedTuple):
    """Where the bytes of a tar member lie in the shard. Links, devices and sparse files have none: `is_file` False."""

    offset: int
    size: int
    is_file: bool


class Shard(NamedTuple):
    """A tar here, and what it holds by name, folders left out."""

    file: Path
    members: Mapping[str, Member]


def fetch(item: Item) -> None:
    """Brings a clip's file to `item.path`, if it is not there yet; nothing to do for files that were always here.

    Raises VideoError, naming the origin and the reason: the network, a protocol that needs a package, a file or member
    that does not exist, a broken shard, a full disk.
    """
    if not item.origin or item.path.exists():
        return
    member = _MEMBER.fullmatch(item.origin)
    if member is None:
        copy(item.origin, item.path)
    else:
        _unpack(item, member["shard"], member["name"])


def is_url(place: str) -> bool:
    """Whether it names something for fsspec to open; "C:/x.mp4" does not."""
    return re.match(r"[a-z][a-z0-9+.-]+://", place, re.IGNORECASE) is not None


def may_name(manifest: str, place: str) -> bool:
    """Whether a manifest from elsewhere may name a place: what lies beside it, on stores of its kind, or on the web.

    Not files of this machine, nor, by a store that asks for keys, what only we may read.
    """
    if "::" in place:  # one store through another
        return False
    if not is_url(place):
        return not Path(place).is_absolute()
    protocol = place.partition("://")[0].lower()
    return protocol in ("http", "https", manifest.partition("://")[0].lower())


def suffix_of(place: str) -> str:
    """Of a path or URL, in small letters; "" where there is none."""
    found = re.search(r"\.[a-z0-9]{1,8}$", _without_query(place).lower())
    return found[0] if found else ""


def beside(url: str, name: str) -> str:
    """The URL of what `name` calls, seen from the folder of another."""
    return f"{_without_query(url).rpartition('/')[0]}/{name}"


def _without_query(place: str) -> str:
    return re.split(r"[?#]", place)[0] if _HTTP.match(place) else place


def cached(origin: str, cache: Path, suffix: str, version: str = "") -> Path:
    """The file that stands for an origin in the cache."""
    digest = hashlib.sha256(f"{origin}\n{version}".encode("utf-8", "surrogateescape")).hexdigest()
    return cache / (digest[:32] + suffix)


def local(place: str, cache: Path, *, anew: bool = False, largest: int | None = None) -> Path:
    """The file here that a path or URL stands for: a URL's is copied if it is not in the cache, or `anew`."""
    if not is_url(place):
        return Path(place)
    path = cached(place, cache, suffix_of(place))
    if anew or not path.exists():
        copy(place, path, largest)
    return path


def copy(url: str, path: Path, largest: int | None = None) -> None:
    """Copies in chunks; `path` is there whole afterwards, or as it was before.

    Raises VideoError that names the URL: it cannot be had, or is more than `largest` bytes or than was announced, or
    comes too slowly.
    """
    try:
        there = fsspec.open(url, "rb", **_options(url))
        with there as source, _whole(path) as target:
            most, why = _most(there, source)
            if largest is not None and largest < most:
                most, why = largest, "that a manifest may have: name parts of it"
            _pour(source, target, most, why)
    except ImportError as error:
        protocol = url.split("://")[0].lower()
        extra = _EXTRAS.get(protocol, protocol)
        raise VideoError(f'{url} cannot be fetched ({error}): pip install "fsspec[{extra}]"') from error
    except FileNotFoundError as error:
        raise VideoError(f"{url} cannot be fetched: it does not exist") from error
    except Exception as error:  # every protocol has errors of its own
        reason = str(error) or type(error).__name__
        raise VideoError(f"{url} cannot be fetched ({reason}): check the address, the rights and the disk") from error


def _most(there: Any, source: Any) -> tuple[int, str]:
    """The bytes that may come of an fsspec file, which is open as `source`, and why no more."""
    headers = getattr(getattr(source, "r", None), "headers", None)  # of HTTP
    size = getattr(source, "size", None) if headers is None else headers.get("Content-Length")
    if size is None and headers is None:
        with suppress(Exception):  # some stores do not know
            size = there.fs.size(there.path)
    if size is None:
        return UNANNOUNCED, "of a file whose size is not announced"
    if headers is not None and headers.get("Content-Encoding", "identity").lower() not in ("", "identity"):
        return EXPANSION * int(size), f"to which {size} packed ones may grow"
    return int(size), "that were announced"


def _pour(source: BinaryIO, target: BinaryIO, most: int, why: str) -> None:
    """Raises OSError for more than `most` bytes, for more than fits, and for less than a trickle."""
    free = shutil.disk_usage(Path(target.name).parent).free
    received, begin = 0, monotonic()
    while data := source.read(CHUNK):
        received, seconds = received + len(data), monotonic() - begin
        if received > min(most, free):
            raise OSError(f"it is more than the {most} bytes {why}" if received > most else "the disk is full")
        if seconds > GRACE + received / SLOWEST:
            raise OSError(f"only {received} bytes came in {seconds:.0f} s")
        target.write(data)


def _options(url: str) -> dict[str, object]:
    """HTTP comes as one stream, since some servers send no ranges, and unpacked; a minute of silence ends it."""
    if not _HTTP.match(url):
        return {}
    from aiohttp import ClientTimeout

    timeout, unpacked = ClientTimeout(sock_connect=60, sock_read=60), {"Accept-Encoding": "identity"}
    return {"block_size": 0, "client_kwargs": {"timeout": timeout, "headers": unpacked}}


def open_shard(shard: str, cache: Path) -> Shard:
    """The tar at a path or URL. VideoError where it cannot be fetched, or not be read to its end."""
    file = local(shard, cache)
    try:
        stat = file.stat()
        with _lock(os.getpid()):  # threads that come for the same shard wait for the first
            return Shard(file, _members(file, stat.st_size, stat.st_mtime_ns))
    except FileNotFoundError as error:
        raise VideoError(f"{shard} does not exist") from error
    except Exception as error:  # of headers made to harm, tarfile raises anything, MemoryError too
        copied = f" (delete its copy {file} to fetch it anew)" if is_url(shard) else ""
        raise VideoError(f"{shard} is no whole tar file: {error}{copied}") from error


@lru_cache(maxsize=1)
def _lock(process: int) -> AbstractContextManager[bool]:
    return Lock()  # each process its own: one that is forked while a thread holds the lock would wait forever


@lru_cache(maxsize=16)
def _members(shard: Path, size: int, changed: int) -> Mapping[str, Member]:
    found: dict[str, Member] = {}
    with shard.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
        for member in tar:
            if member.isdir():
                continue
            if member.name in found:
                raise tarfile.ReadError(f"it holds {member.name} twice")
            found[member.name] = Member(member.offset_data, member.size, member.isfile() and not member.issparse())
        file.seek(tar.offset)  # tarfile takes a damaged header, or none, for the end: the mark of the end is zeros
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError(f"it breaks off at byte {tar.offset}")
    return MappingProxyType(found)


def chunks(shard: Path, member: Member) -> Iterator[bytes]:
    """The bytes of a member."""
    with shard.open("rb") as file:
        file.seek(member.offset)
        for start in range(0, member.size, CHUNK):
            yield file.read(min(CHUNK, member.size - start))


def _unpack(item: Item, shard: str, name: str) -> None:
    file, members = open_shard(shard, item.path.parent)
    member = members.get(name)
    if member is None or not member.is_file:
        raise VideoError(f"{item.origin} cannot be fetched: the shard holds no such file")
    try:
        with _whole(item.path) as target:
            target.writelines(chunks(file, member))
    except OSError as error:
        raise VideoError(f"{item.origin} cannot be unpacked to {item.path} ({error.strerror})") from error


@contextmanager
def _whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write that appears at `path` when all is written, and leaves nothing behind when that fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        with scratch.open("xb") as file:
            yield file
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
