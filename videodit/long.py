"""Clips of any length: a window after another, each going on from the last frames of the one before.

What is in memory is one window, however long the clip: frames are given out as they are made. The frames that two
windows share are those of the earlier one; the model sees them as given (`given`), so it must have been trained to go
on from frames (`objective.given_frames: {start: ...}`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from videodit.pipeline import VideoDiTPipeline


def long_clip(
    pipe: VideoDiTPipeline,
    prompt: str,
    num_frames: int,
    *,
    overlap: int,
    window: int | None = None,
    seed: int = 0,
    **options: Any,
) -> Iterator[np.ndarray]:
    """Frames `uint8 h w 3` of a long clip, as they are made.

    Args:
        num_frames: of the whole; any number.
        overlap: frames of a window that the next one goes on from: as many as the VAE takes by themselves (4k + 1).
        window: frames made at once; None: the model's own number.
        seed: of the first window, which is the clip that this seed makes alone; later windows draw from it and theirs.
        options: of the pipeline: sizes, steps, guidance, an `image` or `video` to begin with ...

    Raises:
        ValueError: an overlap that leaves nothing to make, a clip that one window makes, or what the pipeline refuses.
    """
    window = pipe.default_size.num_frames if window is None else window
    if not 0 < overlap < window:
        raise ValueError(f"overlap={overlap} must be 1 or more, and less than the window of {window} frames")
    if num_frames <= window:
        raise ValueError(f"num_frames={num_frames} fit into one window of {window}: make it as any clip")
    return _windows(pipe, prompt, num_frames, overlap, window, seed, options)


def _windows(
    pipe: VideoDiTPipeline,
    prompt: str,
    num_frames: int,
    overlap: int,
    window: int,
    seed: int,
    options: dict[str, Any],
) -> Iterator[np.ndarray]:
    made, number = 0, 0
    last: Any = None  # of the frames given out, those to go on from
    while made < num_frames:
        generator = torch.Generator().manual_seed(_seed(seed, number))
        found: Any = pipe(prompt, num_frames=window, generator=[generator], output_type="np", **options)
        frames = np.rint(found.frames[0] * 255).astype(np.uint8)
        new = frames[overlap:] if number else frames
        yield from new[: num_frames - made]
        last = np.concatenate([last, new])[-overlap:] if number else new[-overlap:]
        made, number = made + len(new), number + 1
        options = options | {"image": None, "video": last}


def _seed(seed: int, number: int) -> int:
    """The first window's is the seed itself."""
    return seed if number == 0 else int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0] >> 1)
