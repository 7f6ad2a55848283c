"""Where a call begins and where it ends: its arguments are checked, noise is drawn, frames are handed over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image
import torch
from diffusers.utils import BaseOutput
from einops import rearrange
from torch import Tensor


@dataclass
class VideoDiTPipelineOutput(BaseOutput):
    """`frames`: "pt" b f c h w, "np" b f h w c, both in [0, 1]; "pil" a list a clip; "latent" b c f h w."""

    frames: Tensor | np.ndarray | list[list[PIL.Image.Image]]


def check_call(
    generator: torch.Generator | list[torch.Generator] | None,
    latents: Tensor | None,
    shape: tuple[int, ...],
    clips: int,
    output_type: str,
) -> None:
    """ValueError where generators or latents do not fit the clips, or an option is out of range.

    Args:
        shape: of the latents of all clips. clips: of each prompt.
    """
    if clips < 1:
        raise ValueError(f"num_videos_per_prompt={clips} must be at least 1")
    if isinstance(generator, list) and len(generator) != shape[0]:
        raise ValueError(f"{len(generator)} generators for {shape[0]} clips; give one, or one each")
    if latents is not None and tuple(latents.shape) != shape:
        raise ValueError(f"latents have shape {tuple(latents.shape)}, but these sizes need {shape}")
    if output_type not in ("pt", "np", "pil", "latent"):
        raise ValueError(f"output_type {output_type!r} is none of pt, np, pil, latent")


def noise_of(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    device = generator.device if generator is not None else "cpu"
    return torch.randn(1, *shape, generator=generator, device=device)


def each_of(generator: torch.Generator | list[torch.Generator] | None, count: int) -> list[torch.Generator | None]:
    return list(generator) if isinstance(generator, list) else [generator] * count


def present(pixels: Tensor, output_type: str) -> Any:
    """Pixels b c f h w in [-1, 1] as the caller wants them."""
    frames = rearrange((pixels + 1) / 2, "b c f h w -> b f c h w").clamp(0, 1)
    if output_type == "pt":
        return frames
    array = rearrange(frames, "b f c h w -> b f h w c").cpu().numpy()
    if output_type == "np":
        return array
    return [[PIL.Image.fromarray(frame) for frame in np.rint(clip * 255).astype(np.uint8)] for clip in array]
