"""Weights kept in fewer bits, by diffusers' own configurations: int8 and fp8 through torchao, nf4 through bitsandbytes.

Those of the linear layers; norms, biases and what diffusers keeps in float32 stay floats. Such weights are frozen: they
are sampled with, or adapters are trained on them (QLoRA, Dettmers et al. 2023, arXiv 2305.14314).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from diffusers import BitsAndBytesConfig, TorchAoConfig
from diffusers.utils import is_bitsandbytes_available, is_torchao_available
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

Bits = Literal["int8", "fp8", "nf4"]


def quantization(kind: str, asked: str, dtype: torch.dtype = torch.float32) -> TorchAoConfig | BitsAndBytesConfig:
    """What a model's `from_pretrained` takes as `quantization_config`.

    Args:
        kind: one of `Bits`.
        asked: what the user said, for the message.
        dtype: nf4's numbers are computed with as this.

    Raises:
        ValueError: what it needs is not here: a package, which is named, or a GPU.
    """
    if kind == "nf4":
        if not is_bitsandbytes_available():
            raise ValueError(f"{asked} needs bitsandbytes: pip install 'videodit[nf4]'")
        if not torch.accelerator.is_available():
            raise ValueError(f"{asked} needs an accelerator (a GPU), and none is here; int8 does without")
        return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    if not is_torchao_available():
        raise ValueError(f"{asked} needs torchao: pip install 'videodit[quantize]'")
    from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig

    return TorchAoConfig(Int8WeightOnlyConfig() if kind == "int8" else Float8WeightOnlyConfig())


def quantizable(model: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    """Its linear layers of which diffusers quantizes the weights: all but those that it keeps in float32."""
    kept = tuple(getattr(model, "_keep_in_fp32_modules", None) or ())
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and not any(f"{part}." in f"{name}." for part in kept):
            yield name, module


def plain_parts(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """A tensor as those that it is made of, by name: of a quantized one its codes and scales, else itself."""
    if not is_traceable_wrapper_subclass(tensor):
        yield name, tensor
        return
    whole: Any = tensor
    for part in whole.__tensor_flatten__()[0]:
        yield from plain_parts(f"{name}.{part}", getattr(whole, part))
