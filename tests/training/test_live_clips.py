"""Training on clips that are read in each step: the same laws as from the store, and other stretches in each epoch."""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from runs import Seen, losses, run

from videodit.config import Run
from videodit.data.live import LiveClips
from videodit.training import checkpoint
from videodit.training.batches import Batch, Batches
from videodit.training.trainer import Trainer
from videodit.video import VideoError, write_video

pytestmark = pytest.mark.slow


@cache
def whole_films() -> list[bytes]:
    """Eight clips of forty frames of noise, of two shapes."""
    films = []
    with TemporaryDirectory() as folder:
        for number in range(8):
            width = 48 if number % 2 else 32
            coarse = np.random.default_rng(number).integers(0, 256, (40, 8, width // 4, 3), dtype=np.uint8)
            frames = coarse.repeat(4, axis=1).repeat(4, axis=2)
            films.append(write_video(Path(folder) / f"{number}.mp4", frames, 8).read_bytes())
    return films


def films(folder: Path, *, damaged: tuple[int, ...] = ()) -> Path:
    """These with captions; the damaged ones decode at their beginning alone."""
    folder.mkdir()
    for number, whole in enumerate(whole_films()):
        third = len(whole) // 3
        part = whole[:third] + bytes(third) + whole[2 * third :]
        (folder / f"{number}.mp4").write_bytes(part if number in damaged else whole)
        (folder / f"{number}.txt").write_text(f"noise number {number}")
    return folder


def live(folder: Path, source: Path, **changes: Any) -> Run:
    data = {
        "source": str(source),
        "encode": "each_step",
        "validation": 2,
        "image_share": 0.3,
        "max_bad_share": 0.7,
        "buckets": [{"width": 32, "batch_size": 2}, {"width": 48, "batch_size": 2}],
    }
    train = {"steps": 6, "checkpoint_every": 3, "validate_every": 6, "sample_every": 100, "log_every": 1}
    return run(folder, data=data | changes.pop("data", {}), train=train | changes.pop("train", {}), **changes)


def batch(trainer: Trainer, step: int, process: tuple[int, int] = (0, 1)) -> list[Batch]:
    b = trainer.batches
    return Batches(trainer.config, trainer.train_clips, b.sampler, b.path, b.strides, b.patch, process)[step]


def test_a_step_is_that_of_the_store_where_every_epoch_shows_the_same(tmp_path: Path) -> None:
    source = films(tmp_path / "films")
    trainers = [
        Trainer(live(tmp_path / how, source, data={"encode": how, "start": "first"})) for how in ("once", "each_step")
    ]
    for step in range(4):
        stored, read = (batch(trainer, step)[0] for trainer in trainers)
        assert (stored.names, stored.captions, stored.size) == (read.names, read.captions, read.size)
        assert torch.equal(stored.noise, read.noise)
        assert torch.equal(stored.times, read.times)
        torch.testing.assert_close(
            *(t.errors(b) for t, b in zip(trainers, (stored, read), strict=True)), rtol=1e-3, atol=1e-3
        )


def test_every_epoch_shows_another_stretch_and_the_same_again(tmp_path: Path) -> None:
    trainer = Trainer(live(tmp_path / "run", films(tmp_path / "films"), data={"spans": 2, "image_share": 0.0}))
    clips = trainer.train_clips
    assert isinstance(clips, LiveClips)
    assert len(clips) == 12  # two stretches of each of six
    shown = {(number, epoch): clips.read(number, False, epoch)[1] for number in range(12) for epoch in range(2)}
    alike = [a for a in shown for b in shown if a < b and torch.equal(shown[a], shown[b])]
    assert len(alike) <= 2  # by chance
    assert all(torch.equal(clips.read(number, False, epoch)[1], pixels) for (number, epoch), pixels in shown.items())
    first = clips.read(3, True, 1)[1]
    torch.testing.assert_close(first, shown[3, 1][:, :1])


def test_processes_share_a_batch_out_whatever_their_number(tmp_path: Path) -> None:
    trainer = Trainer(live(tmp_path / "run", films(tmp_path / "films")))
    for step in range(3):
        whole = batch(trainer, step)[0]
        parts = [batch(trainer, step, (index, 2))[0] for index in range(2)]
        counted = [part for part in parts if part.counts.sum()]
        assert [name for part in counted for name in part.names] == whole.names
        assert torch.equal(torch.cat([part.shown for part in counted]), whole.shown)


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_law_with_clips_that_are_damaged_on_the_way(tmp_path: Path, workers: int) -> None:
    source = films(tmp_path / "films", damaged=(1, 2, 5))
    whole = Seen(live(tmp_path / "whole", source))
    whole.train()
    assert whole.bad  # some were replaced
    assert not (tmp_path / "whole" / "latents" / "quarantine.jsonl").exists()  # and may be read in another epoch
    stopped = Seen(live(tmp_path / "parts", source, train={"workers": workers}))
    stopped.fail_at = 4
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    gone_on = Seen(live(tmp_path / "parts", source, train={"workers": workers}))
    gone_on.train()
    assert stopped.seen | gone_on.seen == whole.seen
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    ends = [checkpoint.load(tmp_path / name / "checkpoints" / "step_00000006")[1] for name in ("parts", "whole")]
    assert all(torch.equal(ends[0]["model"][name], weight) for name, weight in ends[1]["model"].items())


def test_a_clip_that_cannot_be_read_is_replaced_by_the_next_of_its_bucket(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = films(tmp_path / "films")
    trainer = Trainer(live(tmp_path / "run", source, data={"validation": 0, "spans": 1}))
    clips = trainer.train_clips
    before = {n: clips.read(n, False, 0) for n in range(8)}
    (source / "3.mp4").write_bytes(b"gone bad since it was measured")
    (source / "5.mp4").write_bytes(b"too")
    bad = [n for n, sample in enumerate(clips.samples) if Path(sample.name).name in ("3.mp4", "5.mp4")]
    for n in range(8):
        number, pixels, found = clips.read(n, False, 0)
        same = [m for m in range(8) if clips.samples[m].size == clips.samples[n].size]
        after = same[same.index(n) :] + same[: same.index(n)]
        assert number == next(m for m in after if m not in bad)
        assert torch.equal(pixels, before[number][1])
        assert set(found) == {clips.samples[m].name for m in after[: after.index(number)]}
    for step in range(trainer.batches.sampler.steps_per_epoch):
        trainer.step(step)
    said = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len([line for line in said if line.startswith("replaced") and "3.mp4" in line]) == 1
    assert {Path(name).name for name in trainer.bad} == {"3.mp4", "5.mp4"}


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_clips_that_turn_bad_stop_the_run(tmp_path: Path, workers: int) -> None:
    source = films(tmp_path / "films")
    changes = {"data": {"validation": 0, "max_bad_share": 0.3}, "train": {"workers": workers, "validate_every": 100}}
    trainer = Trainer(live(tmp_path / "run", source, **changes))
    for name in ("1.mp4", "3.mp4", "4.mp4"):
        (source / name).write_bytes(b"gone bad")
    with pytest.raises(VideoError, match=r"3 of 8 clips cannot be read, more than data\.max_bad_share=0\.3"):
        trainer.train()


def test_nothing_of_the_training_clips_is_stored(tmp_path: Path) -> None:
    trainer = Trainer(live(tmp_path / "run", films(tmp_path / "films"), data={"validation": 0}))
    trainer.step(0)
    assert not list((tmp_path / "run" / "latents").glob("vae-*/*.safetensors"))
