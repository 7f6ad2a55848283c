"""Networks with weights that the user has: loading them, naming them, and saying why they are not here.

A number that a network gave belongs to its weights, so each network carries a hash of them; and to what happened to the
frames before it, so that is put into words.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from transformers import AutoConfig, AutoImageProcessor

Source = str | os.PathLike[str]  # a hub name or a folder
Device = torch.device | str | None  # None: the accelerator where there is one


class MissingWeightsError(ValueError):
    """Weights, or the package that runs them, are not here. The message is one line: why, and how to get them."""


def describe(processor: Any) -> str:
    """What a transformers image processor does to a frame, in short: size, filter, crop, mean and deviation."""
    parts = []
    if processor.do_resize:
        size = dict(processor.size)
        edge = size.get("shortest_edge")
        parts.append(f"short side {edge}" if edge else f"{size['height']}x{size['width']}")
        parts[-1] += f" {Image.Resampling(processor.resample).name.lower()} antialias"
    if getattr(processor, "do_center_crop", False):
        parts.append("center-crop {height}x{width}".format(**dict(processor.crop_size)))
    if processor.do_rescale and processor.rescale_factor != 1 / 255:
        parts.append(f"times {processor.rescale_factor:g}")
    if processor.do_normalize:
        numbers = (",".join(f"{x:.3g}" for x in values) for values in (processor.image_mean, processor.image_std))
        parts.append("norm " + "/".join(numbers))
    return ", ".join(parts) or "none"


@contextmanager
def missing_weights(what: str, source: Source, example: str) -> Iterator[None]:
    """Whatever keeps a model of transformers from loading, as a MissingWeightsError."""
    how = (
        f"give the hub name where the hub can be reached, or a folder: hf download {example} --local-dir "
        f"{example.split('/')[-1]}"
    )
    try:
        if not Path(source).is_dir() and not _may_be_on_the_hub(source):
            raise FileNotFoundError("there is no such folder")
        yield
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError, UnpicklingError) as error:
        raise MissingWeightsError(f"{what} from {os.fspath(source)}: {one_line(error)}; {how}") from error


def _may_be_on_the_hub(source: Source) -> bool:
    name = os.fspath(source)
    return isinstance(source, str) and name.count("/") <= 1 and not name.startswith((".", "~", "/"))


def load_model(source: Source, classes: Mapping[str, Any]) -> Any:
    """The model of `source`, which must be of one of these types, all of its weights from there, in float32."""
    kind = AutoConfig.from_pretrained(source, trust_remote_code=False).model_type
    if kind not in classes:
        raise ValueError(f"it is of type {kind!r}, wanted {' or '.join(map(repr, classes))}")
    # ViT's pooler is random in DINO's repositories; nothing here reads one.
    without = {"add_pooling_layer": False} if kind == "vit" else {}
    model, info = classes[kind].from_pretrained(source, dtype=torch.float32, output_loading_info=True, **without)
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise ValueError(f"its weights lack {', '.join(missing[:3])}, {len(missing)} in all")
    return model


def load_processor(source: Source) -> Any:
    """The image processor of `source`."""
    # Through Pillow: torchvision resizes a little differently, and a number must not depend on what is installed.
    return AutoImageProcessor.from_pretrained(source, backend="pil", trust_remote_code=False)


def short_name(source: Source) -> str:
    """Last part of a hub name, or the folder's name."""
    return Path(source).resolve().name


def pick_device(device: Device) -> torch.device:
    return torch.device(device or torch.accelerator.current_accelerator(check_available=True) or "cpu")


def one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")[:300] or type(error).__name__


def check_frames(frames: np.ndarray, count: int | None = None) -> None:
    """Raises ValueError for anything but uint8 n h w 3, n = count or at least 1."""
    wanted = count or "n"
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or len(frames) < 1:
        raise ValueError(f"frames are {frames.dtype} {frames.shape}; give uint8 {wanted} h w 3, at least one")
    if count is not None and len(frames) != count:
        raise ValueError(f"{len(frames)} frames given, {count} wanted: those of frame_indices")
