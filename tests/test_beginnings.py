"""Where a walk begins: at the scheduler's own amount of noise, and how far along with a video to remake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
)

from videodit.conditions import Told
from videodit.diffusion.guidance import scales_of_steps
from videodit.geometry import ClipSize
from videodit.given import noised_video, pixels_of
from videodit.pipeline import VideoDiTPipeline
from videodit.pipeline.passes import with_text_memory

SIZE = ClipSize(9, 32, 32, 8.0)


@pytest.mark.parametrize(
    ("scheduler", "scale"),
    [
        (DDIMScheduler(), 1.0),
        (FlowMatchEulerDiscreteScheduler(), 1.0),
        # the noise times sqrt(sigma^2 + 1), which scaling for the model undoes
        (EulerDiscreteScheduler(timestep_spacing="leading"), 1.0),
        # the noise times sigma: sigma / sqrt(sigma^2 + 1) of it after scaling
        (EulerDiscreteScheduler(timestep_spacing="trailing"), None),
    ],
    ids=["ddim", "flow", "leading", "trailing"],
)
def test_the_model_sees_noise_of_unit_variance_first_whatever_the_scheduler_walks_at(
    tiny_pipe: VideoDiTPipeline, scheduler: Any, scale: float | None
) -> None:
    seen: list[torch.Tensor] = []
    pipe = VideoDiTPipeline(**tiny_pipe.components | {"scheduler": scheduler})  # whose prediction is as it has it
    pipe.set_progress_bar_config(disable=True)
    size = {"num_frames": SIZE.num_frames, "height": SIZE.height, "width": SIZE.width}
    noise = torch.randn(1, *SIZE.latent(tiny_pipe.codec.strides))
    hook = tiny_pipe.transformer.register_forward_pre_hook(lambda _, args: seen.append(args[0].cpu()))
    try:
        pipe("a red circle", latents=noise, num_inference_steps=2, guidance_scale=1.0, output_type="latent", **size)
    finally:
        hook.remove()
    if scale is None:
        sigma = float(scheduler.sigmas[0])
        assert sigma > 1
        scale = sigma / (sigma**2 + 1) ** 0.5
    torch.testing.assert_close(seen[0], scale * noise, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("strength", "left"), [(1.0, 10), (0.96, 10), (0.94, 9), (0.26, 3), (0.24, 2), (0.06, 1), (0.04, 1), (1e-9, 1)]
)
def test_the_nearest_number_of_steps_is_walked_and_never_none(
    tiny_pipe: VideoDiTPipeline, strength: float, left: int
) -> None:
    noise, frames = torch.zeros(1, *SIZE.latent(tiny_pipe.codec.strides)), np.zeros((9, 32, 32, 3), np.uint8)
    for scheduler, count in (
        (FlowMatchEulerDiscreteScheduler(), left),
        (FlowMatchHeunDiscreteScheduler(), 2 * left - 1),  # two for each step but the last
    ):
        scheduler.set_timesteps(10)
        with torch.no_grad():
            _, timesteps = noised_video(tiny_pipe.codec, scheduler, frames, noise, strength, SIZE)
        assert torch.equal(timesteps, scheduler.timesteps[-count:])


@pytest.mark.parametrize("strength", [0.0, -0.1, 1.0001, float("nan")])
def test_a_strength_that_is_none_is_refused(tiny_pipe: VideoDiTPipeline, strength: float) -> None:
    noise = torch.zeros(1, *SIZE.latent(tiny_pipe.codec.strides))
    with pytest.raises(ValueError, match=r"must be in \(0, 1\]"):
        noised_video(tiny_pipe.codec, FlowMatchEulerDiscreteScheduler(), np.zeros(()), noise, strength, SIZE)


def test_a_text_becomes_memory_once_and_what_is_told_no_text_stays() -> None:
    class Reads(torch.nn.Module):
        def text_memory(
            self, text: torch.Tensor, mask: torch.Tensor | None, attention_kwargs: None
        ) -> tuple[str, float]:
            return "memory", float(text.sum())

    told = Told({"prompt_embeds": torch.ones(1, 2, 3)}, 8.0)
    assert with_text_memory(Reads(), told) == Told({"text_memory": ("memory", 6.0)}, 8.0)
    assert with_text_memory(Reads(), Told({"class_labels": 3})) == Told({"class_labels": 3})


def test_a_scale_is_what_was_said_and_none_below_one() -> None:
    assert scales_of_steps([0.3, 1.0, 1.2, 7.0], (0.0, 1.0), 4) == [1.0, 1.0, 1.2, 7.0]


def test_of_a_moving_picture_the_first_frame_is_given(tmp_path: Path) -> None:
    first, *others = (PIL.Image.new("RGB", (32, 32), (level, level, level)) for level in (0, 100, 200))
    first.save(tmp_path / "a.gif", save_all=True, append_images=others, duration=200)
    assert pixels_of(str(tmp_path / "a.gif"), 1, SIZE, "image").unique().tolist() == [-1.0]
