"""The five lines of the README that bring Wan, on tiny random weights."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import WanPipeline
from peers import tiny_wan_pipeline
from readme import ROOT, commands, tool
from safetensors.torch import load_file

from videodit.video.writer import write_video

SMALL: dict[str, dict[str, Any]] = {
    "data": {"num_frames": 5, "height": 32, "width": 32, "image_share": 0, "validation": 0, "encode_precision": "no"},
    "train": {"steps": 1, "batch_size": 1, "gradient_accumulation_steps": 1, "num_inference_steps": 1},
}
SMALL["train"] |= {"precision": "no", "sample_every": 9}


@pytest.mark.slow
def test_bring_wan_in_five_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_wan_pipeline().save_pretrained("Wan-AI/Wan2.1-T2V-1.3B-Diffusers")
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "my_clips").mkdir()
    for number in range(2):
        frames = np.random.default_rng(number).integers(0, 255, (9, 48, 48, 3)).astype(np.uint8)
        write_video(tmp_path / "my_clips" / f"{number}.mp4", frames, 16.0)
        (tmp_path / "my_clips" / f"{number}.txt").write_text("a red circle")
    bring, train, sample, back, single = commands("Bring Wan")
    assert tool(*bring) == 0
    assert tool(*train, *(f"{part}.{key}={value}" for part, keys in SMALL.items() for key, value in keys.items())) == 0
    assert tool(*sample, *shlex.split("--num-frames 5 --height 32 --width 32 --steps 1 --out a.mp4")) == 0
    assert json.loads((tmp_path / "a.json").read_text())["lora"] == ["runs/wan_lora/pipeline/lora"]
    assert tool(*back) == 0
    assert tool(*single) == 0
    theirs: Any = WanPipeline.from_pretrained("wan_pipeline")
    own = load_file("wan.safetensors")
    assert torch.equal(
        own["blocks.0.self_attn.v.weight"], theirs.transformer.state_dict()["blocks.0.attn1.to_v.weight"]
    )


def test_a_single_file_needs_the_name_of_its_project(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool("convert", "--from", "shapes", "--to", str(tmp_path / "x.safetensors")) == 2
    assert "give --format wan" in capsys.readouterr().err
    assert tool("convert", "--from", "shapes", "--to", str(tmp_path / "x.safetensors"), "--format", "wan") == 2
    assert "Wan needs axes=['joint'], but this model has ['space', 'time']" in capsys.readouterr().err
