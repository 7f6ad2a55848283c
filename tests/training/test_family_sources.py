"""Where a run of an image model finds its text encoders and its scheduler, and what it says where it does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from family_pipelines import sd3_pipeline, z_image_pipeline
from runs import run

from videodit import extend_in_time
from videodit.text import FamilyText, load_text
from videodit.training import inputs


def started(folder: Path, base: Path, **text: Any) -> Any:
    return run(folder, model={"num_layers": None, "mlp_ratio": 4.0}, text=text, train={"start_from": str(base)})


def test_of_a_model_alone_the_objective_says_how_it_is_noised(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    z_image_pipeline().save_pretrained(tmp_path / "pipe")
    assert inputs.own_scheduler(started(tmp_path, tmp_path / "pipe")) is not None
    with caplog.at_level("WARNING"):
        assert inputs.own_scheduler(started(tmp_path, tmp_path / "pipe" / "transformer")) is None
    assert "pipe/transformer: a model alone, so it is noised and sampled as objective: says" in caplog.text


def test_one_of_several_encoders_is_not_read_alone(tmp_path: Path) -> None:
    sd3_pipeline().save_pretrained(tmp_path / "sd3")
    with pytest.raises(ValueError, match=r"sd3: has several text encoders \(text_encoder, text_encoder_2, "):
        load_text(tmp_path / "sd3")


def test_precision_is_of_a_family_that_is_started_from(tmp_path: Path, tiny_pipe: Any) -> None:
    pipe: Any = extend_in_time(z_image_pipeline(), num_frames=2)
    pipe.save_pretrained(tmp_path / "family")
    text = inputs.load_text(started(tmp_path, tmp_path / "family", precision="bf16"))
    assert isinstance(text, FamilyText)
    assert text.encoders["text_encoder"].dtype == torch.bfloat16
    tiny_pipe.save_pretrained(tmp_path / "own")
    with pytest.raises(ValueError, match=r"text\.precision is of an encoder that is not trained, but that of .*own"):
        inputs.load_text(started(tmp_path, tmp_path / "own", precision="bf16"))
    with pytest.raises(ValueError, match=r"text\.precision is of an encoder that is not trained: name one"):
        run(tmp_path, text={"precision": "bf16"})
