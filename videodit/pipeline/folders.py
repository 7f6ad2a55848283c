"""Where saved pipelines lie, and what lets diffusers find the class of one."""

from __future__ import annotations

import json
from pathlib import Path

from videodit.disk import write_sums

SHIPPED = Path(__file__).parents[1] / "shipped"
STUB = '''"""Lets `DiffusionPipeline.from_pretrained` find the class of this folder; videodit must be installed."""

from videodit.pipeline import VideoDiTPipeline  # noqa: F401
'''


def named_folder(name: str) -> str:
    """Where a saved model lies: the packaged one for "shipped", else the folder or hub name itself.

    Raises:
        FileNotFoundError: it is a path, to nothing.
    """
    if name == "shipped":
        return str(SHIPPED)
    if not Path(name).exists() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise FileNotFoundError(f"{name}: there is no such file or folder, and it is no name on the hub")
    return name


def write_pipeline_sums(folder: Path) -> None:
    """Checksums of a saved pipeline's files, and of nothing else in its folder."""
    parts = [
        folder / name for name in json.loads((folder / "model_index.json").read_text()) if (folder / name).is_dir()
    ]
    inside = (file for part in parts for file in sorted(part.rglob("*")) if file.is_file())
    write_sums(folder, [folder / "model_index.json", folder / "pipeline.py", *inside])
