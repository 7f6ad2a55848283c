"""The run over held-out prompts, with models that are perfect, deaf or blank."""

import json

import numpy as np
import pytest

from videodit.evaluation.judge import compare, judge
from videodit.evaluation.judge.world import FACTS, Results, Share, evaluate_world, held_out_scenes, prompt
from videodit.geometry import ClipSize
from videodit.shapes import HELD_OUT, MOTIONS, SHAPES, Scene, Thing, render, rng_for

SIZE = ClipSize(17, 64, 64, 8)
ONE, TWO = held_out_scenes(8, 7, 1), held_out_scenes(2, 7, 2)


def perfect(prompts: list[str], seeds: list[int], own: np.ndarray) -> np.ndarray:
    scenes = {prompt(scene): scene for scene in ONE + TWO}
    return np.stack([render(scenes[text], SIZE, rng_for(s, 9)) for text, s in zip(prompts, seeds, strict=True)])


def deaf(prompts: list[str], seeds: list[int], own: np.ndarray) -> np.ndarray:
    scene = Scene((Thing("red", "circle", "large", "right"),), "gray")
    return np.stack([render(scene, SIZE, rng_for(s)) for s in seeds])


def blank(prompts: list[str], seeds: list[int], own: np.ndarray) -> np.ndarray:
    return np.full((len(prompts), 17, 64, 64, 3), 120, dtype=np.uint8)


@pytest.fixture(scope="module")
def results() -> Results:
    return evaluate_world(perfect, prompts=8, seed=7, batch_size=3, size=SIZE)


def test_wilson_intervals_are_those_of_the_tables() -> None:
    # Newcombe (1998), table I, method 3
    assert Share(81, 263).interval == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert Share(15, 148).interval == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert Share(0, 20).interval == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert Share(29, 29).interval == pytest.approx((0.8830, 1.0), abs=5e-5)
    assert Share(0, 0).interval == (0, 1)


def test_scenes_are_held_out_and_prompts_say_all_but_repeat() -> None:
    for scene in ONE + TWO:
        assert all(thing.triple in HELD_OUT for thing in scene.things)
        text = prompt(scene)
        assert text == prompt(scene)
        for thing in scene.things:
            assert f"{thing.color} {thing.shape}" in text
            assert any(words in text for words in MOTIONS[thing.motion])
            assert not any(words in prompt(scene, image=True) for words in MOTIONS[thing.motion])


@pytest.mark.slow
def test_a_perfect_model_scores_as_the_judge_does(results: Results) -> None:
    for count, n in ((1, 8), (2, 2)):
        assert results.shares(results.model, count) == {fact: Share(n, n) for fact in FACTS}
        assert results.shares(results.true, count) == {fact: Share(n, n) for fact in FACTS}
        assert results.shares(results.chance, count)["all"].hits == 0
    assert all(row.asked == scene for row, scene in zip(results.model, ONE + TWO, strict=True))


@pytest.mark.slow
def test_the_clips_to_give_frames_of_are_those_that_the_judge_row_is_of() -> None:
    found = evaluate_world(lambda prompts, seeds, own: own, prompts=5, seed=7, batch_size=2, size=SIZE)
    for row, true, scene in zip(found.model[:5], found.true, ONE, strict=False):
        assert repr(row.seen) == repr(true.seen) == repr(judge(render(scene, SIZE, rng_for(row.seed)), fps=8))


def test_confusion_of_a_perfect_model_is_diagonal(results: Results) -> None:
    for fact, names in (("shape", SHAPES), ("motion", tuple(MOTIONS))):
        table = results.confusion(fact)
        assert {a: n for a in names if (n := table[a][a])} == {
            a: n for a in names if (n := sum(getattr(scene.things[0], fact) == a for scene in ONE))
        }
        assert sum(sum(row.values()) for row in table.values()) == len(ONE)


@pytest.mark.slow
def test_a_deaf_model_is_told_apart() -> None:
    results = evaluate_world(deaf, prompts=8, seed=7, batch_size=8, size=SIZE)
    asked = [scene.things[0] for scene in ONE]
    shares = results.shares(results.model, 1)
    assert shares["color"] == Share(sum(thing.color == "red" for thing in asked), 8)
    assert shares["motion"] == Share(sum(thing.motion == "right" for thing in asked), 8)
    assert results.shares(results.model, 2)["color"].hits == 0  # one thing cannot be two


@pytest.mark.slow
def test_a_blank_model_shows_nothing_and_is_still() -> None:
    results = evaluate_world(blank, prompts=3, seed=7, batch_size=2, size=SIZE)
    shares = results.shares(results.model, 1)
    assert [shares[fact].hits for fact in FACTS] == [0, 0, 0, 3, 0]  # nothing besides what was asked
    assert sum(row["missing"] for row in results.confusion("motion").values()) == 3
    assert results.to_dict()["still_clips"]["model"] == 3
    assert results.model[0].seen_text() == "nothing"


@pytest.mark.slow
def test_prompts_and_seeds_do_not_depend_on_the_batch_size() -> None:
    def calls(batch_size: int) -> list[tuple[str, int]]:
        seen: list[tuple[str, int]] = []

        def generate(prompts: list[str], seeds: list[int], own: np.ndarray) -> np.ndarray:
            assert len(prompts) <= batch_size
            seen.extend(zip(prompts, seeds, strict=True))
            return blank(prompts, seeds, own)

        evaluate_world(generate, prompts=5, seed=7, batch_size=batch_size, size=SIZE)
        return seen

    assert calls(2) == calls(64)
    assert len({seed for _, seed in calls(2)}) == 6  # 5 prompts of one thing, 1 of two


def test_json_holds_rows_that_can_be_judged_again(results: Results) -> None:
    read = json.loads(results.to_json())
    assert read["shares"]["things_1"]["model"]["all"] == {**Share(8, 8).to_dict()}
    row = read["rows"][0]
    scene = Scene(tuple(Thing(**thing) for thing in row["asked"]), row["background"])
    clip = perfect([row["prompt"]], [row["seed"]], np.empty(0))[0]
    assert [{**v, "all": all(v.values())} for v in map(vars, compare(judge(clip), scene))] == row["verdicts"]


def test_summary_prints_shares_with_intervals(results: Results) -> None:
    lines = results.summary().splitlines()
    assert lines[0].startswith("8 held-out prompts of 1 thing,")
    assert lines[2].split()[:3] == ["model", "100.0", "(67.6-100.0)"]
    assert any(line.startswith("2 held-out prompts of 2 things,") for line in lines)


def test_images_are_judged_without_motion() -> None:
    size = SIZE.image()

    def generate(prompts: list[str], seeds: list[int], own: np.ndarray) -> np.ndarray:
        scenes = {prompt(scene, image=True): scene for scene in ONE}
        return np.stack([render(scenes[text], size, rng_for(0)) for text in prompts])

    results = evaluate_world(generate, prompts=3, seed=7, batch_size=8, size=size)
    assert results.shares(results.model, 1)["all"] == Share(3, 3)
    assert not any(sum(row.values()) for row in results.confusion("motion").values())


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="prompts=0 must be 1 or more"):
        evaluate_world(blank, prompts=0, seed=0, batch_size=1, size=SIZE)
    with pytest.raises(ValueError, match="batch_size=0 must be 1 or more"):
        evaluate_world(blank, prompts=1, seed=0, batch_size=0, size=SIZE)
    with pytest.raises(ValueError, match=r"gave float64 .* must give uint8 \(1, 17, 64, 64, 3\)"):
        evaluate_world(lambda p, s, own: blank(p, s, own) / 255, prompts=1, seed=0, batch_size=1, size=SIZE)
