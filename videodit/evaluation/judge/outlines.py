"""Naming a shape: patches of equal area, against the world's own polygons of equal area at all angles.

A spin is a straight line through (time, angle), so shape and turning are fitted together over all frames.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from videodit.evaluation.judge.motions import OTHER
from videodit.shapes import SHAPES, polygon

MIN_TURN_GAIN = 0.002  # in correlation, that turning must explain beyond a fixed angle
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


def shape_and_turn(patches: np.ndarray, weights: np.ndarray, times: np.ndarray) -> tuple[str, float, float]:
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


def patches_of(cover: np.ndarray, path: np.ndarray, radii: np.ndarray) -> np.ndarray:
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
