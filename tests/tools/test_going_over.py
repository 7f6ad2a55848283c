"""What goes over into another form does so whole: precision, defaults and parts, or it is said what cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DiTTransformer2DModel, FlowMatchEulerDiscreteScheduler, PixArtTransformer2DModel
from readme import tool
from safetensors.torch import save_file
from tiny import PEER, awaken, tiny_dit, tiny_wan

from videodit import VideoDiTPipeline
from videodit.exchange import open_model, pipeline_from_diffusers, pipeline_to_diffusers
from videodit.models.extended import TimeExtended
from videodit.models.formats.files import to_checkpoint, to_diffusers
from videodit.models.formats.table import ConversionError

from ..laws.test_peer_law_of_pipelines import peer

SHAPE: dict[str, Any] = PEER | {"cross_attention_dim": 48, "caption_channels": 20, "norm_type": "ada_norm_single"}


def pixart(**more: Any) -> VideoDiTPipeline:
    pipe, _ = pipeline_from_diffusers(peer("alpha"))
    boundary = {"boundary_ratio": 0.9} if "transformer_2" in more else {}
    return VideoDiTPipeline(**pipe.components | more, **boundary)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "steps", "guidance"), [("alpha", 20, 4.5), ("sigma", 20, 4.5), ("dit", 50, 4.0), ("latte", 50, 7.5)]
)
def test_steps_and_guidance_are_those_of_the_pipeline_that_came(name: str, steps: int, guidance: float) -> None:
    pipe, _ = pipeline_from_diffusers(peer(name))
    assert (pipe.config.default_num_inference_steps, pipe.config.default_guidance_scale) == (steps, guidance)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_what_embeds_times_is_not_rounded_on_the_way(tmp_path: Path, dtype: torch.dtype) -> None:
    theirs = awaken(PixArtTransformer2DModel(**SHAPE), scale=0.05)
    theirs.save_pretrained(tmp_path / "theirs")
    save_file(to_checkpoint(open_model(tmp_path / "theirs")[0], "pixart"), tmp_path / "file.safetensors")
    exact, _ = open_model(tmp_path / "theirs")
    for source in ("theirs", "file.safetensors"):
        unsaid = {"num_attention_heads": 2, "interpolation_scale": 1.0} if "." in source else {}
        found, _ = open_model(tmp_path / source, dtype=dtype, **unsaid)
        kept = set(found._keep_in_fp32_modules)
        for name, weight in found.state_dict().items():
            wanted = torch.float32 if kept & set(name.split(".")) else dtype
            assert weight.dtype == wanted, name
            assert torch.equal(weight, exact.state_dict()[name].to(wanted)), name


@pytest.mark.parametrize(
    ("parts", "family", "why"),
    [
        ({"scheduler": FlowMatchEulerDiscreteScheduler()}, "pixart", "walks no flow .FlowMatchEuler"),
        ({"vae": tiny_wan()}, "pixart", "by a plain AutoencoderKL, and this has an AutoencoderKLWan"),
        ({"transformer_2": tiny_dit()}, "pixart", "of two experts pixart has no second"),
        ({"scheduler": DDIMScheduler()}, "latte", "LatteTransformer3DModel needs axes"),
    ],
)
def test_what_the_other_pipeline_would_do_otherwise_is_refused(parts: dict[str, Any], family: str, why: str) -> None:
    with pytest.raises(ConversionError, match=why):
        pipeline_to_diffusers(pixart(**parts), family)


def test_prompts_of_another_length_and_embeddings_of_another_width_are_named() -> None:
    pipe = pixart()
    pipe.tokenizer.model_max_length = 16
    with pytest.raises(ConversionError, match="reads 120 or 300 tokens of a prompt, not 16"):
        pipeline_to_diffusers(pipe, "pixart")
    narrow = tiny_dit(axes=("space",), qk_norm=False, freq_dim=64, out_channels=8)
    with pytest.raises(ConversionError, match="freq_dim=256, but this model has 64"):
        to_diffusers(narrow, "pixart")


def test_an_image_model_with_time_blocks_goes_back_by_itself() -> None:
    image = DiTTransformer2DModel(**PEER, num_embeds_ada_norm=10)
    with pytest.raises(ConversionError, match=r"stays in its image model's own form: .detach\(\)"):
        to_diffusers(TimeExtended(image, every=1, sample_fps=2.0), "dit")  # type: ignore[arg-type]


@pytest.mark.slow
def test_options_that_nothing_reads_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = awaken(PixArtTransformer2DModel(**SHAPE), scale=0.05)
    theirs.save_pretrained(tmp_path / "theirs")
    assert tool("convert", "--from", tmp_path / "theirs", "--to", tmp_path / "x", "--sample-size", 9) == 2
    assert "--sample-size is of a project's own checkpoint" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_a_folder_of_two_models_is_none(tmp_path: Path) -> None:
    state = {"patch_embedding.weight": torch.zeros(2, 2)}
    for name in ("a", "b"):
        save_file(state, tmp_path / f"{name}.safetensors")
    (tmp_path / "config.json").write_text('{"_class_name": "WanModel", "model_type": "t2v", "num_heads": 2}')
    with pytest.raises(ConversionError, match=r"patch_embedding.weight is in several of its 2 files"):
        open_model(tmp_path)
