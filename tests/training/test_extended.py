"""An image model of any family, extended in time, is trained like any other model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from families import PIPELINES
from runs import equal, losses, run

from videodit import TimeExtended, VideoDiTPipeline, extend_in_time
from videodit.config.model import Objective
from videodit.training import checkpoint
from videodit.training.trainer import Trainer

LORA = {"rank": 2, "alpha": 2, "targets": ["to_q", "to_k", "to_v"]}
HOW: dict[str, dict[str, Any]] = {  # what is trained, of which family
    "SD3": {"weights": ["time"]},
    "Flux": {"lora": LORA},
    "Z-Image": {},
}


@pytest.fixture(scope="module", params=HOW)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp("family") / "pipeline"
    pipe: Any = extend_in_time(PIPELINES[request.param](), num_frames=5)
    pipe.save_pretrained(folder)
    return request.param, folder


def extended_run(folder: Path, base: Path, how: dict[str, Any], **train: Any) -> Any:
    start = {"start_from": str(base), "learning_rate": 0.01, "ema_decay": 0.0, "log_every": 1, "schedule": "constant"}
    values = run(
        folder,
        data={"image_share": 0.0 if "weights" in how else 0.4, "height": 16, "width": 16},
        model={"num_layers": None, "mlp_ratio": 4.0, "gradient_checkpointing": True},
        text={},
        objective={"given_frames": {"first": 0.3}},
        train=start | how | train,
    )
    return values.model_copy(update={"codec": str(base)})


@pytest.mark.slow
def test_it_is_trained_goes_on_exactly_and_images_stay(base: tuple[str, Path], tmp_path: Path) -> None:
    name, started = base
    how = HOW[name]
    folder = Trainer(extended_run(tmp_path / "one", started, how, steps=4)).train()
    Trainer(extended_run(tmp_path / "two", started, how, steps=2)).train()
    Trainer(extended_run(tmp_path / "two", started, how, steps=4)).train()
    ends = [checkpoint.load(checkpoint.list_checkpoints(tmp_path / run / "checkpoints")[-1]) for run in ("one", "two")]
    assert equal(*ends)
    assert losses(tmp_path / "one") == losses(tmp_path / "two")

    before, after = (VideoDiTPipeline.from_pretrained(where) for where in (started, folder))
    assert isinstance(after.transformer, TimeExtended)
    assert after.config.text_pipeline == before.config.text_pipeline
    assert after.scheduler.config.shift == before.scheduler.config.shift
    trained = after.transformer.state_dict()
    changed = {key for key, weight in before.transformer.state_dict().items() if not torch.equal(weight, trained[key])}
    if "weights" in how:
        assert changed
        assert all(key.startswith(("blocks.", "time_embeds.")) for key in changed)
    elif "lora" in how:
        assert changed
        assert all(key.endswith("weight") and any(f".{part}." in key for part in LORA["targets"]) for key in changed)
    else:
        assert any(key.startswith("image.") for key in changed)
    for pipe in (before, after):
        pipe.set_progress_bar_config(disable=True)
    size: dict[str, Any] = {"height": 16, "width": 16, "output_type": "latent"}
    call = size | {"num_inference_steps": 2, "guidance_scale": 2.0}
    clip, still = torch.randn(1, 4, 5, 8, 8), torch.randn(1, 4, 1, 8, 8)
    clips = [pipe("a red circle", latents=clip, num_frames=5, **call).frames for pipe in (before, after)]
    stills = [pipe("a red circle", latents=still, num_frames=1, **call).frames for pipe in (before, after)]
    assert not torch.equal(*clips)
    assert torch.equal(*stills) is ("weights" in how)  # image law
    if "lora" in how:
        before.transformer.load_lora_adapter(folder / "lora")
        found = before("a red circle", latents=clip, num_frames=5, **call).frames
        torch.testing.assert_close(found, clips[1], atol=1e-5, rtol=1e-5)
        theirs = PIPELINES[name]()  # what its own pipeline reads of it makes its stills
        theirs.set_progress_bar_config(disable=True)
        theirs.load_lora_weights(folder / "lora")
        theirs.fuse_lora()
        for key, weight in theirs.transformer.named_parameters():
            if key.endswith("attn.to_q.base_layer.weight"):
                mine = after.transformer.get_parameter(f"image.{key.replace('.base_layer', '')}")
                torch.testing.assert_close(weight, mine, atol=1e-6, rtol=1e-5)


def test_another_objective_than_its_scheduler_is_named(base: tuple[str, Path], tmp_path: Path) -> None:
    config = extended_run(tmp_path, base[1], {}, steps=1)
    config = config.model_copy(update={"objective": Objective(prediction_type="epsilon")})
    with pytest.raises(ValueError, match=r"objective\.prediction_type: .* predicts 'epsilon'"):
        Trainer(config)
