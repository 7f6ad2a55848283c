"""A branch is trained alone, beside a model that stays as it is; and is used from a folder of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from readme import tool
from runs import run
from tiny import tiny_pipeline

from videodit import VideoDiTPipeline
from videodit.models import Condition
from videodit.training.plan import plan
from videodit.training.trainer import Trainer
from videodit.video import read_clip
from videodit.video.writer import write_video

OUTLINE = {"outline": {"kind": "channels", "of": "edges", "from_clip": True, "branch": 2}}
ALONE = {"weights": ["transformer.condition_embedders*"]}


def frames(seed: int, count: int = 9) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    for number in range(8):
        write_video(tmp_path / "clips" / f"{number}.mkv", frames(number), 8.0)
        (tmp_path / "clips" / f"{number}.txt").write_text("a red circle")
    return tmp_path / "clips"


def told(folder: Path, clips: Path, **changes: Any) -> Any:
    data = {"source": str(clips), "clips": None, "num_frames": 9, "start": "first"}
    train = {"start_from": str(clips.parent / "base" / "pipeline"), **ALONE} | changes.pop("train", {})
    return run(folder, data=data, model={"conditions": OUTLINE}, train=train)


@pytest.mark.slow
def test_it_is_trained_alone_resumed_taken_out_and_put_onto_its_model(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Trainer(run(tmp_path / "base", data={"num_frames": 9})).train()
    base = tmp_path / "base" / "pipeline"
    before = VideoDiTPipeline.from_pretrained(base).transformer.state_dict()
    Trainer(told(tmp_path / "a", clips)).train()
    parts = told(tmp_path / "b", clips)
    Trainer(parts.model_copy(update={"train": parts.train.model_copy(update={"steps": 2, "decay_steps": 4})})).train()
    Trainer(parts).train()
    whole, other = (VideoDiTPipeline.from_pretrained(tmp_path / n / "pipeline").transformer.state_dict() for n in "ab")
    assert all(torch.equal(whole[name], other[name]) for name in whole)
    assert all(torch.equal(whole[name], weight) for name, weight in before.items())
    branch = {name: weight for name, weight in whole.items() if name not in before}
    assert branch["condition_embedders.of_outline.projections.1.weight"].any()
    copied = branch["condition_embedders.of_outline.blocks.1.ff.net.2.weight"]
    assert not torch.equal(copied, before["blocks.1.ff.net.2.weight"])

    write_video(tmp_path / "map.mkv", frames(3), 8.0)
    words = ("--prompt", "a red circle", "--condition", f"outline={tmp_path / 'map.mkv'}", "--out")
    assert tool("convert", "--from", tmp_path / "a" / "pipeline", "--to", tmp_path / "own", "--control", "depth") == 2
    assert "'depth' is no branch of this model (outline)" in capsys.readouterr().err
    assert tool("convert", "--from", tmp_path / "a" / "pipeline", "--to", tmp_path / "own", "--control", "outline") == 0
    assert tool("sample", "--model", tmp_path / "a" / "pipeline", *words, tmp_path / "whole.mkv") == 0
    for weight, name in (("", "same"), ("=0", "none")):
        control = ("--control", f"{tmp_path / 'own'}{weight}")
        assert tool("sample", "--model", base, *control, *words, tmp_path / f"{name}.mkv") == 0
    assert tool("sample", "--model", base, *words[:2], "--out", tmp_path / "plain.mkv") == 0
    seen = {name: read_clip(tmp_path / f"{name}.mkv", 9, 8.0) for name in ("whole", "same", "none", "plain")}
    np.testing.assert_allclose(seen["same"].astype(int), seen["whole"], atol=1)
    np.testing.assert_allclose(seen["none"].astype(int), seen["plain"], atol=1)
    assert not np.array_equal(seen["same"], seen["plain"])
    assert tool("sample", "--model", base, "--control", tmp_path / "map.mkv", *words, tmp_path / "x.mkv") == 2
    assert "no such file" in capsys.readouterr().err


def test_a_plan_says_what_training_it_alone_takes(clips: Path, tmp_path: Path) -> None:
    base = tiny_pipeline()
    base.save_pretrained(tmp_path / "base" / "pipeline")

    def planned(branch: int, **train: Any) -> dict[str, float]:
        one = {"outline": OUTLINE["outline"] | {"branch": branch}}
        config = told(tmp_path / "run", clips, train={"weights": [], **train})
        model = type(config.model).model_validate({"conditions": one})
        return plan(config.model_copy(update={"model": model, "codec": str(tmp_path / "base" / "pipeline")})).memory

    base.transformer.add_conditions([Condition("outline", "channels", 64, True, of="edges", branch=2)])
    alone = sum(p.numel() for p in base.transformer.condition_embedders.parameters())
    every = sum(p.numel() for p in base.transformer.parameters())
    assert 1e9 * planned(2, **ALONE)["gradients"] == pytest.approx(4 * alone)
    assert 1e9 * planned(2)["gradients"] == pytest.approx(4 * every)
    assert planned(4, **ALONE)["activations"] > planned(2, **ALONE)["activations"]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"train": {"routing": 0.5}}, r"model\.conditions\.outline\.branch goes neither with train\.routing"),
        ({"train": {"sequence_parallel": 2}}, "goes neither with train.routing nor with train.sequence_parallel"),
    ],
)
def test_what_does_not_go_with_it_is_refused(tmp_path: Path, changes: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        told(tmp_path, tmp_path / "clips", **changes)
