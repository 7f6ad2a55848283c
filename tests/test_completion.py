"""Completion: what may stand at the cursor, and that bash asks for it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from readme import tool

from videodit.commands import COMMANDS
from videodit.commands.completion import SHELLS, candidates, parser_of
from videodit.data.limits import Options


def words(*typed: str) -> list[str]:
    return [word for word, _ in candidates(list(typed))]


def test_commands_options_choices_and_keys() -> None:
    assert words("") == [*COMMANDS, "--help", "--version"]
    assert words("tra") == ["train", "train-vae"]
    assert words("sample", "--off") == ["--offload"]
    assert words("sample", "--offload", "") == ["none", "model", "group", "sequential"]
    assert words("benchmark", "sc") == ["scaling"]
    assert words("train", "--config", "a.yaml", "train.ema_d") == ["train.ema_decay="]
    assert words("train", "--config", "a.yaml", "out") == ["output="]
    assert words("sample", "--image", "") == words("train", "data.source", "=", "") == []  # names of files
    assert words("nonsense", "") == []


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_tells_its_options_and_is_not_run(name: str) -> None:
    assert "--help" in words(name, "--")
    assert parser_of(name).description
    for _, what in candidates([name, "--"]):
        assert "%(" not in what
        assert "\n" not in what


def test_what_is_printed_is_a_word_a_tab_and_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert tool("completion", "bash", "--words", "prepare", "--min-se") == 0
    assert capsys.readouterr().out == f"--min-seconds\tlength of a scene ({Options.min_seconds})\n"
    assert tool("completion", "tcsh") == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shell", "check"),
    [("bash", ["-n"]), ("zsh", ["-n"]), ("fish", ["--no-execute"])],
)
def test_each_shell_reads_its_script(shell: str, check: list[str], tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}")
    script = tmp_path / "completion"
    script.write_text(SHELLS[shell])
    done = subprocess.run([shell, *check, str(script)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes(tmp_path: Path) -> None:
    door = tmp_path / "videodit"
    door.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m videodit "$@"\n')
    door.chmod(0o755)
    asks = (
        SHELLS["bash"] + "COMP_WORDS=(videodit sample --off); COMP_CWORD=2; _videodit; echo ${COMPREPLY[@]}\n"
        "COMP_WORDS=(videodit sample --image ''); COMP_CWORD=3; _videodit; echo ${#COMPREPLY[@]}\n"
    )
    here = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(["bash", "-c", asks], capture_output=True, text=True, env=here)
    assert (done.stdout.split(), done.stderr) == (["--offload", "0"], "")
