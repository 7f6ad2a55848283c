"""A fair contest: whoever is compared takes turns on the same inputs, in one run. Needs no torch, as reading videos."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tqdm import tqdm


class Disagreement(Exception):
    """Two that should compute the same do not, so that no time of theirs means anything."""

    status = 1  # of the command


def take_turns(
    ways: Mapping[str, Callable[..., Any]],
    rounds: int,
    *,
    seconds: float = 0.0,
    draw: Callable[[], tuple[Any, ...]] = tuple,
    warm: bool = False,
    title: str = "",
) -> dict[str, list[float]]:
    """Seconds that each way takes, by rounds; another begins each round, so that a busy machine slows all alike.

    Args:
        ways: each is called with what `draw` gives, the same in a round.
        rounds: at least so many; and more until `seconds` have gone by.
        warm: all were called before; else each is called once, for nothing.
    """
    names = list(ways)
    took: dict[str, list[float]] = {name: [] for name in names}
    for way in () if warm else ways.values():
        way(*draw())
    began, number = time.perf_counter(), 0
    with tqdm(total=rounds, desc=title, leave=False) as bar:
        while number < rounds or time.perf_counter() - began < seconds:
            inputs, first = draw(), number % len(names)
            for name in names[first:] + names[:first]:
                start = clock()
                ways[name](*inputs)
                took[name].append(clock() - start)
            number += 1
            bar.update()
    return took


def clock() -> float:
    """Seconds, read when all is done that was begun on a GPU."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


def rows(took: Mapping[str, Sequence[float]], against: Sequence[str]) -> list[dict[str, Any]]:
    """For each way its median, lowest and highest time, and its ratio to some of them: the median over rounds."""
    return [
        {
            "name": name,
            "seconds": list(each),
            "median": statistics.median(each),
            "low": min(each),
            "high": max(each),
            "ratios": {other: ratio(each, took[other]) for other in against},
        }
        for name, each in took.items()
    ]


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median over rounds of the ratio in a round."""
    return statistics.median(mine / other for mine, other in zip(ours, theirs, strict=True))


def print_rows(
    title: str, found: Sequence[Mapping[str, Any]], notes: Mapping[str, Callable[[Any], str]] | None = None
) -> None:
    """A table of `rows`; `notes` are further columns: heading, and what stands there for a row."""
    against, notes = list(found[0]["ratios"]), notes or {}
    headings = [*(f"× {other}" for other in against), *notes]
    print(f"\n{title} (rounds: {len(found[0]['seconds'])})")
    print(f"  {'':30}{'median s':>10}{'(low to high)':>24}" + "".join(f"{heading:>16}" for heading in headings))
    for row in found:
        spread = f" ({row['low']:.4g} to {row['high']:.4g})"
        cells = [*(f"{row['ratios'][other]:.3f}" for other in against), *(note(row) for note in notes.values())]
        print(f"  {row['name']:30}{row['median']:10.4g}{spread:>24}" + "".join(f"{cell:>16}" for cell in cells))
