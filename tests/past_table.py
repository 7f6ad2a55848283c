"""Do clips of a thousand frames drift less where each window is told, in few tokens, of what was long before it?

    python -m tests.past_table FOLDER [--clips 96] [--steps 300] [--held-out 6] [--frames 1024]

The packaged shapes model learns to be told its past (`{kind: tokens, of: past}`), by what reads the past alone, so that
untold it is the packaged model. Both then go on, in windows of 17 frames of which 5 are shared, for as many frames as
asked, from the same noise, for things that stay where they are, spin, circle or bounce. A judge that measures pixels
says of each 16 frames whether the colour and the shape are those of the prompt, and how large the thing is.
"""

from __future__ import annotations

import argparse
import json
from itertools import count, islice, pairwise
from pathlib import Path

import numpy as np

from videodit import VideoDiTPipeline
from videodit.config import Run
from videodit.evaluation.judge import compare, judge
from videodit.evaluation.judge.world import prompt
from videodit.geometry import ClipSize
from videodit.long import long_clip
from videodit.shapes import Scene, ShapesWorld, render, rng_for
from videodit.training.trainer import Trainer
from videodit.video import write_video
from videodit.video.writer import contact_sheet

ENDLESS = ("still", "spinning", "circling", "bouncing")
LONG, SHOWN, FPS, PART = 129, 17, 8.0, 16
HELD_OUT = 10_000


def scenes(first: int, number: int) -> list[Scene]:
    """Of one thing each, whose motion has no end."""
    world = ShapesWorld(ClipSize(LONG, 64, 64, FPS), seed=3, num_things=1)
    found = (world.scene(i) for i in count(first))
    return list(islice((scene for scene in found if scene.things[0].motion in ENDLESS), number))


def trained(folder: Path, clips: int, steps: int) -> VideoDiTPipeline:
    data = folder / "data"
    rows = []
    for number, scene in enumerate(scenes(0, clips)):
        write_video(data / f"{number}.mkv", render(scene, ClipSize(LONG, 64, 64, FPS), rng_for(3, number)), FPS)
        rows.append(json.dumps({"file": f"{number}.mkv", "caption": prompt(scene)}))
    (data / "clips.jsonl").write_text("\n".join(rows))
    config = {
        "output": str(folder / "run"),
        "codec": "shapes",
        "data": {
            "source": str(data / "clips.jsonl"),
            "num_frames": SHOWN,
            "spans": 6,
            "image_share": 0,
            "validation": 8,
        },
        "model": {"conditions": {"past": {"kind": "tokens", "of": "past", "frames": 65, "dropout": 0.1}}},
        "objective": {"shift": 6, "logit_std": 1.5, "given_frames": {"start": 0.8}},
        "train": {
            "start_from": "shapes",
            "weights": ["transformer.condition_embedders*"],
            "steps": steps,
            "batch_size": 24,
            "optimizer": "muon",
            "learning_rate": 1e-3,
            "muon_learning_rate": 4e-3,
            "warmup_steps": 20,
            "ema_decay": 0.98,
        },
    }
    Trainer(Run.model_validate(config)).train()
    return VideoDiTPipeline.from_pretrained(folder / "run" / "pipeline")


def main(folder: Path, clips: int, steps: int, held_out: int, frames: int) -> None:
    pipes = {"told": trained(folder, clips, steps), "untold": VideoDiTPipeline.shipped("shapes")}
    asked = scenes(HELD_OUT, held_out)
    edges = [0, frames // 8, frames // 2, frames]
    print("| | frames | colour | shape | size, over that of its first 16 frames |\n|---|---|---|---|---|")
    for name, pipe in pipes.items():
        pipe.set_progress_bar_config(disable=True)
        right, sizes, shown = [], [], []
        for number, scene in enumerate(asked):
            parts = long_clip(pipe, prompt(scene), frames, window=SHOWN, overlap=5, seed=number, num_inference_steps=12)
            clip = np.stack(list(parts))
            shown.append(clip[:: frames // 16])
            seen = [judge(clip[at : at + PART], fps=FPS) for at in range(0, frames - PART + 1, PART)]
            verdicts = [compare(one, scene)[0] for one in seen]
            right.append([(one.color, one.shape) for one in verdicts])
            radii = [max((one.radius for one in part), default=0.0) for part in seen]
            sizes.append(np.array(radii) / max(radii[0], 1e-3))
        contact_sheet(shown, folder / f"{name}.png", labels=list(map(prompt, asked)))
        for first, last in pairwise(edges):
            part = slice(first // PART, last // PART)
            color, shape = 100 * np.array(right)[:, part].mean(axis=(0, 1))
            size = np.array(sizes)[:, part].mean()
            print(f"| {name} | {first} to {last} | {color:.1f} % | {shape:.1f} % | {size:.2f} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    for option, usual in (("clips", 96), ("steps", 300), ("held-out", 6), ("frames", 1024)):
        parser.add_argument(f"--{option}", type=int, default=usual)
    main(**vars(parser.parse_args()))
