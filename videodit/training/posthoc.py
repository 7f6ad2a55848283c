"""Averages of the weights over any length of training, made after it out of stored ones (`training.ema`).

A run with `train.ema_sigma_rels` keeps its power-function averages in `<output>/averages`, with each checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from videodit.pipeline import VideoDiTPipeline
from videodit.training import checkpoint
from videodit.training.ema import posthoc_coefficients


def reconstruct(run: Path, sigma_rel: float, step: int | None = None) -> tuple[VideoDiTPipeline, float]:
    """The pipeline of a run with weights averaged under the profile `sigma_rel` up to a step (None: the last stored).

    Returns the pipeline and the sum of the coefficients, which is 1 where the stored averages can make the profile.

    Raises:
        ValueError: the run has no stored averages, none at this step, or no pipeline; or sigma_rel is out of range.
    """
    folder, pipeline = run / "averages", run / "pipeline"
    stored = {checkpoint.describe(f)["step"]: f for f in checkpoint.list_checkpoints(folder)}
    if not stored:
        raise ValueError(f"{folder}: no averages are stored; train with train.ema_sigma_rels: [0.05, 0.1]")
    step = max(stored) if step is None else step
    if step not in stored:
        raise ValueError(f"{folder}: no averages of step {step}; there are those of {', '.join(map(str, stored))}")
    if not pipeline.is_dir():
        raise ValueError(f"{pipeline}: no pipeline; train to the end, or copy a checkpoint there")
    files = [file for at, file in stored.items() if at <= step]
    kinds = [(state["updates"], float(name)) for state in _states(files) for name in state["averages"]]
    shares = posthoc_coefficients([u for u, _ in kinds], [s for _, s in kinds], kinds[-1][0], sigma_rel)
    weights: dict[str, Tensor] = {}
    for share, average in zip(shares, (a for state in _states(files) for a in state["averages"].values()), strict=True):
        for name, value in average.items():
            part = float(share) * value
            weights[name] = weights[name] + part if name in weights else part
    pipe = VideoDiTPipeline.from_pretrained(str(pipeline))
    with torch.no_grad():
        for name, value in weights.items():
            part, _, inner = name.partition(".")
            getattr(pipe, part).get_parameter(inner).copy_(value)
    return pipe, float(shares.sum())


def _states(files: list[Path]) -> Iterator[dict[str, Any]]:
    """One after the other: together they may be larger than the memory."""
    return (checkpoint.load(file)[1] for file in files)
