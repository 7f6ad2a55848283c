"""Feature caches and the guidance interval on the packaged model, as a table for the docs: speed, pixel error, judge.

    python -m tests.cache_table [--prompts 64]

Held-out prompts of one thing, 17 frames, 30 steps, guidance 4, each with its own seed. All ways take turns on the same
batch of four prompts, in one thread. Speed is processor time for the whole call (text, 30 steps, decode), by the median
over batches, and so of this processor; pixel error is against the same clip without any of it; right are the clips in
which the judge of the shapes world sees colour, shape and motion as asked and nothing else (95 % intervals).
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch

from videodit import VideoDiTPipeline
from videodit.caching import set_cache
from videodit.evaluation.judge import compare, judge
from videodit.evaluation.judge.world import Share, held_out_scenes, prompt

BATCH = 4
WAYS: dict[str, tuple[str | None, dict[str, Any]]] = {
    "none": (None, {}),
    "`--cache first-block` (0.1)": ("first-block", {}),
    "`--cache first-block=0.2`": ("first-block=0.2", {}),
    "`--cache pyramid-attention` (2)": ("pyramid-attention", {}),
    "`--cache taylorseer` (3)": ("taylorseer", {}),
    "`--cache taylorseer=5`": ("taylorseer=5", {}),
    "`--cache sea` (0.25)": ("sea", {}),
    "`--cache sea=0.5`": ("sea=0.5", {}),
    "`--guidance-interval 0 0.5`": (None, {"guidance_interval": (0.0, 0.5)}),
    "`--guidance-interval 0.2 0.8`": (None, {"guidance_interval": (0.2, 0.8)}),
    "`--guidance-interval 0 0.5 --cache taylorseer`": ("taylorseer", {"guidance_interval": (0.0, 0.5)}),
    "`--steps 15`": (None, {"num_inference_steps": 15}),
}


def main(count: int) -> None:
    torch.set_num_threads(1)
    pipe = VideoDiTPipeline.shipped("shapes")
    pipe.set_progress_bar_config(disable=True)
    scenes = held_out_scenes(count, 0, 1)
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    clips: dict[str, list[np.ndarray]] = {way: [] for way in WAYS}
    for start in range(0, count, BATCH):
        prompts = [prompt(scene) for scene in scenes[start : start + BATCH]]
        for way, (cache, options) in WAYS.items():
            set_cache(pipe, cache)
            seeds = [torch.Generator().manual_seed(start + i) for i in range(len(prompts))]
            begin = time.process_time()
            frames = pipe(prompts, generator=seeds, output_type="np", **options).frames
            seconds[way].append((time.process_time() - begin) / len(prompts))
            clips[way] += [np.rint(clip * 255).astype(np.uint8) for clip in frames]
    print("| | seconds a clip | times as fast | mean error, of 255 | PSNR, dB | right |")
    print("|---" * 6 + "|")
    for way in WAYS:
        print(" | ".join(["| " + way, *row(seconds, clips, way), right(clips[way], scenes) + " |"]))


def row(seconds: dict[str, list[float]], clips: dict[str, list[np.ndarray]], way: str) -> list[str]:
    mine, plain = np.stack(clips[way]).astype(float), np.stack(clips["none"]).astype(float)
    faster = np.median(np.array(seconds["none"]) / np.array(seconds[way]))
    error = np.abs(mine - plain).mean()
    psnr = 10 * np.log10(255**2 / np.maximum(((mine - plain) ** 2).mean(axis=(1, 2, 3, 4)), 1e-9)).mean()
    speed = [f"{np.median(seconds[way]):.2f}", f"{faster:.2f}"]
    return speed + (["0", "-"] if error == 0 else [f"{error:.2f}", f"{psnr:.1f}"])


def right(clips: list[np.ndarray], scenes: list[Any]) -> str:
    hits = sum(all(v.all for v in compare(judge(c, fps=8.0), s)) for c, s in zip(clips, scenes, strict=True))
    share = Share(hits, len(scenes))
    low, high = share.interval
    return f"{100 * share.value:.1f} % ({100 * low:.1f}-{100 * high:.1f})"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=64)
    main(parser.parse_args().prompts)
