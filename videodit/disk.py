"""What keeps a folder on the disk right: files whole or not there, checksums of them, one run at a time in it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import socket
from collections.abc import Container, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from safetensors import SafetensorError

SUMS = "SHA256SUMS"  # as coreutils write it: `sha256sum --check SHA256SUMS` looks too
LOCK = ".lock"
_SCRATCH = re.compile(r"\.(.+)-[0-9a-f]{8}(\.\w+)?", re.DOTALL)


class DiskError(ValueError):
    """A file or folder that cannot be written; the message names it, the reason and the fix."""


class SumError(ValueError):
    """A file that is not what was written; the message names it."""


class LockedError(ValueError):
    """Another run writes into the folder; the message names its processes."""


# ----------------------------------------------------------------------------------------------------- whole files


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Names the path in whatever keeps it from being written: a full disk, a folder that is gone, no right to.

    Raises:
        DiskError: in the place of an OSError, or of safetensors' own.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise DiskError(f"{path}: cannot be written ({reason}); check the folder and the space left") from error


@contextmanager
def whole(file: Path) -> Iterator[Path]:
    """A name to write a file under: afterwards the file is there whole, or as it was before.

    The name is beside the file, hidden and of another ending, so that nobody takes what a kill leaves for the file.

    Raises:
        DiskError: it cannot be written.
    """
    scratch = scratch_beside(file)
    with writing(file):
        try:
            with held(scratch):
                yield scratch
                scratch.replace(file)
        finally:
            scratch.unlink(missing_ok=True)


def scratch_beside(file: Path, ending: str = "") -> Path:
    """A hidden name beside a file, to write it under; of its ending where a library goes by that."""
    return file.with_name(f".{file.name.removesuffix(ending)}-{secrets.token_hex(4)}{ending}")


@contextmanager
def held(scratch: Path, *, is_folder: bool = False) -> Iterator[None]:
    """The file or folder is made, and somebody's (`clear_scratch`) until the end, or that of this process."""
    if is_folder:
        scratch.mkdir()
    else:
        scratch.touch()
    handle = _held(scratch)
    try:
        yield
    finally:
        if handle is not None:
            os.close(handle)


def clear_scratch(found: Iterable[Path], names: Container[str] | None = None) -> None:
    """Of the files and folders that were found, removes what writers left that were killed.

    What a process still writes stays, and all that is not called as `scratch_beside` does.

    Args:
        names: of the files that it was to become; None: whichever.
    """
    for one in found:
        named = _SCRATCH.fullmatch(one.name)
        if named is None or one.is_symlink() or (names is not None and named[1] + (named[2] or "") not in names):
            continue
        handle = _held(one)
        if handle is not None:
            with suppress(OSError):  # in the way of nobody
                if one.is_dir():
                    shutil.rmtree(one)
                else:
                    one.unlink()
            os.close(handle)


def _held(scratch: Path) -> int | None:
    """An open handle that has it until it is closed; None where somebody else has it, or that cannot be told."""
    try:
        import fcntl

        handle = os.open(scratch, os.O_RDONLY | os.O_NONBLOCK)  # not to wait for who writes into a pipe
    except (ImportError, OSError):
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


def write_lines(file: Path, lines: Iterable[str]) -> None:
    replace_text(file, "".join(f"{line}\n" for line in lines))


def replace_text(file: Path, text: str) -> None:
    """Writes a file whole, or leaves the one before as it was. DiskError where it cannot be."""
    with whole(file) as scratch:
        scratch.write_text(text, encoding="utf-8")


# ------------------------------------------------------------------------------------------------------- checksums


def sums(folder: Path, files: Iterable[Path]) -> list[str]:
    """A line of `SHA256SUMS` for each of these files of a folder; several are read at once."""

    def line(file: Path) -> str:
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        return f"{digest}  {file.relative_to(folder).as_posix()}"

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(line, files))


def write_sums(folder: Path, files: Iterable[Path]) -> None:
    """Writes the checksums of these files of a folder beside them. DiskError where they cannot be."""
    write_lines(folder / SUMS, sums(folder, files))


def check_sums(folder: Path, share: slice = slice(None)) -> None:
    """Reads the files named in a folder's `SHA256SUMS`, or a share of them, and compares.

    Raises:
        SumError: one is missing, or other bytes than those that were written; or the list itself is damaged.
    """
    try:
        *lines, end = (folder / SUMS).read_bytes().decode().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SumError(f"{folder / SUMS}: damaged, cannot be read ({error})") from error
    for line in [*lines, end] if end else lines:
        if line == end or not re.fullmatch(r"[0-9a-f]{64}  [^/].*", line):
            raise SumError(f"{folder / SUMS}: damaged, {line[:80]!r} is no line of it")
    wanted = sorted(lines, key=lambda line: line[66:])[share]
    for file in (folder / line[66:] for line in wanted):
        if not file.is_file():
            raise SumError(f"{file}: missing, though {SUMS} names it")
    found = sums(folder, (folder / line[66:] for line in wanted))
    for line, now in zip(wanted, found, strict=True):
        if line != now:
            raise SumError(f"{folder / line[66:]}: damaged or replaced, its checksum is not that in {SUMS}")


# ------------------------------------------------------------------------------------------------------------ lock


def process() -> str:
    """This process, as no other is at any time: host, pid, and when it began."""
    return json.dumps([socket.gethostname(), os.getpid(), psutil.Process().create_time()])


@contextmanager
def locked(folder: Path, processes: Sequence[str] = ()) -> Iterator[None]:
    """No other run takes the folder meanwhile. One whose processes are all gone is no hindrance, however they ended.

    A run of several processes, which meet at each step, lives as long as any of them here: what is left when their
    launcher was killed still writes.

    Args:
        processes: of the run (`process()` of each); none: this one alone.

    Raises:
        LockedError: a run writes there, or one of another machine did, of which cannot be told whether it lives.
        DiskError: the folder cannot be written.
    """
    lock, ours = folder / LOCK, f"[{', '.join(processes or [process()])}]"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(lock) as file:
            _check_free(folder, file.read())
            file.seek(0)
            file.truncate()
            file.write(ours)
    try:
        yield
    finally:
        with suppress(OSError), _alone(lock) as file:
            if file.read() == ours:
                file.truncate(0)


@contextmanager
def _alone(lock: Path) -> Iterator:
    """The open lock file, with no other process in here; it is never removed, so that all mean the same one."""
    with lock.open("a+", encoding="utf-8", errors="replace") as file:
        with suppress(ImportError, OSError):  # not everywhere: there two that start in the same instant may meet
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        yield file


def _check_free(folder: Path, held: str) -> None:
    """LockedError where what a lock says is of a run that lives, or may live."""
    try:
        holders = [(str(host), int(pid), float(began)) for host, pid, began in json.loads(held)]
    except (ValueError, TypeError):
        return  # let go, or torn while it was written
    here = [(pid, began) for host, pid, began in holders if host == socket.gethostname()]
    alive = [pid for pid, began in here if pid != os.getpid() and _lives(pid, began)]
    if alive:
        raise LockedError(
            f"{folder}: another run writes there, process {', '.join(map(str, alive))}; wait for it or stop it (kill), "
            f"or choose another output"
        )
    if holders and not here:
        raise LockedError(
            f"{folder}: a run on {holders[0][0]} has locked it, and whether that one lives cannot be told from here; "
            f"if it has ended, delete {folder / LOCK}"
        )


def _lives(pid: int, began: float) -> bool:
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - began) < 2 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
