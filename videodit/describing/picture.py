"""The stack as a picture: from the latent down to the prediction, a card a part, blocks that repeat drawn once."""

from __future__ import annotations

from videodit.describing.describe import Description, Part
from videodit.drawing import FAINT, line, polyline, rect, short, svg, text

AXES = {
    "space": ("#1f6feb", "#eaf2ff"),
    "time": ("#c4501b", "#fff1e8"),
    "joint": ("#7a4fd0", "#f3edff"),
    "window": ("#0f7b6c", "#e6f6f3"),
    "linear": ("#9a6700", "#fff8e5"),
}
ALONG = {
    "space": "the places of a frame",
    "time": "a place through time",
    "joint": "all places of all frames",
    "window": "places of frames near by",
    "linear": "a frame and all before it, as sums",
}
WIDTH, LEFT, CARD, SIDE = 900, 110, 440, 590  # of the picture, where cards begin, how wide they are, where bars begin
BAR = 130
TALL, LOW, GAP, PAD = 74, 30, 12, 14
ROUND = 'rx="8" '


def picture(model: Description) -> str:
    """The SVG: on the left how often a pattern repeats, on the right each card's share of weights and of compute."""
    parts: list[str] = [
        text(LEFT, 36, f"{model.name}, {short(model.weights)} weights", "title left"),
        text(LEFT, 56, model.heading, "small left"),
        text(LEFT, 73, f"{short(model.flops)} FLOP a call, {short(model.flops / model.tokens)} a token", "small left"),
        text(SIDE, 104, "share of weights", "small left"),
        text(SIDE + BAR + 24, 104, "share of compute", "small left"),
    ]
    y = 92.0
    channels, f, h, w = model.latent
    y = _end(parts, y, f"latent  {channels} x {f} x {h} x {w}")
    for times, group in model.runs:
        parts.append(_arrow(y, y + 2 * GAP))
        y += 2 * GAP
        top = y
        y += PAD if times > 1 else 0
        cards: list[str] = []
        for number, part in enumerate(group):
            if number:
                cards.append(_arrow(y, y + GAP))
                y += GAP
            cards += _card(model, part, y, times)
            y += TALL if part.dim else LOW
        if times > 1:
            y += PAD
            frame = f'{ROUND}stroke="#d0d7de" stroke-dasharray="5 4"'
            parts.append(rect(LEFT - PAD, top, CARD + 2 * PAD, y - top, "#f9fafb", frame))
            parts.append(text(LEFT - 2 * PAD, (top + y) / 2 + 7, f"{times} ×", "right", 'style="font-size: 20px"'))
        parts += cards
    parts.append(_arrow(y, y + 2 * GAP))
    y = _end(parts, y + 2 * GAP, "prediction")
    y = _legend(parts, y + 28, [axis for axis in AXES if any(part.axis == axis for part in model.parts)])
    return svg(WIDTH, y, parts)


def _end(parts: list[str], y: float, words: str) -> float:
    parts.append(rect(LEFT + CARD / 4, y, CARD / 2, LOW, "#24292f", 'rx="15"'))
    parts.append(text(LEFT + CARD / 2, y + 20, words, more='style="fill: white"'))
    return y + LOW


def _arrow(y1: float, y2: float) -> str:
    x = LEFT + CARD / 2
    return line(x, y1, x, y2 - 3, f'stroke="{FAINT}"') + polyline(
        [(x - 3.5, y2 - 6), (x, y2 - 1), (x + 3.5, y2 - 6)], f'stroke="{FAINT}"'
    )


def _card(model: Description, part: Part, y: float, times: int) -> list[str]:
    ink, fill = AXES.get(part.axis, (FAINT, "#f6f8fa"))
    height = TALL if part.dim else LOW
    parts = [rect(LEFT, y, CARD, height, fill, f'{ROUND}stroke="{ink}" stroke-opacity="0.45"')]
    if not part.dim:
        parts.append(text(LEFT + 16, y + 20, part.name, "left"))
        parts.append(text(LEFT + CARD - 16, y + 20, short(part.weights), "small right"))
        return parts + _bars(model, part, y + LOW / 2, times, FAINT)
    parts.append(rect(LEFT, y + 8, 4, TALL - 16, ink, 'rx="2"'))
    parts.append(text(LEFT + 16, y + 23, f"{part.axis} block", "left", f'style="font-weight: 600; fill: {ink}"'))
    sizes = f"width {part.dim}, {part.heads} heads, {short(part.weights)}"
    parts.append(text(LEFT + CARD - 16, y + 23, sizes, "small right"))
    reads = {"cross": ["cross-attention to the text"], "joint": []}.get(part.text, [])
    looks = f"self-attention along {part.axis}" if part.axis != "joint" else "self-attention, all to all"
    looks = "attention, the text beside it" if part.text == "joint" else looks
    x = LEFT + 16.0
    for chip in (looks, *reads, "MLP"):
        wide = 6.15 * len(chip) + 18
        parts.append(rect(x, y + 38, wide, 22, "white", f'rx="11" stroke="{ink}" stroke-opacity="0.35"'))
        parts.append(text(x + wide / 2, y + 53, chip, "small"))
        x += wide + 8
    return parts + _bars(model, part, y + TALL / 2, times, ink)


def _bars(model: Description, part: Part, y: float, times: int, colour: str) -> list[str]:
    parts = []
    for number, share in enumerate(model.shares(part)):
        x, whole = SIDE + number * (BAR + 24), times * share
        parts.append(rect(x, y - 4, BAR - 44, 8, "#eef0f3", 'rx="4"'))
        if whole > 0.004:
            parts.append(rect(x, y - 4, max(4.0, (BAR - 44) * whole), 8, colour, 'rx="4"'))
        parts.append(text(x + BAR - 38, y + 4, f"{100 * whole:.1f} %", "small left"))
    return parts


def _legend(parts: list[str], y: float, axes: list[str]) -> float:
    """What each axis is, as three frames of nine places, of which those are filled that one of them sees."""
    for axis in axes:
        ink = AXES[axis][0]
        for frame in range(3):
            for place in range(9):
                near = frame < 2 and place % 3 < 2 and place < 6
                seen = {"space": frame == 1, "time": place == 4, "window": near, "linear": frame < 2}.get(axis, True)
                x, top = LEFT + frame * 30 + place % 3 * 8, y + place // 3 * 8
                parts.append(rect(x, top, 7, 7, ink if seen else "#e4e7eb", 'rx="1.5"'))
        parts.append(text(LEFT + 104, y + 16, f"{axis}: looks along {ALONG[axis]}", "left"))
        y += 40
    return y + 4
