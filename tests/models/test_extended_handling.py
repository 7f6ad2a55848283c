"""A `TimeExtended` in the hands of others: cached, copied, checkpointed, offloaded, taken apart."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    AutoModel,
    DDIMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    PixArtTransformer2DModel,
)
from families import MODELS, loud, tiny_image_model, told, unet
from family_pipelines import sd3_pipeline, tiny_picture_vae
from peft import LoraConfig
from torch import Tensor, nn
from transformers import CLIPImageProcessor

from videodit import VideoDiTPipeline, extend_in_time, load_time_blocks, save_time_blocks
from videodit.caching import set_cache
from videodit.extending import family_at
from videodit.memory import group_offload
from videodit.models.extended import TimeExtended
from videodit.models.families import FAMILIES, family_of
from videodit.models.loading import load_model
from videodit.models.time_blocks import base_fingerprint
from videodit.models.waiting import checkpoint_waiting
from videodit.training.model import merged
from videodit.weights import WeightsError

GROUP = "group_offloading"
EVERY = pytest.mark.parametrize("name", MODELS)
CACHED = {
    "first-block=0": ("Flux", "Qwen-Image", "PixArt", "DiT"),
    "taylorseer": ("Flux", "Flux2", "Sana", "Qwen-Image", "PixArt", "DiT"),
    "pyramid-attention": (),
}


def extended(name: str) -> TimeExtended:
    model = TimeExtended(tiny_image_model(name)).eval()
    loud(model.blocks)
    return model


def call(model: TimeExtended, name: str, shift: float = 0.0, frames: int = 3) -> Tensor:
    draw = torch.Generator().manual_seed(2)
    latents = torch.randn(2, model.in_channels, frames, 8, 8, generator=draw)
    times = torch.tensor([300.0, 700.0]) - shift
    return model(latents + shift / 1000, times, **told(name, model.image), return_dict=False)[0]


def four_steps(model: TimeExtended, name: str) -> Tensor:
    found = []
    for step in range(4):
        if model.is_cache_enabled:
            with model.cache_context("clips"):
                found.append(call(model, name, 50.0 * step))
        else:
            found.append(call(model, name, 50.0 * step))
    return torch.stack(found)


def cache(model: TimeExtended, text: str | None) -> None:
    set_cache(SimpleNamespace(transformer=model), text)


@EVERY
@pytest.mark.parametrize("text", CACHED)
@torch.no_grad()
def test_a_feature_cache_works_on_clips_or_is_refused_by_name(name: str, text: str) -> None:
    model = extended(name)
    plain = four_steps(model, name)
    if name in CACHED[text]:
        cache(model, text)
        cached = four_steps(model, name)
        assert cached.isfinite().all()
        assert torch.equal(cached, plain) == text.endswith("=0")
        cache(model, None)
    else:
        with pytest.raises(ValueError, match=f"Config does not fit {type(model.image).__name__} on clips: take"):
            cache(model, text)
    assert torch.equal(four_steps(model, name), plain)


@EVERY
def test_gradients_are_the_same_where_what_blocks_are_given_waits_elsewhere(name: str) -> None:
    model, waited = extended(name), []

    def gradients() -> dict[str, Tensor]:
        model.zero_grad()
        call(model, name).square().mean().backward()
        return {key: weight.grad.clone() for key, weight in model.named_parameters() if weight.grad is not None}

    def waiting(block: Any, states: Tensor, *others: Any) -> Any:
        waited.append(states.shape)
        return checkpoint_waiting(block, states, *others)

    plain = gradients()
    model.enable_gradient_checkpointing(waiting)
    found = gradients()
    assert len(waited) >= (3 if name == "UNet" else len(model.hosts))
    assert found.keys() == plain.keys()
    for key in plain:
        torch.testing.assert_close(found[key], plain[key], atol=1e-7, rtol=1e-5)


def groups(model: nn.Module) -> list[int]:
    """Bytes of each group of weights that diffusers brings onto a device at once."""
    hooks = [getattr(part, "_diffusers_hook", None) for part in model.modules()]
    held = {id(hook.hooks[GROUP].group): hook.hooks[GROUP].group for hook in hooks if hook and GROUP in hook.hooks}
    weights = [
        {p for module in group.modules for p in module.parameters()} | {*group.parameters} for group in held.values()
    ]
    return [sum(p.nbytes for p in some) for some in weights]


@EVERY
@pytest.mark.cpu("the group's device is said")
@torch.no_grad()
def test_blocks_in_groups_leave_the_image_model_as_few_weights_on_the_device_as_it_has_alone(name: str) -> None:
    bare, model = tiny_image_model(name), extended(name)
    plain = call(model, name)
    pipe = SimpleNamespace(transformer=model, components={})
    if name in ("DiT", "HunyuanDiT"):  # reaches into a block from outside of it
        with pytest.raises(ValueError, match=f"{type(bare).__name__} cannot be offloaded in groups"):
            group_offload(pipe, torch.device("cpu"))
        return
    bare.enable_group_offload(torch.device("cpu"), num_blocks_per_group=1)
    group_offload(pipe, torch.device("cpu"))
    time = [sum(p.nbytes for p in block.parameters()) for block in model.blocks]
    rest = sum(p.nbytes for p in model.time_embeds.parameters())
    assert max(groups(model)) <= max(*groups(bare), *time, rest)
    assert torch.equal(call(model, name), plain)


@EVERY
@torch.no_grad()
def test_a_copy_of_the_image_model_is_the_image_model_and_not_the_one_it_was_copied_from(name: str) -> None:
    model = extended(name)
    found, picture = call(model, name), call(model, name, frames=1)
    other = copy.deepcopy(model.image)
    fresh = TimeExtended(other.eval())
    assert torch.equal(call(fresh, name, frames=1), picture)
    for weight in other.parameters():
        weight.zero_()
    assert call(fresh, name, frames=1).abs().max() < picture.abs().max() / 10
    assert torch.equal(call(model, name), found)


@pytest.mark.parametrize("name", CACHED["first-block=0"])
@torch.no_grad()
def test_a_copy_under_a_cache_has_one_of_its_own(name: str) -> None:
    model = extended(name)
    cache(model, "first-block=0.5")
    wanted = four_steps(model, name)
    model._reset_stateful_cache()
    other = copy.deepcopy(model)
    assert torch.equal(four_steps(model, name), wanted)
    for weight in model.parameters():
        weight.zero_()
    assert torch.equal(four_steps(other, name), wanted)
    cache(other, None)
    assert torch.equal(call(other, name), call(extended(name), name))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SD3", "UNet", "HunyuanDiT"])
def test_a_copy_under_checkpointing_makes_its_own_blocks_again(name: str) -> None:
    model, plain = extended(name), extended(name)
    model.checkpoint_units(1)
    other = copy.deepcopy(model)
    for one in (other, plain):
        call(one, name).square().mean().backward()
    for weight, wanted in zip(other.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(weight.grad, wanted.grad, atol=1e-7, rtol=1e-5)
    assert all(weight.grad is None for weight in model.parameters())


@EVERY
@torch.no_grad()
def test_taken_off_the_time_blocks_leave_the_image_model_to_be_extended_again(name: str) -> None:
    model = extended(name)
    found = call(model, name)
    image = model.detach()
    assert image is model.image
    with pytest.raises(ValueError, match="detach\\(\\)"):
        TimeExtended(extended(name).image)
    again = TimeExtended(image).eval()
    again.load_state_dict(model.state_dict())
    assert torch.equal(call(again, name), found)


@torch.no_grad()
def test_time_blocks_that_are_refused_leave_the_image_model_as_it_was(tmp_path: Path) -> None:
    save_time_blocks(extended("SD3"), tmp_path)
    image = tiny_image_model("SD3")
    image.proj_out.bias += 0.5
    for _ in range(2):
        with pytest.raises(WeightsError, match="fingerprint"):
            load_time_blocks(image, tmp_path)
    pipe = sd3_pipeline()
    for _ in range(2):
        with pytest.raises(ValueError, match="a VAE of 16 channels, but SD3Transformer2DModel has 4"):
            extend_in_time(pipe, vae=AutoencoderKL(latent_channels=16))
    extend_in_time(pipe)


def test_adapters_on_the_image_model_are_named_where_it_is_saved(tmp_path: Path) -> None:
    model = extended("SD3")
    model.image.add_adapter(LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False))
    for save in (model.save_pretrained, lambda folder: save_time_blocks(model, folder)):
        with pytest.raises(ValueError, match=r"SD3Transformer2DModel: adapters .*fuse_lora.* and unload_lora"):
            save(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    model.image.fuse_lora()
    model.image.unload_lora()
    model.save_pretrained(tmp_path)
    assert torch.equal(call(load_model(tmp_path).eval(), "SD3"), call(model, "SD3"))


def test_time_blocks_are_made_where_the_image_model_is() -> None:
    model = TimeExtended(tiny_image_model("UNet").to("meta"))
    assert {weight.device.type for weight in model.parameters()} == {"meta"}


@pytest.mark.parametrize("given", [{}, {"every": 2}])
def test_a_model_is_made_of_a_live_ones_configuration(given: dict[str, Any]) -> None:
    model = TimeExtended(tiny_image_model("SD3"), **given)
    again = TimeExtended.from_config(model.config)
    assert {key: x.shape for key, x in again.state_dict().items()} == {
        key: x.shape for key, x in model.state_dict().items()
    }
    assert again.config.every == given.get("every", 1)


def test_automodel_of_diffusers_finds_the_class_of_a_saved_folder(tmp_path: Path) -> None:
    model = extended("SD3")
    model.save_pretrained(tmp_path)
    found: Any = AutoModel.from_pretrained(str(tmp_path), **{"trust_remote_code": True})
    assert isinstance(found, TimeExtended)
    assert torch.equal(call(found.eval(), "SD3"), call(model, "SD3"))


def test_a_pipeline_is_made_of_an_extended_ones_parts() -> None:
    pipe: Any = extend_in_time(sd3_pipeline(), num_frames=5)
    assert VideoDiTPipeline.from_pipe(pipe).transformer is pipe.transformer


class Foreign(DiTTransformer2DModel):
    """An image model that diffusers does not have."""


def test_a_row_from_outside_says_whose_class_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES, "Foreign", replace(FAMILIES["DiTTransformer2DModel"], cls=Foreign))
    image: Any = Foreign.from_config(tiny_image_model("DiT").config)
    model = TimeExtended(image).eval()
    model.save_pretrained(tmp_path / "extended")
    image.save_pretrained(tmp_path / "image")
    again, anew = load_model(tmp_path / "extended").eval(), extend_in_time(tmp_path / "image")
    assert isinstance(again.image, Foreign)
    assert isinstance(anew.image, Foreign)
    assert torch.equal(call(again, "DiT"), call(model, "DiT"))


@pytest.mark.parametrize("name", ["TimeExtended", "WanTransformer3DModel", "UNetMotionModel", "VideoDiT"])
def test_what_is_a_video_model_already_is_told_so(name: str) -> None:
    with pytest.raises(ValueError, match="extended already" if name == "TimeExtended" else "but a video model"):
        family_of(name)


@EVERY
@torch.no_grad()
def test_a_merged_model_is_plain_tensors_and_the_same(name: str) -> None:
    model = extended(name)
    plain = merged(model, dict(model.state_dict())).eval()
    assert not any(x.is_meta for x in (*plain.parameters(), *plain.buffers()))
    assert torch.equal(call(plain, name), call(model, name))


@torch.no_grad()
def test_a_unet_without_a_middle_is_extended() -> None:
    model = TimeExtended(unet(mid_block_type=None)).eval()
    assert call(model, "UNet").isfinite().all()


def test_an_older_folder_of_pixart_or_dit_is_what_diffusers_makes_of_it(tmp_path: Path) -> None:
    for name in ("PixArt", "DiT"):
        image = tiny_image_model(name)
        image.save_pretrained(tmp_path / name)
        file = tmp_path / name / "config.json"
        file.write_text(file.read_text().replace(type(image).__name__, "Transformer2DModel"))
        found: Any = extend_in_time(tmp_path / name)
        assert type(found.image) is type(image)


def test_a_pipeline_that_names_an_older_class_is_what_diffusers_makes_of_it(tmp_path: Path) -> None:
    image = tiny_image_model("DiT")
    DiTPipeline(image, tiny_picture_vae(), DDIMScheduler()).save_pretrained(tmp_path)
    for file in (tmp_path / "model_index.json", tmp_path / "transformer" / "config.json"):
        file.write_text(file.read_text().replace(type(image).__name__, "Transformer2DModel"))
    found: Any = extend_in_time(tmp_path)
    assert type(found.transformer.image) is type(image)
    assert family_at(tmp_path) == type(image).__name__


def test_a_unet_under_an_ip_adapter_makes_no_clips() -> None:
    model = extended("UNet")
    model.image.config.encoder_hid_dim_type = "ip_image_proj"  # as `load_ip_adapter` of diffusers has it
    with pytest.raises(ValueError, match="encoder_hid_dim_type='ip_image_proj' is told more than a text"):
        call(model, "UNet")


@pytest.mark.parametrize(("said", "side"), [(None, 128), (None, 8), (True, 8), (False, 128)])
def test_pixart_is_told_a_size_where_it_reads_one(said: bool | None, side: int) -> None:
    config = {**tiny_image_model("PixArt").config, "sample_size": side, "use_additional_conditions": said}
    image: Any = PixArtTransformer2DModel.from_config(config)
    model = TimeExtended(image)
    assert ("size" in {condition.kind for condition in model.conditions}) == image.use_additional_conditions


def test_a_fingerprint_is_one_of_float32_and_bfloat16(tmp_path: Path) -> None:
    model = extended("SD3")
    assert base_fingerprint(model) == base_fingerprint(copy.deepcopy(model).to(torch.bfloat16))


@pytest.mark.parametrize(
    ("name", "change", "why"),
    [
        ("SD3", {"encoder_hidden_states": torch.zeros(3, 7, 32)}, "encoder_hidden_states has 3 rows, .* 2 clips"),
        ("SD3", {"pooled_projections": torch.zeros(1, 32)}, "pooled_projections has 1 rows"),
        ("Flux", {"guidance": torch.ones(4)}, "guidance has 4 rows"),
        ("HunyuanDiT", {"encoder_hidden_states": torch.zeros(2, 6, 33)}, "has 6 tokens, this model reads 7, as"),
        ("Sana", {"encoder_attention_mask": torch.ones(3, 7)}, "encoder_attention_mask has 3 rows"),
        ("Sana", {"encoder_attention_mask": torch.ones(2, 6)}, r"encoder_attention_mask has shape \(2, 6\)"),
        ("SD3", {"fps": torch.ones(3)}, r"fps has shape \(3,\); it must be a number or \(2,\)"),
        ("DiT", {"class_labels": torch.tensor([0, 6])}, "this model has 0 to 5"),
        ("DiT", {"class_labels": torch.zeros(2)}, "class_labels has shape"),
    ],
)
def test_what_does_not_fit_the_clips_is_named(name: str, change: dict[str, Any], why: str) -> None:
    model = extended(name)
    latents = torch.zeros(2, model.in_channels, 3, 8, 8)
    with pytest.raises(ValueError, match=why):
        model(latents, torch.zeros(2), **told(name, model.image) | change)


def test_parts_of_a_pipeline_that_are_left_out_are_named(caplog: pytest.LogCaptureFixture) -> None:
    pipe = sd3_pipeline()
    pipe.register_modules(feature_extractor=CLIPImageProcessor())
    extend_in_time(pipe)
    assert [r.getMessage() for r in caplog.records if r.name == "videodit.extending"] == [
        "StableDiffusion3Pipeline: its feature_extractor is no part of a video pipeline, and left out"
    ]
