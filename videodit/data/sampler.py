"""The order in which a run sees its data: an endless sequence of batches whose whole state is a number.

An epoch shows every sample `repeat` times. Its batches are planned from the key (seed, stream, epoch) alone: in each
bucket a permutation of its samples, of which the share `image_share` is shown as images (their first frame), together
with still images of the same picture size; each bucket cut into batches as equal as can be; all batches shuffled. Batch
number n is thus the same on any number of processes, with any number of workers, and after any restart. The idea of a
sampler without state but a counter is NVlabs/edm2's `InfiniteSampler`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from videodit.geometry import ClipSize
from videodit.shapes import rng_for

ORDER, BATCHES = 21, 22  # streams of the counter-based randomness, see `rng_for`


class Plan(NamedTuple):
    """A global batch: samples by number, and the size they are shown at (one frame: as images)."""

    size: ClipSize
    samples: np.ndarray


class Sampler:
    """`sampler[n]` is global batch n, from 0 on, without end.

    Args:
        sizes: of each sample, by its number: its bucket's; one frame where it is a still image.
        batch_sizes: samples a batch at each size, the picture sizes of clips too.
        image_share: share of the samples of each clip bucket that an epoch shows as images, rounded.
        repeat: how often an epoch shows each sample.

    Attributes:
        counts: how many samples an epoch shows at each size.
        batches: in how many batches.
        steps_per_epoch: batches of all sizes.

    Raises:
        ValueError: there are no samples.
    """

    def __init__(
        self,
        sizes: Sequence[ClipSize],
        batch_sizes: Mapping[ClipSize, int],
        *,
        image_share: float = 0.0,
        repeat: int = 1,
        seed: int = 0,
    ):
        if not len(sizes):
            raise ValueError("no samples to train on")
        self.image_share, self.repeat, self.seed, self.batch_sizes = image_share, repeat, seed, dict(batch_sizes)
        self._members: dict[ClipSize, list[int]] = {}
        for number, size in enumerate(sizes):
            self._members.setdefault(size, []).append(number)
        self.counts = self._count()
        self.batches = {size: -(-count // self.batch_sizes[size]) for size, count in self.counts.items()}
        self.steps_per_epoch = sum(self.batches.values())
        self._epoch: tuple[int, list[Plan]] = (-1, [])

    def _count(self) -> dict[ClipSize, int]:
        """How many samples an epoch shows at each size."""
        counts: dict[ClipSize, int] = {}
        for size, members in self._members.items():
            total = len(members) * self.repeat
            images = total if size.num_frames == 1 else round(self.image_share * total)
            for at, count in ((size.image(), images), (size, total - images)):
                if count:
                    counts[at] = counts.get(at, 0) + count
        return counts

    def __getitem__(self, number: int) -> Plan:
        epoch, place = divmod(number, self.steps_per_epoch)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, self._plan(epoch))
        return self._epoch[1][place]

    def _plan(self, epoch: int) -> list[Plan]:
        shown: dict[ClipSize, list[np.ndarray]] = {}
        for bucket, (size, members) in enumerate(self._members.items()):
            rng = rng_for(self.seed, ORDER, epoch, bucket)
            order = np.concatenate([rng.permutation(members) for _ in range(self.repeat)])
            images = len(order) if size.num_frames == 1 else round(self.image_share * len(order))
            shown.setdefault(size.image(), []).append(order[:images])
            if size.num_frames > 1:
                shown.setdefault(size, []).append(order[images:])
        plans = []
        for group, (size, parts) in enumerate(shown.items()):
            together = rng_for(self.seed, BATCHES, epoch, 1 + group).permutation(np.concatenate(parts))
            if len(together):
                plans += [Plan(size, part) for part in np.array_split(together, self.batches[size])]
        order = rng_for(self.seed, BATCHES, epoch, 0).permutation(len(plans))
        return [plans[i] for i in order]
