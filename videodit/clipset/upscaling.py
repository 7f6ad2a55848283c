"""A second model that makes clips larger before they are written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from videodit.clipset.decoding import decoded
from videodit.clipset.making import weights_digest
from videodit.clipset.texts import embeds_of, encode_texts
from videodit.conditions import own_of
from videodit.geometry import ClipSize
from videodit.long import long_clip
from videodit.memory import check_decode
from videodit.models.linear import remembers
from videodit.packaged import named_folder
from videodit.pipeline import VideoDiTPipeline
from videodit.pipeline.upsampling import enlarging, upsampled

REMADE = ("image", "video", "last_image", "last_video", "loop")  # what a second stage is not told of
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
        small = enlarging(pipe)
        if others := [one.name for one in own_of(pipe.transformer) if not one.null and one != small]:
            raise ValueError(
                f"upscale: {name} was not trained to do without {others[0]!r}, which nothing gives it here"
            )
        self.pipe, self.height = pipe, height
        self.settings: dict[str, Any] = {
            "upscale": name,
            "upscale_digest": weights_digest(pipe),
            "upscale_steps": pipe.config.default_num_inference_steps,
            "upscale_guidance_scale": pipe.config.default_guidance_scale,
            "upscale_scheduler": type(pipe.scheduler).__name__,
        }
        if height is not None:
            self.settings["upscale_height"] = height

    def check(self, settings: Mapping[str, Any]) -> None:
        """ValueError where it cannot make such a clip larger; before anything is made."""
        try:
            for name in REMADE:
                if settings.get(name):
                    raise ValueError(
                        f"{name}: what is given would be made anew, and a loop no longer close; leave it out"
                    )
            blank = np.zeros((1, settings["height"], settings["width"], 3), np.uint8)
            call = upsampled(self.pipe, blank, self.height, None, {})
            frames, own = settings["num_frames"], self.pipe.default_size.num_frames
            at_once = ClipSize(min(frames, own), call["height"], call["width"], settings["fps"])
            latent = at_once.latent(self.pipe.strides, self.pipe.transformer.patch_size)
            if frames > own and (own == 1 or (remembers(self.pipe.transformer) and call["tile_size"])):
                many = "pictures alone" if own == 1 else f"{own} frames, and remembers whole pictures"
                raise ValueError(f"num_frames={frames}: the model learned {many}; ask for {own} or fewer")
            check_decode(self.pipe.codec, (1, *latent), whole=False)
        except ValueError as error:
            raise ValueError(f"upscale: {error}") from None

    def __call__(self, frames: np.ndarray | Iterator[np.ndarray], settings: Mapping[str, Any]) -> Iterator[np.ndarray]:
        """uint8 h w 3 each."""
        clip, seed = np.stack(list(frames)), settings["seed"]
        call = upsampled(self.pipe, clip, self.height, None, {"fps": settings["fps"]})
        call |= embeds_of(encode_texts(self.pipe.text, [prompt := settings["prompt"]], [""]), [prompt], [""])
        if len(clip) > self.pipe.default_size.num_frames:
            yield from long_clip(self.pipe, None, call.pop("num_frames"), seed=seed, **call)
            return
        rng = [torch.Generator().manual_seed(seed)]
        made: Any = self.pipe(generator=rng, output_type="latent", **call)
        yield from decoded(self.pipe.codec, made.frames[0])
