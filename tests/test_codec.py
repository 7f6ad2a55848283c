"""The codec over tiny random instances of every VAE it knows, against the classes' own encode and decode."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLAllegro,
    AutoencoderKLCogVideoX,
    AutoencoderKLHunyuanVideo,
    AutoencoderKLHunyuanVideo15,
    AutoencoderKLLTXVideo,
    AutoencoderKLTemporalDecoder,
)
from einops import rearrange
from family_pipelines import tiny_flux2_vae
from tiny import tiny_wan

from videodit.codec import AutoencoderKLPatch, VideoCodec, keep_statistics


def kl() -> AutoencoderKL:
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return AutoencoderKL(block_out_channels=(8, 8), norm_num_groups=4, shift_factor=0.1, scaling_factor=0.3, **blocks)


def temporal() -> AutoencoderKLTemporalDecoder:
    return AutoencoderKLTemporalDecoder(
        block_out_channels=(32, 32), down_block_types=("DownEncoderBlock2D",) * 2, latent_channels=4
    )


def cogvideox() -> AutoencoderKLCogVideoX:
    return AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
    )


def ltx() -> AutoencoderKLLTXVideo:
    return AutoencoderKLLTXVideo(
        latent_channels=4,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
        decoder_causal=True,
    )


def hunyuan() -> AutoencoderKLHunyuanVideo:
    return AutoencoderKLHunyuanVideo(
        latent_channels=4, block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4
    )


def hunyuan15() -> AutoencoderKLHunyuanVideo15:
    return AutoencoderKLHunyuanVideo15(latent_channels=4, block_out_channels=(16, 16, 16, 16, 16), layers_per_block=1)


def patch() -> AutoencoderKLPatch:
    vae = AutoencoderKLPatch(latent_channels=4, dim=16, encoder_layers=1, decoder_layers=2)
    for weight in vae.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    return vae


# class, (time, space) stride, legal counts, illegal counts
CASES = {
    "kl": (kl, (1, 2), (1, 2, 5), ()),
    "temporal": (temporal, (1, 2), (1, 2, 5), ()),
    "cogvideox": (cogvideox, (4, 8), (1, 9, 17), (5, 8)),
    "ltx": (ltx, (8, 32), (1, 9), (5, 8)),
    "hunyuan": (hunyuan, (4, 8), (1, 5, 9), (4, 6)),
    "hunyuan15": (hunyuan15, (4, 16), (1, 5, 9), (4, 6)),
    "wan": (tiny_wan, (4, 8), (1, 5, 9), (4, 6)),
    "patch": (patch, (4, 8), (1, 5, 9), (4, 6)),
}


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[str, VideoCodec]:
    torch.manual_seed(0)
    return request.param, VideoCodec(CASES[request.param][0]().eval())


@pytest.mark.slow
@torch.no_grad()
def test_strides_tell_the_shapes_both_ways(case: tuple[str, VideoCodec]) -> None:
    name, codec = case
    _, (time, space), legal, illegal = CASES[name]
    assert (codec.strides.time, codec.strides.space) == (time, space)
    for f in legal:
        pixels = torch.rand(1, 3, f, 64, 32) * 2 - 1
        latents = codec.encode(pixels)
        assert latents.shape == (1, codec.strides.channels, codec.strides.latent_frames(f), 64 // space, 32 // space)
        decoded = codec.decode(latents)
        assert decoded.shape == pixels.shape
        assert decoded.abs().max() <= 1
    for f in illegal:
        with pytest.raises(ValueError, match=rf"num_frames={f} .* nearest: "):
            codec.encode(torch.zeros(1, 3, f, 64, 32))
    with pytest.raises(ValueError, match=f"height={space + 1} is not a multiple of {space}"):
        codec.encode(torch.zeros(1, 3, legal[0], space + 1, 32))


@torch.no_grad()
def test_raw_latents_are_those_of_the_class_and_come_back(case: tuple[str, VideoCodec]) -> None:
    name, codec = case
    pixels = torch.rand(2, 3, CASES[name][2][1], 64, 32) * 2 - 1
    if name in ("kl", "temporal"):
        frames = rearrange(pixels, "b c f h w -> (b f) c h w")
        raw = rearrange(codec.vae.encode(frames).latent_dist.mode(), "(b f) c h w -> b c f h w", b=2)
    else:
        raw = codec.vae.encode(pixels).latent_dist.mode()
    torch.testing.assert_close(codec.denormalize(codec.encode(pixels)), raw, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(codec.denormalize(codec.normalize(raw)), raw)


@pytest.mark.slow
@torch.no_grad()
def test_chunks_joined_are_the_whole_decode_of_the_class(case: tuple[str, VideoCodec]) -> None:
    name, codec = case
    latents = torch.randn(1, codec.strides.channels, codec.strides.latent_frames(CASES[name][2][-1]), 4, 4)
    raw = codec.denormalize(latents)
    if name == "kl":
        whole = rearrange(codec.vae.decode(rearrange(raw, "b c f h w -> (b f) c h w")).sample, "f c h w -> 1 c f h w")
    elif name == "temporal":
        whole = codec.vae.decode(rearrange(raw, "b c f h w -> (b f) c h w"), num_frames=raw.shape[2]).sample
        whole = rearrange(whole, "f c h w -> 1 c f h w")
    else:
        whole = codec.vae.decode(raw).sample
    chunks = list(codec.decode_chunks(latents))
    torch.testing.assert_close(torch.cat(chunks, dim=2), whole.clamp(-1, 1), rtol=1e-5, atol=1e-5)
    if name in ("wan", "patch"):
        assert [chunk.shape[2] for chunk in chunks] == [1, 4, 4]


@pytest.mark.slow
@torch.no_grad()
def test_windows_join_as_if_decoded_at_once(case: tuple[str, VideoCodec]) -> None:
    """Where the VAE streams; elsewhere each by itself. What a window shares is as the window before had it."""
    name, codec = case
    count, shared = CASES[name][2][-1], CASES[name][2][-2]
    both, channels = codec.strides.latent_frames(shared), codec.strides.channels
    first, second = (torch.randn(1, channels, codec.strides.latent_frames(count), 4, 4) for _ in range(2))
    carry: list[torch.Tensor] = []
    pieces = [
        torch.cat([*codec.decode_chunks(first, 0, carry)], 2),
        torch.cat([*codec.decode_chunks(second, shared, carry)], 2),
    ]
    assert [piece.shape[2] for piece in pieces] == [count, count - shared]
    if codec.streams:
        wanted = codec.decode(torch.cat([first, second[:, :, both:]], dim=2))
    else:
        wanted = torch.cat([codec.decode(first), codec.decode(second)[:, :, shared:]], dim=2)
    torch.testing.assert_close(torch.cat(pieces, dim=2), wanted, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_normalization_follows_each_convention() -> None:
    raw = torch.randn(1, 4, 1, 2, 2)
    torch.testing.assert_close(VideoCodec(kl()).normalize(raw), (raw - 0.1) * 0.3)
    wan = VideoCodec(tiny_wan())
    mean, std = (rearrange(torch.tensor(v), "c -> c 1 1 1") for v in ([0.1, -0.2, 0.3, 0.0], [0.5, 1.5, 2.0, 1.0]))
    torch.testing.assert_close(wan.normalize(raw), (raw - mean) / std)
    vae = ltx()
    vae.latents_mean.fill_(0.5)
    vae.latents_std.fill_(2.0)
    torch.testing.assert_close(VideoCodec(vae).normalize(raw), (raw - 0.5) / 2)


@torch.no_grad()
def test_frame_by_frame_vaes_treat_frames_alike_in_any_grouping() -> None:
    vae, pixels = kl().eval(), torch.rand(2, 3, 5, 16, 16) * 2 - 1
    few, many = VideoCodec(vae, frames_at_once=2), VideoCodec(vae, frames_at_once=100)
    latents = many.encode(pixels)
    torch.testing.assert_close(few.encode(pixels), latents, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(few.decode(latents), many.decode(latents), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@torch.no_grad()
def test_a_generator_samples_the_posterior() -> None:
    codec, pixels = VideoCodec(tiny_wan()), torch.rand(1, 3, 5, 16, 16) * 2 - 1
    draws = [codec.encode(pixels, torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    raw = torch.stack([codec.denormalize(codec.encode(pixels, torch.Generator().manual_seed(s))) for s in range(300)])
    posterior = codec.vae.encode(pixels).latent_dist
    error = (raw.mean(0) - posterior.mean) / (posterior.std / 300**0.5)
    assert error.abs().mean() == pytest.approx((2 / torch.pi) ** 0.5, rel=0.15)  # standard normal, if all is right


def test_loading_finds_the_class_and_names_what_is_wrong(tmp_path: Path) -> None:
    tiny_wan().save_pretrained(tmp_path / "pipe" / "vae")
    codec = VideoCodec.from_pretrained(tmp_path / "pipe")
    assert codec.fingerprint() == VideoCodec(tiny_wan()).fingerprint()
    with pytest.raises(ValueError, match=r"no config\.json here"):
        VideoCodec.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    with pytest.raises(ValueError, match="UNet2DModel"):
        VideoCodec.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="AutoencoderKLAllegro is no VAE"):
        VideoCodec(AutoencoderKLAllegro.__new__(AutoencoderKLAllegro))


def test_fingerprint_changes_with_what_latents_hang_on() -> None:
    plain, other, quant, renormed, decodes = (tiny_wan() for _ in range(5))
    with torch.no_grad():
        next(other.encoder.parameters()).view(-1)[0] += 1e-3
        quant.quant_conv.bias[0] += 1e-3
        next(decodes.decoder.parameters()).view(-1)[0] += 1e-3
    renormed.register_to_config(latents_mean=[0.0] * 4)
    assert len({VideoCodec(v).fingerprint() for v in (plain, other, quant, renormed)}) == 4
    assert VideoCodec(decodes).fingerprint() == VideoCodec(plain).fingerprint()


@pytest.mark.parametrize("make", [kl, temporal, cogvideox, ltx, hunyuan, hunyuan15, patch, tiny_wan, tiny_flux2_vae])
def test_statistics_that_a_vae_keeps_are_those_that_its_latents_lack_once_it_is_loaded(
    make: Callable[[], Any], tmp_path: Path
) -> None:
    """Whatever it said before; of classes that keep one number for all channels, all channels together."""
    vae = make().eval()
    codec, frames = VideoCodec(vae), 9 if VideoCodec(vae).strides.time > 1 else 2
    pixels = torch.rand(2, 3, frames, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        raw = codec.posterior(pixels).mean.float()
    keep_statistics(vae, raw.mean(dim=(0, 2, 3, 4)), raw.std(dim=(0, 2, 3, 4), correction=0))
    vae.save_pretrained(tmp_path)
    again = VideoCodec(type(vae).from_pretrained(tmp_path).eval())
    normal = again.normalize(raw)
    assert float(normal.square().mean()) == pytest.approx(1, abs=0.02)
    if len(set(again.std.flatten().tolist())) > 1:
        torch.testing.assert_close(
            normal.std(dim=(0, 2, 3, 4), correction=0), torch.ones(raw.shape[1]), rtol=0.01, atol=0.01
        )
        torch.testing.assert_close(normal.mean(dim=(0, 2, 3, 4)), torch.zeros(raw.shape[1]), rtol=0, atol=0.01)


def test_pixels_beyond_half_precision_are_not_taken_for_black() -> None:
    codec = VideoCodec(kl().half().eval())
    latents = torch.zeros(1, codec.strides.channels, 1, 4, 4)
    assert codec.decode(latents).isfinite().all()
    with torch.no_grad():
        codec.vae.decoder.conv_in.bias.fill_(6e4)
        codec.vae.decoder.conv_in.weight.fill_(1e3)
    with pytest.raises(ValueError, match="beyond float16's numbers: take bfloat16 or float32"):
        codec.decode(latents + 1e3)
