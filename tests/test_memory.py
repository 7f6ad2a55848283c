"""What a decode takes in memory, counted beforehand, against what a real one holds; what is told where it is much."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from tiny import tiny_wan

from videodit import VideoDiTPipeline, memory
from videodit.codec import VideoCodec
from videodit.memory import MARGIN, _Alive, decode_bytes


def wan() -> VideoCodec:
    return VideoCodec(tiny_wan())


def framewise() -> VideoCodec:
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return VideoCodec(AutoencoderKL(block_out_channels=(8, 8), norm_num_groups=4, **blocks).eval(), frames_at_once=4)


@pytest.mark.parametrize("build", [wan, framewise])
@pytest.mark.parametrize("frames", [1, 3, 9])
def test_counted_bytes_are_those_of_a_real_decode(build: Any, frames: int) -> None:
    codec = build()
    latents = torch.randn(1, 4, frames, 4, 6)
    with torch.no_grad(), _Alive() as alive:
        codec.decode(latents)
    assert decode_bytes(codec, tuple(latents.shape)) == pytest.approx(alive.peak, rel=MARGIN - 1)


@pytest.mark.parametrize("build", [wan, framewise])
def test_a_streaming_decode_takes_no_more_for_a_longer_clip_and_a_whole_one_does(build: Any) -> None:
    codec = build()
    short, long = (1, 4, 50, 4, 4), (1, 4, 250, 4, 4)
    assert decode_bytes(codec, short, whole=False) == decode_bytes(codec, long, whole=False)
    assert decode_bytes(codec, long) > 3 * decode_bytes(codec, short)


def test_it_grows_with_the_picture_and_shrinks_with_the_type() -> None:
    codec = wan()
    small, large = (decode_bytes(codec, (1, 4, 3, side, side)) for side in (4, 8))
    assert large == pytest.approx(4 * small, rel=0.1)
    half = VideoCodec(tiny_wan().to(torch.bfloat16))
    assert decode_bytes(half, (1, 4, 3, 8, 8), whole=False) < 0.75 * decode_bytes(codec, (1, 4, 3, 8, 8), whole=False)


def test_what_does_not_fit_is_refused_before_anything_is_made(
    tiny_pipe: VideoDiTPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    hook = tiny_pipe.transformer.register_forward_pre_hook(lambda *args: calls.append(args))
    monkeypatch.setattr(memory, "free_bytes", lambda device: 100_000)
    try:
        with pytest.raises(ValueError, match=r"9 frames of 32x32 in float32 takes about .* GB.*smaller height.*tiles"):
            tiny_pipe("a red circle", num_inference_steps=1)
        assert not calls
        tiny_pipe("a red circle", num_inference_steps=1, output_type="latent")
    finally:
        hook.remove()
    assert calls


def test_offload_without_an_accelerator_and_tiles_that_a_vae_has_not_are_told(
    tiny_pipe: VideoDiTPipeline,
) -> None:
    if not torch.accelerator.is_available():
        with pytest.raises(ValueError, match="needs an accelerator"):
            memory.place(tiny_pipe, "model")
    with pytest.raises(ValueError, match="Linear has no tiles"):
        memory.tile(torch.nn.Linear(1, 1))
