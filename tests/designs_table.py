"""How a model is told: designs of one size, each trained for the same compute on the same small world.

    python -m tests.designs_table FOLDER [--seconds 210] [--prompts 96]

Images of the shapes world, in the packaged VAE's latents, told the states of the packaged emoji model's text encoder. A
design is trained from nothing until it has used so many seconds of the processor; then its held-out loss, and of images
of prompts that training never saw how many have the colour and the shape that were asked for, by a judge that measures
pixels.
"""

from __future__ import annotations

import argparse
import time
from itertools import count
from pathlib import Path
from typing import Any

import torch

from videodit.config import Run
from videodit.evaluation.judge import world
from videodit.evaluation.judge.sampled import ByPipeline
from videodit.geometry import ClipSize
from videodit.training.trainer import Trainer

DESIGNS: dict[str, dict[str, Any]] = {
    "time by `ada_norm_zero` (DiT), text by cross-attention": {"norm_type": "ada_norm_zero"},
    "time by `ada_norm_single` (PixArt), text by cross-attention": {"norm_type": "ada_norm_single"},
    "time as a token, text by cross-attention": {"norm_type": "layer_norm"},
    "time by `ada_norm_single`, text in context": {"norm_type": "ada_norm_single", "caption_in": "context"},
    "time as a token, text in context": {"norm_type": "layer_norm", "caption_in": "context"},
    "the same with long skips (U-ViT)": {"norm_type": "layer_norm", "caption_in": "context", "skips": "long"},
}


def trained(folder: Path, design: dict[str, Any], seconds: float) -> tuple[Trainer, int, int]:
    """A run, how many steps it took, and how many weights it has."""
    config = {
        "output": str(folder),
        "codec": "shapes",
        "data": {"source": "shapes", "clips": 8192, "num_frames": 1, "validation": 256, "image_share": 1.0},
        "text": {"source": "emoji"},
        "model": {"size": "tiny", "mlp_ratio": 3, "patch_size": [1, 1, 1], "axes": ["space"], **design},
        "objective": {"shift": 3},
        "train": {
            "steps": 100_000,
            "batch_size": 128,
            "optimizer": "muon",
            "learning_rate": 1.5e-3,
            "muon_learning_rate": 6e-3,
            "warmup_steps": 50,
            "schedule": "constant",
            "ema_decay": 0.99,
            "trackers": [],
        },
    }
    trainer = Trainer(Run.model_validate(config))
    begin = time.process_time()
    for step in count():
        if time.process_time() - begin > seconds:
            return trainer, step, sum(weight.numel() for weight in trainer.weights)
        trainer.step(step)
    raise AssertionError


def main(folder: Path, seconds: float, prompts: int) -> None:
    size = ClipSize(1, 64, 64, 8.0)
    print("| | weights | steps | held-out loss | colour | shape |\n|---|---|---|---|---|---|")
    for name, design in DESIGNS.items():
        trainer, steps, weights = trained(folder, design, seconds)
        loss = trainer.validate()["validation_loss"]
        with trainer.averaged_pipeline(to_save=False) as pipe, torch.no_grad():
            pipe.set_progress_bar_config(disable=True)
            made = ByPipeline(pipe, size, (), 16, 3.0, ())
            found = world.evaluate_world(made, prompts=prompts, seed=0, batch_size=32, size=size)
        shares = found.shares(found.model, 1)
        right = " | ".join(f"{100 * shares[fact].value:.0f} %" for fact in ("color", "shape"))
        print(f"| {name} | {weights / 1e6:.1f} M | {steps} | {loss:.3f} | {right} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=210)
    parser.add_argument("--prompts", type=int, default=96)
    main(**vars(parser.parse_args()))
