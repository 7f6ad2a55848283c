"""The second stage of a cascade: what a model that was told small clips is asked for, to make them large."""

from __future__ import annotations

import logging
import math
from typing import Any

import numpy as np
import PIL.Image

from videodit.conditions import own_of
from videodit.given import clips_of, fitted
from videodit.models import Condition

log = logging.getLogger(__name__)

ALIKE = 0.02  # shapes that differ by less are stretched to each other


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
    """The arguments of a call that makes these clips larger; a side that is not given follows from the other.

    The model is told pictures of a `factor`th of the sides that are asked for, as in training.
    """
    small, clips = enlarging(pipe), clips_of(video, "video")
    own = clips[0][0].shape[:2]
    scale = height / own[0] if height else width / own[1] if width else small.factor
    steps = [math.lcm(pipe.strides.space * patch, small.factor) for patch in pipe.transformer.patch_size[1:]]
    sides = [
        given or round(side * scale / step) * step
        for given, side, step in zip((height, width), own, steps, strict=True)
    ]
    for name, given, step in zip(("height", "width"), sides, steps, strict=True):
        pipe.strides.latent_side(given, name, step // pipe.strides.space)
    rows, columns = (side // small.factor for side in sides)
    if rows < own[0]:
        log.warning(
            "video: %dx%d is scaled to %dx%d, for the model makes clips %d times as large",
            *own,
            rows,
            columns,
            small.factor,
        )
    told = [[_scaled(frame, rows, columns) for frame in clip] for clip in clips]
    return {
        "num_frames": len(clips[0]),
        "height": sides[0],
        "width": sides[1],
        "tile_size": _tile(pipe, *sides),
        **options,
        "conditions": {**(options.get("conditions") or {}), small.name: told[0] if len(told) == 1 else told},
    }


def _tile(pipe: Any, height: int, width: int) -> tuple[int, int] | None:
    """The size that the model was trained at and that is most like such a clip in shape; None: one holds it whole."""
    trained = [(pipe.default_size.height, pipe.default_size.width)]
    trained += [(rows, columns) for _, rows, columns, _ in pipe.config.trained_sizes or ()]
    if any(height <= rows and width <= columns for rows, columns in trained):
        return None
    return min(trained, key=lambda one: (abs(math.log(one[0] * width / (one[1] * height))), -one[0]))


def _scaled(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """As large as that: scaled, and cut at two sides where it is of another shape."""
    rows, columns = frame.shape[:2]
    if abs(rows * width - columns * height) > ALIKE * rows * width:
        return fitted(frame, height, width)
    return np.asarray(PIL.Image.fromarray(frame).resize((width, height), PIL.Image.Resampling.BICUBIC))
