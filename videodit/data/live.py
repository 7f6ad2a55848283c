"""Clips read anew in each step: other stretches and crops of them in each epoch, and nothing stored.

What is shown follows from (sample, epoch) alone, so workers, processes and restarts do not change it. A sample that
cannot be read is replaced by the next of its bucket that can. Whether it can is found out anew each time, and depends on
nothing that happened before: a run that goes on replaces the same samples by the same others.
"""

from __future__ import annotations

import logging

from torch import Tensor

from videodit.data.buckets import Buckets
from videodit.data.cache import Sample
from videodit.data.source import Clips, Span
from videodit.data.transforms import to_pixels
from videodit.geometry import ClipSize
from videodit.video.index import VideoError

log = logging.getLogger(__name__)


class LiveClips:
    """Samples of clips in their buckets: as many of each clip as it has spans there, each another in every epoch."""

    def __init__(self, clips: Clips, buckets: Buckets):
        self.clips = clips
        self.samples: list[Sample] = []
        self._spans: list[Span] = []
        self._copies: list[tuple[int, int]] = []  # which of how many samples of its clip
        self._members: dict[ClipSize, list[int]] = {}
        self._places: list[int] = []
        for size, spans in buckets.spans.items():
            for span in spans:
                self._add(size, span, [other for other in spans if other.index == span.index])

    def _add(self, size: ClipSize, span: Span, alike: list[Span]) -> None:
        source = self.clips.source
        name, words = source.name(span.index), (source.captions(span.index, False), source.captions(span.index, True))
        members = self._members.setdefault(size, [])
        self._places.append(len(members))
        members.append(len(self.samples))
        self._spans.append(span)
        self._copies.append((alike.index(span), len(alike)))
        self.samples.append(Sample(name, size, *words, name, name))

    def __len__(self) -> int:
        return len(self.samples)

    def read(self, number: int, image: bool, epoch: int) -> tuple[int, Tensor]:
        """The sample that is shown, `number` or what replaces it, and its pixels, c f h w in [-1, 1].

        Raises:
            VideoError: no sample of the bucket can be read, or too many clips cannot (`data.max_bad_share`).
        """
        members = self._members[self.samples[number].size]
        first = self._places[number]
        for other in (*members[first:], *members[:first]):
            if (pixels := self._pixels(other, image, epoch)) is not None:
                return other, pixels
        raise VideoError(f"none of {len(members)} samples of {self.samples[number].size} can be read")

    def _pixels(self, number: int, image: bool, epoch: int) -> Tensor | None:
        index = self._spans[number].index
        try:
            copy, copies = self._copies[number]
            span = self.clips.span(index, epoch * copies + copy, self.samples[number].size)
            if image:
                span = Span(index, span.size.image(), span.start, span.place)
            frames = next(iter(self.clips.source.stream([span])))
            if isinstance(frames, VideoError):
                raise frames
        except VideoError as error:
            if index not in self.clips.skips:
                log.warning("replaced %s by the next of its bucket: %s", self.samples[number].name, error)
                self.clips.skip(index, str(error))
            return None
        return to_pixels(frames)
