"""`videodit benchmark` through its command, at tiny sizes: what is counted is exact, and who disagrees is not timed.

No test goes by a time.
"""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree as ElementTree
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from footage import pan

from videodit import VideoDiTPipeline
from videodit.commands import benchmark
from videodit.commands.benchmarks import devices, peers, sample, scaling, turns
from videodit.commands.benchmarks.turns import Disagreement
from videodit.text import TextEncoder
from videodit.training.precision import lacks_bfloat16
from videodit.video.writer import write_video

CPU = torch.device("cpu")


def run(monkeypatch: pytest.MonkeyPatch, *args: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *map(str, args)])
    return benchmark.main()


def found(monkeypatch: pytest.MonkeyPatch, folder: Path, *args: str | Path) -> dict[str, Any]:
    """What a sub-command writes."""
    assert run(monkeypatch, *args, "--json", folder / "found.json") == 0
    return json.loads((folder / "found.json").read_text())


@pytest.mark.slow
def test_model_counts_what_must_be_done_and_what_each_does(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    values = found(monkeypatch, tmp_path, "model", "--quick", "--no-compile", "--rounds", "1", "--seconds", "0")
    assert {t["precision"] for t in values["tables"]} == ({"fp32"} if lacks_bfloat16(CPU) else {"fp32", "bf16"})
    tables = {(t["shape"]["name"], t["pass"]): {r["name"]: r for r in t["rows"]} for t in values["tables"]}
    assert len(tables) == 6
    for (name, _), rows in tables.items():
        assert list(rows) == ["floor", "videodit", "diffusers"]
        assert all(set(row["ratios"]) == {"floor", "diffusers"} and row["seconds"] for row in rows.values())
        assert rows["floor"]["flops"] == rows["videodit"]["flops"]
        assert (rows["diffusers"]["flops"] > rows["videodit"]["flops"]) == name.startswith("Latte")
    # one layer of width 32 on 4 frames of 16 places, 6 text tokens of 16, by hand
    d, n, m = 32, 4 * 16, 6
    space = n * (2 * 4 + 2 * 2 + 2 * 8) * d * d + m * 2 * 2 * d * d  # self-attention, q and out to the text, MLP; k, v
    time = n * (2 * 4 + 2 * 8) * d * d
    attention = 4 * n * d * (16 + m + 4)
    ends = 2 * n * d * (16 + 32) + 2 * m * (16 * d + d * d) + 2 * d * (256 + d + 6 * d)
    assert tables["Latte-1", "forward"]["floor"]["flops"] == space + time + attention + ends


def test_models_that_disagree_are_not_timed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = peers.from_diffusers

    def broken(theirs: Any) -> Any:
        ours, report = made(theirs)
        with torch.no_grad():
            ours.proj_out.bias = torch.nn.Parameter(ours.proj_out.bias + 1e-3)
        return ours, report

    monkeypatch.setattr(peers, "from_diffusers", broken)
    for what in ("model", "memory"):
        assert run(monkeypatch, what, "--quick") == 1
        assert "Latte-1, float32: ours and theirs differ by" in capsys.readouterr().err
    with pytest.raises(Disagreement):
        devices.check_agreement("no number", torch.full((2,), float("nan")), torch.ones(2), 1.0)


@pytest.mark.slow
def test_memory_is_counted_exactly(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def two_then_three() -> None:
        a, b = torch.empty(1000), torch.empty(1000)
        del a, b
        for _ in range(3):
            torch.empty(5000)

    assert devices.peak_memory(two_then_three, CPU) == (20000, None)
    first, second = (found(monkeypatch, tmp_path, "memory", "--quick")["rows"] for _ in range(2))
    assert first == second
    plain, checkpointed = first[:2]
    assert (plain["checkpointing"], checkpointed["checkpointing"]) == (False, True)
    for name in ("videodit", "diffusers"):
        assert plain["peak_bytes"][name] > checkpointed["peak_bytes"][name] > plain["gradient_bytes"]


@pytest.mark.slow
def test_sample_compares_pipelines_and_states_a_caches_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(
        "videodit.commands.benchmarks.sample.compiled", deepcopy
    )  # how long it takes is not what this is about
    args = ("sample", "--quick", "--tokens", "6", "--steps", "6", "--rounds", "1", "--cache", "taylorseer")
    (table,) = found(monkeypatch, tmp_path, *args)["tables"]
    by_name = {row["name"]: row for row in table["rows"]}
    both, cached = ("videodit", "diffusers"), by_name["videodit, taylorseer"]
    assert list(by_name) == [*both, *(f"{name}, compiled" for name in both), "videodit, taylorseer"]
    assert all(row["peak_bytes"] > 0 for row in by_name.values())
    assert by_name["videodit, compiled"]["psnr"] > 100
    assert 0 < cached["mean_error"] < 0.1
    assert cached["psnr"] > 20
    two = found(monkeypatch, tmp_path, *args, "--no-compile", "--tokens", "2", "120")["tables"]
    assert [(table["tokens"], len(table["rows"])) for table in two] == [(2, 3), (120, 3)]
    for wrong in ("1", "121"):
        assert run(monkeypatch, *args, "--tokens", wrong) == 2
        assert "--tokens: each must be from 2 to 120" in capsys.readouterr().err
    original = VideoDiTPipeline.__call__
    monkeypatch.setattr(VideoDiTPipeline, "__call__", lambda *a, **k: original(*a, **k | {"negative_prompt": "blue"}))
    assert run(monkeypatch, *args) == 1
    assert "pixels: ours and theirs differ by" in capsys.readouterr().err


@pytest.mark.parametrize("tokens", [2, 6, 120])
def test_a_prompt_has_as_many_tokens_as_asked_for(tokens: int) -> None:
    text = TextEncoder.from_captions([sample.PROMPT], width=8, max_length=sample.MOST)
    assert text([sample.prompt_of(tokens)]).mask.sum() == tokens
    assert text.truncated(sample.prompt_of(tokens)) is None


@pytest.mark.slow
def test_scaling_fits_a_power_and_draws_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert scaling.exponent([1, 2, 4, 8], [3.0, 12.0, 48.0, 192.0]) == pytest.approx(2)
    plot = tmp_path / "x.svg"
    values = found(monkeypatch, tmp_path, "scaling", "--quick", "--rounds", "1", "--plot", plot)
    assert [table["frames"] for table in values["tables"]] == [2, 4, 8]
    names = ["videodit", scaling.NEAR, scaling.SUMS, scaling.PEER]
    assert all([row["name"] for row in table["rows"]] == names for table in values["tables"])
    assert set(values["exponents"]) == {"median", "peak_bytes"}
    lines = ElementTree.parse(plot).findall("{*}polyline")
    assert [len(line.attrib["points"].split()) for line in lines] == [3, 3, 3, 3]
    for wrong, words in ((("--width", "100"), "--width 100 must be"), (("--frames", "8"), "name two lengths")):
        assert run(monkeypatch, "scaling", *wrong) == 2
        assert words in capsys.readouterr().err


@pytest.mark.slow
def test_train_sees_all_of_a_step(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_pipe: VideoDiTPipeline
) -> None:
    tiny_pipe.save_pretrained(tmp_path / "model")
    config = tmp_path / "run.yaml"
    config.write_text(
        "output: unused\ndata: {num_frames: 5, height: 32, width: 32}\ntrain: {precision: no}\n"
        "stages: [{train: {batch_size: 2}}, {train: {batch_size: 3}}]"
    )
    args = (
        "train",
        "--config",
        config,
        "--model",
        tmp_path / "model",
        "--clips",
        "4",
        "--warmup",
        "1",
        "train.max_grad_norm=2",
    )
    values = found(monkeypatch, tmp_path, *args, "--steps", "2")
    assert len(values["steps"]) == 2
    for step in values["steps"]:
        assert min(step.values()) >= 0
        parts = sum(value for name, value in step.items() if name not in ("total", "image"))
        assert parts == pytest.approx(step["total"])
        assert all(step[name] > 0 for name in ("forward", "backward", "optimizer", "data", "noise", "average"))
    assert run(monkeypatch, *args, "--stage", "3") == 2
    assert "--stage 3: " in capsys.readouterr().err


@pytest.mark.slow
def test_data_reads_videos_of_ones_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_video(tmp_path / "x.mp4", pan(40, 64, 96), 8)
    monkeypatch.setattr("videodit.commands.benchmarks.data.os.cpu_count", lambda: 1)
    args = ("data", "--videos", tmp_path, "--rounds", "1", "--clips", "1", "--reads", "0")
    titles = {table["title"]: table["rows"][0]["name"] for table in found(monkeypatch, tmp_path, *args)["speed"]}
    assert titles == {"on one core": "videodit", "on all cores": "videodit, 1 guarded processes"}


def test_all_take_turns_on_the_same_inputs_and_ratios_are_of_a_round() -> None:
    seen: list[tuple[str, int]] = []
    inputs = iter(range(10))
    took = turns.take_turns(
        {name: lambda x, name=name: seen.append((name, x)) for name in "ab"}, 3, draw=lambda: (next(inputs),)
    )
    assert seen == [("a", 0), ("b", 1), ("a", 2), ("b", 2), ("b", 3), ("a", 3), ("a", 4), ("b", 4)]
    assert {name: len(each) for name, each in took.items()} == {"a": 3, "b": 3}
    ours, theirs = turns.rows({"ours": [1.0, 9.0, 4.0], "theirs": [2.0, 3.0, 4.0]}, ["theirs"])
    assert (ours["median"], ours["low"], ours["high"], ours["ratios"]) == (4.0, 1.0, 9.0, {"theirs": 1.0})
    assert theirs["ratios"] == {"theirs": 1.0}


def test_a_device_that_is_not_there_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "memory", "--quick", "--device", "nowhere") == 2
    error = capsys.readouterr().err
    assert "--device nowhere: " in error
    assert error.count("\n") == 1


@pytest.mark.slow
def test_images_are_compared_with_themselves(monkeypatch, tmp_path):
    values = found(monkeypatch, tmp_path, "images", "--quick", "--rounds", "1", "--layers", "1", "--width", "64")
    assert {(table["family"], table["frames"]) for table in values["tables"]} == {
        (family, frames) for family in ("SD3", "Sana", "Z-Image") for frames in (2, 4)
    }
    for table in values["tables"]:
        assert [row["name"] for row in table["rows"]] == ["the image model", "extended, time blocks off", "extended"]
        assert all(row["median"] > 0 for row in table["rows"])


@pytest.mark.slow
def test_quality_is_of_the_same_prompts_and_seeds_for_each_way(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_pipe: VideoDiTPipeline
) -> None:
    tiny_pipe.save_pretrained(tmp_path / "model")
    own = f"model={tmp_path / 'model'} guidance_scale=1"
    ways = [f"whole: {own} steps=1", f"again: {own} steps=1", f"two: {own} steps=2 cache=taylorseer"]
    asked = [option for one in ways for option in ("--way", one)]
    values = found(monkeypatch, tmp_path, "quality", "--quick", "--rounds", "1", *asked)
    assert [row["name"] for row in values["rows"]] == ["whole", "again", "two"]
    assert values["rows"][1]["shares"] == values["rows"][0]["shares"]
    assert values["rows"][1]["difference"] == [0.0, 0.0, 0.0]
    assert all([row["name"] for row in values["times"][kind]] == ["whole", "again", "two"] for kind in ("latent", "np"))
    capsys.readouterr()
    for wrong, words in (
        ("a: colour=red", "'colour=red' in 'a: colour=red' is none of model, steps"),
        (": steps=2", "has no name before its colon"),
        ("a: steps=none", "steps=none must be a valid integer"),
    ):
        with pytest.raises(SystemExit, match="2"):
            run(monkeypatch, "quality", "--way", wrong)
        assert words in capsys.readouterr().err
    assert run(monkeypatch, "quality", "--way", "a", "--way", "a: steps=2") == 2
    assert "two have the same name" in capsys.readouterr().err
