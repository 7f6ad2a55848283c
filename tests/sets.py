"""Small sets of clips to evaluate, and the measures that take least."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from footage import pan

from videodit.evaluation.measure.clips import Clip, clip_from_array

QUICK = ("consistency_*", "temporal_flickering", "motion_per_second")


def moving(name: str, picture: int, count: int = 9, **asked: Any) -> Clip:
    return replace(clip_from_array(pan(picture, count), 8, name=name), **asked)


def still(name: str, seed: int = 0) -> Clip:
    return clip_from_array(np.repeat(pan(seed, 1), 9, axis=0), 8, name=name)


def some(count: int = 4) -> list[Clip]:
    return [moving(f"{i}.mkv", i, prompt=f"prompt {i // 2}", seed=i % 2) for i in range(count)]
