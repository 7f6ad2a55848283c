"""The run over the shapes world's held-out prompts: does a clip show what was asked?

Every prompt names only triples of colour, shape and motion that training never saw. The judge looks at each clip
without its prompt; its answer is then compared with the facts. Three rows stand side by side, over the same scenes:

- **model**: the clips that `generate` made;
- **judge**: the world's own true clips, so what a perfect model would score;
- **chance**: the true clips against the next scene's facts, so what a model deaf to its prompt would score.

A prompt with two things counts as right in a fact only when both things are.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from tqdm import tqdm

from videodit.evaluation.judge import OTHER, Seen, Verdict, compare, judge
from videodit.evaluation.measure.pixels import frame_consistency, motion_per_second
from videodit.evaluation.measure.worth import is_still
from videodit.evaluation.report.statistics import wilson
from videodit.geometry import ClipSize
from videodit.shapes import MOTIONS, SHAPES, Scene, ShapesWorld, caption, render, rng_for

FACTS = ("color", "shape", "motion", "alone", "all")  # alone: nothing besides what was asked; all: the other four
MISSING = "missing"  # in a confusion table: asked, and nothing seen for it

# prompts, seeds, and the scenes' own clips, to give frames of -> clips; clips are uint8 b f h w c
Generate = Callable[[list[str], list[int], np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Share:
    """`hits` of `total`, with the 95 % interval of Wilson (1927), which holds at 0 and 1 too."""

    hits: int
    total: int

    @property
    def value(self) -> float:
        return self.hits / self.total if self.total else math.nan  # of nothing, no share

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.value, self.total) if self.total else (0.0, 1.0)

    def to_dict(self) -> dict[str, float | None]:
        low, high = self.interval
        return {
            "value": self.value if self.total else None,
            "low": low,
            "high": high,
            "hits": self.hits,
            "n": self.total,
        }


@dataclass(frozen=True)
class Row:
    """One prompt: what was asked, what the judge saw, and its verdict on each thing asked (in the scene's order)."""

    prompt: str
    seed: int
    asked: Scene
    seen: list[Seen]
    verdicts: list[Verdict]
    consistency: float  # consecutive; 1 for an image
    motion: float  # luma a second; 0 for an image
    still: bool

    def right(self, fact: str) -> bool:
        """Whether every thing's `fact` (of `FACTS`) is as asked."""
        return all(getattr(verdict, fact) for verdict in self.verdicts)

    def seen_text(self) -> str:
        """What was seen, in a few words: "red circle left, blue star still"."""
        return ", ".join(f"{thing.color} {thing.shape} {thing.motion}".rstrip() for thing in self.seen) or "nothing"

    @property
    def label(self) -> str:
        """For a contact sheet."""
        return f"{'right' if self.right('all') else 'WRONG'}: {self.prompt} (seen: {self.seen_text()})"

    def to_dict(self) -> dict[str, object]:
        return {
            "prompt": self.prompt,
            "seed": self.seed,
            "asked": [asdict(thing) for thing in self.asked.things],
            "background": self.asked.background,
            "seen": [asdict(thing) for thing in self.seen],
            "verdicts": [{**asdict(verdict), "all": verdict.all} for verdict in self.verdicts],
            "consistency": self.consistency,
            "motion": self.motion,
        }


@dataclass(frozen=True)
class Results:
    """All rows of a run, and the rows of the world's own clips of the same scenes (`true`) and of chance."""

    model: list[Row]
    true: list[Row]
    chance: list[Row]
    size: ClipSize

    def shares(self, rows: list[Row], num_things: int) -> dict[str, Share]:
        """The share of prompts with `num_things` things that are right, for each of `FACTS`."""
        rows = [row for row in rows if len(row.asked.things) == num_things]
        return {fact: Share(sum(row.right(fact) for row in rows), len(rows)) for fact in FACTS}

    def confusion(self, fact: str) -> dict[str, dict[str, int]]:
        """Counts [asked][seen] of "shape" or "motion" over one-thing prompts; the largest thing seen answers."""
        names = {"shape": tuple(SHAPES), "motion": tuple(MOTIONS)}[fact]
        table = {asked: dict.fromkeys((*names, OTHER, MISSING), 0) for asked in names}
        for row in self.model:
            if len(row.asked.things) == 1:
                seen = getattr(row.seen[0], fact) if row.seen else MISSING
                if seen:  # an image shows no motion
                    table[getattr(row.asked.things[0], fact)][seen] += 1
        return table

    def to_dict(self) -> dict[str, object]:
        """Everything, as JSON knows it."""
        parts = {"model": self.model, "judge": self.true, "chance": self.chance}
        return {
            "size": asdict(self.size),
            "shares": {
                f"things_{count}": {
                    name: {fact: share.to_dict() for fact, share in self.shares(rows, count).items()}
                    for name, rows in parts.items()
                }
                for count in self._counts()
            },
            "consistency_consecutive": {
                "model": _mean(self.model, "consistency"),
                "true": _mean(self.true, "consistency"),
            },
            "motion_per_second": {"model": _mean(self.model, "motion"), "true": _mean(self.true, "motion")},
            "still_clips": {"model": _still(self.model), "true": _still(self.true)},
            "confusion_one_thing": {fact: self.confusion(fact) for fact in ("shape", "motion")},
            "rows": [row.to_dict() for row in self.model],
        }

    def to_json(self) -> str:
        """Everything, as JSON text."""
        return json.dumps(self.to_dict(), indent=1)

    def summary(self) -> str:
        """A table in plain text."""
        lines = []
        for count in self._counts():
            total = self.shares(self.model, count)["all"].total
            lines += [f"{total} held-out prompts of {count} thing{'s' * (count > 1)}, % right (95 % interval)"]
            lines += [f"{'':8}" + "".join(f"{fact:>20}" for fact in FACTS)]
            for name, rows in (("model", self.model), ("judge", self.true), ("chance", self.chance)):
                shares = self.shares(rows, count)
                lines += [f"{name:8}" + "".join(f"{_percent(shares[fact]):>20}" for fact in FACTS)]
            lines += [""]
        lines += [f"{'':8}{'consistency':>20}{'motion':>20}{'still clips':>20}   (consecutive frames; luma a second)"]
        for name, rows in (("model", self.model), ("true", self.true)):
            values = f"{_mean(rows, 'consistency'):>20.3f}{_mean(rows, 'motion'):>20.4f}{_still(rows):>20}"
            lines += [f"{name:8}{values}"]
        for fact in ("motion", "shape"):
            lines += ["", f"{fact} asked (rows) x seen (columns), one-thing prompts", *_table(self.confusion(fact))]
        return "\n".join(lines)

    def _counts(self) -> list[int]:
        return sorted({len(row.asked.things) for row in self.model})


def held_out_scenes(count: int, seed: int, num_things: int) -> list[Scene]:
    """The first `count` scenes of the held-out world of this seed."""
    world = ShapesWorld(ClipSize(1, 64, 64, 8.0), seed=seed, held_out=True, num_things=num_things)
    return [world.scene(index) for index in range(count)]


def prompt(scene: Scene, *, image: bool = False) -> str:
    """One wording of the scene, always the same for the same facts; an image's names no motion."""
    return caption(scene, rng_for(zlib.crc32(repr(scene).encode())), image=image)


def evaluate_world(generate: Generate, *, prompts: int, seed: int, batch_size: int, size: ClipSize) -> Results:
    """Judges clips of `prompts` one-thing and `prompts // 4` two-thing prompts, all held out.

    generate: takes prompts, as many seeds and true clips, gives uint8 b f h w c of `size`. Prompt number i has the seed
    `seed * 1_000_000 + i`, so no prompt's noise depends on `batch_size`.
    Raises ValueError when `prompts` or `batch_size` is not positive, or when the clips are not as described.
    """
    for name, value in (("prompts", prompts), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name}={value} must be 1 or more")
    scenes = held_out_scenes(prompts, seed, 1) + held_out_scenes(prompts // 4, seed, 2)
    seeds = [seed * 1_000_000 + index for index in range(len(scenes))]
    model: list[Row] = []
    true: list[Row] = []
    with tqdm(total=len(scenes), desc="clips", unit="clip") as progress:
        for start in range(0, len(scenes), batch_size):
            batch = list(zip(scenes[start : start + batch_size], seeds[start : start + batch_size], strict=True))
            own = np.stack([render(scene, size, rng_for(s)) for scene, s in batch])
            prompts_of = [prompt(scene, image=size.num_frames == 1) for scene, _ in batch]
            clips = generate(prompts_of, [s for _, s in batch], own.copy())
            _check(clips, len(batch), size)
            model += [_row(scene, s, frames, size) for (scene, s), frames in zip(batch, clips, strict=True)]
            true += [_row(scene, s, frames, size) for (scene, s), frames in zip(batch, own, strict=True)]
            progress.update(len(clips))
    return Results(model, true, _shuffled(true), size)


def _row(scene: Scene, seed: int, frames: np.ndarray, size: ClipSize) -> Row:
    seen = judge(frames, fps=size.fps)
    moving = size.num_frames > 1
    return Row(
        prompt=prompt(scene, image=not moving),
        seed=seed,
        asked=scene,
        seen=seen,
        verdicts=compare(seen, scene),
        consistency=float(frame_consistency(frames)) if moving else 1.0,
        motion=float(motion_per_second(frames, size.fps)) if moving else 0.0,
        still=moving and is_still(frames),
    )


def _check(clips: np.ndarray, count: int, size: ClipSize) -> None:
    wanted = (count, size.num_frames, size.height, size.width, 3)
    if clips.dtype != np.uint8 or clips.shape != wanted:
        raise ValueError(f"generate gave {clips.dtype} {clips.shape}; it must give uint8 {wanted}")


def _shuffled(rows: list[Row]) -> list[Row]:
    """Each row's clip against the facts of the next row with as many things; none where there is no other."""
    shuffled = []
    for count in sorted({len(row.asked.things) for row in rows}):
        same = [row for row in rows if len(row.asked.things) == count]
        if len(same) > 1:
            shuffled += [
                replace(row, prompt=other.prompt, asked=other.asked, verdicts=compare(row.seen, other.asked))
                for row, other in zip(same, same[1:] + same[:1], strict=True)
            ]
    return shuffled


def _mean(rows: Sequence[Row], name: str) -> float:
    return float(np.mean([getattr(row, name) for row in rows]))


def _still(rows: Sequence[Row]) -> int:
    return sum(row.still for row in rows)


def _percent(share: Share) -> str:
    if not share.total:
        return "-"
    low, high = share.interval
    return f"{100 * share.value:.1f} ({100 * low:.1f}-{100 * high:.1f})"


def _table(counts: dict[str, dict[str, int]]) -> list[str]:
    columns = list(next(iter(counts.values())))
    head = f"{'':10}" + "".join(f"{name:>10}" for name in columns)
    return [
        head,
        *(f"{asked:10}" + "".join(f"{row[name] or '.':>10}" for name in columns) for asked, row in counts.items()),
    ]
