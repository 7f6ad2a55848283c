"""Scores while a model trains: what is told, that it is the same after a restart, and that a failure is everyone's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from footage import pan
from processes import launch
from pydantic import ValidationError
from runs import run

from videodit.evaluation.measure.measures import measure
from videodit.evaluation.measure.nearest import TrueClip, TrueClips
from videodit.training.scores import Scores
from videodit.training.trainer import Trainer
from videodit.video.index import VideoError

MEASURES = ["consistency_consecutive", "change_per_second", "nearest"]


def scored(folder: Path, **train: Any) -> Any:
    prompts = ["a red circle moving left", "a blue square spinning"]
    return run(folder, train={"evaluate_every": 2, "measures": MEASURES, "prompts": prompts, **train})


def scores_of(folder: Path) -> dict[int, dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "losses.jsonl").read_text().splitlines()]
    return {line.pop("step"): line for line in lines if "score_worthless" in line}


def test_scores_are_those_of_the_evaluation_and_worthless_clips_are_in_none() -> None:
    moving, gray = [pan(i, 9) for i in range(2)], np.full((9, 128, 160, 3), 128, np.uint8)
    true = [pan(i, 9) for i in (1, 5, 6)]
    found = Scores(MEASURES, lambda: iter(true))([*moving, gray], ["a", "b", "c"], 8)
    each = [measure(clip, 8, MEASURES[:2]) for clip in moving]
    for name in MEASURES[:2]:
        assert found[f"score_{name}"] == pytest.approx(np.mean([one[name].value for one in each], dtype=float))
    assert found["score_worthless"] == pytest.approx(1 / 3)
    known = TrueClips([TrueClip(clip) for clip in true])
    distances = [known.nearest(clip)[0].distance for clip in (*moving, gray)]
    assert found["score_nearest"] == pytest.approx(np.mean(distances))
    assert distances[1] == pytest.approx(0, abs=1e-3)  # which was trained on
    assert found["score_remembered"] == pytest.approx(1 / 3)
    alone = Scores(["frozen_share"], lambda: iter(()))([gray], ["a"], 8)
    assert alone == {"score_frozen_share": 1, "score_worthless": 1}  # and no change, of which no clip is left


def test_images_are_worth_something_unless_they_are_empty() -> None:
    gray = np.full((1, 64, 64, 3), 128, np.uint8)
    found = Scores([], lambda: iter(()))([pan(1, 1), gray], ["a", "b"], 8)
    assert found == {"score_worthless": 0.5}


@pytest.mark.slow
def test_a_run_on_images_has_no_clips_to_be_near_to(tmp_path: Path) -> None:
    config = run(tmp_path, data={"num_frames": 1}, train={"evaluate_every": 2, "measures": ["nearest"]})
    with pytest.raises(ValueError, match="nearest compares clips, and all that is trained on are images"):
        Trainer(config)


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (["flickr"], "train.measures: there is no measure 'flickr'; there is .*, nearest"),
        (
            ["paired_psnr"],
            "train.measures: paired_psnr cannot be taken while training: there is nothing to compare with",
        ),
        (["clip_text_alignment"], "train.measures: clip_text_alignment cannot be taken while training: no weights$"),
    ],
)
def test_a_measure_that_cannot_be_taken_is_refused_before_the_first_step(names: list[str], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Scores(names, lambda: iter(()))


def test_steps_and_measures_are_given_together(tmp_path: Path) -> None:
    for given in ({"evaluate_every": 5}, {"measures": ["nearest"]}):
        with pytest.raises(ValidationError, match=r"evaluate_every=.* and measures=.* go together: give both or none"):
            run(tmp_path, train=given)


@pytest.mark.slow
def test_scores_stand_beside_the_losses_and_are_the_same_bits_after_a_restart(tmp_path: Path) -> None:
    Trainer(scored(tmp_path / "whole")).train()
    whole = scores_of(tmp_path / "whole")
    assert list(whole) == [2, 4]
    for found in whole.values():
        assert {f"score_{name}" for name in ("nearest", "remembered", "worthless", "frozen_share")} <= set(found)
        some_are_good = found["score_worthless"] < 1  # of so small a model, perhaps none
        assert ("score_consistency_consecutive" in found) == some_are_good
    assert (tmp_path / "whole" / "samples" / "step_00000004.png").exists()
    assert not (tmp_path / "whole" / "samples" / "step_00000002.png").exists()  # it was measured, not shown
    again = tmp_path / "again"
    for part in ("vae", "latents"):
        shutil.copytree(tmp_path / "whole" / part, again / part)
    stopped = Trainer(scored(again))
    step = stopped.step

    def failing(number: int, pieces: Any) -> dict[str, float]:
        if number == 3:
            raise KeyboardInterrupt
        return step(number, pieces)

    stopped.step = failing  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    Trainer(scored(again)).train()
    assert scores_of(again) == whole


def trained(folder: str, fails: bool) -> str:
    trainer = Trainer(scored(Path(folder), steps=2, checkpoint_every=2))
    if fails and trainer.accelerator.is_main_process:

        def broken(*_: Any) -> dict[str, float]:
            raise VideoError("a disk that is full")

        trainer.scores = broken  # type: ignore[assignment]
    try:
        trainer.train()
    except (VideoError, RuntimeError) as error:
        return str(error)
    return "done"


@pytest.mark.slow
def test_of_two_processes_one_measures_and_where_it_fails_both_end(tmp_path: Path) -> None:
    assert launch(trained, str(tmp_path / "two"), False) == ["done", "done"]
    Trainer(scored(tmp_path / "one", steps=2, checkpoint_every=2)).train()
    one, two = (scores_of(tmp_path / name)[2] for name in ("one", "two"))
    assert two == pytest.approx(one, rel=1e-3)
    failed = launch(trained, str(tmp_path / "failing"), True)
    assert failed == ["a disk that is full", "step 1: sampling: another process failed, see its message"]
