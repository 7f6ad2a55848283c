"""Pictures as SVG: what this package needs of them, and no library for it. Numbers are pixels, y runs down."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

COLOURS = ("#1f6feb", "#d1495b", "#2e8b57", "#8a5cd1", "#c07a1a", "#0f8b8d")
INK, FAINT = "#24292f", "#57606a"
STYLE = (
    "text { font: 13px system-ui, -apple-system, 'Segoe UI', sans-serif; fill: #24292f; text-anchor: middle } "
    ".grid { stroke: #e4e7eb } .small { font-size: 11px; fill: #57606a } .title { font-size: 15px; font-weight: 600 } "
    ".left { text-anchor: start } .right { text-anchor: end }"
)
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 400, 70, 20, 40, 50


@dataclass(frozen=True)
class Curve:
    """Points above 0 on both axes. how: "line", "dots", or "dashes", of what was fitted. of: the number of the series,
    which chooses the colour; None: its place among the curves."""

    xs: Sequence[float] | np.ndarray
    ys: Sequence[float] | np.ndarray
    how: str = "line"
    of: int | None = None


def svg(width: float, height: float, parts: Sequence[str]) -> str:
    """A whole file, on white."""
    size = f'viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n<style>{STYLE}</style>'
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *parts, "</svg>\n"])


def text(x: float, y: float, words: str, kind: str = "", more: str = "") -> str:
    """Words with the middle of their line's foot at a point; kind: classes of `STYLE`."""
    kind = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{kind}{" " * bool(more)}{more}>{escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, more: str = 'class="grid"') -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" {more}/>'


def rect(x: float, y: float, width: float, height: float, fill: str, more: str = "") -> str:
    size = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f'<rect {size} fill="{fill}"{" " * bool(more)}{more}/>'


def polyline(points: Sequence[tuple[float, float]], more: str) -> str:
    """Straight lines from point to point."""
    return f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}" fill="none" {more}/>'


def loglog(
    title: str, x_label: str, y_label: str, curves: Mapping[str, Curve], ticks: Sequence[float] | None = None
) -> str:
    """Curves on two logarithmic axes.

    Args:
        curves: by name; names that begin with "_" are not told.
        ticks: of x; None: round numbers.

    Raises:
        ValueError: no point, or one that is not above 0.
    """
    xs = [x for curve in curves.values() for x in curve.xs]
    ys = [y for curve in curves.values() for y in curve.ys]
    if not xs or min(xs) <= 0 or min(ys) <= 0:
        raise ValueError("logarithmic axes need points, all above 0")
    x_low, x_high, x_ticks = _axis(xs, ticks)
    y_low, y_high, y_ticks = _axis(ys)

    def x_of(x: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * math.log(x / x_low) / math.log(x_high / x_low)

    def y_of(y: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * math.log(y / y_low) / math.log(y_high / y_low)

    parts = [text(WIDTH / 2, 24, title, "title"), text(WIDTH / 2, HEIGHT - 12, x_label)]
    parts.append(text(0, 0, y_label, more=f'transform="translate(18 {HEIGHT / 2}) rotate(-90)"'))
    for x in x_ticks:
        parts += [line(x_of(x), TOP, x_of(x), HEIGHT - BOTTOM), text(x_of(x), HEIGHT - BOTTOM + 18, short(x), "small")]
    for y in y_ticks:
        parts += [line(LEFT, y_of(y), WIDTH - RIGHT, y_of(y)), text(LEFT - 8, y_of(y) + 4, short(y), "small right")]
    told = 0
    for number, (name, curve) in enumerate(curves.items()):
        colour = COLOURS[(number if curve.of is None else curve.of) % len(COLOURS)]
        points = [(x_of(x), y_of(y)) for x, y in zip(curve.xs, curve.ys, strict=True)]
        if curve.how == "dots":
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.2" fill="{colour}" opacity="0.6"/>' for x, y in points]
        else:
            dashes = ' stroke-dasharray="5 4"' if curve.how == "dashes" else ""
            parts.append(polyline(points, f'stroke="{colour}" stroke-width="2"{dashes}'))
        if not name.startswith("_"):
            told += 1
            words = text(WIDTH - RIGHT - 8, TOP + 2 + 18 * told, name, "right", f'style="fill: {colour}"')
            parts.append(words)
    return svg(WIDTH, HEIGHT, parts)


def beside(pictures: Sequence[str]) -> str:
    """Several of `loglog` as one picture, from left to right."""
    if len(pictures) == 1:
        return pictures[0]
    placed = [one.replace("<svg ", f'<svg x="{number * WIDTH}" ', 1) for number, one in enumerate(pictures)]
    return svg(WIDTH * len(placed), HEIGHT, placed)


def _axis(values: Sequence[float], ticks: Sequence[float] | None = None) -> tuple[float, float, list[float]]:
    """From, to, and where lines stand: decades, with 2 and 5 between where there are few, more where all is near."""
    low, high = min(values), max(values)
    if ticks is not None:
        return min(low, *ticks), max(high, *ticks), list(ticks)
    for steps in ((1,), (1, 2, 5), tuple(range(1, 10)), tuple(n / 10 for n in range(10, 100))):
        decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
        marks = [step * 10.0**decade for decade in decades for step in steps]
        first = max((mark for mark in marks if mark <= low * (1 + 1e-9)), default=low)
        last = min((mark for mark in marks if mark >= high * (1 - 1e-9) and mark > first), default=high * 2)
        inside = [mark for mark in marks if first <= mark <= last]
        if len(inside) >= 4:
            break
    return first, last, inside[:: -(-len(inside) // 10)]


def short(number: float) -> str:
    """A number in few signs: 2.5k, 3.1M, 1.2G, 4T; powers of ten beyond."""
    if not 1e-3 <= abs(number) < 1e15:
        return "0" if not number else f"{number:.1e}".replace("e+", "e")
    for unit, name in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= 0.9995 * unit:
            return f"{number / unit:.3g}{name}"
    return f"{number:.3g}"
