"""Pipelines that make what is known."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from videodit.geometry import ClipSize, Strides
from videodit.models import Condition


class GrayPipeline:
    """Makes gray clips, and remembers how it was called."""

    default_size = ClipSize(9, 64, 64, 8)
    codec = SimpleNamespace(strides=Strides(4, 8, 16))
    transformer = SimpleNamespace(conditions=[])
    config = SimpleNamespace(default_num_inference_steps=9, default_guidance_scale=1.5, default_skipped_blocks=None)

    def __init__(self) -> None:
        self.calls: list[dict] = []

    def set_progress_bar_config(self, **_: object) -> None: ...

    def to(self, device: str) -> None: ...

    def __call__(self, prompt: list[str], **kwargs: object) -> SimpleNamespace:
        self.calls.append(kwargs)
        return SimpleNamespace(frames=np.full((len(prompt), kwargs["num_frames"], 64, 64, 3), 0.5, dtype=np.float32))


class Obedient(GrayPipeline):
    """Makes the maps it is told, brighter and paler, and gray clips where it is told none."""

    transformer = SimpleNamespace(conditions=[Condition("light", "channels", 64, True, of="luma")])

    def __call__(self, prompt: list[str], **kwargs: object) -> SimpleNamespace:
        made = super().__call__(prompt, **kwargs)
        if kwargs["conditions"]:
            made.frames = np.stack(kwargs["conditions"]["light"]).astype(np.float32) / 255 / 2 + 0.25
        return made
