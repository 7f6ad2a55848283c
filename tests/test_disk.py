"""Folders on the disk: one run at a time in each, however the last one ended; every bit is summed; files are whole."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from safetensors import SafetensorError

from videodit import disk
from videodit.disk import LOCK, SUMS, DiskError, LockedError, SumError, check_sums, locked, replace_text, write_sums

HOLD = """
import sys
from pathlib import Path
from videodit.disk import locked, process
with locked(Path(sys.argv[1]), [process(), *sys.argv[2:]]):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holding(folder: Path, *others: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the folder, together with these."""
    command = [sys.executable, "-c", HOLD, str(folder), *others]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        yield other
        other.kill()


def holders(folder: Path) -> str:
    return (folder / LOCK).read_text()


# --- one run at a time -----------------------------------------------------------------------------------------------


def test_a_folder_that_another_run_has_is_refused_until_that_ends(tmp_path: Path) -> None:
    with holding(tmp_path / "run") as other:
        with (
            pytest.raises(LockedError, match=f"run: another run writes there, process {other.pid};"),
            locked(tmp_path / "run"),
        ):
            pass
        assert str(other.pid) in holders(tmp_path / "run")
        other.communicate("")  # it ends by itself
        with locked(tmp_path / "run"):
            assert str(os.getpid()) in holders(tmp_path / "run")
    assert holders(tmp_path / "run") == ""


def test_a_run_that_was_killed_is_no_hindrance(tmp_path: Path) -> None:
    with holding(tmp_path) as other:
        other.send_signal(signal.SIGKILL)
        while other.poll() is None:
            pass
        assert str(other.pid) in holders(tmp_path)
        with locked(tmp_path):
            assert str(other.pid) not in holders(tmp_path)


def test_a_process_that_is_dead_and_not_yet_buried_is_no_hindrance(tmp_path: Path) -> None:
    with holding(tmp_path) as other:
        os.kill(other.pid, signal.SIGKILL)
        os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)  # dead, and still in the table
        with locked(tmp_path):
            pass


def test_a_worker_that_outlives_the_others_keeps_the_folder(tmp_path: Path) -> None:
    """As after `kill -9` of a launcher or of the main process: what is left still writes."""
    gone = json.dumps([socket.gethostname(), 2**22 - 1, 1.0])
    with holding(tmp_path, gone) as worker, pytest.raises(LockedError, match=f"process {worker.pid};"):
        locked(tmp_path).__enter__()


def test_a_number_that_another_process_has_now_is_not_the_run(tmp_path: Path) -> None:
    with holding(tmp_path / "other") as other:
        lock = tmp_path / "run" / LOCK
        lock.parent.mkdir()
        host, pid, began = json.loads(holders(tmp_path / "other"))[0]
        lock.write_text(json.dumps([[host, pid, began - 60]]))
        with locked(tmp_path / "run"):
            pass
        assert pid == other.pid
        lock.write_text(json.dumps([[host, pid, began]]))
        with pytest.raises(LockedError), locked(tmp_path / "run"):
            pass


def test_a_run_of_another_machine_is_named_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text(json.dumps([["faraway", 12, 3.0]]))
    with pytest.raises(LockedError, match=r"a run on faraway .* delete .*\.lock"), locked(tmp_path):
        pass
    gone = [socket.gethostname(), 2**22 - 1, 1.0]
    (tmp_path / LOCK).write_text(json.dumps([["faraway", 12, 3.0], gone]))  # its part here is gone, so it is
    with locked(tmp_path):
        pass


@pytest.mark.parametrize("torn", ["", "[[", "{}", "[1, 2]", '[["host"]]', "null", "\udcff"])
def test_a_lock_that_was_torn_is_nobodys(tmp_path: Path, torn: str) -> None:
    (tmp_path / LOCK).write_bytes(torn.encode(errors="surrogateescape"))
    with locked(tmp_path):
        pass


def test_a_lock_that_was_taken_over_is_not_let_go(tmp_path: Path) -> None:
    theirs = json.dumps([["faraway", 12, 3.0]])
    with locked(tmp_path):
        (tmp_path / LOCK).write_text(theirs)
    assert holders(tmp_path) == theirs


# --- checksums -------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.bin", "in/b.bin", "in/c"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode() * 10)
    write_sums(tmp_path, sorted(file for file in tmp_path.rglob("*") if file.is_file()))
    return tmp_path


def test_checksums_are_those_of_coreutils(folder: Path) -> None:
    said = subprocess.run(["sha256sum", "--check", SUMS], cwd=folder, capture_output=True, text=True, check=True)
    assert said.stdout.splitlines() == ["a.bin: OK", "in/b.bin: OK", "in/c: OK"]
    check_sums(folder)


@pytest.mark.slow
def test_every_single_bit_counts(folder: Path) -> None:
    file = folder / "in" / "b.bin"
    whole = file.read_bytes()
    for at in range(8 * len(whole)):
        changed = bytearray(whole)
        changed[at // 8] ^= 1 << at % 8
        file.write_bytes(changed)
        with pytest.raises(SumError, match=f"{file}: damaged"):
            check_sums(folder)


@pytest.mark.slow
def test_a_bit_of_every_sign_of_the_list_counts(folder: Path) -> None:
    whole = (folder / SUMS).read_bytes()
    for at in range(len(whole)):
        changed = bytearray(whole)
        changed[at] ^= 1 << at % 8
        (folder / SUMS).write_bytes(changed)
        with pytest.raises(SumError):
            check_sums(folder)


def test_files_that_are_gone_or_swapped_are_named(folder: Path) -> None:
    (folder / "a.bin").rename(folder / "aside")
    with pytest.raises(SumError, match=r"a\.bin: missing"):
        check_sums(folder)
    (folder / "in" / "c").rename(folder / "a.bin")
    (folder / "aside").rename(folder / "in" / "c")
    with pytest.raises(SumError, match=r"a\.bin: damaged or replaced"):
        check_sums(folder)
    (folder / SUMS).unlink()
    with pytest.raises(SumError, match=f"{SUMS}: damaged"):
        check_sums(folder)


def test_shares_together_read_every_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    sums = disk.sums
    monkeypatch.setattr(disk, "sums", lambda where, files: sums(where, [read.append(file) or file for file in files]))
    for number in range(2):
        check_sums(folder, slice(number, None, 2))
    assert sorted(read) == [folder / "a.bin", folder / "in/b.bin", folder / "in/c"]


# --- whole files -----------------------------------------------------------------------------------------------------


def test_a_file_that_cannot_be_written_is_named_and_the_one_before_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "notes.json"
    replace_text(file, "before")

    def full(self: Path, *_: object, **__: object) -> None:
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(DiskError, match=r"notes\.json: cannot be written \(No space left on device\)"):
        replace_text(file, "after")
    assert file.read_text() == "before"
    assert list(tmp_path.iterdir()) == [file]


def test_what_safetensors_says_of_a_full_disk_is_said_in_one_line(tmp_path: Path) -> None:
    with (
        pytest.raises(DiskError, match=r"x: cannot be written .*No space left") as refused,
        disk.writing(tmp_path / "x"),
    ):
        raise SafetensorError("Error while serializing: I/O error:\nNo space left on device (os error 28)")
    assert "\n" not in str(refused.value)
