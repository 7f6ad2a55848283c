"""videodit evaluate: what it writes, and how it names a user's mistakes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from footage import pan
from networks import save_clip
from standin import LEFT_EMPTY

from videodit.commands import evaluate as tool
from videodit.evaluation.judge.sampled import correlation
from videodit.evaluation.judge.world import held_out_scenes
from videodit.evaluation.report.results import load_results
from videodit.geometry import ClipSize
from videodit.pipeline import VideoDiTPipeline
from videodit.shapes import render, rng_for
from videodit.video.writer import write_video

from .fakes import GrayPipeline, Obedient


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, words)])
    try:
        return tool.main()
    except SystemExit as end:
        if end.code != 2:
            raise
        return 2


def some_clips(folder: Path, seed: int = 0) -> Path:
    for i in range(3):
        write_video(folder / f"{i}.mkv", pan(seed + i, 9), 8)
    return folder


@pytest.mark.slow
def test_a_folder_is_measured_and_what_cannot_be_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clips = some_clips(tmp_path / "clips")
    write_video(clips / "still.mkv", np.repeat(pan(5, 1), 9, axis=0), 8)
    write_video(clips / "image.png", pan(6, 1), 8)
    (clips / "broken.mp4").write_bytes(b"no video at all")
    assert run(monkeypatch, clips, "--out", tmp_path / "out") == 0
    results = load_results(tmp_path / "out" / "results.json")
    assert [clip.name for clip in results.clips] == ["0.mkv", "1.mkv", "2.mkv", "image.png", "still.mkv"]
    assert results.clips[-1].flags == ("still",)
    (failure,) = results.failures
    assert failure.name == "broken.mp4"
    said = capsys.readouterr().out
    assert "1 of 5 clips: still" in said
    assert "failed: broken.mp4" in said
    assert "5 measured, 1 failed" in said
    page = (tmp_path / "out" / "report.html").read_text()
    assert "still.mkv" in page


@pytest.mark.slow
def test_the_same_folder_twice_and_against_itself_gives_the_same_and_no_difference(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    clips = some_clips(tmp_path / "clips")
    common = (clips, "--metrics", "consistency_*", "warping_error", "--report-clips", 0)
    assert run(monkeypatch, *common, "--out", tmp_path / "a") == 0
    assert run(monkeypatch, *common, "--out", tmp_path / "b", "--workers", 2, "--compare", clips) == 0
    assert run(monkeypatch, *common, "--out", tmp_path / "c", "--compare", tmp_path / "a") == 0
    first, second, third = (load_results(tmp_path / name / "results.json") for name in "abc")
    assert first.clips == second.clips == third.clips
    assert first.summaries == second.summaries
    for found in (second.comparison, third.comparison):
        assert found is not None
        assert found.paired_by == "name"
        assert {(d.value, d.wins, d.losses) for d in found.differences.values()} == {(0, 0, 0)}
    assert not (tmp_path / "a" / "report.html").exists()


@pytest.mark.cpu(LEFT_EMPTY)
@pytest.mark.slow
def test_a_reference_a_comparison_and_weights_all_reach_the_report(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clips, other = some_clips(tmp_path / "clips"), some_clips(tmp_path / "other", 10)
    save_clip(tmp_path / "clip-tiny")
    (tmp_path / "prompts.txt").write_text("red\nred\nred\n")
    words = ("--reference", other, "--compare", other, "--clip", tmp_path / "clip-tiny", "--vbench")
    chosen = ("--metrics", "clip_*", "paired_ssim", "mmd_*", "dino_consistency_consecutive")
    assert (
        run(monkeypatch, clips, "--out", tmp_path / "out", "--prompts", tmp_path / "prompts.txt", *words, *chosen) == 0
    )
    results = load_results(tmp_path / "out" / "results.json")
    assert results.summaries["clip_text_alignment"].status == "measured"
    assert results.summaries["paired_ssim"].protocol.n == 3
    assert results.distances["mmd_pixels_8x8x8"].status == "measured"
    assert results.comparison is not None
    assert results.comparison.differences["clip_consistency_consecutive"].n == 3
    said = capsys.readouterr().out
    assert "skipped: dino_consistency_consecutive: no weights: give --dino" in said
    assert "lacks subject_consistency" in said
    assert json.loads((tmp_path / "out" / "vbench_eval_results.json").read_text()) == {}
    assert list((tmp_path / "out" / "features").glob("*.safetensors"))


@pytest.mark.slow
def test_flickering_at_native_size_is_exported_as_vbench_has_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    clips = some_clips(tmp_path / "clips")
    words = ("--size", "native", "--vbench", "--metrics", "temporal_flickering", "--report-clips", 0)
    assert run(monkeypatch, clips, "--out", tmp_path / "out", *words) == 0
    mean, rows = json.loads((tmp_path / "out" / "vbench_eval_results.json").read_text())["temporal_flickering"]
    changes = [np.abs(np.diff(pan(i, 9).astype(float), axis=0)).mean() for i in range(3)]
    assert mean == pytest.approx(np.mean([(255 - change) / 255 for change in changes]))
    assert [Path(row["video_path"]).name for row in rows] == ["0.mkv", "1.mkv", "2.mkv"]


@pytest.mark.slow
def test_a_model_samples_first_and_not_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_pipe: VideoDiTPipeline
) -> None:
    tiny_pipe.save_pretrained(tmp_path / "model")
    (tmp_path / "prompts.csv").write_text("prompt,num_frames\na red circle,5\ntwo blue stars,9\n")
    words = ("--prompts", tmp_path / "prompts.csv", "--steps", 1, "--seeds", 2, "--metrics", "frozen_share")
    assert run(monkeypatch, tmp_path / "model", *words, "--out", tmp_path / "out") == 0
    results = load_results(tmp_path / "out" / "results.json")
    asked = [("a red circle", 0, 5), ("a red circle", 2, 5), ("two blue stars", 1, 9), ("two blue stars", 3, 9)]
    assert [(clip.prompt, clip.seed, clip.num_frames) for clip in results.clips] == asked
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "clips").glob("*.mkv")}
    assert run(monkeypatch, tmp_path / "model", *words, "--out", tmp_path / "out") == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "clips").glob("*.mkv")} == before


@pytest.mark.slow
def test_clips_of_an_earlier_list_of_prompts_are_not_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_pipe: VideoDiTPipeline
) -> None:
    tiny_pipe.save_pretrained(tmp_path / "model")
    words = ("--steps", 1, "--metrics", "frozen_share", "--report-clips", 0, "--out", tmp_path / "out")
    for prompts in (["a red circle", "two blue stars"], ["a red circle"]):
        (tmp_path / "p.txt").write_text("\n".join(prompts))
        assert run(monkeypatch, tmp_path / "model", "--prompts", tmp_path / "p.txt", *words) == 0
        results = load_results(tmp_path / "out" / "results.json")
        assert [clip.prompt for clip in results.clips] == prompts


@pytest.mark.slow
def test_a_comparison_that_cannot_be_made_keeps_what_was_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    clips = some_clips(tmp_path / "clips")
    words = ("--metrics", "frozen_share", "--out", tmp_path / "out")
    assert run(monkeypatch, clips, "--compare", tmp_path / "nowhere", *words) == 2
    assert len(load_results(tmp_path / "out" / "results.json").clips) == 3


@pytest.mark.slow
def test_a_file_name_that_is_no_text_is_measured_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clips = some_clips(tmp_path / "clips")
    (clips / "0.mkv").rename(clips / b"\xff.mkv".decode("utf-8", "surrogateescape"))
    assert run(monkeypatch, clips, "--metrics", "frozen_share", "--out", tmp_path / "out") == 0
    assert "\\xff.mkv" in [clip.name for clip in load_results(tmp_path / "out" / "results.json").clips]


def test_the_schema_is_that_of_the_results(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        run(monkeypatch, "--schema")
    assert json.loads(capsys.readouterr().out)["properties"]["schema"]["const"] == "videodit.evaluation/1"


@pytest.mark.slow
def test_a_world_run_writes_results_and_a_sheet(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe = GrayPipeline()
    monkeypatch.setattr(VideoDiTPipeline, "from_pretrained", lambda folder: pipe)
    words = ("--world", "shapes", "--prompts", 4, "--batch-size", 3, "--steps", 7, "--guidance-scale", 2.5)
    assert run(monkeypatch, *words, "--out", tmp_path) == 0
    assert [len(call["generator"]) for call in pipe.calls] == [3, 2]
    assert {(call["num_inference_steps"], call["guidance_scale"], call["fps"]) for call in pipe.calls} == {(7, 2.5, 8)}
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["settings"]["steps"] == 7
    assert len(results["rows"]) == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["contact_sheet.png", "results.json"]
    assert "4 held-out prompts of 1 thing" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        ("first", {"image": (0, 1)}),
        ("start", {"video": (0, 5)}),
        ("last", {"last_image": (12, 13)}),
        ("ends", {"image": (0, 1), "last_image": (12, 13)}),
        ("inner", {"video": (0, 5), "last_video": (9, 13)}),
    ],
)
def test_a_model_is_given_frames_of_the_worlds_own_clips(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str, parts: dict[str, tuple[int, int]]
) -> None:
    pipe = GrayPipeline()
    monkeypatch.setattr(VideoDiTPipeline, "from_pretrained", lambda folder: pipe)
    words = ("--world", "shapes", "--prompts", 1, "--seed", 3, "--given", kind, "--num-frames", 13)
    assert run(monkeypatch, *words, "--out", tmp_path) == 0
    true = render(held_out_scenes(1, 3, 1)[0], ClipSize(13, 64, 64, 8), rng_for(3_000_000))
    (call,) = pipe.calls
    names = ("image", "video", "last_image", "last_video")
    assert {name for name in names if call.get(name) is not None} == set(parts)
    for name, (begin, end) in parts.items():
        np.testing.assert_array_equal(call[name][0], true[begin:end])
    assert json.loads((tmp_path / "results.json").read_text())["settings"]["given"] == kind


def test_how_far_a_map_leads_is_measured_against_clips_without_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe = Obedient()
    monkeypatch.setattr(VideoDiTPipeline, "from_pretrained", lambda folder: pipe)
    words = ("--world", "shapes", "--prompts", 4, "--told", "light", "--num-frames", 13)
    assert run(monkeypatch, *words, "--out", tmp_path) == 0
    assert "light: correlation with the true clip's 1.000" in (out := capsys.readouterr().out)
    assert "made without it 0.000" in out
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["settings"]["told"] == ["light"]
    np.testing.assert_allclose(results["agreement"]["light"], [[1.0, 0.0]] * 5, atol=1e-3)
    assert [call["conditions"] is None for call in pipe.calls] == [False, True]
    with_map, without = pipe.calls
    assert [one.initial_seed() for one in with_map["generator"]] == [one.initial_seed() for one in without["generator"]]
    assert run(monkeypatch, "--world", "shapes", "--told", "edges", "--out", tmp_path) == 2
    assert "--told edges: this model is told maps of light" in capsys.readouterr().err


def test_correlation_of_what_is_known() -> None:
    one = np.random.default_rng(0).standard_normal((3, 4, 5))
    assert correlation(one, 3 - 2 * one) == pytest.approx(-1)
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False).reshape(2, 3, 4)
    assert correlation(np.cos(angles), np.cos(angles - 1)) == pytest.approx(np.cos(1))
    assert correlation(one, np.ones_like(one)) == correlation(np.ones_like(one), one) == 0


@pytest.mark.slow
def test_mistakes_exit_2_with_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], tiny_pipe: VideoDiTPipeline
) -> None:
    clips = some_clips(tmp_path / "clips")
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "x.mp4").write_bytes(b"no")
    write_video(tmp_path / "mixed" / "a.mkv", pan(0, 9), 8)
    write_video(tmp_path / "mixed" / "b.mkv", pan(0, 9), 24)
    tiny_pipe.save_pretrained(tmp_path / "model")
    for words, complaint in (
        ((tmp_path / "missing",), "missing"),
        ((tmp_path / "empty",), "nothing to measure"),
        ((tmp_path / "broken",), "x.mp4"),
        ((tmp_path / "mixed",), "--fps"),
        ((clips, "--fps", 30), "fewer than 30"),
        ((clips, "--metrics", "nothing"), "no measure 'nothing'"),
        ((clips, "--compare", tmp_path / "empty"), "nothing to measure"),
        ((clips, "--prompts", tmp_path / "gone.txt"), "gone.txt"),
        ((clips, "--raft", tmp_path / "gone.pth"), "gone.pth"),
        ((clips, "--model", tmp_path / "model"), "--model goes with --world"),
        ((clips, "--workers", 0), "--workers 0"),
        ((tmp_path / "model",), "is a model: give --prompts"),
        (("nowhere/clips",), "is not here"),
        ((clips, "--compare", tmp_path / "model"), "with an --out of its own"),
        ((clips, "--reference", tmp_path / "broken"), "none of it can be read; first: x.mp4"),
        ((clips, "--report-clips", -1), "--report-clips -1"),
        (("--world", "shapes", "--out", tmp_path / "file"), "cannot be written to"),
        ((clips, "--given", "first"), "--given goes with --world"),
        ((clips, "--told", "edges"), "--told goes with --world"),
        (("--world", "shapes", "--prompts", "many"), "--prompts many"),
        (("--world", "shapes", "--prompts", "0"), "--prompts 0 must be greater than 0"),
        (("--world", "shapes", "--model", tmp_path / "empty"), "model_index.json"),
    ):
        assert run(monkeypatch, "--out", tmp_path / "out", *words) == 2, words
        error = capsys.readouterr().err
        assert complaint in error
        assert "Traceback" not in error
        assert error.splitlines()[-1].startswith("evaluate:")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["results.json", "report.html"])
def test_what_no_evaluation_wrote_is_not_written_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    clips, words = some_clips(tmp_path / "clips"), ("--metrics", "frozen_share", "--out", tmp_path)
    (tmp_path / name).write_text("mine")
    assert run(monkeypatch, clips, *words) == 2
    assert f"{name}: is there already, and no earlier evaluation" in capsys.readouterr().err
    assert (tmp_path / name).read_text() == "mine"
    (tmp_path / name).unlink()
    assert run(monkeypatch, clips, *words) == run(monkeypatch, clips, *words) == 0
