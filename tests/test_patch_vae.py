"""The VAE of patches: principal axes to begin with, causal, exact for images and in pieces; trained by its own tool."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from runs import SMALL_VAE, TINY, equal
from torch import Tensor

from videodit.codec import AutoencoderKLPatch, VideoCodec
from videodit.codec.codec import DECODER
from videodit.config import Run
from videodit.memory import decode_bytes
from videodit.models.transformer import VideoDiT
from videodit.pipeline import VideoDiTPipeline
from videodit.training.plan import strides_of
from videodit.training.vae import last_layers, quicken, train_vae

from .tiny import tiny_pipeline

PATCHES: dict[str, Any] = {"patch_size": [2, 4, 4], "dim": 16, "encoder_layers": 1, "decoder_layers": 2}
VAE = {k: v for k, v in SMALL_VAE.items() if not k.endswith("dim")} | {"patches": PATCHES}


def vae(channels: int = 5, *, awake: bool = True, **options: Any) -> AutoencoderKLPatch:
    torch.manual_seed(0)
    made = AutoencoderKLPatch(latent_channels=channels, **PATCHES | options).eval()
    for weight in made.parameters() if awake else ():
        if not weight.any():
            torch.nn.init.normal_(weight, std=0.2)
    return made


def clips(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)) * 2 - 1


@torch.no_grad()
def test_fresh_blocks_are_silent_and_what_is_left_is_numpys_principal_components() -> None:
    ours, pixels = vae(awake=False), clips(3, 3, 5, 8, 8)
    ours.fit([pixels[:1], pixels[1:]])
    made = ours(pixels).sample
    for frames, t in ((slice(0, 1), 1), (slice(1, 5), 2)):
        part = pixels[:, :, frames].double().numpy()
        rows = part.reshape(3, 3, -1, t, 2, 4, 2, 4).transpose(0, 2, 4, 6, 1, 3, 5, 7)
        flat = rows.reshape(-1, 3 * t * 16)
        mean = flat.mean(axis=0)
        _, _, axes = np.linalg.svd(flat - mean)
        spread = np.sqrt(np.square((flat - mean) @ axes[:5].T).mean(axis=0))
        deviates = (
            ours.encode(pixels)
            .latent_dist.mean[:, :, frames if t == 1 else slice(1, 3)]
            .std(dim=(0, 2, 3, 4), correction=0)
        )
        np.testing.assert_allclose(deviates.numpy(), np.sqrt(spread / spread.mean()), rtol=1e-3)
        kept = (mean + (flat - mean) @ axes[:5].T @ axes[:5]).reshape(rows.shape)
        back = kept.transpose(0, 4, 1, 5, 2, 6, 3, 7).reshape(part.shape)
        np.testing.assert_allclose(made[:, :, frames].numpy(), back, atol=1e-4)
    assert ours.encode(pixels).latent_dist.std.max() < 0.02


@torch.no_grad()
def test_more_channels_than_a_first_frames_patch_has_numbers() -> None:
    ours, pixels = vae(60, awake=False), clips(40, 3, 5, 8, 8)
    ours.fit([pixels])
    torch.testing.assert_close(ours(pixels).sample[:, :, :1], pixels[:, :, :1], rtol=0, atol=1e-3)


@torch.no_grad()
def test_of_pictures_alone_the_first_frames_map_is_fitted() -> None:
    ours, pixels = vae(48, awake=False), clips(40, 3, 1, 8, 8)
    ours.fit([pixels])
    torch.testing.assert_close(ours(pixels).sample, pixels, rtol=0, atol=1e-3)


def test_pictures_that_are_not_whole_patches_are_named_before_anything_is_learned(tmp_path: Path) -> None:
    run = {**TINY, "data": TINY["data"] | {"height": 34}, "output": str(tmp_path), "vae": VAE}
    with pytest.raises(ValueError, match="height=34 is not a multiple of 4; nearest: 32 or 36"):
        train_vae(Run.model_validate(run))
    for shape, why in (
        ((1, 3, 4, 8, 8), "num_frames=4 is not 2k"),
        ((1, 3, 5, 8, 6), "width=6 is not a multiple of 4"),
    ):
        with pytest.raises(ValueError, match=why):
            vae().fit([clips(*shape)])


@torch.no_grad()
def test_what_comes_later_changes_nothing_and_an_image_is_a_clips_first_frame() -> None:
    codec, pixels = VideoCodec(vae()), clips(2, 3, 9, 16, 24)
    latents = codec.encode(pixels)
    assert latents.shape == (2, 5, 5, 4, 6)
    other = torch.cat([pixels[:, :, :5], clips(2, 3, 4, 16, 24)], dim=2)
    torch.testing.assert_close(codec.encode(other)[:, :, :3], latents[:, :, :3])
    assert not torch.allclose(codec.encode(other)[:, :, 3:], latents[:, :, 3:])
    torch.testing.assert_close(codec.encode(pixels[:, :, :1]), latents[:, :, :1])
    shown = codec.decode(latents)
    torch.testing.assert_close(codec.decode(latents[:, :, :3]), shown[:, :, :5])
    assert [piece.shape[2] for piece in codec.decode_chunks(latents)] == [1, 2, 2, 2, 2]
    whole = codec.vae.decode(codec.denormalize(latents)).sample
    torch.testing.assert_close(shown, whole.clamp(-1, 1))


@torch.no_grad()
def test_what_joins_patches_is_silent_at_first_and_of_each_frame_alone() -> None:
    plain, mended, pixels = vae(), vae(), clips(2, 3, 9, 16, 24)
    mended.add_mend(8)
    for weight in plain.parameters():
        weight.requires_grad_(False)
    latents = VideoCodec(plain).encode(pixels)
    shown = VideoCodec(mended).decode(latents)
    assert torch.equal(shown, VideoCodec(plain).decode(latents))
    assert VideoCodec(mended).fingerprint() == VideoCodec(plain).fingerprint()  # latents are what they were
    again = AutoencoderKLPatch.from_config(mended.config)
    again.load_state_dict(mended.state_dict())
    torch.nn.init.normal_(again.decoder.mend.layers[-1].weight, std=0.2)
    codec = VideoCodec(again.eval())
    moved = codec.decode(latents)
    assert not torch.allclose(moved, shown, atol=0.1)
    whole = codec.vae.decode(codec.denormalize(latents)).sample
    torch.testing.assert_close(moved, whole.clamp(-1, 1))  # in pieces as whole
    torch.testing.assert_close(codec.decode(latents[:, :, :1]), moved[:, :, :1])
    assert decode_bytes(codec, (16, *latents.shape[1:])) > 0  # made once more, without memory of its own
    with pytest.raises(ValueError, match="join patches already, 8 wide"):
        mended.add_mend(8)


@torch.no_grad()
def test_a_place_sees_its_neighbours_wherever_they_are() -> None:
    """Moved by whole patches, what is in the middle of a picture stays what it was, in pictures of any size."""
    codec, pixels = VideoCodec(vae()), clips(1, 3, 5, 40, 40)
    moved = codec.encode(pixels[..., 8:, 4:])
    torch.testing.assert_close(moved[..., 1:, 1:], codec.encode(pixels)[..., 3:, 2:], rtol=1e-4, atol=1e-4)


def test_it_is_saved_and_loaded_alone_and_in_a_pipeline(tmp_path: Path) -> None:
    ours = vae(4, **{"patch_size": [4, 8, 8]})
    ours.register_to_config(latents_mean=[0.5] * 4, latents_std=[2.0] * 4)
    ours.save_pretrained(tmp_path / "vae")
    again = VideoCodec.from_pretrained(tmp_path / "vae")
    assert equal(again.vae.state_dict(), ours.state_dict())
    assert again.mean.flatten().tolist() == [0.5] * 4
    pipe = tiny_pipeline()
    whole = VideoDiTPipeline(
        **pipe.components | {"vae": ours}, default_num_frames=9, default_height=32, default_width=32
    )
    whole.save_pretrained(tmp_path / "pipe")
    loaded = VideoDiTPipeline.from_pretrained(tmp_path / "pipe")
    assert isinstance(loaded.vae, AutoencoderKLPatch)
    assert isinstance(loaded.transformer, VideoDiT)
    how: dict[str, Any] = {"num_inference_steps": 1, "guidance_scale": 1.0, "output_type": "pt"}
    made = [one("a red circle", generator=torch.Generator().manual_seed(0), **how).frames for one in (whole, loaded)]
    assert torch.equal(*made)


@pytest.mark.slow
def test_it_is_fitted_trained_resumed_and_its_decoder_alone(tmp_path: Path) -> None:
    stages = [{"steps": 8, "batch_size": 2, "num_frames": 5, "crop": 16, "learning_rate": 1e-3}]
    folders = [tmp_path / "whole", tmp_path / "stopped"]
    runs = [Run.model_validate({**TINY, "output": str(f), "vae": VAE | {"stages": stages}}) for f in folders]
    runs = [one.model_copy(update={"vae": one.vae.model_copy(update={"checkpoint_every": 4})}) for one in runs]
    assert (strides_of(runs[0]).time, strides_of(runs[0]).space, strides_of(runs[0]).channels) == (2, 4, 4)
    whole = train_vae(runs[0])
    assert strides_of(runs[0]).channels == 4
    checkpoints = [folder / "vae_training" / "checkpoints" / "step_00000004" for folder in folders]
    shutil.copytree(*checkpoints)
    stopped = train_vae(runs[1])
    ours, other = (VideoCodec.from_pretrained(folder) for folder in (whole, stopped))
    assert equal(ours.vae.state_dict(), other.vae.state_dict())
    assert len(set(ours.vae.config.latents_std)) == 1  # channels that show more stay larger
    assert json.loads((whole / "report.json").read_text())["psnr"] > 15  # that of the axes

    alone = {"start_from": str(whole), "stages": [stages[0] | {"decoder_only": True}]}
    vae = {k: v for k, v in VAE.items() if k not in ("patches", "channels")} | alone
    after = VideoCodec.from_pretrained(
        train_vae(Run.model_validate({**TINY, "output": str(tmp_path / "on"), "vae": vae}))
    )
    assert after.fingerprint() == ours.fingerprint()
    moved = [k for k, v in ours.vae.state_dict().items() if not torch.equal(v, after.vae.state_dict()[k])]
    assert moved
    assert all(name.startswith(DECODER) and ".axes" not in name for name in moved)
    first, others = last_layers(after.vae)
    assert (first is after.vae.decoder.first.weight, others is after.vae.decoder.others.weight) == (True, True)

    joined = VideoCodec.from_pretrained(
        train_vae(Run.model_validate({**TINY, "output": str(tmp_path / "joined"), "vae": vae | {"mend_dim": 8}}))
    )
    assert joined.vae.config.mend_dim == 8
    assert joined.fingerprint() == ours.fingerprint()
    assert joined.vae.decoder.mend.layers[-1].weight.any()
    state = joined.vae.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in ours.vae.state_dict().items())
    (last,) = last_layers(joined.vae)
    assert last is joined.vae.decoder.mend.layers[-1].weight
    other = vae | {"mend_dim": 8, "start_from": "shapes"}
    with pytest.raises(ValueError, match="mend_dim is of a VAE of patches, and this is an AutoencoderKLWan"):
        train_vae(Run.model_validate({**TINY, "output": str(tmp_path / "none"), "vae": other}))


@pytest.mark.parametrize(
    ("section", "why"),
    [
        ({"patches": PATCHES, "encoder_dim": 8}, "encoder_dim is of a VAE of convolutions"),
        ({"patches": PATCHES, "start_from": "shapes"}, "patches is of a fresh VAE, and start_from names one"),
        ({"patches": PATCHES | {"patch_size": [4, 8, 4]}}, "patches have as many rows as columns"),
        ({"patches": PATCHES | {"dim": 6}}, "multiple of 4"),
        ({"patches": PATCHES, "mend_dim": 8}, "mend_dim: name a VAE of patches in start_from"),
        ({"start_from": "emoji", "mend_dim": 8}, "let each stage be decoder_only"),
        ({"start_from": "shapes", "dim_mult": [2, 4, 8]}, "dim_mult is of a fresh VAE, and start_from names one"),
        ({"start_from": "shapes", "channels": 8}, "channels is of a fresh VAE"),
        ({"dim_mult": [2, 4]}, "at least 3 items"),
        ({"critic_width": 8}, "critic_width is read by no stage"),
        ({"stages": [{"steps": 3, "critic_first": 1}]}, "critic_first=1: this stage has no critic"),
        ({"stages": [{"steps": 3, "adversarial": 0.1, "critic_first": 3}]}, "learns nothing of it in steps=3"),
        ({"precision": "fp16"}, "'no' or 'bf16'"),
    ],
)
def test_what_does_not_go_together_is_refused(section: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        Run.model_validate({**TINY, "vae": section})


def test_its_blocks_are_what_compiles() -> None:
    ours = vae()
    quicken(ours)
    compiled = [name for name, module in ours.named_modules() if module._compiled_call_impl is not None]
    assert compiled == ["encoder.blocks.0", "decoder.blocks.0", "decoder.blocks.1"]
