"""The ordering law on real clips, as a table for the docs: how each measure answers to each way to spoil a clip.

    python -m tests.ordering_table CLIPS

CLIPS is a folder of videos of 1.6 seconds or more, which are read at 16 frames a second, 256 pixels on the short side,
cut to the middle square. For each corruption and measure: the mean over clips at each strength, and in how many clips
each strength is worse than the one before. The measures marked * are those that the law names.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))  # as pytest has it

from corruptions import CORRUPTIONS, FRAMES, SPARE, Corruption

from videodit.evaluation.measure.measures import MEASURES, measure
from videodit.video import VIDEO_SUFFIXES, read_clip

FPS, SIDE = 16.0, 256


def main(folder: Path) -> None:
    paths = sorted(path for path in folder.rglob("*") if path.suffix in VIDEO_SUFFIXES)
    if len(paths) < 2:
        sys.exit(f"{folder}: two videos or more are needed")
    clips = [read(path) for path in paths]
    print("| corruption, in | measure | better | none | " + " | ".join("1234") + " | worse each time |")
    print("|---" * 9 + "|")
    for name, corruption in CORRUPTIONS.items():
        values = np.stack([answers(corruption, clip, other) for clip, other in pairs(clips)])  # clip strength measure
        print(f"| **{name}**, {corruption.unit} | | | {row(np.array(corruption.strengths))} | |")
        for measure_name, of_clips in zip(looked_at(corruption), values.transpose(2, 0, 1), strict=True):
            better = MEASURES[measure_name].metric.better
            worse = np.diff(of_clips, axis=1) * (-1 if better == "higher" else 1) > 0
            count = "" if better == "neither" else f"{int(worse.all(axis=1).sum())} of {len(clips)}"
            star = " *" if measure_name in corruption.worsens else ""
            print(f"| | {measure_name}{star} | {better} | {row(of_clips.mean(axis=0))} | {count} |", flush=True)


def row(values: np.ndarray) -> str:
    return " | ".join(f"{value:.4g}" for value in values)


def looked_at(corruption: Corruption) -> tuple[str, ...]:
    return corruption.worsens + corruption.beside


def read(path: Path) -> np.ndarray:
    frames = read_clip(path, FRAMES + SPARE, FPS, cover=(SIDE, SIDE))
    top, left = ((length - SIDE) // 2 for length in frames.shape[1:3])
    return frames[:, top : top + SIDE, left : left + SIDE]


def pairs(clips: list[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Each clip with another one, which is of another scene."""
    return zip(clips, clips[len(clips) // 2 :] + clips[: len(clips) // 2], strict=True)


def answers(corruption: Corruption, clip: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Values (strength measure)."""
    names = looked_at(corruption)
    scores = [measure(corruption(clip, strength, other), FPS, names) for strength in corruption.strengths]
    return np.array([[score[name].value for name in names] for score in scores], dtype=float)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path)
    main(parser.parse_args().clips)
