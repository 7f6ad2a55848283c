"""Peer law: a clip of an image model is, before it is trained, what its family's own pipeline makes of each frame."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from einops import rearrange
from families import awakened, dit, flux, loud, tiny_image_model, told
from family_pipelines import (
    PIPELINES,
    diffusion,
    hunyuan_pipeline,
    sd3_pipeline,
    stable_pipeline,
    tiny_dc,
    tiny_deep_vae,
    tiny_flux2_vae,
    tiny_picture_vae,
    tiny_qwen_vae,
)
from standin import LEFT_EMPTY
from torch import Tensor

from videodit import TimeExtended, VideoDiTPipeline, extend_in_time
from videodit.caching import set_cache

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


@pytest.mark.slow
def test_a_silent_clip_is_its_own_pipeline_on_every_frame(family: tuple[str, Any, Any]) -> None:
    name, pipe, ours = family
    latents = torch.randn(1, 4, FRAMES, 8, 8, generator=torch.Generator().manual_seed(3))
    against = {} if name == "Flux" else {"negative_prompt": AGAINST}
    found = ours(PROMPT, **against, latents=latents, guidance_scale=4.0, fps=8.0, **SIZE).frames
    for index in range(FRAMES):
        wanted = theirs(name, pipe, latents[:, :, index], 4.0)
        scale = float(wanted.abs().max())
        torch.testing.assert_close(found[:, :, index], wanted, atol=1e-5 * scale, rtol=0)


@pytest.mark.slow
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


@pytest.mark.slow
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
    with pytest.raises(ValueError, match="negative_prompt has no effect at true_cfg_scale=1"):
        ours(PROMPT, negative_prompt=AGAINST, latents=latents, **SIZE)

    seen: list[Any] = []

    def later(pipe: Any, index: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        seen.append((pipe.guidance_scale, pipe.do_classifier_free_guidance))
        pipe._guidance_scale = 2.5
        return {}

    with_callback = {"negative_prompt": AGAINST, "true_cfg_scale": 3.0, "callback_on_step_end": later}
    changed = ours(PROMPT, latents=latents, guidance_scale=3.5, **with_callback, **SIZE).frames
    assert seen == [(3.5, True), (2.5, True), (2.5, True)]
    theirs_changed = unpacked(
        pipe(PROMPT, latents=packed(latents[:, :, 2]), **how | {"guidance_scale": 3.5}, **SIZE).images
    )
    assert not torch.allclose(changed[:, :, 2], theirs_changed)  # the later steps are told another scale
    with pytest.raises(ValueError, match="true_cfg_scale is of a model that is told"):
        extend_in_time(sd3_pipeline(), num_frames=FRAMES)(PROMPT, true_cfg_scale=2.0)  # type: ignore[operator]


@pytest.mark.slow
@pytest.mark.cpu(LEFT_EMPTY)
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


@pytest.mark.slow
def test_batch_law_a_prompt_alone_gives_the_same_clip(family: tuple[str, Any, Any]) -> None:
    _, _, ours = family
    loud(ours.transformer.blocks)
    latents = torch.randn(2, 4, FRAMES, 8, 8, generator=torch.Generator().manual_seed(3))
    how = {"guidance_scale": 3.0, "max_sequence_length": 16, **SIZE}
    both = ours([PROMPT, AGAINST], latents=latents, **how).frames
    for row, prompt in enumerate((PROMPT, AGAINST)):
        alone = ours(prompt, latents=latents[row : row + 1], **how).frames
        torch.testing.assert_close(alone, both[row : row + 1], atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_states_in_the_place_of_prompts_give_the_same_clip(family: tuple[str, Any, Any]) -> None:
    name, _, ours = family
    told, mask, untold, hidden, *pooled = ours.encode_prompt(PROMPT, True, AGAINST)
    latents = torch.randn(1, 4, FRAMES, 8, 8, generator=torch.Generator().manual_seed(3))
    true = {"true_cfg_scale": 3.0} if name == "Flux" else {}
    wanted = ours(PROMPT, negative_prompt=AGAINST, latents=latents, **true, **SIZE).frames
    embeds = {
        "prompt_embeds": told,
        "prompt_attention_mask": mask,
        "negative_prompt_embeds": untold,
        "negative_prompt_attention_mask": hidden,
        **dict(zip(("pooled_prompt_embeds", "negative_pooled_prompt_embeds"), pooled, strict=bool(pooled))),
    }
    found = ours(latents=latents, **embeds, **true, **SIZE).frames
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)
    if pooled:
        with pytest.raises(ValueError, match=r"reads pooled_prompt_embeds of \(1, "):
            ours(latents=latents, **embeds | {"pooled_prompt_embeds": None}, **true, **SIZE)


# families whose text encoders cannot be had tiny: by states
FLOW = partial(FlowMatchEulerDiscreteScheduler, shift=3.0)
SHIFTED = partial(
    FlowMatchEulerDiscreteScheduler, use_dynamic_shifting=True, base_image_seq_len=4, max_image_seq_len=64
)
AS_IT_IS = {"use_resolution_binning": False, "negative_prompt": None}
CASES: dict[str, tuple[Any, Any, Any, dict[str, Any]]] = {  # pipeline, VAE, scheduler, how it is called
    "Sana": (diffusers.SanaPipeline, tiny_dc, FLOW, AS_IT_IS),
    "PixArt": (diffusers.PixArtSigmaPipeline, tiny_picture_vae, diffusion, AS_IT_IS),
    "Lumina2": (diffusers.Lumina2Pipeline, tiny_picture_vae, FLOW, {"cfg_normalization": False}),
    "Qwen-Image": (diffusers.QwenImagePipeline, tiny_qwen_vae, SHIFTED, {}),
    "Flux2": (diffusers.Flux2Pipeline, tiny_flux2_vae, SHIFTED, {}),
}
PACKS = {"Qwen-Image": 2, "Flux2": 1}


@pytest.mark.parametrize("name", CASES)
def test_a_silent_clip_of_given_states_is_its_own_pipeline_on_every_frame(name: str) -> None:
    cls, vae, flow, how = CASES[name]
    parts: dict[str, Any] = {"vae": vae(), "text_encoder": None, "tokenizer": None}
    pipe = cls(**parts, transformer=tiny_image_model(name), scheduler=flow())
    ours: Any = VideoDiTPipeline(
        **parts,
        transformer=TimeExtended(tiny_image_model(name)),
        scheduler=flow(),
        default_num_frames=FRAMES,
    )
    for one in (pipe, ours):
        one.set_progress_bar_config(disable=True)
    text = told(name, pipe.transformer, clips=1)["encoder_hidden_states"]
    states = {"prompt_embeds": text}
    guided = name in ("Sana", "Lumina2", "PixArt")
    against = {"negative_prompt_embeds": text.flip(1)} if guided else {}
    scale = 4.0 if guided or name == "Flux2" else 1.0
    masks = {
        f"{key.removesuffix('_embeds')}_attention_mask": torch.ones(1, 7, dtype=torch.bool) for key in states | against
    }
    side = 8 if name == "Flux2" else 16
    latents = torch.randn(
        1, ours.transformer.in_channels, FRAMES, side, side, generator=torch.Generator().manual_seed(3)
    )
    size = SIZE | {"height": 32, "width": 32}
    found = ours(latents=latents, guidance_scale=scale, **states, **against, **masks, **size).frames
    if name == "Qwen-Image":
        how = how | {"prompt_embeds_mask": masks["prompt_attention_mask"]}
    else:
        how = how | {"guidance_scale": scale} | (masks if guided else {})
    for index in range(FRAMES):
        one = latents[:, :, index]
        first = packed(one, PACKS[name]) if name == "Qwen-Image" else one
        wanted = pipe(latents=first, **states, **against, **how, **size)[0]
        if name in PACKS:
            wanted = rearrange(
                wanted, "b (h w) (c p q) -> b c (h p) (w q)", p=PACKS[name], q=PACKS[name], h=side // PACKS[name]
            )
        torch.testing.assert_close(found[:, :, index], wanted, atol=1e-5 * float(wanted.abs().max()), rtol=0)
        pixels = ours.codec.decode(found[:, :, index : index + 1])
        assert pixels.shape == (1, 3, 1, 32, 32)


OF_TWO: dict[str, Any] = {
    "UNet": stable_pipeline,
    "HunyuanDiT": hunyuan_pipeline,
    "HunyuanDiT told its size": partial(hunyuan_pipeline, told_size=True),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_TWO)
def test_a_silent_batch_of_two_prompts_is_its_own_pipeline_on_every_frame(name: str) -> None:
    pipe, ours = OF_TWO[name](), extend_in_time(OF_TWO[name](), num_frames=2)
    assert isinstance(ours, VideoDiTPipeline)
    for one in (pipe, ours):
        one.set_progress_bar_config(disable=True)
    pixels = 4 * ours.strides.space if name != "UNet" else 16
    side = pixels // ours.strides.space
    latents = torch.randn(2, 4, 2, side, side, generator=torch.Generator().manual_seed(3))
    size = SIZE | {"height": pixels, "width": pixels, "num_inference_steps": 2, "negative_prompt": "blue"}
    found = ours([PROMPT, "two"], latents=latents, guidance_scale=4.0, fps=8.0, **size).frames
    how = {"use_resolution_binning": False} if name != "UNet" else {}
    for row, prompt in enumerate((PROMPT, "two")):
        for index in range(2):
            frame = latents[row : row + 1, :, index]
            wanted = pipe(prompt, latents=frame, guidance_scale=4.0, **how, **size).images
            scale = float(wanted.abs().max())
            torch.testing.assert_close(found[row : row + 1, :, index], wanted, atol=1e-5 * scale, rtol=0)


def test_a_silent_clip_of_a_class_is_its_own_pipeline_on_every_frame() -> None:
    """DiT's pipeline draws its noise itself, gives pixels, and takes the thousandth class for none."""
    torch.manual_seed(0)
    image = awakened(dit(num_embeds_ada_norm=1000))
    pipe = diffusers.DiTPipeline(image, tiny_deep_vae(), diffusion())
    same = diffusers.DiTPipeline(copy.deepcopy(image), tiny_deep_vae(), diffusion())
    ours: Any = extend_in_time(same, num_frames=FRAMES)
    for one in (pipe, ours):
        one.set_progress_bar_config(disable=True)
    draws = [torch.Generator().manual_seed(seed) for seed in range(FRAMES)]
    latents = torch.stack([torch.randn(1, 4, 8, 8, generator=draw) for draw in draws], dim=2)
    how: dict[str, Any] = {"class_labels": [7], "num_inference_steps": STEPS, "guidance_scale": 4.0}
    found = ours(latents=latents, fps=8.0, output_type="np", **how).frames[0]
    for seed, frame in enumerate(found):
        wanted = pipe(generator=torch.Generator().manual_seed(seed), output_type="np", **how).images[0]
        torch.testing.assert_close(torch.tensor(frame), torch.tensor(wanted), atol=1e-5, rtol=0)


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["first-block=0", "taylorseer=2"])
def test_a_cache_does_to_a_silent_clip_what_it_does_in_its_own_pipeline(cache: str) -> None:
    pipe, ours = PIPELINES["Flux"](), extend_in_time(PIPELINES["Flux"](), num_frames=FRAMES)
    assert isinstance(ours, VideoDiTPipeline)
    for one in (pipe, ours):
        one.set_progress_bar_config(disable=True)
    latents = torch.randn(1, 4, FRAMES, 8, 8, generator=torch.Generator().manual_seed(3))
    size = SIZE | {"num_inference_steps": 6}
    plain = ours(PROMPT, latents=latents, guidance_scale=4.0, fps=8.0, **size).frames
    set_cache(ours, cache)
    found = ours(PROMPT, latents=latents, guidance_scale=4.0, fps=8.0, **size).frames
    pipe.transformer.enable_cache(ours.transformer._cache_config)
    wanted = unpacked(pipe(PROMPT, latents=packed(latents[:, :, 1]), guidance_scale=4.0, **size).images)
    torch.testing.assert_close(found[:, :, 1], wanted, atol=1e-5 * float(wanted.abs().max()), rtol=0)
    assert torch.equal(found, plain) is (cache == "first-block=0")
    set_cache(ours, None)
    assert torch.equal(ours(PROMPT, latents=latents, guidance_scale=4.0, fps=8.0, **size).frames, plain)


def test_other_caches_are_refused() -> None:
    ours = extend_in_time(PIPELINES["SD3"](), num_frames=FRAMES)
    for cache in ("pyramid-attention", "sea"):
        with pytest.raises(ValueError, match="does not fit SD3Transformer2DModel on clips: take no cache"):
            set_cache(ours, cache)


@pytest.mark.slow
def test_the_scale_of_guidance_is_its_own_pipelines() -> None:
    """SD3, and a Flux that is told a scale: what their calls take by default; one that is not told is not guided."""
    assert extend_in_time(PIPELINES["SD3"](), num_frames=3).config.default_guidance_scale == 7.0
    assert extend_in_time(PIPELINES["Flux"](), num_frames=3).config.default_guidance_scale == 3.5
    assert extend_in_time(PIPELINES["Z-Image"](), num_frames=3).config.default_guidance_scale == 6.0  # 5, and 1
    schnell = PIPELINES["Flux"]()
    schnell.register_modules(transformer=flux(guidance_embeds=False))
    assert extend_in_time(schnell, num_frames=3).config.default_guidance_scale == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_pipeline_of_half_the_bits_makes_nearly_the_same_clip(
    family: tuple[str, Any, Any], dtype: torch.dtype
) -> None:
    _, _, ours = family
    latents = torch.randn(1, 4, FRAMES, 8, 8, generator=torch.Generator().manual_seed(3))
    size = SIZE | {"max_sequence_length": 16}
    wanted = ours(PROMPT, latents=latents, guidance_scale=2.0, **size).frames
    found = ours.to(dtype)(PROMPT, latents=latents, guidance_scale=2.0, **size).frames.float()
    assert float((found - wanted).norm() / wanted.norm()) < 0.1
