"""Folders as they lie: with a manifest of a known name in them, as Hugging Face has them, or clips with texts beside.

Links to folders are followed, each folder read once. Nothing is passed over in silence: what looks like a clip and is
none for us becomes a `Skip`.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from videodit.data.plain import LARGEST_TEXT, EncodingError, encoding_of, is_plain_file, lines_of, natural
from videodit.data.rows import Columns, Found, Item, Note, Skip, item_of, item_of_row
from videodit.data.shards import clips_of_shard
from videodit.video import IMAGE_SUFFIXES, VIDEO_SUFFIXES

MEDIA = VIDEO_SUFFIXES + IMAGE_SUFFIXES
UNREAD_MEDIA = (".arw", ".braw", ".cr2", ".cr3", ".dng", ".exr", ".heic", ".heif", ".jxl", ".nef", ".psd", ".r3d")
FOLDER_MANIFESTS = (
    *("clips.jsonl", "metadata.jsonl", "metadata.csv", "metadata.parquet", "manifest.jsonl"),
    "videos2caption.json",
)
CLIP_LISTS = ("video.txt", "videos.txt", "image.txt", "images.txt")
CAPTION_LISTS = ("caption.txt", "captions.txt", "prompt.txt", "prompts.txt")
SPLIT_MANIFESTS = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
SPLIT_PART = re.compile(r"(?P<split>.+?)(-\d+-of-\d+.*)?\.parquet", re.IGNORECASE)  # train-00000-of-00002.parquet
FRAME_NAME = re.compile(r"(?P<prefix>.*?)(?P<number>\d+)", re.DOTALL)
FEWEST_FRAMES = 3  # numbered pictures that look like a clip

ReadManifest = Callable[[str, Sequence[Path]], Iterable[Found]]


def clips_of_folder(folder: Path, cache: Path, captions: bool, read_manifest: ReadManifest) -> Iterable[Found]:
    """What a folder holds, by the first of the layouts in `data.manifest` that it has.

    Args:
        captions: whether clips without one are of no use.
        read_manifest: reads a manifest in it, given the folders where its paths may begin.

    Raises:
        ValueError: it can be read in several ways; names them.
    """
    if manifests := _files(folder, FOLDER_MANIFESTS):
        return read_manifest(str(manifests[0]), [folder, folder / "videos"])
    if (clips := _files(folder, CLIP_LISTS)) and (texts := _files(folder, CAPTION_LISTS)):
        return _from_lists(clips, texts, cache)
    inner = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    tables = _split_tables(folder, inner)
    splits = [manifest for path in inner if path.is_dir() for manifest in _files(path, SPLIT_MANIFESTS)[:1]]
    shards = [path for path in inner if path.suffix.lower() == ".tar" and is_plain_file(path)]
    if tables and (splits or shards):
        raise ValueError(f"{folder} holds {tables[0].name} and {[*splits, *shards][0]}: name one of them")
    if tables:
        return chain.from_iterable(read_manifest(str(table), [folder, table.parent]) for table in tables)
    tree = Tree.of(folder)
    if len(splits) == 1 and not shards and all(path.is_relative_to(splits[0].parent) for path in tree.media):
        return read_manifest(str(splits[0]), [splits[0].parent])
    if splits:
        names = " or ".join(str(path.parent) for path in splits)
        raise ValueError(f"{folder} has no manifest for all that is in it, but sub-folders have: name one: {names}")
    if shards and tree.media:
        raise ValueError(f"{folder} holds shards ({shards[0].name}) and clips ({tree.media[0].name}): put them apart")
    if shards:
        return chain.from_iterable(clips_of_shard(str(shard), cache) for shard in shards)
    return tree.clips(captions)


def _files(folder: Path, names: Sequence[str]) -> list[Path]:
    return [folder / name for name in names if is_plain_file(folder / name)]


def _split_tables(folder: Path, inner: Sequence[Path]) -> list[Path]:
    """Hugging Face's `data/train-00000-of-00002.parquet`, or its like in the folder itself: all parts of one split."""
    own = [path for path in inner if "-of-" in path.name]
    data = sorted((folder / "data").iterdir()) if (folder / "data").is_dir() else []
    found: dict[str, list[Path]] = defaultdict(list)
    for path in [*own, *data]:
        if (name := SPLIT_PART.fullmatch(path.name)) and not path.name.startswith(".") and is_plain_file(path):
            found[str(path.with_name(name["split"]))].append(path)
    if len(found) > 1:
        names = " or ".join(f"{split}*.parquet" for split in found)
        raise ValueError(f"{folder} holds several splits of Parquet files: name one: {names}")
    return next(iter(found.values()), [])


def _from_lists(clips: list[Path], captions: list[Path], cache: Path) -> Iterator[Found]:
    if len(clips) > 1 or len(captions) > 1:
        names = ", ".join(str(path) for path in (clips if len(clips) > 1 else captions))
        raise ValueError(f"{names} are there: keep one of them, or give a manifest")
    paths, texts = lines_of(clips[0]), lines_of(captions[0])
    if len(paths) != len(texts):
        raise ValueError(
            f"{clips[0]} has {len(paths)} lines, {captions[0]} {len(texts)}: one caption a clip is needed, each on "
            f"one line (empty lines count)"
        )
    columns = Columns((clips[0].name,), (captions[0].name,))
    for number, row in enumerate(zip(paths, texts, strict=True), start=1):
        named = dict(zip((clips[0].name, captions[0].name), row, strict=True))
        yield item_of_row(f"{clips[0]}:{number}", str(clips[0]), named, columns, cache)


@dataclass(frozen=True)
class Tree:
    """The files in a folder at any depth, but hidden ones: clips in the order of their paths, texts, and the rest."""

    root: Path
    media: list[Path] = field(default_factory=list)
    texts: dict[tuple[Path, str], Path] = field(default_factory=dict)  # by folder and name, whatever its form
    others: list[Path] = field(default_factory=list)
    skips: list[Skip] = field(default_factory=list)

    @classmethod
    def of(cls, root: Path) -> Tree:
        tree = cls(root)
        for path in sorted(tree._walk()):
            suffix = path.suffix.lower()
            if suffix in MEDIA and not is_plain_file(path):
                what = "a link to nothing" if path.is_symlink() else "a pipe, socket or device"
                tree.skips.append(Skip(str(path), f"it is {what}"))
            elif suffix in MEDIA:
                tree.media.append(path)
            elif suffix == ".txt" and is_plain_file(path):
                tree.add_text(path)
            else:
                tree.others.append(path)
        return tree

    @classmethod
    def around(cls, clip: Path) -> Tree:
        """One clip, and the text beside it."""
        tree = cls(clip.parent, [clip])
        for text in (clip.with_suffix(".txt"), clip.with_suffix(".TXT")):
            if is_plain_file(text):
                tree.add_text(text)
        return tree

    def add_text(self, path: Path) -> None:
        if path.suffix == ".txt" or _stem(path) not in self.texts:
            self.texts[_stem(path)] = path

    def _walk(self) -> Iterator[Path]:
        """Real folders first, then what links lead to: so each is read once, by its shortest name."""
        waiting, seen = [self.root], set[str]()
        for begin in waiting:
            for place, folders, files in os.walk(begin, onerror=self._cannot_list):
                if not self._is_new(Path(place), seen):
                    folders.clear()
                    continue
                folders[:] = sorted(name for name in folders if not name.startswith("."))
                waiting += [Path(place, name) for name in folders if Path(place, name).is_symlink()]
                yield from (Path(place, name) for name in files if not name.startswith("."))

    def _is_new(self, folder: Path, seen: set[str]) -> bool:
        if (real := os.path.realpath(folder)) in seen:
            self.skips.append(Skip(str(folder), "a link to a folder that is read already, or a loop of links"))
            return False
        seen.add(real)
        return True

    def _cannot_list(self, error: OSError) -> None:
        self.skips.append(Skip(str(error.filename), f"the folder cannot be listed ({error.strerror})"))

    def clips(self, captions: bool) -> Iterator[Found]:
        """Each clip with the text beside it, and what is left out. Without `captions`, texts may be missing."""
        sequences = self._sequences()
        for folder, pictures in sequences.items():
            what = _tell_of_frames(folder, pictures)
            yield Skip(str(folder), what) if captions else Note(str(folder), what)
        alone = {path for pictures in sequences.values() for path in pictures} if captions else set()
        shared: dict[Path, list[Path]] = defaultdict(list)
        for path in self.media:
            if path not in alone:
                yield from self._clip(path)
            if text := self.text_of(path):
                shared[text].append(path)
        for text, paths in shared.items():
            if len(paths) > 1:
                names = f"{text} ({', '.join(path.name for path in paths)})"
                yield Note(names, "one caption for several files of the same name: is one of them a thumbnail?")
        yield from self.left_out()

    def _clip(self, path: Path) -> Iterator[Found]:
        text = self.text_of(path)
        if text is None:
            missing = f"{path.stem}.txt"
            yield Skip(str(path), f"no caption: {missing} is not beside it", Item(path, (), {}))
            return
        try:
            captions = self.lines_beside(text, path)
        except EncodingError:  # which others will have too
            raise
        except ValueError as error:
            yield Skip(str(path), str(error))
            return
        found = item_of(str(path), path, "", captions, text.name, {})
        yield Skip(str(path), f"no caption: {text.name} is empty", Item(path, (), {})) if not captions else found
        if captions and (encoding := encoding_of(text)) != "UTF-8":
            yield Note(str(text), f"a caption in {encoding}, read as that: UTF-8 is what others expect")

    def text_of(self, clip: Path) -> Path | None:
        """The file beside a clip that holds its captions."""
        return self.texts.get(_stem(clip))

    def lines_beside(self, text: Path, clip: Path) -> list[str]:
        """Of a text beside a clip, those that are not empty.

        Raises:
            ValueError: it is no text; or a link to one that lies neither in the source nor beside the clip, which may
                be anything that one who packed this folder would like to be read.
        """
        if text.is_symlink():
            real = text.resolve()
            if not real.is_relative_to(self.root.resolve()) and real.parent != clip.resolve().parent:
                raise ValueError(f"{text} is a link that leads out of {self.root}: copy it there")
        return [line.strip() for line in lines_of(text, LARGEST_TEXT) if line.strip()]

    def left_out(self) -> Iterator[Skip]:
        """Links and files that are none; what is media by its ending, or has a caption, and belongs to no clip here."""
        yield from self.skips
        clips = {_stem(path) for path in self.media}
        for path in self.others:
            suffix, has_text = path.suffix.lower(), _stem(path) in self.texts
            if (suffix in UNREAD_MEDIA or (has_text and suffix != ".json")) and _stem(path) not in clips:
                ending = f"that end in {path.suffix}" if path.suffix else "without an ending"
                yield Skip(str(path), f"files {ending} are not read: convert them, say to .mp4 or .png")

    def _sequences(self) -> dict[Path, list[Path]]:
        """Folders of nothing but numbered pictures, none with a caption of its own, in the order of their numbers."""
        folders: dict[Path, list[Path]] = defaultdict(list)
        for path in self.media:
            folders[path.parent].append(path)
        return {
            folder: sorted(paths, key=lambda path: natural(path.name))
            for folder, paths in folders.items()
            if len(paths) >= FEWEST_FRAMES
            and not any(_stem(path) in self.texts for path in paths)
            and len(kinds := {_frame_kind(path) for path in paths}) == 1
            and None not in kinds
        }


def _frame_kind(path: Path) -> tuple[str, str] | None:
    """What the pictures of one clip have in common: all but their number."""
    name = FRAME_NAME.fullmatch(path.stem) if path.suffix.lower() in IMAGE_SUFFIXES else None
    return (name["prefix"], path.suffix) if name else None


def _stem(path: Path) -> tuple[Path, str]:
    return path.parent, unicodedata.normalize("NFC", path.stem)


def _tell_of_frames(folder: Path, pictures: Sequence[Path]) -> str:
    name = FRAME_NAME.fullmatch(pictures[0].stem)
    assert name
    digits = f"%0{len(name['number'])}d" if len({len(path.stem) for path in pictures}) == 1 else "%d"
    pattern = folder / f"{name['prefix']}{digits}{pictures[0].suffix}"
    return (
        f"its {len(pictures)} numbered pictures look like the frames of one clip, whose rate nothing tells: join them "
        f"(ffmpeg -framerate RATE -start_number {int(name['number'])} -i '{pattern}' '{folder}.mkv'), or give each a "
        f"caption"
    )
