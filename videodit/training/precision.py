"""Where bfloat16 helps: GPUs and newer CPUs. On a CPU without it, it costs a hundredfold, and nobody else says so."""

from __future__ import annotations

import logging

import torch

log = logging.getLogger(__name__)


def lacks_bfloat16(device: torch.device) -> bool:
    """Whether it is a CPU whose products of bfloat16 are emulated, element by element."""
    return device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported()


def tell_of_bfloat16(key: str, precision: str, device: torch.device) -> None:
    """Warns where a key of the configuration asks for bfloat16 of a device that lacks it."""
    if precision == "bf16" and lacks_bfloat16(device):
        log.warning("%s: this CPU has no bfloat16 and emulates it, very slowly: %s=no is faster here", key, key)
