"""What is printed of names and captions is shown, and never obeyed."""

import ast
import importlib
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from videodit.terminal import shown
from videodit.video import write_video

ROOT = Path(__file__).parents[1]
ESCAPE = "\x1b]0;owned\x07"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain, ein Bär, 走る, 👩‍🚀\tand\nlines", None),
        (f"a{ESCAPE}b", r"a\x1b]0;owned\x07b"),
        ("old\rnew", r"old\rnew"),
        ("\x00\x08\x0b\x7f\x9b31m", r"\x00\x08\x0b\x7f\x9b31m"),
        ("gpj.\u202etxt\u202c", r"gpj.\u202etxt\u202c"),
        ("line\u2028line", r"line\u2028line"),
        ("no text: \udcff", r"no text: \udcff"),
        (ValueError(f"{ESCAPE}.mp4"), r"\x1b]0;owned\x07.mp4"),
    ],
)
def test_what_a_terminal_would_obey_is_escaped(text, expected):
    assert shown(text) == (text if expected is None else expected)
    assert shown(text).encode()


SAYS = """
import logging
from videodit.terminal import log_to_terminal, shown
log_to_terminal(logging.WARNING)
logging.getLogger("videodit").warning("left out %s", "\\x1b[2Jx.mp4")
print(shown("ein B\\u00e4r"))
"""


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_messages_are_shown_whatever_the_locale(locale):
    env = os.environ | {"LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(ROOT)}
    env.pop("PYTHONIOENCODING", None)
    done = subprocess.run([sys.executable, "-c", SAYS], env=env, capture_output=True, check=True)
    assert done.stderr == b"left out \\x1b[2Jx.mp4\n"
    assert done.stdout.strip() == (rb"ein B\xe4r" if locale == "C" else "ein Bär".encode())


@pytest.mark.slow
def test_a_tool_prints_no_name_raw(tmp_path, capsys, monkeypatch, caplog):
    """Of clips that it keeps, drops, cannot read, and in the error that ends it."""
    tool = importlib.import_module("videodit.commands.prepare")
    pytest.importorskip("scenedetect")
    write_video(tmp_path / "raw" / f"a{ESCAPE}.mp4", np.zeros((8, 32, 32, 3), np.uint8), 8)
    (tmp_path / "raw" / f"b{ESCAPE}.heic").write_bytes(b"x")
    for arguments in ([tmp_path / "raw"], [tmp_path / f"none{ESCAPE}"], [tmp_path / "raw", "--min-size", "16"]):
        monkeypatch.setattr(sys, "argv", ["prepare_clips", *map(str, arguments), "--out", str(tmp_path / "out")])
        with caplog.at_level(logging.ERROR):
            tool.main()
        said = capsys.readouterr()
        assert "\x1b" not in said.out + said.err
        assert said.out + said.err


@pytest.mark.parametrize("tool", sorted(path.stem for path in (ROOT / "videodit/commands").glob("*.py")))
def test_what_a_tool_says_of_an_error_is_shown(tool):
    calls = [
        node
        for node in ast.walk(ast.parse((ROOT / "videodit/commands" / f"{tool}.py").read_text()))
        if isinstance(node, ast.Call)
    ]
    to_stderr = [ast.unparse(one) for one in calls if any(word.arg == "file" for word in one.keywords)]
    assert [one for one in to_stderr if one.startswith("print(") and "shown(" not in one] == []
