"""What a row says of a clip, whoever wrote it: which column names its file, which its caption, where that file lies."""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from videodit.data.plain import LARGEST_TEXT, is_plain_file
from videodit.data.remote import beside, cached, is_url, may_name, suffix_of
from videodit.video import IMAGE_SUFFIXES, VIDEO_SUFFIXES

PATH_COLUMNS = (
    *("file", "path", "video", "video_path", "file_name", "mp4"),
    *("video_file_name", "image_file_name"),  # Hugging Face: several media a row
    *("filename", "file_path", "filepath", "video_file", "media", "media_path"),
    *("image", "image_path", "image_file", "img", "img_path"),  # last: beside a video it is its thumbnail
)
CAPTION_COLUMNS = ("caption", "text", "prompt", "cap", "txt")
START_COLUMNS = ("start", "start_time")
END_COLUMNS = ("end", "end_time")

Row = Mapping[str, object]


@dataclass(frozen=True)
class Item:
    """One clip or image: its file, one caption or several that say the same, and the row's other columns.

    Attributes that are not texts in their row are kept as JSON text (`3` as "3", `true` as "true").
    """

    path: Path  # for a remote file or a member of a shard, where `remote.fetch` puts it
    captions: tuple[str, ...]
    attributes: Mapping[str, str]
    start: float = 0.0  # seconds: the clip is this stretch of the file
    end: float | None = None  # None: to the end of the file
    origin: str = ""  # where the file comes from if it is not there: a URL, or "shard.tar::member"
    # where paths in its attributes begin; none: they name nothing here
    folders: tuple[Path, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class Skip:
    """A row or file that was left out: `where` is "file:line", "file row n" or a file, `why` is for people to read.

    `item` is there where it lacks a caption and nothing else.
    """

    where: str
    why: str
    item: Item | None = None


@dataclass(frozen=True)
class Note:
    """Something that was read, though not as plainly as it may seem: `where` as of a `Skip`, `what` is for people."""

    where: str
    what: str


Found = Item | Skip | Note


def plain_name(column: str) -> str:
    """A column's name whatever its capitals, the spaces around it, and what joins its words."""
    return "_".join(column.strip().casefold().replace("-", " ").replace("_", " ").split())


@dataclass(frozen=True)
class Columns:
    """Those of a manifest that name files and hold captions, the first choice first.

    Raises:
        ValueError: there is none; names the manifest, what was seen, and what would do.
    """

    paths: tuple[str, ...]
    captions: tuple[str, ...]

    @classmethod
    def of(cls, manifest: str, seen: Iterable[str], captions: bool) -> Columns:
        """Args:
        captions: whether those of captions must be there.
        """
        names = list(dict.fromkeys(seen))
        paths, texts = columns_named(names, PATH_COLUMNS), columns_named(names, CAPTION_COLUMNS)
        for found, what, accepted in ((paths, "path", PATH_COLUMNS), (texts, "caption", CAPTION_COLUMNS)):
            if not found and (captions or what == "path"):
                raise ValueError(
                    f"{manifest} has no {what} column: columns seen: {', '.join(names) or 'none'}; name one of them "
                    f"{' or '.join(accepted)}"
                )
        return cls(paths, texts)


def columns_named(names: Iterable[str], accepted: Sequence[str]) -> tuple[str, ...]:
    """Those that have an accepted name, in the order in which names are accepted; as written before in capitals."""
    ranked = [(accepted.index(plain), plain != name, name) for name in names if (plain := plain_name(name)) in accepted]
    return tuple(name for *_, name in sorted(ranked))


def item_of_row(
    where: str, manifest: str, row: Row, columns: Columns, cache: Path, folders: Sequence[Path] = ()
) -> Item | Skip:
    """A clip as a row tells it.

    Of several columns that name files, the first that does so in this row counts: some tables have one for videos and
    one for images.

    Args:
        folders: where paths begin; none: in the manifest's own.
    """
    named = [(column, value) for column in columns.paths if isinstance(value := row.get(column), str) and value.strip()]
    if not named:
        return Skip(where, f"no path in column {' or '.join(map(repr, columns.paths))}")
    column, place = named[0][0], str(named[0][1]).strip()
    caption = next((name for name in columns.captions if row.get(name) is not None), "".join(columns.captions[:1]))
    said_in = f"column {caption or CAPTION_COLUMNS[0]!r}"
    others = {key: value for key, value in row.items() if key not in (column, caption)}
    if is_url(manifest) and not may_name(manifest, place):
        return Skip(
            where, f"{place} is not for a manifest from elsewhere to name: copy {manifest} here, and look at it"
        )
    if is_url(manifest) and not is_url(place):
        place = beside(manifest, place)
    if is_url(place):
        path = cached(place, cache, suffix_of(place))
        if path.suffix not in IMAGE_SUFFIXES + VIDEO_SUFFIXES:
            return Skip(where, f"{place} is no video or image by its suffix")
        return item_of(where, path, place, row.get(caption), said_in, others)
    path = found_file(place, folders or [Path(manifest).parent])
    if not is_plain_file(path):
        hint = ": its folders are joined by backslashes" if "\\" in place else ""
        return Skip(where, f"{path} is not a file" if is_there(path) else f"{path} does not exist{hint}")
    found = item_of(where, path, "", row.get(caption), said_in, others)
    begin = tuple(folders or [Path(manifest).parent])
    return replace(found, folders=begin) if isinstance(found, Item) and not is_url(manifest) else found


def item_of(where: str, path: Path, origin: str, caption: object, said_in: str, others: Row) -> Item | Skip:
    """From a caption, or a list of them, that `said_in` holds, and the columns that are neither it nor the path."""
    texts: list[Any] = caption if isinstance(caption, list) else [caption or ""]
    if not all(isinstance(text, str) for text in texts):
        return Skip(where, f"{said_in} holds something other than text or a list of texts")
    captions = tuple(text.strip() for text in texts if text.strip())
    given = {key: value for key, value in others.items() if value is not None}
    try:
        for text in captions:
            _check(text, said_in)
        start, end = _take_stretch(given)
    except ValueError as error:
        return Skip(where, str(error))
    attributes = {key: v if isinstance(v, str) else json.dumps(v, default=str) for key, v in given.items()}
    item = Item(path, captions, attributes, start, end, origin=origin)
    return item if captions else Skip(where, f"no caption in {said_in}", item)


def _check(caption: str, said_in: str) -> None:
    if len(caption) > LARGEST_TEXT:
        raise ValueError(f"{said_in} has {len(caption)} letters, more than the {LARGEST_TEXT} of a caption: shorten it")
    try:
        caption.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{said_in} holds half of a letter ({error.reason}): write it whole") from error


def _take_stretch(columns: dict[str, object]) -> tuple[float, float | None]:
    """Takes start and end out of the columns, in seconds, as numbers or texts; empty or missing is all of the file."""
    found = [columns_named(columns, accepted)[:1] for accepted in (START_COLUMNS, END_COLUMNS)]
    texts = ["".join(str(columns.pop(name)).strip() for name in names) for names in found]
    try:
        start, end = (float(text) if text else None for text in texts)
        if 0 <= (start or 0) < (math.inf if end is None else end) and end != math.inf:
            return start or 0.0, end
    except ValueError:
        pass
    raise ValueError(f"start {texts[0]!r} and end {texts[1]!r} are no stretch: give seconds with 0 <= start < end")


def is_there(path: Path) -> bool:
    """Whether something lies there, whatever it is; False too of what can be no path."""
    try:
        path.lstat()
    except (OSError, ValueError):
        return False
    return True


def found_file(place: str, folders: Sequence[Path]) -> Path:
    """The file that a row names: as it is written, with the slashes of here, or in another normal form of Unicode."""
    spellings = list(dict.fromkeys([place, place.replace("\\", "/")]))
    for spelling in spellings:
        for folder in folders:
            if is_there(path := folder / spelling):
                return path
    for spelling in spellings:
        for folder in folders:
            if not spelling.isascii() and (found := _in_another_form(folder, spelling)):
                return found
    return folders[0] / place


def file_of(item: Item, column: str) -> Path | None:
    """The file that a row's other column names; None where paths of such a row begin nowhere here (shards, URLs)."""
    return found_file(item.attributes[column].strip(), item.folders) if item.folders else None


def _in_another_form(folder: Path, place: str) -> Path | None:
    """Part by part: an accent may be written as one sign or as two, and file systems differ in what they keep."""
    at = folder / Path(place).anchor
    for part in Path(place).relative_to(Path(place).anchor).parts:
        if not is_there(at / part):
            try:
                part = _names_in(at, at.stat().st_mtime_ns)[unicodedata.normalize("NFC", part)]
            except (OSError, ValueError, KeyError):
                return None
        at = at / part
    return at


@lru_cache(maxsize=64)
def _names_in(folder: Path, _changed: int) -> Mapping[str, str]:
    """What lies in a folder, by the composed form of its name."""
    return {unicodedata.normalize("NFC", path.name): path.name for path in folder.iterdir()}
