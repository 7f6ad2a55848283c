"""The packaged model's own gallery: 24 clips side by side, of prompts that a rule draws, each with its first seed.

    python -m tests.emoji_gallery --out docs/gallery.webp [--model emoji]

The first 16 questions of `known` that `videodit evaluate --world emoji` asks, and the first 8 of `grounds`, things on
grounds on which training never showed them. Nothing is chosen by hand; it prints the prompts in order.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from einops import rearrange

from videodit import VideoDiTPipeline
from videodit.evaluation.judge.emoji import questions
from videodit.packaged import named_folder
from videodit.video import write_video

COLUMNS, BATCH = 6, 8


def main(model: str, out: Path) -> None:
    pipe = VideoDiTPipeline.from_pretrained(named_folder(model))
    asked = [*questions("known", 16), *questions("grounds", 8)]
    clips = []
    for start in range(0, len(asked), BATCH):
        some = asked[start : start + BATCH]
        made = pipe(
            [one.prompt for one in some], generator=[torch.Generator().manual_seed(one.seed) for one in some]
        ).frames
        clips += list(np.rint(made * 255).astype(np.uint8))
    loops = np.stack(clips)[:, :-1]  # the last frame is the first again
    grid = rearrange(loops, "(r c) f h w k -> f (r h) (c w) k", c=COLUMNS)
    write_video(out, grid, pipe.default_size.fps)
    for number, one in enumerate(asked):
        print(f"{number // COLUMNS + 1}.{number % COLUMNS + 1}  {one.prompt}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    main(args.model, args.out)
