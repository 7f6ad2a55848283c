"""Words that a model was never shown are read as the nearest that it was; prompts far from all are told, with what is
nearest; others pass in silence."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig
from runs import run
from tiny import tiny_pipeline

from videodit import LearnedCaptions, VideoDiTPipeline
from videodit.conditions import encoded
from videodit.text import TextEncoder, load_text
from videodit.text.learned import _joined, _things
from videodit.text.states import TextStates
from videodit.text.words import words_in
from videodit.training.inputs import learned_of
from videodit.training.trainer import Trainer

ANGLES = {f"thing{angle}": float(angle) for start in (0, 90, 180) for angle in range(start, start + 30, 4)}


def encode(prompts: list[str]) -> TextStates:
    """A word a state; that of the last says where its thing lies on a circle about (5, 5), the first is its double."""
    states = torch.zeros(len(prompts), 3, 2)
    mask = torch.zeros(len(prompts), 3, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        angle = np.deg2rad(ANGLES[prompt] if prompt in ANGLES else float(prompt))
        states[row, :2] = torch.tensor([[np.cos(angle), np.sin(angle)]]) * torch.tensor([[0.5], [1.5]]) + 5
        mask[row, :2] = True
    return TextStates(states, mask)


def cosine(degrees: float, others: list[float]) -> np.ndarray:
    """Of an angle to others, all seen from the mean of the others, in float64."""
    points = np.stack([np.cos(np.deg2rad(others)), np.sin(np.deg2rad(others))], 1)
    own = np.array([np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))]) - points.mean(0)
    points = points - points.mean(0)
    return points @ own / np.linalg.norm(points, axis=1) / np.linalg.norm(own)


def test_far_is_what_all_but_one_in_twenty_captions_are_not() -> None:
    learned = LearnedCaptions.of([*ANGLES, "", " ", "thing0"], encode)
    captions = learned.config["captions"]
    assert set(captions) == set(ANGLES)
    angles = [ANGLES[caption] for caption in captions]
    best = [np.delete(cosine(angle, angles), number).max() for number, angle in enumerate(angles)]
    assert learned.config["far"] == pytest.approx(np.quantile(best, 0.05), abs=1e-6)
    for degrees in (5, 45, 95, 140, 185, 229, 245, 265, 310, 340):
        found = cosine(degrees, angles)
        expected = [captions[i] for i in np.argsort(-found)[:3]] if found.max() < learned.config["far"] else []
        assert learned.nearest(encode([str(degrees)])) == [expected], degrees
    assert any(learned.nearest(encode([str(degrees)]))[0] for degrees in range(0, 360, 5))


def test_captions_in_the_same_words_do_not_say_how_near_is_near() -> None:
    """Or "a cat growing", beside "a cat", would make all else far."""
    kin = {f"{name} {how}": angle + 0.01 for name, angle in ANGLES.items() for how in ("growing", "going")}
    ANGLES.update(kin)
    try:
        many = LearnedCaptions.of(ANGLES, encode).config["far"]
    finally:
        for name in kin:
            ANGLES.pop(name)
    assert many == pytest.approx(LearnedCaptions.of(ANGLES, encode).config["far"], abs=0.02)


def test_one_caption_alone_makes_nothing_far() -> None:
    assert LearnedCaptions.of(["thing0"], encode).nearest(encode(["90", "180"])) == [[], []]


THINGS = ["cat", "dog", "boat", "a tree", "red boat", "sun", "moon", "fish", "house", "star"]
GROUNDS = ["pink", "blue", "green", "gray", "white"]
SHOWN = [*THINGS, *(f"{thing} on a {ground} background" for thing in THINGS for ground in GROUNDS)]
MEANINGS = [*dict.fromkeys(words_in(" ".join(SHOWN))), "the", "mat", "sat", "budget"]  # an axis each
KIN = {"kitten": "cat", "tabby": "cat", "puppy": "dog", "yacht": "boat", "oak": "tree", "grand": "tree"}
SCENE = "the yacht cat sat on the mat"


def meant(prompts: list[str]) -> TextStates:
    """A state a word: of what it means the axis, of its kin nearly the same, of all others one of their own."""
    rows = [words_in(prompt) for prompt in prompts]
    states = torch.zeros(len(rows), max(map(len, rows)), len(MEANINGS) + 1)
    mask = torch.zeros(states.shape[:2], dtype=torch.bool)
    for row, words in enumerate(rows):
        mask[row, : len(words)] = True
        for number, word in enumerate(words):
            states[row, number, len(MEANINGS)] = word in KIN or word not in MEANINGS
            name = KIN.get(word, word)
            if name in MEANINGS:
                states[row, number, MEANINGS.index(name)] = 2 + (word in KIN)
    return TextStates(states, mask)


def shown(captions: list[str] = SHOWN, *args: Any, far: float = 0.6, **kwargs: Any) -> LearnedCaptions:
    learned = LearnedCaptions.of(captions, meant, *args, **kwargs)
    learned.register_to_config(far=far)
    return learned


@pytest.mark.parametrize(
    ("written", "read", "otherwise"),
    [
        ("kitten on a pink background", "cat on a pink background", [("kitten", "cat")]),
        ("Kitten, a PUPPY!", "cat, a dog!", [("Kitten", "cat"), ("PUPPY", "dog")]),
        ("tabby kitten on a blue background", "cat on a blue background", [("tabby kitten", "cat")]),
        ("kitten cat", "cat", [("kitten cat", "cat")]),
        ("red yacht", "red boat", [("yacht", "boat")]),
        ("a grand  oak", "a tree", [("grand  oak", "tree")]),  # without the "a" of its caption
        ("an oak.", "a tree.", [("an oak", "a tree")]),
        ("oak", "a tree", [("oak", "a tree")]),
        ("cat kitten", "cat", [("cat kitten", "cat")]),
        ("budget cat", "budget cat", []),  # or it were a cat, and nothing said of the other word
        ("kitten, budget", "cat, budget", [("kitten", "cat")]),  # which is near to nothing
        ("red cat on a pink background", "red cat on a pink background", []),
        ("", "", []),
        ("?!", "?!", []),
    ],
)
def test_new_words_and_what_belongs_to_them_are_read_as_the_nearest_thing_that_was_shown(
    written: str, read: str, otherwise: list[tuple[str, str]]
) -> None:
    reading = shown([*SHOWN, SCENE.replace("yacht ", "")]).read(written, meant)
    assert (reading.prompt, list(reading.otherwise)) == (read, otherwise)


def test_a_word_that_any_caption_has_is_not_new_and_a_scene_is_no_thing() -> None:
    assert shown([*SHOWN, SCENE]).read("yacht", meant).otherwise == ()
    scenes = shown([f"the {thing} sat on the {ground} mat" for thing in THINGS for ground in GROUNDS])
    assert scenes.read("a kitten on the mat", meant).otherwise == ()


def test_nothing_is_read_otherwise_where_nobody_knows_what_was_shown_or_what_is_near() -> None:
    assert shown(more=True).read("kitten", meant).prompt == "kitten"
    assert shown(far=-1).read("kitten", meant).prompt == "kitten"
    assert LearnedCaptions(THINGS, 4).read("kitten", meant).prompt == "kitten"


def test_a_model_that_trains_on_knows_what_it_knew() -> None:
    before = shown()
    after = LearnedCaptions.of(["cat", "budget", "the yacht"], meant, before)
    assert after.config["captions"] == [*before.config["captions"], "budget", "the yacht"]
    assert torch.equal(after.vectors[: len(before.vectors)], before.vectors)
    assert after.config["far"] == before.config["far"]
    assert after.read("yacht, puppy, budgets", meant).otherwise == (("puppy", "dog"),)
    for row, caption in enumerate(after.config["captions"]):  # new ones lie where old ones do
        assert after._cosines(meant([caption]))[0].max() == pytest.approx(after._cosines(meant([caption]))[0, row])
    assert LearnedCaptions.of(["cat"], meant, before) is before
    assert before.is_of(meant)
    assert not before.is_of(lambda prompts: TextStates(meant(prompts).states.roll(1, 2), meant(prompts).mask))
    unknown = shown(more=True)
    assert LearnedCaptions.of(["budget"], meant, unknown, more=True).config["words"] is None


def test_no_more_captions_are_kept_than_make_room_but_all_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("videodit.text.learned.MOST", 4)
    first = LearnedCaptions.of(SHOWN, meant)
    assert first.config["captions"] == sorted(SHOWN, key=lambda one: (len(one.split()), one))[:4]
    again = LearnedCaptions.of([*SHOWN, "budget"], meant, first)
    assert again.config["captions"] == first.config["captions"]
    assert torch.equal(again.vectors, first.vectors)
    assert set(again.config["words"]) == {*words_in(" ".join(SHOWN)), "budget"}


def test_a_caption_stands_without_its_punctuation_and_keeps_what_the_prompt_does_not_say() -> None:
    common = frozenset(["a", "blue"])
    things = _things(("A cat.", "(blue heart)", "cat, blue", "the"), common)
    assert things == [
        ("A cat", frozenset(["cat"])),
        ("blue heart", frozenset(["heart"])),
        ("cat, blue", frozenset()),  # it ends with a common word
        ("the", frozenset(["the"])),
    ]
    assert [_joined("blue heart", before, common) for before in ((), ("a",), ("blue",), ("a", "blue"))] == [
        "blue heart",
        "blue heart",
        "heart",
        "heart",
    ]


def test_a_later_stage_knows_what_an_earlier_was_shown_by_the_same_encoder(tmp_path: Path) -> None:
    pipe = tiny_pipeline()
    pipe.register_modules(learned=LearnedCaptions.of(["red star", "two blue stars"], pipe.text))
    pipe.save_pretrained(tmp_path / "first")

    def stage(text: TextEncoder, start: str | None = str(tmp_path / "first")) -> LearnedCaptions:
        config: Any = SimpleNamespace(train=SimpleNamespace(start_from=start))
        clips: Any = SimpleNamespace(samples=[SimpleNamespace(captions=["a green star"], image_captions=[])])
        learned = learned_of(config, text, text, clips)  # type: ignore[arg-type]
        assert learned is not None
        return learned

    assert set(stage(pipe.text).config["words"]) == {"blue", "red", "star", "stars", "two", "a", "green"}
    assert set(stage(pipe.text, None).config["words"]) == {"a", "green", "star"}
    other = TextEncoder.from_captions(["a green red star", "two blue stars"], width=32, depth=1, heads=2, seed=5)
    assert stage(other.requires_grad_(False)).config["words"] is None  # what it read then is not what this one says
    pipe.register_modules(learned=None)
    pipe.save_pretrained(tmp_path / "elsewhere")
    assert stage(pipe.text, str(tmp_path / "elsewhere")).config["words"] is None


def test_what_was_shown_is_no_part_of_the_encoder_and_an_adapter_may_know_any_word() -> None:
    pipe = tiny_pipeline()
    pipe.register_modules(learned=LearnedCaptions.of(["red star", "two blue stars"], pipe.text))
    assert pipe.text.learned is pipe.learned
    pipe.text.requires_grad_(True)
    assert not any(weight.requires_grad for weight in pipe.learned.parameters())
    pipe.transformer.add_adapter(LoraConfig(r=1, target_modules=["to_q"]))
    assert pipe.text.learned is None


def test_negative_prompts_are_read_alike_and_nothing_is_told_of_them(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("videodit.text.encoder.known_words", lambda tokenizer: None)
    pipe = tiny_pipeline()
    pipe.register_modules(learned=LearnedCaptions.of(["red star", "two blue stars", "old green circle"], pipe.text))
    pipe.learned.register_to_config(far=-0.99, words=["red"], common=0)
    states = encoded(pipe.text, ["red square"], against=True).states
    assert "told the nearest" not in caplog.text
    assert torch.equal(states, encoded(pipe.text, ["red square"]).states)
    assert "'red square': the model never saw these words and is told the nearest" in caplog.text


def test_signs_of_scripts_without_spaces_are_a_word_each() -> None:
    assert words_in("A jack-o'-lantern, 3D; Größe_2") == ["a", "jack-o'-lantern", "3d", "größe", "2"]
    assert words_in("赤い星 star แมว") == ["赤", "い", "星", "star", *"แมว"]


@pytest.mark.slow
def test_what_was_shown_to_a_model_with_a_frozen_encoder_is_saved_with_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["a red circle moving right", "a banker reads tax forms beside an idle volcano"]
    TextEncoder.from_captions(words, width=16, depth=1, heads=2).save_pretrained(tmp_path / "text")
    trainer = Trainer(run(tmp_path / "run", text={"source": str(tmp_path / "text")}))
    trainer.save_pipeline(tmp_path / "pipe")
    pipe = VideoDiTPipeline.from_pretrained(tmp_path / "pipe")
    learned = trainer.learned
    assert learned is not None
    assert pipe.learned.config["captions"] == learned.config["captions"]
    assert torch.equal(pipe.learned.vectors, learned.vectors)
    assert torch.equal(pipe.learned.middle, learned.middle)
    assert pipe.learned.config["words"] == learned.config["words"]
    assert set(words_in(" ".join(learned.config["captions"]))) == set(learned.config["words"])
    pipe.learned.register_to_config(far=2.0)  # so that all is far
    with caplog.at_level(logging.WARNING):
        pipe.encode_prompt("a red circle moving right", negative_prompt="a banker reads")
    said = [record.getMessage() for record in caplog.records if "far from all" in record.getMessage()]
    assert len(said) == 1
    assert said[0].startswith("'a red circle moving right' is far from all that the model was shown; nearest: ")
    caplog.clear()
    pipe.learned.register_to_config(far=-1.0)
    with caplog.at_level(logging.WARNING):
        pipe.encode_prompt("a red circle moving right")
    assert not caplog.records
    monkeypatch.setattr("videodit.text.encoder.known_words", lambda tokenizer: None)  # as of one that spells any word
    pipe.learned.register_to_config(far=-0.99, words=["a", "red"], common=1)  # so that most is new and all is near
    with caplog.at_level(logging.WARNING):
        told = pipe.encode_prompt("a red circle", negative_prompt="a circle")
    read = pipe.text.read("a red circle")
    assert read.otherwise
    assert [one for record in caplog.records if "nearest" in (one := record.getMessage())] == [
        f"'a red circle': the model never saw these words and is told the nearest: "
        f"{', '.join(f'{one!r} as {other!r}' for one, other in read.otherwise)}"
    ]
    states = pipe.text([read.prompt]).states
    assert torch.equal(told[0], states)
    assert torch.equal(load_text(tmp_path / "pipe").learned.vectors, learned.vectors)


@pytest.mark.slow
def test_an_encoder_that_is_trained_knows_words_and_nothing_of_captions(tmp_path: Path) -> None:
    trainer = Trainer(run(tmp_path / "run"))
    assert trainer.learned is None
