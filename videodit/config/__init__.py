"""The configuration of a run: one YAML file, checked strictly.

A file names only what departs from the defaults below. An unknown key, a wrong type or a value out of range is a
`ConfigError` that names the file and the key, in a stage too. `key=value` overrides from the command line use dotted
keys (`train.steps=100`) and go through the same checks. The same file serves `train_vae`, `encode`, `train`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .data import Bucket, Data
    from .model import Lora, Model, Objective, Text
    from .run import ConfigError, Run, load_config
    from .section import Section
    from .train import Train
    from .vae import Vae, VaeStage

__all__ = [
    "Bucket",
    "ConfigError",
    "Data",
    "Lora",
    "Model",
    "Objective",
    "Run",
    "Section",
    "Text",
    "Train",
    "Vae",
    "VaeStage",
    "load_config",
]

_FILES = {
    **dict.fromkeys(("Bucket", "Data"), "data"),
    **dict.fromkeys(("Lora", "Model", "Objective", "Text"), "model"),
    **dict.fromkeys(("ConfigError", "Run", "load_config"), "run"),
    "Section": "section",
    "Train": "train",
    **dict.fromkeys(("Vae", "VaeStage"), "vae"),
}


def __getattr__(name: str) -> Any:
    """Loads what is asked for: a process that reads files takes colours from here, and starts without pydantic."""
    if name not in _FILES:
        raise AttributeError(f"module 'videodit.config' has no attribute {name!r}")
    return getattr(import_module(f"videodit.config.{_FILES[name]}"), name)
