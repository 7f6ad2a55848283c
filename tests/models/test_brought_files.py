"""What people bring: files that are not whole, of two kinds at once, quantized, or of a model that is none of ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanImageToVideoPipeline, WanTransformer3DModel
from peers import tiny_wan_pipeline
from readme import tool
from safetensors.torch import save_file
from tiny import awaken, tiny_pipeline
from torch import Tensor

from videodit.exchange import grown_pipeline, open_model, pipeline_from_diffusers
from videodit.models.formats.files import from_checkpoint, from_diffusers, to_checkpoint, to_diffusers
from videodit.models.formats.table import ConversionError
from videodit.pipeline import VideoDiTPipeline

State = dict[str, Tensor]
SHAPE: dict[str, Any] = {"num_attention_heads": 2, "attention_head_dim": 20, "in_channels": 4, "out_channels": 4}
SHAPE |= {"text_dim": 20, "freq_dim": 32, "ffn_dim": 60, "num_layers": 2}
LAYER = "blocks.0.ffn.0"
E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2


def theirs(**options: Any) -> WanTransformer3DModel:
    torch.manual_seed(0)
    return awaken(WanTransformer3DModel(**SHAPE | options), scale=0.1)


def own() -> State:
    """A tiny Wan by the names of its project, which the peer law holds against a list of them."""
    return {name: tensor.contiguous() for name, tensor in to_checkpoint(from_diffusers(theirs())[0], "wan").items()}


def brought(folder: Path, state: State, **options: Any) -> Any:
    file = folder / "wan.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, file)
    return from_checkpoint(file, num_attention_heads=2, **options)


# --- 8 bits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["scale_weight", "weight_scale"])
@pytest.mark.parametrize("shape", [(), (1,), (60,), (60, 1)], ids=str)
def test_a_scale_is_of_a_weight_or_of_each_of_its_rows(tmp_path: Path, ending: str, shape: tuple[int, ...]) -> None:
    state = own()
    narrow = state[f"{LAYER}.weight"].to(E4M3)
    scale = torch.rand(shape) + 0.5
    hints = {f"{LAYER}.input_scale": torch.ones(()), f"{LAYER}.comfy_quant": torch.zeros(4, dtype=torch.uint8)}
    model, report = brought(
        tmp_path, state | hints | {f"{LAYER}.weight": narrow, f"{LAYER}.{ending}": scale, "scaled_fp8": torch.zeros(2)}
    )
    expected = (narrow.double() * (scale if scale.ndim == 2 else scale.reshape(-1, 1))).to(torch.bfloat16)
    assert torch.equal(model.blocks[0].ff.net[0].proj.weight, expected)
    assert report.dropped == {
        f"{LAYER}.{ending}": f"multiplied into {LAYER}.weight",
        **dict.fromkeys([*hints, "scaled_fp8"], "of computing in 8 bits"),
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": E4M3, "scale_weight": torch.ones(2, 2)}, r"scale_weight is \(2, 2\); one a weight or a row"),
        ({"weight": E5M2, "weight_scale": torch.tensor([float("nan")])}, "weight_scale is not finite"),
        ({"scale_weight": torch.ones(1)}, r"1 tensors have no place .*scale_weight"),
        ({"weight": torch.int8, "weight_scale": torch.ones(1)}, r"ffn\.0\.weight is quantized, torch\.int8"),
        ({"weight": torch.uint8, "weight.absmax": torch.ones(3)}, r"ffn\.0\.weight is quantized, torch\.uint8"),
        ({"weight": torch.int32}, r"ffn\.0\.weight is quantized, torch\.int32; take the weights in floating point"),
    ],
)
def test_other_quantized_weights_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    state = own()
    for leaf, value in change.items():
        state[f"{LAYER}.{leaf}"] = value if isinstance(value, Tensor) else state[f"{LAYER}.{leaf}"].to(value)
    with pytest.raises(ConversionError, match=rf"wan\.safetensors: .*{message}"):
        brought(tmp_path, state)


# --- not the whole, or more than it ----------------------------------------------------------------------------------


def test_one_of_several_files_is_not_taken_for_the_model(tmp_path: Path) -> None:
    """Whole blocks could be missing, and what is there still be a model."""
    state = {name: tensor for name, tensor in own().items() if not name.startswith("blocks.1.")}
    for count, wrong in ((2, True), (1, False)):
        file = tmp_path / f"diffusion_pytorch_model-00001-of-0000{count}.safetensors"
        save_file(state, file)
        if wrong:
            with pytest.raises(
                ConversionError, match=r"00001-of-00002\.safetensors: one of 00002 files .* name their folder"
            ):
                from_checkpoint(file, num_attention_heads=2)
            file.unlink()
        else:
            assert len(from_checkpoint(file, num_attention_heads=2)[0].blocks) == 1
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "WanModel", "num_heads": 2, "num_layers": 2}))
    with pytest.raises(ConversionError, match=r"the weights lack blocks\.1\."):
        from_checkpoint(tmp_path)
    model, report = from_checkpoint(tmp_path, partial=True)
    assert len(model.blocks) == 2
    assert report.fresh
    assert all(name.startswith("blocks.1.") for name in report.fresh)


def test_of_a_checkpoint_of_several_models_the_transformer_is_taken_and_the_rest_named(tmp_path: Path) -> None:
    state = own()
    whole = {f"model.diffusion_model.{name}": tensor for name, tensor in state.items()}
    model, report = brought(tmp_path, whole | {"first_stage_model.conv.weight": torch.ones(3)})
    assert report.dropped == {"first_stage_model.conv.weight": "of another model"}
    back = to_checkpoint(model, "wan")
    assert all(torch.equal(back[name], tensor) for name, tensor in state.items())
    mixed = {
        name if number % 2 else f"model.diffusion_model.{name}": x for number, (name, x) in enumerate(state.items())
    }
    with pytest.raises(ConversionError, match=r"wan\.safetensors: (neither|.* lack|.* is missing)"):
        brought(tmp_path, mixed)


@pytest.mark.parametrize(
    "stranger",
    ["vace_blocks.0.self_attn.q.weight", "ref_conv.weight", "blocks.0.cam_encoder.weight", "motion_encoder.weight"],
)
def test_what_other_wans_have_besides_is_named(tmp_path: Path, stranger: str) -> None:
    with pytest.raises(ConversionError, match=rf"wan\.safetensors: 1 tensors have no place in a VideoDiT: {stranger}"):
        brought(tmp_path, own() | {stranger: torch.ones(3, 3)})
    _, report = brought(tmp_path, own() | {stranger: torch.ones(3, 3)}, partial=True)
    assert report.dropped == {stranger: "no place in a VideoDiT"}
    assert not report.fresh


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("blocks.0.self_attn.q.weight", (30, 40)),  # which is no whole number of heads
        ("blocks.0.self_attn.norm_k.weight", (7,)),
        ("head.modulation", ()),
    ],
)
def test_a_shape_that_cannot_be_laid_out_is_named(tmp_path: Path, name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(
        ConversionError, match=rf"wan\.safetensors: {name} gives \({', '.join(map(str, shape))}.*another model"
    ):
        brought(tmp_path, own() | {name: torch.ones(shape)})


def test_a_shape_that_does_not_fit_is_refused_of_a_part_too(tmp_path: Path) -> None:
    with pytest.raises(
        ConversionError, match=r"wan\.safetensors: blocks\.0\.ffn\.2\.weight gives \(3, 3\).*another model"
    ):
        brought(tmp_path, own() | {"blocks.0.ffn.2.weight": torch.ones(3, 3)}, partial=True)


@pytest.mark.slow
def test_what_says_something_of_a_checkpoint_is_not_passed_over_where_there_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs().save_pretrained(tmp_path / "theirs")
    for option, value in (("partial", True), ("num_attention_heads", 2), ("interpolation_scale", 2.0)):
        with pytest.raises(ConversionError, match=f"theirs: {option} is of a project's own checkpoint"):
            open_model(tmp_path / "theirs", **{option: value})
    assert open_model(tmp_path / "theirs", partial=False, sample_size=4)[0].config.in_channels == 4
    assert tool("convert", "--from", tmp_path / "theirs", "--to", tmp_path / "new", "--partial") == 2
    assert "partial is of a project's own checkpoint" in capsys.readouterr().err


# --- pictures in channels (Wan 2.2 I2V) ------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_transformer_of_pictures_in_channels_converts_and_its_pipeline_is_refused(tmp_path: Path) -> None:
    """Of 4 channels of noise, 4 of a mask and 4 of a picture, as A14B has 16, 4 and 16: no image branch."""
    model, parts = theirs(in_channels=12, image_dim=None), tiny_wan_pipeline().components
    parts = {name: parts[name] for name in ("tokenizer", "text_encoder", "vae", "scheduler")}
    ours = from_diffusers(model)[0]
    x, text = torch.randn(2, 12, 3, 4, 6), torch.randn(2, 512, 20)
    t = torch.tensor([17.0, 803.0])
    expected = model(x, t, text).sample
    assert (ours(x, t, text).sample - expected).norm() < 1e-5 * expected.norm()
    assert ours(x, t, text).sample.shape == (2, 4, 3, 4, 6)
    back = to_diffusers(ours, "wan").state_dict()
    assert all(torch.equal(back[name], tensor) for name, tensor in model.state_dict().items())
    i2v = WanImageToVideoPipeline(transformer=model, **parts)
    i2v.save_pretrained(tmp_path / "i2v")
    for bring, source in ((open_model, tmp_path / "i2v"), (pipeline_from_diffusers, i2v)):
        with pytest.raises(ConversionError, match=r"WanImageToVideoPipeline cannot be converted; .* transformer alone"):
            bring(source)
    assert open_model(tmp_path / "i2v" / "transformer")[0].config.in_channels == 12
    base = tiny_wan_pipeline()
    base.transformer = model
    with pytest.raises(ConversionError, match="its transformer takes 12 channels, and its VAE gives 4"):
        pipeline_from_diffusers(base)
    pipe = VideoDiTPipeline(base.vae, base.text_encoder, base.tokenizer, ours, base.scheduler)
    with pytest.raises(ValueError, match="hidden_states has 4 channels, this model takes 12"):
        pipe("a red circle", num_frames=5, height=32, width=32, num_inference_steps=1)


def test_two_experts_are_not_grown_as_one() -> None:
    pipe = pipeline_from_diffusers(tiny_wan_pipeline(2))[0]
    with pytest.raises(ConversionError, match="a pipeline of two experts: grow each by itself"):
        grown_pipeline(pipe, pipe.transformer, pipe.vae, num_frames=5, fps=16.0)


def test_numbers_of_blocks_are_not_carried_to_a_grown_model_and_learned_scales_are() -> None:
    pipe = tiny_pipeline()
    pipe.register_to_config(default_skipped_blocks=[[0.0, 0.5, [1]]], trained_guidance=[1.0, 5.0])
    grown = grown_pipeline(pipe, pipe.transformer, pipe.vae, num_frames=5, fps=16.0)
    assert grown.config.default_skipped_blocks is None
    assert grown.config.trained_guidance == [1.0, 5.0]


# --- published shapes ------------------------------------------------------------------------------------------------

PUBLISHED: dict[str, dict[str, Any]] = {
    "T2V-1.3B": {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30},
    "T2V-14B": {"num_attention_heads": 40, "ffn_dim": 13824, "num_layers": 40},
    "TI2V-5B": {"num_attention_heads": 24, "ffn_dim": 14336, "num_layers": 30, "in_channels": 48, "out_channels": 48},
    "I2V-A14B": {"num_attention_heads": 40, "ffn_dim": 13824, "num_layers": 40, "in_channels": 36},
}
BILLIONS = {"T2V-1.3B": 1.42, "T2V-14B": 14.3, "TI2V-5B": 5.0, "I2V-A14B": 14.3}


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_wan_at_full_size_goes_in_and_comes_out_by_both_kinds_of_names(name: str) -> None:
    """On the meta device: shapes only."""
    with torch.device("meta"):
        model = WanTransformer3DModel(**{"attention_head_dim": 128} | PUBLISHED[name])
    ours, report = from_diffusers(model)
    assert sum(p.numel() for p in ours.parameters()) == pytest.approx(1e9 * BILLIONS[name], rel=0.01)
    assert len(report.copied) == len(ours.state_dict()) == len(model.state_dict())
    assert [*report.fresh, *report.grown, *report.dropped] == []
    back, single = to_diffusers(ours, "wan"), to_checkpoint(ours, "wan")
    shapes = {key: tensor.shape for key, tensor in model.state_dict().items()}
    assert {key: tensor.shape for key, tensor in back.state_dict().items()} == shapes
    assert sorted(map(str, shapes.values())) == sorted(str(tensor.shape) for tensor in single.values())
    assert back.config.ffn_dim == model.config.ffn_dim


@pytest.mark.parametrize(
    ("experts", "pixels", "own"),
    [
        (1, 8, (81, 480, 832, 16.0, 50, 5.0)),
        (1, 16, (121, 704, 1280, 24.0, 50, 5.0)),
        (2, 8, (81, 480, 832, 16.0, 40, 4.0)),
    ],
)
def test_a_wan_is_sampled_by_default_as_its_project_samples_it(
    experts: int, pixels: int, own: tuple[float, ...]
) -> None:
    """Wan 2.1 1.3B, 2.2 TI2V-5B and A14B: the figures of the project's own configurations."""
    pipe, _ = pipeline_from_diffusers(tiny_wan_pipeline(experts, pixels))
    size, config = pipe.default_size, pipe.config
    found = (size.num_frames, size.height, size.width, size.fps)
    assert (*found, config.default_num_inference_steps, config.default_guidance_scale) == own
