"""Several processes that train one model: who holds which part, and what they tell each other.

Two ways to split the work, one arithmetic. DDP keeps the whole model on each process; FSDP2 (`shard`; Zhao et al. 2023)
keeps a part of each weight, its gradient and its optimizer state, and gathers a block's weights while it runs. Both
average gradients over processes, so a process's loss is the sum over its samples * processes / all samples, and both
skip what a batch skips (images leave out the `time` blocks) as long as all processes skip the same.

Under either, groups of neighbours may share their batches' tokens (`sequence_group`, `models.sequence`): a group counts
as one process of the formula above, for its processes' gradients are parts that average to its own.

The rest are collectives, called by all processes together; with one process they change nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import gather_object, reduce
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from videodit.disk import clear_scratch, locked, process

T = TypeVar("T")
# what a launcher may be asked for that would change nothing, and what does it here
IGNORED = {
    "ACCELERATE_USE_DEEPSPEED": ", and take train.sharding=fsdp",
    "ACCELERATE_USE_MEGATRON_LM": ", and take train.sharding=fsdp",
    "ACCELERATE_USE_PARALLELISM_CONFIG": ", and take train.sharding=fsdp or train.sequence_parallel",
    "FSDP_OFFLOAD_PARAMS": "; weights stay on the device",
    "FSDP_ACTIVATION_CHECKPOINTING": ", and take model.gradient_checkpointing=true",
}
TIMEOUT = timedelta(hours=3)  # one process measures files or samples while the others wait


def check_launcher(precision: tuple[str, str], accumulation: tuple[str, int] | None = None) -> None:
    """That what `accelerate launch` was told of a run is what its configuration says, which is what holds.

    Args:
        precision, accumulation: (key, value) of the configuration.

    Raises:
        ValueError: a flag that asks for something else, and would be ignored; names it, and the key to set.
    """
    told = {name: os.environ.get(f"ACCELERATE_{name}", "") for name in ("MIXED_PRECISION", "DYNAMO_BACKEND")}
    key, value = precision
    if told["MIXED_PRECISION"].lower() not in ("", "no", value):  # "no" is what the launcher says when nobody asked
        raise ValueError(
            f"accelerate launch --mixed_precision {told['MIXED_PRECISION']}: {key} is {value}, and holds; set {key}, "
            f"and leave the flag out"
        )
    pieces = os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")
    if accumulation and pieces not in ("1", str(accumulation[1])):
        raise ValueError(
            f"accelerate launch --gradient_accumulation_steps {pieces}: {accumulation[0]} is {accumulation[1]}, and "
            f"holds; set {accumulation[0]}={pieces}, and leave the flag out"
        )
    if told["DYNAMO_BACKEND"].lower() not in ("", "no"):
        raise ValueError(
            f"accelerate launch --dynamo_backend {told['DYNAMO_BACKEND']}: blocks are compiled by model.compile=true; "
            f"set it, and leave the flag out"
        )
    for name, instead in IGNORED.items():
        if os.environ.get(name, "false").lower() in ("1", "true"):
            flag = f"--{name.removeprefix('ACCELERATE_').lower()}"
            raise ValueError(f"accelerate launch {flag}: is not what a run is made of here; leave it out{instead}")


def shard(model: nn.Module, blocks: Iterable[nn.Module], mesh_device: str) -> None:
    """Spreads the weights of `model`, frozen ones too, over all processes, each of `blocks` a unit that is gathered.

    From here on the parameters are DTensors, so optimizers are built afterwards; they are whole only inside
    `model(...)`, and no submodule but a block can be called on its own. They stay float32, and autocast casts what it
    computes with, as without sharding. All processes start from the same weights.

    Args:
        blocks: parts of a block before the block itself.
        mesh_device: "cuda" or "cpu".
    """
    mesh = init_device_mesh(mesh_device, (PartialState().num_processes,))
    for block in blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh, reshard_after_forward=True)  # or averages put into its parts would not be seen


@cache  # the legs of a run share it
def sequence_group(size: int, mesh_device: str) -> dist.ProcessGroup | None:
    """The group of `size` neighbours that this process is in; None where that is itself alone.

    Raises:
        ValueError: the processes do not divide into groups.
    """
    processes = PartialState().num_processes
    if processes % size:
        raise ValueError(
            f"train.sequence_parallel: {size} does not divide the {processes} processes; start a multiple of {size} "
            f"(accelerate launch --num_processes {size})"
        )
    if size == 1:
        return None
    return init_device_mesh(mesh_device, (processes // size, size), mesh_dim_names=("batch", "sequence")).get_group(1)


def of_first(value: T, group: dist.ProcessGroup) -> T:
    """What the first process of the group holds, on all of them."""
    held = [value]
    dist.broadcast_object_list(held, group=group, group_src=0)
    return held[0]


def total_norm_clip(weights: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Scales the gradients of all weights together to a norm of at most `max_norm`; the norm before, on any process."""
    norm = torch.nn.utils.clip_grad_norm_(weights, max_norm)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def sum_over_processes(values: Tensor) -> Tensor:
    """The sum of every process's `values`, on the device they are on."""
    state = PartialState()
    if state.num_processes == 1:
        return values
    return reduce(values.to(state.device), reduction="sum").to(values.device)


def any_process(flag: bool) -> bool:
    """Whether `flag` is set on any process."""
    return bool(sum_over_processes(torch.tensor(int(flag))))


def largest(number: int) -> int:
    """Of the numbers of all processes."""
    state = PartialState()
    if state.num_processes == 1:
        return number
    return max(gather_object([number]))


def gather_strings(strings: list[str]) -> list[str]:
    """The strings of all processes, in their order."""
    return gather_object(strings)


@contextmanager
def one_run(folder: str | Path) -> Iterator[None]:
    """All processes of this run have a folder for themselves, and no other run.

    Raises:
        LockedError, DiskError: another run writes there, or none can.
    """
    state = PartialState(cpu=not torch.accelerator.is_available(), timeout=TIMEOUT)
    processes = gather_strings([process()])
    with ExitStack() as held:
        with all_or_none(f"{folder}: beginning"):
            if state.is_main_process:
                held.enter_context(locked(Path(folder), processes))
                clear_scratch(Path(folder).rglob(".*"))
        try:
            yield
        except KeyboardInterrupt:  # before the first step, or a second time
            raise KeyboardInterrupt("stopped at once; the same command goes on from what is there") from None


@contextmanager
def all_or_none(what: str) -> Iterator[None]:
    """No process goes on before all have done this, and where one fails, all do, instead of waiting for it for ever.

    Raises:
        RuntimeError: another process failed.
    """
    error: BaseException | None = None
    try:
        yield
    except BaseException as caught:
        error = caught
    failed = any_process(error is not None)
    if error is not None:
        raise error
    if failed:
        raise RuntimeError(f"{what}: another process failed, see its message")
