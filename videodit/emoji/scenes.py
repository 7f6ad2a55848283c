"""Who stands where in a clip of emoji, how it moves, and in which words that is told.

A scene has one thing that fills the frame and moves in its own way (`own`), or drifts, grows, shrinks or turns; or two
things side by side. Its loop comes to its beginning again: frame 25 is frame 1, where the motion is the thing's own.
Scenes have no ground: they are transparent, and the ground is laid and told when they are read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image

from videodit.emoji.art import LOOP, SIDE
from videodit.emoji.things import Thing

FRAMES = LOOP + 1  # the first again as the last
MOTIONS: dict[str, tuple[str, ...]] = {
    "left": ("drifting left", "moving to the left"),
    "right": ("drifting right", "moving to the right"),
    "up": ("drifting up", "rising"),
    "down": ("drifting down", "sinking"),
    "growing": ("growing", "getting bigger"),
    "shrinking": ("shrinking", "getting smaller"),
    "turning": ("turning around", "spinning"),
}
DRIFTER, SMALL, TURNER, PARTNER = 0.66, 0.4, 0.8, 0.5  # sizes, in parts of the frame
ROOM = (1 - DRIFTER) / 2  # how far from the middle one that drifts begins and ends
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}


@dataclass(frozen=True)
class Scene:
    """One thing with a motion (a key of `MOTIONS`, or `own`), or two things, left and right."""

    things: tuple[Thing, ...]
    motion: str = "own"

    @property
    def name(self) -> str:
        """As a file name."""
        codes = "_".join(thing.code for thing in self.things)
        return codes if self.motion == "own" else f"{codes}_{self.motion}"

    @property
    def grounds(self) -> tuple[str, ...]:
        """What training may show all its things on."""
        first, *others = (thing.grounds for thing in self.things)
        return tuple(ground for ground in first if all(ground in other for other in others))

    @property
    def num_frames(self) -> int:
        """One where nothing moves."""
        return FRAMES if self.motion != "own" or any(thing.moves for thing in self.things) else 1


def captions(scene: Scene, synonyms: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Wordings of the same facts.

    Args:
        synonyms: of a thing's code, words that stand for it alone.
    """
    if len(scene.things) == 2:
        left, right = (thing.caption for thing in scene.things)
        return (
            f"{left} on the left and {right} on the right",
            f"{left} and {right} side by side",
            f"{left} to the left of {right}",
        )
    (thing,) = scene.things
    words = [thing.caption]
    tone = f", {thing.tone} skin" if thing.tone else ""
    words += [f"{thing.name} with {thing.tone} skin tone"] if thing.tone else []
    words += [f"{word}{tone}" for word in synonyms.get(thing.code, ())]
    if scene.motion == "own":
        return tuple(words)
    told = MOTIONS[scene.motion]
    return tuple(f"{word} {told[number % len(told)]}" for number, word in enumerate(words))


def render(scene: Scene, art: Mapping[str, np.ndarray], side: int = 64) -> np.ndarray:
    """Frames uint8 f side side 4, alpha not multiplied in, of art as `art.read` gives it by code."""
    frames = []
    for number in range(scene.num_frames):
        canvas = Image.new("RGBa", (SIDE, SIDE))
        for thing, (scale, x, y, angle) in zip(scene.things, _places(scene, number / LOOP), strict=True):
            loop = art[thing.code]
            picture = Image.fromarray(loop[number % LOOP % len(loop)]).convert("RGBa")
            placed = _placed(picture, scale, x, y, angle)
            canvas = Image.fromarray(_over(np.asarray(placed), np.asarray(canvas)), mode="RGBa")
        small = canvas.resize((side, side), Image.Resampling.BOX) if side != SIDE else canvas
        frames.append(np.asarray(small.convert("RGBA")))
    return np.stack(frames)


def _places(scene: Scene, time: float) -> list[tuple[float, float, float, float]]:
    """Of each thing its scale, how far its middle is from the frame's (in parts of it), its turn; time from 0 to 1."""
    if len(scene.things) == 2:
        return [(PARTNER, -0.25, 0.0, 0.0), (PARTNER, 0.25, 0.0, 0.0)]
    if scene.motion in DIRECTIONS:
        x, y = (part * ROOM * (2 * time - 1) for part in DIRECTIONS[scene.motion])
        return [(DRIFTER, x, y, 0.0)]
    if scene.motion in ("growing", "shrinking"):
        grown = time if scene.motion == "growing" else 1 - time
        return [(SMALL + (1 - SMALL) * grown, 0.0, 0.0, 0.0)]
    return [(TURNER, 0.0, 0.0, 2 * math.pi * time) if scene.motion == "turning" else (1.0, 0.0, 0.0, 0.0)]


def _placed(picture: Image.Image, scale: float, x: float, y: float, angle: float) -> Image.Image:
    """The picture scaled, turned clockwise and moved within its own frame."""
    if (scale, x, y, angle) == (1.0, 0.0, 0.0, 0.0):
        return picture
    middle, cos, sin = SIDE / 2, math.cos(angle) / scale, math.sin(angle) / scale
    to_x, to_y = middle + x * SIDE, middle + y * SIDE
    back = (cos, sin, middle - cos * to_x - sin * to_y, -sin, cos, middle + sin * to_x - cos * to_y)
    return picture.transform((SIDE, SIDE), Image.Transform.AFFINE, back, Image.Resampling.BICUBIC)


def _over(front: np.ndarray, back: np.ndarray) -> np.ndarray:
    """Porter and Duff's over, of pictures with alpha multiplied in."""
    front, back = front.astype(np.uint16), back.astype(np.uint16)
    return np.minimum(front + (back * (255 - front[..., 3:]) + 127) // 255, 255).astype(np.uint8)
