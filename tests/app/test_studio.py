"""The studio with a tiny model: what is made and kept, stopped, compared, voted on, and what is refused."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import awaken, tiny_pipeline

from videodit.app.studio import Side, Studio
from videodit.app.work import Job
from videodit.clipset import Request, Sampling
from videodit.evaluation.report.votes import load_votes
from videodit.models import Condition
from videodit.models.branches import branch_of, save_control
from videodit.pipeline import VideoDiTPipeline
from videodit.video import probe, read_clip, read_metadata, write_video

ONE = Request("a red circle moving left", seed=3, num_frames=5)


@pytest.fixture
def studio(tiny_pipe: VideoDiTPipeline, tmp_path: Path) -> Iterator[Studio]:
    studio = Studio(tmp_path / "out", ["tiny", "other"], lambda model: tiny_pipe)
    yield studio
    studio.close()


def ended(job: Job) -> Job:
    return list(job.changes())[-1]


def made(studio: Studio, *requests: Request, **sampling: object) -> Job:
    job = ended(studio.make("me", requests or [ONE], Sampling(**({"steps": 2} | sampling))))
    assert job.state == "done", job.error
    return job


def test_clips_are_kept_with_their_settings_and_are_the_history(studio: Studio, tiny_pipe: VideoDiTPipeline) -> None:
    own = tiny_pipe.scheduler
    job = made(studio, ONE, replace(ONE, seed=4), scheduler="UniPCMultistepScheduler")
    assert job.made == [studio.out / "0000.mp4", studio.out / "0001.mp4"]
    assert (job.step, job.steps) == (2, 2)
    assert tiny_pipe.scheduler is own  # the next clip is not made by it
    made(studio, replace(ONE, num_frames=1))
    assert [entry.path.name for entry in studio.entries()] == ["0002.png", "0001.mp4", "0000.mp4"]
    assert studio.entries()[1].settings == json.loads((studio.out / "0001.json").read_text())
    assert studio.entries()[1].settings["seed"] == 4
    assert not list(studio.out.glob("*preview*"))


def test_the_folder_is_the_history_of_the_next_start_too(studio: Studio, tiny_pipe: VideoDiTPipeline) -> None:
    made(studio)
    later = Studio(studio.out, ["tiny"], lambda model: tiny_pipe)
    assert [entry.path.name for entry in later.entries()] == ["0000.mp4"]
    assert made(later).made == [studio.out / "0001.mp4"]  # and nothing of it is written over
    later.close()


def test_previews_are_there_while_a_clip_is_made(tiny_pipe: VideoDiTPipeline, tmp_path: Path) -> None:
    watched, seen = threading.Event(), []

    def load(model: str) -> VideoDiTPipeline:
        assert watched.wait(60)
        return tiny_pipe

    studio = Studio(tmp_path, ["tiny"], load)
    job = studio.make("me", [ONE], Sampling(steps=4))
    job.watch = lambda step, steps: seen.append((step, steps, job.preview.exists()))  # type: ignore[method-assign]
    watched.set()
    ended(job)
    assert seen == [(step, 4, True) for step in range(1, 5)]
    assert [file.name for file in sorted(tmp_path.glob("0*"))] == ["0000.json", "0000.mp4"]
    studio.close()


@pytest.mark.slow
def test_a_job_that_is_stopped_keeps_what_is_made_and_leaves_nothing_half(studio: Studio) -> None:
    job = studio.make("me", [ONE, replace(ONE, seed=9)], Sampling(steps=50))
    for news in job.changes():
        if news.made and news.step == 3:
            job.cancel()
    assert job.state == "stopped"
    assert [file.name for file in sorted(studio.out.glob("0*"))] == ["0000.json", "0000.mp4"]


def test_a_branch_is_put_onto_the_first_model_and_weighs_where_its_map_is_given(tmp_path: Path) -> None:
    pipe, told = tiny_pipeline(), tiny_pipeline().transformer
    told.add_conditions([Condition("edges", "channels", 64, True, of="edges", branch=1)])
    awaken(branch_of(told, "edges")[1])
    save_control(told, "edges", tmp_path / "edges")
    write_video(tmp_path / "map.mp4", np.zeros((5, 32, 32, 3), np.uint8), 8)
    loads = {"first": pipe, "second": tiny_pipeline()}
    studio = Studio(tmp_path / "out", [*loads], loads.__getitem__, [f"{tmp_path / 'edges'}=0.5"])
    assert [one.name for one in studio.told()] == ["edges"]
    given = [f"edges={tmp_path / 'map.mp4'}"]
    made(studio, ONE, conditions=given)
    made(studio, ONE)
    scales = [entry.settings.get("condition_scale") for entry in studio.entries()]
    assert scales == [None, {"edges": 0.5}]
    other = ended(studio.make("me", [ONE], Sampling(steps=1, conditions=given), "second"))
    assert "edges" in other.error
    studio.close()


def test_a_clip_can_be_had_in_other_formats_with_its_settings(studio: Studio, tmp_path: Path) -> None:
    made(studio)
    scratch = tmp_path / "scratch"
    for suffix in (".gif", ".webp"):
        copy = studio.copy("0000", suffix, scratch)
        assert (copy.parent, copy.suffix) == (scratch, suffix)
        assert studio.copy("0000", suffix, scratch) == copy
        assert json.loads(read_metadata(copy)["comment"])["seed"] == 3
    ours, theirs = (read_clip(file, 5, 8.0) for file in (studio.out / "0000.mp4", copy))
    assert np.array_equal(ours, theirs)
    assert studio.copy("0000", ".mp4", scratch) == studio.out / "0000.mp4"
    for name, suffix in (("0001", ".gif"), ("0000", ".exe"), ("../0000", ".gif"), ("given/a", ".gif")):
        with pytest.raises(ValueError, match="there is no such clip"):
            studio.copy(name, suffix, scratch)


def test_uploads_are_kept_by_their_content_and_what_is_none_is_named(studio: Studio, tmp_path: Path) -> None:
    Image.new("RGB", (32, 32), "red").save(tmp_path / "a.png")
    write_video(tmp_path / "a.mp4", np.zeros((5, 32, 32, 3), np.uint8), 8)
    kept = studio.given("image", tmp_path / "a.png")
    assert kept.parent == studio.out / "given"
    assert kept.read_bytes() == (tmp_path / "a.png").read_bytes()
    assert studio.given("last_image", tmp_path / "a.png") == kept
    assert probe(studio.given("video", tmp_path / "a.mp4")).num_frames == 5
    (tmp_path / "a.wav").write_bytes(b"heard when it is told")
    for name in ("a.wav", "a.mp4", "a.png"):
        assert studio.given("told picture", tmp_path / name).suffix == Path(name).suffix
    (tmp_path / "b.png").write_text("no picture")
    (tmp_path / "b.html").write_text("no file to tell")
    (tmp_path / "b.mp4").write_text("no video")
    wrong = [("image", "b.png"), ("image", "a.mp4"), ("video", "b.mp4"), ("video", "a.png"), ("image", "a.wav")]
    for field, name in (*wrong, ("told mask", "b.png"), ("told mask", "b.mp4"), ("told mask", "b.html")):
        with pytest.raises(ValueError, match=name) as error:
            studio.given(field, tmp_path / name)
        assert str(tmp_path) not in str(error.value)
    assert len(list((studio.out / "given").iterdir())) == 3


def test_a_wrong_request_and_a_broken_model_are_told_and_the_next_clip_is_made(
    tiny_pipe: VideoDiTPipeline, tmp_path: Path
) -> None:
    def load(model: str) -> VideoDiTPipeline:
        if model == "broken":
            raise OSError(f"{model}: no model_index.json")
        return tiny_pipe

    studio = Studio(tmp_path, ["tiny", "broken"], load)
    wrong = ended(studio.make("me", [replace(ONE, height=33)], Sampling(steps=1)))
    assert wrong.state == "failed"
    assert "33" in wrong.error
    assert "no model_index.json" in ended(studio.make("me", [ONE], Sampling(steps=1), "broken")).error
    with pytest.raises(ValueError, match="'/etc' is no model of this page"):
        studio.make("me", [ONE], Sampling(steps=1), "/etc")
    assert made(studio, steps=1).made
    studio.close()


@pytest.mark.slow
def test_two_sides_are_compared_on_the_same_seeds_and_votes_are_kept_once(studio: Studio) -> None:
    sides = (Side("tiny", Sampling(steps=1)), Side("tiny", Sampling(steps=3)))
    asked = [replace(ONE, seed=seed) for seed in range(6)]
    job = ended(studio.compare("me", asked, sides))
    assert (job.state, len(job.made)) == ("done", 12)
    pairs = studio.votes().pairs
    assert [pair.seed for pair in pairs] == list(range(6))
    for pair in pairs:
        for clip, side in zip(pair.clips, pair.sides, strict=True):
            settings = json.loads((studio.out / "compare" / clip).with_suffix(".json").read_text())
            assert settings["seed"] == pair.seed
            assert f"steps={settings['steps']} " in side
    assert studio.vote(pairs[0], "first")
    assert not studio.vote(pairs[0], "second")  # another voted before
    assert [pair.choice for pair in load_votes(studio.votes_file).pairs] == ["first"] + [None] * 5
    assert studio.entries() == []  # the history is of prompts alone
    shown = studio.clips(pairs[1])
    assert shown is not None
    assert [clip.path.name for clip in shown] == list(pairs[1].clips)
    shown[0].path.unlink()
    assert studio.clips(pairs[1]) is None
    with pytest.raises(ValueError, match="both sides are alike"):
        studio.compare("me", asked, (sides[0], sides[0]))
    own = Sampling().resolved(studio.pipe("tiny"))  # said by name, and left empty
    alike = ended(studio.compare("me", [ONE], (Side("tiny", Sampling()), Side("tiny", own))))
    assert (alike.state, "both sides are alike" in alike.error) == ("failed", True)


@pytest.mark.slow
def test_each_of_two_models_is_loaded_once_for_all_pairs(tiny_pipe: VideoDiTPipeline, tmp_path: Path) -> None:
    loaded = []
    studio = Studio(tmp_path, ["a", "b"], lambda model: (loaded.append(model), tiny_pipe)[1])
    sides = (Side("a", Sampling(steps=1)), Side("b", Sampling(steps=1)))
    job = ended(studio.compare("me", [replace(ONE, seed=seed) for seed in range(3)], sides))
    assert (job.state, loaded) == ("done", ["a", "b"])
    assert {frozenset(side[0] for side in pair.sides) for pair in studio.votes().pairs} == {frozenset("ab")}
    studio.close()


def test_who_is_on_the_left_is_drawn(studio: Studio) -> None:
    drawn = {studio._pair(0, is_image=False)[0].stem for _ in range(64)}
    assert drawn == {"0000", "0001"}


@pytest.mark.slow
def test_the_words_of_a_clip_are_there_where_they_were_asked_for(studio: Studio) -> None:
    made(studio)
    job = ended(studio.make("me", [ONE], Sampling(steps=2), attention=True))
    assert job.state == "done", job.error
    watched, plain = studio.entries()
    assert studio.words(plain) == []
    words = studio.words(watched)
    assert [one["word"] for one in words] == ONE.prompt.split()
    assert all(probe(studio.out / one["file"]).num_frames == ONE.num_frames for one in words)
    assert sum(one["mean"] for one in words) <= 1
    assert np.array_equal(read_clip(watched.path, 5, 8.0), read_clip(plain.path, 5, 8.0))  # looking changes nothing
