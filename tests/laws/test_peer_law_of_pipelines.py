"""Peer law from prompt to pixels: the same parts give the pictures of diffusers' pipelines; folders go over whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    DiffusionPipeline,
    DiTPipeline,
    DiTTransformer2DModel,
    DPMSolverMultistepScheduler,
    LattePipeline,
    LatteTransformer3DModel,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
)
from peers import PROMPTS, tiny_wan_pipeline
from tiny import PEER, awaken
from tokenizers import normalizers

from videodit.exchange import open_model, pipeline_from_diffusers, pipeline_to_diffusers
from videodit.models.formats.table import ConversionError
from videodit.pipeline import VideoDiTPipeline
from videodit.text import TextEncoder

SHAPE: dict[str, Any] = PEER | {"attention_bias": True, "norm_elementwise_affine": False}


def tiny_vae() -> AutoencoderKL:
    torch.manual_seed(0)
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    return AutoencoderKL(block_out_channels=[8, 8], norm_num_groups=4, latent_channels=4, **blocks).eval()


def peer(name: str) -> Any:
    """A diffusers pipeline of tiny random parts."""
    torch.manual_seed(0)
    text = TextEncoder.from_captions(PROMPTS, width=20, depth=1, heads=2)
    words = {"text_encoder": text.text_encoder, "tokenizer": text.tokenizer}
    reads: dict[str, Any] = {"cross_attention_dim": 48, "caption_channels": 20, "norm_type": "ada_norm_single"}
    scheduler: Any = DPMSolverMultistepScheduler()
    if name == "dit":
        model: Any = DiTTransformer2DModel(**SHAPE, num_embeds_ada_norm=1000)
        names = {0: "tench", 1: "goldfish, carp"}
        return DiTPipeline(awaken(model, scale=0.05), tiny_vae(), DDIMScheduler(clip_sample=False), id2label=names)
    if name == "latte":
        model = LatteTransformer3DModel(**SHAPE | reads, video_length=4, norm_eps=1e-6)
        parts = {
            "vae": tiny_vae(),
            "transformer": awaken(model, scale=0.05),
            "scheduler": DDIMScheduler(clip_sample=False),
        }
        return LattePipeline(**parts, **words)
    model = PixArtTransformer2DModel(**SHAPE | reads | ({"sample_size": 128} if name == "alpha 1024" else {}))
    cls = PixArtSigmaPipeline if name == "sigma" else PixArtAlphaPipeline
    return cls(vae=tiny_vae(), transformer=awaken(model, scale=0.05), scheduler=scheduler, **words)


def says_something(pixels: torch.Tensor) -> bool:
    """Whether a picture could differ: it is neither flat nor cut off at black and white."""
    return bool(pixels.std() > 0.01 and ((pixels > 0) & (pixels < 1)).float().mean() > 0.5)


def quiet(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("guidance_scale", [1.0, 3.5])
@pytest.mark.parametrize("name", ["alpha", "alpha 1024", "sigma"])
def test_peer_law_pixart_from_prompt_to_pixels(name: str, guidance_scale: float) -> None:
    theirs = quiet(peer(name))
    latents = torch.randn(2, 4, 8, 12)
    expected = theirs(
        PROMPTS,
        negative_prompt="stars",
        latents=latents,
        height=16,
        width=24,
        num_inference_steps=4,
        guidance_scale=guidance_scale,
        output_type="pt",
        use_resolution_binning=False,
        clean_caption=False,
    ).images
    ours = quiet(pipeline_from_diffusers(theirs)[0])
    actual = ours(
        PROMPTS,
        negative_prompt="stars",
        latents=latents.unsqueeze(2),
        height=16,
        width=24,
        num_inference_steps=4,
        guidance_scale=guidance_scale,
        output_type="pt",
    ).frames
    assert actual.shape == (2, 1, 3, 16, 24)
    torch.testing.assert_close(actual[:, 0], expected, rtol=1e-4, atol=1e-4)
    assert says_something(expected)


@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
def test_peer_law_dit_from_class_to_pixels(guidance_scale: float) -> None:
    theirs = quiet(peer("dit"))
    generators = [torch.Generator().manual_seed(i) for i in range(2)]
    expected = theirs(
        [7, 999], guidance_scale=guidance_scale, generator=generators, num_inference_steps=4, output_type="pt"
    ).images
    ours = quiet(pipeline_from_diffusers(theirs)[0])
    generators = [torch.Generator().manual_seed(i) for i in range(2)]
    kwargs = {"generator": generators, "num_inference_steps": 4, "output_type": "pt"}
    actual = ours(class_labels=[7, 999], guidance_scale=guidance_scale, **kwargs).frames
    torch.testing.assert_close(actual[:, 0], expected, rtol=1e-4, atol=1e-4)
    assert says_something(expected)
    assert pipeline_to_diffusers(ours, "dit").labels == theirs.labels == {"carp": 1, "goldfish": 1, "tench": 0}
    with pytest.raises(ValueError, match="is told a class"):
        ours("a red circle")
    with pytest.raises(ValueError, match="from 0 to 999"):
        ours(class_labels=[1000])


@pytest.mark.slow
@pytest.mark.parametrize("prompts", [PROMPTS[:1], PROMPTS], ids=["one", "two"])
def test_peer_law_latte_from_prompt_to_pixels_without_a_text_mask(prompts: list[str]) -> None:
    theirs = quiet(peer("latte"))
    latents = torch.randn(len(prompts), 4, 4, 8, 8)
    expected = theirs(
        prompts,
        negative_prompt="stars",
        latents=latents,
        video_length=4,
        height=16,
        width=16,
        num_inference_steps=4,
        output_type="pt",
        clean_caption=False,
    ).frames
    ours = quiet(pipeline_from_diffusers(theirs)[0])
    kwargs = {"negative_prompt": "stars", "latents": latents, "num_inference_steps": 4, "guidance_scale": 7.5}
    kwargs["output_type"] = "pt"
    actual = ours(prompts, use_text_mask=False, **kwargs).frames
    torch.testing.assert_close(actual, expected.reshape(actual.shape), rtol=1e-4, atol=1e-4)
    assert says_something(expected)
    assert not torch.allclose(ours(prompts, **kwargs).frames, actual, atol=1e-4)


@pytest.mark.slow
def test_prompts_are_lowercased_as_in_diffusers_and_stay_so_when_saved(tmp_path: Path) -> None:
    """Their pipelines do it in code; a tokenizer that tells cases apart (T5's) needs it."""
    theirs = quiet(peer("alpha"))
    theirs.tokenizer.backend_tokenizer.normalizer = normalizers.NFC()  # tells cases apart
    kwargs = {"num_inference_steps": 2, "guidance_scale": 1.0, "height": 16, "width": 16}
    latents = torch.randn(1, 4, 8, 8)
    shouted = " A Red CIRCLE "
    expected = theirs(
        shouted, latents=latents, output_type="pt", use_resolution_binning=False, clean_caption=False, **kwargs
    ).images
    ours = pipeline_from_diffusers(theirs)[0]
    ours.save_pretrained(tmp_path / "ours")
    for pipe in (ours, VideoDiTPipeline.from_pretrained(tmp_path / "ours")):
        actual = quiet(pipe)(shouted, latents=latents.unsqueeze(2), output_type="pt", **kwargs).frames
        torch.testing.assert_close(actual[:, 0], expected, rtol=1e-4, atol=1e-4)
    assert ours.unknown_words("A Red cube") == ["cube"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["alpha", "sigma", "dit", "latte"])
def test_round_trip_law_a_whole_pipeline_goes_over_and_comes_back(tmp_path: Path, name: str) -> None:
    theirs = peer(name)
    theirs.save_pretrained(tmp_path / "theirs")
    ours: Any = open_model(tmp_path / "theirs")[0]
    ours.save_pretrained(tmp_path / "ours")
    again: Any = open_model(tmp_path / "ours")[0]
    assert isinstance(again, VideoDiTPipeline)
    assert again.default_size.num_frames == (4 if name == "latte" else 1)
    back = pipeline_to_diffusers(again, {"alpha": "pixart", "sigma": "pixart"}.get(name, name))
    back.save_pretrained(tmp_path / "back")
    last: Any = DiffusionPipeline.from_pretrained(str(tmp_path / "back"))
    assert type(last) is type(theirs)
    for part in ("transformer", "vae", "text_encoder"):
        if getattr(theirs, part, None) is None:
            continue
        before, after = getattr(theirs, part).state_dict(), getattr(last, part).state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(before[key], after[key]) for key in before)


def test_a_learned_variance_is_sampled_with_ddpm() -> None:
    """A scheduler that wants the second half of the prediction gets it."""
    ours = quiet(pipeline_from_diffusers(peer("dit"))[0])
    frames = {}
    for kind in ("fixed_small", "learned_range"):
        ours.scheduler = DDPMScheduler(variance_type=kind, clip_sample=False)
        generator = [torch.Generator().manual_seed(0)]
        frames[kind] = ours(class_labels=[3], num_inference_steps=4, generator=generator, output_type="pt").frames
    assert all(clip.isfinite().all() for clip in frames.values())
    assert not torch.equal(*frames.values())


def test_other_pipelines_are_named(tmp_path: Path) -> None:
    from diffusers import DDPMPipeline, UNet2DModel

    unet = UNet2DModel(
        sample_size=8,
        block_out_channels=(8,),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
    )
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path / "ddpm")
    with pytest.raises(ConversionError, match=r"DDPMPipeline cannot be converted; .* PixArtAlphaPipeline"):
        open_model(tmp_path / "ddpm")
    with pytest.raises(ConversionError, match="UNet2DModel; a VideoDiT can be made from DiT"):
        open_model(tmp_path / "ddpm" / "unet")
    with pytest.raises(ConversionError, match="nothing: there is no such file or folder"):
        open_model(tmp_path / "nothing")


WAN_CALL: dict[str, Any] = {"negative_prompt": "stars", "num_frames": 5, "height": 32, "width": 64, "output_type": "pt"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["2.1", "2.2 TI2V", "2.2 of two experts"])
@pytest.mark.parametrize("guidance_scale", [1.0, 5.0])
def test_peer_law_wan_from_prompt_to_pixels(kind: str, guidance_scale: float) -> None:
    pixels = 16 if "TI2V" in kind else 8
    theirs = quiet(tiny_wan_pipeline(2 if "two" in kind else 1, pixels))
    how = WAN_CALL | {"num_inference_steps": 5, "guidance_scale": guidance_scale}
    if "two" in kind:
        how["guidance_scale_2"] = 3.0 if guidance_scale > 1 else 1.0
    latents = torch.randn(2, 4, 2, 32 // pixels, 64 // pixels)
    expected = theirs(PROMPTS, latents=latents.clone(), **how).frames
    ours = quiet(pipeline_from_diffusers(theirs)[0])
    actual = ours(PROMPTS, latents=latents, **how).frames
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    assert says_something(expected)
    back = quiet(pipeline_to_diffusers(ours, "wan"))
    torch.testing.assert_close(back(PROMPTS, latents=latents, **how).frames, expected, rtol=0, atol=1e-6)
    assert back.config.expand_timesteps == theirs.config.expand_timesteps
    if "two" not in kind:
        with pytest.raises(ValueError, match="this model has one alone"):
            ours(PROMPTS, guidance_scale_2=3.0, **WAN_CALL)


@pytest.mark.slow
@pytest.mark.parametrize("experts", [1, 2])
def test_round_trip_law_a_wan_folder_goes_over_and_comes_back(tmp_path: Path, experts: int) -> None:
    theirs = tiny_wan_pipeline(experts)
    theirs.save_pretrained(tmp_path / "theirs")
    ours, report = open_model(tmp_path / "theirs")
    assert len(report.copied) == experts * len(theirs.transformer.state_dict())
    ours.save_pretrained(tmp_path / "ours")
    again: Any = open_model(tmp_path / "ours")[0]
    assert isinstance(again, VideoDiTPipeline)
    assert (again.default_size.num_frames, again.default_size.height, again.default_size.fps) == (81, 480, 16.0)
    steps, scale = again.config.default_num_inference_steps, again.config.default_guidance_scale
    assert (steps, scale) == ((40, 4.0) if experts > 1 else (50, 5.0))  # A14B's, 2.1's
    assert not again.text.lowercase
    back = pipeline_to_diffusers(again, "wan")
    for part in ("transformer", "vae", "text_encoder", *(["transformer_2"] if experts > 1 else [])):
        before, after = getattr(theirs, part).state_dict(), getattr(back, part).state_dict()
        assert all(torch.equal(before[key], after[key]) for key in before)
