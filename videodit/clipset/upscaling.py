"""A second model that makes clips larger before they are written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from videodit.clipset.decoding import decoded
from videodit.clipset.making import weights_digest
from videodit.geometry import ClipSize
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

    def check(self, settings: Mapping[str, Any]) -> None:
        """ValueError where it cannot make such a clip larger; before anything is made."""
        try:
            blank = np.zeros((1, settings["height"], settings["width"], 3), np.uint8)
            call = upsampled(self.pipe, blank, self.height, None, {})
            size = ClipSize(settings["num_frames"], call["height"], call["width"], settings["fps"])
            if size.num_frames <= self.pipe.default_size.num_frames:
                size.latent(self.pipe.strides, self.pipe.transformer.patch_size)
            if size.height % (factor := enlarging(self.pipe).factor) or size.width % factor:
                raise ValueError(f"{size.height} x {size.width} is no multiple of its factor, {factor}")
        except ValueError as error:
            raise ValueError(f"upscale: {error}") from None

    def __call__(self, frames: np.ndarray | Iterator[np.ndarray], settings: Mapping[str, Any]) -> Iterator[np.ndarray]:
        """uint8 h w 3 each."""
        clip, prompt, seed = np.stack(list(frames)), settings["prompt"], settings["seed"]
        call = upsampled(self.pipe, clip, self.height, None, {"fps": settings["fps"]})
        if len(clip) > self.pipe.default_size.num_frames:
            yield from long_clip(self.pipe, prompt, call.pop("num_frames"), seed=seed, **call)
            return
        rng = [torch.Generator().manual_seed(seed)]
        made: Any = self.pipe(prompt, generator=rng, output_type="latent", **call)
        yield from decoded(self.pipe.codec, made.frames[0])
