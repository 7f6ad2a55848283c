"""Tensors by name in the files of a folder, each written whole or not at all, with a checksum of every tensor."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from videodit.disk import whole, writing

SHARD = 256  # samples a file
BATCH = 8  # encoded at once
FACTS = "sums"  # in a file's header: of each name its checksum, or why there is none; one key: several have no order

T = TypeVar("T")


class CacheError(ValueError):
    """A store that cannot be used; the message names the file and the fix."""


class Store:
    """Tensors by name in the safetensors files of a folder. Also says of what could not be encoded why (`failed`)."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._where: dict[str, Path] = {}
        self._sums: dict[str, int] = {}
        self._open: dict[Path, Any] = {}
        self.failed: dict[str, str] = {}
        self.scan()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}}  # open files stay in their process

    def scan(self) -> None:
        """Looks for files that were added."""
        known = set(self._where.values())
        failed = self.failed
        for file in sorted(set(self.folder.glob("*.safetensors")) - known):
            try:
                with safe_open(file, "pt") as shard:
                    facts = json.loads((shard.metadata() or {})[FACTS])
                    self._where |= dict.fromkeys(shard.keys(), file)
                    self._sums |= {name: fact for name, fact in facts.items() if isinstance(fact, int)}
                    failed |= {name: fact for name, fact in facts.items() if isinstance(fact, str)}
            except (SafetensorError, OSError, ValueError, KeyError) as error:
                raise CacheError(f"{file}: damaged ({error}); delete it, and run videodit encode") from error
        self.failed = {name: why for name, why in failed.items() if name not in self._where}

    def missing(self, names: Iterable[str]) -> list[str]:
        """Those not in the store, once each, in their order. What failed is among them: it may be mended."""
        return [name for name in dict.fromkeys(names) if name not in self._where]

    def __contains__(self, name: str) -> bool:
        return name in self._where

    def __getitem__(self, name: str) -> Tensor:
        """The tensor as stored. CacheError where its bytes are not those that were written."""
        file = self._where[name]
        if file not in self._open:
            self._open[file] = safe_open(file, "pt")
        tensor = self._open[file].get_tensor(name)
        if _checksum(tensor) != self._sums[name]:
            raise CacheError(f"{file}: its bytes have changed since it was written; delete it, and run videodit encode")
        return tensor

    def add(self, tensors: dict[str, Tensor], failed: dict[str, str] | None = None) -> None:
        """Writes one file, whole or not at all; `scan` finds it. DiskError where it cannot be written."""
        names = sorted([*tensors, *(failed or {})])
        file = self.folder / f"{hashed(*names)[:16]}.safetensors"
        facts = {name: _checksum(tensor) for name, tensor in tensors.items()} | (failed or {})
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        with whole(file) as scratch:
            save_file(tensors, scratch, metadata={FACTS: json.dumps(facts)})


def _checksum(tensor: Tensor) -> int:
    return zlib.crc32(tensor.contiguous().view(torch.uint8).numpy().data if tensor.numel() else b"")


def hashed(*facts: object) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def shared(everything: Sequence[T], state: PartialState) -> Sequence[T]:
    """What this process does of a work whose list all processes have made, before any has begun with it."""
    state.wait_for_everyone()
    return everything[state.process_index :: state.num_processes]
