"""A Wan that came in is trained like any other model, and what is trained goes back to diffusers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanPipeline
from peers import PROMPTS, tiny_wan_pipeline
from runs import equal, losses, wan_run

from videodit.exchange import open_model, pipeline_to_diffusers
from videodit.pipeline import VideoDiTPipeline
from videodit.training import checkpoint
from videodit.training.trainer import Trainer

CALL: dict[str, Any] = {"num_frames": 5, "height": 32, "width": 32, "num_inference_steps": 3, "output_type": "pt"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wan")
    tiny_wan_pipeline().save_pretrained(folder / "theirs")
    open_model(folder / "theirs")[0].save_pretrained(folder / "ours")
    return folder


LORA = {"rank": 2, "alpha": 2, "targets": ["to_q", "to_k", "to_v", "to_out.0", "ff.net.2"]}


@pytest.mark.slow
@pytest.mark.parametrize("how", [{}, {"lora": LORA}], ids=["whole", "lora"])
def test_a_wan_is_trained_goes_on_exactly_and_goes_back(base: Path, tmp_path: Path, how: dict[str, Any]) -> None:
    first, second = ({**how, "schedule": "constant", "steps": steps} for steps in (2, 4))
    folder = Trainer(wan_run(tmp_path / "one", base, **second)).train()
    Trainer(wan_run(tmp_path / "two", base, **first)).train()
    Trainer(wan_run(tmp_path / "two", base, **second)).train()
    ends = [checkpoint.load(checkpoint.list_checkpoints(tmp_path / run / "checkpoints")[-1]) for run in ("one", "two")]
    assert equal(*ends)
    assert losses(tmp_path / "one") == losses(tmp_path / "two")

    ours = VideoDiTPipeline.from_pretrained(folder)
    theirs = pipeline_to_diffusers(ours, "wan")
    latents = torch.randn(2, 4, 2, 4, 4)
    for pipe in (ours, theirs):
        pipe.set_progress_bar_config(disable=True)
    expected = theirs(PROMPTS, latents=latents.clone(), guidance_scale=4.0, **CALL).frames
    torch.testing.assert_close(
        ours(PROMPTS, latents=latents, guidance_scale=4.0, **CALL).frames, expected, rtol=1e-4, atol=1e-4
    )
    if "lora" in how:
        plain = WanPipeline.from_pretrained(str(base / "theirs"))
        plain.scheduler = theirs.scheduler
        plain.set_progress_bar_config(disable=True)
        plain.load_lora_weights(folder / "lora")
        again = plain(PROMPTS, latents=latents.clone(), guidance_scale=4.0, **CALL).frames
        torch.testing.assert_close(again, expected, rtol=1e-4, atol=1e-4)
