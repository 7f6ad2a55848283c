"""Shared fixtures. One thread, of children too: tiny shapes are slower on several, and tests run side by side.

What is slow to import is imported in fixtures: the process that deals tests out to others needs none of it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from videodit.pipeline import VideoDiTPipeline

os.environ["OMP_NUM_THREADS"] = "1"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--standin", action="store_true", help="on a stand-in accelerator (tests/standin.py)")


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
