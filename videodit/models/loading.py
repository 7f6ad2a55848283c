"""A saved model, of whichever class it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from videodit.models.extended import TimeExtended
from videodit.models.transformer import VideoDiT

CLASSES = {cls.__name__: cls for cls in (VideoDiT, TimeExtended)}


def load_model(name_or_folder: str | Path, **kwargs: Any) -> VideoDiT | TimeExtended:
    """Loads a model by the class that its configuration names; arguments are those of `from_pretrained`.

    Raises:
        ValueError: another class; weights that are missing, left over or damaged.
    """
    where = {
        key: kwargs[key] for key in ("subfolder", "revision", "token", "cache_dir", "local_files_only") if key in kwargs
    }
    name = VideoDiT.load_config(name_or_folder, **where).get("_class_name")
    if name not in CLASSES:
        raise ValueError(
            f"{name_or_folder}: a {name}, none of {', '.join(CLASSES)}; tools/convert.py or inflate.py makes one"
        )
    return CLASSES[name].from_pretrained(name_or_folder, **kwargs)
