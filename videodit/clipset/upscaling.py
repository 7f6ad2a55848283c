"""A second model that makes clips larger before they are written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from videodit.clipset.making import weights_digest
from videodit.long import long_clip
from videodit.packaged import named_folder
from videodit.pipeline import VideoDiTPipeline
from videodit.pipeline.upsampling import enlarging, upsampled

OWN = "upsampler"  # the folder of a model's own second stage, in its own


def second_stage(model: str, named: str) -> str:
    """Where the second stage lies: as `named`, or, where that is "own", in the model's own folder.

    ValueError: it has none.
    """
    if named != "own":
        return named_folder(named)
    folder = Path(named_folder(model), OWN)
    if not folder.is_dir():
        raise ValueError(f"{model} has no second stage of its own ({folder}); name one: --upscale MODEL")
    return str(folder)


class SecondStage:
    """Makes a clip's frames larger, as the prompt of its settings says, from its seed.

    Args:
        pipe: of a model that learned it (`pipeline.upsampling`). name: what the settings say it is.
        height: of the large clips; None: by the model's factor.
    """

    def __init__(self, pipe: VideoDiTPipeline, name: str, height: int | None = None):
        enlarging(pipe)
        self.pipe, self.height = pipe, height
        self.settings: dict[str, Any] = {"upscale": name, "upscale_digest": weights_digest(pipe.transformer)}
        if height is not None:
            self.settings["upscale_height"] = height

    def __call__(self, frames: np.ndarray | Iterator[np.ndarray], settings: Mapping[str, Any]) -> Iterator[np.ndarray]:
        """uint8 h w 3 each."""
        clip, prompt, seed = np.stack(list(frames)), settings["prompt"], settings["seed"]
        call = upsampled(self.pipe, clip, self.height, None, {"fps": settings["fps"]})
        if len(clip) > self.pipe.default_size.num_frames:
            yield from long_clip(self.pipe, prompt, call.pop("num_frames"), seed=seed, **call)
            return
        made: Any = self.pipe(prompt, generator=[torch.Generator().manual_seed(seed)], **call)
        yield from np.rint(made.frames[0] * 255).astype(np.uint8)
