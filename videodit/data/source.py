"""Where clips come from: the shapes world or files, behind one small interface.

A source is a numbered list of clips. What is shown of one is a `Span`: from where on, at which size, which part of the
picture. Spans are drawn from the key (seed, draw, index), so that neither workers nor restarts change them. `Clips` is
what training reads: it draws spans, keeps decoded ones in memory, and counts and names what cannot be read.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from videodit.config import Data
from videodit.data.files import Facts, Files
from videodit.data.manifest import Item, Skip, read_manifest
from videodit.data.transforms import fit
from videodit.geometry import ClipSize
from videodit.shapes import VERSION, ShapesWorld, rng_for
from videodit.video.reader import VideoError, read_clip

SPAN = 3  # stream of the counter-based randomness, see `rng_for`


@dataclass(frozen=True)
class Span:
    """What is shown of clip `index`: from `start` seconds on, at `size`, the crop at `place` (0 top or left, 1 end)."""

    index: int
    size: ClipSize
    start: float = 0.0
    place: tuple[float, float] = (0.5, 0.5)


class Source(Protocol):
    """Numbered clips with captions.

    `facts` is None where a clip can have any size and length; `content` names what it shows, whatever it is called.
    """

    def __len__(self) -> int: ...
    def paths(self) -> list[Path]: ...
    def name(self, index: int) -> str: ...
    def content(self, index: int) -> str: ...
    def captions(self, index: int, image: bool) -> tuple[str, ...]: ...
    def facts(self, index: int) -> Facts | None: ...
    def frames(self, span: Span) -> np.ndarray: ...


@dataclass(frozen=True)
class ShapesSource:
    """`length` clips of the procedural world, from number `first` on."""

    seed: int
    first: int
    length: int

    def __len__(self) -> int:
        return self.length

    def paths(self) -> list[Path]:
        return []

    def name(self, index: int) -> str:
        return f"shapes {self.seed} {self.first + index}"

    def content(self, index: int) -> str:
        return f"{self.name(index)} version {VERSION}"

    def captions(self, index: int, image: bool) -> tuple[str, ...]:
        size = ClipSize(1 if image else 2, 64, 64, 8.0)  # of which captions read no more than whether it moves
        return ShapesWorld(size, seed=self.seed).captions(self.first + index)

    def facts(self, index: int) -> None:
        return None

    def frames(self, span: Span) -> np.ndarray:
        return ShapesWorld(span.size, seed=self.seed)[self.first + span.index].frames


@dataclass(frozen=True)
class FileSource:
    """Clips and images from files."""

    items: tuple[Item, ...]
    data: Data
    files: Files

    def __len__(self) -> int:
        return len(self.items)

    def paths(self) -> list[Path]:
        return [item.path for item in self.items]

    def name(self, index: int) -> str:
        return str(self.items[index].path)

    def content(self, index: int) -> str:
        return f"sha256 {self.files.sha256(self.items[index].path)} by {self.data.reader}"

    def captions(self, index: int, image: bool) -> tuple[str, ...]:
        return self.items[index].captions

    def facts(self, index: int) -> Facts:
        """VideoError where the file cannot be read."""
        facts = self.files.facts(self.items[index].path)
        if facts.error:
            raise VideoError(facts.error)
        return facts

    def frames(self, span: Span) -> np.ndarray:
        path, size = self.items[span.index].path, span.size
        frames = read_clip(path, size.num_frames, size.fps, start=span.start, backend=self.data.reader)
        if not self.data.upscale and (frames.shape[1] < size.height or frames.shape[2] < size.width):
            raise VideoError(
                f"{path} has {frames.shape[1]}x{frames.shape[2]} pixels, less than the {size.height}x{size.width} "
                f"asked for: set data.upscale: true, or leave it out"
            )
        return fit(frames, size.height, size.width, span.place)


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
        return Span(index, size, start, place)

    def try_read(self, span: Span) -> np.ndarray | None:
        """Frames uint8 f h w c, or None where the clip cannot be read: it is then counted and named in `skips`."""
        if span.index in self.skips:
            return None
        try:
            return self._frames(span)
        except VideoError as error:
            self.skip(span.index, str(error))
            return None

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
        """Frames uint8 f h w c of clip `index`, or of the next readable one."""
        while (span := self._try_span(index, draw)) is None or (frames := self.try_read(span)) is None:
            index = (index + 1) % len(self)
        return frames

    def _try_span(self, index: int, draw: int) -> Span | None:
        if index in self.skips:
            return None
        try:
            return self.span(index, draw)
        except VideoError as error:
            self.skip(index, str(error))
            return None

    def _frames(self, span: Span) -> np.ndarray:
        if span in self._kept:
            return self._kept[span]
        frames = self.source.frames(span)
        if frames.nbytes <= self._room and self.span(span.index, 0) == self.span(span.index, 1) == span:
            self._room -= frames.nbytes
            self._kept[span] = frames
        return frames


def spare_seconds(facts: Facts, size: ClipSize) -> float:
    """By how much a file is longer than a clip; below zero where it is shorter."""
    if size.num_frames == 1:
        return max(0.0, facts.duration - 1 / facts.fps) if facts.fps else 0.0
    pace = facts.fps if facts.fps < size.fps <= 1.01 * facts.fps else size.fps  # as `read_clip` does
    return facts.duration - 1 / facts.fps - (size.num_frames - 1) / pace


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
        ValueError: the manifest is unreadable or too small to keep `data.validation` clips out.
    """
    fixed = data.model_copy(update={"start": "first", "crop": "center"})  # so that validation losses can be compared
    if data.source == "shapes":
        train = ShapesSource(seed, data.validation, data.clips or 8192)
        kept = ShapesSource(seed, 0, data.validation)
        return Split(Clips(train, data, seed), Clips(kept, fixed, seed), (), Files())
    manifest = read_manifest(data.source)
    items = manifest.items[: data.clips]
    count = len(items)
    if data.validation >= count:
        raise ValueError(
            f"{data.source}: {count} clips leave none to train on beside data.validation={data.validation}"
        )
    held = {round((i + 0.5) * count / data.validation - 0.5) for i in range(data.validation)}
    files = Files(memory)
    train_items = tuple(item for i, item in enumerate(items) if i not in held)
    validation = tuple(item for i, item in enumerate(items) if i in held)
    return Split(
        Clips(FileSource(train_items, data, files), data, seed),
        Clips(FileSource(validation, data, files), fixed, seed),
        manifest.skips,
        files,
    )
