"""Which clips there are, and what is said of each: read from a manifest, from tar shards, or from a folder as it lies.

| source                     | clips                                          | captions                               |
|----------------------------|------------------------------------------------|----------------------------------------|
| `.jsonl`, `.json`          | an object a line; a list of objects            | a text, or a list of them to pick from |
| `.parquet` (needs pyarrow) | a row each; columns of bytes are left out      | a text, or a list of them              |
| `.csv`, `.tsv`             | a row each, columns named in the first         | a text                                 |
| `.tar`                     | WebDataset samples (`data.shards`)             | each line of `key.txt`; without it, a  |
|                            |                                                | text or list in `key.json`, of which   |
|                            |                                                | the rest are attributes                |
| `s/{000..127}.tar`, `x*`   | of all that the pattern fits, in natural order | of each                                |
| a folder: the first of     | (`data.folders`)                               |                                        |
| - `FOLDER_MANIFESTS` in it | of the manifest                                | of the manifest                        |
| - `videos.txt` in it       | a path a line (`CLIP_LISTS`)                   | a line each (`CAPTION_LISTS`)          |
| - `data/train-*.parquet`   | of these tables, the only split of this kind   | of the tables                          |
| - `train/metadata.csv`     | of `metadata.*` in its one such sub-folder     | of the manifest                        |
| - `*.tar` in it            | of the shards, in the order of their names     | of the shards                          |
| - videos and images        | all at any depth, in the order of their paths  | each line of `x.txt` beside `x.mp4`    |

So Open-Sora's tables (`path,text,num_frames,...`), Hugging Face's folders (`file_name`), the lists of finetrainers and
`videos2caption.json` beside `videos/` are read as they lie. What columns declare of a file (frames, size, rate) is kept
as an attribute, and trusted by nothing. Other files of a sample are not read. Manifests, shards and the paths in rows
may be URLs (`remote`).

Rows that cannot be used are never dropped in silence: each becomes a `Skip` that says where and why. What makes
the whole file suspect (a column that is missing, a line that does not parse) is an error.
"""

from __future__ import annotations

import glob
import logging
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from videodit.data.folders import CAPTION_LISTS, CLIP_LISTS, FOLDER_MANIFESTS, MEDIA, Tree, clips_of_folder
from videodit.data.plain import encoding_of, is_plain_file, natural
from videodit.data.remote import LARGEST_TABLE, is_url, local, suffix_of
from videodit.data.rows import CAPTION_COLUMNS, PATH_COLUMNS, Columns, Found, Item, Note, Skip, item_of_row
from videodit.data.shards import clips_of_shard
from videodit.data.tables import SUFFIXES, rows_of

__all__ = [
    "CAPTION_COLUMNS",
    "CAPTION_LISTS",
    "CLIP_LISTS",
    "FOLDER_MANIFESTS",
    "PATH_COLUMNS",
    "Item",
    "Manifest",
    "Note",
    "Skip",
    "read_manifest",
    "tell",
]

MOST_PLACES = 1 << 20  # that one pattern may name
SHOWN = 3  # places that a note names

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Manifest:
    """The usable clips, in the order of the source, what was left out, and what is worth telling of the others."""

    items: tuple[Item, ...]
    skips: tuple[Skip, ...]
    notes: tuple[Note, ...] = ()


def read_manifest(source: str | Path, cache: Path | None = None, *, captions: bool = True) -> Manifest:
    """Read a manifest, tar shards or a folder (table above); see `PATH_COLUMNS` and its like for the columns.

    Columns are found whatever their capitals and the spaces around them. Of several path columns the first in the
    order of those lists that a row fills is taken, of several caption columns the first that it has. Paths are relative
    to the manifest's folder, be it a path or a URL. In folders and shards hidden files are passed over. Files are
    looked for, not opened, and remote ones not even looked for: damage shows when they are read. A row without caption,
    without its file or with a stretch that cannot be, and a file without captions, is skipped and counted. A manifest
    that came by a URL names no files of this machine.

    Args:
        source: a path, a pattern of them (`{00..12}`, `{a,b}`, `*`, `?`, `[a-c]`) or, as a string, a URL of a manifest
            or of shards: whatever fsspec opens. Folders must be here.
        cache: folder for what is fetched: remote manifests, anew each time; remote shards, once; and, by
            `remote.fetch`, the clips. None: `~/.cache/videodit`.
        captions: whether a clip without one is skipped, and a manifest without their column refused; else it is an
            item with none.

    Raises `ValueError`, naming the file and where it applies the line, for a source that does not exist or has
    another suffix, a column that is missing, a line that does not parse, a broken shard, or when nothing usable is
    left.
    """
    found = list(_read(str(source), cache or Path.home() / ".cache" / "videodit", captions))
    if not captions:
        found = [one.item if isinstance(one, Skip) and one.item else one for one in found]
    items = tuple(one for one in found if isinstance(one, Item))
    skips = tuple(one for one in found if isinstance(one, Skip))
    notes = tuple(one for one in found if isinstance(one, Note))
    if not items:
        first = f"; first: {skips[0].where}: {skips[0].why}" if skips else ""
        raise ValueError(f"{source} gives no usable clips ({len(skips)} skipped{first})")
    return Manifest(items, skips, notes)


def tell(notes: Iterable[Note]) -> None:
    """Warns of what a manifest notes, a line a kind."""
    places = defaultdict(list)
    for note in notes:
        places[note.what].append(note.where)
    for what, where in places.items():
        log.warning("%d x %s: %s%s", len(where), what, ", ".join(where[:SHOWN]), " ..." if where[SHOWN:] else "")


def _read(source: str, cache: Path, captions: bool) -> Iterable[Found]:
    if source.startswith("pipe:"):
        raise ValueError(f"{source}: no commands are run for data: name the file or URL that this one reads")
    places = _places(source)
    return chain.from_iterable(
        _read_one(place, cache, captions, len(places) > 1 or place != source) for place in places
    )


def _read_one(place: str, cache: Path, captions: bool, is_matched: bool) -> Iterable[Found]:
    path = Path(place)
    if not is_url(place):
        if path.is_dir():
            return clips_of_folder(
                path, cache, captions, lambda name, folders: _from_manifest(name, cache, captions, folders)
            )
        if is_matched and suffix_of(place) in MEDIA:
            return Tree.around(path).clips(captions=True)
        if not path.exists():
            raise ValueError(f"{place} does not exist: give a manifest, .tar shards or a folder of clips")
        if not is_plain_file(path):
            raise ValueError(f"{place} is no regular file (a pipe, socket or device): copy what it gives to a file")
    if suffix_of(place) == ".tar":
        return clips_of_shard(place, cache)
    folders = [path.parent, path.parent.parent] if path.parent.name == "data" and suffix_of(place) == ".parquet" else []
    return _from_manifest(place, cache, captions, folders)


def _from_manifest(name: str, cache: Path, captions: bool, folders: Sequence[Path]) -> Iterator[Found]:
    """Args:
    folders: where its paths begin; none: in its own.
    """
    suffix = suffix_of(name)
    if suffix not in SUFFIXES:
        raise ValueError(
            f"{name} is no manifest by its suffix: use {', '.join(SUFFIXES)}, .tar shards, or a folder of clips"
        )
    file = local(name, cache, anew=True, largest=LARGEST_TABLE)
    rows = list(rows_of(name, file, suffix, PATH_COLUMNS))
    columns = Columns.of(name, (column for _, row in rows for column in row), captions)
    if suffix != ".parquet" and (encoding := encoding_of(file)) != "UTF-8":
        yield Note(name, f"a table in {encoding}, read as that")
    for where, row in rows:
        yield item_of_row(where, name, row, columns, cache, folders)


def _places(source: str) -> list[str]:
    """The paths and URLs that a source names: itself, or all that its braces and wildcards fit."""
    if not is_url(source) and Path(source).exists():
        return [source]
    found = list(islice(_braces(source), MOST_PLACES + 1))
    if len(found) > MOST_PLACES:
        raise ValueError(f"{source} names more than {MOST_PLACES} files: name fewer")
    if not found:
        raise ValueError(f"{source} names nothing: a range in braces goes from the smaller number to the larger")
    return [place for one in found for place in _matches(one)]


def _matches(pattern: str) -> list[str]:
    if is_url(pattern) or not glob.has_magic(pattern) or Path(pattern).exists():
        return [pattern]
    found = sorted(glob.glob(pattern, recursive=True), key=natural)  # noqa: PTH207 (an absolute pattern may be given)
    if not found:
        raise ValueError(f"{pattern}: no file fits this pattern: check it, and the folder before it")
    return found


def _braces(pattern: str) -> Iterator[str]:
    """`{08..10}.tar` as 08.tar, 09.tar and 10.tar; `{a,b}` as both; of several braces, all combinations."""
    found = re.search(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}", pattern)
    if not found:
        yield pattern
        return
    first, last, names = found.groups()
    numbers = (f"{n:0{len(first)}}" for n in range(int(first), int(last) + 1)) if first else ()
    before, after = pattern[: found.start()], pattern[found.end() :]
    for middle in names.split(",") if names else numbers:
        yield from (before + middle + rest for rest in _braces(after))
