"""What weights must be before anything is computed with them: whole files of finite numbers.

Loaders take a file full of NaN as it is, and say of one that is cut, or of a git-lfs pointer in its place, where in a
parser it hurt. Here the file is named, and what to do about it; `verify` looks at a whole folder without loading it.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from videodit.disk import SUMS, check_sums

POINTER = b"version https://git-lfs.github.com/spec/"


class WeightsError(ValueError):
    """Weights that cannot be used; the message names the file and the fix, in one line."""


@contextmanager
def loading(folder: str | Path) -> Iterator[None]:
    """Where loading from a folder fails because of a weight file in it, says so of that file, by its own name.

    Raises:
        WeightsError: a file is empty, cut short, a git-lfs pointer, or a web page; any other error stays what it is.
    """
    try:
        yield
    except Exception as error:
        for file in weight_files(folder):
            if why := fault(file):
                raise WeightsError(f"{file}: {why}") from error
        raise


def check_finite(model: nn.Module, source: str | Path) -> None:
    """One pass over a model's weights, as cheap as reading them.

    Args:
        source: the folder or hub name that they come from, for the message.

    Raises:
        WeightsError: one of them holds NaN or infinity.
    """
    for name, tensor in model.state_dict().items():
        if isinstance(tensor, Tensor) and not is_finite(tensor):
            raise _not_finite(_file_of(source, name), name)


def is_finite(tensor: Tensor) -> bool:
    """Whether all of a tensor's values are numbers; of a quantized one, the values that it stands for."""
    if type(tensor) not in (Tensor, nn.Parameter) and hasattr(tensor, "dequantize"):
        tensor = tensor.dequantize()
    if tensor.is_meta or not tensor.numel() or not (tensor.is_floating_point() or tensor.is_complex()):
        return True
    tensor = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    tensor = tensor.float() if tensor.dtype.itemsize == 1 else tensor  # of 8-bit floats no extremes are known
    return all(bool(torch.isfinite(extreme)) for extreme in torch.aminmax(tensor))  # NaN is both extremes


def state_hash(state: Mapping[str, Tensor]) -> str:
    """First 12 hex digits of the sha256 over all tensors in the order of their names: name, dtype, shape, bytes."""
    found = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()[:12]


def part_hash(state: Mapping[str, Tensor]) -> str:
    """Of weights in bfloat16: loaded in that or in float32 they have one and the same; float16 rounds otherwise."""
    return state_hash({name: x.to(torch.bfloat16) if x.is_floating_point() else x for name, x in state.items()})


def read_part(file: Path, key: str) -> tuple[Any, dict[str, Tensor]]:
    """What a file of weights says of itself under a key of its metadata, as JSON (None: nothing), and the weights."""
    with loading(file.parent), safe_open(file, "pt") as found:
        about = json.loads((found.metadata() or {}).get(key, "null"))
        return about, {name: found.get_tensor(name) for name in found.keys()}  # noqa: SIM118


def verify(folder: Path) -> tuple[int, int]:
    """Reads every weight of a folder, of a pipeline or any other, tensor by tensor.

    Returns:
        (files, tensors): how many were found whole and finite.

    Raises:
        WeightsError: there are none, a file is damaged, or holds NaN or infinity.
        SumError: the folder has checksums, and a file is missing or not what was saved.
    """
    files = weight_files(folder)
    if not files:
        raise WeightsError(f"{folder}: no weights here; name the folder of a pipeline or model")
    if (folder / SUMS).is_file():
        check_sums(folder)
    tensors = 0
    for file in files:
        if why := fault(file):
            raise WeightsError(f"{file}: {why}")
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as shard:
                for name in shard.keys():  # noqa: SIM118 (it is no mapping)
                    tensors += 1
                    if not is_finite(shard.get_tensor(name)):
                        raise _not_finite(file, name)
    return len(files), tensors


def weight_files(folder: str | Path) -> list[Path]:
    """Those of a folder here, at any depth; of a hub name none."""
    return sorted(file for ending in ("safetensors", "bin") for file in Path(folder).rglob(f"*.{ending}"))


def fault(file: Path) -> str | None:
    """What keeps a file from being read as weights, and the fix. Reads its head alone."""
    with file.open("rb") as content:
        head = content.read(256)
    if not head:
        return "is empty: get it anew"
    if head.startswith(POINTER):
        return "is a git-lfs pointer in the place of weights: run `git lfs pull` where it was cloned"
    if head.lstrip()[:1] == b"<":
        return "is a web page, no weights: download it anew, logged in where the model asks for it"
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, "pt"):
                pass
        elif head.startswith(b"PK") and not zipfile.is_zipfile(file):
            return "is cut short: get it anew"
    except SafetensorError as error:
        return f"is no whole safetensors file ({' '.join(str(error).split())}): get it anew"
    return None


def _file_of(source: str | Path, name: str) -> str | Path:
    """The file of a folder that holds a tensor of this name; the source itself where that cannot be told."""
    for file in weight_files(source):
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as shard:
                if name in shard.keys():  # noqa: SIM118 (it is no mapping)
                    return file
    return source


def _not_finite(where: str | Path, name: str) -> WeightsError:
    return WeightsError(
        f"{where}: {name} is not finite, it holds NaN or infinity; the file is damaged, or of a training that diverged"
    )
