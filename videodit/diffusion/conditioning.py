"""Frames that are given rather than generated: image-to-video, continuation, interpolation, infill, or any frames.

One model learns them all, if in some of its training samples some frames stay clean, are taken as at time 0, and are
left out of the loss (Voleti et al. 2022, arXiv 2205.09853; Höppe et al. 2022, arXiv 2206.07696). With
`given` (b f bool, True = given) a training step is

    x_t = with_given(path.add_noise(x_0, noise, t), x_0, given)
    prediction = model(x_t, ..., frame_mask=given)
    loss(prediction, target, mask=~given)

Frames are those of the *latents*: under a VAE that compresses time, a given frame stands for all pixels it was made of.
Which are given is a function of draws, so that it can be keyed by (seed, step, sample) and depends on nothing else in
the batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, get_args

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from .paths import same_shape

GivenFrames = Literal["first", "last", "ends", "start", "inner", "any"]


def choose_kind(shares: Mapping[str, float], u: float) -> GivenFrames | None:
    """Which kind of frames a sample is given, None for none, from a uniform draw u in [0, 1).

    Args:
        shares: of all samples, by kind, as {"first": 0.2, "any": 0.1}, in any order; the rest is given nothing.

    Raises:
        ValueError: if a kind is unknown, a share is negative, they sum to more than 1, or u is out of range.
    """
    kinds: tuple[GivenFrames, ...] = get_args(GivenFrames)
    if unknown := sorted(set(shares) - set(kinds)):
        raise ValueError(f"Unknown kind of given frames {unknown[0]!r}: choose among {', '.join(kinds)}.")
    if wrong := [f"{kind}: {share}" for kind, share in shares.items() if not share >= 0]:
        raise ValueError(f"Shares of given frames must not be negative, but are {', '.join(wrong)}: leave these out.")
    total = math.fsum(shares.values())
    if total > 1 + 1e-9:  # decimals that sum to 1 may not do so in binary
        raise ValueError(
            f"Shares of given frames sum to {total:g}, more than 1: lower some; 1 gives every clip frames."
        )
    if not 0 <= u < 1:
        raise ValueError(f"u must be in [0, 1), but is {u}.")
    for kind in kinds:
        u -= shares.get(kind, 0.0)
        if u < 0:
            return kind
    return None


def draw_given(kind: GivenFrames, num_frames: int, rng: np.random.Generator) -> np.ndarray:
    """Which of f frames are given: (f,) bool, at least one True and one False, but all False for an image (f = 1).

    Args:
        kind: "first" frame alone (image-to-video); "last" alone; "ends", these two (interpolation); "start", the first
            k, each of 1 <= k < f as likely (continuation); "inner", all but a run that reaches neither end, each run as
            likely (infill); "any", each frame by a fair coin, tossed again if all fall alike. At f = 2, where "ends"
            and "inner" would leave nothing to learn, they are "first".

    Raises:
        ValueError: if the kind is unknown, or there are no frames.
    """
    if num_frames < 1:
        raise ValueError(f"A clip has at least one frame, but num_frames is {num_frames}.")
    given = np.zeros(num_frames, dtype=bool)
    if num_frames == 1:
        return given
    if num_frames == 2 and kind in ("ends", "inner"):
        kind = "first"
    match kind:
        case "first":
            given[0] = True
        case "last":
            given[-1] = True
        case "ends":
            given[[0, -1]] = True
        case "start":
            given[: rng.integers(1, num_frames)] = True
        case "inner":
            begin, end = np.sort(rng.choice(np.arange(1, num_frames), size=2, replace=False))
            given[:begin] = given[end:] = True
        case "any":
            while given.all() or not given.any():
                given = rng.random(num_frames) < 0.5
        case _:
            raise ValueError(f"Unknown kind of given frames {kind!r}: choose one of {get_args(GivenFrames)}.")
    return given


def with_given(noisy: Tensor, clean: Tensor, given: Tensor) -> Tensor:
    """The noisy latents with the given frames clean: `b c f h w`, like both; given is b f bool, True = given.

    The result is of the wider of the two precisions.

    Raises:
        ValueError: if shapes do not fit each other, or `given` is not bool.
    """
    same_shape(noisy=noisy, clean=clean)
    b, _, f, _, _ = noisy.shape
    if given.dtype != torch.bool or given.shape != (b, f):
        raise ValueError(
            f"Given frames must be bool of shape {(b, f)} (b f), True = given, but are {given.dtype} of shape "
            f"{tuple(given.shape)}."
        )
    return torch.where(rearrange(given, "b f -> b 1 f 1 1"), clean, noisy)
