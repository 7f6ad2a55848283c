"""VAEs of pictures in the codec: each frame is what the VAE's own class makes of it, scaled as its pipeline scales."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from einops import rearrange
from family_pipelines import tiny_dc, tiny_flux2_vae, tiny_picture_vae, tiny_qwen_vae
from torch import Tensor

from videodit.codec import VideoCodec
from videodit.memory import decode_bytes

VAES = {"AutoencoderKL": tiny_picture_vae, "DC": tiny_dc, "Qwen-Image": tiny_qwen_vae, "Flux2": tiny_flux2_vae}


def theirs(name: str, vae: Any, picture: Tensor) -> Tensor:
    """n 3 h w -> latents as the family's transformer has them, by its pipeline's own steps."""
    if name == "DC":
        return vae.encode(picture).latent * vae.config.scaling_factor
    if name == "Qwen-Image":
        raw = vae.encode(picture[:, :, None]).latent_dist.mode()[:, :, 0]
        mean, std = (torch.tensor(vae.config[key])[None, :, None, None] for key in ("latents_mean", "latents_std"))
        return (raw - mean) / std
    raw = vae.encode(picture).latent_dist.mode()
    if name == "AutoencoderKL":
        return (raw - vae.config.shift_factor) * vae.config.scaling_factor
    tokens = rearrange(raw, "n c (h p) (w q) -> n (c p q) h w", p=2, q=2)
    return (tokens - vae.bn.running_mean[:, None, None]) / torch.sqrt(vae.bn.running_var[:, None, None] + 1e-4)


@pytest.mark.parametrize("name", VAES)
@torch.no_grad()
def test_a_frame_is_what_its_own_class_makes_of_it(name: str) -> None:
    vae = VAES[name]()
    codec = VideoCodec(vae)
    pixels = torch.rand(2, 3, 5, 16, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents = codec.encode(pixels)
    side = codec.strides.space
    assert latents.shape == (2, codec.strides.channels, 5, 16 // side, 24 // side)
    for index in range(5):
        torch.testing.assert_close(latents[:, :, index], theirs(name, vae, pixels[:, :, index]), atol=1e-5, rtol=1e-5)
    whole = codec.decode(latents)
    assert whole.shape == pixels.shape
    torch.testing.assert_close(torch.cat(list(codec.decode_chunks(latents)), dim=2), whole, atol=1e-6, rtol=0)
    alone = torch.cat([codec.decode(latents[:, :, index : index + 1]) for index in range(5)], dim=2)
    torch.testing.assert_close(alone, whole, atol=1e-5, rtol=0)
    assert codec.streams


@pytest.mark.slow
@pytest.mark.parametrize("name", VAES)
def test_it_is_found_by_its_folder_and_its_memory_is_known(name: str, tmp_path: Path) -> None:
    vae = VAES[name]()
    vae.save_pretrained(tmp_path)
    codec = VideoCodec.from_pretrained(tmp_path)
    assert type(codec.vae) is type(vae)
    assert codec.fingerprint() == VideoCodec(vae).fingerprint()
    small, large = (decode_bytes(codec, (1, codec.strides.channels, 8, side, side), whole=False) for side in (2, 4))
    assert 3 < large / small < 5  # as pixels grow


@torch.no_grad()
def test_a_vae_without_spread_samples_its_mean() -> None:
    codec = VideoCodec(tiny_dc())
    pixels = torch.rand(1, 3, 2, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    sampled = codec.encode(pixels, torch.Generator().manual_seed(1))
    torch.testing.assert_close(sampled, codec.encode(pixels), atol=1e-5, rtol=0)
