"""Where clips come from: the shapes world or files, behind one small interface.

A source is a numbered list of clips. What differs from epoch to epoch (where in a long file a clip begins) is drawn
from the key (seed, epoch, index): neither workers nor restarts change it. `Clips` is what training reads: it keeps
decoded clips in memory and replaces unreadable ones by the next, counting and naming them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from videodit.config import Data
from videodit.data.manifest import Item, Skip, read_manifest
from videodit.data.transforms import center_fit
from videodit.geometry import ClipSize
from videodit.shapes import ShapesWorld, rng_for
from videodit.video.reader import VideoError, VideoInfo, probe, read_clip


class Source(Protocol):
    """Numbered clips with captions; `varies` tells whether `frames` differs from epoch to epoch."""

    def __len__(self) -> int: ...
    def name(self, index: int) -> str: ...
    def captions(self, index: int, image: bool) -> tuple[str, ...]: ...
    def varies(self, index: int) -> bool: ...
    def frames(self, index: int, epoch: int) -> np.ndarray: ...


@dataclass(frozen=True)
class ShapesSource:
    """`length` clips of the procedural world, from number `first` on."""

    world: ShapesWorld
    first: int
    length: int

    @property
    def images(self) -> ShapesWorld:
        """The same scenes as images."""
        return ShapesWorld(self.world.size.image(), seed=self.world.seed)

    def __len__(self) -> int:
        return self.length

    def name(self, index: int) -> str:
        size = self.world.size
        return f"shapes {self.world.seed} {self.first + index} {size.num_frames}x{size.height}x{size.width}@{size.fps}"

    def captions(self, index: int, image: bool) -> tuple[str, ...]:
        return (self.images if image else self.world).captions(self.first + index)

    def varies(self, index: int) -> bool:
        return False

    def frames(self, index: int, epoch: int) -> np.ndarray:
        return self.world[self.first + index].frames


class FileSource:
    """Clips and images from files. A file longer than asked begins at a drawn place, or at its first frame."""

    def __init__(self, items: tuple[Item, ...], data: Data, seed: int):
        self.items, self.data, self.seed = items, data, seed
        self._infos: dict[int, VideoInfo] = {}

    def __len__(self) -> int:
        return len(self.items)

    def name(self, index: int) -> str:
        return str(self.items[index].path)

    def captions(self, index: int, image: bool) -> tuple[str, ...]:
        return self.items[index].captions

    def varies(self, index: int) -> bool:
        return self.data.start == "random" and self._spare(index) > 0

    def frames(self, index: int, epoch: int) -> np.ndarray:
        data, info = self.data, self._info(index)
        start = 0.0
        if self.varies(index):
            start = float(rng_for(self.seed, 3, epoch, index).random()) * self._spare(index)
        num_frames = 1 if info.is_image else data.num_frames
        frames = read_clip(info.path, num_frames, data.fps, start=start, backend=data.reader)
        return center_fit(frames, data.height, data.width)

    def _info(self, index: int) -> VideoInfo:
        if index not in self._infos:
            self._infos[index] = probe(self.items[index].path)
        return self._infos[index]

    def _spare(self, index: int) -> float:
        """Seconds by which the file is longer than a clip."""
        info = self._info(index)
        frame = 1 / info.fps if info.fps else 0.0
        return 0.0 if info.is_image else max(0.0, info.duration - frame - (self.data.num_frames - 1) / self.data.fps)


class Clips:
    """What training reads: a source whose unreadable clips are counted and named, in memory where there is room.

    Args:
        source: the clips.
        memory_gb: decoded clips that do not vary are kept, up to this many GiB.
        max_bad_share: more unreadable clips than this share of the source raise VideoError.
    """

    def __init__(self, source: Source, *, memory_gb: float, max_bad_share: float):
        self.source, self.max_bad_share = source, max_bad_share
        self.skips: dict[int, Skip] = {}
        self._room = int(memory_gb * 2**30)
        self._kept: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.source)

    def name(self, index: int) -> str:
        return self.source.name(index)

    def captions(self, index: int, image: bool) -> tuple[str, ...]:
        return self.source.captions(index, image)

    def varies(self, index: int) -> bool:
        """Whether the clip differs from epoch to epoch; an unreadable one does not."""
        try:
            return self.source.varies(index)
        except VideoError:
            return False

    def try_read(self, index: int, epoch: int) -> np.ndarray | None:
        """Frames uint8 f h w c, or None where the clip cannot be read: it is then counted and named in `skips`."""
        if index in self.skips:
            return None
        try:
            return self._frames(index, epoch)
        except VideoError as error:
            self.skips[index] = Skip(self.source.name(index), str(error))
            if len(self.skips) > self.max_bad_share * len(self):
                reasons = "; ".join(skip.why for skip in list(self.skips.values())[:3])
                raise VideoError(
                    f"{len(self.skips)} of {len(self)} clips cannot be read, more than data.max_bad_share="
                    f"{self.max_bad_share} allows: {reasons}"
                ) from error
            return None

    def read(self, index: int, epoch: int) -> np.ndarray:
        """Frames uint8 f h w c of clip `index`, or of the next readable one."""
        while (frames := self.try_read(index, epoch)) is None:
            index = (index + 1) % len(self)
        return frames

    def _frames(self, index: int, epoch: int) -> np.ndarray:
        if index in self._kept:
            return self._kept[index]
        frames = self.source.frames(index, epoch)
        if frames.nbytes <= self._room and not self.source.varies(index):
            self._room -= frames.nbytes
            self._kept[index] = frames
        return frames


@dataclass(frozen=True)
class Split:
    """Clips to train on, clips kept out of training to measure on, and what the manifest skipped."""

    train: Clips
    validation: Clips
    skips: tuple[Skip, ...]


def open_data(data: Data, seed: int) -> Split:
    """The clips that a configuration names. Validation takes every n-th item of a manifest, spread evenly.

    Raises:
        ValueError: the manifest is unreadable or too small to keep `data.validation` clips out.
    """

    def clips(source: Source) -> Clips:
        return Clips(source, memory_gb=data.memory_gb, max_bad_share=data.max_bad_share)

    if data.source == "shapes":
        world = ShapesWorld(ClipSize(data.num_frames, data.height, data.width, data.fps), seed=seed)
        train = ShapesSource(world, data.validation, data.clips or 8192)
        return Split(clips(train), clips(ShapesSource(world, 0, data.validation)), ())
    manifest = read_manifest(data.source)
    items = manifest.items[: data.clips]
    count = len(items)
    if data.validation >= count:
        raise ValueError(
            f"{data.source}: {count} clips leave none to train on beside data.validation={data.validation}"
        )
    held = {round((i + 0.5) * count / data.validation - 0.5) for i in range(data.validation)}
    train_items = tuple(item for i, item in enumerate(items) if i not in held)
    validation = tuple(item for i, item in enumerate(items) if i in held)
    fixed = data.model_copy(update={"start": "first"})  # so that validation losses can be compared
    return Split(clips(FileSource(train_items, data, seed)), clips(FileSource(validation, fixed, seed)), manifest.skips)
