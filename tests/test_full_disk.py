"""A disk that is full, wherever: one line that names a file, nothing torn, and with room again the same end.

Each tool runs with its output on a disk too small for it, then again when that has grown; `videodit train` is in
`training/test_killed.py`.
"""

from __future__ import annotations

import importlib
import math
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from footage import film, pan
from runs import SMALL_VAE, TINY, files

from videodit import VideoDiTPipeline
from videodit.emoji import make as emoji
from videodit.emoji.scenes import Scene
from videodit.emoji.things import known
from videodit.training import checkpoint
from videodit.video import write_video

PAGE = 4096  # of such a disk
Disk = Callable[[int], Path]
Tool = Callable[..., int]


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Tool:
    """Runs a tool by its name and words, in this process: its exit status."""

    def run(name: str, *words: object) -> int:
        monkeypatch.setattr(sys, "argv", [f"videodit {name}", *map(str, words)])
        return importlib.import_module(f"videodit.commands.{name}").main()

    return run


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tiny_pipe: VideoDiTPipeline) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_pipe.save_pretrained(folder)
    return folder


def pages(folder: Path) -> int:
    return sum(math.ceil(file.stat().st_size / PAGE) for file in folder.rglob("*") if file.is_file())


def check(
    tool: Tool,
    disk: Disk,
    capfd: pytest.CaptureFixture[str],
    folder: Path,
    shares: tuple[float, ...],
    words: Callable[[Path], list[object]],
    seen: Callable[[Path], dict[str, bytes]] | None = None,
) -> None:
    """The law, for one tool.

    Args:
        folder: with room, for a run as it should be.
        shares: of the room that this one takes: the disk has so much, one after the other.
        words: the tool and what follows, for an output.
        seen: what is compared of an output; None: its files.
    """
    whole, seen = folder / "whole", seen or files
    assert tool(*words(whole)) == 0
    size = pages(whole)
    capfd.readouterr()
    for share in shares:
        out = disk(PAGE * max(1, int(share * size))) / f"{share}"
        assert tool(*words(out)) == 2
        said = [line for line in capfd.readouterr().err.splitlines() if line.startswith(f"videodit {words(out)[0]}: ")]
        assert len(said) == 1, said
        assert re.search(rf"{out}.*No space left on device", said[0]), said
        there, good = seen(out), seen(whole)
        assert [name for name in there if there[name] != good.get(name)] == []
        disk(PAGE * 8 * size)
        assert tool(*words(out)) == 0
        there = seen(out)
        assert there.keys() == good.keys()
        assert [name for name in good if there[name] != good[name]] == []
        shutil.rmtree(out)


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["mp4", "mkv", "webp", "gif", "png"])
def test_a_clip(
    tool: Tool, disk: Disk, capfd: pytest.CaptureFixture[str], tmp_path: Path, model: Path, ending: str
) -> None:
    how = ["--model", model, "--prompt", "a red circle", "--steps", "1", "--height", "64", "--width", "64"]
    check(tool, disk, capfd, tmp_path, (0.2, 0.99), lambda out: ["sample", *how, "--out", out / f"c.{ending}"])


@pytest.mark.slow
def test_a_set_of_clips(tool: Tool, disk: Disk, capfd: pytest.CaptureFixture[str], tmp_path: Path, model: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a red circle\ntwo blue stars\na red circle\n")
    how = ["--model", model, "--prompts-file", tmp_path / "prompts.txt", "--steps", "1", "--batch-size", "2"]
    check(tool, disk, capfd, tmp_path, (0.2, 0.6), lambda out: ["sample", *how, "--out", out / "clips"])


def test_states_of_text(tool: Tool, disk: Disk, capfd: pytest.CaptureFixture[str], tmp_path: Path, model: Path) -> None:
    prompts = [f"a red circle {number}" for number in range(20)]
    how = ["--model", model, "--prompt", *prompts]
    check(tool, disk, capfd, tmp_path, (0.5,), lambda out: ["sample", *how, "--encode-text", out / "a.safetensors"])


@pytest.mark.slow
def test_preparing_clips(tool: Tool, disk: Disk, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for number in range(2):
        film(tmp_path / "raw" / f"{number}.mp4", np.concatenate([pan(number, 30), pan(number + 5, 40)]), caption="a")
    how = ["--write", "clips", "--processes", "1"]
    check(
        tool,
        disk,
        capfd,
        tmp_path,
        (0.1, 0.6, 0.9),
        lambda out: ["prepare", tmp_path / "raw", "--out", out, *how],
    )


def config(folder: Path, **changes: Any) -> Path:
    file = folder / "run.yaml"
    file.write_text(yaml.safe_dump(TINY | changes))
    return file


@pytest.mark.slow
def test_encoding(tool: Tool, disk: Disk, capfd: pytest.CaptureFixture[str], tmp_path: Path, model: Path) -> None:
    words = ["--config", config(tmp_path, text={"source": str(model)}, codec=str(model))]
    check(tool, disk, capfd, tmp_path, (0.1, 0.7, 0.9), lambda out: ["encode", *words, f"output={out}"])


@pytest.mark.slow
def test_training_a_vae(tool: Tool, disk: Disk, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    stages = [{"steps": 3, "batch_size": 2, "learning_rate": 1e-3}]
    vae = SMALL_VAE | {"checkpoint_every": 1, "stages": stages}
    train = TINY["train"] | {"trackers": []}
    data = TINY["data"] | {"clips": 4, "validation": 1}
    words = ["--config", config(tmp_path, vae=vae, train=train, data=data)]

    def seen(folder: Path) -> dict[str, bytes]:
        for saved in checkpoint.list_checkpoints(folder / "vae_training" / "checkpoints"):
            checkpoint.load(saved)
        return files(folder / "vae", "*.safetensors") | files(folder, ".*")

    check(tool, disk, capfd, tmp_path, (0.4, 0.95), lambda out: ["train_vae", *words, f"output={out}"], seen)


@pytest.mark.slow
def test_measuring(tool: Tool, disk: Disk, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for number in range(2):
        write_video(tmp_path / "clips" / f"{number}.mkv", pan(number, 5), 8)
    words = [tmp_path / "clips", "--workers", "1"]
    check(tool, disk, capfd, tmp_path, (0.01, 0.5), lambda out: ["evaluate", *words, "--out", out])


@pytest.mark.slow
def test_converting(tool: Tool, disk: Disk, capfd: pytest.CaptureFixture[str], tmp_path: Path, model: Path) -> None:
    check(tool, disk, capfd, tmp_path, (0.1, 0.9), lambda out: ["convert", "--from", model, "--to", out / "model"])


@pytest.mark.slow
def test_growing(tool: Tool, disk: Disk, capfd: pytest.CaptureFixture[str], tmp_path: Path, model: Path) -> None:
    words = ["--from", model, "--axes", "space,time"]
    check(tool, disk, capfd, tmp_path, (0.1, 0.9), lambda out: ["inflate", *words, "--to", out / "model"])


@pytest.mark.slow
def test_making_emoji(
    tool: Tool, disk: Disk, capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (2, 128, 128, 4), dtype=np.uint8)
    monkeypatch.setattr(emoji, "read", lambda packages, wanted: ((code, noise) for code in sorted(wanted)))
    monkeypatch.setattr(emoji, "training_scenes", lambda pairs, seed: [Scene((thing,)) for thing in known()[:2]])
    words = ["--packages", tmp_path]
    check(tool, disk, capfd, tmp_path, (0.1, 0.9), lambda out: ["make_emoji", *words, "--out", out])
