"""Training over a folder in which files are damaged, hang or crash their decoder sees exactly the good ones, always."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from runs import Seen, losses, run

from tests.video.conftest import write_numbered
from tests.video.damage.bombs import gif_of_points, png_of_zeros
from tests.video.readings import read_or_worse
from videodit.config import Run
from videodit.data import files, source
from videodit.data.clips import Clips
from videodit.training import checkpoint, vae
from videodit.training.inputs import load_codec
from videodit.training.trainer import Trainer
from videodit.training.vae import train_vae
from videodit.video import VideoError, probe, write_video
from videodit.video.guarded import Guarded

GOOD = [f"{number:02d}.mkv" for number in range(12)]
BAD = {  # which no run may train on, and why
    "00_cut.mp4": "cannot be decoded|cut short",
    "02_rotten.mp4": "does not decode at|cannot be decoded",
    "04_empty.mp4": "is empty",
    "05_page.mp4": "cannot be decoded",
    "06_huge.png": "400000000 pixels",
    "08_endless.gif": "took more than 2 seconds",
    "09_crash.mkv": r"crashed the decoder \(SIGSEGV\)",
    "11_hangs_once.mkv": "took more than 2 seconds",
}
SECONDS = 2.0


@pytest.fixture(autouse=True)
def faults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "read_clip", read_or_worse)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Clips of nine frames, each of one gray, and the bad ones between them, all with captions."""
    clips = tmp_path / "clips"
    clips.mkdir()
    for number, name in enumerate([*GOOD, "09_crash.mkv", "11_hangs_once.mkv"]):
        write_video(clips / name, np.full((9, 32, 32, 3), 18 * number, np.uint8), 8)
    whole = write_numbered(clips, "02_rotten.mp4", rate=8, options={"bf": "0"}, container={"movflags": "faststart"})
    (clips / "00_cut.mp4").write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    rot(whole)
    (clips / "04_empty.mp4").touch()
    (clips / "05_page.mp4").write_text("<!DOCTYPE html><html><body><h1>404 Not Found</h1></body></html>")
    (clips / "06_huge.png").write_bytes(png_of_zeros(20_000, 1, 0))
    (clips / "08_endless.gif").write_bytes(gif_of_points(8000, 2000))
    for path in list(clips.iterdir()):
        path.with_suffix(".txt").write_text("a gray square")
    return clips


def rot(path: Path, sound: int = 3) -> None:
    """Zeros after the first frames, so that it is found out only when the clip is read."""
    with av.open(str(path)) as container:
        places = [packet.pos for packet in container.demux(video=0) if packet.size]
    content = path.read_bytes()
    path.write_bytes(content[: places[sound]].ljust(len(content), b"\0"))
    assert probe(path).num_frames == 40


def configured(output: Path, clips: Path, **data: Any) -> Run:
    data = {"source": str(clips), "clips": None, "validation": 3, "max_bad_share": 0.6, "read_seconds": SECONDS} | data
    return run(output, data=data, train={"batch_size": 3, "log_every": 1, "sample_every": 9})


def names(samples: Any) -> list[str]:
    return sorted(Path(sample.name).name for sample in samples)


def quarantined(output: Path) -> dict[str, str]:
    rows = [json.loads(line) for line in (output / "latents" / "quarantine.jsonl").read_text().splitlines()]
    assert len(rows) == len({row["file"] for row in rows})
    return {Path(row["file"]).name: row["why"] for row in rows}


@pytest.mark.slow
def test_a_run_trains_on_exactly_the_good_files(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured(tmp_path / "run", folder)
    with caplog.at_level(logging.WARNING):
        trainer = Trainer(config)
    assert names([*trainer.train_clips.samples, *trainer.validation_clips.samples]) == GOOD
    steps = trainer.batches.sampler.steps_per_epoch
    fed = [Path(n).name for step in range(steps) for piece in trainer.batches[step] for n in piece.names]
    assert sorted(fed) == names(trainer.train_clips.samples)
    bad = quarantined(tmp_path / "run")
    assert bad.keys() == BAD.keys()
    for name, why in bad.items():
        assert re.search(BAD[name], why)
        assert str(folder / name) in why
    said = [r.getMessage().partition("left out ")[2] for r in caplog.records if "left out" in r.getMessage()]
    assert sorted(said) == sorted(f"{folder / name}: {why}" for name, why in bad.items())

    opened = watch(monkeypatch)
    again = Trainer(config)
    assert again.train_clips.samples == trainer.train_clips.samples
    assert opened == []


def watch(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are opened from now on, to be decoded or hashed."""
    opened: list[str] = []
    call, digest = Guarded.call, files._hash

    def watched(self: Guarded, function: Any, path: Path, *args: Any, **kwargs: Any) -> Any:
        opened.append(Path(path).name)
        return call(self, function, path, *args, **kwargs)

    monkeypatch.setattr(Guarded, "call", watched)
    monkeypatch.setattr(files, "_hash", lambda path: opened.append(path.name) or digest(path))
    return opened


@pytest.mark.slow
def test_too_many_bad_files_stop_the_run_and_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(
        VideoError, match=r"3 of 17 clips cannot be read, more than data\.max_bad_share=0\.15"
    ) as caught:
        Trainer(configured(tmp_path / "run", folder, max_bad_share=0.15))
    assert sum(str(folder / name) in str(caught.value) for name in BAD) == 3


@pytest.mark.slow
def test_resume_law_with_files_that_hang_and_crash(folder: Path, tmp_path: Path) -> None:
    """One that hung could be read later: it stays out, as it did from the run that never stopped."""
    (folder / "08_endless.gif").unlink()  # it takes as long as the one that hangs, each time
    whole = Seen(configured(tmp_path / "whole", folder, max_bad_share=0.8))
    whole.train()
    (folder / "11_hangs_once.mkv.met").unlink()
    stopped = Seen(configured(tmp_path / "stopped", folder, max_bad_share=0.8))
    stopped.fail_at = 3
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    gone_on = Seen(configured(tmp_path / "stopped", folder, max_bad_share=0.8))
    gone_on.train()
    assert min(gone_on.seen) == 2
    assert stopped.seen | gone_on.seen == whole.seen
    assert losses(tmp_path / "stopped") == losses(tmp_path / "whole")
    states = [
        checkpoint.load(checkpoint.list_checkpoints(tmp_path / f / "checkpoints")[-1]) for f in ("whole", "stopped")
    ]
    assert states[0][0] == states[1][0] == 4
    torch.testing.assert_close(states[0][1]["model"], states[1][1]["model"], rtol=0, atol=0)


def vae_run(output: Path, clips: Path, **vae: Any) -> Run:
    stage = {"steps": 4, "batch_size": 2, "num_frames": 5, "crop": None}
    small = {"channels": 4, "encoder_dim": 4, "decoder_dim": 4, "precision": "no", "warmup_steps": 2, "log_every": 1}
    data = configured(output, clips, validation=0, max_bad_share=0.8).data
    return Run(output=str(output), seed=3, data=data, vae=small | {"checkpoint_every": 2, "stages": [stage]} | vae)


def train_vae_twice(config: Run, stop: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stops it in a step, and goes on."""
    loss, steps = vae.reconstruct, []

    def interrupted(*args: Any) -> Any:
        steps.append(0)
        if len(steps) == stop:
            raise KeyboardInterrupt
        return loss(*args)

    with monkeypatch.context() as patch:
        patch.setattr(vae, "reconstruct", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_vae(config)
    train_vae(config)


def terms(output: Path) -> list[float]:
    lines = (output / "vae_training" / "losses.jsonl").read_text().splitlines()
    return [json.loads(line)[term] for line in lines for term in ("step", "l1", "mse", "kl")]


def watch_clips(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], int, np.ndarray]]:
    """The names of all clips, the index asked for and the frames got, of each read from now on."""
    read, shown = Clips.read, []

    def watched(self: Clips, index: int, draw: int) -> np.ndarray:
        frames = read(self, index, draw)
        shown.append(([Path(self.source.name(i)).name for i in range(len(self))], index, frames))
        return frames

    monkeypatch.setattr(Clips, "read", watched)
    return shown


@pytest.mark.slow
def test_a_vae_is_trained_on_the_next_clip_in_place_of_a_bad_one(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which one that is does not depend on what was met before: a run that was stopped goes on to the same weights."""
    (folder / "11_hangs_once.mkv").unlink()  # it is bad in one draw and sound in the next
    shown = watch_clips(monkeypatch)
    train_vae(vae_run(tmp_path / "whole", folder))
    for names, index, frames in shown:
        expected = next(name for name in names[index:] + names[:index] if name in GOOD)
        assert (frames == 18 * GOOD.index(expected)).all()
    assert any(names[index] in BAD for names, index, _ in shown)
    train_vae_twice(vae_run(tmp_path / "stopped", folder), 4, monkeypatch)
    assert terms(tmp_path / "stopped") == terms(tmp_path / "whole")
    codecs = [load_codec(vae_run(tmp_path / run, folder)) for run in ("whole", "stopped")]
    assert codecs[0].fingerprint() == codecs[1].fingerprint()


@pytest.mark.slow
def test_files_damaged_in_part_are_shown_in_the_same_draws_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A draw that could be read before the damage was met can be read again."""
    clips = tmp_path / "clips"
    clips.mkdir()
    for number in range(2):
        write_video(clips / f"{number}.mkv", np.full((9, 32, 32, 3), 90 * number, np.uint8), 8)
    for number in range(3):
        short = {"bf": "0", "g": "8", "sc_threshold": "0"}
        rot(write_numbered(clips, f"part_{number}.mp4", rate=8, options=short, container={"movflags": "faststart"}), 24)
    for path in list(clips.iterdir()):
        path.with_suffix(".txt").write_text("a square")
    stage = {"steps": 6, "batch_size": 1, "num_frames": 5, "crop": None}
    settings = {"stages": [stage], "checkpoint_every": 6, "image_share": 0.0}
    shown = watch_clips(monkeypatch)
    train_vae(vae_run(tmp_path / "whole", clips, **settings))
    in_part = [frames.std() > 10 for names, index, frames in shown[:6] if names[index].startswith("part")]
    assert set(in_part) == {True, False}  # some are shown, some replaced
    train_vae_twice(vae_run(tmp_path / "stopped", clips, **settings), 6, monkeypatch)
    assert terms(tmp_path / "stopped") == terms(tmp_path / "whole")
