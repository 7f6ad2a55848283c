"""Peer law: a clip of an image model is, before it is trained, what its family's own pipeline makes of each frame."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from einops import rearrange
from torch import Tensor

from tests.families import MASKED, PIPELINES, loud, sd3_pipeline, tiny_dc, tiny_image_model, tiny_picture_vae, told
from videodit import TimeExtended, VideoDiTPipeline, extend_in_time

PROMPT, AGAINST = "a red circle moving left", "two blue stars"
STEPS, FRAMES = 3, 3


def packed(latents: Tensor, side: int = 2) -> Tensor:
    return rearrange(latents, "b c (h p) (w q) -> b (h w) (c p q)", p=side, q=side)


def unpacked(tokens: Tensor, side: int = 2) -> Tensor:
    return rearrange(tokens, "b (h w) (c p q) -> b c (h p) (w q)", p=side, q=side, h=8 // side)


@pytest.fixture(params=PIPELINES)
def family(request: pytest.FixtureRequest) -> tuple[str, Any, Any]:
    pipe = PIPELINES[request.param]()
    pipe.set_progress_bar_config(disable=True)
    ours = extend_in_time(PIPELINES[request.param](), num_frames=FRAMES)
    ours.set_progress_bar_config(disable=True)
    return request.param, pipe, ours


SIZE: dict[str, Any] = {"height": 16, "width": 16, "num_inference_steps": STEPS, "output_type": "latent"}


def theirs(name: str, pipe: Any, latents: Tensor, scale: float) -> Tensor:
    """A frame, by the family's own pipeline; `scale` as ours counts it."""
    if name == "SD3":
        return pipe(PROMPT, negative_prompt=AGAINST, latents=latents, guidance_scale=scale, **SIZE).images
    if name == "Flux":
        return unpacked(pipe(PROMPT, latents=packed(latents), guidance_scale=scale, **SIZE).images)
    return pipe(PROMPT, negative_prompt=AGAINST, latents=latents, guidance_scale=scale - 1, **SIZE).images


def test_a_silent_clip_is_its_own_pipeline_on_every_frame(family: tuple[str, Any, Any]) -> None:
    name, pipe, ours = family
    latents = torch.randn(1, 4, FRAMES, 8, 8, generator=torch.Generator().manual_seed(3))
    against = {} if name == "Flux" else {"negative_prompt": AGAINST}
    found = ours(PROMPT, **against, latents=latents, guidance_scale=4.0, fps=8.0, **SIZE).frames
    for index in range(FRAMES):
        wanted = theirs(name, pipe, latents[:, :, index], 4.0)
        scale = float(wanted.abs().max())
        torch.testing.assert_close(found[:, :, index], wanted, atol=1e-5 * scale, rtol=0)


def test_pixels_are_those_of_its_own_pipeline(family: tuple[str, Any, Any]) -> None:
    name, pipe, ours = family
    latents = torch.randn(1, 4, FRAMES, 8, 8, generator=torch.Generator().manual_seed(3))
    against = {} if name == "Flux" else {"negative_prompt": AGAINST}
    size = SIZE | {"output_type": "pt"}
    found = ours(PROMPT, **against, latents=latents, guidance_scale=4.0, fps=8.0, **size).frames[0, 1]
    first = packed(latents[:, :, 1]) if name == "Flux" else latents[:, :, 1]
    scale = 3.0 if name == "Z-Image" else 4.0
    wanted = pipe(PROMPT, **against, latents=first, guidance_scale=scale, **size).images[0]
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_flux_has_a_scale_between_passes_too() -> None:
    pipe = PIPELINES["Flux"]()
    pipe.set_progress_bar_config(disable=True)
    ours: Any = extend_in_time(PIPELINES["Flux"](), num_frames=FRAMES)
    ours.set_progress_bar_config(disable=True)
    latents = torch.randn(1, 4, FRAMES, 8, 8, generator=torch.Generator().manual_seed(3))
    how: dict[str, Any] = {"negative_prompt": AGAINST, "guidance_scale": 2.5, "true_cfg_scale": 3.0}
    found = ours(PROMPT, latents=latents, fps=8.0, **how, **SIZE).frames
    wanted = unpacked(pipe(PROMPT, latents=packed(latents[:, :, 2]), **how, **SIZE).images)
    torch.testing.assert_close(found[:, :, 2], wanted, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="true_cfg_scale is of a model that is told"):
        extend_in_time(sd3_pipeline(), num_frames=FRAMES)(PROMPT, true_cfg_scale=2.0)  # type: ignore[operator]


def test_round_trip_law_a_saved_pipeline_makes_the_same_clip(family: tuple[str, Any, Any], tmp_path: Path) -> None:
    name, _, ours = family
    loud(ours.transformer.blocks)
    latents = torch.randn(1, 4, FRAMES, 8, 8, generator=torch.Generator().manual_seed(3))
    wanted = ours(PROMPT, latents=latents, guidance_scale=3.0, **SIZE).frames
    ours.save_pretrained(tmp_path / "pipe")
    again = VideoDiTPipeline.from_pretrained(tmp_path / "pipe")
    again.set_progress_bar_config(disable=True)
    assert torch.equal(again(PROMPT, latents=latents, guidance_scale=3.0, **SIZE).frames, wanted)
    image = again.transformer.image
    assert type(image).__name__ == type(PIPELINES[name]().transformer).__name__


def test_batch_law_a_prompt_alone_gives_the_same_clip(family: tuple[str, Any, Any]) -> None:
    _, _, ours = family
    loud(ours.transformer.blocks)
    latents = torch.randn(2, 4, FRAMES, 8, 8, generator=torch.Generator().manual_seed(3))
    how = {"guidance_scale": 3.0, **SIZE}
    both = ours([PROMPT, AGAINST], latents=latents, **how).frames
    for row, prompt in enumerate((PROMPT, AGAINST)):
        alone = ours(prompt, latents=latents[row : row + 1], **how).frames
        torch.testing.assert_close(alone, both[row : row + 1], atol=1e-5, rtol=1e-5)


def test_states_in_the_place_of_prompts_give_the_same_clip(family: tuple[str, Any, Any]) -> None:
    _, _, ours = family
    told, mask, untold, hidden, *pooled = ours.encode_prompt(PROMPT, True, AGAINST)
    latents = torch.randn(1, 4, FRAMES, 8, 8, generator=torch.Generator().manual_seed(3))
    wanted = ours(PROMPT, negative_prompt=AGAINST, latents=latents, **SIZE).frames
    embeds = {
        "prompt_embeds": told,
        "prompt_attention_mask": mask,
        "negative_prompt_embeds": untold,
        "negative_prompt_attention_mask": hidden,
        **dict(zip(("pooled_prompt_embeds", "negative_pooled_prompt_embeds"), pooled, strict=bool(pooled))),
    }
    found = ours(latents=latents, **embeds, **SIZE).frames
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)
    if pooled:
        with pytest.raises(ValueError, match=r"reads pooled_prompt_embeds of \(1, "):
            ours(latents=latents, **embeds | {"pooled_prompt_embeds": None}, **SIZE)


# families whose text encoders are too large to be had tiny: by states
def by_states(name: str) -> tuple[Any, dict[str, Any]]:
    image: Any = tiny_image_model(name)
    flow = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_image_seq_len=4, max_image_seq_len=64)
    states = told(name, image, clips=1)
    made: dict[str, Any] = {"prompt_embeds": states["encoder_hidden_states"]}
    if name in MASKED:
        made["prompt_attention_mask"] = torch.ones(made["prompt_embeds"].shape[:2], dtype=torch.bool)
    parts: dict[str, Any] = {"text_encoder": None, "tokenizer": None, "transformer": image}
    if name == "Sana":
        still = FlowMatchEulerDiscreteScheduler(shift=3.0)
        return diffusers.SanaPipeline(**parts, vae=tiny_dc(), scheduler=still), made
    cls = {"Qwen-Image": diffusers.QwenImagePipeline, "Lumina2": diffusers.Lumina2Pipeline}[name]
    return cls(**parts, vae=tiny_picture_vae(), scheduler=flow), made


@pytest.mark.parametrize("name", ["Sana", "Lumina2"])
def test_a_silent_clip_of_given_states_is_its_own_pipeline_on_every_frame(name: str) -> None:
    pipe, states = by_states(name)
    ours: Any = VideoDiTPipeline(
        vae=pipe.vae,
        text_encoder=None,
        tokenizer=None,
        transformer=TimeExtended(tiny_image_model(name)),
        scheduler=type(pipe.scheduler).from_config(pipe.scheduler.config),
        default_num_frames=FRAMES,
    )
    for one in (pipe, ours):
        one.set_progress_bar_config(disable=True)
    latents = torch.randn(1, 4, FRAMES, 8, 8, generator=torch.Generator().manual_seed(3))
    against = {f"negative_{key}": value.flip(1) if value.ndim == 3 else value for key, value in states.items()}
    found = ours(latents=latents, guidance_scale=4.0, **states, **against, **SIZE).frames
    more: dict[str, Any] = {"cfg_normalization": False} if name == "Lumina2" else {"use_resolution_binning": False}
    for index in range(FRAMES):
        wanted = pipe(latents=latents[:, :, index], guidance_scale=4.0, **states, **against, **more, **SIZE)[0]
        torch.testing.assert_close(found[:, :, index], wanted, atol=1e-5, rtol=1e-5)


def test_a_folder_of_any_family_is_extended(tmp_path: Path) -> None:
    sd3_pipeline().save_pretrained(tmp_path / "sd3")
    pipe: Any = extend_in_time(tmp_path / "sd3", num_frames=FRAMES)
    model: Any = extend_in_time(tmp_path / "sd3" / "transformer", every=2)
    assert isinstance(pipe, VideoDiTPipeline)
    assert pipe.config.text_pipeline == "StableDiffusion3Pipeline"
    assert (pipe.default_size.num_frames, pipe.default_size.height) == (FRAMES, 16)
    assert isinstance(model, TimeExtended)
    assert len(model.blocks) == 1
    assert isinstance(DiffusionPipeline.from_pretrained(tmp_path / "sd3"), diffusers.StableDiffusion3Pipeline)
    for found, wanted in ((pipe.transformer.image, sd3_pipeline().transformer), (model.image, pipe.transformer.image)):
        for key, weight in wanted.state_dict().items():
            assert torch.equal(found.state_dict()[key], weight)
