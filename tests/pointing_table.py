"""How well words point, as a table for the docs: is a word's map highest on its thing?

    python -m tests.pointing_table [--frames 17] [--steps 16] [--prompts 64]

The packaged model makes clips of two things that the shapes world names; a judge that measures pixels finds the bodies
in them. Of each thing whose colour is seen once, the map of its colour word and that of its shape word are taken where
they are highest in each frame: does that token overlap the body, and is its place, once the map is scaled up, within
it? Chance is the share of tokens, or of pixels, that do or are.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from einops import rearrange

from videodit import VideoDiTPipeline, sample_with_attention
from videodit.evaluation.judge.bodies import bodies_of
from videodit.evaluation.judge.verdict import _color_name
from videodit.geometry import ClipSize
from videodit.shapes import ShapesWorld

BATCH, SEED = 8, 77


def main(frames: int, steps: int, prompts: int) -> None:
    pipe = VideoDiTPipeline.shipped("shapes")
    pipe.set_progress_bar_config(disable=True)
    size = ClipSize(frames, 64, 64, 8.0)
    world = ShapesWorld(size, seed=SEED, num_things=2)
    found: dict[str, list[np.ndarray]] = {"colour": [], "shape": []}
    for start in range(0, prompts, BATCH):
        numbers = range(start, min(start + BATCH, prompts))
        clips = sample_with_attention(
            pipe,
            [world.captions(i)[0] for i in numbers],
            num_frames=frames,
            num_inference_steps=steps,
            generator=[torch.Generator().manual_seed(i) for i in numbers],
        )
        for number, clip in zip(numbers, clips, strict=True):
            bodies = bodies_of(np.rint(clip.frames * 255))
            for thing in world.scene(number).things:
                own = [body for body in bodies if _color_name(body.color) == thing.color]
                for kind, text in (("colour", thing.color), ("shape", thing.shape)):
                    words = [word for word in clip.words if word.text == text]
                    if len(own) == len(words) == 1:
                        found[kind].append(points(words[0], own[0]))
    print("| word | things | token overlaps its thing | chance | place within it | chance |\n|---|---|---|---|---|---|")
    for kind, rows in found.items():
        shares = (f"{100 * share:.1f} %" for share in np.mean(rows, axis=0))
        print(f"| {kind} | {len(rows)} | {' | '.join(shares)} |")


def points(word, body) -> np.ndarray:
    """Means over frames: the token overlaps, by chance, the place is within, by chance."""
    scaled, rows = word.over(64, 64), []
    for frame, cover in zip(body.frames, body.cover, strict=True):
        places, inside = word.places[word.of_frames[frame]], cover > 0.5
        overlap = rearrange(inside, "(h p) (w q) -> h w (p q)", h=places.shape[0], w=places.shape[1]).any(-1)
        token, place = overlap.flat[places.argmax()], inside.flat[scaled[frame].argmax()]
        rows.append((token, overlap.mean(), place, inside.mean()))
    return np.mean(rows, axis=0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for option, usual in (("frames", 17), ("steps", 16), ("prompts", 64)):
        parser.add_argument(f"--{option}", type=int, default=usual)
    main(**vars(parser.parse_args()))
