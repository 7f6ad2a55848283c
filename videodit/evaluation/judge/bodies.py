"""Finding the things of a clip: things are saturated and backgrounds are neutral, so chroma finds them.

Each is followed through the frames. Axes: f frames, h w rows and columns, c channels, k frames that a thing is seen in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

MIN_CHROMA = 40.0  # of 0..255; the world's palest thing has 85, its backgrounds 0
MIN_AREA = 0.0022  # of the smaller side squared; the world's smallest thing has 0.0054
MIN_PRESENCE = 0.5  # the part of the frames that a thing is seen in


@dataclass(frozen=True)
class Body:
    """A thing followed through the frames it is seen in: indices k of frames, coverage in [0, 1] k h w, colour c."""

    frames: np.ndarray
    cover: np.ndarray
    color: np.ndarray


def bodies_of(pixels: np.ndarray) -> list[Body]:
    """All things of a clip (f h w c) that are large enough, and there for long enough."""
    background = _background(pixels)
    chroma = _box3(chroma_of(pixels))
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
                found.append(Body(np.array(frames), np.where(_dilated(own, 3) & ~others, cover[frames], 0), color))
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
    plain = _dilated(np.abs(_box3(chroma_of(pixels))) > MIN_CHROMA / 2, 1)
    rows = np.where(plain[..., None], np.nan, pixels)
    rows = rows.transpose(1, 0, 2, 3).reshape(pixels.shape[1], -1, 3)
    known = ~np.isnan(rows[..., 0]).all(axis=1)
    if not known.any():
        return np.full((len(rows), 1, 3), np.median(pixels))
    values = np.nanmedian(rows[known], axis=1)
    at = np.arange(len(rows))
    return np.stack([np.interp(at, at[known], channel) for channel in values.T], axis=-1)[:, None]


def chroma_of(pixels: np.ndarray) -> np.ndarray:
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
