"""`TimeExtended`: an image model of any family on clips, with time blocks behind its own."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers.hooks import HookRegistry
from families import MASKED, MODELS, frame_by_frame, loud, tiny_image_model, told
from tiny import PEER
from torch import Tensor

from videodit import load_time_blocks, save_time_blocks
from videodit.models.extended import TimeExtended
from videodit.models.loading import load_model
from videodit.weights import WeightsError

EVERY = pytest.mark.parametrize("name", MODELS)


def clip(model: TimeExtended, frames: int = 3) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(2)
    width = 8 if model.family.square else 12
    return torch.randn(2, model.in_channels, frames, 8, width, generator=draw), torch.tensor([300.0, 700.0])


def run(model: TimeExtended, latents: Tensor, times: Tensor, kw: dict[str, Any], **more: Any) -> Tensor:
    return model(latents, times, **kw, **more, return_dict=False)[0]


@EVERY
@torch.no_grad()
def test_image_law_one_frame_is_the_image_model_bit_for_bit_silent_and_trained(name: str) -> None:
    image = tiny_image_model(name)
    model = TimeExtended(image).eval()
    latents, times = clip(model, 1)
    kw = told(name, image)
    wanted = frame_by_frame(tiny_image_model(name), latents, times, kw)
    assert torch.equal(run(model, latents, times, kw), wanted)
    loud(model.blocks)
    assert torch.equal(run(model, latents, times, kw), wanted)


@EVERY
@torch.no_grad()
def test_image_law_a_silent_clip_is_the_image_model_on_every_frame(name: str) -> None:
    image = tiny_image_model(name)
    model = TimeExtended(image).eval()
    latents, times = clip(model)
    kw = told(name, image)
    wanted = frame_by_frame(tiny_image_model(name), latents, times, kw)
    torch.testing.assert_close(run(model, latents, times, kw), wanted, atol=3e-6, rtol=0)


@EVERY
@torch.no_grad()
def test_hooks_without_clips_leave_the_image_model_as_it_was(name: str) -> None:
    image = tiny_image_model(name)
    names = sorted(image.state_dict())
    model = TimeExtended(image).eval()
    loud(model.blocks)
    latents, times = clip(model)
    kw = told(name, image)
    wanted = frame_by_frame(tiny_image_model(name), latents, times, kw)
    assert torch.equal(frame_by_frame(model.image, latents, times, kw), wanted)
    assert sorted(model.image.state_dict()) == names
    run(model, latents, times, kw)  # a call of clips leaves nothing behind
    assert torch.equal(frame_by_frame(model.image, latents, times, kw), wanted)


@EVERY
@torch.no_grad()
def test_each_frame_is_told_of_the_others_and_of_seconds(name: str) -> None:
    model = TimeExtended(tiny_image_model(name)).eval()
    loud(model.blocks)
    latents, times = clip(model)
    kw = told(name, model.image)
    found, moved = run(model, latents, times, kw), latents.clone()
    moved[:, :, 2] += 1
    assert (run(model, moved, times, kw) - found)[:, :, 0].abs().max() > 1e-4
    assert (run(model, latents, times, kw, fps=2.0) - found).abs().max() > 1e-5
    assert torch.equal(run(model, latents, times, kw, fps=8.0), found)  # its own rate


@EVERY
@torch.no_grad()
def test_batch_law_a_clip_alone_is_the_same_whatever_the_padding(name: str) -> None:
    model = TimeExtended(tiny_image_model(name)).eval()
    loud(model.blocks)
    latents, times = clip(model)
    kw = told(name, model.image)
    both = run(model, latents, times, kw)
    for row in (0, 1):
        alone = {key: value[row : row + 1] for key, value in kw.items()}
        if name in MASKED:  # without the padding of its neighbour
            seen = int(alone["encoder_attention_mask"].sum())
            alone = {k: v[:, :seen] if k.startswith("encoder_") else v for k, v in alone.items()}
        found = run(model, latents[row : row + 1], times[row : row + 1], alone)
        torch.testing.assert_close(found, both[row : row + 1], atol=2e-5, rtol=1e-5)


@EVERY
@torch.no_grad()
def test_given_frames_are_at_time_zero(name: str) -> None:
    model = TimeExtended(tiny_image_model(name)).eval()
    loud(model.blocks)
    latents, times = clip(model)
    kw = told(name, model.image)
    given = torch.tensor([[True, False, False], [False, False, True]])
    each = torch.where(given, 0.0, times[:, None])
    assert torch.equal(run(model, latents, times, kw, frame_mask=given), run(model, latents, each, kw))


@EVERY
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_round_trip_law_saved_whole_and_loaded_are_equal(name: str, tmp_path: Path) -> None:
    model = TimeExtended(tiny_image_model(name), every=2 if name != "UNet" else 1, sample_fps=6.0).eval()
    loud(model.blocks)
    model.save_pretrained(tmp_path)
    again = load_model(tmp_path).eval()
    assert isinstance(again, TimeExtended)
    assert type(again.image) is type(model.image)
    latents, times = clip(model)
    kw = told(name, model.image)
    with torch.no_grad():
        assert torch.equal(run(again, latents, times, kw), run(model, latents, times, kw))
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["base"]["_class_name"] == type(model.image).__name__
    assert {key for key in model.state_dict() if key.startswith("image.")} == {
        f"image.{key}" for key in model.image.state_dict()
    }


@pytest.mark.slow
@EVERY
def test_gradients_with_checkpointing_are_those_without(name: str) -> None:
    model = TimeExtended(tiny_image_model(name))
    loud(model.blocks)
    latents, times = clip(model)
    kw = told(name, model.image)

    def gradients() -> dict[str, Tensor]:
        model.zero_grad()
        run(model, latents, times, kw).square().mean().backward()
        return {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}

    calls: list[int] = []
    for number, block in enumerate(model.blocks):
        block.register_forward_pre_hook(lambda *_, number=number: calls.append(number))
    plain = gradients()
    assert all(key in plain for key, _ in model.blocks.named_parameters(prefix="blocks"))
    for every in (1, 2):
        model.checkpoint_units(every)
        calls.clear()
        remade = gradients()
        twice = [number for number in range(len(model.blocks)) if number % every == 0]
        assert sorted(calls) == sorted([*range(len(model.blocks)), *twice])  # each once, and again where it is remade
        assert plain.keys() == remade.keys()
        for key in plain:
            torch.testing.assert_close(remade[key], plain[key], atol=1e-7, rtol=1e-5)
    model.checkpoint_units(0)
    assert gradients().keys() == plain.keys()


@EVERY
@torch.no_grad()
def test_a_copy_has_hooks_of_its_own(name: str) -> None:
    model = TimeExtended(tiny_image_model(name)).eval()
    other = copy.deepcopy(model)
    loud(other.blocks)
    latents, times = clip(model)
    kw = told(name, model.image)
    silent = run(model, latents, times, kw)
    assert (run(other, latents, times, kw) - silent).abs().max() > 1e-5
    assert torch.equal(run(model, latents, times, kw), silent)
    for parameter in model.parameters():
        parameter.zero_()
    assert run(other, latents, times, kw).abs().max() > 1e-3


@EVERY
def test_weights_are_named_by_the_axis_they_look_along(name: str) -> None:
    model = TimeExtended(tiny_image_model(name))
    axes = {key: model.axis_of(key) for key, _ in model.named_parameters()}
    assert {axis for key, axis in axes.items() if key.startswith(("blocks.", "time_embeds."))} == {"time"}
    assert "space" in axes.values()
    assert {key.split(".")[0] for key, axis in axes.items() if axis != "time"} == {"image"}
    assert len(model.units) == len(model.hosts) + len(model.blocks)


@pytest.mark.parametrize(("base", "why"), [("video", "LatteTransformer3DModel is no image"), ("again", "already")])
def test_what_cannot_be_extended_is_named(base: str, why: str) -> None:
    if base == "video":
        model: Any = diffusers.LatteTransformer3DModel(**PEER, cross_attention_dim=48, caption_channels=8)
    else:
        model = TimeExtended(tiny_image_model("PixArt")).image
    with pytest.raises(ValueError, match=why):
        TimeExtended(model)


@pytest.mark.parametrize("every", [0, 3])
def test_more_time_blocks_than_blocks_are_refused(every: int) -> None:
    with pytest.raises(ValueError, match=f"every={every}.*2 blocks"):
        TimeExtended(tiny_image_model("PixArt"), every=every)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"pooled_projections": None}, "needs pooled_projections"),
        ({"class_labels": torch.zeros(2, dtype=torch.long)}, "takes no class_labels"),
        ({"encoder_hidden_states": torch.zeros(2, 7, 30)}, "states of 30, this model reads 32"),
        ({"attention_kwargs": {"scale": 0.5}}, "set_adapters"),
        ({"frame_mask": torch.zeros(2, 2, dtype=torch.bool)}, "frame_mask has shape"),
    ],
)
def test_a_call_that_does_not_fit_is_named(change: dict[str, Any], why: str) -> None:
    model = TimeExtended(tiny_image_model("SD3"))
    latents, times = clip(model)
    with pytest.raises(ValueError, match=why):
        model(latents, times, **told("SD3", model.image) | change)


@pytest.mark.parametrize(
    ("name", "shape", "why"),
    [
        ("SD3", (2, 3, 3, 8, 12), "3 channels, this model takes 4"),
        ("SD3", (2, 4, 3, 7, 12), "the patch 2"),
        ("DiT", (2, 4, 3, 8, 12), "square pictures alone"),
    ],
)
def test_latents_that_do_not_fit_are_named(name: str, shape: tuple[int, ...], why: str) -> None:
    model = TimeExtended(tiny_image_model(name))
    with pytest.raises(ValueError, match=why):
        model(torch.zeros(shape), torch.zeros(2), **told(name, model.image))


def test_a_cache_on_the_image_model_comes_and_goes() -> None:
    """One put on later wraps it, and a cache that is taken off leaves it."""
    model = TimeExtended(tiny_image_model("Flux")).eval()
    loud(model.blocks)
    latents, times = clip(model)
    kw = told("Flux", model.image)
    with torch.no_grad():
        wanted = run(model, latents, times, kw)
        model.image.enable_cache(diffusers.FirstBlockCacheConfig(threshold=0.0))
        with model.image.cache_context("clips"):
            assert torch.equal(run(model, latents, times, kw), wanted)
        model.image.disable_cache()
        assert torch.equal(run(model, latents, times, kw), wanted)
    assert all(HookRegistry.check_if_exists_or_initialize(host).get_hook("videodit_time") for host in model.hosts)


def test_time_blocks_alone_go_behind_the_image_model_that_they_are_of(tmp_path: Path) -> None:
    model = TimeExtended(tiny_image_model("SD3"), every=2, sample_fps=6.0).eval()
    loud(model.blocks)
    file = save_time_blocks(model, tmp_path)
    assert file.stat().st_size < sum(p.nbytes for p in model.parameters())
    again = load_time_blocks(tiny_image_model("SD3"), tmp_path).eval()
    latents, times = clip(model)
    kw = told("SD3", model.image)
    with torch.no_grad():
        assert torch.equal(run(again, latents, times, kw), run(model, latents, times, kw))

    other = tiny_image_model("SD3")
    with torch.no_grad():
        other.proj_out.bias += 0.5
    for base, why in (
        (other, "of another SD3Transformer2DModel \\(fingerprint"),
        (tiny_image_model("Flux"), "time blocks of SD3Transformer2DModel, not of FluxTransformer2DModel"),
    ):
        with pytest.raises(WeightsError, match=why):
            load_time_blocks(base, tmp_path)
    with pytest.raises(WeightsError, match="no such file"):
        load_time_blocks(tiny_image_model("SD3"), tmp_path / "nothing")
