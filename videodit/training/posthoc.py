"""Averages of weights, made after training: over any length of one run, out of stored ones (`training.ema`); or of
several models that were trained on from one.

A run with `train.ema_sigma_rels` keeps its power-function averages in `<output>/averages`, with each checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from videodit.packaged import named_folder
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


@torch.no_grad()
def mean_of(models: Sequence[str], weights: Sequence[float] | None = None) -> VideoDiTPipeline:
    """The pipeline whose weights are the mean of those of several, which must come of one: legs of a run, or runs that
    start from one model (model soups, Wortsman et al. 2022, arXiv 2203.05482). All else of it is the first one's.

    Args:
        models: folders, packaged models or hub names. weights: of each, above 0; None: equal ones.

    Raises:
        ValueError: other weights than models; models of other shapes, words or latents; names it.
    """
    weights = [1.0] * len(models) if weights is None else weights
    if len(weights) != len(models):
        raise ValueError(f"{len(weights)} weights for {len(models)} models; give one each")
    pipe = VideoDiTPipeline.from_pretrained(named_folder(models[0]))
    shares = [weight / sum(weights) for weight in weights]
    means = {name: {k: shares[0] * x.float() for k, x in state.items()} for name, state in _parts(pipe).items()}
    for model, share in zip(models[1:], shares[1:], strict=True):
        other = VideoDiTPipeline.from_pretrained(named_folder(model))
        _check_alike(pipe, other, models[0], model)
        for name, state in _parts(other).items():
            for key, value in state.items():
                means[name][key] += share * value.float()
    for name, mean in means.items():
        for key, value in _parts(pipe)[name].items():
            value.copy_(mean[key])
    return pipe


def _parts(pipe: VideoDiTPipeline) -> dict[str, dict[str, Tensor]]:
    """The numbers of what a run trains, by its name in the pipeline."""
    trained = ((name, getattr(pipe, name, None)) for name in ("transformer", "transformer_2", "text_encoder"))
    parts = {name: part.state_dict() for name, part in trained if isinstance(part, nn.Module)}
    return {n: {k: x for k, x in state.items() if x.is_floating_point()} for n, state in parts.items()}


def _check_alike(first: VideoDiTPipeline, other: VideoDiTPipeline, name: str, named: str) -> None:
    about = [
        {f"transformer.{key}": value for key, value in pipe.transformer.config.items() if not key.startswith("_")}
        | {key: pipe.config.get(key) for key in ("prediction_type", "boundary_ratio")}
        for pipe in (first, other)
    ]
    if unlike := [key for key in about[0] | about[1] if about[0].get(key) != about[1].get(key)]:
        one, two = (said.get(unlike[0]) for said in about)
        raise ValueError(f"{named}: is another kind of model than {name}: {unlike[0]} is {two}, and {one} there")
    ours, theirs = (
        {f"{n}.{k}": tuple(x.shape) for n, state in _parts(p).items() for k, x in state.items()} for p in (first, other)
    )
    if differs := sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)):
        shapes = " and ".join(str(one.get(differs[0], "nothing")) for one in (ours, theirs))
        raise ValueError(f"{named}: is another kind of model than {name}: of {differs[0]} they have {shapes}")
    words: list[dict[str, int]] = [getattr(pipe.tokenizer, "get_vocab", dict)() for pipe in (first, other)]
    if words[0] != words[1]:
        raise ValueError(f"{named}: its text encoder has other words than that of {name}")
    if first.codec.fingerprint() != other.codec.fingerprint():
        raise ValueError(f"{named}: is of another VAE than {name}: a mean of both would be of neither's latents")


def _states(files: list[Path]) -> Iterator[dict[str, Any]]:
    """One after the other: together they may be larger than the memory."""
    return (checkpoint.load(file)[1] for file in files)
