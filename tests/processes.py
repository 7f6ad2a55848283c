"""Tests in several processes, joined as `accelerate launch` and torchrun join them (gloo, on the CPU)."""

from __future__ import annotations

import json
import multiprocessing
import os
import runpy
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import PartialState
from torch.distributed import TCPStore

from videodit.video.guarded import Guarded

# a clean process that has imported what is slow to import, to fork from
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    [
        "torch.distributed.checkpoint",
        "torch.distributed.fsdp",
        "torch.utils.tensorboard",
        "pytest",  # as each file of tests does, which a child imports for what it is to do
        "diffusers.models.autoencoders.autoencoder_kl_wan",
        "videodit.training.trainer",
        "videodit.clipset",
        "videodit.commands.train",
        "videodit.data.prepare",
        "device_cases",
        "warmed",
    ]
)


def launch(function: Callable[..., Any], *args: Any, processes: int = 2, timeout: float = 300) -> list[Any]:
    """What `function(*args)` returns in each process; AssertionError with its traceback where one of them fails."""
    # The place to meet is ours from the start, so that its port is nobody else's.
    meeting = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    ends, children = [], []
    for rank in range(processes):
        ours, theirs = _FORKS.Pipe(duplex=False)
        child = _FORKS.Process(target=_run, args=(theirs, rank, processes, meeting.port, function, args), daemon=True)
        child.start()
        theirs.close()  # so that the end of a child that is killed is the end of the pipe
        ends.append(ours)
        children.append(child)
    try:
        return [_answer(end, timeout) for end in ends]
    finally:
        for child in children:
            child.kill()
            child.join()


def averaged(tensors: Iterable[torch.Tensor]) -> None:
    """Over all processes, in place, with one message for all of them."""
    tensors = list(tensors)
    together = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(together)
    parts = together.div_(dist.get_world_size()).split([tensor.numel() for tensor in tensors])
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.copy_(part.view_as(tensor))


def start(function: Callable[..., Any], *args: Any) -> int:
    """The exit code of one process on its own; negative: the signal that killed it."""
    return end_of(begin(function, *args))


def begin(function: Callable[..., Any], *args: Any) -> Any:
    """One process on its own, which goes on."""
    child = _FORKS.Process(target=function, args=args, daemon=True)
    child.start()
    return child


def end_of(child: Any) -> int:
    child.join(300)
    child.kill()
    child.join()
    assert child.exitcode is not None
    return child.exitcode


def run_tool(name: str, words: Sequence[str], out: Path, err: Path) -> None:
    """In a process of its own: a tool as a shell starts it, whose streams go into files or named pipes."""
    for number, file in ((1, out), (2, err)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which tests that run in the background ignore
    file = Path(__file__).parents[1] / "tools" / f"{name}.py"
    sys.argv = [str(file), *words]
    runpy.run_path(str(file), run_name="__main__")


class Here(Guarded):
    """Calls in this process, which need no start; what goes in and out is JSON all the same."""

    def call(self, function: Callable[..., Any], *args: Any, seconds: float | None = None, **kwargs: Any) -> Any:
        return through_json(function(*through_json(args), **kwargs))


def through_json(value: Any) -> Any:
    return json.loads(json.dumps(value, default=lambda one: asdict(one) if is_dataclass(one) else str(one)))


def _answer(end: Any, timeout: float) -> Any:
    assert end.poll(timeout), f"no answer in {timeout} s"
    try:
        failed, value = end.recv()
    except EOFError:
        raise AssertionError("the process was killed") from None
    assert not failed, value
    return value


def _run(end: Any, rank: int, processes: int, port: int, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    os.environ |= {name: str(value) for name, value in places.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    os.environ |= {"TORCHELASTIC_USE_AGENT_STORE": "True"}  # as torchrun: there is a place to meet already
    os.environ |= {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    torch.set_num_threads(1)
    torch.manual_seed(0)
    try:
        PartialState(cpu=True)  # as an Accelerator would
        end.send((False, function(*args)))
    except BaseException:
        end.send((True, traceback.format_exc()))
    signal.pause()  # tensors are fetched from here; `launch` ends it
