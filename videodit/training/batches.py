"""What a process trains on at each step: its share of the global batch, and everything about it that is drawn.

Which samples, which wording, what is dropped, noise, times and given frames all come from keys (seed, stream, step,
place in the global batch), never from a generator that runs on: so they are the same on any number of processes, with
any number of workers, in any number of pieces, and after any restart; and no two samples of a global batch share them.
"""

from __future__ import annotations

import signal
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from videodit.conditions import longest, own_names
from videodit.config import Run
from videodit.data.buckets import sizes_of
from videodit.data.cache import Latents
from videodit.data.live import LiveClips
from videodit.data.sampler import Sampler
from videodit.diffusion import paths
from videodit.diffusion.conditioning import choose_kind, draw_given
from videodit.diffusion.flow_map import towards
from videodit.diffusion.times import index_from_time, shift_for, shift_time, times_from_uniform
from videodit.geometry import ClipSize, Strides
from videodit.models.routing import kept_of
from videodit.shapes import rng_for

# streams of the counter-based randomness, see `rng_for`
CAPTION, NOISE, DROPOUT, VALIDATION, CONDITION, ROUTE, MAP, TOLD = 23, 24, 25, 26, 27, 28, 29, 30


@dataclass(frozen=True)
class Batch:
    """Samples of one size, and what was drawn for them.

    `shown` are latents, b c f h w, or, where `is_encoded` is False, pixels in [-1, 1], b 3 f h w; `noise` is like the
    latents, `times` b or b f in the path's own units, `given` b f (True: the frame is clean) or None, `routed` b k (the
    places of a frame that no block is kept from) or None, `until` like `times` and `guidance` b (to which time, and at
    which scale, a flow map learns) or None, `captions` one wording each ("" where dropped), `counts` b: 0
    for one that only fills a place, else 1. `total` is how many count in the global batch, over all processes and
    pieces. `own` is what the model is told besides, as `conditions.Told` names it. `bad` are clips that could not be
    read, and were replaced, by name: why.
    """

    size: ClipSize
    shown: Tensor
    noise: Tensor
    times: Tensor
    given: Tensor | None
    routed: Tensor | None
    captions: list[str]
    names: list[str]
    counts: Tensor
    total: int
    until: Tensor | None = None
    guidance: Tensor | None = None
    own: Mapping[str, Tensor] = field(default_factory=dict)
    is_encoded: bool = True
    bad: dict[str, str] = field(default_factory=dict)

    def to(self, device: torch.device) -> Batch:
        moved = {
            name: value.to(device, non_blocking=True)
            for name in ("shown", "noise", "times", "given", "routed", "until", "guidance", "counts")
            if (value := getattr(self, name)) is not None
        }
        return replace(self, **moved, own={name: x.to(device, non_blocking=True) for name, x in self.own.items()})


def batch_sizes(config: Run, strides: Strides, patch: tuple[int, int, int]) -> dict[ClipSize, int]:
    """Samples in a global batch of each bucket's size, and of its pictures.

    Raises:
        ValueError: a size does not go with the VAE's strides and the patch.
    """
    train, sizes = config.train, sizes_of(config.data)
    wanted = [bucket.batch_size for bucket in config.data.buckets] or [None]

    def fitting(size: ClipSize) -> int | None:
        return max(1, train.batch_tokens // size.tokens(strides, patch)) if train.batch_tokens else None

    own = dict(zip(sizes, wanted, strict=True))
    found = {size: own[size] or fitting(size) or train.batch_size for size in sizes}
    for size in sizes:  # pictures without a bucket of their own: as many as of their clips, or as tokens say
        found.setdefault(size.image(), fitting(size.image()) or own[size] or train.batch_size)
    return found


class Batches(Dataset):
    """`batches[step]`: the pieces, one for each accumulation step, of one process's share of a global batch.

    Args:
        process: which, of how many.
    """

    def __init__(
        self,
        config: Run,
        clips: Latents | LiveClips,
        sampler: Sampler,
        path: paths.Path,
        strides: Strides,
        patch: tuple[int, int, int],
        process: tuple[int, int] = (0, 1),
    ):
        self.config, self.clips, self.sampler, self.path = config, clips, sampler, path
        self.strides, self.patch, self.process = strides, patch, process

    def loader(self, steps: Sequence[int]) -> Iterable[list[Batch]]:
        """The batches of these steps, read ahead by `train.workers` processes."""
        workers = self.config.train.workers
        return DataLoader(
            self,
            batch_size=None,
            sampler=steps,
            num_workers=workers,
            collate_fn=_as_it_is,
            generator=torch.Generator(),  # its own: the loader's seed must not move the process's randomness
            prefetch_factor=4 if workers else None,
            worker_init_fn=_leave_signals_to_the_parent,
        )

    def __getitem__(self, step: int) -> list[Batch]:
        step += self.config.train.steps_before
        plan, (index, count) = self.sampler[step], self.process
        total = len(plan.samples)
        pieces = min(self.config.train.gradient_accumulation_steps, -(-total // count))  # the same on all processes
        share = np.arange(index * total // count, (index + 1) * total // count)
        return [self._piece(step, plan.size, plan.samples, places) for places in np.array_split(share, pieces)]

    def _piece(self, step: int, size: ClipSize, samples: np.ndarray, places: np.ndarray) -> Batch:
        filled = places if len(places) else np.zeros(1, dtype=np.int64)  # processes go through the model together
        image = size.num_frames == 1
        epoch = step // self.sampler.steps_per_epoch
        read = [self.clips.read(int(samples[place]), image, epoch) for place in filled]
        keys = [(step, int(place)) for place in filled]
        shape = torch.Size((len(filled), *size.latent(self.strides, self.patch)))
        noise, times = self.draw(shape, keys)
        times, until, guidance = self._map(times, shape, keys)
        chosen = [self.clips.samples[number] for number, *_ in read]
        return Batch(
            size,
            torch.stack([shown for _, shown, _ in read]),
            noise,
            times,
            self._given(shape, keys),
            self._routed(shape, keys),
            [self._caption(s.image_captions if image else s.captions, k) for s, k in zip(chosen, keys, strict=True)],
            [sample.name for sample in chosen],
            torch.full((len(filled),), float(len(places) > 0)),
            len(samples),
            until,
            guidance,
            self._own([number for number, *_ in read], image, keys),
            is_encoded=isinstance(self.clips, Latents),
            bad={name: why for *_, bad in read for name, why in bad.items()},
        )

    def _caption(self, wordings: tuple[str, ...], key: tuple[int, int]) -> str:
        seed = self.config.seed
        if rng_for(seed, DROPOUT, *key).random() < self.config.train.caption_dropout:
            return ""
        return wordings[int(rng_for(seed, CAPTION, *key).integers(len(wordings)))]

    def _own(self, numbers: list[int], image: bool, keys: list[tuple[int, int]]) -> dict[str, Tensor]:
        """What the model is told besides, of which each sample is told with a chance of its own, by name."""
        conditions = self.config.model.conditions
        if not conditions or not isinstance(self.clips, Latents):
            return {}
        shares = {
            name: [rng_for(self.config.seed, TOLD, zlib.crc32(name.encode()), *key).random() for key in keys]
            for name in conditions
        }
        told = {name: torch.tensor(shares[name]) >= one.dropout for name, one in conditions.items()}
        samples = [self.clips.told(number, image) for number in numbers]
        for name, one in conditions.items():
            for sample, key in zip(samples, keys, strict=True):
                if one.noise:
                    rng = rng_for(self.config.seed, TOLD, zlib.crc32(name.encode()), *key, 1)
                    drawn = rng.standard_normal(sample[name].shape, dtype=np.float32)
                    sample[name] = sample[name] + one.noise * float(rng.random()) * torch.from_numpy(drawn)
        return own_batch(samples, told)

    def draw(self, shape: torch.Size, keys: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
        """Noise of a shape b c f h w, and times b, or b f where some frames have a time of their own."""
        rngs = [rng_for(self.config.seed, NOISE, *key) for key in keys]
        frames, share = shape[2], self.config.objective.frame_times
        uniform = np.array([rng.random() for rng in rngs])
        noise = np.stack([rng.standard_normal(shape[1:], dtype=np.float32) for rng in rngs])
        if share and frames > 1:
            uniform = np.repeat(uniform[:, None], frames, axis=1)
            for row, rng in zip(uniform, rngs, strict=True):
                if rng.random() < share:
                    row[:] = rng.random(frames)
        return torch.from_numpy(noise), self.times(torch.from_numpy(uniform), shape)

    def times(self, uniform: Tensor, shape: torch.Size) -> Tensor:
        """Training times of latents of a shape b c f h w, as the path counts them, from uniform draws."""
        objective = self.config.objective
        shift = objective.shift
        if objective.shift_tokens:
            tokens = -(-shape[2] // self.patch[0]) * (shape[3] // self.patch[1]) * (shape[4] // self.patch[2])
            shift = shift_for(tokens, objective.shift_tokens, shift)
        t = times_from_uniform(uniform, objective.times, objective.logit_mean, objective.logit_std)
        t = shift_time(t, shift).float()
        return index_from_time(t, len(self.path.alphas_cumprod)) if _discrete(self.path) else t  # type: ignore[attr-defined]

    def _map(
        self, times: Tensor, shape: torch.Size, keys: list[tuple[int, int]]
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Of a flow map the later of two times drawn alike, the earlier one, and a scale of guidance, b each."""
        distill = self.config.train.distill
        if distill is None:
            return times, None, None
        low, high = distill.guidance_scale
        drawn = torch.from_numpy(np.stack([rng_for(self.config.seed, MAP, *key).random(3) for key in keys]))
        other = self.times(drawn[:, 0], shape)
        other = other if times.ndim == 1 else other[:, None].expand_as(times)  # frames have times of their own
        late, early = towards(times, other, drawn[:, 1] < distill.same_time)
        return late, early, (low + (high - low) * drawn[:, 2]).float()

    def _given(self, shape: torch.Size, keys: list[tuple[int, int]]) -> Tensor | None:
        shares: Any = self.config.objective.given_frames
        frames = shape[2]
        if not shares or frames == 1:
            return None
        rows = []
        for key in keys:
            rng = rng_for(self.config.seed, CONDITION, *key)
            kind = choose_kind(shares, float(rng.random()))
            rows.append(draw_given(kind, frames, rng) if kind else np.zeros(frames, dtype=bool))
        return torch.from_numpy(np.stack(rows))

    def _routed(self, shape: torch.Size, keys: list[tuple[int, int]]) -> Tensor | None:
        places = shape[3] // self.patch[1] * (shape[4] // self.patch[2])
        kept = kept_of(places, self.config.train.routing)
        if kept == places:
            return None
        rows = [rng_for(self.config.seed, ROUTE, *key).permutation(places)[:kept] for key in keys]
        return torch.from_numpy(np.sort(rows))


def own_batch(samples: Sequence[Mapping[str, Tensor]], told: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """What samples are told besides, by the names of `conditions.Told`; told: b bool by name, None: all are."""
    found: dict[str, Tensor] = {}
    for name, first in samples[0].items():
        rows = torch.ones(len(samples), dtype=torch.bool) if told is None else told[name]
        values = [one[name] for one in samples]
        if first.ndim == 3:  # tokens, of which some have more
            both = longest([value[0] for value in values])
            found |= dict(zip(own_names(name), (both[0], both[1] & rows[:, None]), strict=True))
        else:
            found |= dict(zip(own_names(name), (torch.stack(values), rows), strict=True))
    return found


def _discrete(path: paths.Path) -> bool:
    return isinstance(path, paths.DiffusionPath)


def _leave_signals_to_the_parent(_: int) -> None:
    """What ends a run ends all its processes at once on some machines; its last step still needs these."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _as_it_is(item: list[Batch]) -> list[Batch]:
    return item
