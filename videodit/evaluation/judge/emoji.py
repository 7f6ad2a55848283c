"""The run over the world of emoji: is the nearest true clip the one asked for, and does it move as much as that does?

| kind       | what is asked                                           | right where the nearest true clip is          |
|------------|---------------------------------------------------------|-----------------------------------------------|
| `known`    | things as training shows them, with their tone of skin  | of that name and that tone                    |
| `tones`    | a person in the one tone that training never showed     | of that name and that tone                    |
| `grounds`  | a thing on a ground that training never laid it on      | of that name and tone; the ground is measured |
| `synonyms` | words that no caption contains (synonyms.jsonl)         | of one of the names that they mean            |
| `pairs`    | two things side by side                                 | in each half the one asked there              |

True clips are all that move: those of training, and the tones held out. `nearest` compares over grounds and phases.
A model that is given frames or told maps is given those of the true clip that is asked for, before the ground that is:
of the first three kinds, where there is one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from videodit.config.ground import parse_ground
from videodit.emoji.scenes import FRAMES
from videodit.emoji.things import GROUNDS, Thing, held_out, is_held_out, known
from videodit.evaluation.judge.world import Share
from videodit.evaluation.measure.nearest import TrueClip, TrueClips, in_halves
from videodit.video import read_clip

KINDS = ("known", "tones", "grounds", "synonyms", "pairs")
ONE_TRUE = KINDS[:3]
FPS = 8.0
FACTOR = 2.0  # by which a clip may move more or less than the true one
TEXT = "{caption} on a {ground} background"

# prompts and seeds, and where there are some the true clips -> clips; clips are uint8 b f h w c
Generate = Callable[..., np.ndarray]


@dataclass(frozen=True)
class Question:
    """A prompt, what may be the nearest true clip (captions; of two things left and right), and the ground asked."""

    kind: str
    prompt: str
    seed: int
    wanted: tuple[tuple[str, ...], ...]
    ground: str


@dataclass(frozen=True)
class Answer:
    """What came: the nearest true clips (captions), their distances, whether they are right, the nearest of `GROUNDS`,
    and how much it moves, over how much the true clip that was asked for does (one thing; else None)."""

    question: Question
    found: tuple[str, ...]
    distances: tuple[float, ...]
    right: bool
    ground: str
    motion: float | None

    @property
    def label(self) -> str:
        """For a contact sheet."""
        return f"{'right' if self.right else 'WRONG'}: {self.question.prompt} (nearest: {'; '.join(self.found)})"

    @property
    def moves(self) -> bool:
        return self.motion is not None and 1 / FACTOR <= self.motion <= FACTOR


@cache
def gallery() -> tuple[Thing, ...]:
    """Whose true clips a clip is compared with."""
    return tuple(thing for thing in (*known(), *held_out()) if thing.moves)


def load_gallery(*folders: Path) -> TrueClips:
    """The true clips of `gallery`.

    Args:
        folders: that `videodit make-emoji` wrote, with and without `--held-out`.

    Raises:
        ValueError: a clip is in none of them; VideoError: one cannot be read.
    """
    clips = []
    for thing in tqdm(gallery(), desc="reading true clips", dynamic_ncols=True):
        black, white = (_clip(_file(thing, folders), background=name) for name in ("black", "white"))
        clips.append(TrueClip(black[:-1], white[:-1]))
    return TrueClips(clips)


def true_clip(question: Question, folders: Sequence[Path], height: int, width: int) -> np.ndarray:
    """What a question of `ONE_TRUE` asks for, uint8 f h w 3, of art in these folders."""
    thing = next(one for one in gallery() if one.caption == question.wanted[0][0])
    return _clip(_file(thing, folders), background=question.ground, cover=(height, width))


def _clip(file: Path, **laid: Any) -> np.ndarray:
    return read_clip(file, FRAMES, FPS, slower="repeat", **laid)


def _file(thing: Thing, folders: Sequence[Path]) -> Path:
    file = next((file for folder in folders if (file := folder / "art" / f"{thing.code}.webp").is_file()), None)
    if file is None:
        where = " and ".join(map(str, folders))
        raise ValueError(f"art/{thing.code}.webp ({thing.caption}) is not in {where}: make them with make_emoji.py")
    return file


def questions(kind: str, count: int, seed: int = 0) -> list[Question]:
    """The first `count` of a kind (of `tones` and `synonyms` there are no more than 89 and 50), the same each time."""
    rng = np.random.default_rng((seed, KINDS.index(kind)))
    things = [thing for thing in known() if thing.moves]
    if kind == "tones":
        things = list(held_out())
    order = rng.permutation(len(things))
    drawn: list[tuple[str, tuple[tuple[str, ...], ...], str]] = []
    for number in range(count):
        if kind == "synonyms":
            rows = _synonyms()
            if number >= len(rows):
                break
            drawn.append((rows[number][0], (tuple(_captions_of(rows[number][1])),), _ground(rng, GROUNDS)))
            continue
        if kind == "pairs":
            left, right = (things[i] for i in rng.choice(len(things), 2, replace=False))
            ground = _ground(rng, [name for name in left.grounds if name in right.grounds])
            told = f"{left.caption} on the left and {right.caption} on the right"
            drawn.append((told, ((left.caption,), (right.caption,)), ground))
            continue
        if number >= len(things):
            break
        thing = things[order[number]]
        barred = [name for name in GROUNDS if is_held_out(thing.name, name)]
        if kind == "grounds" and not barred:
            continue
        ground = _ground(rng, barred if kind == "grounds" else thing.grounds)
        drawn.append((thing.caption, ((thing.caption,),), ground))
    return [
        Question(kind, TEXT.format(caption=text, ground=ground), seed * 1_000_000 + number, wanted, ground)
        for number, (text, wanted, ground) in enumerate(drawn)
    ]


def evaluate_emoji(
    generate: Generate,
    true: TrueClips,
    *,
    count: int,
    seed: int,
    batch_size: int,
    told: Callable[[Question], np.ndarray] | None = None,
) -> list[Answer]:
    """Answers to `count` questions of each kind; no clip depends on `batch_size`.

    Args:
        true: the clips of `gallery`, in its order.
        told: the true clip that `generate` gets with a question; those of `ONE_TRUE` alone are asked then.

    Raises:
        ValueError: `count` or `batch_size` is not positive, or `generate` gives something else than uint8 b f h w 3.
    """
    for name, value in (("prompts", count), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name}={value} must be 1 or more")
    asked = [question for kind in (ONE_TRUE if told else KINDS) for question in questions(kind, count, seed)]
    answers: list[Answer] = []
    with tqdm(total=len(asked), desc="clips", unit="clip", dynamic_ncols=True) as progress:
        for start in range(0, len(asked), batch_size):
            some = asked[start : start + batch_size]
            with_true = [np.stack([told(one) for one in some])] if told else []
            clips = generate([one.prompt for one in some], [one.seed for one in some], *with_true)
            answers += [answer(one, clip, true) for one, clip in zip(some, clips, strict=True)]
            progress.update(len(some))
    return answers


def answer(question: Question, clip: np.ndarray, true: TrueClips) -> Answer:
    """Of a clip, uint8 f h w c, whose last frame is its first again; `true` are the clips of `gallery`, in order."""
    loop = clip[:-1] if len(clip) > 1 else clip
    parts = in_halves(loop) if len(question.wanted) == 2 else (loop,)
    nearest = [true.nearest(part)[0] for part in parts]
    found = tuple(gallery()[near.index].caption for near in nearest)
    right = all(one in wanted for one, wanted in zip(found, question.wanted, strict=True))
    motion = None
    if len(parts) == 1 and len(question.wanted[0]) == 1:
        asked = [thing.caption for thing in gallery()].index(question.wanted[0][0])
        top, bottom = (tuple(level / 255 for level in color) for color in parse_ground(question.ground))
        motion = true.change(loop, asked, top, bottom)
    ground = nearest_ground(*true.ground(parts[0], nearest[0]))
    return Answer(question, found, tuple(near.distance for near in nearest), right, ground, motion)


def nearest_ground(top: np.ndarray, bottom: np.ndarray) -> str:
    """Which of `GROUNDS` has colours (0 to 1) nearest to these at the top and at the bottom."""
    known_ones = {name: np.array(parse_ground(name)) / 255 for name in GROUNDS}
    return min(known_ones, key=lambda name: float(np.square(known_ones[name] - np.stack([top, bottom])).sum()))


def summary(answers: Sequence[Answer]) -> dict[str, dict[str, dict[str, float | None]]]:
    """By kind the shares that are right: `nearest`, and where it is asked, `ground` and `motion`."""
    found: dict[str, dict[str, dict[str, float | None]]] = {}
    for kind in KINDS:
        mine = [one for one in answers if one.question.kind == kind]
        if not mine:
            continue
        found[kind] = {"nearest": Share(sum(one.right for one in mine), len(mine)).to_dict()}
        if kind == "grounds":
            found[kind]["ground"] = Share(sum(one.ground == one.question.ground for one in mine), len(mine)).to_dict()
        if moving := [one for one in mine if one.motion is not None]:
            found[kind]["motion"] = Share(sum(one.moves for one in moving), len(moving)).to_dict()
    return found


def to_text(answers: Sequence[Answer]) -> str:
    """A table of `summary`, in plain text, with 95 % intervals."""
    lines = [f"{'% right':10}{'prompts':>9}{'nearest':>22}{'ground':>22}{'motion':>22}"]
    for kind, shares in summary(answers).items():
        cells = [f"{_percent(shares[name]) if name in shares else '':>22}" for name in ("nearest", "ground", "motion")]
        lines.append(f"{kind:10}{shares['nearest']['n']:>9}" + "".join(cells))
    return "\n".join(lines)


def _percent(share: dict[str, float | None]) -> str:
    value, low, high = (100 * (share[name] or 0) for name in ("value", "low", "high"))
    return f"{value:.1f} ({low:.1f}-{high:.1f})"


def to_dict(answers: Sequence[Answer]) -> dict[str, object]:
    """Everything, as JSON knows it."""
    return {"shares": summary(answers), "rows": [asdict(one) | {"moves": one.moves} for one in answers]}


def _synonyms() -> list[tuple[str, list[str]]]:
    lines = files("videodit.emoji").joinpath("synonyms.jsonl").read_text(encoding="utf-8").splitlines()
    return [(row["prompt"], row["names"]) for row in map(json.loads, lines)]


def _captions_of(names: Sequence[str]) -> list[str]:
    return [thing.caption for thing in gallery() if thing.name in names]


def _ground(rng: np.random.Generator, names: Sequence[str]) -> str:
    return names[int(rng.integers(len(names)))]
