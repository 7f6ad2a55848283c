"""The things of the world of emoji: names, tones of skin, keywords; and which of them training never sees.

Three rules hold things out for good. Of every third family of a person in five tones of skin one tone has no line in
names.jsonl: the person is known, the tone is known, together they are for testing. And no thing stands before a ground
where crc32("name|ground") is a multiple of 8.
"""

from __future__ import annotations

import json
import re
import zlib
from collections import defaultdict
from dataclasses import dataclass, replace
from importlib.resources import files

TONES = {"1f3fb": "light", "1f3fc": "medium-light", "1f3fd": "medium", "1f3fe": "medium-dark", "1f3ff": "dark"}
COLORS = ("white", "black", "gray", "red", "orange", "yellow", "green", "blue", "purple", "pink")
FLAT = re.compile(r"\w+ (circle|square|triangle|star|cross|heart)")
GROUNDS = (*COLORS, "white to blue", "yellow to orange", "pink to purple", "blue to black")
"""Ten colours, and gradients from top to bottom, as `config.ground` reads them."""


@dataclass(frozen=True)
class Thing:
    """One emoji: its Unicode sequence without fe0f, its name, a tone of skin or None, whether its art moves."""

    code: str
    name: str
    tone: str | None
    moves: bool
    keywords: tuple[str, ...]

    @property
    def caption(self) -> str:
        """Its name, with its tone; what the world of moving shapes has too (`red circle`) says that it is an emoji."""
        name = f"{self.name} emoji" if FLAT.fullmatch(self.name) else self.name
        return name if self.tone is None else f"{name}, {self.tone} skin"

    @property
    def grounds(self) -> tuple[str, ...]:
        """Those of `GROUNDS` that training may show it on."""
        return tuple(ground for ground in GROUNDS if not is_held_out(self.name, ground))


def is_held_out(name: str, ground: str) -> bool:
    """Whether training never shows this name on this ground."""
    return zlib.crc32(f"{name}|{ground}".encode()) % 8 == 0


def known() -> tuple[Thing, ...]:
    """What training may show, by code."""
    lines = files("videodit.emoji").joinpath("names.jsonl").read_text(encoding="utf-8").splitlines()
    rows = (json.loads(line) for line in lines)
    return tuple(Thing(**row | {"keywords": tuple(row["keywords"])}) for row in rows)


def held_out() -> tuple[Thing, ...]:
    """The fifth tone of each family of which `known` has four, by code."""
    families: dict[str, dict[str, Thing]] = defaultdict(dict)
    for thing in known():
        if thing.tone:
            modifier = next(part for part in thing.code.split("-") if part in TONES)
            families[thing.code.replace(modifier, "*")][modifier] = thing
    missing = [
        replace(next(iter(tones.values())), code=family.replace("*", modifier), tone=tone)
        for family, tones in families.items()
        for modifier, tone in TONES.items()
        if len(tones) == len(TONES) - 1 and modifier not in tones
    ]
    return tuple(sorted(missing, key=lambda thing: thing.code))
