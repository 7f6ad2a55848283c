"""What a small text encoder of one's own can learn beside a transformer."""

from __future__ import annotations

import random
from itertools import permutations

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from videodit.config.train import Train
from videodit.shapes import COLORS, SHAPES
from videodit.text import TextEncoder


@pytest.mark.slow
def test_it_learns_which_word_belongs_to_which_at_the_rate_at_which_a_transformer_is_trained() -> None:
    """Of two things the state of each thing's word tells its colour, and not the other's: by a linear map of it. An
    encoder that sees no order, or soon looks at one token alone, is right half of the time."""
    things = list(permutations(COLORS, 2)), list(permutations(SHAPES, 2))
    captions = [f"a {a} {s} and a {b} {t}" for a, b in things[0] for s, t in things[1]]
    encoder, names = TextEncoder.from_captions(captions, width=96), list(COLORS)
    encoder.train()
    torch.manual_seed(0)
    told, draw = nn.Linear(96, len(names)), random.Random(0)
    weights = [*encoder.parameters(), *told.parameters()]
    optimizer = torch.optim.AdamW(weights, Train().learning_rate, betas=Train().betas)
    right: list[float] = []
    for _ in range(120):
        batch = [draw.choice(captions) for _ in range(32)]
        wanted = torch.tensor([[names.index(one.split()[place]) for place in (1, 5)] for one in batch])
        said = told(encoder(batch).states[:, [2, 6]])
        cross_entropy(said.flatten(0, 1), wanted.flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
        right.append(float((said.argmax(-1) == wanted).float().mean()))
    assert sum(right[-10:]) / 10 > 0.95
