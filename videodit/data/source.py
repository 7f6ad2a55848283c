"""Where clips come from: the shapes world or files, behind one small interface.

A source is a numbered list of clips. What is shown of one is a `Span`: from where on, at which size, which part of the
picture. Spans are drawn from the key (seed, draw, index), so that neither workers nor restarts change them. `Clips` is
what training reads: it draws spans, keeps decoded ones in memory, and counts and names what cannot be read.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from videodit.config import Data
from videodit.data.files import Facts, Files
from videodit.data.manifest import Item, Skip, read_manifest
from videodit.data.remote import fetch
from videodit.data.transforms import fit
from videodit.geometry import ClipSize
from videodit.shapes import VERSION, ShapesWorld, rng_for, shares, triples
from videodit.video.decoders import library
from videodit.video.ground import WHITE, parse_ground
from videodit.video.guarded import Guarded
from videodit.video.index import UnsuitableError, VideoError
from videodit.video.reader import read_clip

SPAN = 3  # stream of the counter-based randomness, see `rng_for`


@dataclass(frozen=True)
class Span:
    """What is shown of clip `index`: from `start` seconds on, at `size`, the crop at `place` (0 top or left, 1 end).

    What is transparent is laid on `background` (`video.ground`); None: nothing is.
    """

    index: int
    size: ClipSize
    start: float = 0.0
    place: tuple[float, float] = (0.5, 0.5)
    background: str | None = None


class Source(Protocol):
    """Numbered clips with captions.

    `fetch` brings files from elsewhere to this machine, and says where all are; `facts` is None where a clip can have
    any size and length; `backgrounds` are those that a transparent one may be laid on; `content` names what it shows,
    whatever it is called; `captions` are of a span, which tells its background; `recall` learns what other processes
    found unreadable, `fail` tells them; `stream` gives the frames uint8 f h w c of many spans, or the error that
    reading one gave, in their order.
    """

    def __len__(self) -> int: ...
    def fetch(self) -> list[Path]: ...
    def name(self, index: int) -> str: ...
    def content(self, index: int) -> str: ...
    def captions(self, span: Span, image: bool) -> tuple[str, ...]: ...
    def backgrounds(self, index: int) -> tuple[str, ...]: ...
    def facts(self, index: int) -> Facts | None: ...
    def recall(self) -> None: ...
    def fail(self, index: int, error: VideoError) -> None: ...
    def stream(self, spans: Sequence[Span]) -> Iterator[np.ndarray | VideoError]: ...


@dataclass(frozen=True)
class ShapesSource:
    """`length` clips of the procedural world, from number `first` on; `more`: weights of words."""

    seed: int
    first: int
    length: int
    more: dict[str, float]

    def __len__(self) -> int:
        return self.length

    def fetch(self) -> list[Path]:
        return []

    def name(self, index: int) -> str:
        return f"shapes {self.seed} {self.first + index}" + (f" more {sorted(self.more.items())}" if self.more else "")

    def content(self, index: int) -> str:
        return f"{self.name(index)} version {VERSION}"

    def backgrounds(self, index: int) -> tuple[str, ...]:
        return ()

    def captions(self, span: Span, image: bool) -> tuple[str, ...]:
        size = ClipSize(1 if image else 2, 64, 64, 8.0)  # of which captions read no more than whether it moves
        return ShapesWorld(size, seed=self.seed, more=self.more).captions(self.first + span.index)

    def facts(self, index: int) -> None:
        return None

    def recall(self) -> None:
        pass

    def fail(self, index: int, error: VideoError) -> None:
        pass

    def stream(self, spans: Sequence[Span]) -> Iterator[np.ndarray | VideoError]:
        for span in spans:
            yield ShapesWorld(span.size, seed=self.seed, more=self.more)[self.first + span.index].frames


@dataclass(frozen=True)
class FileSource:
    """Clips and images from files, decoded in processes of their own (`files.reader`)."""

    items: tuple[Item, ...]
    data: Data
    files: Files

    def __len__(self) -> int:
        return len(self.items)

    def fetch(self) -> list[Path]:
        distant = [item for item in self.items if item.origin]
        with ThreadPoolExecutor(8) as pool:
            work = pool.map(self._bring, distant)
            list(tqdm(work, total=len(distant), desc="fetching files", disable=not distant, delay=2))
        return [item.path for item in self.items]

    def _bring(self, item: Item) -> None:
        """Once: what could not be had then is out for this run, on all processes, and when it goes on."""
        if item.origin and not item.path.exists() and not self.files.known_error(item.path):
            try:
                fetch(item)
            except VideoError as error:
                self.files.fail(item.path, error, is_missing=True)

    def name(self, index: int) -> str:
        item = self.items[index]
        where = item.origin or str(item.path)
        return where if item.end is None and not item.start else f"{where} from {item.start:g} s"

    def content(self, index: int) -> str:
        item = self.items[index]
        return f"sha256 {self.files.sha256(item.path)} from {item.start} by {self.data.reader}, scaled by FFmpeg"

    def backgrounds(self, index: int) -> tuple[str, ...]:
        """Of `data.background` those that the row's own column allows, or all."""
        return allowed_backgrounds(self.items[index], self.data)

    def captions(self, span: Span, image: bool) -> tuple[str, ...]:
        """As the row has them or, where a background is laid, each told once with it (`data.background_captions`)."""
        captions, told = self.items[span.index].captions, self.data.background_captions
        if span.background is None or not told:
            return captions
        first = zlib.crc32(f"{span.index} {span.background}".encode())  # each wording gets every phrasing in turn
        return tuple(
            told[(first + number) % len(told)].format(caption=caption, background=span.background)
            for number, caption in enumerate(captions)
        )

    def facts(self, index: int) -> Facts:
        """Of the stretch of its file that an item is. VideoError where it cannot be read."""
        item = self.items[index]
        self._bring(item)
        facts = self.files.facts(item.path)
        if facts.error:
            raise VideoError(facts.error)
        if item.end is None and not item.start:
            return facts
        end = facts.duration if item.end is None else item.end
        slack = 0.0 if facts.is_image else 1 / facts.fps
        if facts.is_image or end > facts.duration + slack or item.start >= facts.duration:
            held = "is a still image" if facts.is_image else f"is {facts.duration:.3f} s long"
            raise UnsuitableError(f"{item.path} {held}: it has no stretch from {item.start:g} to {end:g} s")
        return replace(facts, duration=min(end, facts.duration) - item.start)

    def recall(self) -> None:
        self.files.recall()

    def fail(self, index: int, error: VideoError) -> None:
        self.files.fail(self.items[index].path, error)

    def stream(self, spans: Sequence[Span]) -> Iterator[np.ndarray | VideoError]:
        calls = (self._call(span) for span in spans)  # each made when it is its turn: its file may be bad by then
        for span, frames in zip(spans, self.files.reader.map(read_clip, calls), strict=True):
            is_bad = isinstance(frames, VideoError)
            yield frames if is_bad else fit(frames, span.size.height, span.size.width, span.place)

    def _call(self, span: Span) -> tuple[Any, ...] | VideoError:
        """Arguments of `read_clip`, or why it need not be called."""
        item, size = self.items[span.index], span.size
        try:
            facts = self.facts(span.index)
        except VideoError as error:
            return error
        if not self.data.upscale and (facts.height < size.height or facts.width < size.width):
            return UnsuitableError(
                f"{item.path} has {facts.height}x{facts.width} pixels, less than the {size.height}x{size.width} "
                f"asked for: set data.upscale: true, or leave it out"
            )
        slower = "repeat" if self.data.slower == "repeat" else "error"
        cover = (size.height, size.width)
        ground, begin = span.background or WHITE, item.start + span.start
        return item.path, size.num_frames, size.fps, begin, slower, self.data.reader, cover, ground


class Clips:
    """What training reads: spans of a source, in memory where there is room; unreadable ones are counted and named.

    Args:
        source: the clips.
        data: where a span begins (`start`), which part of a picture is kept (`crop`), the size of a clip unless another
            is asked for, how much is kept in memory (`memory_gb`, of clips that show the same in every draw), and the
            share of unreadable clips beyond which VideoError is raised (`max_bad_share`).
        seed: of the draws.
    """

    def __init__(self, source: Source, data: Data, seed: int):
        self.source, self.data, self.seed = source, data, seed
        self.size = ClipSize(data.num_frames, data.height, data.width, data.fps)
        self.skips: dict[int, Skip] = {}
        self._room = int(data.memory_gb * 2**30)
        self._kept: dict[Span, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.source)

    def span(self, index: int, draw: int, size: ClipSize | None = None) -> Span:
        """Draw number `draw` of a clip, at a size (None: the data's); of an image one frame. VideoError: unreadable."""
        facts, size = self.source.facts(index), size or self.size
        if facts is None:
            return Span(index, size)
        size = size.image() if facts.is_image else size
        rng = rng_for(self.seed, SPAN, draw, index)
        start = float(rng.random()) * max(0.0, spare_seconds(facts, size)) if self.data.start == "random" else 0.0
        place = (float(rng.random()), float(rng.random())) if self.data.crop == "random" else (0.5, 0.5)
        if facts.height * size.width == facts.width * size.height:
            place = (0.5, 0.5)  # nothing is cut off
        background = None
        if facts.transparent:
            choice = self.source.backgrounds(index)
            background = choice[int(rng.integers(len(choice)))]
        return Span(index, size, start, place, background)

    def read_ahead(self, spans: Sequence[Span]) -> Iterator[np.ndarray | None]:
        """Frames uint8 f h w c of each span, in their order, the next of which are read meanwhile.

        None where a clip cannot be read, or could not in a span before: it is counted and named in `skips`, and its
        file put into quarantine.
        """
        for span, frames in zip(spans, self.source.stream(spans), strict=True):
            if isinstance(frames, VideoError) and span.index not in self.skips:
                self.source.fail(span.index, frames)
                self.skip(span.index, str(frames))
            yield None if span.index in self.skips or isinstance(frames, VideoError) else frames

    def recall(self, indices: Iterable[int]) -> None:
        """Counts those of these clips that have turned out to be unreadable in other spans, or to other processes."""
        self.source.recall()
        for index in sorted(set(indices) - set(self.skips)):
            try:
                self.source.facts(index)
            except VideoError as error:
                self.skip(index, str(error))

    def skip(self, index: int, why: str) -> None:
        """Counts a clip as unreadable; VideoError where they are too many."""
        self.skips[index] = Skip(self.source.name(index), why)
        if len(self.skips) > self.data.max_bad_share * len(self) or len(self.skips) == len(self):
            reasons = "; ".join(skip.why for skip in list(self.skips.values())[:3])
            raise VideoError(
                f"{len(self.skips)} of {len(self)} clips cannot be read, more than data.max_bad_share="
                f"{self.data.max_bad_share} allows: {reasons}"
            )

    def read(self, index: int, draw: int) -> np.ndarray:
        """Frames uint8 f h w c of clip `index`, or of the next that can be read in this draw.

        Whether one can be read is found out anew in each draw, so that a run that goes on replaces the same clips.
        """
        for number in range(len(self)):
            other = (index + number) % len(self)
            try:
                return self._frames(self.span(other, draw))
            except VideoError as error:
                if other not in self.skips:
                    self.skip(other, str(error))
        raise VideoError(f"none of {len(self)} clips can be read; the last: {self.skips[other].why}")

    def _frames(self, span: Span) -> np.ndarray:
        if span in self._kept:
            return self._kept[span]
        frames = next(iter(self.source.stream([span])))
        if isinstance(frames, VideoError):
            raise frames
        if frames.nbytes <= self._room and self.span(span.index, 0) == self.span(span.index, 1) == span:
            self._room -= frames.nbytes
            self._kept[span] = frames
        return frames


def spare_seconds(facts: Facts, size: ClipSize) -> float:
    """By how much a clip's file, or its stretch of one, is longer than it; below zero where it is shorter."""
    if size.num_frames == 1:
        return max(0.0, facts.duration - 1 / facts.fps) if facts.fps else 0.0
    pace = facts.fps if facts.fps < size.fps <= 1.01 * facts.fps else size.fps  # as `read_clip` does
    return facts.duration - 1 / facts.fps - (size.num_frames - 1) / pace


def allowed_backgrounds(item: Item, data: Data) -> tuple[str, ...]:
    """Those of `data.background` that a row's column `grounds`, a list, allows; without the column, all.

    Raises:
        ValueError: there is none.
    """
    if (column := item.attributes.get("grounds")) is None:
        return data.background
    try:
        listed = json.loads(column)
    except ValueError:
        listed = None
    if not isinstance(listed, list):
        raise ValueError(f"{item.path}: column 'grounds' holds {column[:60]!r} and no list of backgrounds")
    allowed = tuple(name for name in data.background if name in listed)
    if not allowed:
        raise ValueError(f"{item.path}: data.background has none of the backgrounds of its column 'grounds'")
    return allowed


def guarded_reader(data: Data) -> Guarded:
    """What opens the files of a run: `data.read_processes` at a time on this machine, with the limits of `data`."""
    here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # of torchrun and accelerate
    processes = data.read_processes or max(1, min(8, (os.cpu_count() or 1) // here))
    return Guarded(processes, seconds=data.read_seconds, memory_gb=data.read_memory_gb)


@dataclass(frozen=True)
class Split:
    """Clips to train on, clips kept out of training to measure on, what the manifest skipped, and facts of files."""

    train: Clips
    validation: Clips
    skips: tuple[Skip, ...]
    files: Files


def open_data(data: Data, seed: int, memory: Path | None = None) -> Split:
    """The clips that a configuration names. Validation takes every n-th item of a manifest, spread evenly.

    Args:
        memory: a file to remember facts of files in (`data.files`).

    Raises:
        ValueError: the manifest is unreadable or too small to keep `data.validation` clips out, `data.reader` is not
            installed, or `data.more` has an unknown word or a weight that cannot be.
    """
    fixed = data.model_copy(update={"start": "first", "crop": "center"})  # so that validation losses can be compared
    if data.source == "shapes":
        try:
            shares(triples(), data.more)
        except ValueError as error:
            raise ValueError(f"data.more: {error}") from error
        train = ShapesSource(seed, data.validation, data.clips or 8192, data.more)
        kept = ShapesSource(seed, 0, data.validation, data.more)
        return Split(Clips(train, data, seed), Clips(kept, fixed, seed), (), Files())
    try:
        library(data.reader)
    except ImportError as error:
        raise ValueError(f"data.reader: {error}") from error
    cache = memory.with_name("remote") if memory else None
    manifest = read_manifest(data.source, cache)
    items, skips = manifest.items[: data.clips], manifest.skips
    if data.validation_source:
        other = read_manifest(data.validation_source, cache)
        train_items, skips = items, skips + other.skips
        validation = _spread(other.items, min(data.validation, len(other.items)))
    else:
        if data.validation >= len(items):
            raise ValueError(
                f"{data.source}: {len(items)} clips leave none to train on beside data.validation={data.validation}"
            )
        validation = _spread(items, data.validation)
        held = set(map(id, validation))
        train_items = tuple(item for item in items if id(item) not in held)
    for name in data.background:
        try:
            parse_ground(name)
        except ValueError as error:
            raise ValueError(f"data.background: {error}") from error
    for item in (*train_items, *validation):
        allowed_backgrounds(item, data)  # an error now, before anything is read
    files = Files(memory, guarded_reader(data))
    return Split(
        Clips(FileSource(train_items, data, files), data, seed),
        Clips(FileSource(validation, data, files), fixed, seed),
        skips,
        files,
    )


def _spread(items: tuple[Item, ...], count: int) -> tuple[Item, ...]:
    """So many of them, at even distances."""
    return tuple(items[round((i + 0.5) * len(items) / count - 0.5)] for i in range(count))
