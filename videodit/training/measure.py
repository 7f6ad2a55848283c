"""Measuring a model while it trains: its loss on clips kept out, and clips of prompts. Neither moves its randomness."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from videodit.data.cache import Latents
from videodit.diffusion import paths
from videodit.diffusion.times import index_from_time
from videodit.geometry import ClipSize
from videodit.pipeline import VideoDiTPipeline
from videodit.shapes import rng_for
from videodit.training import parallel
from videodit.training.batches import VALIDATION, Batch, own_batch
from videodit.video.writer import contact_sheet, write_video

BINS = 4  # of time, for which the loss is told apart


def held_out_batches(
    latents: Latents, sizes: dict[ClipSize, int], path: paths.Path, seed: int, processes: tuple[int, int]
) -> Iterator[Batch]:
    """The clips kept out, each at its own size, with fixed noise, and at each size times spread evenly over [0, 1].

    So the loss on them can be compared between runs, whatever times these are trained at. All processes get as many
    batches of each size, some of which do not count.
    """
    groups: dict[ClipSize, list[int]] = {}
    for number, sample in enumerate(latents.samples):
        groups.setdefault(sample.size, []).append(number)
    index, count = processes
    for size, members in groups.items():
        times = {number: (place + 0.5) / len(members) for place, number in enumerate(members)}
        parts = [members[i : i + sizes[size]] for i in range(0, len(members), sizes[size])]
        for turn in range(0, len(parts), count):
            counts = turn + index < len(parts)
            part = parts[turn + index] if counts else parts[0]
            yield _held_out(latents, part, [times[number] for number in part], path, seed, counts)


def _held_out(
    latents: Latents, part: list[int], times: list[float], path: paths.Path, seed: int, counts: bool
) -> Batch:
    stacked = torch.stack([latents[i, False] for i in part])
    rngs = [rng_for(seed, VALIDATION, i) for i in part]
    noise = np.stack([rng.standard_normal(stacked.shape[1:], dtype=np.float32) for rng in rngs])
    t = torch.tensor(times, dtype=torch.float32)
    samples = [latents.samples[i] for i in part]
    return Batch(
        samples[0].size,
        stacked,
        torch.from_numpy(noise),
        index_from_time(t, len(path.alphas_cumprod)) if isinstance(path, paths.DiffusionPath) else t,
        None,
        None,
        [(s.image_captions if s.is_image else s.captions)[0] for s in samples],
        [s.name for s in samples],
        torch.full((len(part),), float(counts)),
        len(latents),
        own=own_batch([latents.told(i, False) for i in part]),
    )


@torch.no_grad()
def losses(errors: Callable[[Batch], Tensor], batches: Iterator[Batch], path: paths.Path) -> dict[str, float]:
    """Mean error over all processes' batches: `all`, and `t0` to `t3` for the quarters of time, where there are any.

    Args:
        errors: of a batch, b.
    """
    sums = torch.zeros(2, 1 + BINS, dtype=torch.float64)
    for batch in batches:
        each = torch.where(batch.counts > 0, errors(batch).double().cpu(), 0.0)
        steps = len(path.alphas_cumprod) if isinstance(path, paths.DiffusionPath) else 1
        bins = (batch.times.double() / steps * BINS).long().clamp(max=BINS - 1)
        for row, values in enumerate((each, batch.counts.double())):
            sums[row, 0] += values.sum()
            sums[row, 1:].index_add_(0, bins, values)
    total, counts = parallel.sum_over_processes(sums)
    names = ["all", *(f"t{i}" for i in range(BINS))]
    return {name: float(s / n) for name, s, n in zip(names, total, counts, strict=True) if n}


def sample_clips(
    pipe: VideoDiTPipeline,
    prompts: list[str],
    told: list[dict[str, Any]] | None = None,
    own: Mapping[str, Any] | None = None,
) -> list[np.ndarray]:
    """A clip of each prompt, uint8 f h w 3, always from the same noise.

    Args:
        told: of each prompt its states, as `encode_prompt` gives them; then clips are made one by one, in less memory.
        own: what the model is told besides, a row a prompt.
    """
    pipe.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(i) for i in range(len(prompts))]
    if told is None:
        frames: Any = pipe(prompts, generator=generators, conditions=own).frames  # type: ignore[union-attr]
    else:
        rows = ({name: value[i : i + 1] for name, value in (own or {}).items()} for i in range(len(told)))
        made: Any = (
            pipe(**one, generator=rng, conditions=row) for one, rng, row in zip(told, generators, rows, strict=True)
        )
        frames = np.concatenate([one.frames for one in made])
    return list(np.rint(frames * 255).astype(np.uint8))


def write_samples(clips: list[np.ndarray], prompts: list[str], folder: Path, fps: float) -> None:
    """Clips into a folder, and their contact sheet `<folder>.png`."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, clip in enumerate(clips):
        write_video(folder / f"{i:02d}.mp4", clip, fps, metadata={"prompt": prompts[i]})
    contact_sheet(clips, folder.with_suffix(".png"), labels=prompts)
