"""A model of whichever class: a saved one, its shape alone, or a fresh image model with time blocks."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from videodit.models.extended import TimeExtended
from videodit.models.families import class_of
from videodit.models.transformer import VideoDiT

CLASSES: dict[str, Any] = {cls.__name__: cls for cls in (VideoDiT, TimeExtended)}
WHERE = ("subfolder", "revision", "token", "cache_dir", "local_files_only")


def load_model(name_or_folder: str | Path, **kwargs: Any) -> VideoDiT | TimeExtended:
    """Loads a model by the class that its configuration names; arguments are those of `from_pretrained`.

    Raises:
        ValueError: another class; weights that are missing, left over or damaged.
    """
    cls, _ = _saved(name_or_folder, {key: value for key, value in kwargs.items() if key in WHERE})
    return cls.from_pretrained(name_or_folder, **kwargs)


def shape_of(name_or_folder: str | Path, **where: Any) -> VideoDiT | TimeExtended:
    """The same with weights of its own, which are not loaded; ValueError of another class."""
    cls, config = _saved(name_or_folder, where)
    return cls.from_config(config)


def _saved(name_or_folder: str | Path, where: dict[str, Any]) -> tuple[Any, Any]:
    config = VideoDiT.load_config(name_or_folder, **where)
    if (name := config.get("_class_name")) not in CLASSES:
        fix = "videodit convert or videodit inflate makes one of it"
        raise ValueError(f"{name_or_folder}: a {name}, none of {', '.join(CLASSES)}; {fix}")
    return CLASSES[name], config


def fresh_extended(image: Mapping[str, Any], every: int, sample_fps: float) -> TimeExtended:
    """An image model that has learned nothing, with time blocks behind its own.

    Args:
        image: its class, `_class_name`, and what its configuration says.

    Raises:
        ValueError: no class of a known family, or a key that it does not have; names it.
    """
    shape = dict(image)
    name = str(shape.pop("_class_name", None))
    cls = class_of(name)
    known = [key for key in inspect.signature(cls.__init__).parameters if key != "self"]
    if unknown := [key for key in shape if key not in known]:
        raise ValueError(f"{name} has no {unknown[0]!r}; it has {', '.join(known)}")
    return TimeExtended(cls(**shape), every=every, sample_fps=sample_fps)
