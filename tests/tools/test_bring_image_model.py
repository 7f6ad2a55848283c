"""The lines of the README that bring an image model, on tiny random weights; what `videodit inflate` refuses of it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from family_pipelines import sd3_pipeline
from readme import ROOT, commands, tool
from transformers import CLIPImageProcessor

from videodit import VideoDiTPipeline, extend_in_time
from videodit.video.writer import write_video

SMALL: dict[str, dict[str, Any]] = {
    "data": {"num_frames": 5, "height": 16, "width": 16, "validation": 0, "encode_precision": "no"},
    "train": {
        "steps": 2,
        "batch_size": 1,
        "gradient_accumulation_steps": 1,
        "num_inference_steps": 1,
        "warmup_steps": 1,
    },
}
SMALL["train"] |= {"precision": "no", "sample_every": 9, "learning_rate": 0.01, "ema_decay": 0, "warmup_steps": 1}


@pytest.mark.slow
def test_bring_your_image_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sd3_pipeline().save_pretrained("stabilityai/stable-diffusion-3.5-medium")
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "my_clips").mkdir()
    for number in range(2):
        frames = np.random.default_rng(number).integers(0, 255, (9, 48, 48, 3)).astype(np.uint8)
        write_video(tmp_path / "my_clips" / f"{number}.mp4", frames, 8.0)
        (tmp_path / "my_clips" / f"{number}.txt").write_text("a red circle")
    bring, train, sample, again = commands("Bring your image model")
    assert tool(*bring) == 0
    assert "time blocks, silent" in (tmp_path / "runs/sd3/growth.txt").read_text()
    assert tool(*train, *(f"{part}.{key}={value}" for part, keys in SMALL.items() for key, value in keys.items())) == 0
    assert tool(*sample, *shlex.split("--num-frames 5 --height 16 --width 16 --steps 1 --out a.mp4")) == 0
    assert json.loads((tmp_path / "a.json").read_text())["num_frames"] == 5
    assert tool(*again) == 0
    trained, put = (
        VideoDiTPipeline.from_pretrained(where).transformer for where in ("runs/sd3_video/pipeline", "runs/again")
    )
    for name, weight in put.state_dict().items():
        torch.testing.assert_close(
            weight, trained.state_dict()[name], atol=0.01, rtol=0.01
        )  # the image part is bfloat16
    assert any(block.attn1.to_out[0].weight.abs().max() > 0 for block in put.blocks)


@pytest.mark.slow
def test_what_is_left_out_is_told_in_growth_txt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pipe = sd3_pipeline()
    pipe.register_modules(feature_extractor=CLIPImageProcessor())
    pipe.save_pretrained("sd3")
    assert tool("inflate", "--from", "sd3", "--to", "grown") == 0
    lines = Path("grown/growth.txt").read_text().splitlines()
    assert lines[1:] == ["feature_extractor: left out, no part of a video pipeline"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("--from sd3 --to x --axes joint", "--axes is of a model that is grown; a SD3Transformer2DModel stays"),
        ("--from sd3 --to x --every 3", "every=3: this model has 2 blocks"),
        ("--from sd3 --to x --time-blocks-from sd3", "time_blocks.safetensors: no such file"),
        ("--from extended --to x", "TimeExtended is extended already"),
        ("--from shipped --to x --every 2", "--every is of an image model that stays as it is"),
    ],
)
def test_what_does_not_fit_is_named(
    words: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    sd3_pipeline().save_pretrained("sd3")
    if "extended" in words:
        extend_in_time("sd3").save_pretrained("extended")
    assert tool("inflate", *words.split()) == 2
    assert why in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
