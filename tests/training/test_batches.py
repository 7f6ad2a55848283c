"""A global batch over processes and pieces: each sample once; a place that has none is filled and does not count."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from runs import run

from videodit.data.sampler import Sampler
from videodit.diffusion.paths import FlowPath
from videodit.geometry import ClipSize, Strides
from videodit.training.batches import Batch, Batches

SIZE = ClipSize(9, 32, 32, 8.0)
STRIDES, PATCH = Strides(4, 8, 2), (1, 2, 2)


class Numbered:
    """Clips whose latents are their number."""

    def __init__(self, count: int) -> None:
        self.samples = [
            SimpleNamespace(name=str(i), captions=(f"clip {i}",), image_captions=(f"image {i}",)) for i in range(count)
        ]

    def read(self, number: int, image: bool, epoch: int) -> tuple[int, torch.Tensor, dict[str, str]]:
        return number, torch.full((2, 3, 4, 4), float(number)), {}


def pieces(folder: Path, clips: int, process: tuple[int, int], accumulation: int = 1) -> list[Batch]:
    """Of the only global batch of an epoch what one process trains on."""
    sampler = Sampler([SIZE] * clips, {SIZE: clips, SIZE.image(): clips})
    train = {"gradient_accumulation_steps": accumulation, "caption_dropout": 0.0}
    config = run(folder, train=train, objective={"given_frames": {"first": 0.5}, "frame_times": 0.5})
    numbered: Any = Numbered(clips)
    return Batches(config, numbered, sampler, FlowPath(), STRIDES, PATCH, process)[0]


@pytest.mark.slow
@pytest.mark.parametrize("clips", [1, 2, 5, 8])
@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("accumulation", [1, 3])
def test_each_sample_is_trained_on_once_whatever_shares_the_batch(
    tmp_path: Path, clips: int, count: int, accumulation: int
) -> None:
    """With the noise, times, given frames and words that it has alone; a filler is one sample that does not count."""
    (whole,) = pieces(tmp_path, clips, (0, 1))
    shares = [pieces(tmp_path, clips, (index, count), accumulation) for index in range(count)]
    # all processes walk through the model as often, and none more often than the largest share has samples
    assert {len(share) for share in shares} == {min(accumulation, -(-clips // count))}
    seen = []
    for piece in (piece for share in shares for piece in share):
        assert piece.total == clips
        assert len(piece.names) == len(piece.counts) == len(piece.shown) == len(piece.noise) == len(piece.times)
        if not piece.counts.any():
            assert len(piece.names) == 1
            continue
        assert piece.counts.tolist() == [1.0] * len(piece.names)
        seen += list(piece.names)
        for row, name in enumerate(piece.names):
            place = whole.names.index(name)
            assert piece.captions[row] == whole.captions[place] == f"clip {name}"
            for part in ("shown", "noise", "times", "given"):
                assert torch.equal(getattr(piece, part)[row], getattr(whole, part)[place])
    assert sorted(seen) == sorted(whole.names)
    assert len(seen) == clips
