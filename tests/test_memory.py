"""What a decode takes in memory, counted beforehand, against what a real one holds; what is told where it is much."""

from __future__ import annotations

import gc
import platform
import weakref
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from accelerate import cpu_offload, cpu_offload_with_hook
from diffusers import AutoencoderKL
from processes import start
from test_codec import temporal
from tiny import tiny_wan

from videodit import VideoDiTPipeline, memory
from videodit.codec import VideoCodec
from videodit.memory import BESIDES, MARGIN, Alive, check_decode, decode_bytes, return_large_blocks


def wan() -> VideoCodec:
    return VideoCodec(tiny_wan())


def framewise() -> VideoCodec:
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return VideoCodec(AutoencoderKL(block_out_channels=(8, 8), norm_num_groups=4, **blocks).eval(), frames_at_once=4)


@pytest.mark.slow
@pytest.mark.parametrize("build", [wan, framewise])
@pytest.mark.parametrize("frames", [1, 3, 9])
def test_counted_bytes_are_those_of_a_real_decode(build: Any, frames: int) -> None:
    codec = build()
    latents = torch.randn(1, 4, frames, 4, 6)
    with torch.no_grad(), Alive() as alive:
        codec.decode(latents)
    assert decode_bytes(codec, tuple(latents.shape)) == pytest.approx(alive.peak, rel=0.5)


@pytest.mark.slow
@pytest.mark.parametrize("build", [wan, framewise])
def test_a_streaming_decode_takes_no_more_for_a_longer_clip_and_a_whole_one_does(build: Any) -> None:
    codec = build()
    short, long = (1, 4, 50, 4, 4), (1, 4, 250, 4, 4)
    assert decode_bytes(codec, short, whole=False) == decode_bytes(codec, long, whole=False)
    assert decode_bytes(codec, long) > 3 * decode_bytes(codec, short)


def held(key: str) -> int:
    """Bytes of this process, from what Linux says of it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(key))


def takes_what_is_counted() -> None:
    torch.set_num_threads(1)
    codec, latents = VideoCodec(temporal().eval()), torch.randn(1, 4, 8, 48, 48)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
    before = held("VmRSS")
    with torch.no_grad():
        codec.decode(latents)
    taken, counted = held("VmHWM") - before, decode_bytes(codec, tuple(latents.shape))
    assert 0.95 * counted < taken < MARGIN * counted + BESIDES, (taken, counted)


@pytest.mark.slow
@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="only Linux tells a process's peak from a moment on"
)
def test_what_a_process_takes_for_a_decode_is_between_the_count_and_its_margin() -> None:
    assert start(takes_what_is_counted) == 0


@pytest.mark.slow
def test_what_may_not_fit_is_a_warning_and_what_does_is_none(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    codec, shape = wan(), (1, 4, 3, 64, 64)
    counted = decode_bytes(codec, shape)
    monkeypatch.setattr(memory, "free_bytes", lambda device: MARGIN * counted + BESIDES)
    check_decode(codec, shape)
    assert not caplog.text
    monkeypatch.setattr(memory, "free_bytes", lambda device: counted + 1)
    check_decode(codec, shape)
    assert "9 frames of 512x512 in float32 takes" in caplog.text
    monkeypatch.setattr(memory, "free_bytes", lambda device: counted - 1)
    with pytest.raises(ValueError, match="at the least"):
        check_decode(codec, shape)


@pytest.mark.slow
def test_the_packaged_model_at_its_own_size_is_no_false_alarm(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda device: 1_000_000_000)
    check_decode(VideoDiTPipeline.shipped("shapes").codec, (8, 32, 5, 8, 8))
    assert not caplog.text


@torch.no_grad()
def test_an_offloaded_vae_is_brought_back_before_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    vae, latents = tiny_wan(), torch.randn(1, 4, 2, 4, 4)
    plain = VideoCodec(vae).decode(latents)
    vae, hook = cpu_offload_with_hook(vae, execution_device="cpu")
    calls: list[Any] = []
    monkeypatch.setattr(hook.hook, "pre_forward", lambda module, *args, **kwargs: calls.append(module))
    assert torch.equal(VideoCodec(vae).decode(latents), plain)
    assert calls == [vae]


def test_a_vae_offloaded_layer_by_layer_works_where_its_hooks_say() -> None:
    vae = cpu_offload(tiny_wan(), torch.device("cpu:0"))
    assert {weight.device.type for weight in vae.parameters()} == {"meta"}
    assert VideoCodec(vae).device == torch.device("cpu:0")


@pytest.mark.slow
def test_without_its_text_encoder_a_pipeline_holds_on_to_none_of_it(
    tiny_pipe: VideoDiTPipeline, tmp_path: Path
) -> None:
    tiny_pipe.save_pretrained(tmp_path)
    pipe = VideoDiTPipeline.from_pretrained(tmp_path)
    pipe.enable_model_cpu_offload(device="cpu:0")
    encoder = weakref.ref(pipe.text_encoder)
    memory.free_text_encoder(pipe)
    gc.collect()
    assert encoder() is None


@pytest.mark.slow
def test_it_grows_with_the_picture_and_shrinks_with_the_type() -> None:
    codec = wan()
    small, large = (decode_bytes(codec, (1, 4, 3, side, side)) for side in (4, 8))
    assert large == pytest.approx(4 * small, rel=0.1)
    half = VideoCodec(tiny_wan().to(torch.bfloat16))
    assert decode_bytes(half, (1, 4, 3, 8, 8), whole=False) < 0.75 * decode_bytes(codec, (1, 4, 3, 8, 8), whole=False)


@pytest.mark.slow
def test_what_does_not_fit_is_refused_before_anything_is_made(
    tiny_pipe: VideoDiTPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    hook = tiny_pipe.transformer.register_forward_pre_hook(lambda *args: calls.append(args))
    monkeypatch.setattr(memory, "free_bytes", lambda device: 100_000)
    try:
        with pytest.raises(ValueError, match=r"9 frames of 32x32 in float32 takes .* GB.*smaller height.*tiles"):
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
        for offload in ("model", "group", "sequential"):
            with pytest.raises(ValueError, match=f"--offload {offload} needs an accelerator"):
                memory.place(tiny_pipe, offload)
    with pytest.raises(ValueError, match="Linear has no tiles"):
        memory.tile(torch.nn.Linear(1, 1))


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc's allocator")
@pytest.mark.parametrize("asked", [False, True])
def test_large_blocks_go_back_though_others_lie_between(asked: bool) -> None:
    """In a process of its own, that has seen such blocks freed: without asking, all of them stay in the heap."""
    assert start(frees_large_blocks, asked) == 0


def frees_large_blocks(asked: bool) -> None:
    if asked:
        return_large_blocks()
    large, small = 24 << 20, 3 << 20
    for _ in range(3):
        torch.ones(large, dtype=torch.uint8)
    blocks = [torch.ones(size, dtype=torch.uint8) for _ in range(6) for size in (large, small)]
    before = psutil.Process().memory_info().rss
    del blocks[::2]
    freed = (before - psutil.Process().memory_info().rss) / large
    assert abs(freed - (6 if asked else 0)) < 0.2, freed
