"""Clips cut out of their file and written anew, in one pass over it, for quick reading in training."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from videodit.video.decoders import Converter
from videodit.video.reader import stream_frames
from videodit.video.writer import write_video

VERSION = 2  # of what is written: what another version wrote is written again
KEYFRAME_EVERY = 16  # frames: a training run jumps into clips
SLACK = 1e-6  # seconds


class Piece(NamedTuple):
    """A stretch of a file in seconds, and where it goes."""

    start: float
    end: float
    target: str


def write_pieces(path: str, pieces: Sequence[Sequence], fps: float, size: int | None) -> None:
    """Writes each piece to its target: an .mp4 at `fps`, or for a still image (`fps` 0) a .png.

    Frame i is the one nearest to `i / fps` after the start: of a file with a constant rate every frame, once; one with
    a variable rate gets its average. Frames are scaled down to a shorter side of `size` (None: as they are), and lose
    an odd last row or column.

    Raises VideoError when the file cannot be read, or a target cannot be written.
    """
    waiting = sorted(Piece(*piece) for piece in pieces)
    while waiting:  # those that overlap with one before have to wait for the next pass
        reel, later, reached = _Reel(path, size), [], -math.inf
        for piece in waiting:
            if piece.start < reached - SLACK:
                later.append(piece)
                continue
            frames = reel.between(piece.start, piece.end, fps) if fps else reel.first()
            write_video(Path(piece.target), frames, fps or 1.0, keyframe_every=KEYFRAME_EVERY)
            reached = piece.end
        waiting = later


class _Reel:
    """A file's frames, forwards only: the one on screen, and the next."""

    def __init__(self, path: str, size: int | None):
        self._size, self._scale = size, Converter((size, size) if size else None)
        self._frames = stream_frames(path, short_side=size)
        _, self._shown = next(self._frames)
        self._next = next(self._frames, None)

    def first(self) -> Iterator[np.ndarray]:
        yield self._scaled(self._shown)

    def between(self, start: float, end: float, fps: float) -> Iterator[np.ndarray]:
        for number in range(max(1, round((end - start) * fps))):
            time = min(start + (number + 0.5) / fps, end) - SLACK
            while self._next is not None and self._next[0] <= time:
                self._shown, self._next = self._next[1], next(self._frames, None)
            frame = self._scaled(self._shown)
            yield frame[: len(frame) // 2 * 2, : frame.shape[1] // 2 * 2]

    def _scaled(self, frame: np.ndarray) -> np.ndarray:
        """Pictures that Pillow reads come as they are."""
        return self._scale(frame) if self._size and self._size < min(frame.shape[:2]) else frame
