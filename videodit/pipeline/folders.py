"""Where saved pipelines lie, and what lets diffusers find the class of one."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from videodit.disk import write_sums

STUB = '''"""Lets `DiffusionPipeline.from_pretrained` find the class of this folder; videodit must be installed."""

from videodit.pipeline import VideoDiTPipeline  # noqa: F401
'''


def write_pipeline_sums(folder: Path) -> None:
    """Checksums of a saved pipeline's files, and of nothing else in its folder."""
    parts = [
        folder / name for name in json.loads((folder / "model_index.json").read_text()) if (folder / name).is_dir()
    ]
    inside = (file for part in parts for file in sorted(part.rglob("*")) if file.is_file())
    write_sums(folder, [folder / "model_index.json", folder / "pipeline.py", *inside])


def findable(folder: Path) -> None:
    """Lets diffusers find the class of the pipeline in a folder: through the `pipeline.py` that its index names."""
    index = folder / "model_index.json"
    config = json.loads(index.read_text()) | {"_class_name": ["pipeline", "VideoDiTPipeline"]}
    index.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    (folder / "pipeline.py").write_text(STUB)


def check_is_pipeline(folder: Path) -> None:
    """Of a folder that is there: OSError where it holds no pipeline, which says what it does hold."""
    if not folder.is_dir() or (folder / "model_index.json").is_file():
        return
    config, found = folder / "config.json", ""
    if config.is_file():
        with suppress(ValueError, KeyError, TypeError, AttributeError):
            kind = json.loads(config.read_text())["_class_name"]
            use = "name it in codec:, to train a model on it" if kind.startswith("Autoencoder") else "a part of one"
            found = f"; what is here is one {kind}: {use}"
    elif (folder / "pipeline" / "model_index.json").is_file():
        found = f"; name {folder / 'pipeline'}"
    raise OSError(f"{folder}: no pipeline here (no model_index.json){found}")


def own_class(index: dict[str, Any], name: str) -> dict[str, Any]:
    """An index as the class of this name reads it: the class by its name alone, whatever module lies beside it."""
    known = index.get("_class_name")
    return index | {"_class_name": name} if isinstance(known, list) and known[-1] == "VideoDiTPipeline" else index
