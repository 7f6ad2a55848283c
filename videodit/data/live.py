"""Clips read anew in each step: other stretches and crops of them in each epoch, and nothing stored.

What is shown follows from (sample, epoch) alone, so workers, processes and restarts do not change it. A sample that
cannot be read is replaced by the next of its bucket that can. Whether it can is found out anew each time, and depends
on nothing that happened before: a run that goes on replaces the same samples by the same others.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from torch import Tensor

from videodit.data.buckets import Buckets
from videodit.data.cache import Sample
from videodit.data.clips import Clips
from videodit.data.source import Span
from videodit.data.transforms import to_pixels
from videodit.geometry import ClipSize
from videodit.video.index import VideoError


class LiveClips:
    """Samples of clips in their buckets: as many of each clip as it has spans there, each another in every epoch."""

    def __init__(self, clips: Clips, buckets: Buckets):
        self.clips = clips
        self.samples: list[Sample] = []
        self._spans: list[Span] = []
        self._copies: list[tuple[int, int]] = []  # which of how many samples of its clip
        self._members: dict[ClipSize, list[int]] = {}
        self._places: list[int] = []  # among its members
        for size, spans in buckets.spans.items():
            count, seen = Counter(span.index for span in spans), Counter[int]()
            for span in spans:
                self._add(size, span, (seen[span.index], count[span.index]))
                seen[span.index] += 1

    def _add(self, size: ClipSize, span: Span, copy: tuple[int, int]) -> None:
        source = self.clips.source
        name, words = source.name(span.index), (source.captions(span, False), source.captions(span, True))
        members = self._members.setdefault(size, [])
        self._places.append(len(members))
        members.append(len(self.samples))
        self._spans.append(span)
        self._copies.append(copy)
        self.samples.append(Sample(name, size, *words, name, name))

    def __len__(self) -> int:
        return len(self.samples)

    def read(self, number: int, image: bool, epoch: int) -> tuple[int, Tensor, dict[str, str]]:
        """The sample that is shown, its pixels, c f h w in [-1, 1], and which clips could not be read, and why.

        It is `number`, or the next of its bucket that can be read. VideoError: none can.
        """
        members, first = self._members[self.samples[number].size], self._places[number]
        bad: dict[str, str] = {}
        for k in range(len(members)):
            other = members[(first + k) % len(members)]
            try:
                return other, self._pixels(other, image, epoch), bad
            except VideoError as error:
                bad[self.samples[other].name] = str(error)
        raise VideoError(f"none of {len(members)} samples of {self.samples[number].size} can be read: {bad}")

    def _pixels(self, number: int, image: bool, epoch: int) -> Tensor:
        (copy, copies), index = self._copies[number], self._spans[number].index
        span = self.clips.span(index, epoch * copies + copy, self.samples[number].size)
        span = replace(span, background=self._spans[number].background)  # the one that its captions tell
        if image:
            span = replace(span, size=span.size.image())
        frames = next(iter(self.clips.source.stream([span])))
        if isinstance(frames, VideoError):
            raise frames
        return to_pixels(frames)
