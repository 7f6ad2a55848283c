"""Functions called in processes of their own, so that a file can do no harm: it crashes, hangs or eats memory there.

A decoder is a large program in C that reads what strangers wrote. Here it runs in a child process with a time limit and
a bound on its memory; whatever happens to the child is a `VideoError` that names the file, and the next call gets a new
child. Children speak JSON and raw pixels, no pickle: what a hostile file makes of one, it cannot pass on. They import
what the function needs and no more, so they start in a fifth of a second.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, is_dataclass
from pathlib import Path
from queue import LifoQueue
from tempfile import TemporaryFile
from typing import IO, Any, cast

import numpy as np

from videodit.video.index import UnsuitableError, VideoError

START = 120.0  # seconds that a child may take until it has imported what it needs
GRACE = 30  # seconds after which a child whose parent is gone ends by itself
_PIPE = 2**20  # bytes


class Guarded:
    """Calls functions of modules in `processes` children, each call with limits.

    Arguments must be what JSON can say (or paths, which become strings), the first of them the file; results too, or an
    array of numpy, or a dataclass, which becomes a dictionary. Children are started when they are needed. To be closed,
    or used as a context; after `close` it can be used again.

    Args:
        processes: how many calls `map` has under way, and how many children there are at most.
        seconds: a call may take.
        memory_gb: a child may hold (Linux; elsewhere unbounded).
    """

    def __init__(self, processes: int = 1, *, seconds: float = 60.0, memory_gb: float = 4.0):
        self.processes, self.seconds, self.memory_gb = processes, seconds, memory_gb
        self._free: LifoQueue[_Child | None] = LifoQueue()
        for _ in range(processes):
            self._free.put(None)
        weakref.finalize(self, _stop, self._free)

    def __getstate__(self) -> dict[str, Any]:
        """The limits: children stay with the process that started them."""
        return {"processes": self.processes, "seconds": self.seconds, "memory_gb": self.memory_gb}

    def __setstate__(self, limits: dict[str, Any]) -> None:
        self.__init__(**limits)  # type: ignore[misc]

    def __enter__(self) -> Guarded:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the children."""
        _stop(self._free)

    def call(self, function: Callable[..., Any], *args: Any, seconds: float | None = None, **kwargs: Any) -> Any:
        """What `function(*args, **kwargs)` returns in a child.

        Raises:
            VideoError: it raised something, took longer than `seconds` (None: the usual), crashed, or wanted too much
                memory; `UnsuitableError` and `ImportError` come as they are.
            RuntimeError: no child can be started; says why.
        """
        seconds = self.seconds if seconds is None else seconds
        try:
            return self._call(function, args, kwargs, seconds)
        except _LostError:  # to something that is not the file's fault; if it happens again, it is
            return self._call(function, args, kwargs, seconds)

    def _call(self, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], seconds: float) -> Any:
        child = self._free.get()
        try:
            if child is None or not child.is_alive():
                child = _Child(self.memory_gb)
            return child.call(function, args, kwargs, seconds)
        finally:
            if child is not None and not child.is_fit:
                child.kill()
                child = None
            self._free.put(child)

    def map(
        self,
        function: Callable[..., Any],
        calls: Iterable[Sequence[Any] | VideoError],
        seconds: float | Callable[..., float] | None = None,
    ) -> Iterator[Any]:
        """The results of many calls (argument tuples) in their order, read ahead; a VideoError stands for a result.

        Calls are taken as they are needed; one that is a VideoError already is handed through.

        Args:
            seconds: a call may take, or a function of its arguments that tells.
        """
        pool, waiting = ThreadPoolExecutor(self.processes), deque[Future]()
        try:
            for args in calls:
                waiting.append(pool.submit(self._result, function, args, seconds))
                if len(waiting) > 2 * self.processes:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
            pool.shutdown()
        finally:  # where it is abandoned, the garbage collection may be here, in any thread: nothing is waited for
            for future in waiting:
                future.cancel()

    def _result(
        self,
        function: Callable[..., Any],
        args: Sequence[Any] | VideoError,
        seconds: float | Callable[..., float] | None,
    ) -> Any:
        if isinstance(args, VideoError):
            return args
        try:
            return self.call(function, *args, seconds=seconds(*args) if callable(seconds) else seconds)
        except VideoError as error:
            return error


class _LostError(VideoError):
    """A child was ended from outside, or before it had begun with the file."""


class _Child:
    """A process that answers calls, and is not fit for another after one that failed badly."""

    def __init__(self, memory_gb: float):
        self.is_fit = True
        path = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
        self._complaints = TemporaryFile()  # noqa: SIM115 (closed by `kill`)
        self._process = subprocess.Popen(
            # -P: nothing is imported from the folder that one stands in, which may be of strangers too
            [sys.executable, "-P", "-c", "from videodit.video import guarded; guarded.serve()", str(memory_gb)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            env=os.environ | {"PYTHONPATH": path},
            start_new_session=True,  # signals to the whole group, as of Slurm or Ctrl-C, are for the parent to handle
        )
        self._to, self._back = cast("IO[bytes]", self._process.stdin), cast("Any", self._process.stdout)
        _widen(self._back)
        try:
            with self._ended_after(START):
                self._answer()
        except (OSError, EOFError, ValueError) as error:
            self._process.kill()
            self._process.wait()
            self._complaints.seek(0)
            said = self._complaints.read()[-2000:].decode(errors="replace").strip()
            self.kill()
            raise RuntimeError(f"a process that reads files cannot be started: {said or 'it was ended'}") from error

    def is_alive(self) -> bool:
        return self._process.poll() is None

    @contextmanager
    def _ended_after(self, seconds: float) -> Iterator[threading.Event]:
        """Kills the process then; the event tells."""
        late = threading.Event()

        def end() -> None:
            late.set()
            self._process.kill()

        timer = threading.Timer(seconds, end)
        timer.start()
        try:
            yield late
        finally:
            timer.cancel()
            timer.join()  # it may just be at work

    def call(self, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], seconds: float) -> Any:
        request = [function.__module__, function.__qualname__, args, kwargs, seconds]
        line, late = json.dumps(request, default=_plain).encode() + b"\n", threading.Event()
        self.is_fit = False  # until it has answered: one that was interrupted has an old answer to give
        try:
            with self._ended_after(START):  # imports on a busy machine are not the file's fault
                self._to.write(line)
                self._to.flush()
                kind, value = self._answer()
        except (OSError, EOFError, ValueError) as error:
            raise _LostError(f"{args[0]} was not looked at: the process that reads files ended before") from error
        if kind == "ready":
            try:
                with self._ended_after(seconds) as late:
                    kind, value = self._answer()
            except (OSError, EOFError, ValueError) as error:
                raise self._fate(str(args[0]), late.is_set(), seconds) from error
        self.is_fit = kind != "memory" and not late.is_set()  # the answer and the end of its time may have met
        if kind == "value":
            return value
        raise {"import": ImportError, "unsuitable": UnsuitableError}.get(kind, VideoError)(value)

    def _answer(self) -> tuple[str, Any]:
        line = self._back.readline()
        if not line.endswith(b"\n"):
            raise EOFError
        kind, value = json.loads(line)
        if kind != "array":
            return kind, value
        array = np.empty(value["shape"], value["dtype"])
        room, filled = array.reshape(-1).view(np.uint8).data, 0
        while filled < len(room):
            if not (count := self._back.readinto(room[filled:])):
                raise EOFError
            filled += count
        return "value", array

    def _fate(self, file: str, is_late: bool, seconds: float) -> VideoError:
        status = self._process.wait()
        if is_late or status == -getattr(signal, "SIGALRM", 0):
            return VideoError(
                f"{file} took more than {seconds:g} seconds to read: it is damaged, or the limit too short for its size"
            )
        try:
            name = signal.Signals(-status).name
        except ValueError:
            return VideoError(f"{file} ended the decoder (exit status {status}): it is damaged; leave it out")
        if name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGKILL"):
            return _LostError(f"{file} could not be read twice: its decoder was ended from outside ({name})")
        return VideoError(f"{file} crashed the decoder ({name}): it is damaged; convert it again or leave it out")

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._to, self._back, self._complaints):
            with suppress(OSError):
                pipe.close()


def _stop(free: LifoQueue[_Child | None]) -> None:
    for place, child in enumerate(list(free.queue)):
        if child is not None:
            free.queue[place] = None
            child.kill()


def _widen(pipe: IO[bytes]) -> None:
    """Lets a clip go through in a few pieces, where the system allows."""
    with suppress(ImportError, AttributeError, OSError):
        import fcntl

        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE)


def _plain(value: Any) -> Any:
    """What JSON has no words for."""
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} does not go between processes")


# In the child.


def serve() -> None:
    """Answers calls that come as lines of JSON, until there are no more."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is not an answer
    memory_gb = float(sys.argv[1])
    _bound_memory(memory_gb)
    _reply(replies, "ready", None)
    for line in requests:
        module, name, args, kwargs, seconds = json.loads(line)
        try:
            function = getattr(importlib.import_module(module), name)
        except ImportError as error:
            _reply(replies, "import", str(error))
            continue
        _reply(replies, "ready", None)
        _end_after(seconds + GRACE)
        _reply(replies, *_result(function, args, kwargs, memory_gb))
        _end_after(0)


def _result(function: Callable[..., Any], args: list[Any], kwargs: dict[str, Any], memory_gb: float) -> tuple[str, Any]:
    try:
        return "value", function(*args, **kwargs)
    except UnsuitableError as error:
        return "unsuitable", str(error)
    except VideoError as error:
        return "error", str(error)
    except ImportError as error:
        return "import", str(error)
    except MemoryError:
        return "memory", f"{args[0]} needs more than {memory_gb:g} GB to be read: it is damaged, or the limit too low"
    except Exception as error:  # of a damaged file anything can come, and must not end the process
        return "error", f"{args[0]} cannot be read ({type(error).__name__}: {error}): it is damaged; convert it again"


def _reply(replies: IO[bytes], kind: str, value: Any) -> None:
    if isinstance(value, np.ndarray):
        header = ["array", {"shape": value.shape, "dtype": value.dtype.str}]
        replies.write(json.dumps(header).encode() + b"\n")
        replies.write(np.ascontiguousarray(value).data)
    else:
        replies.write(json.dumps([kind, value], default=_plain).encode() + b"\n")
    replies.flush()


def _bound_memory(gigabytes: float) -> None:
    """Beyond what the process holds already."""
    with suppress(ImportError, ValueError, OSError):
        import resource

        held = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
        limit = held + int(gigabytes * 1e9)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _end_after(seconds: float) -> None:
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)
