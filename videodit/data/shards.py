"""Tar shards of WebDataset: files that share a key are a sample, of which the first video, else the first
image, is the clip: one that has nothing between key and ending, if there is.

The key is the name up to the first dot of its last part. Some name their files `take.1.5.mp4` and `take.1.5.txt`, with
dots in the key: where a clip and a text differ in nothing but their ending, that is the key.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from videodit.data.plain import LARGEST_TEXT
from videodit.data.remote import Member, cached, chunks, is_url, open_shard, suffix_of
from videodit.data.rows import CAPTION_COLUMNS, Found, Row, Skip, columns_named, item_of
from videodit.video import IMAGE_SUFFIXES, VIDEO_SUFFIXES

SAMPLE_NAME = re.compile(r"(?P<key>(?:.*/)?[^./][^./]*)\.(?P<suffix>[^/]+)", re.DOTALL)

Files = Mapping[str, Member]  # of one sample, by what follows its key


def clips_of_shard(shard: str, cache: Path) -> Iterator[Found]:
    """Of a path or URL. VideoError: it is no whole tar file, or cannot be fetched."""
    tar = open_shard(shard, cache)
    groups: dict[str, dict[str, Member]] = {}
    for name, member in tar.members.items():
        parts = SAMPLE_NAME.fullmatch(name)
        if parts and member.is_file:
            groups.setdefault(parts["key"], {})[parts["suffix"]] = member
        elif parts:
            yield Skip(f"{shard}::{name}", "a link or a device: only plain files are read")
    stat = tar.file.stat()  # a shard that is written anew has other clips; a remote one is fetched once
    version = "" if is_url(shard) else f"{stat.st_size} {stat.st_mtime_ns}"
    for key, files in ((key, files) for group in groups.items() for key, files in _samples(*group)):
        sample = _sample(tar.file, files)
        if isinstance(sample, str):
            yield Skip(f"{shard}::{key}", sample)
            continue
        suffix, captions, others, unread = sample
        origin = f"{shard if is_url(shard) else tar.file.absolute()}::{key}.{suffix}"
        path = cached(origin, cache, suffix_of(f".{suffix}"), version)
        yield item_of(f"{shard}::{key}", path, origin, captions, "its .txt or .json", others)
        for other in unread:
            yield Skip(f"{shard}::{key}.{other}", "another clip has the same key, the name up to its first dot")


def _samples(key: str, files: Files) -> Iterator[tuple[str, Files]]:
    """Those of one group: the keys with dots, each with what begins with it, and the group's own."""
    stems: dict[str, set[bool]] = {}
    for suffix in files:
        stem, _, ending = f"{key}.{suffix}".rpartition(".")
        if ending in ("txt", "json") or _is_media(suffix):
            stems.setdefault(stem, set()).add(_is_media(suffix))
    keys = sorted((stem for stem, kinds in stems.items() if len(kinds) == 2), key=len, reverse=True)
    samples: dict[str, dict[str, Member]] = {}
    for suffix, member in files.items():
        name = f"{key}.{suffix}"
        own = next((one for one in keys if name.startswith(f"{one}.")), key)
        samples.setdefault(own, {})[name.removeprefix(f"{own}.")] = member
    yield from samples.items()


def _is_media(suffix: str) -> bool:
    return suffix_of(f".{suffix}") in VIDEO_SUFFIXES + IMAGE_SUFFIXES


def _sample(shard: Path, files: Files) -> tuple[str, object, Row, list[str]] | str:
    """Of a sample's files: the suffix of the clip, its captions, the other fields, further clips; or why not."""
    videos = [suffix for suffix in files if suffix_of(f".{suffix}") in VIDEO_SUFFIXES]
    media = sorted(videos or [suffix for suffix in files if _is_media(suffix)], key=lambda suffix: "." in suffix)
    if not media:
        return f"no video or image among its files ({', '.join(files)})"
    try:
        texts = [line for line in _text(shard, files.get("txt")).split("\n") if line.strip()]
        row = json.loads(_text(shard, files.get("json")) or "{}")
    except (ValueError, RecursionError) as error:
        return f"its .txt or .json cannot be read ({error})"
    if not isinstance(row, dict):
        return "its .json holds something other than an object"
    column = "" if texts else "".join(columns_named(row, CAPTION_COLUMNS)[:1])
    others = {name: value for name, value in row.items() if name != column}
    others_are_parts = not videos and "." not in media[0]  # as `x.depth.png` beside `x.png`
    return media[0], texts or row.get(column), others, [] if others_are_parts else media[1:]


def _text(shard: Path, member: Member | None) -> str:
    if member and member.size > LARGEST_TEXT:
        raise ValueError(f"{member.size} bytes are more than the {LARGEST_TEXT} of a text")
    return b"".join(chunks(shard, member)).decode("utf-8-sig") if member else ""
