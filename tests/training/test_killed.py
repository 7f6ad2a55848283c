"""A run that is killed anywhere, or has no room to write, ends as if nothing had been, when it goes on."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from processes import start
from runs import equal, losses, run

from tools import train as tool
from videodit.config import Run
from videodit.data import cache
from videodit.training import checkpoint, loop
from videodit.training.trainer import Trainer

# what a run cannot do without, here and there: it may be killed at each
MOMENTS: list[tuple[Any, str]] = [
    (Trainer, "step"),
    (cache.Store, "add"),
    (checkpoint, "_sync"),
    (checkpoint, "_write_sums"),
    (checkpoint, "_retire"),
    (loop, "write_lines"),
    (loop.Loop, "write"),
    (Trainer, "save_pipeline"),
]


def config(folder: Path) -> Run:
    train = {"steps": 4, "batch_size": 2, "checkpoint_every": 1, "sample_every": 4, "trackers": [], "log_every": 1}
    return run(folder, train=train, data={"clips": 6, "validation": 1, "image_share": 0.0})


def count_moments(seen: Callable[[], None]) -> None:
    for holder, name in MOMENTS:
        original = getattr(holder, name)

        def counted(*args: Any, original: Any = original, **kwargs: Any) -> Any:
            seen()
            return original(*args, **kwargs)

        setattr(holder, name, counted)


def train_whole(folder: Path) -> None:
    """Trains, and leaves the number of moments in a file."""
    torch.set_num_threads(1)
    number = 0

    def count() -> None:
        nonlocal number
        number += 1

    count_moments(count)
    Trainer(config(folder)).train()
    (folder / "moments").write_text(str(number))


def train_until(folder: Path, moment: int) -> None:
    """Trains, and is killed at this moment, as `kill -9` does."""
    torch.set_num_threads(1)
    left = moment

    def count() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    count_moments(count)
    Trainer(config(folder)).train()


def latents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.glob("latents/*/*.safetensors"))}


def last(folder: Path) -> Any:
    return checkpoint.load(checkpoint.list_checkpoints(folder / "checkpoints")[-1])


def pipeline(folder: Path) -> dict[str, bytes]:
    inside = sorted((folder / "pipeline").rglob("*.safetensors"))  # a VAE's config.json says where it came from
    return {str(f.relative_to(folder)): f.read_bytes() for f in inside}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    assert start(train_whole, folder) == 0
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_a_run_that_is_killed_at_any_moment_ends_in_the_same_bits(whole: Path, tmp_path: Path, seed: int) -> None:
    moments = int((whole / "moments").read_text())
    for moment in sorted(random.Random(seed).sample(range(1, moments // 2), 2)):
        assert start(train_until, tmp_path, moment) == -signal.SIGKILL
    Trainer(config(tmp_path)).train()
    assert equal(last(tmp_path), last(whole))
    assert losses(tmp_path) == losses(whole)
    assert latents(tmp_path) == latents(whole)
    assert pipeline(tmp_path) == pipeline(whole)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """A disk of so many bytes; again with another number: it has so many now."""
    folder, mounted = tmp_path / "disk", []

    def resize(size: int) -> Path:
        folder.mkdir(exist_ok=True)
        how = f"remount,size={size}" if mounted else f"size={size}"
        if subprocess.run(["mount", "-t", "tmpfs", "-o", how, "tmpfs", folder], capture_output=True).returncode:
            pytest.skip("no disk can be mounted here")
        mounted.append(folder)
        return folder

    yield resize
    if mounted:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="tmpfs is Linux's")
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9])
def test_a_full_disk_is_one_line_and_with_room_again_the_run_ends_in_the_same_bits(
    whole: Path,
    tmp_path: Path,
    disk: Callable[[int], Path],
    share: float,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    size = sum(file.stat().st_size for file in whole.rglob("*"))
    folder = disk(int(share * size)) / "run"
    values = config(tmp_path).model_copy(update={"output": str(folder), "codec": str(tmp_path / "vae")})
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values.model_dump(mode="json")))
    monkeypatch.setattr("sys.argv", ["train.py", "--config", str(tmp_path / "run.yaml")])
    assert tool.main() == 2
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith(("train:", "Traceback"))]
    assert len(said) == 1
    assert str(folder) in said[0]
    assert "No space left" in said[0]
    for saved in checkpoint.list_checkpoints(folder / "checkpoints"):
        checkpoint.load(saved)
    disk(4 * size)
    assert tool.main() == 0
    assert equal(last(folder), last(whole))
    assert losses(folder) == losses(whole)
