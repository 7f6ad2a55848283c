"""Whatever a file does to its decoder, the process that asked for it gets an error and goes on."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from videodit.video import UnsuitableError, VideoError, probe, read_clip
from videodit.video.guarded import Guarded


def crash(path: str, signum: int) -> None:
    os.kill(os.getpid(), signum)


def hang(path: str) -> None:
    while True:
        pass


def leave(path: str) -> None:
    sys.exit(3)


def eat(path: str, gigabytes: float) -> int:
    return len(bytearray(int(gigabytes * 1e9)))


def trip(path: str) -> None:
    raise ZeroDivisionError("rate 0/0")


def refuse(path: str, unsuitable: bool) -> None:
    raise (UnsuitableError if unsuitable else VideoError)(f"{path} no")


def missing(path: str) -> None:
    raise ImportError("pip install it")


def chatter(path: str) -> np.ndarray:
    print("what a library prints is no answer", flush=True)
    os.write(1, b"nor what it writes from C\n")
    return np.arange(6, dtype=np.float32).reshape(2, 3).T


def echo(path: str, value: float) -> float:
    return value


def meet(path: str, value: float) -> float:
    """Waits at a pipe for whoever opens its other end."""
    with Path(path).open("wb" if value else "rb"):
        return value


def process(path: str) -> int:
    return os.getpid()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "args", "reason"),
    [
        (crash, (int(signal.SIGSEGV),), r"f\.mp4 crashed the decoder \(SIGSEGV\)"),
        (crash, (int(signal.SIGABRT),), r"f\.mp4 crashed the decoder \(SIGABRT\)"),
        (hang, (), r"f\.mp4 took more than 1 seconds"),
        (crash, (int(signal.SIGSTOP),), r"f\.mp4 took more than 1 seconds"),
        (leave, (), r"f\.mp4 ended the decoder \(exit status 3\)"),
        (eat, (3.0,), r"f\.mp4 needs more than 1 GB"),
        (trip, (), r"f\.mp4 cannot be read \(ZeroDivisionError: rate 0/0\)"),
    ],
)
def test_what_goes_wrong_in_a_child_is_an_error_here_and_the_next_call_works(function, args, reason):
    with Guarded(memory_gb=1.0) as guarded:
        guarded.call(process, "f.mp4")
        with pytest.raises(VideoError, match=reason):
            guarded.call(function, "f.mp4", *args, seconds=1)
        assert guarded.call(echo, "f.mp4", 0.0) == 0.0


def interrupted(path: str, times: int) -> str:
    """Ended by a signal from outside the first `times` times, as by a scheduler that has no more time for us."""
    with Path(path).open("a") as log:
        log.write("x")
    if Path(path).stat().st_size <= times:
        os.kill(os.getpid(), signal.SIGTERM)
    return "read"


@pytest.mark.slow
def test_a_child_that_is_ended_from_outside_is_no_fault_of_the_file_unless_it_happens_again(tmp_path):
    with Guarded() as guarded:
        assert guarded.call(interrupted, tmp_path / "a", 1) == "read"
        with pytest.raises(
            VideoError, match=r"b could not be read twice: its decoder was ended from outside \(SIGTERM\)"
        ):
            guarded.call(interrupted, tmp_path / "b", 5)
        child = guarded.call(process, "f.mp4")
        assert os.getpgid(child) != os.getpgid(0)  # a signal to our group is for us
        os.kill(child, signal.SIGKILL)  # while it has nothing to do
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        assert guarded.call(process, "f.mp4") != child


@pytest.mark.slow
def test_a_child_imports_nothing_from_the_folder_one_stands_in(tmp_path, monkeypatch):
    (tmp_path / "av.py").write_text("raise SystemExit('code of strangers')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [path for path in sys.path if path])
    with Guarded() as guarded:
        assert guarded.call(echo, "f.mp4", 0.0) == 0.0


def test_a_child_that_cannot_start_is_no_fault_of_the_file(tmp_path, monkeypatch):
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho no such library >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(broken))
    with Guarded() as guarded, pytest.raises(RuntimeError, match="cannot be started: no such library"):
        guarded.call(echo, "f.mp4", 0.0)


@pytest.mark.slow
def test_errors_of_the_function_come_as_they_are_and_cost_no_child():
    with Guarded() as guarded:
        child = guarded.call(process, "f.mp4")
        with pytest.raises(UnsuitableError, match=r"f\.mp4 no"):
            guarded.call(refuse, "f.mp4", True)
        with pytest.raises(VideoError, match=r"f\.mp4 no") as caught:
            guarded.call(refuse, Path("f.mp4"), False)
        assert not isinstance(caught.value, UnsuitableError)
        with pytest.raises(ImportError, match="pip install it"):
            guarded.call(missing, "f.mp4")
        assert guarded.call(process, "f.mp4") == child != os.getpid()


@pytest.mark.slow
def test_arrays_come_whole_whatever_a_library_prints():
    with Guarded() as guarded:
        np.testing.assert_array_equal(guarded.call(chatter, "f.mp4"), np.arange(6.0).reshape(2, 3).T)
        assert guarded.call(chatter, "f.mp4").dtype == np.float32


@pytest.mark.slow
def test_frames_and_facts_are_those_of_a_direct_call(encode):
    path = encode("clip.mp4")
    with Guarded() as guarded:
        np.testing.assert_array_equal(guarded.call(read_clip, path, 10, 10.0), read_clip(path, 10, 10.0))
        info = guarded.call(probe, path)
    direct = probe(path)
    assert (info["num_frames"], info["fps"], info["path"]) == (direct.num_frames, direct.fps, str(path))


@pytest.mark.slow
def test_many_calls_come_in_order_each_with_its_own_limit_and_errors_in_their_place(tmp_path):
    """The first waits for the second, the third for nobody: it ends by its own limit, which is shorter."""
    os.mkfifo(tmp_path / "both")
    os.mkfifo(tmp_path / "alone")
    limits = {str(tmp_path / "alone"): 1.0}
    places = [("both", 0.0), ("both", 1.0), ("alone", 2.0), ("file", 3.0), ("file", 4.0)]
    with Guarded(3) as guarded:
        calls = [(str(tmp_path / place), value) for place, value in places]
        calls.insert(1, VideoError("known already"))
        results = list(guarded.map(meet, calls, seconds=lambda path, value: limits.get(path, 60.0)))
    assert [r if isinstance(r, float) else None for r in results] == [0.0, None, 1.0, None, 3.0, 4.0]
    assert str(results[1]) == "known already"
    assert "took more than 1 seconds" in str(results[3])


@pytest.mark.slow
def test_calls_are_taken_only_a_little_ahead():
    taken = []
    with Guarded(2) as guarded:
        results = guarded.map(echo, ((taken.append(i) or "f.mp4", 0.0) for i in range(100)))
        for _ in range(10):
            next(results)
        assert len(taken) <= 10 + 2 * 2 + 1
        results.close()
        assert guarded.call(echo, "f.mp4", 0.0) == 0.0


@pytest.mark.slow
def wait_for(path: str) -> bool:
    while not Path(path).exists():
        pass
    return True


@pytest.mark.slow
def test_whoever_leaves_off_waits_for_no_call_that_is_under_way(tmp_path):
    """The garbage collection may do so, in a thread that is just beginning, which would wait for itself."""
    (tmp_path / "first").touch()
    with Guarded(1, seconds=30) as guarded:
        results = guarded.map(wait_for, ((str(tmp_path / name),) for name in ("first", "second", "third", "fourth")))
        assert next(results) is True
        while guarded._free.qsize():  # until the second is under way
            pass
        results.close()
        assert guarded._free.qsize() == 0  # and still is
        (tmp_path / "second").touch()
        assert guarded.call(wait_for, tmp_path / "first") is True


def test_children_end_with_their_owner():
    guarded = Guarded(2)
    child = guarded.call(process, "f.mp4")
    os.kill(child, 0)
    guarded.close()
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
    assert guarded.call(process, "f.mp4") != child
    second = guarded.call(process, "f.mp4")
    del guarded
    with pytest.raises(ProcessLookupError):
        os.kill(second, 0)


@pytest.mark.slow
def test_a_child_loads_no_more_than_the_reader():
    with Guarded() as guarded:
        assert guarded.call(loaded, "f.mp4") == []


HEAVY = ("torch", "diffusers", "transformers", "cv2", "pydantic", "yaml")


def loaded(path: str) -> list[str]:
    return sorted(name for name in HEAVY if name in sys.modules)


def reads(path: str, count: int) -> list[int]:
    """Resident bytes before and after reading a file so often, in places that leave a decoder in the middle."""
    process = psutil.Process()

    def read(number: int) -> int:
        read_clip(path, 4, 8.0, start=number % 8 / 8, cover=(16, 16))
        return process.memory_info().rss

    for number in range(200):  # what is loaded once
        read(number)
    return [read(0), *(read(number) for number in range(count))][::count]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv"])
def test_memory_stays_flat_however_many_clips_are_read(encode, name):
    path = encode(name, options={"g": "12", "bf": "3"}, num_frames=60)
    with Guarded() as guarded:
        before, after = guarded.call(reads, path, 1500, seconds=300)
    assert after - before < 1e6, f"{(after - before) / 1500:.0f} bytes a read"
