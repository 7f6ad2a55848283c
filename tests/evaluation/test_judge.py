"""The judge against clips whose facts are known: the world's own, and drawn by Pillow's polygons."""

import math
from functools import cache

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from videodit.evaluation.judge import OTHER, Seen, Verdict, compare, judge
from videodit.geometry import ClipSize
from videodit.shapes import (
    BACKGROUNDS,
    COLORS,
    MOTIONS,
    SHAPES,
    SIZES,
    Scene,
    ShapesWorld,
    Thing,
    background_pixels,
    can_show,
    polygon,
    render,
    rng_for,
)

SIZE = ClipSize(17, 64, 64, 8)
RED, BLUE = COLORS["red"], COLORS["blue"]


def facts(seen: list[Seen]) -> list[tuple[str, str, str]]:
    return [(thing.color, thing.shape, thing.motion) for thing in seen]


def drawn(*things: tuple[tuple[int, int, int], np.ndarray], frames: int = 17, side: int = 64) -> np.ndarray:
    """A gray clip of things, each a colour and its corners in pixels (n 2, or one such a frame: f n 2)."""
    clip = []
    for index in range(frames):
        image = Image.new("RGB", (side * 4, side * 4), (120, 120, 120))
        for color, corners in things:
            points = corners if corners.ndim == 2 else corners[index]
            ImageDraw.Draw(image).polygon([(x * 4, y * 4) for x, y in points], fill=color)
        clip.append(np.asarray(image.reduce(4)))
    return np.stack(clip)


def spoiled(frames: np.ndarray, seed: int, blur: float = 0.8, noise: float = 8.0) -> np.ndarray:
    """The clip after a Gaussian blur (sigma in pixels) and white noise (sd of 255)."""
    soft = [np.asarray(Image.fromarray(frame).filter(ImageFilter.GaussianBlur(blur))) for frame in frames]
    noisy = np.stack(soft) + rng_for(seed).normal(0, noise, frames.shape)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


@cache
def world_of(seed: int, num_things: int, held_out: bool) -> ShapesWorld:
    return ShapesWorld(SIZE, seed=seed, held_out=held_out, num_things=num_things)


@cache
def judged(world: ShapesWorld, index: int, spoil: bool = False) -> list[Seen]:
    frames = world[index].frames
    return judge(spoiled(frames, index) if spoil else frames)


def shares(world: ShapesWorld, count: int, *, spoil: bool = False, shift: int = 0) -> dict[str, float]:
    """The part of right verdicts a fact, over `count` scenes; `shift` compares with the facts of a later scene."""
    verdicts = []
    for index in range(count):
        verdicts += compare(judged(world, index, spoil), world.scene(index + shift))
    return {fact: np.mean([getattr(v, fact) for v in verdicts]).item() for fact in ("color", "shape", "motion", "all")}


@pytest.mark.slow
@pytest.mark.parametrize("motion", MOTIONS)
def test_names_every_motion_on_every_shape(motion: str) -> None:
    for index, shape in enumerate(SHAPES):
        if can_show(shape, motion):
            color = list(COLORS)[(index + len(motion)) % len(COLORS)]
            scene = Scene((Thing(color, shape, list(SIZES)[index % 2], motion),), list(BACKGROUNDS)[index % 4])
            assert facts(judge(render(scene, SIZE, rng_for(index)))) == [(color, shape, motion)]


def test_names_two_small_things() -> None:
    things = (Thing("orange", "heart", "small", "spinning"), Thing("yellow", "star", "small", "left"))
    seen = judge(render(Scene(things, "white"), SIZE, rng_for(3)))
    assert sorted(facts(seen)) == sorted(thing.triple for thing in things)
    assert len(judge(render(Scene(things, "white"), SIZE, rng_for(3)), num_things=1)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("size", [ClipSize(9, 64, 64, 8), ClipSize(33, 64, 96, 8), ClipSize(17, 200, 144, 8)])
def test_other_lengths_and_sizes(size: ClipSize) -> None:
    for index, motion in enumerate(("bouncing", "circling", "right", "spinning", "still")):
        scene = Scene((Thing("green", "cross", "large", motion),), "gradient")
        assert facts(judge(render(scene, size, rng_for(index)))) == [("green", "cross", motion)]


@pytest.mark.slow
def test_periods_are_in_seconds() -> None:
    scene = Scene((Thing("pink", "circle", "large", "bouncing"),), "black")
    clip = render(scene, ClipSize(33, 64, 64, 16), rng_for(1))
    assert judge(clip, fps=16)[0].motion == "bouncing"
    assert judge(clip, fps=2)[0].motion == OTHER  # eight times as slow is none of the world's motions


def test_an_image_has_no_motion() -> None:
    scene = Scene((Thing("cyan", "triangle", "small", "left"),), "gray")
    seen = judge(render(scene, SIZE.image(), rng_for(0)))
    assert facts(seen) == [("cyan", "triangle", "")]
    assert compare(seen, scene) == [Verdict(True, True, True)]


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_an_empty_background_shows_nothing(background: str) -> None:
    frames = np.repeat(background_pixels(background, 64, 64)[None], 9, axis=0)
    assert judge(frames.astype(np.uint8)) == []
    assert judge(spoiled(frames.astype(np.uint8), 0)) == []


def test_only_colour_fills_the_frame() -> None:
    assert judge(np.full((9, 64, 64, 3), RED, dtype=np.uint8))[0].color == "red"


def test_specks_faint_ghosts_and_flashes_are_not_things() -> None:
    square = polygon("square") * 10
    clip = drawn((RED, square + 20), (BLUE, polygon("square") * 1.3 + 50), ((125, 120, 135), square + 45))
    clip[3:6, 50:60, 5:15] = COLORS["green"]
    assert facts(judge(clip)) == [("red", "square", "still")]


def test_a_patch_of_another_hue_belongs_to_its_thing() -> None:
    square, patch = polygon("square") * 13 + 20, polygon("square") * 4 + 26
    clip = drawn((COLORS["pink"], square), (RED, patch), (RED, polygon("circle") * 8 + 50))
    assert sorted(facts(judge(clip))) == [("pink", "square", "still"), ("red", "circle", "still")]


def test_two_things_of_one_colour_are_two() -> None:
    clip = drawn((RED, polygon("square") * 8 + 16), (RED, polygon("circle") * 8 + 45))
    assert sorted(facts(judge(clip))) == [("red", "circle", "still"), ("red", "square", "still")]


@pytest.mark.parametrize("shape", ["triangle", "heart", "star", "square"])
def test_a_tilted_shape_keeps_its_name_and_is_still(shape: str) -> None:
    assert facts(judge(drawn((BLUE, polygon(shape, 0.6) * 11 + 30)))) == [("blue", shape, "still")]
    assert facts(judge(drawn((BLUE, polygon(shape, math.pi) * 11 + 30)))) == [("blue", shape, "still")]


def test_either_way_of_turning_is_spinning() -> None:
    for sign in (-1, 1):
        turned = np.stack([polygon("triangle", sign * math.pi / 2 * f / 8) * 11 + 32 for f in range(17)])
        (seen,) = judge(drawn((RED, turned)))
        assert seen.motion == "spinning"
        assert seen.turn == pytest.approx(sign * 0.25, abs=0.03)


def test_measurements_are_those_drawn() -> None:
    x = np.linspace(20, 44, 17)
    clip = drawn((RED, np.stack([polygon("circle") * 10 + [cx, 40] for cx in x])))
    (seen,) = judge(clip)
    assert seen.motion == "right"
    assert seen.travel == pytest.approx(24 / 64, abs=0.005)
    assert seen.center == pytest.approx((32 / 64, 40 / 64), abs=0.01)
    assert seen.radius == pytest.approx(9.5 / 64, abs=0.003)
    assert (seen.growth, seen.turn, seen.presence) == (pytest.approx(1, abs=0.02), 0, 1)


def test_what_the_world_does_not_have_is_other() -> None:
    rod = np.array([(-14, -2), (14, -2), (14, 2), (-14, 2)], dtype=float) + 32
    assert judge(drawn((RED, rod)))[0].shape == OTHER
    jitter = rng_for(5).uniform(15, 49, (17, 1, 2))
    assert judge(drawn((RED, polygon("circle") * 8 + jitter)))[0].motion == OTHER


def test_refuses_what_is_no_clip() -> None:
    for frames in (np.zeros((9, 64, 64, 3)), np.zeros((64, 64, 3), np.uint8), np.zeros((0, 64, 64, 3), np.uint8)):
        with pytest.raises(ValueError, match="must be uint8 f h w 3"):
            judge(frames)


def see(color: str, shape: str, motion: str) -> Seen:
    return Seen(color, shape, motion, (0.5, 0.5), 0.1, 0.0, 1.0, 0.0, 1.0, 1.0)


TWO = Scene((Thing("red", "star", "large", "left"), Thing("blue", "heart", "small", "up")), "gray")


def test_compare_takes_the_best_assignment() -> None:
    seen = [see("blue", "star", "up"), see("red", "star", "right")]
    assert compare(seen, TWO) == [Verdict(True, True, False), Verdict(True, False, True)]


def test_compare_breaks_ties_by_colour() -> None:
    seen = [see("red", "star", "still"), see("blue", "star", "left")]  # two facts are right either way around
    scene = Scene((Thing("red", "circle", "large", "up"), Thing("blue", "star", "large", "left")), "gray")
    assert compare(seen, scene) == [Verdict(True, False, False), Verdict(True, True, True)]


def test_compare_calls_a_missing_thing_wrong_in_everything() -> None:
    assert compare([see("blue", "heart", "up")], TWO) == [Verdict(False, False, False), Verdict(True, True, True)]
    assert not any(verdict.all or verdict.motion for verdict in compare([], TWO))


def test_compare_counts_extra_things_against_the_clip() -> None:
    seen = [see("blue", "heart", "up"), see("green", "heart", "up"), see("red", "star", "left")]
    assert compare(seen, TWO) == [Verdict(True, True, True, alone=False)] * 2
    assert not any(verdict.all for verdict in compare(seen, TWO))
    assert all(verdict.all for verdict in compare(seen[::2], TWO))


@pytest.mark.slow
@pytest.mark.parametrize("held_out", [False, True])
def test_true_clips_are_judged_right(held_out: bool) -> None:
    for num_things, count in ((1, 30), (2, 15)):
        found = shares(world_of(21, num_things, held_out), count)
        assert min(found.values()) >= 0.99, found


@pytest.mark.slow
def test_blurred_and_noisy_clips_are_judged_right() -> None:
    for num_things, count in ((1, 20), (2, 10)):
        found = shares(world_of(22, num_things, True), count, spoil=True)
        assert min(found.values()) >= 0.97, found


@pytest.mark.slow
def test_another_scenes_facts_score_chance() -> None:
    later = [
        shares(world_of(21, 1, False), 30, shift=shift) for shift in (1, 2, 3, 4)
    ]  # of clips that were judged above
    found = {fact: np.mean([one[fact] for one in later]) for fact in later[0]}
    assert found["color"] < 0.25  # 1 / 8 is expected
    assert found["shape"] < 0.30  # 1 / 6
    assert found["motion"] < 0.20  # 1 / 10
    assert found["all"] < 0.04
