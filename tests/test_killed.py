"""What is killed anywhere, or has no room to write, ends as if nothing had been, when it goes on.

Each walk is one of a tool, in a process of its own that is killed at moments: calls of what it cannot do without.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import yaml
from footage import film, pan
from processes import Here, start
from runs import SMALL_VAE, TINY, equal, files, losses, run
from tiny import tiny_pipeline

from videodit.clipset import Request, Sampling, make_clips
from videodit.commands import train as tool
from videodit.config import Run
from videodit.data import cache, cut, prepare, survey
from videodit.data.limits import Options
from videodit.disk import LOCK
from videodit.training import checkpoint, inputs, loop
from videodit.training.trainer import Trainer
from videodit.training.vae import train_vae


def config(folder: Path) -> Run:
    train = {"steps": 3, "batch_size": 1, "checkpoint_every": 1, "sample_every": 3, "trackers": [], "log_every": 1}
    return run(folder, train=train, data={"clips": 4, "validation": 1, "image_share": 0.0})


# --- walks -----------------------------------------------------------------------------------------------------------


def train(folder: Path) -> None:
    Trainer(config(folder)).train()


def train_codec(folder: Path) -> None:
    stages = [{"steps": 3, "batch_size": 1, "learning_rate": 1e-3}]
    vae = SMALL_VAE | {"checkpoint_every": 1, "stages": stages}
    values = TINY | {"output": str(folder), "vae": vae, "train": TINY["train"] | {"trackers": []}}
    values["data"] = TINY["data"] | {"clips": 4, "validation": 1}
    train_vae(Run.model_validate(values))


def encode(folder: Path) -> None:
    values = run(folder, data={"clips": 12, "validation": 4})
    cache.SHARD = 3  # so that there are several files
    inputs.open_clips(values, inputs.load_codec(values))


def sample(folder: Path) -> None:
    prompts = ("a red circle", "two blue stars", "a red star", "a red circle", "a blue star")
    requests = [Request(prompt, seed, num_frames=5, height=16, width=16) for seed, prompt in enumerate(prompts)]
    paths = [folder / f"{number}.mkv" for number in range(len(requests))]
    list(make_clips(tiny_pipeline(), requests, paths, Sampling(1), model="tiny", batch_size=2, preview=1))


def cut_clips(folder: Path) -> None:
    """Of the films beside the folder."""
    prepare.Guarded = Here
    prepare.prepare(folder.parent / "raw", folder, Options(write="clips"), show=False)


def last(folder: Path) -> Any:
    return checkpoint.load(checkpoint.list_checkpoints(folder)[-1])


def latents(folder: Path) -> dict[str, bytes]:
    return files(folder / "latents", "[!.]*")


def trained(folder: Path) -> Any:
    inside = files(folder / "pipeline", "*.safetensors")  # a VAE's config.json says where it came from
    return last(folder / "checkpoints"), losses(folder), latents(folder), inside


def trained_codec(folder: Path) -> Any:
    training = folder / "vae_training"
    lines = [line.partition(', "seconds"')[0] for line in (training / "losses.jsonl").read_text().splitlines()]
    return last(training / "checkpoints"), lines, files(folder / "vae")


def visible(folder: Path) -> Any:
    """What somebody was writing who was killed would be there too, hidden."""
    return {name: content for name, content in files(folder).items() if name != LOCK}


class Walk(NamedTuple):
    go: Callable[[Path], None]
    ends: Callable[[Path], Any]  # what is compared
    moments: list[tuple[Any, str]]


FILES = [(Path, "replace"), (Path, "unlink"), (Path, "rename")]
TRAINING = [(checkpoint, "_sync"), (checkpoint, "_write_sums"), (checkpoint, "_retire"), (loop.Loop, "write")]
WALKS = {
    "train": Walk(
        train,
        trained,
        [
            *((Trainer, "step"), (cache.Store, "add"), *TRAINING),
            *((loop, "write_lines"), (Trainer, "save_pipeline")),
        ],
    ),
    "train_vae": Walk(train_codec, trained_codec, [*TRAINING, *FILES]),
    "encode": Walk(encode, latents, [(cache.Store, "add"), (cache, "_encode"), *FILES]),
    "sample_video": Walk(sample, visible, FILES),
    "prepare_clips": Walk(cut_clips, visible, [(survey.Memory, "__setitem__"), (cut, "write_video"), *FILES]),
}


def count_moments(walk: Walk, seen: Callable[[], None]) -> None:
    for holder, name in walk.moments:
        original = getattr(holder, name)

        def counted(*args: Any, original: Any = original, **kwargs: Any) -> Any:
            seen()
            return original(*args, **kwargs)

        setattr(holder, name, counted)


def go_whole(name: str, folder: Path, counts: Path) -> None:
    """Leaves the number of moments in a file."""
    torch.set_num_threads(1)
    number = 0

    def count() -> None:
        nonlocal number
        number += 1

    count_moments(WALKS[name], count)
    WALKS[name].go(folder)
    counts.write_text(str(number))


def go_until(name: str, folder: Path, moment: int) -> None:
    """Killed at this moment, as `kill -9` does."""
    torch.set_num_threads(1)
    left = moment

    def count() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    count_moments(WALKS[name], count)
    WALKS[name].go(folder)


def go(name: str, folder: Path) -> None:
    torch.set_num_threads(1)
    WALKS[name].go(folder)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    assert start(go_whole, "train", folder / "run", folder / "moments") == 0
    return folder / "run"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_a_run_that_is_killed_at_any_moment_ends_in_the_same_bits(whole: Path, tmp_path: Path, seed: int) -> None:
    moments = int((whole.parent / "moments").read_text())
    for moment in sorted(random.Random(seed).sample(range(1, moments // 2), 2)):
        assert start(go_until, "train", tmp_path, moment) == -signal.SIGKILL
    assert start(go, "train", tmp_path) == 0
    assert equal(trained(tmp_path), trained(whole))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in WALKS if name != "train"])
def test_a_tool_that_is_killed_at_any_moment_ends_in_the_same_bits(tmp_path: Path, name: str) -> None:
    if name == "prepare_clips":
        for number in range(2):
            film(tmp_path / "raw" / f"{number}.mp4", np.concatenate([pan(number, 30), pan(number + 5, 40)]))
    assert start(go_whole, name, tmp_path / "whole", tmp_path / "moments") == 0
    moments = int((tmp_path / "moments").read_text())
    ends = WALKS[name].ends
    draw = random.Random(name)
    for number in range(2):
        folder = tmp_path / str(number)
        assert start(go_until, name, folder, draw.randint(1, moments)) == -signal.SIGKILL
        start(go_until, name, folder, draw.randint(1, moments))  # or it ends before
        assert start(go, name, folder) == 0
        assert equal(ends(folder), ends(tmp_path / "whole"))


@pytest.mark.slow
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
    assert equal(last(folder / "checkpoints"), last(whole / "checkpoints"))
    assert losses(folder) == losses(whole)
