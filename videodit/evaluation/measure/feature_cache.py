"""Features kept on disk, keyed by all that they follow from: the clip's content, its sampling, preprocessing, network.

Where any of these changes it is another key, so nothing is ever out of date; the folder may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from threading import get_ident

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file


class FeatureCache:
    """A folder of features, one safetensors file a key; without a folder, nothing is kept.

    Several processes may share a folder: files appear whole or not at all.

    Raises ValueError if the folder cannot be made.
    """

    def __init__(self, folder: str | os.PathLike[str] | None) -> None:
        self.folder = None if folder is None else Path(folder)
        if self.folder is not None:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ValueError(f"{self.folder}: cannot be made a folder for features ({error})") from error

    def get_or(
        self, digest: str, sampling: str, preprocessing: str, extractor: str, compute: Callable[[], np.ndarray]
    ) -> np.ndarray:
        """The features of a key, from the folder, or computed and put there.

        A file that is damaged or cannot be written is warned of, and costs only the time to compute.

        Args:
            digest: of the clip's content, its sha256.
            sampling: which frames, in words: "8fps/all", "16 evenly".
            preprocessing: what was done to them, in words.
            extractor: name and hash of the network.
            compute: called without arguments where the folder has nothing.
        """
        if self.folder is None:
            return compute()
        key = {"clip": digest, "sampling": sampling, "preprocessing": preprocessing, "extractor": extractor}
        file = self.folder / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()}.safetensors"
        if file.exists():
            try:
                return _read(file)
            except (OSError, SafetensorError, ValueError) as error:
                warnings.warn(f"{file} is damaged ({error}): its features are computed anew", stacklevel=2)
        features = compute()
        scratch = file.with_suffix(f".{os.getpid()}-{get_ident()}.unfinished")
        try:
            kept = np.ascontiguousarray(features)
            save_file({"features": kept}, scratch, metadata={**key, "sha256": _digest(kept)})
            scratch.replace(file)
        except (OSError, SafetensorError) as error:
            scratch.unlink(missing_ok=True)
            warnings.warn(f"{file} cannot be written ({error}): its features are not kept", stacklevel=2)
        return features


def _read(file: Path) -> np.ndarray:
    with safe_open(file, "numpy") as kept:
        features = kept.get_tensor("features")
        if kept.metadata().get("sha256") != _digest(features):
            raise ValueError("its numbers are not those that were written")
    return features


def _digest(features: np.ndarray) -> str:
    return hashlib.sha256(features.data).hexdigest()
