"""`videodit sample` with image models of a family: what they alone take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from family_pipelines import PIPELINES
from sampling import run
from standin import LEFT_EMPTY

from videodit import extend_in_time

SMALL = ("--num-frames", "2", "--height", "16", "--width", "16", "--steps", "1", "--seed", "3")


@pytest.mark.slow
@pytest.mark.cpu(LEFT_EMPTY)
def test_a_scale_between_passes_reaches_the_clip_and_its_settings(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    flux: Any = extend_in_time(PIPELINES["Flux"](), num_frames=2)
    flux.save_pretrained(tmp_path / "flux")
    common = ("--prompt", "a red circle", "--model", tmp_path / "flux", *SMALL)
    against = ("--negative-prompt", "two blue stars")
    assert run(monkeypatch, *common, "--out", tmp_path / "plain.mkv") == 0
    assert "true_cfg_scale" not in json.loads((tmp_path / "plain.json").read_text())
    assert run(monkeypatch, *common, *against, "--true-cfg-scale", "3", "--out", tmp_path / "true.mkv") == 0
    assert json.loads((tmp_path / "true.json").read_text())["true_cfg_scale"] == 3.0
    assert (tmp_path / "plain.mkv").read_bytes() != (tmp_path / "true.mkv").read_bytes()
    assert run(monkeypatch, *common, *against, "--out", tmp_path / "lost.mkv") == 2
    assert "negative_prompt has no effect at true_cfg_scale=1" in capsys.readouterr().err
