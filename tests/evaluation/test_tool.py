"""tools/evaluate.py: what it writes, and how it names a user's mistakes."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from videodit.geometry import ClipSize
from videodit.pipeline import VideoDiTPipeline
from videodit.video.writer import write_video

TOOL = Path(__file__).parents[2] / "tools" / "evaluate.py"


@pytest.fixture
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("evaluate_tool", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(tool: ModuleType, monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, words)])
    return tool.main()


class GrayPipeline:
    """Makes gray clips, and remembers how it was called."""

    default_size = ClipSize(9, 64, 64, 8)

    def __init__(self) -> None:
        self.calls: list[dict] = []

    def set_progress_bar_config(self, **_: object) -> None: ...

    def to(self, device: str) -> None: ...

    def __call__(self, prompt: list[str], **kwargs: object) -> SimpleNamespace:
        self.calls.append(kwargs)
        return SimpleNamespace(frames=np.full((len(prompt), 9, 64, 64, 3), 0.5, dtype=np.float32))


def test_clips_are_measured_and_what_cannot_be_is_counted(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    write_video(tmp_path / "clips" / "still.mkv", np.repeat(frame, 9, axis=0), 8)
    write_video(tmp_path / "clips" / "image.png", frame, 8)
    assert run(tool, monkeypatch, tmp_path / "clips", "--out", tmp_path / "out") == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    (row,) = results["clips"]
    assert row["consistency_consecutive"] == pytest.approx(1)
    assert (row["num_frames"], row["motion_per_second"], row["still"]) == (9, 0, True)
    assert len(results["skipped"]) == 1
    assert "1 measured, 1 skipped" in capsys.readouterr().out


def test_a_world_run_writes_results_and_a_sheet(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe = GrayPipeline()
    monkeypatch.setattr(VideoDiTPipeline, "shipped", lambda: pipe)
    words = ("--world", "shapes", "--prompts", 4, "--batch-size", 3, "--steps", 7, "--guidance-scale", 2.5)
    assert run(tool, monkeypatch, *words, "--out", tmp_path) == 0
    assert [len(call["generator"]) for call in pipe.calls] == [3, 2]
    assert {(call["num_inference_steps"], call["guidance_scale"], call["fps"]) for call in pipe.calls} == {(7, 2.5, 8)}
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["settings"]["steps"] == 7
    assert len(results["rows"]) == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["contact_sheet.png", "results.json"]
    assert "4 held-out prompts of 1 thing" in capsys.readouterr().out


def test_mistakes_exit_2_with_one_line(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    for words, complaint in (
        ((tmp_path / "missing",), "missing does not exist"),
        ((tmp_path / "empty",), "nothing to measure"),
        (("--world", "shapes", "--out", tmp_path / "file"), "cannot be written to"),
        (("--world", "shapes", "--model", tmp_path / "empty"), "model_index.json"),
    ):
        assert run(tool, monkeypatch, "--out", tmp_path / "out", *words) == 2
        error = capsys.readouterr().err
        assert complaint in error
        assert error.count("\n") == 1
