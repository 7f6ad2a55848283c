"""Which clips there are, and what is said of each: read from a manifest, from tar shards, or from a folder as it lies.

| source                     | clips                                          | captions                               |
|----------------------------|------------------------------------------------|----------------------------------------|
| `.jsonl`, `.json`          | an object a line; a list of objects            | a text, or a list of them to pick from |
| `.parquet` (needs pyarrow) | a row each; columns of bytes are left out      | a text, or a list of them              |
| `.csv`, `.tsv`             | a row each, columns named in the first         | a text                                 |
| `.tar`, `s/{000..127}.tar` | WebDataset samples: files of one key, the name | each line of `key.txt`; without it, a  |
|                            | up to the first dot of its last part; of each  | text or list in `key.json`, of which   |
|                            | the first video, else the first image          | the rest are attributes                |
| a folder: the first of     |                                                |                                        |
| - `FOLDER_MANIFESTS` in it | of the manifest                                | of the manifest                        |
| - `videos.txt` in it       | a path a line (`CLIP_LISTS`)                   | a line each (`CAPTION_LISTS`)          |
| - `train/metadata.csv`     | of `metadata.*` in its one such sub-folder     | of the manifest                        |
| - `*.tar` in it            | of the shards, in the order of their names     | of the shards                          |
| - videos and images        | all at any depth, in the order of their paths  | each line of `x.txt` beside `x.mp4`    |

So Open-Sora's tables (`path,text,num_frames,...`), Hugging Face's folders (`file_name`) and the lists of finetrainers
are read as they lie. What columns declare of a file (frames, size, rate) is kept as an attribute, and trusted by
nothing. Other files of a sample are not read. Manifests, shards and the paths in rows may be URLs (`remote`).

Rows that cannot be used are never dropped in silence: each becomes a `Skip` that says where and why. What makes
the whole file suspect (a column that is missing, a line that does not parse) is an error.
"""

import csv
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from videodit.data.remote import Member, beside, cached, chunks, is_url, local, open_shard, suffix_of
from videodit.video import IMAGE_SUFFIXES, VIDEO_SUFFIXES

PATH_COLUMNS = (
    *("file", "path", "video", "video_path", "file_name", "mp4"),
    *("video_file_name", "image_file_name"),  # Hugging Face: several media a row
)
CAPTION_COLUMNS = ("caption", "text", "prompt", "cap", "txt")
START_COLUMNS = ("start", "start_time")
END_COLUMNS = ("end", "end_time")
FOLDER_MANIFESTS = ("clips.jsonl", "metadata.jsonl", "metadata.csv", "metadata.parquet", "manifest.jsonl")
CLIP_LISTS = ("video.txt", "videos.txt", "image.txt", "images.txt")
CAPTION_LISTS = ("caption.txt", "captions.txt", "prompt.txt", "prompts.txt")
SPLIT_MANIFESTS = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
SAMPLE_NAME = re.compile(r"(?P<key>(?:.*/)?[^./][^./]*)\.(?P<suffix>[^/]+)", re.DOTALL)
LARGEST_TEXT = 1 << 20  # bytes of a .txt or .json in a shard

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


@dataclass(frozen=True)
class Skip:
    """A row or file that was left out: `where` is "file:line", "file row n" or a file, `why` is for people to read.

    `item` is there where it lacks a caption and nothing else.
    """

    where: str
    why: str
    item: Item | None = None


@dataclass(frozen=True)
class Manifest:
    """The usable clips, in the order of the source, and what was left out."""

    items: tuple[Item, ...]
    skips: tuple[Skip, ...]


def read_manifest(source: str | Path, cache: Path | None = None, *, captions: bool = True) -> Manifest:
    """Read a manifest, tar shards or a folder (table above); see `PATH_COLUMNS` and its like for the columns.

    Of several path or caption columns the first in the order of those lists is taken. `START_COLUMNS` and
    `END_COLUMNS`, in seconds, make the clip a stretch of its file. Paths are relative to the manifest's folder, be it
    a path or a URL. In folders and shards hidden files are passed over. Files are looked for, not opened, and remote
    ones not even looked for: damage shows when they are read. A row without caption, without its file or with a
    stretch that cannot be, and a file without captions, is skipped and counted.

    Args:
        source: a path or, as a string, a URL of a manifest or of shards: whatever fsspec opens. Folders must be here.
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
    if not items:
        first = f"; first: {skips[0].where}: {skips[0].why}" if skips else ""
        raise ValueError(f"{source} gives no usable clips ({len(skips)} skipped{first})")
    return Manifest(items, skips)


def _read(source: str, cache: Path, captions: bool) -> Iterable[Item | Skip]:
    if source.startswith("pipe:"):
        raise ValueError(f"{source}: no commands are run for data: name the file or URL that this one reads")
    if not is_url(source) and Path(source).is_dir():
        return _from_folder(Path(source), cache, captions)
    if suffix_of(source) != ".tar":
        return _from_manifest(source, cache, captions)
    shards = [source] if Path(source).is_file() else _braces(source)
    return chain.from_iterable(_from_shard(shard, cache) for shard in shards)


def _from_folder(folder: Path, cache: Path, captions: bool) -> Iterable[Item | Skip]:
    if manifests := _files(folder, FOLDER_MANIFESTS):
        return _from_manifest(str(manifests[0]), cache, captions)
    if (clips := _files(folder, CLIP_LISTS)) and (texts := _files(folder, CAPTION_LISTS)):
        return _from_lists(clips, texts, cache)
    inner = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    splits = [manifest for path in inner if path.is_dir() for manifest in _files(path, SPLIT_MANIFESTS)[:1]]
    shards = [path for path in inner if path.suffix.lower() == ".tar" and path.is_file()]
    media = _media(folder)
    if len(splits) == 1 and not shards and all(path.is_relative_to(splits[0].parent) for path in media):
        return _from_manifest(str(splits[0]), cache, captions)
    if splits:
        names = " or ".join(str(path.parent) for path in splits)
        raise ValueError(f"{folder} has no manifest for all that is in it, but sub-folders have: name one: {names}")
    if shards and media:
        raise ValueError(f"{folder} holds shards ({shards[0].name}) and clips ({media[0].name}): put them apart")
    if shards:
        return chain.from_iterable(_from_shard(str(shard), cache) for shard in shards)
    return (_from_file(path) for path in media)


def _from_manifest(name: str, cache: Path, captions: bool) -> Iterator[Item | Skip]:
    if not is_url(name) and not Path(name).exists():
        raise ValueError(f"{name} does not exist: give a manifest, .tar shards or a folder of clips")
    readers = {".jsonl": _jsonl_rows, ".json": _json_rows, ".parquet": _parquet_rows}
    reader = {**readers, ".csv": _table_rows, ".tsv": _table_rows}.get(suffix_of(name))
    if reader is None:
        raise ValueError(
            f"{name} is no manifest by its suffix: use .jsonl, .json, .csv, .tsv or .parquet, .tar shards, or a "
            f"folder of clips"
        )
    try:
        rows = list(reader(name, local(name, cache, anew=True)))
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is not UTF-8 ({error.reason}): save it as UTF-8") from error
    columns = list(dict.fromkeys(column for _, row in rows for column in row))
    path_column = _column(name, columns, PATH_COLUMNS, "path")
    captioned = captions or any(column in columns for column in CAPTION_COLUMNS)
    caption_column = _column(name, columns, CAPTION_COLUMNS, "caption") if captioned else CAPTION_COLUMNS[0]
    for where, row in rows:
        yield _from_row(where, name, row, path_column, caption_column, cache)


def _column(manifest: str, columns: list[str], accepted: tuple[str, ...], what: str) -> str:
    for name in accepted:
        if name in columns:
            return name
    seen = ", ".join(columns) or "none"
    raise ValueError(f"{manifest} has no {what} column: columns seen: {seen}; name one of them {' or '.join(accepted)}")


def _from_row(where: str, manifest: str, row: Row, path_column: str, caption_column: str, cache: Path) -> Item | Skip:
    name = row.get(path_column)
    if not isinstance(name, str) or not name.strip():
        return Skip(where, f"no path in column {path_column!r}")
    place = name.strip()
    if is_url(manifest) and not is_url(place) and not Path(place).is_absolute():
        place = beside(manifest, place)
    path, origin = Path(manifest).parent / place, ""
    if is_url(place):
        path, origin = cached(place, cache, suffix_of(place)), place
        if path.suffix not in IMAGE_SUFFIXES + VIDEO_SUFFIXES:
            return Skip(where, f"{place} is no video or image by its suffix")
    elif not path.is_file():
        return Skip(where, f"{path} does not exist" if not path.exists() else f"{path} is not a file")
    others = {key: value for key, value in row.items() if key not in (path_column, caption_column)}
    return _item(where, path, origin, row.get(caption_column), f"column {caption_column!r}", others)


def _item(where: str, path: Path, origin: str, caption: object, said_in: str, others: Row) -> Item | Skip:
    """From a caption, or a list of them, that `said_in` holds, and the columns that are neither it nor the path."""
    texts: list[Any] = caption if isinstance(caption, list) else [caption or ""]
    if not all(isinstance(text, str) for text in texts):
        return Skip(where, f"{said_in} holds something other than text or a list of texts")
    captions = tuple(text.strip() for text in texts if text.strip())
    given = {key: value for key, value in others.items() if value is not None}
    try:
        start, end = _take_stretch(given)
    except ValueError as error:
        return Skip(where, str(error))
    attributes = {key: v if isinstance(v, str) else json.dumps(v, default=str) for key, v in given.items()}
    item = Item(path, captions, attributes, start, end, origin)
    return item if captions else Skip(where, f"no caption in {said_in}", item)


def _take_stretch(columns: dict[str, object]) -> tuple[float, float | None]:
    """Takes start and end out of the columns, in seconds, as numbers or texts; empty or missing is all of the file."""
    found = [[name for name in accepted if name in columns][:1] for accepted in (START_COLUMNS, END_COLUMNS)]
    texts = ["".join(str(columns.pop(name)).strip() for name in names) for names in found]
    try:
        start, end = (float(text) if text else None for text in texts)
        if 0 <= (start or 0) < (math.inf if end is None else end) and end != math.inf:
            return start or 0.0, end
    except ValueError:
        pass
    raise ValueError(f"start {texts[0]!r} and end {texts[1]!r} are no stretch: give seconds with 0 <= start < end")


def _jsonl_rows(manifest: str, file: Path) -> Iterator[tuple[str, Row]]:
    with file.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{manifest}:{number} is not JSON ({error}): one object a line is needed") from error
            if not isinstance(row, dict):
                raise ValueError(f"{manifest}:{number} is a {type(row).__name__}: one JSON object a line is needed")
            yield f"{manifest}:{number}", row


def _json_rows(manifest: str, file: Path) -> Iterator[tuple[str, Row]]:
    try:
        rows = json.loads(file.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{manifest} is not JSON ({error}): if it has an object a line, call it .jsonl") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{manifest} holds something other than a list of objects, one for each clip")
    return ((f"{manifest} row {number}", row) for number, row in enumerate(rows, start=1))


def _table_rows(manifest: str, file: Path) -> Iterator[tuple[str, Row]]:
    delimiter = "\t" if suffix_of(manifest) == ".tsv" else ","
    with file.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines, delimiter=delimiter, strict=True)
        try:
            for row in reader:
                if None in row:
                    raise ValueError(
                        f"{manifest}:{reader.line_num} has more cells than there are columns: put texts that hold "
                        f"the delimiter {delimiter!r} between double quotes"
                    )
                yield f"{manifest}:{reader.line_num}", dict(row)
        except csv.Error as error:
            raise ValueError(f"{manifest}:{reader.line_num} does not parse ({error}): check its quotes") from error


def _parquet_rows(manifest: str, file: Path) -> Iterator[tuple[str, Row]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ValueError(f'{manifest}: Parquet needs pyarrow: pip install "videodit[parquet]"') from error
    try:
        with parquet.ParquetFile(file) as table:
            texts = [field.name for field in table.schema_arrow if "binary" not in str(field.type)]
            media = [name for name in table.schema_arrow.names if name in PATH_COLUMNS and name not in texts]
            if media and not set(texts) & set(PATH_COLUMNS):
                raise ValueError(
                    f"{manifest} holds the files themselves, as bytes in column {media[0]!r}: write each to a "
                    f"file, and the paths to a column of text"
                )
            rows = chain.from_iterable(batch.to_pylist() for batch in table.iter_batches(columns=texts))
            for number, row in enumerate(rows, start=1):
                yield f"{manifest} row {number}", row
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{manifest} does not parse as Parquet ({error})") from error


def _from_lists(clips: list[Path], captions: list[Path], cache: Path) -> Iterator[Item | Skip]:
    if len(clips) > 1 or len(captions) > 1:
        names = ", ".join(str(path) for path in (clips if len(clips) > 1 else captions))
        raise ValueError(f"{names} are there: keep one of them, or give a manifest")
    paths, texts = _lines(clips[0]), _lines(captions[0])
    if len(paths) != len(texts):
        raise ValueError(
            f"{clips[0]} has {len(paths)} lines, {captions[0]} {len(texts)}: one caption a clip is needed, each on "
            f"one line (empty lines count)"
        )
    for number, (path, text) in enumerate(zip(paths, texts, strict=True), start=1):
        row = {clips[0].name: path, captions[0].name: text}
        yield _from_row(f"{clips[0]}:{number}", str(clips[0]), row, clips[0].name, captions[0].name, cache)


def _from_shard(shard: str, cache: Path) -> Iterator[Item | Skip]:
    tar = open_shard(shard, cache)
    samples: dict[str, dict[str, Member]] = {}
    for name, member in tar.members.items():
        parts = SAMPLE_NAME.fullmatch(name)
        if parts and member.is_file:
            samples.setdefault(parts["key"], {})[parts["suffix"]] = member
        elif parts:
            yield Skip(f"{shard}::{name}", "a link or a device: only plain files are read")
    stat = tar.file.stat()  # a shard that is written anew has other clips; a remote one is fetched once
    version = "" if is_url(shard) else f"{stat.st_size} {stat.st_mtime_ns}"
    for key, files in samples.items():
        sample = _sample(tar.file, files)
        if isinstance(sample, str):
            yield Skip(f"{shard}::{key}", sample)
            continue
        suffix, captions, others = sample
        origin = f"{shard if is_url(shard) else tar.file.absolute()}::{key}.{suffix}"
        path = cached(origin, cache, suffix_of(f".{suffix}"), version)
        yield _item(f"{shard}::{key}", path, origin, captions, "its .txt or .json", others)


def _sample(shard: Path, files: Mapping[str, Member]) -> tuple[str, object, Row] | str:
    """Of the files of one key, by suffix: the suffix of the clip, its captions, the other fields; or why not."""
    kinds = {suffix: suffix_of(f".{suffix}") for suffix in files}
    media = [suffix for known in (VIDEO_SUFFIXES, IMAGE_SUFFIXES) for suffix in files if kinds[suffix] in known]
    if not media:
        return f"no video or image among its files ({', '.join(files)})"
    try:
        texts = [line for line in _text(shard, files.get("txt")).split("\n") if line.strip()]
        row = json.loads(_text(shard, files.get("json")) or "{}")
    except (ValueError, RecursionError) as error:
        return f"its .txt or .json cannot be read ({error})"
    if not isinstance(row, dict):
        return "its .json holds something other than an object"
    column = None if texts else next((name for name in CAPTION_COLUMNS if name in row), None)
    return media[0], texts or row.get(column), {name: value for name, value in row.items() if name != column}


def _text(shard: Path, member: Member | None) -> str:
    if member and member.size > LARGEST_TEXT:
        raise ValueError(f"{member.size} bytes are more than the {LARGEST_TEXT} of a text")
    return b"".join(chunks(shard, member)).decode("utf-8-sig") if member else ""


def _braces(pattern: str) -> list[str]:
    """`{08..10}.tar` as 08.tar, 09.tar and 10.tar; `{a,b}` as both; of several braces, all combinations."""
    found = re.search(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}", pattern)
    if not found:
        return [pattern]
    first, last, names = found.groups()
    between = names.split(",") if names else [f"{n:0{len(first)}}" for n in range(int(first), int(last) + 1)]
    before, after = pattern[: found.start()], pattern[found.end() :]
    return [before + middle + rest for middle in between for rest in _braces(after)]


def _files(folder: Path, names: Sequence[str]) -> list[Path]:
    return [folder / name for name in names if (folder / name).is_file()]


def _media(folder: Path) -> list[Path]:
    suffixes = IMAGE_SUFFIXES + VIDEO_SUFFIXES
    files = (path for path in folder.rglob("*") if path.suffix.lower() in suffixes and path.is_file())
    return sorted(path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def _from_file(path: Path) -> Item | Skip:
    beside = path.with_suffix(".txt")
    if not beside.is_file():
        return Skip(str(path), f"no caption: {beside.name} is not beside it", Item(path, (), {}))
    item = Item(path, tuple(line.strip() for line in _lines(beside) if line.strip()), {})
    return item if item.captions else Skip(str(path), f"no caption: {beside.name} is empty", item)


def _lines(file: Path) -> list[str]:
    try:
        with file.open(encoding="utf-8-sig") as lines:
            return [line.rstrip("\n") for line in lines]
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 ({error.reason}): save it as UTF-8") from error
