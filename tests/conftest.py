"""Shared fixtures. One thread, of children too: tiny shapes are slower on several, and tests run side by side.

What is slow to import is imported in fixtures: the process that deals tests out to others needs none of it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from videodit.pipeline import VideoDiTPipeline

os.environ["OMP_NUM_THREADS"] = "1"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--standin", action="store_true", help="on a stand-in accelerator (tests/standin.py)")


# of properties the same examples each time; others are drawn with --hypothesis-profile=default
settings.register_profile("same", derandomize=True, database=None)
settings.load_profile("same")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--standin"):
        from standin import choose

        choose()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--standin"):
        for item in items:
            if (mark := item.get_closest_marker("cpu")) is not None:
                item.add_marker(pytest.mark.skip(reason=mark.args[0]))


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test draws the same numbers each time."""
    import torch

    torch.manual_seed(0)


@pytest.fixture(scope="session")
def idle() -> Iterator[list[tuple[Any, Any]]]:
    """Children that read files, whose owners have no more use for them, and where each was started."""
    children: list[tuple[Any, Any]] = []
    yield children
    for _, child in children:
        child.kill()


@pytest.fixture(autouse=True)
def children_are_kept(idle: list[tuple[Any, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    """A start of one takes longer than most tests: who wants a child is given an idle one, where it would be the same.

    tests/video, whose matter they are, has new ones.
    """
    from videodit.video import guarded

    def place(memory_gb: float) -> Any:
        here = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
        return memory_gb, Path.cwd(), [*sys.path], sys.executable, here

    def start(memory_gb: float) -> Any:
        where = place(memory_gb)
        with alone:
            found = next((one for one in idle if one[0] == where and one[1].is_alive()), None)
            if found:
                idle.remove(found)
        child = found[1] if found else new(memory_gb)
        child.place = where
        return child

    def stop(free: Any) -> None:
        for number, child in enumerate(list(free.queue)):
            if child is not None:
                free.queue[number] = None
                idle.append((getattr(child, "place", None), child))
        while len(idle) > 4:
            idle.pop(0)[1].kill()

    new, alone = guarded._Child, threading.Lock()
    monkeypatch.setattr(guarded, "_Child", start)
    monkeypatch.setattr(guarded, "_stop", stop)


@pytest.fixture(scope="session")
def tiny_pipe(pytestconfig: pytest.Config) -> VideoDiTPipeline:
    import torch
    from tiny import tiny_pipeline

    return tiny_pipeline().to(torch.accelerator.current_accelerator() if pytestconfig.getoption("--standin") else "cpu")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """A disk of so many bytes; again with another number: it has so many now."""
    folder, mounted = tmp_path / "disk", []

    def resize(size: int) -> Path:
        if sys.platform != "linux":
            pytest.skip("tmpfs is Linux's")
        folder.mkdir(exist_ok=True)
        how = f"remount,size={size}" if mounted else f"size={size}"
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", how, "tmpfs", folder], capture_output=True, text=True)
        if done.returncode and not mounted:
            pytest.skip("no disk can be mounted here")
        assert done.returncode == 0, done.stderr
        mounted.append(folder)
        return folder

    yield resize
    if mounted:
        subprocess.run(["umount", folder], check=True)
