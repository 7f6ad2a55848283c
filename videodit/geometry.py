"""Sizes of a clip in pixels, latents and tokens, and the rules between them.

One small type carries frames, height, width and rate through the whole library, so that nobody recomputes
`(frames - 1) // 4 + 1` in a second place. Axes: `f` frames, `h w` rows and columns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

SOUND_RATE = 16_000  # samples a second of what belongs to a clip: what most encoders of sound learned


@dataclass(frozen=True)
class Strides:
    """How a video VAE compresses: `time` frames and `space` pixels a latent step, into `channels` latent channels.

    Any frame count is legal where `time` is 1. A VAE that compresses time keeps the first frame by itself, so that its
    legal counts are `k * frame_step + 1` (`frame_step` is `time` unless given; `CogVideoX` wants twice that).
    """

    time: int
    space: int
    channels: int
    frame_step: int | None = None

    @property
    def step(self) -> int:
        """By how many frames legal counts differ."""
        return self.frame_step or self.time

    def latent_frames(self, num_frames: int) -> int:
        """Latent frames of a clip of `num_frames`; ValueError names the nearest legal counts."""
        step = self.step
        if num_frames < 1 or (num_frames - 1) % step:
            below = max(num_frames - 1, 0) // step * step + 1
            legal = f"{below} or {below + step}" if num_frames > 0 else "1"
            raise ValueError(f"num_frames={num_frames} is not {step}k + 1; nearest: {legal}")
        return (num_frames - 1) // self.time + 1

    def pixel_frames(self, latent_frames: int) -> int:
        """Frames that `latent_frames` decode to: the inverse of `latent_frames`."""
        return (latent_frames - 1) * self.time + 1

    def latent_side(self, pixels: int, name: str, patch: int = 1) -> int:
        """Latent rows (or columns) of `pixels`; ValueError names the side and the nearest legal sizes."""
        step = self.space * patch
        if pixels < 1 or pixels % step:
            below = pixels // step * step
            legal = f"{below} or {below + step}" if below > 0 else f"{step}"
            raise ValueError(f"{name}={pixels} is not a multiple of {step}; nearest: {legal}")
        return pixels // self.space


@dataclass(frozen=True)
class ClipSize:
    """A clip in pixels: `num_frames` x `height` x `width` at `fps` frames a second. An image has one frame."""

    num_frames: int
    height: int
    width: int
    fps: float

    def __post_init__(self) -> None:
        for name in ("num_frames", "height", "width", "fps"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)} must be positive")

    def __str__(self) -> str:
        picture = f"{self.height}x{self.width}"
        return f"{self.num_frames}x{picture} at {self.fps:g} fps" if self.num_frames > 1 else f"images {picture}"

    @property
    def duration(self) -> float:
        """Seconds from the first frame to the last: (num_frames - 1) / fps."""
        return (self.num_frames - 1) / self.fps

    def far_from(self, trained: ClipSize) -> str:
        """In which of frames, rate and pixels this is far (a third less, half more) from `trained`; "" where in none.

        An image is not far from a clip, and has no rate.
        """
        clip = self.num_frames > 1
        numbers = {
            "num_frames": (self.num_frames, trained.num_frames, clip),
            "fps": (self.fps, trained.fps, clip),
            "pixels": (self.height * self.width, trained.height * trained.width, True),
        }
        return "; ".join(
            f"{name} {mine:g}, trained at {theirs:g}"
            for name, (mine, theirs, counts) in numbers.items()
            if counts and not 2 / 3 <= mine / theirs <= 1.5
        )

    def image(self) -> ClipSize:
        """The same picture size with one frame."""
        return replace(self, num_frames=1)

    def latent(self, strides: Strides, patch: tuple[int, int, int] = (1, 1, 1)) -> tuple[int, int, int, int]:
        """(c, f, h, w) of this clip's latent; ValueError names the nearest legal sizes.

        `patch` is the (time, rows, columns) of the transformer's tokenizer. Rows and columns must fill it; frames need
        not, the tokenizer pads them.
        """
        f = strides.latent_frames(self.num_frames)
        h = strides.latent_side(self.height, "height", patch[1])
        w = strides.latent_side(self.width, "width", patch[2])
        return strides.channels, f, h, w

    def tokens(self, strides: Strides, patch: tuple[int, int, int]) -> int:
        """How many tokens a transformer has of this clip, frames padded to fill the patch."""
        _, *axes = self.latent(strides, patch)
        return math.prod(-(-n // p) for n, p in zip(axes, patch, strict=True))


def covering(rows: int, columns: int, height: int, width: int) -> tuple[int, int]:
    """The size to scale rows x columns to, so that they just cover height x width in their own aspect ratio."""
    scale = max(height / rows, width / columns)
    return max(height, round(rows * scale)), max(width, round(columns * scale))
