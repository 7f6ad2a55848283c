"""`videodit prepare` as a user meets it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from footage import film, pan
from tiny import tiny_wan

from videodit.commands import prepare as prepare_clips
from videodit.commands import train

ROOT = Path(prepare_clips.__file__).parents[2]


def run(monkeypatch: pytest.MonkeyPatch, *args: object) -> int:
    monkeypatch.setattr("sys.argv", ["prepare_clips", *map(str, args)])
    try:
        return prepare_clips.main()
    except SystemExit as end:  # of its parser
        return end.code


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    frames = np.concatenate([pan(1, 60), pan(2, 60), pan(3, 12)])
    film(tmp_path / "raw" / "film.mp4", frames, caption="three places")
    film(tmp_path / "raw" / "other.mkv", pan(4, 60))
    return tmp_path / "raw"


@pytest.mark.slow
def test_the_summary_is_printed_and_kept(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, raw, "--out", tmp_path / "out", "--processes", 1) == 0
    said = capsys.readouterr().out
    assert said == (tmp_path / "out" / "report.txt").read_text()
    assert said.splitlines()[0].split() == ["source", "2", "clips", "0", "images", "8.0", "s", str(raw)]
    assert said.splitlines()[1].split() == ["kept", "3", "clips", "0", "images", "7.5", "s"]
    assert said.splitlines()[2].split()[:7] == ["short", "1", "clips", "0", "images", "0.5", "s"]
    assert "1 clips have no caption" in said


@pytest.mark.slow
def test_options_reach_what_they_are_for(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {
        **{"min_seconds": 0.75, "max_seconds": 8.0, "min_size": 64, "min_fps": 5.0, "min_motion": 0.001},
        **{"max_black": 0.2, "max_frozen": 0.4, "threshold": 2.5, "write": "clips", "size": 96},
    }
    flags = [text for name, value in given.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    keep = ("--keep-hdr", "--keep-nonsquare", "--keep-interlaced", "--keep-duplicates")
    assert run(monkeypatch, raw, "--out", tmp_path / "out", "--no-cuts", *keep, *flags) == 0
    options = json.loads((tmp_path / "out" / "report.json").read_text())["options"]
    assert options == given | {"cuts": False, "keep": ["duplicate", "interlaced", "nonsquare", "hdr"]}


@pytest.mark.slow
def test_training_takes_what_was_made(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, raw, "--out", tmp_path / "out") == 0
    tiny_wan().save_pretrained(tmp_path / "run" / "vae")
    (tmp_path / "run.yaml").write_text(
        f"output: {tmp_path}/run\n"
        f"data: {{source: {tmp_path}/out, num_frames: 17, height: 32, width: 32, validation: 0, image_share: 0.0}}\n"
        f"text: {{width: 24, depth: 1}}\nmodel: {{num_layers: 1}}\n"
        f"train: {{steps: 2, batch_size: 2, precision: 'no', warmup_steps: 1}}\n"
    )
    monkeypatch.setattr("sys.argv", ["train.py", "--config", str(tmp_path / "run.yaml"), "--dry-run"])
    capsys.readouterr()
    assert train.main() == 0
    said = capsys.readouterr().out
    assert "17x32x32 at 8 fps" in said
    assert "1 left out" in said  # the clip without a caption
    assert "no caption" in said


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nowhere", "--out", "out"], "nowhere does not exist"),
        (["raw", "--out", "raw/out"], "lies in"),
        (["raw", "--out", "out", "--min-seconds", "0"], "--min-seconds 0: give 0.5 or more"),
        (["raw", "--out", "out", "--size", "64"], "--size goes with --write clips"),
        (["raw", "--out", "out", "--processes", "0"], "--processes 0"),
        (["raw/film.mp4", "--out", "out"], "film.mp4"),
    ],
)
def test_what_a_user_can_mend_is_one_line_and_exit_2(
    raw: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    args: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, *args) == 2
    (error,) = capsys.readouterr().err.strip().splitlines()
    assert error.startswith("prepare_clips: ")
    assert message in error
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_without_its_detector_it_says_what_to_install(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['scenedetect'] = None; from videodit.commands.prepare import main; sys.exit(main())"
    )
    for words, status in (["--help"], 0), (["raw", "--out", "out"], 2):
        done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == status
    assert 'pip install "videodit[prepare]"' in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


KILLED = """
import os, signal, sys
from videodit.commands import prepare as prepare_clips
from videodit.data import survey

keep, known = survey.Memory.__setitem__, []

def keep_some(memory, question, answer):
    keep(memory, question, answer)
    known.append(question[0])
    if known.count("scenes") == 3:
        os.kill(os.getpid(), signal.SIGKILL)

survey.Memory.__setitem__ = keep_some
sys.exit(prepare_clips.main())
"""


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    for seed in range(6):
        film(tmp_path / "raw" / f"{seed:02d}.mp4", np.concatenate([pan(seed, 60), pan(seed + 50, 60)]))

    def run(out: str, *program: str) -> int:
        program = program or ("-m", "videodit", "prepare")
        command = [sys.executable, *program, str(tmp_path / "raw"), "--out", str(tmp_path / out), "--processes", "1"]
        return subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL).returncode

    assert run("killed", "-c", KILLED) == -signal.SIGKILL
    assert not (tmp_path / "killed" / "clips.jsonl").exists()
    analysis = tmp_path / "killed" / "analysis.jsonl"
    known = analysis.read_bytes()
    assert known.count(b'["scenes"') == 3
    assert run("killed") == run("whole") == 0
    assert analysis.read_bytes().startswith(known)
    for name in ("clips.jsonl", "dropped.jsonl", "report.json", "report.txt"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert (tmp_path / "whole" / "clips.jsonl").read_text().count("\n") == 12
