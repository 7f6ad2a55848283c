"""Naming a motion: each motion's own curve is fitted to the path (f 2) by least squares.

Lengths are fractions of the frame's smaller side, time is seconds, x runs right and y runs down.
"""

from __future__ import annotations

import math

import numpy as np

OTHER = "other"  # a shape or a motion that the world does not have
MIN_EXPLAINED = 0.7  # part of a path's variance that its curve explains, below which a motion is `OTHER`


def way_of(path: np.ndarray, times: np.ndarray) -> tuple[str, float]:
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


def growth_of(radii: np.ndarray, times: np.ndarray) -> float:
    """Last radius over first, of the line fitted to the logarithm of the radii."""
    if len(times) < 2:
        return 1.0
    slope = np.polyfit(times, np.log(radii), 1)[0]
    return float(np.exp(slope * (times[-1] - times[0])))
