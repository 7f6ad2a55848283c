"""The time blocks of a `TimeExtended` alone: a small file, to be put behind the blocks of the image model it is of.

Beside the weights stands a fingerprint of that image model: behind another one of the same shape they would say
something that nobody trained.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from videodit.disk import whole
from videodit.models.adapters import check_no_adapters
from videodit.models.extended import TimeExtended
from videodit.weights import WeightsError, check_finite, part_hash, read_part

FILE = "time_blocks.safetensors"
ABOUT = "time_blocks"  # the key of the file's metadata
SHAPE = ("every", "sample_fps", "rotary_periods", "mlp_ratio")


def base_fingerprint(model: TimeExtended) -> str:
    """Of an image model's weights."""
    state = model.state_dict()
    return part_hash({name.removeprefix("image."): x for name, x in state.items() if name.startswith("image.")})


def save_time_blocks(model: TimeExtended, folder: str | Path) -> Path:
    """Writes the time blocks alone, whole or not at all (DiskError): `FOLDER/time_blocks.safetensors`.

    Raises:
        ValueError: there are adapters on them, or on the image model that they are of.
    """
    check_no_adapters(model, type(model.image).__name__)
    state = {name: x.contiguous() for name, x in model.state_dict().items() if not name.startswith("image.")}
    about = {
        "base": type(model.image).__name__,
        "fingerprint": base_fingerprint(model),
        "config": {key: model.config[key] for key in SHAPE},
    }
    file = Path(folder) / FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole(file) as scratch:
        save_file(state, scratch, metadata={"format": "pt", ABOUT: json.dumps(about, sort_keys=True)})
    return file


def load_time_blocks(base: Any, folder: str | Path) -> TimeExtended:
    """An image model with the time blocks that were saved of it.

    Raises:
        WeightsError: no such file, one that is damaged or not finite, or time blocks of another image model.
    """
    file = Path(folder) / FILE
    if not file.is_file():
        raise WeightsError(
            f"{file}: no such file; save_time_blocks writes one, and so does a run that trains them alone"
        )
    about, state = read_part(file, ABOUT)
    if not about or about["base"] != type(base).__name__:
        raise WeightsError(f"{file}: time blocks of {about and about['base']}, not of {type(base).__name__}")
    model = TimeExtended(base, **about["config"])
    try:
        _fill(model, state, about, file)
    except WeightsError:
        model.detach()
        raise
    return model


def _fill(model: TimeExtended, state: dict[str, Tensor], about: dict[str, Any], file: Path) -> None:
    wanted = {name: x.shape for name, x in model.state_dict().items() if not name.startswith("image.")}
    if wanted != {name: x.shape for name, x in state.items()}:
        raise WeightsError(f"{file}: of another {about['base']}: its blocks have other widths or another number")
    if base_fingerprint(model) != about["fingerprint"]:
        raise WeightsError(
            f"{file}: of another {about['base']} (fingerprint {about['fingerprint']}, this one has "
            f"{base_fingerprint(model)}): take the image model that they were trained with, in "
            f"bfloat16 or float32, for float16 rounds otherwise"
        )
    model.load_state_dict(state, strict=False)
    check_finite(model, file)
