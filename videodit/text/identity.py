"""What decides an encoder's states, as one word: whether cached ones are still those of this encoder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

OF_THE_FILE = ("_name_or_path", "architectures", "dtype", "transformers_version")  # not of the numbers


def fingerprint(facts: list[Any], encoders: Iterable[nn.Module]) -> str:
    """sha256, in hexadecimal, of facts and weights. It survives saving and loading."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for encoder in encoders:
        for name, weight in sorted(encoder.state_dict().items()):
            digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
            digest.update(weight.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def of_tokenizer(tokenizer: Any) -> dict[str, Any]:
    """All that a tokenizer does to words, but for the lengths of its last call."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    return {key: value for key, value in backend.items() if key not in ("truncation", "padding")}


def of_config(encoder: PreTrainedModel) -> dict[str, Any]:
    """An encoder's configuration."""
    return {key: value for key, value in encoder.config.to_dict().items() if key not in OF_THE_FILE}
