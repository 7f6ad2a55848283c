"""Where clips come from: the shapes world or files, behind one small interface.

A source is a numbered list of clips. What is shown of one is a `Span`: from where on, at which size, which part of the
picture (`data.clips` draws them).
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from videodit.config import Data
from videodit.config.ground import WHITE
from videodit.data.columns import file_of, numbers_of
from videodit.data.files import Facts, Files
from videodit.data.manifest import Item
from videodit.data.remote import fetch
from videodit.data.transforms import fit
from videodit.geometry import ClipSize
from videodit.models import Condition
from videodit.shapes import VERSION, ShapesWorld
from videodit.video.index import UnsuitableError, VideoError
from videodit.video.reader import read_clip


@dataclass(frozen=True)
class Span:
    """What is shown of clip `index`: from `start` seconds on, at `size`, the crop at `place` (0 top or left, 1 end) of
    the clip at `zoom` times that size.

    What is transparent is laid on `background` (`config.ground`); None: nothing is.
    """

    index: int
    size: ClipSize
    start: float = 0.0
    place: tuple[float, float] = (0.5, 0.5)
    background: str | None = None
    zoom: float = 1.0


class Source(Protocol):
    """Numbered clips with captions.

    `fetch` brings files from elsewhere to this machine, and says where all are; `facts` is None where a clip can have
    any size and length; `backgrounds` are those that a transparent one may be laid on; `content` names what it shows,
    whatever it is called, or what another column of its row names; `numbers` are what its row tells a model, `file`
    the file that does, with what names its content and the second at which the clip begins in it; `call` calls a
    function with files, each with limits; `captions` are of a span, which tells its background; `recall` learns what
    other processes found unreadable, `fail` tells them; `stream` gives the frames uint8 f h w c of many spans, of the
    clips or of another column's files, or the error that reading one gave, in their order.
    """

    def __len__(self) -> int: ...
    def fetch(self) -> list[Path]: ...
    def name(self, index: int) -> str: ...
    def content(self, index: int, column: str | None = None) -> str: ...
    def numbers(self, index: int, condition: Condition) -> np.ndarray: ...
    def file(self, index: int, condition: Condition) -> tuple[Path, str, float]: ...
    def call(self, function: Callable[..., Any], calls: Iterable[Sequence[Any]]) -> Iterator[Any]: ...
    def captions(self, span: Span, image: bool) -> tuple[str, ...]: ...
    def backgrounds(self, index: int) -> tuple[str, ...]: ...
    def facts(self, index: int) -> Facts | None: ...
    def recall(self) -> None: ...
    def fail(self, index: int, error: VideoError) -> None: ...
    def stream(self, spans: Sequence[Span], column: str | None = None) -> Iterator[np.ndarray | VideoError]: ...


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

    def content(self, index: int, column: str | None = None) -> str:
        return f"{self.name(index)} version {VERSION}"

    def numbers(self, index: int, condition: Condition) -> np.ndarray:
        raise ValueError(f"the world of shapes has no {condition.name!r}")

    def file(self, index: int, condition: Condition) -> tuple[Path, str, float]:
        raise ValueError(f"the world of shapes has no {condition.name!r}")

    def call(self, function: Callable[..., Any], calls: Iterable[Sequence[Any]]) -> Iterator[Any]:
        raise ValueError("the world of shapes has no files")

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

    def stream(self, spans: Sequence[Span], column: str | None = None) -> Iterator[np.ndarray | VideoError]:
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

    def content(self, index: int, column: str | None = None) -> str:
        item = self.items[index]
        digest = self.files.sha256(self._file(item, column))
        return f"sha256 {digest} from {item.start} by {self.data.reader}, scaled by FFmpeg"

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

    def stream(self, spans: Sequence[Span], column: str | None = None) -> Iterator[np.ndarray | VideoError]:
        calls = (
            self._call(span, column) for span in spans
        )  # each made when it is its turn: its file may be bad by then
        for span, frames in zip(spans, self.files.reader.map(read_clip, calls), strict=True):
            is_bad = isinstance(frames, VideoError)
            yield frames if is_bad else fit(frames, span.size.height, span.size.width, span.place, span.zoom)

    def numbers(self, index: int, condition: Condition) -> np.ndarray:
        return numbers_of(self.items[index], condition)

    def file(self, index: int, condition: Condition) -> tuple[Path, str, float]:
        item = self.items[index]
        file = self._file(item, None if condition.from_clip else condition.name)
        return file, self.files.sha256(file), item.start

    def call(self, function: Callable[..., Any], calls: Iterable[Sequence[Any]]) -> Iterator[Any]:
        return self.files.reader.map(function, calls)

    def _file(self, item: Item, column: str | None) -> Path:
        return item.path if column is None else file_of(item, column) or item.path

    def _call(self, span: Span, column: str | None) -> tuple[Any, ...] | VideoError:
        """Arguments of `read_clip`, or why it need not be called."""
        item, size = self.items[span.index], span.size
        path = self._file(item, column)
        try:
            facts = self.facts(span.index)
        except VideoError as error:
            return error
        if column is not None:
            clip, facts = facts, self.files.facts(path)
            if facts.error:
                return VideoError(facts.error)
            if abs(facts.width * clip.height - facts.height * clip.width) > 0.02 * facts.height * clip.width:
                shapes = f"{facts.height}x{facts.width}, its clip {clip.height}x{clip.width}"
                return UnsuitableError(f"{path} ({column}) is {shapes}: both must be of one shape, to be cut alike")
        cover = (round(span.zoom * size.height), round(span.zoom * size.width))
        if not self.data.upscale and (facts.height < cover[0] or facts.width < cover[1]):
            return UnsuitableError(
                f"{path} has {facts.height}x{facts.width} pixels, less than the {cover[0]}x{cover[1]} "
                f"asked for: set data.upscale: true, or leave it out"
            )
        slower = "repeat" if self.data.slower == "repeat" else "error"
        ground, begin = span.background or WHITE, item.start + span.start
        return path, size.num_frames, size.fps, begin, slower, self.data.reader, cover, ground


@dataclass(frozen=True)
class Joined:
    """Clips of files, and after them clips of the shapes world."""

    files: FileSource
    shapes: ShapesSource

    def __len__(self) -> int:
        return len(self.files) + len(self.shapes)

    def _of(self, index: int) -> tuple[Source, int]:
        count = len(self.files)
        return (self.files, index) if index < count else (self.shapes, index - count)

    def fetch(self) -> list[Path]:
        return self.files.fetch()

    def name(self, index: int) -> str:
        source, own = self._of(index)
        return source.name(own)

    def content(self, index: int, column: str | None = None) -> str:
        source, own = self._of(index)
        return source.content(own, column)

    def numbers(self, index: int, condition: Condition) -> np.ndarray:
        source, own = self._of(index)
        return source.numbers(own, condition)

    def file(self, index: int, condition: Condition) -> tuple[Path, str, float]:
        source, own = self._of(index)
        return source.file(own, condition)

    def call(self, function: Callable[..., Any], calls: Iterable[Sequence[Any]]) -> Iterator[Any]:
        return self.files.call(function, calls)

    def captions(self, span: Span, image: bool) -> tuple[str, ...]:
        source, own = self._of(span.index)
        return source.captions(replace(span, index=own), image)

    def backgrounds(self, index: int) -> tuple[str, ...]:
        source, own = self._of(index)
        return source.backgrounds(own)

    def facts(self, index: int) -> Facts | None:
        source, own = self._of(index)
        return source.facts(own)

    def recall(self) -> None:
        self.files.recall()

    def fail(self, index: int, error: VideoError) -> None:
        source, own = self._of(index)
        source.fail(own, error)

    def stream(self, spans: Sequence[Span], column: str | None = None) -> Iterator[np.ndarray | VideoError]:
        for of_files, some in groupby(spans, lambda span: span.index < len(self.files)):
            source: Source = self.files if of_files else self.shapes
            yield from source.stream([replace(span, index=self._of(span.index)[1]) for span in some], column)


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
