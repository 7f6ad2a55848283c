"""The set of files that a model of emoji is trained on: transparent clips and images, and a manifest.

    clips.jsonl      a row each: file_name, caption (several wordings), names, motion, grounds (what it may stand on)
    living.jsonl     of these rows the ones of things that move, people in tones as they are, see `is_living`; those of
                     things without tones stand there `OFTEN` times, for of a person there are six, which are alike
    codec.jsonl      of these rows the ones to train a VAE on: without a twentieth of the names
    codec_test.jsonl the rows of these names, as they are, to measure it on
    art/             lossless WebP with transparency, 64x64 pixels, 8 frames a second
    LICENSE.txt      of the art

All known things stand there once as they are; each once more drifting, growing, shrinking or turning; and so many
pairs. What is drawn follows from the seed, so that the manifest is the same everywhere: `digest` names it.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections import defaultdict
from collections.abc import Sequence, Set
from importlib.resources import files
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from videodit.disk import replace_text, whole, writing
from videodit.emoji.art import read
from videodit.emoji.scenes import MOTIONS, Scene, captions, render
from videodit.emoji.things import Thing, held_out, known

MANIFEST = "clips.jsonl"
OFTEN = 3
LIVING, CODEC, CODEC_TEST, CODEC_SHARE = "living.jsonl", "codec.jsonl", "codec_test.jsonl", 20
FPS = 8
SHARED_BY = 2  # names at most that a keyword may have in common to stand for each of them
SYNONYMS = 4


def training_scenes(pairs: int, seed: int) -> list[Scene]:
    """Each known thing as it is, and once with a motion; and so many different pairs of things of other names."""
    things, rng = known(), np.random.default_rng((seed, 1))
    motions = [name for name in MOTIONS for _ in range(-(-len(things) // len(MOTIONS)))]
    rng.shuffle(motions)
    scenes = [Scene((thing,)) for thing in things]
    scenes += [Scene((thing,), motion) for thing, motion in zip(things, motions, strict=False)]
    drawn: dict[Scene, None] = {}
    while len(drawn) < pairs:
        left, right = (things[number] for number in rng.integers(len(things), size=2))
        pair = Scene((left, right))
        if left.name != right.name and pair.grounds:
            drawn[pair] = None
    return [*scenes, *drawn]


def make(packages: Path, folder: Path, scenes: Sequence[Scene]) -> str:
    """Writes the files and the manifest of these scenes; what is there is not made again. Returns the `digest`.

    Raises:
        ArtError: the packages are missing, damaged, or others.
        DiskError: the folder cannot be written.
    """
    rows = manifest(scenes)
    with writing(folder):
        (folder / "art").mkdir(parents=True, exist_ok=True)
    files_of = [folder / row["file_name"] for row in rows]
    todo = [(scene, file) for scene, file in zip(scenes, files_of, strict=True) if not file.exists()]
    art = {}
    if todo:
        wanted = {thing.code for scene, _ in todo for thing in scene.things}
        art = dict(tqdm(read(packages, wanted), total=len(wanted), desc="reading art", dynamic_ncols=True))
    for scene, file in tqdm(todo, desc="writing clips", disable=not todo, dynamic_ncols=True):
        _write(file, render(scene, art))
    replace_text(folder / "LICENSE.txt", files("videodit.emoji").joinpath("LICENSE.txt").read_text())
    unseen = [any(is_unseen(thing.name) for thing in scene.things) for scene in scenes]
    tests = [scene.motion == "own" and len(scene.things) == 1 and scene.num_frames > 1 for scene in scenes]
    both = list(zip(rows, unseen, tests, strict=True))
    replace_text(folder / CODEC, _text([row for row, is_held, _ in both if not is_held]))
    replace_text(folder / CODEC_TEST, _text([row for row, is_held, is_test in both if is_held and is_test]))
    toned = {thing.name for thing in known() if thing.tone}
    replace_text(folder / LIVING, _text([rows[number] for number in living(scenes, toned)]))
    replace_text(folder / MANIFEST, _text(rows))
    return digest(rows)


def living(scenes: Sequence[Scene], toned: Set[str]) -> list[int]:
    """The numbers of those that live, and behind them, again and again, of those that are of no `toned` name."""
    lives = [number for number, scene in enumerate(scenes) if is_living(scene, toned)]
    others = [number for number in lives if not any(thing.name in toned for thing in scenes[number].things)]
    return lives + others * (OFTEN - 1)


def is_living(scene: Scene, toned: Set[str]) -> bool:
    """Whether a small model learns motion from it: things that move; of `toned` names alone and as they are."""
    if not all(thing.moves for thing in scene.things):
        return False
    plain = len(scene.things) == 1 and scene.motion == "own"
    return plain or not any(thing.name in toned for thing in scene.things)


def is_unseen(name: str) -> bool:
    """Whether a VAE is not trained on what has this name."""
    return zlib.crc32(name.encode()) % CODEC_SHARE == 0


def manifest(scenes: Sequence[Scene]) -> list[dict]:
    """A row a scene."""
    words = synonyms(known())
    return [
        {
            "file_name": f"art/{scene.name}.webp",
            "caption": list(captions(scene, words)),
            "names": [thing.caption for thing in scene.things],
            "motion": scene.motion,
            "grounds": list(scene.grounds),
        }
        for scene in scenes
    ]


def digest(rows: Sequence[dict]) -> str:
    """sha256 of the manifest's text."""
    return hashlib.sha256(_text(rows).encode()).hexdigest()


def _text(rows: Sequence[dict]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def synonyms(things: Sequence[Thing]) -> dict[str, tuple[str, ...]]:
    """Of each code the keywords that it shares with few other names, `SYNONYMS` at most."""
    names = defaultdict(set)
    for thing in things:
        for keyword in thing.keywords:
            names[keyword].add(thing.name)
    taken = {thing.name for thing in things}
    rare = {word for word, of in names.items() if len(of) <= SHARED_BY and word not in taken}
    return {thing.code: tuple(word for word in thing.keywords if word in rare)[:SYNONYMS] for thing in things}


def testing_scenes() -> list[Scene]:
    """The tones that training never sees."""
    return [Scene((thing,)) for thing in held_out()]


def _write(file: Path, frames: np.ndarray) -> None:
    first, *others = (Image.fromarray(frame) for frame in frames)
    moving = {"save_all": True, "append_images": others, "duration": 1000 // FPS, "loop": 0} if others else {}
    with whole(file) as scratch:
        first.save(scratch, format="WEBP", lossless=True, quality=50, method=2, **moving)
