"""What a clip begins or ends with, when it is not noise alone: an image, frames of a clip, a video to remake.

Given frames stay as they are while the rest is made: the model sees them clean, as at time 0
(`diffusion.conditioning`). A VAE that compresses time keeps the first frame by itself and then so many frames a step,
say 4: what can be given at the beginning is one frame or `4k + 1`, and at the end `4k`. A last image is held for a
step, as a still picture is what such a VAE can keep of it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any
from urllib.request import urlopen

import numpy as np
import PIL.Image
import torch
from einops import rearrange
from torch import Tensor

from videodit.codec import VideoCodec
from videodit.geometry import ClipSize, covering
from videodit.video import VideoError, read_frames

log = logging.getLogger(__name__)

TIMEOUT, LARGEST = 30.0, 100 << 20  # seconds and bytes of a picture by its address


@dataclass(frozen=True)
class Given:
    """Frames that are given, as the model sees them: `latents` b c f h w, normalized, 0 where none is; `mask` b f.

    `closing` b c n h w are the pixels in [-1, 1] that the VAE keeps of the last ones by themselves; None: none.
    """

    latents: Tensor
    mask: Tensor
    closing: Tensor | None = None

    def put_into(self, noisy: Tensor) -> Tensor:
        """b c f h w with the given frames in their places."""
        return torch.where(rearrange(self.mask, "b f -> b 1 f 1 1"), self.latents, noisy)

    def under_noise(self, noisy: Tensor, scheduler: Any, noise: Tensor, t: Tensor) -> Tensor:
        """b c f h w with the given frames under as much of the starting noise as the rest is at timestep t."""
        return torch.where(rearrange(self.mask, "b f -> b 1 f 1 1"), _noised(scheduler, self.latents, noise, t), noisy)

    def close(self, pixels: Tensor) -> Tensor:
        """Decoded pixels b c f h w that end with the given last frames, whatever a causal VAE saw before them."""
        if self.closing is None:
            return pixels
        return torch.cat([pixels[:, :, : -self.closing.shape[2]], self.closing.to(pixels)], dim=2)


def pixels_of(frames: Any, count: int, size: ClipSize, name: str) -> Tensor:
    """Frames that a user gives, as float b c f h w in [-1, 1], b = `count`.

    Args:
        frames: a PIL image, an array `h w 3` (uint8, or float in [0, 1]), a tensor `3 h w` in [0, 1], or a file or
            address (http) of a picture; several of a kind in a list, or with an axis f before, are the frames of one
            clip; a list of such, or an axis b before that, a clip each. One clip serves all `count`.
        size: what they are brought to: scaled to cover it, and cut to the middle, which a warning tells.
        name: of the argument, for messages.

    Raises:
        ValueError: another form, another number of clips, values outside [0, 1].
    """
    clips = clips_of(frames, name)
    if len(clips) not in (1, count):
        raise ValueError(f"{name}: {len(clips)} given for {count} prompts; give one, or one each")
    others = {frame.shape[:2] for clip in clips for frame in clip} - {(size.height, size.width)}
    for height, width in sorted(others):
        log.warning("%s: %dx%d is scaled and cut to %dx%d", name, height, width, size.height, size.width)
    shown = [np.stack([fitted(frame, size.height, size.width) for frame in clip]) for clip in clips]
    if len({len(clip) for clip in shown}) > 1:
        raise ValueError(f"{name}: clips of {', '.join(str(len(clip)) for clip in shown)} frames; give equally many")
    pixels = torch.from_numpy(np.stack(shown)).float() / 127.5 - 1
    return rearrange(pixels, "b f h w c -> b c f h w").expand(count, -1, -1, -1, -1)


def repeated_clips(frames: Any, times: int, name: str) -> Any:
    """Frames as `pixels_of` takes them, each clip so many times over; one clip serves all anyway."""
    if frames is None or times == 1:
        return frames
    clips = clips_of(frames, name)
    return clips if len(clips) == 1 else [clip for clip in clips for _ in range(times)]


def given_frames(
    codec: VideoCodec,
    count: int,
    size: ClipSize,
    patch: tuple[int, int, int],
    *,
    image: Any = None,
    video: Any = None,
    last_image: Any = None,
    last_video: Any = None,
) -> Given | None:
    """The first and last frames of `count` clips that are to stay as they are; None where none are given.

    Args:
        image, video: what the clips begin with: one frame, or several.
        last_image, last_video: what they end with: one frame, held for a step of the VAE, or several.

    Raises:
        ValueError: two beginnings or ends, frames that leave nothing to make, or a number that cannot be given by
            itself: names the nearest.
    """
    begin, end = _one_of(image=image, video=video), _one_of(last_image=last_image, last_video=last_video)
    if begin is None and end is None:
        return None
    if patch[0] > 1:
        name = (begin or end or ("",))[0]
        raise ValueError(f"{name}: this model's patches span several frames, so none can be given by itself")
    latents = torch.zeros(count, *size.latent(codec.strides, patch), device=codec.device)
    mask = torch.zeros(count, latents.shape[2], dtype=torch.bool, device=codec.device)
    closing = None
    if begin is not None:
        first = _encoded(codec, _opening(codec, pixels_of(begin[1], count, size, begin[0]), size, begin[0]))
        latents[:, :, : first.shape[2]], mask[:, : first.shape[2]] = first, True
    if end is not None:
        frames = pixels_of(end[1], count, size, end[0])
        if end[0] == "last_image" and frames.shape[2] == 1:
            frames = frames.expand(-1, -1, codec.strides.time, -1, -1)
        clip, number = _closing(codec, frames, size, end[0])
        last = _encoded(codec, clip)
        steps = number // codec.strides.time
        if steps + int(mask[0].sum()) >= mask.shape[1]:
            what = f"{end[0]}: {number} last frames" + (f" and {begin[0]}" if begin else "")
            raise ValueError(f"{what} leave nothing to make of {size.num_frames}: ask for more frames, or give fewer")
        latents[:, :, -steps:], mask[:, -steps:] = last[:, :, -steps:], True
        closing = codec.decode(last)[:, :, -number:]
    return Given(latents, mask, closing)


def _one_of(**named: Any) -> tuple[str, Any] | None:
    given = [(name, frames) for name, frames in named.items() if frames is not None]
    if len(given) > 1:
        raise ValueError(f"{given[0][0]} and {given[1][0]}: both say the same frames; give one")
    return given[0] if given else None


def _encoded(codec: VideoCodec, pixels: Tensor) -> Tensor:
    return codec.encode(pixels.to(codec.device, codec.dtype)).float()


def _opening(codec: VideoCodec, pixels: Tensor, size: ClipSize, name: str) -> Tensor:
    number = pixels.shape[2]
    if number >= size.num_frames:
        raise ValueError(f"{name}: {number} frames given of {size.num_frames}: ask for more frames, or give fewer")
    try:
        codec.strides.latent_frames(number)
    except ValueError as error:
        raise ValueError(f"{name}: {number} frames cannot be given by themselves: {error}") from None
    return pixels


def _closing(codec: VideoCodec, pixels: Tensor, size: ClipSize, name: str) -> tuple[Tensor, int]:
    """Last frames behind copies of their first, as many as the VAE needs, and how many they are without."""
    number, time = pixels.shape[2], codec.strides.time
    check_closing(number, time, name)
    if number >= size.num_frames:
        raise ValueError(f"{name}: {number} frames given of {size.num_frames}: ask for more frames, or give fewer")
    if time == 1:
        return pixels, number
    step = codec.strides.step
    held = 1 + -number % step
    return torch.cat([pixels[:, :, :1].expand(-1, -1, held, -1, -1), pixels], dim=2), number


def check_closing(number: int, time: int, name: str) -> None:
    """ValueError where so many last frames are not whole latent frames, of `time` frames each."""
    if number % time:
        below = number // time * time
        nearest = f"{below} or {below + time}" if below else f"{time}"
        raise ValueError(f"{name}: {number} frames cannot be given by themselves at the end; nearest: {nearest}")


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
    return _noised(scheduler, clean, noise, timesteps[0]), timesteps


def _noised(scheduler: Any, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    times = t.expand(len(clean))
    if hasattr(scheduler, "scale_noise"):
        return scheduler.scale_noise(clean, times, noise)
    return scheduler.add_noise(clean, noise, times)


def clips_of(frames: Any, name: str) -> list[list[np.ndarray]]:
    """Frames in the forms that `pixels_of` takes, as clips of frames, uint8 h w 3."""
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
    if isinstance(frames, str | Path):
        return [_opened(str(frames), name)]
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


def _opened(source: str, name: str) -> np.ndarray:
    """uint8 h w 3 of a picture's file or address."""
    if not name.endswith("image"):
        raise ValueError(f"{name}: {source} is to be read first, at the clip's rate: videodit.video.read_clip")
    if not source.startswith(("http://", "https://")):
        return read_frames(source, [0.0])[0]
    with NamedTemporaryFile(suffix=".png") as file:  # whatever it is, Pillow looks inside
        try:
            with urlopen(source, timeout=TIMEOUT) as answer:
                size = file.write(answer.read(LARGEST + 1))
        except OSError as error:
            raise ValueError(f"{name}: {source} cannot be fetched ({error})") from error
        if size > LARGEST:
            raise ValueError(f"{name}: {source} is larger than {LARGEST >> 20} MB")
        file.flush()
        try:
            return read_frames(file.name, [0.0])[0]
        except VideoError as error:
            raise ValueError(f"{name}: {source} is no picture that can be read") from error


def fitted(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 h w 3, scaled to cover so many rows and columns, and cut to them."""
    if frame.shape[:2] == (height, width):
        return frame
    rows, columns = covering(frame.shape[0], frame.shape[1], height, width)
    scaled = PIL.Image.fromarray(frame).resize((columns, rows), PIL.Image.Resampling.BICUBIC)
    top, left = (rows - height) // 2, (columns - width) // 2
    return np.asarray(scaled)[top : top + height, left : left + width]
