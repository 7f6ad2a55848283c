"""The judge of the shapes world: it looks at a clip's pixels and says what it sees.

It has no learned weights and never sees the prompt. Things are saturated and backgrounds are neutral, so chroma finds
the things; each is then followed through the frames and asked three questions:

- **color**: the nearest of `COLORS` to the pixels well inside it;
- **shape**: its coverage, laid on a grid of equal area, is correlated with the world's own polygons at all angles;
  a spin is a straight line through (time, angle), so shape and turning are fitted together over all frames;
- **motion**: the path is fitted by each motion's own curve (a line, parabolas, a circle), the size by a line; of
  travel, growth and turning, the one nearest to (or farthest beyond) what the world would show names the motion.

What is none of the world's shapes or motions is called `OTHER`, so that a blob or a jitter earns nothing.
Units: lengths are fractions of the frame's smaller side, time is seconds, x runs right and y runs down.
Axes: f frames, h w rows and columns, c channels, k things' pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from videodit.evaluation.judge.bodies import Body, bodies_of, chroma_of
from videodit.evaluation.judge.motions import OTHER, growth_of, way_of
from videodit.evaluation.judge.outlines import patches_of, shape_and_turn
from videodit.evaluation.measure.pixels import box_reduced
from videodit.shapes import COLORS, Scene

WORKING_SIDE = 64  # larger clips are box-reduced to at least this side
MIN_LIKENESS = 0.85  # correlation with the best polygon, below which a shape is `OTHER`
MIN_STRENGTH = 0.35  # of what the world would show, below which a thing is still


@dataclass(frozen=True)
class Seen:
    """One thing as seen: its facts, then what was measured.

    `color` is a key of `COLORS`; `shape` one of `SHAPES` or `OTHER`; `motion` a key of `MOTIONS` or `OTHER`, and ""
    for an image, in which no motion can be seen.
    """

    color: str
    shape: str
    motion: str
    center: tuple[float, float]  # mean (x, y)
    radius: float  # mean radius of the disk of the same area
    travel: float  # extent of the fitted path, on its longer axis
    growth: float  # last radius over first, of the fitted line
    turn: float  # turns a second, clockwise positive
    likeness: float  # correlation with the polygon of that shape, 1 is equal
    presence: float  # part of the frames that it is seen in


@dataclass(frozen=True)
class Verdict:
    """Whether an asked thing was seen with its colour, shape and motion; `alone`: and nothing that was not asked."""

    color: bool
    shape: bool
    motion: bool
    alone: bool = True

    @property
    def all(self) -> bool:
        return self.color and self.shape and self.motion and self.alone


def judge(frames: np.ndarray, num_things: int | None = None, *, fps: float = 8.0) -> list[Seen]:
    """What a clip shows, largest thing first; an empty list when nothing is there.

    frames: uint8 f h w c, of 64 rows and columns or more. One frame is an image: motion "". The motions with a period
    (bouncing, circling) need a second of frames to be told from a straight way.
    num_things: keep at most so many things, the largest. None keeps all.
    Raises ValueError for other frames.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not len(frames):
        raise ValueError(f"frames {frames.dtype} {frames.shape} must be uint8 f h w 3 with f >= 1")
    pixels = box_reduced(frames, WORKING_SIDE).astype(np.float64)
    bodies = sorted(bodies_of(pixels), key=lambda body: -body.cover.sum())
    times = np.arange(len(frames)) / fps
    return [_see(body, times) for body in bodies[:num_things]]


def compare(seen: list[Seen], scene: Scene) -> list[Verdict]:
    """A verdict for each thing of the scene, in its order.

    Things are matched to what was seen by the assignment with the most right facts (colour breaks ties). A thing that
    is missing is wrong in everything. Seeing more than was asked makes every verdict not `alone`, so none is `all`.
    The motion of an image ("") is not compared.
    """
    alone = len(seen) <= len(scene.things)
    slots: list[Seen | None] = [*seen, *[None] * max(0, len(scene.things) - len(seen))]

    def verdicts(chosen: tuple[Seen | None, ...]) -> list[Verdict]:
        return [
            Verdict(s.color == t.color, s.shape == t.shape, s.motion in ("", t.motion), alone)
            if s
            else Verdict(False, False, False, alone)
            for s, t in zip(chosen, scene.things, strict=True)
        ]

    def facts(found: list[Verdict]) -> tuple[int, int]:
        return sum(v.color + v.shape + v.motion for v in found), sum(v.color for v in found)

    return max(map(verdicts, permutations(slots, len(scene.things))), key=facts)


def _see(body: Body, times: np.ndarray) -> Seen:
    """Names what one body shows in a clip with frames at `times`."""
    side = min(body.cover.shape[1:])
    area = body.cover.sum(axis=(1, 2))
    radii = np.sqrt(area / math.pi)
    ys, xs = (np.arange(n) + 0.5 for n in body.cover.shape[1:])
    path = np.stack([body.cover.sum(axis=1) @ xs, body.cover.sum(axis=2) @ ys], axis=1) / area[:, None]
    seen_times = times[body.frames]

    shape, turn, likeness = shape_and_turn(patches_of(body.cover, path, radii), area / area.sum(), seen_times)
    way, travel = way_of(path / side, seen_times)
    growth = growth_of(radii, seen_times)
    strengths = {  # how much of what the world shows at least, or as a rule
        way: travel / 0.16,
        "growing" if growth > 1 else "shrinking": abs(math.log(growth)) / math.log(1.45 / 0.6),
        "spinning": abs(turn) / 0.25,
    }
    motion = max(strengths, key=strengths.__getitem__)
    if strengths[motion] < MIN_STRENGTH:
        motion = "still"
    return Seen(
        color=_color_name(body.color),
        shape=shape if likeness >= MIN_LIKENESS else OTHER,
        motion=motion if len(times) > 1 else "",
        center=(float(path[:, 0].mean() / side), float(path[:, 1].mean() / side)),
        radius=float(radii.mean() / side),
        travel=travel,
        growth=growth,
        turn=turn,
        likeness=likeness,
        presence=len(body.frames) / len(times),
    )


def _color_name(color: np.ndarray) -> str:
    """The nearest of `COLORS`, with brightness at half its weight: shading changes it more than the hue."""

    def apart(name: str) -> float:
        difference = color - np.array(COLORS[name])
        return float(np.abs(chroma_of(difference)) ** 2 + 3 * (difference.mean() / 2) ** 2)

    return min(COLORS, key=apart)
