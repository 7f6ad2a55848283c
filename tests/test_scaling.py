"""Loss against steps, compute and clips: laws are found again in numbers that follow them, and nothing is guessed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from tiny import tiny_pipeline

from videodit.commands import plot
from videodit.config import Run
from videodit.describing import describe
from videodit.scaling import History, fitted, frontier, plotted, read_history

X = np.geomspace(10, 10_000, 60)


def law(a: float, b: float, c: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda x: a + b * x**-c


@pytest.mark.parametrize(("a", "b", "c"), [(0.0, 3.0, 0.1), (0.4, 5.0, 0.5), (1.0, 20.0, 1.3)])
@pytest.mark.parametrize("scale", [1.0, 1e12])
def test_a_law_is_found_in_what_follows_it(a: float, b: float, c: float, scale: float) -> None:
    found = fitted(X * scale, law(a, b, c)(X))
    assert found.c == pytest.approx(c, rel=2e-3)
    assert found.a == pytest.approx(a, abs=5e-3)
    assert found(X * scale) == pytest.approx(law(a, b, c)(X), rel=1e-3)
    assert found.c_range[0] <= found.c <= found.c_range[1]


@pytest.mark.slow
def test_the_interval_has_the_truth_in_it_about_as_often_as_it_says() -> None:
    a, b, c = 0.4, 5.0, 0.5
    held = 0
    for seed in range(40):
        noise = np.random.default_rng(seed).normal(0, 0.02, len(X))
        found = fitted(X, law(a, b, c)(X) * (1 + noise), seed=seed)
        held += found.c_range[0] <= c <= found.c_range[1]
        assert 0.01 < found.c_range[1] - found.c_range[0] < 0.4
    assert held >= 33  # of 40 at 95 %: fewer than one in ten thousand of a right interval


@pytest.mark.slow
def test_noise_widens_the_interval() -> None:
    def width(noise: float) -> float:
        errors = np.random.default_rng(0).normal(0, noise, len(X))
        low, high = fitted(X, law(0.4, 5.0, 0.5)(X) * (1 + errors)).c_range
        return high - low

    assert width(0.001) < width(0.01) < width(0.05)


def test_what_does_not_fall_has_no_exponent_to_speak_of_and_too_few_points_have_none() -> None:
    flat = fitted(X, np.full(len(X), 0.7))
    assert flat(X) == pytest.approx(0.7, rel=1e-6)
    with pytest.raises(ValueError, match="needs 6"):
        fitted(X[:5], X[:5])


def test_the_frontier_is_what_nothing_beats() -> None:
    x = np.array([1.0, 2.0, 3.0, 3.0, 4.0, 5.0])
    y = np.array([9.0, 7.0, 8.0, 6.0, 6.0, 5.0])
    assert frontier(x, y).tolist() == [0, 1, 3, 5]
    assert frontier(x[::-1], y[::-1]).tolist() == [5, 4, 2, 0]


def run_folder(folder: Path, loss: Callable[[np.ndarray], np.ndarray], **data: Any) -> Path:
    """A run that warmed up for ten steps and was measured every ten."""
    values = {"output": str(folder), "train": {"steps": 400, "warmup_steps": 10, "batch_size": 8}, "data": data}
    folder.mkdir()
    (folder / "config.json").write_text(Run.model_validate(values).model_dump_json())
    steps = np.arange(10, 401, 10)
    rows = [
        {"step": int(s), "loss_clip": 2.0, "validation_loss": float(v)} for s, v in zip(steps, loss(steps), strict=True)
    ]
    rows[0]["validation_loss"] = 50.0  # in the warm-up
    (folder / "losses.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.mark.slow
def test_steps_clips_and_compute_of_a_run(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "a", law(0.5, 4.0, 0.5), image_share=0.25)
    history = read_history(folder)
    assert (history.name, history.steps[0], history.loss[0]) == ("validation_loss", 10, 50.0)
    assert history.along("clips").tolist() == (8 * history.steps).tolist()
    with pytest.raises(ValueError, match="no checkpoint says yet"):
        history.along("compute")
    tiny_pipeline().save_pretrained(folder / "pipeline")
    clip, image = (describe(folder / "pipeline", num_frames=f).flops for f in (9, 1))
    each = 3 * 8 * (0.75 * clip + 0.25 * image)
    assert read_history(folder).along("compute") == pytest.approx(each * history.steps)
    assert read_history(folder, "loss_clip").loss.tolist() == [2.0] * 40


@pytest.mark.slow
def test_a_law_is_that_behind_the_warm_up_and_of_the_best_at_each_cost(tmp_path: Path) -> None:
    histories: list[History] = []
    for name, factor in (("good", 1.0), ("bad", 2.0)):
        folder = run_folder(tmp_path / name, lambda x, f=factor: f * law(0.5, 4.0, 0.5)(x), image_share=0.0)
        tiny_pipeline().save_pretrained(folder / "pipeline")
        histories.append(read_history(folder))
    picture, said = plotted(histories, "compute")
    assert [line.partition(":")[0] for line in said] == ["good", "bad", "the best at each cost"]
    assert [line.split(": ")[1].split()[0] for line in said] == ["0.5", "1", "0.5"]
    assert all("x^-0.50" in line for line in said)
    root = ElementTree.fromstring(picture)
    assert len(list(root.iter("{http://www.w3.org/2000/svg}circle"))) == 80
    _, said = plotted(histories, "steps")
    assert len(said) == 2


def run(monkeypatch: pytest.MonkeyPatch, *args: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["videodit plot", *map(str, args)])
    try:
        return plot.main()
    except SystemExit as end:
        return int(end.code or 0)


@pytest.mark.slow
def test_the_command_draws_and_says_what_it_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run_folder(tmp_path / "a", law(0.5, 4.0, 0.5))
    out = tmp_path / "a.svg"
    assert run(monkeypatch, folder, "--out", out, "--against", "steps", "--against", "clips") == 0
    assert "a: 0.5 + 4 x^-0.50" in capsys.readouterr().out
    root = ElementTree.parse(out).getroot()
    assert len(root.findall("{http://www.w3.org/2000/svg}svg")) == 2
    several = run_folder(tmp_path / "b", law(0.5, 4.0, 0.5), buckets=[{"num_frames": 1}, {"num_frames": 17}])
    damaged = run_folder(tmp_path / "c", law(0.5, 4.0, 0.5))
    (damaged / "losses.jsonl").write_text('{"step": 1}\n{"st')
    wrong = {
        "no run's folder": (tmp_path, "--out", out),
        "is an SVG": (folder, "--out", tmp_path / "a.png"),
        "named twice": (folder, folder, "--out", out),
        "has no nothing; it has loss_clip, validation_loss": (folder, "--loss", "nothing", "--out", out),
        "data.buckets steps show different numbers": (several, "--against", "clips", "--out", out),
        "line 2 is damaged": (damaged, "--out", out),
    }
    before = out.read_bytes()
    for said, words in wrong.items():
        assert run(monkeypatch, *words) == 2
        assert said in capsys.readouterr().err
    assert out.read_bytes() == before
