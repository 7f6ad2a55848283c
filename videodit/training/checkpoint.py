"""Checkpoints: a folder of named states, whole or not there at all.

`<output>/checkpoints/step_00001000/` holds
- `state/`: every tensor, as safetensors shards that torch's distributed checkpointing writes, each process its own. A
  sharded tensor (DTensor) is written by those who hold its parts, one that all processes hold by one of them;
- `state.json`: every number and string, the layout, the names and sizes of the shards, and a `metric`;
- whatever the caller adds;
- `SHA256SUMS`: of every file, compared before anything is loaded, so that no flipped bit is gone on with.

It is written under a temporary name and renamed, so that a kill at any moment leaves the last one whole. Any number of
processes loads what any other number wrote; all must see the same folder. No pickle is involved.
"""

from __future__ import annotations

import heapq
import json
import logging
import math
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from accelerate import PartialState
from safetensors import safe_open
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from videodit.disk import SUMS, DiskError, SumError, check_sums, sums, write_lines
from videodit.training.parallel import all_or_none, gather_strings

log = logging.getLogger(__name__)

FORMAT = 2
BYTES_PER_FILE = 4 << 30  # of a process: it holds a file's bytes in memory once more while it writes them


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names it and the fix."""


def save(
    folder: Path,
    step: int,
    state: dict[str, Any],
    *,
    keep: int,
    extra: Callable[[Path], None] | None = None,
    metric: float | None = None,
    keep_best: int = 0,
) -> Path:
    """Writes `state` as checkpoint `step`; keeps the last `keep`, and the `keep_best` of lowest `metric` besides.

    All processes call it together, with states of one structure: nested dicts, lists and tuples of tensors, numbers and
    strings. A tensor is a DTensor or is equal on all of them; numbers and strings are the main process's.

    Args:
        extra: called on every process with the unfinished folder, to add files (a pipeline, a configuration): it
            decides who writes, and may gather what is spread.

    Raises:
        CheckpointError: the folder cannot be written; what it held is as it was.
    """
    final = folder / f"step_{step:08d}"
    scratch = folder / f".{final.name}"
    main = PartialState().is_main_process
    try:
        tensors: dict[str, Tensor] = {}
        with _writing(final):
            layout = _flatten(state, (), tensors)
            if main:
                for left in folder.glob(".step_*"):  # by a process that was killed
                    shutil.rmtree(left)
                (scratch / "state").mkdir(parents=True)
        plain = {name: tensor for name, tensor in tensors.items() if not _is_coded(tensor)}
        _write_tensors(scratch / "state", final, plain)
        with _writing(final):
            if extra:
                extra(scratch)
        with _writing(final):
            if main:
                files = {file.name: file.stat().st_size for file in sorted((scratch / "state").glob("*"))}
                document = {"format": FORMAT, "step": step, "metric": metric, "files": files, "state": layout}
                (scratch / "state.json").write_text(json.dumps(document | {"sums": True}))
        with _writing(final):
            own = sorted((scratch / "state").glob(f"shard-{PartialState().process_index + 1:05d}-*"))
            lines = sums(scratch, own)
        lines = gather_strings(lines)
        with _writing(final):
            if main:
                _write_sums(scratch, lines)
                _publish(scratch, final)
                _retire(folder, final, keep, keep_best)
    except BaseException:
        if main:
            shutil.rmtree(scratch, ignore_errors=True)
        raise
    return final


def list_checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints in a folder, oldest first."""
    return sorted(p for p in folder.glob("step_*") if (p / "state.json").is_file())


def describe(checkpoint: Path) -> dict[str, Any]:
    """A checkpoint's `step`, `metric` (None where it has none) and `format`, without its tensors.

    Raises:
        CheckpointError: missing, damaged, or of a format that this version does not read.
    """
    document = _read(checkpoint)
    return {key: document[key] for key in ("step", "metric", "format")}


def load(
    checkpoint: Path, like: dict[str, Any] | None = None, accept: Callable[[dict[str, Any]], None] | None = None
) -> tuple[int, dict[str, Any]]:
    """(step, state) of a checkpoint folder; all processes call it together.

    Args:
        like: the present state, as it would be saved. Its tensors, plain or DTensor, are filled in place and are those
            of the state returned, each process reading its own parts. Numbers and strings come back as they were
            saved. None: every tensor whole, fresh and on the CPU.
        accept: is shown the state as it was saved, None in the place of each tensor, and may raise, before tensors are
            compared with those of `like`.

    Raises:
        CheckpointError: missing or damaged files; or tensors of other names, shapes or types than those of `like`,
            which is then untouched. Where reading fails later, `like` is filled in parts and must not be used.
    """
    with all_or_none(f"{checkpoint}: reading"):
        document = _read(checkpoint)
        _check_files(checkpoint, document["files"])
        _check_sums(checkpoint, document["sums"])
        saved = dict(_leaves(document["state"]))
        ours: dict[str, Tensor] = {}
        if accept:
            accept(_unflatten(document["state"], dict.fromkeys(saved)))
        if like is None:
            ours = {
                name: torch.empty(leaf["shape"], dtype=getattr(torch, leaf["dtype"])) for name, leaf in saved.items()
            }
        else:
            _check_same(checkpoint, saved, dict(_leaves(_flatten(like, (), ours))))
    parts = {name: tensor.detach() for name, tensor in ours.items() if not _is_coded(tensor)}
    planner = dcp.DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    with _quiet():
        try:
            dcp.load(parts, storage_reader=HuggingFaceStorageReader(str(checkpoint / "state")), planner=planner)
        except CheckpointException as error:
            cause = _cause(error)
            raise CheckpointError(f"{checkpoint}: cannot be read ({cause}); use an earlier one") from error
    return document["step"], _unflatten(document["state"], ours)


# --- writing ---------------------------------------------------------------------------------------------------------


def _write_tensors(folder: Path, final: Path, tensors: dict[str, Tensor]) -> None:
    writer = HuggingFaceStorageWriter(str(folder), _files_of(tensors), save_distributed=True)
    planner = dcp.DefaultSavePlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    with _quiet():
        try:
            dcp.save(dict(_storable(tensors)), storage_writer=writer, planner=planner)
        except CheckpointException as error:
            cause = _cause(error)
            if not isinstance(cause, Exception):
                raise cause from error  # Ctrl-C
            raise CheckpointError(f"{final}: cannot be written ({cause})") from error


def _files_of(tensors: dict[str, Tensor]) -> dict[str, int]:
    """The number, from 1, of the file each tensor goes to, so that a process's files are not too large."""
    size, files = 0, {}
    for name, tensor in tensors.items():
        local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
        size += local.nbytes
        files[name] = 1 + size // BYTES_PER_FILE
    return files


def _storable(tensors: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """As safetensors takes them: contiguous, and no two in the same memory."""
    seen: set[int] = set()
    for name, tensor in tensors.items():
        local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
        memory = local.untyped_storage().data_ptr()
        yield name, tensor.clone(memory_format=torch.contiguous_format) if memory in seen else tensor.contiguous()
        seen.add(memory)


def _write_sums(folder: Path, known: list[str]) -> None:
    """Of all files in a folder, of which some were summed by those who wrote them."""
    done = {folder / line[66:] for line in known}
    others = sorted(file for file in folder.rglob("*") if file.is_file() and file not in {*done, folder / SUMS})
    write_lines(folder / SUMS, [*known, *sums(folder, others)])


def _publish(scratch: Path, final: Path) -> None:
    """Everything on the disk first, then the name."""
    for path in (*scratch.rglob("*"), scratch):
        _sync(path)
    if final.exists():
        final.rename(scratch.with_name(f"{scratch.name}.old"))
    scratch.rename(final)
    _sync(final.parent)


def _sync(path: Path) -> None:
    if path.is_file():
        with path.open("r+b") as file:
            os.fsync(file.fileno())
    elif os.name == "posix":  # elsewhere a folder cannot be opened
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def _retire(folder: Path, newest: Path, keep: int, keep_best: int) -> None:
    """Removes all but the newest, the last and the best; under another name, so that none is ever there in parts."""
    found = list_checkpoints(folder)
    metrics = {path: _metric(path) for path in found}
    best = heapq.nsmallest(keep_best, (path for path in found if metrics[path] < math.inf), key=metrics.__getitem__)
    kept = {newest, *found[-keep:], *best}
    for path in found:
        if path not in kept:
            path.rename(folder / f".{path.name}.old")
    for old in folder.glob(".step_*.old"):
        shutil.rmtree(old)


def _metric(checkpoint: Path) -> float:
    try:
        metric = describe(checkpoint)["metric"]
    except CheckpointError:  # it is damaged: no reason to fail one that is not
        return math.inf
    return math.inf if metric is None or math.isnan(metric) else metric


@contextmanager
def _writing(final: Path) -> Iterator[None]:
    try:
        with all_or_none(f"{final}: writing"):
            yield
    except (OSError, DiskError) as error:
        raise CheckpointError(f"{final}: cannot be written ({error})") from error


# --- reading ---------------------------------------------------------------------------------------------------------


def _read(checkpoint: Path) -> dict[str, Any]:
    file = checkpoint / "state.json"
    try:
        document = json.loads(file.read_text())
        version = document["format"]
        if version == FORMAT:
            known = {key: document[key] for key in ("format", "step", "metric", "files", "state")}
            return known | {"sums": document.get("sums", False)}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file}: not readable ({error}); use an earlier one") from error
    raise CheckpointError(f"{file}: of format {version}, not {FORMAT}; go on with the version that wrote it")


def _check_files(checkpoint: Path, files: dict[str, int]) -> None:
    for name, size in files.items():
        file = checkpoint / "state" / name
        if not file.is_file():
            raise CheckpointError(f"{file}: missing; use an earlier one")
        if file.stat().st_size != size:
            raise CheckpointError(f"{file}: damaged, {file.stat().st_size} bytes of {size}; use an earlier one")
        try:
            with safe_open(file, framework="pt"):
                pass
        except Exception as error:
            raise CheckpointError(f"{file}: damaged ({error}); use an earlier one") from error


def _check_sums(checkpoint: Path, has_sums: bool) -> None:
    """Each process reads a share of the files."""
    if not has_sums:
        log.warning("%s: written before checkpoints had checksums, so that only sizes are looked at", checkpoint)
        return
    state = PartialState()
    try:
        check_sums(checkpoint, slice(state.process_index, None, state.num_processes))
    except SumError as error:
        raise CheckpointError(f"{error}; use an earlier one") from error


def _check_same(checkpoint: Path, saved: dict[str, dict[str, Any]], ours: dict[str, dict[str, Any]]) -> None:
    wrong = [(name, "is not in the checkpoint") for name in ours if name not in saved]
    wrong += [(name, "is in the checkpoint alone") for name in saved if name not in ours]
    for name, leaf in saved.items():
        if name in ours and ours[name] != leaf:
            theirs, here = (f"{x['dtype']} {x['shape']}" for x in (leaf, ours[name]))
            wrong.append((name, f"is {theirs} in the checkpoint and {here} here"))
    if wrong:
        named = "; ".join(f"{_shown(json.loads(name))} {what}" for name, what in wrong[:3])
        more = f"; and {len(wrong) - 3} more differ" if len(wrong) > 3 else ""
        raise CheckpointError(
            f"{checkpoint}: of another model or optimizer: {named}{more}; choose another output, or the configuration "
            f"it was made with"
        )


# --- layout: nested values <-> JSON, with tensors apart ---------------------------------------------------------------


def _flatten(value: Any, path: tuple[Any, ...], tensors: dict[str, Tensor]) -> Any:
    """JSON for `value`, its tensors moved to `tensors` under their path, as JSON too: any key, and no two alike."""
    if isinstance(value, Tensor):
        name = json.dumps(path)
        tensors[name] = value
        if _is_coded(value):
            inner = {part: getattr(value, part) for part in value.__tensor_flatten__()[0]}  # type: ignore[attr-defined]
            return _flatten(inner, path, tensors) | {"__coded__": name}
        return {"__tensor__": name, "shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str | int | float | None):
                raise TypeError(f"{_shown(path)}: a {type(key).__name__} as a key has no place in a checkpoint")
        return {"__dict__": [[k, _flatten(v, (*path, k), tensors)] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        items = [_flatten(v, (*path, i), tensors) for i, v in enumerate(value)]
        return items if isinstance(value, list) else {"__tuple__": items}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{_shown(path)}: a {type(value).__name__} has no place in a checkpoint")


def _leaves(value: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, leaf) of every tensor in a layout."""
    if isinstance(value, dict) and "__tensor__" in value:
        yield value["__tensor__"], value
    elif isinstance(value, dict):
        items = value["__tuple__"] if "__tuple__" in value else [v for _, v in value["__dict__"]]
        yield from _leaves(items)
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item)


def _unflatten(value: Any, tensors: Mapping[str, Tensor | None]) -> Any:
    if isinstance(value, list):
        return [_unflatten(v, tensors) for v in value]
    if isinstance(value, dict):
        if "__tensor__" in value:
            return tensors[value["__tensor__"]]
        if (whole := tensors.get(value.get("__coded__", ""))) is not None:
            return whole
        if "__tuple__" in value:
            return tuple(_unflatten(v, tensors) for v in value["__tuple__"])
        return {k: _unflatten(v, tensors) for k, v in value["__dict__"]}
    return value


def _is_coded(tensor: Tensor) -> bool:
    """Whether it is made of others, codes and scales, which are what is written and read."""
    return is_traceable_wrapper_subclass(tensor) and not isinstance(tensor, DTensor)


def _shown(path: tuple[Any, ...]) -> str:
    return "/".join(map(str, path))


# --- torch's distributed checkpointing -------------------------------------------------------------------------------


def _cause(error: CheckpointException) -> BaseException:
    """What went wrong, of the first process where it did."""
    return next(cause for cause, _ in error.failures.values())


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warning that there is only one process."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")
        yield
