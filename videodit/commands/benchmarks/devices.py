"""What is asked of torch before and beside timing: do outputs agree, how much memory, on what, in which precision."""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from videodit.commands.benchmarks.turns import Disagreement
from videodit.training.precision import lacks_bfloat16

Result = TypeVar("Result")


def add_device(parser: argparse.ArgumentParser) -> None:
    """The options of all that runs a model."""
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--quick", action="store_true", help="all tiny: whether it runs; the numbers mean nothing")


def check_agreement(what: str, ours: Tensor, theirs: Tensor, tolerance: float) -> float:
    """How far apart two outputs are, as a share of theirs (Euclidean norms). Disagreement: more than `tolerance`."""
    if ours.shape != theirs.shape:
        raise Disagreement(f"{what}: ours gives {tuple(ours.shape)}, theirs {tuple(theirs.shape)}; nothing was timed")
    off = float((ours.float() - theirs.float()).norm() / theirs.float().norm())
    if not off <= tolerance:  # nor if it is no number
        raise Disagreement(
            f"{what}: ours and theirs differ by {off:.1e} of the output, more than {tolerance:.0e}; nothing was timed"
        )
    return off


def peak_memory(call: Callable[[], Result], device: torch.device) -> tuple[int, Result]:
    """Most bytes of tensors and workspaces that a call held at once, beside what was held before; and what it gives.

    On a CPU the sum of what torch's allocator gave out and took back, which is exact and the same each time (what a
    library takes without asking that allocator is not seen); on a GPU `max_memory_allocated`.
    """
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        result = call()
        return torch.cuda.max_memory_allocated(device) - before, result
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        result = call()
    found: Any = record.profiler
    events = [event for event in found.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak, result


def machine(device: torch.device | None = None) -> dict[str, Any]:
    """What was measured on, for the record."""
    gpu = torch.cuda.get_device_name(device) if device is not None and device.type == "cuda" else None
    cpu = {"cores": os.cpu_count(), "threads": torch.get_num_threads(), "cpu": torch.backends.cpu.get_cpu_capability()}
    return cpu | {"gpu": gpu, "system": platform.platform(), "torch": torch.__version__}


def precisions(device: torch.device) -> dict[str, torch.dtype]:
    """fp32 and bf16; where a CPU would only pretend to bf16, a line says that it is left out."""
    if lacks_bfloat16(device):
        print("bf16 is left out: this CPU has no instructions for it")
        return {"fp32": torch.float32}
    return {"fp32": torch.float32, "bf16": torch.bfloat16}


def named_device(name: str) -> torch.device:
    """ValueError where torch has no such device."""
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {name}: not usable here ({str(error).splitlines()[0]}); take cpu") from error
    return device
