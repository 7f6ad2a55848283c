"""Curves on two logarithmic axes, as an SVG: what a benchmark needs, and no library for it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 400, 70, 20, 40, 50
COLOURS = ("#1f6feb", "#d1495b", "#2e8b57", "#8a5cd1")


def loglog(title: str, x_label: str, y_label: str, xs: Sequence[float], curves: Mapping[str, Sequence[float]]) -> str:
    """The SVG: each curve has a value, above 0, for each of `xs`."""
    values = [value for curve in curves.values() for value in curve]
    decades = range(math.floor(math.log10(min(values))), math.ceil(math.log10(max(values))) + 1)
    x_span = math.log(max(xs) / min(xs))

    def x_of(x: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * math.log(x / min(xs)) / x_span

    def y_of(y: float) -> float:
        share = (math.log10(y) - decades[0]) / (decades[-1] - decades[0])
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share

    parts = [text(WIDTH / 2, 22, title), text(WIDTH / 2, HEIGHT - 12, x_label)]
    parts.append(text(0, 0, y_label, f'transform="translate(18 {HEIGHT / 2}) rotate(-90)"'))
    for x in xs:
        parts += [line(x_of(x), TOP, x_of(x), HEIGHT - BOTTOM), text(x_of(x), HEIGHT - BOTTOM + 18, f"{x:g}")]
    for decade in decades:
        y = y_of(10.0**decade)
        parts += [line(LEFT, y, WIDTH - RIGHT, y), text(LEFT - 24, y + 4, f"{10.0**decade:g}")]
    for number, (name, curve) in enumerate(curves.items()):
        colour = COLOURS[number % len(COLOURS)]
        points = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in zip(xs, curve, strict=True))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(text(LEFT + 12, TOP + 20 + 18 * number, name, f'style="fill: {colour}; text-anchor: start"'))
    style = "text { font: 13px sans-serif; text-anchor: middle; fill: #333 } line { stroke: #ddd }"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">'
    return "\n".join(
        [head, f"<style>{style}</style>", '<rect width="100%" height="100%" fill="white"/>', *parts, "</svg>\n"]
    )


def text(x: float, y: float, words: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {more}>{escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'
