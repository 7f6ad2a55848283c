"""Questions over the world of emoji and what counts as right."""

from __future__ import annotations

import json
import re
from importlib.resources import files

import numpy as np
import pytest
from PIL import Image
from readme import tool

from videodit import VideoDiTPipeline
from videodit.emoji.make import manifest, training_scenes
from videodit.emoji.things import GROUNDS, Thing, held_out, is_held_out, known
from videodit.evaluation.judge import emoji
from videodit.evaluation.judge.emoji import KINDS, answer, gallery, load_gallery, nearest_ground, questions, summary

from .fakes import Obedient

SIDE = 32


@pytest.mark.slow
def test_questions_ask_what_their_kind_says_and_the_same_each_time():
    captions = {thing.caption: thing for thing in gallery()}
    unseen = {thing.caption for thing in held_out()}
    for kind in KINDS:
        asked = questions(kind, 30, seed=2)
        assert asked == questions(kind, 30, seed=2)
        assert len(asked) == len({one.prompt for one in asked}) >= 20
        for one in asked:
            things = [captions[caption] for wanted in one.wanted for caption in wanted]
            assert f"on a {one.ground} background" in one.prompt
            if kind == "tones":
                assert {thing.caption for thing in things} <= unseen
            elif kind in ("known", "pairs"):
                assert not unseen & {thing.caption for thing in things}
                assert not any(is_held_out(thing.name, one.ground) for thing in things)
            elif kind == "grounds":
                assert all(is_held_out(thing.name, one.ground) for thing in things)
            if kind == "pairs":
                assert len(one.wanted) == 2
    assert len(questions("tones", 1000)) == 89
    assert len(questions("synonyms", 1000)) == 50


@pytest.mark.slow
def test_no_caption_of_training_contains_a_synonym():
    rows = [json.loads(line) for line in files("videodit.emoji").joinpath("synonyms.jsonl").read_text().splitlines()]
    said = " | ".join(text.lower() for row in manifest(training_scenes(0, seed=0)) for text in row["caption"])
    names = {thing.name for thing in known()}
    for row in rows:
        assert not re.search(rf"\b{re.escape(row['prompt'])}\b", said)
        assert set(row["names"]) <= names


def test_the_nearest_ground_is_found_for_every_ground():
    for name in GROUNDS:
        frame = np.stack([emoji.parse_ground(name)[0], emoji.parse_ground(name)[1]]) / 255
        assert nearest_ground(*(frame * 0.9 + 0.05)) == name


@pytest.fixture
def world(tmp_path, monkeypatch):
    """Three things that move: a bar that sweeps, in three colours, each its own shape."""
    things = tuple(Thing(str(n), f"bar {n}", None, True, ()) for n in range(3))
    monkeypatch.setattr(emoji, "gallery", lambda: things)
    (tmp_path / "art").mkdir()
    for n, thing in enumerate(things):
        frames = []
        for number in range(25):
            frame = np.zeros((SIDE, SIDE, 4), np.uint8)
            at = number % 24
            frame[4 * n : 4 * n + 12, at : at + 8] = (80 * n, 255 - 80 * n, 128, 255)
            frame[-1, -1] = (0, 0, 0, 120)
            frames.append(Image.fromarray(frame))
        file = tmp_path / "art" / f"{thing.code}.webp"
        frames[0].save(file, save_all=True, append_images=frames[1:], duration=125, lossless=True)
    return tmp_path


def test_a_true_clip_is_right_and_moves_and_another_is_wrong(world):
    true = load_gallery(world)
    from videodit.video import read_clip

    asked = emoji.Question("known", "bar 1 on a blue background", 0, (("bar 1",),), "blue")
    right = answer(asked, read_clip(world / "art/1.webp", 25, 8.0, background="blue"), true)
    assert (right.right, right.ground, right.moves) == (True, "blue", True)
    assert right.motion == pytest.approx(1, abs=0.01)
    wrong = answer(asked, read_clip(world / "art/2.webp", 25, 8.0, background="pink"), true)
    assert (wrong.right, wrong.ground, wrong.found) == (False, "pink", ("bar 2",))
    still = answer(asked, np.repeat(read_clip(world / "art/1.webp", 25, 8.0)[:1], 25, axis=0), true)
    assert (still.motion, still.moves) == (0, False)
    table = summary([right, wrong, still])
    assert table["known"]["motion"]["n"] == 3
    assert table["known"]["nearest"]["n"] == 3


def test_of_two_things_each_half_is_looked_at(world):
    from videodit.video import read_clip

    true = load_gallery(world)
    left, right = (read_clip(world / f"art/{n}.webp", 25, 8.0, background="red") for n in (2, 0))
    clip = np.concatenate([left, right], axis=2)
    asked = emoji.Question("pairs", "", 0, (("bar 2",), ("bar 0",)), "red")
    found = answer(asked, clip, true)
    assert (found.right, found.found, found.motion) == (True, ("bar 2", "bar 0"), None)
    turned = answer(asked, clip[:, :, ::-1], true)
    assert not turned.right


def test_true_clips_that_are_missing_are_named(tmp_path, world):
    (world / "art" / "1.webp").unlink()
    with pytest.raises(ValueError, match=r"art/1.webp \(bar 1\) is not in .*make_emoji.py"):
        load_gallery(world)


def test_a_run_asks_each_kind_and_a_perfect_model_is_right(world, monkeypatch):
    """The model: the true clips themselves, before the ground that the prompt names."""
    from videodit.video import read_clip

    things = emoji.gallery()
    monkeypatch.setattr(emoji, "known", lambda: things[:2])
    monkeypatch.setattr(emoji, "held_out", lambda: things[2:])
    monkeypatch.setattr(emoji, "_synonyms", lambda: [("a stripe", ["bar 0", "bar 1"])])

    def shown(text: str, ground: str) -> np.ndarray:
        thing = next((thing for thing in things if thing.name in text), things[1])
        return read_clip(world / f"art/{thing.code}.webp", 25, 8.0, background=ground)

    def perfect(prompts, seeds):
        assert len(seeds) == len(prompts)
        clips = []
        for prompt in prompts:
            text, ground = prompt.removesuffix(" background").split(" on a ")[0], prompt.split(" on a ")[-1]
            ground = ground.removesuffix(" background")
            parts = prompt.split(" on the left and ") if " on the left and " in prompt else [text]
            clips.append(np.concatenate([shown(part, ground) for part in parts], axis=2))
        return clips

    answers = emoji.evaluate_emoji(perfect, load_gallery(world), count=2, seed=1, batch_size=3)
    assert {one.question.kind for one in answers} >= {"known", "tones", "synonyms", "pairs"}
    assert all(one.right for one in answers)
    assert all(one.ground == one.question.ground for one in answers)
    assert all(one.moves for one in answers if one.motion is not None)
    table = emoji.to_text(answers)
    assert "known" in table
    assert "100.0 (" in table
    assert json.loads(json.dumps(emoji.to_dict(answers)))["shares"]["known"]["nearest"]["value"] == 1
    with pytest.raises(ValueError, match="batch_size=0 must be 1 or more"):
        emoji.evaluate_emoji(perfect, load_gallery(world), count=2, seed=1, batch_size=0)


def test_a_model_that_is_told_true_clips_gets_those_that_are_asked_for_before_their_grounds(world, monkeypatch, capsys):
    """Through the command: a model that copies the map it is told, or is gray, of three things."""
    things = emoji.gallery()
    monkeypatch.setattr(emoji, "known", lambda: things[:2])
    monkeypatch.setattr(emoji, "held_out", lambda: things[2:])
    pipe = Obedient()
    monkeypatch.setattr(VideoDiTPipeline, "from_pretrained", lambda folder: pipe)
    words = ("evaluate", "--world", "emoji", "--art", world, "--prompts", 2, "--batch-size", 3, "--told", "light")
    assert tool(*words, "--num-frames", 25, "--out", world / "out") == 0
    assert "light: correlation with the true clip's 1.000" in capsys.readouterr().out
    told = [clip for call in pipe.calls if call["conditions"] for clip in call["conditions"]["light"]]
    rows = json.loads((world / "out" / "results.json").read_text())["rows"]
    assert {row["question"]["kind"] for row in rows} == {"known", "tones", "grounds"}
    assert len(told) == len(rows)
    true = load_gallery(world)
    for row, clip in zip(rows, told, strict=True):
        asked = row["question"]
        found = answer(emoji.Question(**asked | {"wanted": tuple(map(tuple, asked["wanted"]))}), clip, true)
        assert found.right
        assert found.moves
        assert found.ground == asked["ground"]
