"""A command says nothing that its user can do nothing about, and one line at Ctrl-C."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from processes import begin, end_of, run_tool

from videodit.command import command, hide_torchao, import_torchao
from videodit.commands import COMMANDS

ROOT = Path(__file__).parents[1]
SAMPLES = """
import sys
from videodit.commands import main
status = main()
import accelerate, peft, transformers
from diffusers.utils import is_torchao_available
print(sys.modules["torchao"], is_torchao_available())
sys.exit(status)
"""
SILENT = """
import sys
from videodit import VideoDiTPipeline
from diffusers.utils import is_torchao_available
print("torchao" in sys.modules, is_torchao_available())
"""


def python(*words: str) -> subprocess.CompletedProcess[str]:
    here = {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, env=os.environ | here, cwd=ROOT)


def test_ctrl_c_is_one_line_and_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def stopped() -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["videodit sample"])
    assert command(stopped)() == 130
    assert capsys.readouterr().err.split("\n") == ["", "videodit sample: stopped", ""]  # below a progress bar
    assert command(lambda: 2)() == 2


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_who_reads_no_more_is_told_nothing(unbuffered: str) -> None:
    """As `| head` does; what is not written yet when it goes is met at the end, else at once."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": unbuffered}
    words = [
        sys.executable,
        "-c",
        "from videodit.command import command; exit(command(lambda: print('a' * 99) or 0)())",
    ]
    child = subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )
    assert child.stdout is not None
    child.stdout.close()
    child.stdout = None
    assert child.communicate() == (None, b"")
    assert child.returncode == 141


class Ended(Exception):
    status = 143


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError, 2), (OSError, 2), (ImportError, 2), (FloatingPointError, 1), (Ended, 143)]
)
def test_what_a_user_can_mend_is_one_line_and_what_is_a_bug_is_raised(
    error: type[Exception], status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails() -> int:
        raise error("the disk\nis \x1b full")

    monkeypatch.setattr(sys, "argv", ["tools/train.py"])
    assert command(fails)() == status
    assert capsys.readouterr().err == "train: the disk is \\x1b full\n"
    with pytest.raises(RuntimeError):
        command(bug)()


def bug() -> int:
    raise RuntimeError


def test_each_command_ends_so_and_has_its_door() -> None:
    assert len({door.read_text() for door in (ROOT / "tools").glob("*.py")}) == len(COMMANDS)
    for name in COMMANDS:
        assert (
            "\n@command\ndef main() -> int:\n" in (ROOT / f"videodit/commands/{name.replace('-', '_')}.py").read_text()
        )
        assert any(f'run("{name}")' in door.read_text() for door in (ROOT / "tools").glob("*.py"))


@pytest.mark.slow
@pytest.mark.skipif(find_spec("torchao") is None, reason="needs torchao")
@pytest.mark.parametrize("code", [SILENT, "import torch" + SILENT])
def test_torchao_is_imported_in_silence(code: str) -> None:
    done = python("-c", code)
    assert (done.stdout.split("\n")[0], done.stderr) == ("True True", "")


def test_hiding_torchao_leaves_an_imported_one_and_showing_it_takes_the_curtain_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "torchao", sys)
    hide_torchao()
    import_torchao()
    assert sys.modules["torchao"] is sys
    monkeypatch.delitem(sys.modules, "torchao")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # it is not installed
    hide_torchao()
    assert sys.modules["torchao"] is None
    import_torchao()
    assert "torchao" not in sys.modules


@pytest.mark.slow
def test_a_clip_of_the_packaged_model_is_one_bar_and_one_line_and_torchao_is_hidden(tmp_path: Path) -> None:
    words = ("--prompt", "dog face on a blue background", "--steps", "2")
    done = python("-c", SAMPLES, "sample", *words, "--out", str(tmp_path / "demo.mp4"))
    assert done.returncode == 0
    assert done.stdout == f"{tmp_path / 'demo.mp4'}\nNone False\n"
    lines = [line for line in re.split(r"[\r\n]+", done.stderr) if line.strip()]
    assert all(re.match(r" *\d+%\|.*\d/2 \[", line) for line in lines), done.stderr


@pytest.mark.slow
def test_ctrl_c_in_the_midst_of_sampling(tmp_path: Path) -> None:
    words = ("--prompt", "a red circle", "--steps", "10000", "--out", str(tmp_path / "a.mp4"))
    os.mkfifo(tmp_path / "err")
    child = begin(run_tool, "sample_video", words, tmp_path / "out", tmp_path / "err")
    with (tmp_path / "err").open() as err:
        seen = err.read(1)  # the bar: it samples
        os.kill(child.pid, signal.SIGINT)
        rest = err.read()
    assert end_of(child) == 130
    assert rest.endswith("\nsample_video: stopped\n")
    assert "Traceback" not in seen + rest
