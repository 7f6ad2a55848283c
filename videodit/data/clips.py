"""What training reads: spans of a source's clips, those to train on and those kept out to measure on.

Spans are drawn from the key (seed, draw, index), so that neither workers nor restarts change them. Decoded clips are
kept in memory, and what cannot be read is counted and named.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from videodit.config import Data
from videodit.data.columns import check_columns
from videodit.data.files import PECULIAR, Facts, Files
from videodit.data.manifest import Item, Note, Skip, read_manifest, tell
from videodit.data.source import FileSource, Joined, ShapesSource, Source, Span, allowed_backgrounds
from videodit.geometry import ClipSize
from videodit.models import Condition
from videodit.shapes import rng_for, shares, triples
from videodit.video.decoders import library
from videodit.video.guarded import Guarded
from videodit.video.index import VideoError

SPAN = 3  # stream of the counter-based randomness, see `rng_for`


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
        if facts.height * size.width == facts.width * size.height and self.data.zoom == 1:
            place = (0.5, 0.5)  # nothing is cut off
        background = None
        if facts.transparent:
            choice = self.source.backgrounds(index)
            background = choice[int(rng.integers(len(choice)))]
        return Span(index, size, start, place, background, self.data.zoom)

    def read_ahead(self, spans: Sequence[Span], column: str | None = None) -> Iterator[np.ndarray | None]:
        """Frames uint8 f h w c of each span, in their order, the next of which are read meanwhile; with a column those
        of the files that it names.

        None where a clip cannot be read, or could not in a span before: it is counted and named in `skips`, and its
        file put into quarantine.
        """
        for span, frames in zip(spans, self.source.stream(spans, column), strict=True):
            if isinstance(frames, VideoError) and span.index not in self.skips:
                if column is None:
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


def guarded_reader(data: Data) -> Guarded:
    """What opens the files of a run: `data.read_processes` at a time on this machine, with the limits of `data`."""
    here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # of torchrun and accelerate
    processes = data.read_processes or max(1, min(8, (os.cpu_count() or 1) // here))
    return Guarded(processes, seconds=data.read_seconds, memory_gb=data.read_memory_gb)


@dataclass(frozen=True)
class Split:
    """Clips to train on, clips kept out of training to measure on, what the manifest skipped, facts of files, notes."""

    train: Clips
    validation: Clips
    skips: tuple[Skip, ...]
    files: Files
    notes: tuple[Note, ...] = ()

    def tell(self) -> None:
        """Warns of what the manifest notes, and of files whose pixels are known to be no plain ones."""
        both = (self.train.source, self.validation.source)
        sources = [source.files if isinstance(source, Joined) else source for source in both]
        items = (item for source in sources if isinstance(source, FileSource) for item in source.items)
        paths = dict.fromkeys(item.path for item in items)
        peculiar = [
            Note(str(path), f"{PECULIAR[kind][0]} (videodit prepare leaves them out)")
            for path in paths
            for kind in self.files.peculiar(path)
        ]
        tell([*self.notes, *peculiar])


def open_data(data: Data, seed: int, memory: Path | None = None, conditions: Sequence[Condition] = ()) -> Split:
    """The clips that a configuration names. Validation takes every n-th item of a manifest, spread evenly.

    Args:
        memory: a file to remember facts of files in (`data.files`).
        conditions: what the model is told besides, each a column of every row.

    Raises:
        ValueError: the manifest is unreadable or too small to keep `data.validation` clips out, `data.reader` is not
            installed, or `data.more` has an unknown word or a weight that cannot be.
    """
    fixed = data.model_copy(update={"start": "first", "crop": "center"})  # so that validation losses can be compared
    try:
        shares(triples(), data.more)
    except ValueError as error:
        raise ValueError(f"data.more: {error}") from error
    said = [one.name for one in conditions if not one.from_clip or one.kind != "channels"]
    if said and (data.source == "shapes" or data.shapes):
        raise ValueError(
            f"model.conditions: {said[0]} is of a manifest's columns, or of a file's sound or past, and the world of "
            "shapes has none: take it out, or name clips of yours in data.source"
        )
    if data.source == "shapes":
        train = ShapesSource(seed, data.validation, data.clips or 8192, data.more)
        kept = ShapesSource(seed, 0, data.validation, data.more)
        return Split(Clips(train, data, seed), Clips(kept, fixed, seed), (), Files())
    try:
        library(data.reader)
    except ImportError as error:
        raise ValueError(f"data.reader: {error}") from error
    cache = memory.with_name("remote") if memory else None
    manifest = read_manifest(data.source, cache)
    items, skips, notes = manifest.items[: data.clips], manifest.skips, manifest.notes
    if data.validation_source:
        other = read_manifest(data.validation_source, cache)
        train_items, skips, notes = items, skips + other.skips, notes + other.notes
        validation = _spread(other.items, min(data.validation, len(other.items)))
    else:
        if data.validation >= len(items):
            raise ValueError(
                f"{data.source}: {len(items)} clips leave none to train on beside data.validation={data.validation}"
            )
        validation = _spread(items, data.validation)
        held = {(item.path, item.start, item.end) for item in validation}  # all rows of them
        train_items = tuple(item for item in items if (item.path, item.start, item.end) not in held)
        if not train_items:
            raise ValueError(
                f"{data.source}: all rows are of the clips that data.validation={len(validation)} keeps out"
            )
    check_columns(data.source, (*train_items, *validation), conditions)
    for item in (*train_items, *validation):
        allowed_backgrounds(item, data)  # an error now, before anything is read
    files = Files(memory, guarded_reader(data))
    measured = round(len(validation) * data.shapes / (data.shapes + len(train_items)))
    parts: list[Source] = []
    for some, first, count in ((train_items, measured, data.shapes), (validation, 0, measured)):
        source = FileSource(some, data, files)
        parts.append(Joined(source, ShapesSource(seed, first, count, data.more)) if count else source)
    return Split(
        Clips(parts[0], data, seed),
        Clips(parts[1], fixed, seed),
        skips,
        files,
        notes,
    )


def _spread(items: tuple[Item, ...], count: int) -> tuple[Item, ...]:
    """So many of them, at even distances."""
    return tuple(items[round((i + 0.5) * len(items) / count - 0.5)] for i in range(count))
