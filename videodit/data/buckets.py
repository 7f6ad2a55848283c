"""Buckets: the sizes that a run trains on, which clips fill which, and what is left out and why.

A batch holds samples of one size. A clip goes to one bucket alone, so that an epoch shows it as often as any other: of
those that it fills (long enough, as many frames a second, and not smaller, unless it may be enlarged) the one nearest
in aspect ratio; among equals the one of most pixels, then the longest, then the fastest. A still image goes to the
picture size of some bucket in the same way. What fills none is left out, counted, and named (`Buckets.dropped`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from videodit.config import Data
from videodit.data.clips import Clips, spare_seconds
from videodit.data.files import Facts
from videodit.data.manifest import Skip
from videodit.data.source import Span
from videodit.geometry import ClipSize
from videodit.video import VideoError


def sizes_of(data: Data) -> tuple[ClipSize, ...]:
    """The sizes of `data.buckets`, or the one of `data` itself."""
    sizes = [
        ClipSize(b.num_frames or data.num_frames, b.height or data.height, b.width or data.width, b.fps or data.fps)
        for b in data.buckets
    ]
    return tuple(sizes) or (ClipSize(data.num_frames, data.height, data.width, data.fps),)


@dataclass(frozen=True)
class Buckets:
    """Spans to train on by their size (one frame: still images), and the clips that fill no bucket."""

    spans: dict[ClipSize, list[Span]]
    dropped: list[Skip]

    def __len__(self) -> int:
        return sum(map(len, self.spans.values()))


def fill(clips: Clips, sizes: Sequence[ClipSize], spans: int) -> Buckets:
    """Puts every clip into its bucket: `spans` draws of it, fewer where draws would show the same.

    Clips of a source that renders any size are dealt out to the sizes in turn. Unreadable ones are counted in
    `clips.skips`.

    Raises:
        VideoError: too many are unreadable (`data.max_bad_share`).
    """
    buckets = Buckets({size: [] for size in sizes}, [])
    for index in range(len(clips)):
        try:
            facts = clips.source.facts(index)
        except VideoError as error:
            clips.skip(index, str(error))
            continue
        size = sizes[index % len(sizes)] if facts is None else choose(facts, sizes, clips.data)
        if isinstance(size, str):
            buckets.dropped.append(Skip(clips.source.name(index), size))
            continue
        drawn = dict.fromkeys(clips.span(index, draw, size) for draw in range(spans))
        buckets.spans.setdefault(size, []).extend(drawn)
    return buckets


def choose(facts: Facts, sizes: Sequence[ClipSize], data: Data) -> ClipSize | str:
    """The bucket that a file goes to (an image: its picture size, with one frame), or why it fills none.

    The one whose shape is most like the file's; of these one that it fills without being enlarged or shown slower,
    where there is one; then the largest.
    """
    candidates = list(dict.fromkeys(size.image() for size in sizes)) if facts.is_image else list(sizes)
    reasons = [_lacks(facts, size, data) for size in candidates]
    fitting = [size for size, lacks in zip(candidates, reasons, strict=True) if not lacks]
    if not fitting:
        return "; ".join(dict.fromkeys(reasons))

    def distance(size: ClipSize) -> float:
        return round(abs(math.log(facts.width * size.height / (facts.height * size.width))), 6)

    def stretched(size: ClipSize) -> bool:
        return _is_smaller(facts, size, data) or (size.num_frames > 1 and facts.fps * 1.01 < size.fps)

    return min(fitting, key=lambda s: (distance(s), stretched(s), -s.height * s.width, -s.duration, -s.fps))


def _is_smaller(facts: Facts, size: ClipSize, data: Data) -> bool:
    return facts.height < round(data.zoom * size.height) or facts.width < round(data.zoom * size.width)


def _lacks(facts: Facts, size: ClipSize, data: Data) -> str:
    """What a file has too little of for a size; nothing: it fills it."""
    if not data.upscale and _is_smaller(facts, size, data):
        wanted = f"{round(data.zoom * size.height)}x{round(data.zoom * size.width)}"
        return f"{facts.height}x{facts.width} pixels are less than {wanted}"
    if size.num_frames == 1:
        return ""
    if facts.fps * 1.01 < size.fps and data.slower == "leave_out":
        return f"{facts.fps:.3g} frames a second are less than {size.fps:g}"
    if spare_seconds(facts, size) < -0.5 / facts.fps:
        return f"{facts.duration:.3f} s are too short for {size.num_frames} frames at {size.fps:g} a second"
    return ""
