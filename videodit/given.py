"""What a clip begins with, when it is not noise alone: an image, the frames of a clip to go on from, a video to remake.

Given frames stay as they are while the rest is made: the model sees them clean, as at time 0
(`diffusion.conditioning`). A VAE that compresses time keeps the first frame by itself and then so many frames a step,
so what can be given is one frame, or `4k + 1`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image
import torch
from einops import rearrange
from torch import Tensor

from videodit.codec import VideoCodec
from videodit.geometry import ClipSize, covering

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Given:
    """Frames that are given, as the model sees them: `latents` b c f h w, normalized, 0 where none is; `mask` b f."""

    latents: Tensor
    mask: Tensor

    def put_into(self, noisy: Tensor) -> Tensor:
        """b c f h w with the given frames in their places."""
        return torch.where(rearrange(self.mask, "b f -> b 1 f 1 1"), self.latents, noisy)


def pixels_of(frames: Any, count: int, size: ClipSize, name: str) -> Tensor:
    """Frames that a user gives, as float b c f h w in [-1, 1], b = `count`.

    Args:
        frames: a PIL image, an array `h w 3` (uint8, or float in [0, 1]) or a tensor `3 h w` in [0, 1]; several of a
            kind in a list, or with an axis f before, are the frames of one clip; a list of such, or an axis b before
            that, a clip each. One clip serves all `count`.
        size: what they are brought to: scaled to cover it, and cut to the middle, which a warning tells.
        name: of the argument, for messages.

    Raises:
        ValueError: another form, another number of clips, values outside [0, 1].
    """
    clips = _clips(frames, name)
    if len(clips) not in (1, count):
        raise ValueError(f"{name}: {len(clips)} given for {count} prompts; give one, or one each")
    fitted = [np.stack([_fitted(frame, size, name) for frame in clip]) for clip in clips]
    if len({len(clip) for clip in fitted}) > 1:
        raise ValueError(f"{name}: clips of {', '.join(str(len(clip)) for clip in fitted)} frames; give equally many")
    pixels = torch.from_numpy(np.stack(fitted)).float() / 127.5 - 1
    return rearrange(pixels, "b f h w c -> b c f h w").expand(count, -1, -1, -1, -1)


def given_frames(
    codec: VideoCodec, image: Any, video: Any, count: int, size: ClipSize, patch: tuple[int, int, int]
) -> Given | None:
    """The first frames of `count` clips, that are to stay as they are: an image, or the frames of a video; or None.

    Raises:
        ValueError: both, as many frames as the clip has, or a number that cannot be given by itself: names the nearest.
    """
    if image is not None and video is not None:
        raise ValueError("image and video: both say how the clip begins; give one")
    frames, name = (image, "image") if image is not None else (video, "video")
    if frames is None:
        return None
    if patch[0] > 1:
        raise ValueError(f"{name}: this model's patches span several frames, so none can be given by itself")
    pixels = pixels_of(frames, count, size, name)
    number = pixels.shape[2]
    if number >= size.num_frames:
        raise ValueError(f"{name}: {number} frames given of {size.num_frames}: ask for more frames, or give fewer")
    try:
        codec.strides.latent_frames(number)
    except ValueError as error:
        raise ValueError(f"{name}: {number} frames cannot be given by themselves: {error}") from None
    clean = codec.encode(pixels.to(codec.device, codec.dtype)).float()
    latents = clean.new_zeros(count, *size.latent(codec.strides, patch))
    latents[:, :, : clean.shape[2]] = clean
    mask = torch.arange(latents.shape[2], device=clean.device) < clean.shape[2]
    return Given(latents, mask.expand(count, -1))


def noised_video(
    codec: VideoCodec, scheduler: Any, video: Any, noise: Tensor, strength: float, size: ClipSize
) -> tuple[Tensor, Tensor]:
    """Latents of a video under as much noise as `strength` says, and the timesteps that are left to walk (SDEdit, Meng
    et al. 2022, arXiv 2108.01073; the last `strength` of the steps, as in diffusers).

    Args:
        scheduler: with its timesteps set. noise: b c f h w, unit variance.

    Raises:
        ValueError: no video, one of another length, a strength out of range.
    """
    if video is None:
        raise ValueError(f"strength={strength} says how much of a video is made anew: give the video too")
    if not 0 < strength <= 1:
        raise ValueError(f"strength={strength} must be in (0, 1]")
    pixels = pixels_of(video, len(noise), size, "video")
    if pixels.shape[2] != size.num_frames:
        raise ValueError(f"video: {pixels.shape[2]} frames to remake as {size.num_frames}; give or ask for as many")
    clean = codec.encode(pixels.to(codec.device, codec.dtype)).to(noise)
    order = scheduler.order  # Heun's schedulers have two timesteps for a step, but one for the last
    steps = (len(scheduler.timesteps) + order - 1) // order
    begin = order * (steps - max(1, min(steps, round(steps * strength))))
    timesteps = scheduler.timesteps[begin:]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(begin)
    first = timesteps[:1].expand(len(clean))
    if hasattr(scheduler, "scale_noise"):
        return scheduler.scale_noise(clean, first, noise), timesteps
    return scheduler.add_noise(clean, noise, first), timesteps


def _clips(frames: Any, name: str) -> list[list[np.ndarray]]:
    """Clips of frames, uint8 h w 3."""
    if (
        isinstance(frames, Sequence)
        and not isinstance(frames, str)
        and frames
        and isinstance(frames[0], Sequence | np.ndarray | Tensor)
    ):
        deep = [_clip(one, name) for one in frames]
        if not isinstance(frames[0], Sequence) and _axes(frames[0]) == 3:  # a list of arrays is one clip's frames
            return [[frame for clip in deep for frame in clip]]
        return deep
    if isinstance(frames, np.ndarray | Tensor) and _axes(frames) == 5:
        return [_clip(one, name) for one in frames]
    return [_clip(frames, name)]


def _axes(frames: Any) -> int:
    return int(frames.ndim)


def _clip(frames: Any, name: str) -> list[np.ndarray]:
    if isinstance(frames, str):
        raise ValueError(f"{name} is the text {frames!r}; open it first: PIL.Image.open, or videodit.video.read_clip")
    if isinstance(frames, PIL.Image.Image):
        return [np.asarray(frames.convert("RGB"))]
    if isinstance(frames, Sequence) and frames:
        return [frame for one in frames for frame in _clip(one, name)]
    if isinstance(frames, Tensor) and frames.ndim in (3, 4):
        frames = rearrange(frames[None] if frames.ndim == 3 else frames, "f c h w -> f h w c").cpu().float().numpy()
    if not isinstance(frames, np.ndarray) or frames.ndim not in (3, 4) or frames.shape[-1] != 3:
        what = tuple(getattr(frames, "shape", ())) or type(frames).__name__
        raise ValueError(f"{name} is {what}; give a PIL image, an array h w 3, a tensor 3 h w, or several")
    frames = frames[None] if frames.ndim == 3 else frames
    if frames.dtype != np.uint8:
        if not (frames.min() >= 0 and frames.max() <= 1):
            raise ValueError(f"{name}: values from {frames.min():g} to {frames.max():g}; floats must be in [0, 1]")
        frames = np.rint(frames * 255).astype(np.uint8)
    return list(frames)


def _fitted(frame: np.ndarray, size: ClipSize, name: str) -> np.ndarray:
    """uint8 h w 3 of the clip's size."""
    height, width = frame.shape[:2]
    if (height, width) == (size.height, size.width):
        return frame
    rows, columns = covering(height, width, size.height, size.width)
    log.warning("%s: %dx%d is scaled and cut to %dx%d", name, height, width, size.height, size.width)
    scaled = PIL.Image.fromarray(frame).resize((columns, rows), PIL.Image.Resampling.BICUBIC)
    top, left = (rows - size.height) // 2, (columns - size.width) // 2
    return np.asarray(scaled)[top : top + size.height, left : left + size.width]
