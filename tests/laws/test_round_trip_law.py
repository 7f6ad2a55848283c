"""Round-trip law: what is saved loads equal, here and through diffusers' own loaders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    FlowMatchHeunDiscreteScheduler,
    UniPCMultistepScheduler,
)
from standin import LEFT_EMPTY
from tiny import tiny_dit

from videodit import VideoDiT, VideoDiTPipeline


def equal_weights(a: torch.nn.Module, b: torch.nn.Module) -> None:
    assert a.state_dict().keys() == b.state_dict().keys()
    for name, tensor in a.state_dict().items():
        assert torch.equal(tensor, b.state_dict()[name]), name


def sample(pipe: DiffusionPipeline, **kwargs: object) -> torch.Tensor:
    pipe.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 2, "output_type": "pt", **kwargs}
    return pipe("a red circle", generator=torch.Generator().manual_seed(0), **options).frames


def test_round_trip_law_model(tmp_path: Path) -> None:
    model = tiny_dit(patch_size=(2, 2, 2), axes=("space", "joint"), rotary_periods=(0.25, 9.0))
    model.save_pretrained(tmp_path)
    loaded = VideoDiT.from_pretrained(tmp_path)
    equal_weights(model, loaded)
    ours, theirs = (json.loads(m.to_json_string()) for m in (model, loaded))
    assert {k: v for k, v in theirs.items() if k != "_name_or_path"} == {k: v for k, v in ours.items() if k in theirs}


@pytest.mark.slow
@pytest.mark.cpu(LEFT_EMPTY)
def test_round_trip_law_pipeline_here_and_through_diffusers(tmp_path: Path, tiny_pipe: VideoDiTPipeline) -> None:
    tiny_pipe.save_pretrained(tmp_path)
    expected = sample(tiny_pipe)
    ours = VideoDiTPipeline.from_pretrained(tmp_path)
    for name in ("vae", "text_encoder", "transformer"):
        equal_weights(getattr(tiny_pipe, name), getattr(ours, name))
    assert torch.equal(sample(ours), expected)
    assert ours.default_size == tiny_pipe.default_size
    # the user's own word that the folder's pipeline.py may run is what diffusers asks for
    theirs = DiffusionPipeline.from_pretrained(tmp_path, custom_pipeline=str(tmp_path), **{"trust_remote_code": True})
    assert isinstance(theirs, VideoDiTPipeline)
    assert torch.equal(sample(theirs), expected)


@pytest.mark.parametrize(
    "scheduler",
    [
        FlowMatchHeunDiscreteScheduler(),
        UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True),
        DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True),
        DDIMScheduler(prediction_type="v_prediction", clip_sample=False),
    ],
    ids=lambda s: type(s).__name__,
)
def test_schedulers_swap_as_in_diffusers(scheduler: object, tiny_pipe: VideoDiTPipeline) -> None:
    pipe = VideoDiTPipeline(**(tiny_pipe.components | {"scheduler": scheduler}))
    frames = sample(pipe, num_frames=5, height=16, width=16)
    assert frames.shape == (1, 5, 3, 16, 16)
    assert frames.isfinite().all()
