"""Columns of a manifest that say what a model is told besides a caption: files of frames, and numbers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from videodit.codec.sounds import SOUNDS, rows_at
from videodit.data.files import Facts
from videodit.data.rows import Item, file_of, is_there
from videodit.geometry import ClipSize, Strides
from videodit.models import Condition

if TYPE_CHECKING:
    from videodit.data.source import Span

LARGEST = 1_000_000  # numbers of a row
STATES = (".npy", ".safetensors")  # what files of states are called


def check_columns(source: str, items: Sequence[Item], conditions: Sequence[Condition]) -> None:
    """ValueError where rows have no such columns, or what they hold is neither a file nor numbers; counts and names."""
    for one in (one for one in conditions if not one.from_clip):
        bad = [(item, why) for item in items if (why := _why_not(item, one))]
        if bad:
            raise ValueError(
                f"{source}: {len(bad)} of {len(items)} rows cannot tell the model {one.name!r}, the first of "
                f"{bad[0][0].path}: {bad[0][1]}"
            )


def _why_not(item: Item, one: Condition) -> str:
    if not item.attributes.get(one.name, "").strip():
        return f"its column {one.name!r} is empty or missing"
    if one.kind != "vectors" or one.of in SOUNDS:
        file = file_of(item, one.name)
        there = file is not None and is_there(file) and file.is_file()
        return "" if there else f"{str(file or item.attributes[one.name])[:200]} is no file here"
    try:
        numbers_of(item, one)
    except ValueError as error:
        return str(error)
    return ""


def numbers_of(item: Item, one: Condition) -> np.ndarray:
    """The numbers of a row, n `width`: of its clip one row, or, where they are per frame, rows over its whole length.

    ValueError: they are no finite numbers, or not as many as the condition has.
    """
    try:
        found = np.array(json.loads(item.attributes[one.name]), dtype=np.float32)
    except (ValueError, RecursionError):
        raise ValueError(f"column {one.name!r} holds {item.attributes[one.name][:60]!r} and no numbers") from None
    if found.ndim == 0 or (one.width == 1 and one.per == "frame" and found.ndim == 1):
        found = found[..., None]
    found = found[None] if found.ndim == 1 else found
    rows = found.ndim == 2 and (len(found) == 1 or one.per == "frame") and len(found) > 0
    if not rows or found.shape[1] != one.width or not np.isfinite(found).all() or found.size > LARGEST:
        each = "a list of them, from the clip's first frame to its last" if one.per == "frame" else "one such list"
        raise ValueError(
            f"column {one.name!r} holds numbers of shape {found.shape}; {one.width} finite ones, {each}, go"
        )
    return found


def tokens_in(file: Path, width: int) -> Tensor:
    """States m `width` of a `.npy` file, or of the one tensor of a `.safetensors` file.

    ValueError: no such file, or other numbers; names it.
    """
    try:
        if file.suffix == ".npy":
            found = torch.from_numpy(np.load(file, allow_pickle=False).astype(np.float32))
        else:
            (found,) = load_file(file).values()
    except (OSError, ValueError, SafetensorError, TypeError, EOFError) as error:
        raise ValueError(
            f"{file}: no states can be read of it, .npy or .safetensors with one tensor ({error})"
        ) from None
    if found.ndim != 2 or found.shape[1] != width or not len(found) or not found.float().isfinite().all():
        raise ValueError(f"{file}: has numbers of shape {tuple(found.shape)}; states are m x {width}, all finite")
    return found.float()


def vectors_at(
    numbers: np.ndarray, one: Condition, facts: Facts, span: Span, strides: Strides
) -> tuple[Tensor, Tensor]:
    """What a span, and its first frame as an image, are told: `width` of a clip, or f `width` of a latent's frames.

    Between two rows numbers lie on the straight line between them.
    """
    if one.per == "clip":
        return (torch.from_numpy(numbers[0].copy()),) * 2
    times = span.start + latent_times(span.size, strides)
    length = max(facts.duration - (1 / facts.fps if facts.fps else 0.0), 1e-9)  # to its last frame
    known = np.linspace(0, length, len(numbers)) if len(numbers) > 1 else np.zeros(1)
    values = np.stack([np.interp(times, known, column) for column in numbers.T], axis=1).astype(np.float32)
    return torch.from_numpy(values), torch.from_numpy(values[:1])


def sound_at(rows: Tensor, one: Condition, begin: float, size: ClipSize, strides: Strides) -> tuple[Tensor, Tensor]:
    """Likewise of a sound's rows (`codec.sounds`), for a clip that begins so many seconds after them."""
    values = torch.from_numpy(rows_at(rows.numpy(), begin + latent_times(size, strides), one.of))
    return values, values[:1]


def latent_times(size: ClipSize, strides: Strides) -> np.ndarray:
    """Seconds of a clip that its latent's frames are of: from the first to the last, at even distances."""
    return np.linspace(0, (size.num_frames - 1) / size.fps, strides.latent_frames(size.num_frames))
