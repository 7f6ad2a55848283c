"""The world of emoji: what is held out, how art is read, what scenes show, and the files that are made of them."""

from __future__ import annotations

import io
import json
import tarfile
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from videodit.config.ground import parse_ground
from videodit.emoji.art import LOOP, PACKAGES, SIDE, ArtError, frames_of, read
from videodit.emoji.make import (
    CODEC,
    CODEC_TEST,
    LIVING,
    MANIFEST,
    digest,
    is_living,
    is_unseen,
    living,
    make,
    manifest,
    synonyms,
    training_scenes,
)
from videodit.emoji.scenes import FRAMES, MOTIONS, Scene, captions, render
from videodit.emoji.things import GROUNDS, TONES, Thing, held_out, is_held_out, known
from videodit.shapes import COLORS, SHAPES


def webp(count: int, side: int = 256) -> bytes:
    """A loop whose frame i has a disk of gray 2 i before nothing."""
    y, x = np.mgrid[:side, :side]
    frames = []
    for number in range(count):
        frame = np.zeros((side, side, 4), np.uint8)
        frame[(y - side / 2) ** 2 + (x - side / 2) ** 2 < (side / 3) ** 2] = (2 * number, 2 * number, 2 * number, 255)
        frames.append(Image.fromarray(frame))
    file = io.BytesIO()
    moving = {"save_all": True, "append_images": frames[1:], "duration": 42} if count > 1 else {}
    frames[0].save(file, format="WEBP", lossless=True, **moving)
    return file.getvalue()


def packages(folder: Path, files: dict[str, bytes]) -> None:
    """The four archives, the files spread over them."""
    for number, name in enumerate(PACKAGES):
        with tarfile.open(folder / name, "w:gz") as archive:
            for code, data in list(files.items())[number :: len(PACKAGES)]:
                member = tarfile.TarInfo(f"package/assets/{code}.webp")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))


def bar(width: int = SIDE // 4) -> np.ndarray:
    """Art of one frame: a red bar at the left edge, half as high as the frame, at the top."""
    frame = np.zeros((1, SIDE, SIDE, 4), np.uint8)
    frame[:, : SIDE // 2, :width] = (255, 0, 0, 255)
    return frame


def thing(code: str = "1f600", name: str = "thing", tone: str | None = None, moves: bool = False) -> Thing:
    return Thing(code, name, tone, moves, ())


def middle(frame: np.ndarray) -> tuple[float, float]:
    """Of what is opaque: column and row, 0 to 1."""
    weights = frame[..., 3].astype(float)
    places = (np.arange(len(frame)) + 0.5) / len(frame)
    return float((weights.sum(0) * places).sum() / weights.sum()), float(
        (weights.sum(1) * places).sum() / weights.sum()
    )


def test_of_each_family_with_a_missing_tone_the_other_four_are_known():
    things, missing = known(), held_out()
    codes = {one.code for one in things}
    assert len(codes) == len(things)
    assert {one.code for one in missing}.isdisjoint(codes)
    tones = Counter((one.name, one.tone) for one in things if one.tone)
    assert set(tones.values()) == {1}
    for one in missing:
        assert {tone for name, tone in tones if name == one.name} == set(TONES.values()) - {one.tone}
    families = {one.name for one in things if one.tone}
    assert len(missing) == pytest.approx(len(families) / 3, abs=5)


@pytest.mark.slow
def test_no_training_scene_may_stand_on_a_ground_that_is_held_out():
    for ground in GROUNDS:
        parse_ground(ground)
    shares = [is_held_out(one.name, ground) for one in known() for ground in GROUNDS]
    assert np.mean(shares) == pytest.approx(1 / 8, abs=0.01)
    for scene in training_scenes(300, seed=1):
        assert scene.grounds
        for one in scene.things:
            assert all(zlib.crc32(f"{one.name}|{ground}".encode()) % 8 for ground in scene.grounds)


def test_training_shows_each_thing_as_it_is_and_with_a_motion_and_so_many_pairs():
    scenes = training_scenes(200, seed=3)
    assert scenes == training_scenes(200, seed=3)
    alone = Counter((scene.things[0].code, scene.motion != "own") for scene in scenes if len(scene.things) == 1)
    assert alone == Counter((one.code, moved) for one in known() for moved in (False, True))
    motions = Counter(scene.motion for scene in scenes if scene.motion != "own")
    assert set(motions) == set(MOTIONS)
    assert max(motions.values()) - min(motions.values()) < len(known()) / 50
    pairs = [scene.things for scene in scenes if len(scene.things) == 2]
    assert len(set(pairs)) == 200
    assert all(left.name != right.name for left, right in pairs)
    assert len({scene.name for scene in scenes}) == len(scenes)


@pytest.mark.parametrize("count", [13, 72, 73, 97])
def test_a_loop_of_any_length_gives_as_many_frames_at_even_distances(count):
    grays = frames_of(webp(count), "a")[:, SIDE // 2, SIDE // 2, 0] / 2
    assert len(grays) == LOOP
    assert grays == pytest.approx([number * count // LOOP for number in range(LOOP)], abs=0.5)


def test_a_still_picture_has_one_frame_and_a_taller_one_keeps_its_shape():
    assert frames_of(webp(1), "a").shape == (1, SIDE, SIDE, 4)
    tall = Image.new("RGBA", (256, 264))
    tall.paste((255, 0, 0, 255), (64, 68, 192, 196))  # a square in the middle
    file = io.BytesIO()
    tall.save(file, format="WEBP", lossless=True)
    alpha = frames_of(file.getvalue(), "a")[0, ..., 3] > 127
    assert alpha.any(0).sum() == pytest.approx(alpha.any(1).sum(), abs=1)
    assert middle(frames_of(file.getvalue(), "a")[0]) == pytest.approx((0.5, 0.5), abs=0.01)


def test_what_is_wrong_with_the_packages_is_named(tmp_path):
    with pytest.raises(
        ArtError, match=r"anim-1-1.0.0.tgz is missing: run `npm pack @lobehub/fluent-emoji-anim-1@1.0.0`"
    ):
        list(read(tmp_path, {"1f600"}))
    packages(tmp_path, {"1f600": webp(3), "1f1e6-fe0f": webp(1)})
    assert {code for code, _ in read(tmp_path, {"1f600", "1f1e6"})} == {"1f600", "1f1e6"}
    with pytest.raises(ArtError, match=r"lack 1 of 2 pictures \(1f601 ...\): take 1.0.0"):
        list(read(tmp_path, {"1f600", "1f601"}))
    packages(tmp_path, {"1f600": webp(3)[:100]})
    with pytest.raises(ArtError, match=r"1f600.webp is damaged"):
        list(read(tmp_path, {"1f600"}))
    (tmp_path / PACKAGES[0]).write_bytes(b"no archive")
    with pytest.raises(ArtError, match=r"anim-1-1.0.0.tgz is damaged"):
        list(read(tmp_path, {"1f600"}))


def test_a_thing_with_its_own_motion_is_its_art_scaled_and_its_loop_is_closed():
    one = thing(moves=True)
    art = {one.code: frames_of(webp(72), "a")}
    frames = render(Scene((one,)), art, side=SIDE // 2)
    assert frames.shape == (FRAMES, SIDE // 2, SIDE // 2, 4)
    assert np.array_equal(frames[0], frames[-1])
    boxes = art[one.code].reshape(LOOP, SIDE // 2, 2, SIDE // 2, 2, 4).astype(float)[..., 3].mean((2, 4))
    assert np.abs(frames[:LOOP, ..., 3] - boxes).max() <= 1
    assert Scene((thing(),)).num_frames == 1


@pytest.mark.slow
def test_motions_go_where_they_say():
    one = thing()
    art = {one.code: np.full((1, SIDE, SIDE, 4), 255, np.uint8)}
    shown = {motion: render(Scene((one,), motion), art) for motion in MOTIONS}
    moved = {motion: np.subtract(middle(frames[-1]), middle(frames[0])) for motion, frames in shown.items()}
    for motion, axis, sign in (("left", 0, -1), ("right", 0, 1), ("up", 1, -1), ("down", 1, 1)):
        assert sign * moved[motion][axis] == pytest.approx(0.34, abs=0.02)
        assert abs(moved[motion][1 - axis]) < 0.01
    areas = {motion: (frames[..., 3] / 255.0).mean((1, 2)) for motion, frames in shown.items()}
    assert areas["growing"] == pytest.approx(areas["shrinking"][::-1], abs=0.02)
    assert (np.diff(areas["growing"]) > 0).all()
    assert areas["growing"][[0, -1]] == pytest.approx([0.16, 1.0], abs=0.02)


def test_what_turns_goes_round_clockwise_once():
    one = thing()
    frames = render(Scene((one,), "turning"), {one.code: bar()})
    places = [middle(frame) for frame in frames]  # the bar begins at the upper left
    assert places[0] == pytest.approx(places[-1], abs=0.01)
    for quarter, (x, y) in enumerate([(-1, -1), (1, -1), (1, 1), (-1, 1)]):
        place = np.subtract(places[quarter * LOOP // 4], 0.5)
        assert (np.sign(place) == (x, y)).all()


def test_two_things_stand_side_by_side():
    pair = Scene((thing("a"), thing("b", "other")))
    full = np.full((1, SIDE, SIDE, 4), 255, np.uint8)
    art = {"a": full * np.array([1, 0, 0, 1], np.uint8), "b": full * np.array([0, 0, 1, 1], np.uint8)}
    (frame,) = render(pair, art)
    assert frame[32, 16].tolist() == [255, 0, 0, 255]
    assert frame[32, 48].tolist() == [0, 0, 255, 255]
    assert frame[4, 16, 3] == frame[60, 48, 3] == 0


def test_captions_say_the_name_the_tone_and_the_motion_and_rare_keywords_stand_for_names():
    person = Thing("1f575-1f3fb", "detective", "light", True, ("sleuth", "spy", "man"))
    men = [Thing(str(number), f"man {number}", None, True, ("man",)) for number in range(3)]
    words = synonyms([person, *men])
    assert words == {person.code: ("sleuth", "spy")} | {one.code: () for one in men}
    assert captions(Scene((person,)), words) == (
        "detective, light skin",
        "detective with light skin tone",
        "sleuth, light skin",
        "spy, light skin",
    )
    assert all("up" in text or "rising" in text for text in captions(Scene((person,), "up"), words))
    left, *others = captions(Scene((men[0], men[1])), words)
    assert left == "man 0 on the left and man 1 on the right"
    assert all("man 0" in text and "man 1" in text for text in others)


@pytest.mark.slow
def test_the_files_are_made_once_and_their_manifests_keep_names_for_the_codec_apart(tmp_path, monkeypatch):
    scenes = [Scene((one,)) for one in known()[:40]] + [Scene(known()[:2]), Scene((known()[5],), "left")]
    codes = sorted({one.code for scene in scenes for one in scene.things})
    packages(tmp_path, {code: webp(3 if number % 2 else 1) for number, code in enumerate(codes)})
    made = make(tmp_path, tmp_path / "out", scenes)
    rows = [json.loads(line) for line in (tmp_path / "out" / MANIFEST).read_text(encoding="utf-8").splitlines()]
    assert rows == manifest(scenes)
    assert all((tmp_path / "out" / row["file_name"]).is_file() for row in rows)
    assert "Microsoft" in (tmp_path / "out" / "LICENSE.txt").read_text()
    taught, tests = (
        [json.loads(line) for line in (tmp_path / "out" / name).read_text().splitlines()]
        for name in (CODEC, CODEC_TEST)
    )
    by_file = {f"art/{scene.name}.webp": scene for scene in scenes}
    assert not any(is_unseen(one.name) for row in taught for one in by_file[row["file_name"]].things)
    assert all(is_unseen(by_file[row["file_name"]].things[0].name) for row in tests)

    toned = {one.name for one in known() if one.tone}
    every = (tmp_path / "out" / MANIFEST).read_text().splitlines()
    scene_of = {line: by_file[json.loads(line)["file_name"]] for line in every}
    lives = (tmp_path / "out" / LIVING).read_text().splitlines()
    assert set(lives) == {line for line in every if is_living(scene_of[line], toned)}

    monkeypatch.setattr("videodit.emoji.make.read", lambda *_: pytest.fail("nothing is left to make"))
    assert make(tmp_path, tmp_path / "out", scenes) == made


def test_what_lives_moves_by_itself_and_people_of_tones_are_as_they_are():
    things = {one.code: one for one in known()}
    cat, ghost, surfer, surfers = (things[code] for code in ("1f639", "1f47b", "1f3c4", "1f3c4-1f3fd"))
    still = next(one for one in known() if not one.moves)
    toned = {surfer.name}
    lives = [Scene((cat,)), Scene((cat,), "left"), Scene((cat, ghost)), Scene((surfer,)), Scene((surfers,))]
    others = [
        Scene((surfer,), "left"),
        Scene((cat, surfer)),
        Scene((surfers,), "up"),
        Scene((cat, surfers)),
        Scene((still,), "up"),
        Scene((cat, still)),
    ]
    assert all(is_living(scene, toned) for scene in lives)
    assert not any(is_living(scene, toned) for scene in others)


def test_of_a_person_there_are_tones_so_all_else_that_lives_is_listed_as_often() -> None:
    things = {one.code: one for one in known()}
    cat, ghost, surfer, surfers = (things[code] for code in ("1f639", "1f47b", "1f3c4", "1f3c4-1f3fd"))
    scenes = [Scene((cat,)), Scene((surfer,)), Scene((surfer,), "left"), Scene((surfers,)), Scene((cat, ghost))]
    assert living(scenes, {surfer.name}) == [0, 1, 3, 4, 0, 4, 0, 4]


def test_no_caption_is_one_of_the_world_of_moving_shapes():
    """A red circle is a thing of both worlds: here it is told as an emoji."""
    words = synonyms(known())
    said = {text for scene in training_scenes(0, seed=0) for text in captions(scene, words)}
    of_shapes = {f"{color} {shape}" for color in COLORS for shape in SHAPES}
    assert any(f"{name} emoji" in said for name in of_shapes)
    assert not of_shapes & said


@pytest.mark.slow
def test_the_manifest_is_the_one_that_the_documents_name():
    """On every machine, whatever the version of numpy."""
    said = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    assert digest(manifest(training_scenes(4000, seed=0))) in said
