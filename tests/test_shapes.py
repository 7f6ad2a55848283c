"""The procedural world: facts, captions and pixels agree, and what is kept out of training stays out."""

from __future__ import annotations

import math

import numpy as np
import pytest

from videodit.geometry import ClipSize
from videodit.shapes import (
    BACKGROUNDS,
    COLORS,
    HELD_OUT,
    MOTIONS,
    SHAPES,
    SIZE_WORDS,
    SIZES,
    Scene,
    ShapesWorld,
    Thing,
    background_pixels,
    can_show,
    polygon,
    render,
    rng_for,
    triples,
    vocabulary_captions,
)

CLIP = ClipSize(17, 64, 64, 8)


def covered(frames: np.ndarray, background: str) -> np.ndarray:
    """Where a frame differs from the empty background: f h w."""
    empty = background_pixels(background, *frames.shape[1:3])
    return np.abs(frames - empty).max(axis=-1) > 40


def area_of(frames: np.ndarray) -> np.ndarray:
    """Pixels that a red thing covers on white, in each frame, edges by their share."""
    return (245 - frames[..., 1].astype(float)).sum(axis=(1, 2)) / (245 - COLORS["red"][1])


def centres(mask: np.ndarray) -> np.ndarray:
    return np.array([np.argwhere(m).mean(axis=0)[::-1] for m in mask])  # f 2, (x, y)


def test_the_world_has_the_facts_it_promises() -> None:
    assert (len(COLORS), len(SHAPES), len(MOTIONS), len(BACKGROUNDS), len(SIZE_WORDS)) == (8, 6, 10, 4, 2)
    assert all(len(wordings) >= 3 for wordings in MOTIONS.values())
    assert not can_show("circle", "spinning")
    assert len(triples()) == 8 * 6 * 10 - 8


@pytest.mark.slow
def test_a_tenth_of_the_triples_is_kept_out_of_training() -> None:
    assert len(HELD_OUT) == round(len(triples()) / 10)
    train, test = ShapesWorld(CLIP), ShapesWorld(CLIP, held_out=True)
    seen = {thing.triple for i in range(3000) for thing in train.scene(i).things}
    assert seen.isdisjoint(HELD_OUT)
    assert len(seen) > 0.98 * (len(triples()) - len(HELD_OUT))
    assert {thing.triple for i in range(600) for thing in test.scene(i).things} == HELD_OUT
    for facts in zip(*HELD_OUT, strict=True):  # each fact by itself is seen in training
        assert set(facts) <= {fact for triple in seen for fact in triple}


def test_a_sample_depends_on_seed_and_index_alone() -> None:
    a, b = ShapesWorld(CLIP, seed=3), ShapesWorld(CLIP, seed=3)
    b[0], b[5]
    assert np.array_equal(a[7].frames, b[7].frames)
    assert a[7].captions == b[7].captions
    assert not np.array_equal(a[7].frames, ShapesWorld(CLIP, seed=4)[7].frames)


@pytest.mark.slow
def test_a_word_with_more_weight_is_drawn_more_often() -> None:
    """Against the closed form: a triple's share is the product of its words' weights over the sum of all."""
    more = {"spinning": 4.0, "star": 0.5}
    world = ShapesWorld(CLIP, num_things=1, more=more)
    things = [world.scene(i).things[0] for i in range(4000)]
    assert not {thing.triple for thing in things} & HELD_OUT
    trained = [t for t in triples() if t not in HELD_OUT]
    weights = [math.prod(more.get(word, 1.0) for word in t) for t in trained]
    for word, place in (("spinning", 2), ("star", 1), ("red", 0)):
        share = sum(w for w, t in zip(weights, trained, strict=True) if t[place] == word) / sum(weights)
        seen = sum(thing.triple[place] == word for thing in things) / len(things)
        assert abs(seen - share) < 4 * math.sqrt(share * (1 - share) / len(things)), word
    plain, ones = ShapesWorld(CLIP), ShapesWorld(CLIP, more={})
    assert all(plain.scene(i) == ones.scene(i) for i in range(50))


@pytest.mark.parametrize(
    ("more", "message"), [({"dodging": 2.0}, "'dodging' is none of"), ({"star": 0.0}, "star: 0 is no weight")]
)
def test_a_word_that_cannot_be_drawn_more_often_is_named(more: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ShapesWorld(CLIP, more=more)


def test_captions_say_colour_shape_and_motion_and_no_word_is_outside_the_vocabulary() -> None:
    words = {w for c in vocabulary_captions() for w in c.split()}
    for image in (False, True):
        world = ShapesWorld(CLIP.image() if image else CLIP)
        for i in range(200):
            scene = world.scene(i)
            for text in world.captions(i):
                assert set(text.split()) <= words
                for thing in scene.things:
                    assert f"{thing.color} {thing.shape}" in text
                    assert any(m in text for m in MOTIONS[thing.motion]) != image


@pytest.mark.slow
def test_two_things_have_two_colours_and_never_touch() -> None:
    world = ShapesWorld(CLIP, num_things=2)
    for i in range(40):
        sample = world[i]
        first, second = sample.scene.things
        assert first.color != second.color
        alone = render(Scene((first,), sample.scene.background), CLIP, rng_for(0))
        assert alone.shape == sample.frames.shape
        mask = covered(sample.frames, sample.scene.background)
        assert mask.any(axis=(1, 2)).all()


@pytest.mark.parametrize("motion", MOTIONS)
@pytest.mark.parametrize("size", [CLIP, ClipSize(33, 64, 96, 8), ClipSize(25, 96, 64, 12)])
def test_a_thing_moves_as_said_and_stays_inside(motion: str, size: ClipSize) -> None:
    for seed in range(4):
        scene = Scene((Thing("red", "star", "large", motion),), "white")
        frames = render(scene, size, rng_for(seed))
        mask = covered(frames, "white")
        if motion not in ("growing", "shrinking"):  # nothing is cut off at an edge: the area stays
            areas = area_of(frames)
            assert areas.min() > 0.97 * areas.max()
        path = centres(mask)
        way = path[-1] - path[0]
        area = mask.sum(axis=(1, 2))
        moves = {"left": way[0] < -8, "right": way[0] > 8, "up": way[1] < -8, "down": way[1] > 8}
        if motion in moves:
            assert moves[motion]
            steps = np.diff(path, axis=0)
            assert np.abs(steps - steps.mean(axis=0)).max() < 1.0  # straight and even, to a pixel
        elif motion in ("growing", "shrinking"):
            assert (area[-1] > 3 * area[0]) == (motion == "growing")
            assert (area[0] > 3 * area[-1]) == (motion == "shrinking")
        elif motion == "bouncing":
            assert np.ptp(path[:, 1]) > 6 > 2 > np.ptp(path[:, 0])
        elif motion == "circling":
            assert min(np.ptp(path, axis=0)) > 5
        else:
            assert np.ptp(path, axis=0).max() < 3
            assert np.array_equal(frames[0], frames[size.num_frames // 4]) == (motion == "still")


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_covers_the_area_of_its_polygon(shape: str) -> None:
    corners = polygon(shape)
    x, y = corners.T
    area = abs(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1))) / 2  # the shoelace formula
    scene = Scene((Thing("blue", shape, "large", "still"),), "black")
    frame = render(scene, ClipSize(1, 128, 128, 8), rng_for(1))[0].astype(float)
    red = (frame[..., 2] - 12) / (COLORS["blue"][2] - 12)  # share of the thing in each pixel
    assert red.sum() == pytest.approx(area * (SIZES["large"] * 128) ** 2, rel=0.02)
    assert np.hypot(x, y).max() <= 1.2 + 1e-9


def test_an_image_is_the_scene_without_motion() -> None:
    world = ShapesWorld(CLIP.image())
    assert world[0].frames.shape == (1, 64, 64, 3)


def test_turning_a_polygon_keeps_its_size() -> None:
    for shape in SHAPES:
        a, b = polygon(shape), polygon(shape, 1.0)
        np.testing.assert_allclose(np.hypot(*a.T), np.hypot(*b.T))
        cross = a[0, 0] * b[0, 1] - a[0, 1] * b[0, 0]
        assert math.isclose(abs(cross), np.hypot(*a[0]) ** 2 * math.sin(1.0), rel_tol=1e-9)
