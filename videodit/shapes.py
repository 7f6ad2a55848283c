"""A procedural world of moving shapes: facts -> clip and caption, without files.

A scene holds one or two things, each with a colour, a shape, a size and a motion, before one of four backgrounds.
Everything is drawn from a counter (seed, index), so clip number 7 of seed 0 is the same on every machine, and a
data set of any length needs no disk. All backgrounds are neutral grays and all things are saturated, so that a judge
can measure from pixels alone what a clip shows (`videodit.evaluation`).

A fixed tenth of the (colour, shape, motion) triples, `HELD_OUT`, is never drawn for training: a model that shows them
has composed facts, not remembered clips. What a shape cannot show (a spinning circle) does not occur.

Units: positions and radii are fractions of the frame's smaller side, time is seconds, angles are radians,
x runs right and y runs down.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np

from videodit.geometry import ClipSize

VERSION = 3  # of what is drawn: latents kept under another are encoded anew
COLORS: dict[str, tuple[int, int, int]] = {
    "red": (220, 25, 30),
    "orange": (245, 135, 15),
    "yellow": (240, 225, 30),
    "green": (25, 165, 55),
    "cyan": (35, 205, 220),
    "blue": (35, 65, 230),
    "purple": (140, 45, 190),
    "pink": (255, 135, 190),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "heart")
SIZES = {"small": 0.165, "large": 0.24}
MOTIONS: dict[str, tuple[str, ...]] = {
    "left": ("moving left", "moves to the left", "going left", "drifts to the left"),
    "right": ("moving right", "moves to the right", "going right", "drifts to the right"),
    "up": ("moving up", "moves upward", "going up", "rises"),
    "down": ("moving down", "moves downward", "going down", "falls"),
    "bouncing": ("bouncing", "bounces", "jumping up and down", "is bouncing"),
    "spinning": ("spinning", "spins", "rotating", "turns around itself"),
    "growing": ("growing", "grows", "getting bigger", "becomes larger"),
    "shrinking": ("shrinking", "shrinks", "getting smaller", "becomes smaller"),
    "circling": ("circling", "moves in a circle", "going around in a circle", "is circling"),
    "still": ("standing still", "stays still", "not moving", "is still"),
}
BACKGROUNDS = {"black": (12, 12), "white": (245, 245), "gray": (120, 120), "gradient": (30, 190)}  # gray at top, bottom
SIZE_WORDS = {"small": ("small", "little"), "large": ("large", "big")}


def can_show(shape: str, motion: str) -> bool:
    """Whether the motion is visible on the shape: a circle spins unseen."""
    return not (shape == "circle" and motion == "spinning")


def triples() -> list[tuple[str, str, str]]:
    """All (colour, shape, motion) that the world can show."""
    return [t for t in product(COLORS, SHAPES, MOTIONS) if can_show(t[1], t[2])]


def _held_out() -> frozenset[tuple[str, str, str]]:
    ranked = sorted(triples(), key=lambda t: zlib.crc32("|".join(t).encode()))
    return frozenset(ranked[: round(len(ranked) / 10)])


HELD_OUT = _held_out()


WEIGHTS = (0.001, 1000.0)  # of a word, against 1


def shares(drawn: list[tuple[str, str, str]], more: Mapping[str, float]) -> np.ndarray:
    """Of each of these triples by what share it is drawn: its words' weights, 1 where unnamed, multiplied, over all.

    Raises:
        ValueError: an unknown word, or a weight outside of `WEIGHTS`.
    """
    for word, weight in more.items():
        if word not in (*COLORS, *SHAPES, *MOTIONS):
            raise ValueError(f"{word!r} is none of {', '.join((*COLORS, *SHAPES, *MOTIONS))}")
        if not WEIGHTS[0] <= weight <= WEIGHTS[1]:
            raise ValueError(f"{word}: {weight:g} is no weight from {WEIGHTS[0]:g} to {WEIGHTS[1]:g}")
    weights = np.array([math.prod(more.get(word, 1.0) for word in triple) for triple in drawn])
    return weights / weights.sum()


@dataclass(frozen=True)
class Thing:
    """One object: a key of `COLORS`, `SHAPES`, `SIZES` and `MOTIONS` each."""

    color: str
    shape: str
    size: str
    motion: str

    @property
    def triple(self) -> tuple[str, str, str]:
        return self.color, self.shape, self.motion


@dataclass(frozen=True)
class Scene:
    """One or two things of different colours before a background (a key of `BACKGROUNDS`)."""

    things: tuple[Thing, ...]
    background: str


@dataclass(frozen=True)
class Sample:
    """A drawn clip: `frames` uint8 f h w c, its `captions` (several wordings of the same facts) and the facts."""

    frames: np.ndarray
    captions: tuple[str, ...]
    scene: Scene


def rng_for(*key: int) -> np.random.Generator:
    """A generator that depends on the key alone (counter-based: Philox over a hash of the key)."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


class ShapesWorld:
    """`world[index]` is a `Sample`: the clip, several captions, the facts. Infinite, seeded, stateless.

    With `held_out=True` every thing's triple is one of `HELD_OUT`; otherwise none is. `num_things` fixes their number
    (None: one or two, one twice as often). A size of one frame gives images, whose captions name no motion. Triples
    are drawn equally often, or by the weights that `more` gives their words (`shares`); a second thing of the first
    one's colour is drawn again.

    Raises:
        ValueError: `num_things` is none of those; `more` has an unknown word or a weight outside of `WEIGHTS`.
    """

    CAPTIONS = 4

    def __init__(
        self,
        size: ClipSize,
        *,
        seed: int = 0,
        held_out: bool = False,
        num_things: int | None = None,
        more: Mapping[str, float] | None = None,
    ):
        if num_things not in (None, 1, 2):
            raise ValueError(f"num_things={num_things} must be 1, 2 or None")
        self.size, self.seed, self.num_things = size, seed, num_things
        self.allowed = [t for t in triples() if (t in HELD_OUT) == held_out]
        self.shares = shares(self.allowed, more) if more else None

    def scene(self, index: int) -> Scene:
        """The facts of sample `index`."""
        rng = rng_for(self.seed, index, 0)
        count = self.num_things or (1 if rng.random() < 2 / 3 else 2)
        things: list[Thing] = []
        while len(things) < count:
            drawn = (
                rng.integers(len(self.allowed)) if self.shares is None else rng.choice(self.shares.size, p=self.shares)
            )
            color, shape, motion = self.allowed[drawn]
            if all(color != other.color for other in things):
                things.append(Thing(color, shape, str(rng.choice(list(SIZES))), motion))
        return Scene(tuple(things), str(rng.choice(list(BACKGROUNDS))))

    def captions(self, index: int) -> tuple[str, ...]:
        """`CAPTIONS` wordings of the facts of sample `index`."""
        scene, rng = self.scene(index), rng_for(self.seed, index, 1)
        return tuple(caption(scene, rng, image=self.size.num_frames == 1) for _ in range(self.CAPTIONS))

    def __getitem__(self, index: int) -> Sample:
        scene = self.scene(index)
        return Sample(render(scene, self.size, rng_for(self.seed, index, 2)), self.captions(index), scene)


def caption(scene: Scene, rng: np.random.Generator, *, image: bool = False) -> str:
    """One wording of the scene; size and background are sometimes left unsaid, colour, shape and motion never."""
    parts = []
    for thing in scene.things:
        size = f"{_pick(rng, SIZE_WORDS[thing.size])} " if rng.random() < 0.6 else ""
        motion = "" if image else f" {_pick(rng, MOTIONS[thing.motion])}"
        parts.append(_article(f"{size}{thing.color} {thing.shape}{motion}"))
    text = " and ".join(parts)
    if image:
        text = _pick(rng, ("{}", "a picture of {}", "an image of {}")).format(text)
    if rng.random() < 0.8:
        where = _pick(rng, ("on a {} background", "in front of a {} background", "over a {} background"))
        text += " " + where.format(scene.background)
    return text


def vocabulary_captions() -> Iterator[str]:
    """Captions that together hold every word of the world: what a tokenizer for it must know."""
    yield "a picture of an image of"
    yield " ".join((*COLORS, *SHAPES, *BACKGROUNDS, "and"))
    yield "on a background in front of a background over a background"
    yield from (w for words in (*MOTIONS.values(), *SIZE_WORDS.values()) for w in words)


def _pick(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[rng.integers(len(options))]


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


# --- drawing ---------------------------------------------------------------------------------------------------------


def background_pixels(name: str, height: int, width: int) -> np.ndarray:
    """The empty background: float h w c in [0, 255], neutral gray, running from its top value to its bottom value."""
    top, bottom = BACKGROUNDS[name]
    column = np.linspace(top, bottom, height, dtype=np.float64)
    return np.broadcast_to(column[:, None, None], (height, width, 3)).copy()


def render(scene: Scene, size: ClipSize, rng: np.random.Generator) -> np.ndarray:
    """Draws the scene: uint8 f h w c. `rng` places the things and picks speeds and phases.

    Each thing keeps to its own cell (the frame, or a half of it when there are two), so things never overlap, and
    never leaves it: for clips longer than its way, it goes slower.
    """
    side = min(size.height, size.width)
    cells = _cells(scene, size.width / side, size.height / side, rng)
    frames = np.repeat(background_pixels(scene.background, size.height, size.width)[None], size.num_frames, axis=0)
    times = np.arange(size.num_frames) / size.fps
    scale = 1.0 if len(scene.things) == 1 else 0.64
    for thing, cell in zip(scene.things, cells, strict=True):
        track = _track(thing, cell, scale * SIZES[thing.size], times, max(size.duration, 1e-9), rng)
        color = np.array(COLORS[thing.color], dtype=np.float64)
        for frame, (x, y, radius, angle) in zip(frames, track, strict=True):
            _paint(frame, polygon(thing.shape, angle) * radius * side + np.array([x, y]) * side, color)
    return np.rint(frames).astype(np.uint8)


def _cells(scene: Scene, width: float, height: float, rng: np.random.Generator) -> list[tuple[float, ...]]:
    """One (x0, y0, x1, y1) a thing; two things share the frame along the axis that leaves their motions most way."""
    if len(scene.things) == 1:
        return [(0.0, 0.0, width, height)]
    motions = {t.motion for t in scene.things}
    across, along = motions & {"left", "right"}, motions & {"up", "down", "bouncing"}
    stacked = bool(across) if bool(across) != bool(along) else rng.random() < 0.5
    cells: list[tuple[float, ...]]
    if stacked:
        cells = [(0.0, 0.0, width, height / 2), (0.0, height / 2, width, height)]
    else:
        cells = [(0.0, 0.0, width / 2, height), (width / 2, 0.0, width, height)]
    return cells if rng.random() < 0.5 else cells[::-1]


REACH = 1.2  # the farthest point of any shape from its centre, in radii


def _track(
    thing: Thing, cell: tuple[float, ...], radius: float, times: np.ndarray, duration: float, rng: np.random.Generator
) -> np.ndarray:
    """(x, y, radius, angle) of each frame: f 4. The thing stays inside its cell at all times."""
    low, high = np.array(cell[:2]), np.array(cell[2:])
    part = times / duration  # 0 .. 1 along the clip; a single frame is at 0
    radii = np.full_like(times, radius)
    if thing.motion in ("growing", "shrinking"):
        factor = np.linspace(0.6, 1.45, len(times)) if len(times) > 1 else np.ones(1)
        radii = radius * (factor if thing.motion == "growing" else factor[::-1])
    reach = REACH * radii.max()
    low, high = low + reach, np.maximum(high - reach, low + reach + 1e-6)
    room = high - low
    start = low + rng.random(2) * room
    speed, phase = rng.uniform(0.22, 0.32), rng.uniform(0, 2 * math.pi)
    offset = np.zeros((len(times), 2))
    angle = np.zeros_like(times)
    if thing.motion in ("left", "right", "up", "down"):
        axis = 0 if thing.motion in ("left", "right") else 1
        sign = -1 if thing.motion in ("left", "up") else 1
        way = min(speed * duration, room[axis])
        begin = low[axis] + rng.random() * (room[axis] - way) + (way if sign < 0 else 0)
        start[axis] = begin
        offset[:, axis] = sign * way * part
    elif thing.motion == "bouncing":
        height = min(0.25, room[1])
        start[1] = high[1] - rng.random() * (room[1] - height)
        beat = (0.75 * times + phase / (2 * math.pi)) % 1.0  # three bounces in four seconds, a parabola each
        offset[:, 1] = -height * 4 * beat * (1 - beat)
    elif thing.motion == "circling":
        orbit = min(0.16, *(room / 2))
        start = low + orbit + rng.random(2) * (room - 2 * orbit)
        turn = phase + 2 * math.pi * 0.5 * times  # half a turn a second
        offset = orbit * np.stack([np.cos(turn), np.sin(turn)], axis=1)
    elif thing.motion == "spinning":
        angle = phase + math.pi / 2 * times  # a quarter turn a second
    return np.concatenate([start + offset, radii[:, None], angle[:, None]], axis=1)


def polygon(shape: str, angle: float = 0.0) -> np.ndarray:
    """Corners of a shape of radius 1 around the origin, turned by `angle`: n 2, (x, y), y down."""
    if shape == "circle":
        ring = np.linspace(0, 2 * math.pi, 32, endpoint=False)
        points = 0.95 * np.stack([np.cos(ring), np.sin(ring)], axis=1)
    elif shape == "square":
        points = 0.82 * np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)], dtype=np.float64)
    elif shape == "triangle":
        points = _star_points(3, 1.2, 0.6)
    elif shape == "star":
        points = _star_points(5, 1.2, 0.5)
    elif shape == "cross":
        a, b = 1.05, 0.36
        points = np.array(
            [(-b, -a), (b, -a), (b, -b), (a, -b), (a, b), (b, b), (b, a), (-b, a), (-b, b), (-a, b), (-a, -b), (-b, -b)]
        )
    elif shape == "heart":
        u = np.linspace(0, 2 * math.pi, 36, endpoint=False)
        x = 16 * np.sin(u) ** 3
        y = 13 * np.cos(u) - 5 * np.cos(2 * u) - 2 * np.cos(3 * u) - np.cos(4 * u)
        points = np.stack([x, -(y + 2.5)], axis=1) / 15.5
    else:
        raise ValueError(f"shape {shape!r} is none of {', '.join(SHAPES)}")
    cos, sin = math.cos(angle), math.sin(angle)
    return points @ np.array([[cos, sin], [-sin, cos]])


def _star_points(arms: int, outer: float, inner: float) -> np.ndarray:
    angles = -math.pi / 2 + math.pi / arms * np.arange(2 * arms)
    radii = np.where(np.arange(2 * arms) % 2 == 0, outer, inner)
    return radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)


SAMPLES = 4  # sub-pixels a side
SOFT = 0.7  # deviation in pixels of the blur that a lens and a sensor put on every edge


def _paint(frame: np.ndarray, corners: np.ndarray, color: np.ndarray) -> None:
    """Blends a polygon (corners n 2 in pixels) into frame (h w c) by its softened coverage, in place."""
    height, width, _ = frame.shape
    margin = math.ceil(3 * SOFT) + 1
    x0, y0 = np.floor(corners.min(axis=0)).astype(int) - margin
    x1, y1 = np.ceil(corners.max(axis=0)).astype(int) + margin
    sub = (np.arange(SAMPLES) + 0.5) / SAMPLES
    xs = (np.arange(x0, x1)[:, None] + sub).reshape(-1)
    ys = (np.arange(y0, y1)[:, None] + sub).reshape(-1)
    inside = np.zeros((len(ys), len(xs)), dtype=bool)
    for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, axis=0), strict=True):  # even-odd rule, row by row
        rows = (ay > ys) != (by > ys)
        if rows.any():
            crossing = ax + (ys[rows] - ay) * (bx - ax) / (by - ay)
            inside[rows] ^= xs[None, :] < crossing[:, None]
    cover = inside.reshape(y1 - y0, SAMPLES, x1 - x0, SAMPLES).mean(axis=(1, 3))
    cover = _blur(y1 - y0) @ cover @ _blur(x1 - x0)
    left, top, right, bottom = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
    if left < right and top < bottom:
        patch = frame[top:bottom, left:right]
        patch += cover[top - y0 : bottom - y0, left - x0 : right - x0, None] * (color - patch)


@lru_cache
def _blur(length: int) -> np.ndarray:
    """A Gaussian of deviation `SOFT` as a symmetric matrix, length x length."""
    apart = np.arange(length)[:, None] - np.arange(length)[None]
    kernel = np.exp(-(np.arange(-length, length + 1) ** 2) / (2 * SOFT**2)).sum()
    return np.exp(-(apart**2) / (2 * SOFT**2)) / kernel
