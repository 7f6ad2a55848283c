"""A small world where a sound says how large a ball is: does a model that hears it make such clips?

    python -m tests.loudness_table FOLDER [--clips 384] [--steps 300] [--held-out 48]

Each clip is two seconds of a ball of one colour on another, beside a file of noise whose loudness goes along straight
lines between the latent's frames; so does the ball's radius. A `tiny` model of four blocks is trained on them with the
condition `{kind: vectors, per: frame, of: loudness}`, its caption being the colours alone. It then makes clips of
sounds it never heard, and of the same noise with no sound; in each frame the ball's radius is that of as much area as
is nearer to its colour. The table has the correlation of radius and loudness, in all frames and in each clip.
"""

from __future__ import annotations

import argparse
import json
import wave
from itertools import permutations
from pathlib import Path

import numpy as np
import torch

from videodit import VideoDiTPipeline
from videodit.codec.sounds import QUIET
from videodit.config import Run
from videodit.geometry import SOUND_RATE
from videodit.shapes import COLORS
from videodit.training.trainer import Trainer
from videodit.video import write_video

FRAMES, SIDE, FPS, STRIDE = 17, 64, 8.0, 4
KNOTS = 1 + (FRAMES - 1) // STRIDE
PAIRS = list(permutations(COLORS, 2))
RADII = (4.0, 28.0)  # pixels, at loudness 0.2 and 1


def loudness(number: int) -> np.ndarray:
    """Of each of a clip's frames, from 0.2 to 1."""
    knots = np.random.default_rng(number).uniform(0.2, 1, KNOTS)
    return np.interp(np.arange(FRAMES) / STRIDE, np.arange(KNOTS), knots)


def sound(number: int, path: Path) -> Path:
    """Noise as loud as that, as a wav file."""
    at = np.arange(int(FRAMES / FPS * SOUND_RATE)) / SOUND_RATE * FPS
    amplitude = 10 ** ((np.interp(at, np.arange(FRAMES), loudness(number)) - 1) * QUIET / 20)
    noise = np.random.default_rng(number).choice([-1.0, 1.0], len(at))  # whose mean square is 1
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, SOUND_RATE, 0, "NONE", ""))
        file.writeframes(np.rint(noise * amplitude * 32767).astype("<i2").tobytes())
    return path


def frames(number: int) -> np.ndarray:
    """f h w 3, uint8: the ball in the middle, its edge drawn to a fraction of a pixel."""
    ball, ground = (np.array(COLORS[name], np.float64) for name in PAIRS[number % len(PAIRS)])
    from_middle = np.hypot(*(np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2))
    radii = np.interp(loudness(number), (0.2, 1), RADII)
    cover = np.clip(radii[:, None, None] - from_middle + 0.5, 0, 1)[..., None]
    return np.rint(cover * ball + (1 - cover) * ground).astype(np.uint8)


def caption(number: int) -> str:
    return "a {} ball on {}".format(*PAIRS[number % len(PAIRS)])


def radii(clip: np.ndarray, number: int) -> np.ndarray:
    """Of the ball in each frame of a clip f h w 3 from 0 to 1."""
    ball, ground = (np.array(COLORS[name]) / 255 for name in PAIRS[number % len(PAIRS)])
    nearer = np.linalg.norm(clip - ball, axis=-1) < np.linalg.norm(clip - ground, axis=-1)
    return np.sqrt(nearer.sum((1, 2)) / np.pi)


def trained(folder: Path, clips: int, steps: int) -> VideoDiTPipeline:
    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(clips):
        write_video(data / f"{number}.mkv", frames(number), FPS)
        heard = sound(number, data / f"{number}.wav").name
        rows.append(json.dumps({"file": f"{number}.mkv", "caption": caption(number), "heard": heard}))
    (data / "clips.jsonl").write_text("\n".join(rows))
    config = {
        "output": str(folder / "run"),
        "codec": "shapes",
        "data": {"source": str(data / "clips.jsonl"), "num_frames": FRAMES, "start": "first", "image_share": 0},
        "text": {"width": 64, "depth": 1},
        "model": {
            "size": "tiny",
            "num_layers": 2,
            "mlp_ratio": 2,
            "patch_size": [1, 1, 1],
            "conditions": {"heard": {"kind": "vectors", "per": "frame", "of": "loudness", "dropout": 0.1}},
        },
        "objective": {"shift": 3},
        "train": {
            "steps": steps,
            "batch_size": 24,
            "optimizer": "muon",
            "learning_rate": 1.5e-3,
            "muon_learning_rate": 6.0e-3,
            "warmup_steps": 20,
            "ema_decay": 0.98,
            "prompts": [caption(0)],
        },
    }
    Trainer(Run.model_validate(config)).train()
    return VideoDiTPipeline.from_pretrained(folder / "run" / "pipeline")


def main(folder: Path, clips: int, steps: int, held_out: int) -> None:
    pipe = trained(folder, clips, steps)
    pipe.set_progress_bar_config(disable=True)
    found: dict[str, list[np.ndarray]] = {"heard": [], "not told": []}
    for number in range(clips, clips + held_out):
        heard = sound(number, folder / "heard.wav")
        for kind, conditions in (("heard", {"heard": heard}), ("not told", None)):
            made = pipe(
                caption(number),
                num_frames=FRAMES,
                num_inference_steps=16,
                guidance_scale=2.0,
                conditions=conditions,
                generator=torch.Generator().manual_seed(number),
            )
            found[kind].append(radii(made.frames[0], number))
    true = np.array([loudness(number) for number in range(clips, clips + held_out)])
    print("| sound | correlation of radius and loudness | median of a clip's own |\n|---|---|---|")
    for kind, rows in found.items():
        own = [np.corrcoef(*pair)[0, 1] for pair in zip(rows, true, strict=True) if np.ptp(pair[0]) > 0]
        print(f"| {kind} | {np.corrcoef(np.ravel(rows), true.ravel())[0, 1]:.3f} | {np.median(own):.3f} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    for option, usual in (("clips", 384), ("steps", 300), ("held-out", 48)):
        parser.add_argument(f"--{option}", type=int, default=usual)
    main(**vars(parser.parse_args()))
