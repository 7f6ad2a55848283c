"""The second stage of a cascade: what a model that was told small clips is asked for, to make them large."""

from __future__ import annotations

from typing import Any

import numpy as np
import PIL.Image

from videodit.conditions import own_of
from videodit.given import clips_of
from videodit.models import Condition


def enlarging(pipe: Any) -> Condition:
    """The condition by which a model makes clips larger. ValueError: it has none, or several."""
    found = [one for one in own_of(pipe.transformer) if one.kind == "channels" and one.of == "small"]
    if len(found) != 1:
        what = "several" if found else "none"
        raise ValueError(
            f"a model makes clips larger that was trained with one condition that is `of: small`; {what} of this one's"
        )
    return found[0]


def upsampled(pipe: Any, video: Any, height: int | None, width: int | None, options: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call that makes these clips larger; a side that is not given follows from the other."""
    small, clips = enlarging(pipe), clips_of(video, "video")
    own = clips[0][0].shape[:2]
    scale = height / own[0] if height else width / own[1] if width else small.factor
    step = pipe.strides.space * pipe.transformer.patch_size[1]
    sides = [given or round(side * scale / step) * step for given, side in zip((height, width), own, strict=True)]
    told = [[_scaled(frame, *sides) for frame in clip] for clip in clips]
    tile = (pipe.default_size.height, pipe.default_size.width)
    large = sides[0] > tile[0] or sides[1] > tile[1]
    return {
        "num_frames": len(clips[0]),
        "height": sides[0],
        "width": sides[1],
        "tile_size": tile if large else None,
        **options,
        "conditions": {**(options.get("conditions") or {}), small.name: told[0] if len(told) == 1 else told},
    }


def _scaled(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """As large as that, where it is of such a shape; else the pipeline cuts it, and says so."""
    rows, columns = frame.shape[:2]
    if abs(rows * width - columns * height) > 0.02 * rows * width:
        return frame
    return np.asarray(PIL.Image.fromarray(frame).resize((width, height), PIL.Image.Resampling.BICUBIC))
