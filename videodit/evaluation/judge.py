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
from functools import lru_cache
from itertools import permutations

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from videodit.evaluation.pixels import box_reduced
from videodit.shapes import COLORS, SHAPES, Scene, polygon

OTHER = "other"  # a shape or a motion that the world does not have

WORKING_SIDE = 64  # larger clips are box-reduced to at least this side
MIN_CHROMA = 40.0  # of 0..255; the world's palest thing has 85, its backgrounds 0
MIN_AREA = 0.0022  # of the smaller side squared; the world's smallest thing has 0.0054
MIN_PRESENCE = 0.5  # the part of the frames that a thing is seen in
MIN_LIKENESS = 0.85  # correlation with the best polygon, below which a shape is `OTHER`
MIN_EXPLAINED = 0.7  # part of a path's variance that its curve explains, below which a motion is `OTHER`
MIN_TURN_GAIN = 0.002  # in correlation, that turning must explain beyond a fixed angle
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
    bodies = sorted(_bodies(pixels), key=lambda body: -body.cover.sum())
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


# --- finding the things ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Body:
    """A thing followed through the frames it is seen in: indices k of frames, coverage in [0, 1] k h w, colour c."""

    frames: np.ndarray
    cover: np.ndarray
    color: np.ndarray


def _bodies(pixels: np.ndarray) -> list[_Body]:
    """All things of a clip (f h w c) that are large enough, and there for long enough."""
    background = _background(pixels)
    chroma = _box3(_chroma(pixels))
    saturation = np.abs(chroma)
    saturated = saturation > MIN_CHROMA
    hues = _hues(chroma[saturated])
    if not len(hues):
        return []
    nearest = np.argmax((chroma[..., None] * np.conj(hues)).real, axis=-1)
    colors = [_core_color(pixels, np.where(saturated & (nearest == i), saturation, 0)) for i in range(len(hues))]
    covers = [_cover(pixels, background, color) for color in colors]
    inside = saturated & (np.choose(nearest, covers) > 0.5)
    hue = _absorbed(np.where(inside, nearest, -1), len(hues))
    min_area = MIN_AREA * min(pixels.shape[1:3]) ** 2
    found = []
    for index, (color, cover) in enumerate(zip(colors, covers, strict=True)):
        solid = hue == index
        labels = np.where(solid, _components(_dilated(solid, 1)), 0)  # crumbs within two pixels belong together
        for frames, parts in _tracks(labels, min_area):
            if len(frames) >= MIN_PRESENCE * len(pixels):
                own = np.stack([labels[f] == part for f, part in zip(frames, parts, strict=True)])
                others = (saturated & (nearest != index) | solid)[frames] & ~own
                found.append(_Body(np.array(frames), np.where(_dilated(own, 3) & ~others, cover[frames], 0), color))
    return found


def _cover(pixels: np.ndarray, background: np.ndarray, color: np.ndarray) -> np.ndarray:
    """How far each pixel is on its way from the background to the colour: f h w, 0 to a little over 1."""
    contrast = color - background
    return np.clip(((pixels - background) * contrast).sum(axis=-1) / (contrast**2).sum(axis=-1), 0, 1.25)


def _absorbed(hue: np.ndarray, hues: int) -> np.ndarray:
    """Hue numbers (f h w, -1 is none), where a patch that is under a third of its region takes the region's hue."""
    regions = _components(hue >= 0)
    counts = np.bincount((regions * hues + hue)[hue >= 0], minlength=(regions.max() + 1) * hues).reshape(-1, hues)
    small = counts * 3 < counts.sum(axis=1, keepdims=True)
    return np.where((hue >= 0) & small[regions, hue], counts.argmax(axis=1)[regions], hue)


def _background(pixels: np.ndarray) -> np.ndarray:
    """The background of a clip (f h w c), one value a row: h 1 c. The median of the row's unsaturated pixels."""
    plain = _dilated(np.abs(_box3(_chroma(pixels))) > MIN_CHROMA / 2, 1)
    rows = np.where(plain[..., None], np.nan, pixels)
    rows = rows.transpose(1, 0, 2, 3).reshape(pixels.shape[1], -1, 3)
    known = ~np.isnan(rows[..., 0]).all(axis=1)
    if not known.any():
        return np.full((len(rows), 1, 3), np.median(pixels))
    values = np.nanmedian(rows[known], axis=1)
    at = np.arange(len(rows))
    return np.stack([np.interp(at, at[known], channel) for channel in values.T], axis=-1)[:, None]


def _chroma(pixels: np.ndarray) -> np.ndarray:
    """The part of a colour (... c) that is not gray, as a complex number: the hue is its angle."""
    red, green, blue = np.moveaxis(pixels, -1, 0)
    return (2 * red - green - blue) / math.sqrt(6) + 1j * (green - blue) / math.sqrt(2)


def _hues(chroma: np.ndarray, bins: int = 72, apart: float = math.radians(18)) -> np.ndarray:
    """The hues that stand out among saturated pixels (complex k), as complex numbers of length 1, strongest first.

    Coverage by a hue over a neutral background changes the chroma's length, never its angle.
    """
    if not len(chroma):
        return np.zeros(0, dtype=complex)
    step = 2 * math.pi / bins
    histogram = np.bincount(np.rint(np.angle(chroma) / step).astype(int) % bins, np.abs(chroma), bins)
    smooth = np.convolve(np.pad(histogram, 2, mode="wrap"), np.array([1, 4, 6, 4, 1]) / 16, mode="valid")
    peaks = np.flatnonzero((smooth >= np.roll(smooth, 1)) & (smooth > np.roll(smooth, -1)))
    chosen: list[int] = []
    for peak in peaks[np.argsort(-smooth[peaks])]:
        gaps = [abs((peak - other + bins / 2) % bins - bins / 2) * step for other in chosen]
        if smooth[peak] > 0.02 * smooth.max() and all(gap > apart for gap in gaps):
            chosen.append(peak)
    return np.exp(1j * step * np.array(chosen))


def _core_color(pixels: np.ndarray, saturation: np.ndarray) -> np.ndarray:
    """The colour well inside a thing: the median of its most saturated pixels."""
    flat = saturation.reshape(-1)
    inside = flat > 0
    core = flat >= np.quantile(flat[inside], 0.8)
    return np.median(pixels.reshape(-1, 3)[core & inside], axis=0)


def _tracks(labels: np.ndarray, min_area: float) -> list[tuple[list[int], list[int]]]:
    """Follows components (labels f h w, 0 is none) to the nearest of the next frame: (frames, labels) of each track."""
    tracks: list[tuple[list[int], list[int]]] = []
    heads: list[np.ndarray] = []  # where each track was last seen
    for frame, image in enumerate(labels):
        areas = np.bincount(image.reshape(-1))
        areas[0] = 0
        parts = np.flatnonzero(areas >= min_area)
        places = [np.argwhere(image == part).mean(axis=0) for part in parts]
        pairs = sorted(
            (float(np.linalg.norm(head - place)), t, p)
            for t, head in enumerate(heads)
            for p, place in enumerate(places)
        )
        taken_tracks: set[int] = set()
        taken_parts: set[int] = set()
        for _, t, p in pairs:
            if t not in taken_tracks and p not in taken_parts:
                taken_tracks.add(t)
                taken_parts.add(p)
                tracks[t][0].append(frame)
                tracks[t][1].append(int(parts[p]))
                heads[t] = places[p]
        for p in set(range(len(parts))) - taken_parts:
            tracks.append(([frame], [int(parts[p])]))
            heads.append(places[p])
    return tracks


def _components(mask: np.ndarray) -> np.ndarray:
    """Connected components of each frame (mask f h w), by 4 neighbours: labels from 1, unique over frames; 0 outside.

    Every pixel takes the largest number among itself and its neighbours, and then that of the pixel it names, until
    nothing changes: the number of rounds grows with the logarithm of a component's length.
    """
    labels = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    while True:
        padded = np.pad(labels, ((0, 0), (1, 1), (1, 1)))
        up, down = padded[:, :-2, 1:-1], padded[:, 2:, 1:-1]
        left, right = padded[:, 1:-1, :-2], padded[:, 1:-1, 2:]
        best = np.where(mask, np.maximum.reduce([labels, up, down, left, right]), 0)
        best = np.where(mask, best.reshape(-1)[best - 1], 0)
        if np.array_equal(best, labels):
            break
        labels = best
    labels[mask] = np.unique(labels[mask], return_inverse=True)[1] + 1
    return labels


def _box3(images: np.ndarray) -> np.ndarray:
    """The mean over 3 x 3 pixels of each frame (f h w), with repeated edges."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)), mode="edge")
    rows = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    return (rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]) / 9


def _dilated(mask: np.ndarray, steps: int) -> np.ndarray:
    """The mask (f h w) grown by `steps` pixels in all eight directions."""
    for _ in range(steps):
        mask = _box3(mask.astype(np.float32)) > 0.05
    return mask


# --- looking at one thing --------------------------------------------------------------------------------------------


def _see(body: _Body, times: np.ndarray) -> Seen:
    """Names what one body shows in a clip with frames at `times`."""
    side = min(body.cover.shape[1:])
    area = body.cover.sum(axis=(1, 2))
    radii = np.sqrt(area / math.pi)
    ys, xs = (np.arange(n) + 0.5 for n in body.cover.shape[1:])
    path = np.stack([body.cover.sum(axis=1) @ xs, body.cover.sum(axis=2) @ ys], axis=1) / area[:, None]
    seen_times = times[body.frames]

    shape, turn, likeness = _shape_and_turn(_patches(body.cover, path, radii), area / area.sum(), seen_times)
    way, travel = _way(path / side, seen_times)
    growth = _growth(radii, seen_times)
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
        return float(np.abs(_chroma(difference)) ** 2 + 3 * (difference.mean() / 2) ** 2)

    return min(COLORS, key=apart)


def _growth(radii: np.ndarray, times: np.ndarray) -> float:
    """Last radius over first, of the line fitted to the logarithm of the radii."""
    if len(times) < 2:
        return 1.0
    slope = np.polyfit(times, np.log(radii), 1)[0]
    return float(np.exp(slope * (times[-1] - times[0])))


# Paths: each motion's own curve, fitted to the path (f 2) by least squares.


def _way(path: np.ndarray, times: np.ndarray) -> tuple[str, float]:
    """The motion whose curve explains the path best, and the extent of that curve on its longer axis.

    Three frames at least; of fewer, and of a path that no curve explains, the motion is `OTHER`.
    """
    variance = ((path - path.mean(axis=0)) ** 2).mean()
    if len(times) < 3 or variance == 0:
        return OTHER, 0.0
    curves = {"line": _line(path, times), "bouncing": _bounce(path, times), "circling": _circle(path, times)}
    errors = {name: ((path - curve) ** 2).mean() for name, curve in curves.items()}
    best = min(errors, key=errors.__getitem__)
    curve = curves[best]
    travel = float(np.ptp(curve, axis=0).max())
    if errors[best] > (1 - MIN_EXPLAINED) * variance:
        return OTHER, float(math.sqrt(8) * path.std(axis=0).max())  # the extent of a swing that spreads as much
    if best == "line":
        dx, dy = curve[-1] - curve[0]
        best = ("left" if dx < 0 else "right") if abs(dx) >= abs(dy) else ("up" if dy < 0 else "down")
    return best, travel


def _line(path: np.ndarray, times: np.ndarray) -> np.ndarray:
    """A straight way at an even speed."""
    return _fitted(path, np.stack([np.ones_like(times), times], axis=1))


def _bounce(path: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Upright parabolas one after another, about one a second, on the spot."""
    rates, phases = np.arange(0.8, 1.3, 0.1), np.arange(0, 1, 1 / 24)
    beat = (rates[:, None, None] * times + phases[:, None]).reshape(-1, len(times)) % 1.0
    jumps = 4 * beat * (1 - beat)
    jumps -= jumps.mean(axis=1, keepdims=True)
    x, y = path.mean(axis=0)
    along = np.minimum(jumps @ (path[:, 1] - y), 0)  # up is against y
    power = np.maximum((jumps**2).sum(axis=1), 1e-9)
    best = np.argmax(along**2 / power)
    return np.stack([np.full_like(times, x), y + along[best] / power[best] * jumps[best]], axis=1)


def _circle(path: np.ndarray, times: np.ndarray) -> np.ndarray:
    """A circle at an even pace, about half a turn a second, either way around."""
    # p(t) = center + orbit exp(i w t) as complex numbers: linear in center and orbit
    z = path[:, 0] + 1j * path[:, 1]
    turns = [sign * rate for rate in np.arange(0.3, 0.75, 0.05) for sign in (-1, 1)]
    curves = [_fitted(z, np.stack([np.ones_like(times), np.exp(2j * math.pi * t * times)], axis=1)) for t in turns]
    best = min(curves, key=lambda curve: float((np.abs(z - curve) ** 2).mean()))
    return np.stack([best.real, best.imag], axis=1)


def _fitted(values: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """The combination of the basis (f n) nearest to the values (f ...)."""
    return basis @ np.linalg.lstsq(basis.astype(values.dtype), values, rcond=None)[0]


# Shapes: patches of equal area, against polygons of equal area.

GRID = 28  # points a side of a patch
SPAN = 1.9  # half a patch, in radii of the disk of equal area; the farthest corner lies at 1.61
ANGLE_STEP = math.radians(5)
BLURS = (0.06, 0.12, 0.2, 0.3)  # sigma in radii of the disk of equal area
SYMMETRY = {
    "circle": 72,
    "square": 4,
    "triangle": 3,
    "star": 5,
    "cross": 4,
    "heart": 1,
}  # turns by 2 pi / n show nothing
TURNS = np.concatenate([[0.0], *([-t, t] for t in np.arange(0.1, 0.65, 0.025))])  # turns a second


def _shape_and_turn(patches: np.ndarray, weights: np.ndarray, times: np.ndarray) -> tuple[str, float, float]:
    """The shape and its turns a second that together explain all patches best, and their mean correlation.

    weights: of each patch, of sum 1: a larger view shows more of a shape.
    """
    best: tuple[str, float, float] = (OTHER, 0.0, -1.0)
    for shape in SHAPES:
        likeness = np.einsum("kp,bap->bka", patches, _templates(shape), optimize=True)
        angles = likeness.shape[-1]
        turns = TURNS if angles > 1 and len(times) > 1 else np.zeros(1)
        steps = np.rint(turns[:, None] * times * SYMMETRY[shape] * angles).astype(int)  # of the angles
        at = (steps[:, None, :] + np.arange(angles)[:, None]) % angles  # turns, first angle, k
        score = (likeness[:, np.arange(len(times)), at] @ weights).max(axis=(0, 2))  # a turn's
        score[1:] -= MIN_TURN_GAIN
        i = int(np.argmax(score))
        if score[i] > best[2]:
            best = shape, float(turns[i]), float(score[i])
    return best


def _patches(cover: np.ndarray, path: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """The coverage (k h w) around each centre on a grid of `SPAN` radii: k (rows columns), centred, of norm 1."""
    line = (np.arange(GRID) + 0.5) / GRID * 2 * SPAN - SPAN
    padded = np.pad(cover, ((0, 0), (1, 1), (1, 1)))
    patches = []
    for image, (x, y), radius in zip(padded, path, radii, strict=True):
        rows = _between(y + radius * line + 0.5, len(image))
        columns = _between(x + radius * line + 0.5, image.shape[1])
        patches.append(rows @ image @ columns.T)
    return _unit(np.stack(patches))


def _between(at: np.ndarray, size: int) -> np.ndarray:
    """Weights (points, size) that interpolate linearly between pixels at the positions `at`, held at the edges."""
    at = np.clip(at, 0, size - 1)
    return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(size)))


@lru_cache
def _templates(shape: str) -> np.ndarray:
    """The world's polygon on the same grid: blurs, angles (within its symmetry), (rows columns), centred, of norm 1."""
    count = max(1, round(2 * math.pi / SYMMETRY[shape] / ANGLE_STEP))
    fine = 8 * GRID  # rows and columns before averaging
    blurs = []
    for sigma in BLURS:
        row = []
        for angle in np.arange(count) * 2 * math.pi / SYMMETRY[shape] / count:
            corners = polygon(shape, angle)
            center, area = _centroid(corners)
            corners = (corners - center) / math.sqrt(area / math.pi)
            image = Image.new("L", (fine, fine))
            pixels = (corners / SPAN + 1) * fine / 2 - 0.5
            ImageDraw.Draw(image).polygon([(float(x), float(y)) for x, y in pixels], fill=255)
            image = image.filter(ImageFilter.GaussianBlur(sigma * fine / (2 * SPAN)))
            row.append(np.asarray(image.reduce(8), dtype=np.float64))
        blurs.append(_unit(np.stack(row)))
    return np.stack(blurs)


def _centroid(corners: np.ndarray) -> tuple[np.ndarray, float]:
    """Centroid and area of a polygon (n 2), by the shoelace formula."""
    following = np.roll(corners, -1, axis=0)
    cross = corners[:, 0] * following[:, 1] - following[:, 0] * corners[:, 1]
    return ((corners + following) * cross[:, None]).sum(axis=0) / (3 * cross.sum()), abs(float(cross.sum())) / 2


def _unit(patches: np.ndarray) -> np.ndarray:
    """Patches (k h w) as k (h w), each with mean 0 and norm 1."""
    flat = patches.reshape(len(patches), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-9)
