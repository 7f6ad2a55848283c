"""A tiny run of the shapes world, and what tests in several processes do with it."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import torch
from tiny import tiny_wan

from videodit.config import Run
from videodit.models.transformer import SIZES
from videodit.training import checkpoint, inputs
from videodit.training.trainer import Trainer

SIZES["tiny"] = (4, 64, 4)  # a sixteenth of the weights to write, to sum and to step; what is proved is of any size

TINY: dict[str, Any] = {
    "seed": 3,
    "data": {"clips": 12, "validation": 4, "num_frames": 5, "height": 32, "width": 32, "image_share": 0.4},
    "text": {"width": 24, "depth": 1},
    "model": {"num_layers": 1, "mlp_ratio": 0.5},
    "train": {
        "steps": 4,
        "batch_size": 4,
        "warmup_steps": 1,
        "precision": "no",
        "checkpoint_every": 2,
        "validate_every": 4,
        "sample_every": 4,
        "num_inference_steps": 2,
        "guidance_scale": 2.5,
        "prompts": ["a red circle moving left"],
    },
}


VAE_RUN: dict[str, Any] = {"precision": "no", "warmup_steps": 2, "checkpoint_every": 10, "log_every": 1}
SMALL_VAE: dict[str, Any] = {"channels": 4, "encoder_dim": 4, "decoder_dim": 4, **VAE_RUN}


def equal(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return all(equal(v, b[k]) for k, v in a.items())
    if isinstance(a, list | tuple):
        return all(map(equal, a, b))
    return a == b


MEMORY = (".lock", "analysis.jsonl")  # of what a run learned, for another time


def files(folder: Path, pattern: str = "*") -> dict[str, bytes]:
    """All that a run left in a folder, by name; hidden files too, where the pattern has them."""
    inside = (file for file in sorted(folder.rglob(pattern)) if file.is_file() and file.name not in MEMORY)
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in inside}


def run(folder: Path, **changes: Any) -> Run:
    """The tiny run in a folder that already holds a VAE; `changes` go into the sections."""
    if not (folder / "vae").exists():  # whole or not there: several processes come here at once
        scratch = folder / f".vae-{os.getpid()}"
        tiny_wan().save_pretrained(scratch)
        try:
            scratch.rename(folder / "vae")
        except OSError:  # another was first
            shutil.rmtree(scratch)
    values: dict[str, Any] = {name: changes.pop(name, {}) for name in list(changes)}
    for name, section in TINY.items():
        values[name] = section | values.get(name, {}) if isinstance(section, dict) else section
    return Run.model_validate({"output": str(folder), **values})


MIXED = {
    # two sizes and stills, unequal batches (the last of an epoch are smaller), images, accumulation, given frames
    "data": {
        "clips": 17,
        "image_share": 0.3,
        "buckets": [
            {"num_frames": 5, "batch_size": 3},
            {"num_frames": 9, "width": 48, "batch_size": 2},
            {"num_frames": 1},
        ],
    },
    "objective": {"given_frames": {"first": 0.3, "any": 0.2}, "frame_times": 0.3},
    "train": {
        "gradient_accumulation_steps": 2,
        "optimizer": "muon",
        "schedule": "constant",
        "steps": 6,
        "log_every": 1,
        "checkpoint_every": 3,
        "validate_every": 6,
        "sample_every": 6,
        "ema_sigma_rels": [0.1],
    },
}


def mixed(folder: Path, **train: Any) -> Run:
    """A run with everything that could come out differently after a restart, or on other processes."""
    return run(folder, **(MIXED | {"train": MIXED["train"] | train}))


def wan_run(folder: Path, base: Path, **train: Any) -> Any:
    """On shapes, from images and clips, its text encoder as it is, at the shift that it was made with."""
    start = {"start_from": str(base / "ours"), "learning_rate": 0.01, "ema_decay": 0.0, "log_every": 1}
    values = run(
        folder,
        text={"source": str(base / "ours")},
        model={"num_layers": None, "mlp_ratio": 4.0},
        objective={"shift": 3.0, "given_frames": {"first": 0.3}},
        train=start | train,
    )
    return values.model_copy(update={"codec": str(base / "ours")})


def losses(folder: Path) -> dict[int, float]:
    """By the number of steps taken."""
    lines = [json.loads(line) for line in (folder / "losses.jsonl").read_text().splitlines()]
    kinds = ("loss_clip", "loss_image")
    return {line["step"]: line[kind] for line in lines for kind in kinds if kind in line}


class Seen(Trainer):
    """Keeps the names of the samples of each step (`seen`), and fails at a step (`fail_at`)."""

    fail_at = -1

    def __init__(self, config: Run):
        super().__init__(config)
        self.seen: dict[int, list[str]] = {}

    def step(self, step: int, pieces: Any = None) -> dict[str, float]:
        if step == self.fail_at:
            raise KeyboardInterrupt
        pieces = self.batches[step] if pieces is None else pieces
        self.seen[step] = [name for piece in pieces for name in piece.names]
        return super().step(step, pieces)


def train(folder: Path, sharding: str = "none", steps: int = 5, **changes: Any) -> dict[int, float]:
    """Trains the mixed run in this process's part; its losses."""
    trainer = Trainer(mixed(folder, sharding=sharding, steps=steps, **changes))
    trainer.train()
    group = trainer.raw_model.transformer.sequence_group
    assert (group.size() if group else 1) == changes.get("sequence_parallel", 1)  # after samples were made, too
    return losses(folder)


def train_measured(folder: Path, sharding: str, steps: int, together: int = 1) -> dict[int, float]:
    """The same, with a look at the clips kept out after each step; so many processes share a batch."""
    return train(folder, sharding, steps, checkpoint_every=2, validate_every=1, sequence_parallel=together)


def encode(folder: Path) -> list[str]:
    """Encodes the mixed run in this process's part; the names of all latents."""
    config = mixed(folder)
    train, _ = inputs.open_clips(config, inputs.load_codec(config))
    return [name for sample in train.samples for name in (sample.latent, sample.image)]


def train_until_killed(folder: Path, step: int) -> None:
    """As `train`, but killed while it writes the checkpoint of a step: tensors are there, the name is not."""
    publish = checkpoint._publish

    def kill(scratch: Path, final: Path) -> None:
        if final.name == f"step_{step:08d}":
            os.kill(os.getpid(), signal.SIGKILL)
        publish(scratch, final)

    checkpoint._publish = kill
    torch.set_num_threads(1)
    Trainer(mixed(folder)).train()


def train_with_nan(folder: Path, name: str) -> str:
    """The message of a run in which the latent of one sample is no number, wherever it is trained on."""
    trainer = Trainer(mixed(folder))
    read = trainer.train_clips.__class__.__getitem__

    def broken(self: Any, which: tuple[int, bool]) -> torch.Tensor:
        latent = read(self, which)
        return latent * float("nan") if self.samples[which[0]].name == name else latent

    trainer.train_clips.__class__.__getitem__ = broken
    try:
        trainer.train()
    except FloatingPointError as error:
        return str(error)
    return "nothing"


def train_wan(folder: Path, base: Path, sharding: str, **train: Any) -> dict[int, float]:
    """Trains a tiny Wan in this process's part; its losses."""
    Trainer(wan_run(folder, base, sharding=sharding, **train)).train()
    return losses(folder)
