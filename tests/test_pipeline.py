"""The pipeline's ways to begin and to guide: given frames stay, guidance costs nothing where there is none."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    UniPCMultistepScheduler,
)
from footage import pan

from videodit.codec import VideoCodec
from videodit.diffusion.guidance import classifier_free_guidance, scales_of_steps
from videodit.diffusion.schedulers import scheduler_named
from videodit.geometry import ClipSize
from videodit.given import given_frames, noised_video, pixels_of
from videodit.pipeline import VideoDiTPipeline

SIZE = ClipSize(9, 32, 32, 8.0)


def clip(pipe: VideoDiTPipeline, prompts: Any = "a red circle", seeds: Any = 0, **options: Any) -> torch.Tensor:
    seeds = [seeds] if isinstance(seeds, int) else seeds
    generator = [torch.Generator().manual_seed(seed) for seed in seeds]
    options = {"num_inference_steps": 3, "guidance_scale": 2.0, "output_type": "pt", **options}
    return pipe(prompts, generator=generator, **options).frames


def footage(count: int, seed: int = 0) -> np.ndarray:
    return pan(seed, count)[:, :32, :32]


def kept(pipe: VideoDiTPipeline, frames: np.ndarray) -> torch.Tensor:
    """What the VAE keeps of frames: f c h w in [0, 1]."""
    pixels = torch.from_numpy(frames).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    with torch.no_grad():
        back = pipe.codec.decode(pipe.codec.encode(pixels))
    return ((back[0] + 1) / 2).clamp(0, 1).permute(1, 0, 2, 3)


@pytest.fixture
def rows(tiny_pipe: VideoDiTPipeline) -> Iterator[list[int]]:
    """How many rows each call of the model has."""
    seen: list[int] = []
    hook = tiny_pipe.transformer.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    yield seen
    hook.remove()


# --- given frames ----------------------------------------------------------------------------------------------------


def test_a_given_image_comes_back_as_the_vae_keeps_it_and_the_rest_follows_from_it(tiny_pipe: VideoDiTPipeline) -> None:
    image = footage(1)
    free, made = clip(tiny_pipe), clip(tiny_pipe, image=image)
    torch.testing.assert_close(made[0, :1], kept(tiny_pipe, image), rtol=0, atol=1e-4)
    assert (made[0, 1:] - free[0, 1:]).abs().max() > 1e-3
    other = clip(tiny_pipe, image=footage(1, 7))
    assert (made[0, 1:] - other[0, 1:]).abs().max() > 1e-3


def test_a_clip_goes_on_from_the_frames_of_another(tiny_pipe: VideoDiTPipeline) -> None:
    made = clip(tiny_pipe, video=footage(5))
    torch.testing.assert_close(made[0, :5], kept(tiny_pipe, footage(5)), rtol=0, atol=1e-4)
    assert made.shape[1] == 9


def held(pipe: VideoDiTPipeline, frames: np.ndarray) -> torch.Tensor:
    """What the VAE keeps of last frames: f c h w, behind a copy of the first."""
    return kept(pipe, np.concatenate([frames[:1], frames]))[1:]


@pytest.mark.slow
def test_last_frames_come_back_as_the_vae_keeps_them_by_themselves(tiny_pipe: VideoDiTPipeline) -> None:
    free, frames = clip(tiny_pipe), footage(4, 3)
    made = clip(tiny_pipe, last_video=frames)
    torch.testing.assert_close(made[0, 5:], held(tiny_pipe, frames), rtol=0, atol=1e-4)
    assert (made[0, :5] - free[0, :5]).abs().max() > 1e-3
    made = clip(tiny_pipe, last_image=frames[:1])  # for as long as the VAE's step
    torch.testing.assert_close(made[0, 5:], held(tiny_pipe, frames[[0] * 4]), rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("begin", [{"image": footage(1)}, {"video": footage(5)}])
def test_what_lies_between_given_frames_follows_from_both(tiny_pipe: VideoDiTPipeline, begin: dict[str, Any]) -> None:
    size, number = {"num_frames": 13}, len(next(iter(begin.values())))
    last = footage(4, 3)
    made, other = (clip(tiny_pipe, **begin, **size, last_video=end) for end in (last, footage(4, 4)))
    torch.testing.assert_close(made[0, :number], kept(tiny_pipe, footage(number)), rtol=0, atol=1e-4)
    torch.testing.assert_close(made[0, -4:], held(tiny_pipe, last), rtol=0, atol=1e-4)
    assert (made[0, number:9] - other[0, number:9]).abs().max() > 1e-3
    begun = clip(tiny_pipe, last_video=last, **size)
    assert (made[0, number:9] - begun[0, number:9]).abs().max() > 1e-3


def test_a_vae_that_keeps_each_frame_by_itself_is_given_any_number_of_last_ones(tiny_pipe: VideoDiTPipeline) -> None:
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    codec = VideoCodec(AutoencoderKL(block_out_channels=(8, 8), norm_num_groups=4, **blocks).eval())
    size = ClipSize(6, 32, 32, 8.0)
    with torch.no_grad():
        found = given_frames(codec, 1, size, (1, 2, 2), image=footage(1), last_video=footage(3, 1))
        pixels = torch.from_numpy(footage(3, 1)).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
        assert found is not None
        assert found.mask.tolist() == [[True, False, False, True, True, True]]
        torch.testing.assert_close(found.latents[:, :, 3:], codec.encode(pixels))


def test_the_model_sees_given_frames_clean_at_each_step_as_at_time_0(tiny_pipe: VideoDiTPipeline) -> None:
    calls: list[tuple[torch.Tensor, torch.Tensor]] = []
    hook = tiny_pipe.transformer.register_forward_pre_hook(
        lambda _, args, kwargs: calls.append((args[0].clone(), kwargs["frame_mask"])), with_kwargs=True
    )
    try:
        clip(tiny_pipe, image=footage(1))
    finally:
        hook.remove()
    pixels = torch.from_numpy(footage(1)).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    with torch.no_grad():
        clean = tiny_pipe.codec.encode(pixels)[0]
    for seen, mask in calls:
        assert mask.tolist() == [[True, False, False]] * 2  # of both passes
        torch.testing.assert_close(seen[0][:, :1], clean)


def test_frames_may_come_in_any_usual_form() -> None:
    frame = footage(1)[0]
    tensor = torch.from_numpy(frame).permute(2, 0, 1) / 255
    expected = torch.from_numpy(frame).permute(2, 0, 1).float() / 127.5 - 1
    forms = (
        frame,
        frame / 255,
        frame[None],
        tensor,
        tensor[None],
        PIL.Image.fromarray(frame),
        [PIL.Image.fromarray(frame)],
    )
    for form in forms:
        found = pixels_of(form, 2, SIZE, "image")
        assert found.shape == (2, 3, 1, 32, 32)
        torch.testing.assert_close(found[1, :, 0], expected)
    clips = np.stack([footage(5, 1), footage(5, 2)])
    for several in (clips, list(clips), [[PIL.Image.fromarray(f) for f in one] for one in clips]):
        found = pixels_of(several, 2, SIZE, "video")
        torch.testing.assert_close(found[1, :, 4], torch.from_numpy(clips[1, 4]).permute(2, 0, 1).float() / 127.5 - 1)


def test_a_picture_of_another_size_is_scaled_and_cut_to_its_middle_and_that_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    wide = np.zeros((64, 192, 3), dtype=np.uint8)
    wide[:, 64:128] = 255
    with caplog.at_level(logging.WARNING):
        found = pixels_of(wide, 1, SIZE, "image")
    assert found.shape == (1, 3, 1, 32, 32)
    assert found[..., 4:-4].min() > 0.99  # the white third alone
    assert "64x192 is scaled and cut to 32x32" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image": footage(1), "video": footage(5)}, "image and video.*give one"),
        ({"last_image": footage(1), "last_video": footage(4)}, "last_image and last_video.*give one"),
        ({"last_video": footage(5)}, "5 frames cannot be given by themselves at the end; nearest: 4 or 8"),
        ({"last_video": footage(3)}, "nearest: 4$"),
        ({"last_video": footage(8), "image": footage(1)}, "8 last frames and image leave nothing to make of 9"),
        ({"last_image": footage(1), "num_frames": 1}, "frames given of 1: ask for more"),
        ({"last_image": footage(1), "video": footage(9), "strength": 0.5}, "no first or last frames"),
        ({"image_guidance_scale": 2.0}, "image_guidance_scale=2.0 is of given frames"),
        ({"image_guidance_scale": [2.0], "image": footage(1)}, "image_guidance_scale has 1 values for 3 steps"),
        ({"video": footage(9)}, "9 frames given of 9"),
        ({"video": footage(4)}, "4 frames cannot be given by themselves.*nearest: 1 or 5"),
        ({"image": np.full((32, 32, 3), 2.0)}, r"floats must be in \[0, 1\]"),
        ({"image": "photo.jpg"}, r"photo.jpg cannot be opened \(No such file"),
        ({"video": "clip.mp4"}, "video: clip.mp4 is to be read first"),
        ({"image": np.stack([footage(1)] * 3)}, "3 given for 1 prompts"),
        ({"strength": 0.5}, "give the video too"),
        ({"video": footage(9), "strength": 0.0}, "strength=0.0"),
        ({"video": footage(5), "strength": 0.5}, "5 frames to remake as 9"),
        ({"guidance_interval": (0.5, 0.2)}, "guidance_interval"),
        ({"guidance_scale": [1.0, 2.0]}, "2 values for 3 steps"),
        ({"guidance_rescale": 2.0}, "rescale"),
    ],
)
def test_mistakes_are_named(tiny_pipe: VideoDiTPipeline, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        clip(tiny_pipe, **options)


# --- a video made anew -----------------------------------------------------------------------------------------------


def test_a_noised_video_lies_on_the_path_between_itself_and_noise(tiny_pipe: VideoDiTPipeline) -> None:
    noise = torch.randn(1, *SIZE.latent(tiny_pipe.codec.strides)).to(tiny_pipe.device)
    pixels = torch.from_numpy(footage(9)).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    flow = FlowMatchEulerDiscreteScheduler()
    with torch.no_grad():
        clean = tiny_pipe.codec.encode(pixels)
        for strength, left in ((1.0, 10), (0.3, 3), (0.01, 1)):
            flow.set_timesteps(10)
            mixed, timesteps = noised_video(tiny_pipe.codec, flow, footage(9), noise, strength, SIZE)
            t = float(timesteps[0]) / 1000
            assert len(timesteps) == left
            torch.testing.assert_close(mixed, (1 - t) * clean + t * noise, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", [FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler, UniPCMultistepScheduler]
)
def test_the_less_strength_the_nearer_to_the_video(tiny_pipe: VideoDiTPipeline, kind: type) -> None:
    own = tiny_pipe.scheduler
    there = kept(tiny_pipe, footage(9))
    try:
        tiny_pipe.scheduler = scheduler_named(kind.__name__, own)
        options = {"video": footage(9), "num_inference_steps": 10, "guidance_scale": 1.0}
        apart = [float((clip(tiny_pipe, strength=s, **options)[0] - there).abs().mean()) for s in (0.1, 0.5, 1.0)]
    finally:
        tiny_pipe.scheduler = own
    assert apart == sorted(apart)
    assert apart[0] < 0.7 * apart[-1]


# --- guidance --------------------------------------------------------------------------------------------------------


def test_scales_hold_inside_of_the_interval_and_each_step_has_its_own() -> None:
    assert scales_of_steps(3.0, (0.25, 0.75), 4) == [1, 3, 3, 1]
    assert scales_of_steps([5.0, 4.0, 3.0], (0.0, 1.0), 3) == [5, 4, 3]
    assert scales_of_steps(3.0, (0.0, 0.0), 4) == [1] * 4


def test_passes_that_cannot_matter_are_not_run(tiny_pipe: VideoDiTPipeline, rows: list[int]) -> None:
    clip(tiny_pipe, num_inference_steps=4, guidance_interval=(0.25, 0.75))
    assert rows == [1, 2, 2, 1]
    rows.clear()
    without = clip(tiny_pipe, guidance_scale=1.0)
    nowhere = clip(tiny_pipe, guidance_interval=(0.0, 0.0))
    assert rows == [1] * 6
    assert torch.equal(without, nowhere)


def test_equal_scales_a_step_are_one_scale(tiny_pipe: VideoDiTPipeline) -> None:
    assert torch.equal(clip(tiny_pipe, guidance_scale=3.0), clip(tiny_pipe, guidance_scale=[3.0] * 3))


def test_rescaled_guidance_has_the_deviation_of_the_prediction_with_the_prompt() -> None:
    told, untold = torch.randn(2, 3, 4, 5, 5, generator=torch.Generator().manual_seed(1)), torch.randn(2, 3, 4, 5, 5)
    found = classifier_free_guidance(told, untold, 6.0, 1.0)
    torch.testing.assert_close(found.std(dim=(1, 2, 3, 4)), told.std(dim=(1, 2, 3, 4)))


@pytest.mark.slow
def test_a_scale_for_given_frames_is_a_third_pass_and_one_for_both_needs_two(
    tiny_pipe: VideoDiTPipeline, rows: list[int]
) -> None:
    image = footage(1)
    plain = clip(tiny_pipe, image=image)
    rows.clear()
    assert torch.equal(clip(tiny_pipe, image=image, image_guidance_scale=1.0), plain)
    assert rows == [2] * 3
    rows.clear()
    other = clip(tiny_pipe, image=image, image_guidance_scale=1.5)
    assert rows == [3] * 3
    assert not torch.equal(other, plain)
    torch.testing.assert_close(other[0, :1], plain[0, :1])
    rows.clear()
    clip(tiny_pipe, image=image, image_guidance_scale=3.0, guidance_scale=3.0)
    assert rows == [2] * 3
    rows.clear()
    clip(tiny_pipe, image=image, image_guidance_scale=1.5, guidance_interval=(0.5, 1.0))
    assert rows == [1, 3, 3]


def test_the_pass_without_given_frames_sees_them_as_noised_as_the_rest(tiny_pipe: VideoDiTPipeline) -> None:
    calls: list[tuple[torch.Tensor, torch.Tensor, float]] = []
    hook = tiny_pipe.transformer.register_forward_pre_hook(
        lambda _, args, kwargs: calls.append((args[0].clone(), kwargs["frame_mask"], float(args[1][0]) / 1000)),
        with_kwargs=True,
    )
    noise = torch.randn(1, *SIZE.latent(tiny_pipe.codec.strides), generator=torch.Generator().manual_seed(4))
    try:
        clip(tiny_pipe, image=footage(1), image_guidance_scale=1.5, latents=noise)
    finally:
        hook.remove()
    pixels = torch.from_numpy(footage(1)).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    with torch.no_grad():
        clean = tiny_pipe.codec.encode(pixels)[0]
    noise = noise[0].to(clean.device)
    for seen, mask, t in calls:
        assert mask.tolist() == [[True, False, False]] * 2 + [[False] * 3]
        torch.testing.assert_close(seen[1][:, :1], clean)
        torch.testing.assert_close(seen[2][:, :1], (1 - t) * clean + t * noise[:, :1], rtol=1e-4, atol=1e-4)


# --- sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_size_far_from_training_is_told_and_one_nearby_is_not(
    tiny_pipe: VideoDiTPipeline, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        clip(tiny_pipe)
        clip(tiny_pipe, num_frames=1)
        clip(tiny_pipe, num_frames=13)
    assert "far from" not in caplog.text
    with caplog.at_level(logging.WARNING):
        clip(tiny_pipe, num_frames=17, width=64, fps=30.0)
    assert "num_frames 17, trained at 9; fps 30, trained at 8; pixels 2048, trained at 1024" in caplog.text
