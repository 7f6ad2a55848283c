"""A video VAE around an image VAE: the same on every frame at first, causal, exact in pieces; trained by its tool."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from pydantic import ValidationError
from runs import SMALL_VAE, TINY, equal
from torch import Tensor

from videodit.codec import DECODER, AutoencoderKLInflated, VideoCodec
from videodit.config import Run
from videodit.memory import decode_bytes
from videodit.training.plan import strides_of
from videodit.training.vae import last_layers, train_vae

BLOCKS: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "block_out_channels": (8, 8),
    "norm_num_groups": 4,
}
VAE = {k: v for k, v in SMALL_VAE.items() if k in ("warmup_steps", "precision")}


def image_vae(**options: Any) -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(**BLOCKS | {"scaling_factor": 0.3, "shift_factor": 0.1} | options).eval()


def vae(*, awake: bool = True, **options: Any) -> AutoencoderKLInflated:
    """Awake: every kernel sees back, and no block is silent."""
    made = AutoencoderKLInflated.from_image(image_vae(), **{"time_stride": 2, "dim": 16} | options).eval()
    for weight in made.parameters() if awake else ():
        if weight.ndim == 5 or not weight.any():
            torch.nn.init.normal_(weight, std=0.1)
    return made


def clips(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("options", [{}, {"use_quant_conv": False, "use_post_quant_conv": False, "shift_factor": None}])
@torch.no_grad()
def test_before_training_it_is_the_image_vae_on_every_frame(options: dict[str, Any]) -> None:
    image, pixels = image_vae(**options), clips(2, 3, 5, 16, 8)
    frames = pixels.transpose(1, 2).flatten(0, 1)
    shown = image.decode(image.encode(frames).latent_dist.mode()).sample.unflatten(0, (2, 5)).transpose(1, 2)
    video = AutoencoderKLInflated.from_image(image, time_stride=2, dim=16).eval()
    assert video.strides.channels == 2 * image.config.latent_channels
    for _ in range(2):
        torch.testing.assert_close(video(pixels).sample, shown, rtol=0, atol=1e-4)
        video.fit([pixels])  # to the latents' principal axes, which hold as much
    assert video.encoder.axes_others.weight.shape == (8, 8)
    runs = Run.model_validate({**TINY, "output": "x", "vae": {"start_from": "y", "inflate": {}}, "stages": [{}, {}]})
    assert [leg.vae.inflated_channels for leg in runs.legs()] == [None, None]
    assert video.encode(pixels).latent_dist.mean.pow(2).mean() < 10


@torch.no_grad()
def test_fewer_channels_keep_the_principal_components_of_the_image_vaes_latents() -> None:
    image, pixels = image_vae(), clips(4, 3, 5, 16, 8)
    video = AutoencoderKLInflated.from_image(image, time_stride=2, latent_channels=5, dim=16).eval()
    video.fit([pixels])
    latents = video.look(pixels)[:, :, 1:]
    rows = latents.unflatten(2, (2, 2)).permute(0, 2, 4, 5, 1, 3).flatten(0, 3).flatten(1).double()
    mean = rows.mean(dim=0)
    _, _, axes = torch.linalg.svd(rows - mean, full_matrices=False)
    kept = mean + (rows - mean) @ axes[:5].T @ axes[:5]
    _, others = video.decoder(video.encode(pixels).latent_dist.mean.movedim(1, -1))
    torch.testing.assert_close(others.flatten(0, 3).double(), kept, rtol=0, atol=1e-4)


@torch.no_grad()
def test_what_comes_later_changes_nothing_and_an_image_is_a_clips_first_frame() -> None:
    codec, pixels = VideoCodec(vae()), clips(2, 3, 11, 16, 8)
    latents = codec.encode(pixels)
    assert latents.shape == (2, 8, 6, 8, 4)
    other = torch.cat([pixels[:, :, :5], clips(2, 3, 6, 16, 8)], dim=2)
    torch.testing.assert_close(codec.encode(other)[:, :, :3], latents[:, :, :3], rtol=1e-4, atol=1e-5)
    changed = pixels.clone()
    changed[:, :, 0] = 0
    assert not torch.allclose(codec.encode(changed)[:, :, 1], latents[:, :, 1])  # kernels see back
    torch.testing.assert_close(codec.encode(pixels[:, :, :1]), latents[:, :, :1], rtol=1e-4, atol=1e-5)
    shown = codec.decode(latents)
    torch.testing.assert_close(codec.decode(latents[:, :, :3]), shown[:, :, :5], rtol=1e-4, atol=1e-5)
    assert [piece.shape[2] for piece in codec.decode_chunks(latents)] == [1, 2, 2, 2, 2, 2]
    whole = codec.vae.decode(codec.denormalize(latents)).sample
    torch.testing.assert_close(shown, whole.clamp(-1, 1), rtol=1e-4, atol=1e-5)
    with torch.enable_grad():  # all frames at once, where nothing is spared
        torch.testing.assert_close(codec.encode(pixels).detach(), latents, rtol=1e-4, atol=1e-5)


def test_it_is_saved_and_loaded(tmp_path: Path) -> None:
    ours = vae()
    ours.save_pretrained(tmp_path)
    assert equal(VideoCodec.from_pretrained(tmp_path).vae.state_dict(), ours.state_dict())
    assert VideoCodec.strides_of(tmp_path) == ours.strides


def test_a_decode_in_pieces_takes_no_more_memory_for_more_frames() -> None:
    codec = VideoCodec(vae())
    streamed = [decode_bytes(codec, (1, 8, frames, 8, 4), whole=False) for frames in (5, 9)]
    assert streamed[0] == streamed[1] > 4 * 3 * 2 * 16 * 8


@pytest.mark.slow
def test_a_run_inflates_fits_and_trains_it_and_goes_on_with_the_decoder(tmp_path: Path) -> None:
    image_vae().save_pretrained(tmp_path / "image")
    stages = [{"steps": 4, "batch_size": 2, "num_frames": 5, "crop": 16, "learning_rate": 1e-3}]
    section = VAE | {"stages": stages, "start_from": str(tmp_path / "image"), "inflate": {"dim": 16}}
    run = Run.model_validate({**TINY, "output": str(tmp_path / "run"), "vae": section})
    assert (strides_of(run).time, strides_of(run).space, strides_of(run).channels) == (4, 2, 16)
    codec = VideoCodec.from_pretrained(train_vae(run))
    assert codec.strides == strides_of(run)
    kernels = [w for name, w in codec.vae.named_parameters() if ".image." in name and w.ndim == 5]
    assert kernels
    assert all(w[:, :, 0].any() for w in kernels)  # they learned to see back
    (last,) = last_layers(codec.vae)
    assert last is codec.vae.decoder.image[1].conv_out.weight

    alone = {"start_from": str(tmp_path / "run" / "vae"), "stages": [stages[0] | {"decoder_only": True}]}
    on = Run.model_validate({**TINY, "output": str(tmp_path / "on"), "vae": VAE | alone})
    after = VideoCodec.from_pretrained(train_vae(on))
    assert after.fingerprint() == codec.fingerprint()
    moved = [k for k, v in codec.vae.state_dict().items() if not torch.equal(v, after.vae.state_dict()[k])]
    assert moved
    assert all(name.startswith(DECODER) for name in moved)


def test_what_cannot_be_inflated_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="inflate: name the image VAE in start_from"):
        Run.model_validate({**TINY, "vae": {"inflate": {}}})
    section = VAE | {"start_from": "shapes", "inflate": {}}
    with pytest.raises(ValueError, match=r"vae\.inflate is of an image VAE, AutoencoderKL, and this is an Auto"):
        train_vae(Run.model_validate({**TINY, "output": str(tmp_path), "vae": section}))
