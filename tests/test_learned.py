"""Prompts that are far from all that a model was shown are told, with the nearest captions; others pass in silence."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import run

from videodit import LearnedCaptions, VideoDiTPipeline
from videodit.text import TextEncoder
from videodit.text.states import TextStates
from videodit.training.trainer import Trainer

ANGLES = {f"thing{angle}": float(angle) for start in (0, 90, 180) for angle in range(start, start + 30, 4)}


def encode(prompts: list[str]) -> TextStates:
    """A word a state; that of the last says where its thing lies on a circle about (5, 5), the first is its double."""
    states = torch.zeros(len(prompts), 3, 2)
    mask = torch.zeros(len(prompts), 3, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        angle = np.deg2rad(ANGLES[prompt] if prompt in ANGLES else float(prompt))
        states[row, :2] = torch.tensor([[np.cos(angle), np.sin(angle)]]) * torch.tensor([[0.5], [1.5]]) + 5
        mask[row, :2] = True
    return TextStates(states, mask)


def cosine(degrees: float, others: list[float]) -> np.ndarray:
    """Of an angle to others, all seen from the mean of the others, in float64."""
    points = np.stack([np.cos(np.deg2rad(others)), np.sin(np.deg2rad(others))], 1)
    own = np.array([np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))]) - points.mean(0)
    points = points - points.mean(0)
    return points @ own / np.linalg.norm(points, axis=1) / np.linalg.norm(own)


def test_far_is_what_all_but_one_in_twenty_captions_are_not() -> None:
    learned = LearnedCaptions.of([*ANGLES, "", " ", "thing0"], encode)
    captions = learned.config["captions"]
    assert set(captions) == set(ANGLES)
    angles = [ANGLES[caption] for caption in captions]
    best = [np.delete(cosine(angle, angles), number).max() for number, angle in enumerate(angles)]
    assert learned.config["far"] == pytest.approx(np.quantile(best, 0.05), abs=1e-6)
    for degrees in (5, 45, 95, 140, 185, 229, 245, 265, 310, 340):
        found = cosine(degrees, angles)
        expected = [captions[i] for i in np.argsort(-found)[:3]] if found.max() < learned.config["far"] else []
        assert learned.nearest(encode([str(degrees)])) == [expected], degrees
    assert any(learned.nearest(encode([str(degrees)]))[0] for degrees in range(0, 360, 5))


def test_captions_in_the_same_words_do_not_say_how_near_is_near() -> None:
    """Or "a cat growing", beside "a cat", would make all else far."""
    kin = {f"{name} {how}": angle + 0.01 for name, angle in ANGLES.items() for how in ("growing", "going")}
    ANGLES.update(kin)
    try:
        many = LearnedCaptions.of(ANGLES, encode).config["far"]
    finally:
        for name in kin:
            ANGLES.pop(name)
    assert many == pytest.approx(LearnedCaptions.of(ANGLES, encode).config["far"], abs=0.02)


def test_one_caption_alone_makes_nothing_far() -> None:
    assert LearnedCaptions.of(["thing0"], encode).nearest(encode(["90", "180"])) == [[], []]


@pytest.mark.slow
def test_what_was_shown_to_a_model_with_a_frozen_encoder_is_saved_with_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = ["a red circle moving right", "a banker reads tax forms beside an idle volcano"]
    TextEncoder.from_captions(words, width=16, depth=1, heads=2).save_pretrained(tmp_path / "text")
    trainer = Trainer(run(tmp_path / "run", text={"source": str(tmp_path / "text")}))
    trainer.save_pipeline(tmp_path / "pipe")
    pipe = VideoDiTPipeline.from_pretrained(tmp_path / "pipe")
    learned = trainer.learned
    assert learned is not None
    assert pipe.learned.config["captions"] == learned.config["captions"]
    assert torch.equal(pipe.learned.vectors, learned.vectors)
    assert torch.equal(pipe.learned.middle, learned.middle)
    pipe.learned.register_to_config(far=2.0)  # so that all is far
    with caplog.at_level(logging.WARNING):
        pipe.encode_prompt("a red circle moving right", negative_prompt="a banker reads")
    said = [record.getMessage() for record in caplog.records if "far from all" in record.getMessage()]
    assert len(said) == 1
    assert said[0].startswith("'a red circle moving right' is far from all that the model was shown; nearest: ")
    caplog.clear()
    pipe.learned.register_to_config(far=-1.0)
    with caplog.at_level(logging.WARNING):
        pipe.encode_prompt("a red circle moving right")
    assert not caplog.records


@pytest.mark.slow
def test_an_encoder_that_is_trained_knows_words_and_nothing_of_captions(tmp_path: Path) -> None:
    trainer = Trainer(run(tmp_path / "run"))
    assert trainer.learned is None
