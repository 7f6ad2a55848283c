"""Latents to frames: of a clip, for its file, and of one that is being made, to be looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from videodit.codec import VideoCodec
from videodit.data.transforms import to_frames
from videodit.video import contact_sheet

PREVIEW = ".preview.png"
COLUMNS, SIDE = 8, 128  # frames a row, and pixels of a frame's longer side, of a preview


@torch.no_grad()
def decoded(codec: VideoCodec, latents: Tensor) -> Iterator[np.ndarray]:
    """Frames `uint8 h w c` of one clip's latents c f h w, as the VAE gives them."""
    for piece in codec.decode_chunks(latents[None]):
        yield from to_frames(piece)[0]


Watch = Callable[[int, int], None]


class Preview:
    """A pipeline's `callback_on_step_end` that writes, every so many steps, what the clips would be by now.

    Beside each clip's file stands a sheet, `.preview.png`: a row for each look, the newest last, of a few frames from
    the first to the last. Where a clip is made window after window it is of the newest window.

    Args:
        every: None: no sheets.
        watch: told after each step how many are made, of how many; what it raises ends the call.
    """

    def __init__(self, every: int | None, paths: Sequence[Path], watch: Watch | None = None):
        self.every, self.paths, self.watch = every, [path.with_suffix(PREVIEW) for path in paths], watch
        self.tensor_inputs = () if every is None else ("pred_original_sample",)
        self.rows: list[list[np.ndarray]] = []

    def __call__(self, pipe: Any, step: int, timestep: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        if step == 0:
            self.rows = [[] for _ in self.paths]
        if self.every is not None and (step + 1) % self.every == 0:
            for path, rows, latents in zip(self.paths, self.rows, tensors["pred_original_sample"], strict=True):
                rows.append(_thumbnails(pipe.codec, latents))
                contact_sheet(rows, path, columns=COLUMNS)
        if self.watch is not None:
            self.watch(step + 1, pipe.num_timesteps)
        return {}


def _thumbnails(codec: VideoCodec, latents: Tensor) -> np.ndarray:
    """A few small frames f h w c of a clip's latents."""
    count = codec.strides.pixel_frames(latents.shape[1])
    shown = set(np.linspace(0, count - 1, min(COLUMNS, count)).round().astype(int).tolist())
    pictures = [PIL.Image.fromarray(f) for i, f in enumerate(decoded(codec, latents)) if i in shown]
    for picture in pictures:
        picture.thumbnail((SIDE, SIDE))
    return np.stack([np.asarray(picture) for picture in pictures])
