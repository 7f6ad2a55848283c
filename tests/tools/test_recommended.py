"""What the README and docs tell their reader to type for sampling never warns."""

from __future__ import annotations

import json
import logging
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from readme import ROOT, tool
from tiny import tiny_dit, tiny_wan

from videodit import TextEncoder, VideoDiTPipeline
from videodit.long import long_clip
from videodit.packaged import DEFAULT, PACKAGED
from videodit.shapes import vocabulary_captions
from videodit.video import write_video

SIDE = 32


def sizes(name: str) -> dict[str, Any]:
    """Of a packaged model, in smaller pictures."""
    index = json.loads((PACKAGED[name] / "model_index.json").read_text())
    return {
        "default_num_frames": index["default_num_frames"],
        "default_fps": index["default_fps"],
        "default_height": SIDE,
        "default_width": SIDE,
        "trained_sizes": index["trained_sizes"]
        and [[frames, SIDE, SIDE, fps] for frames, _, _, fps in index["trained_sizes"]],
    }


def recommended() -> list[list[str]]:
    """Each `videodit sample` of the README's section and of docs/sampling.md, in code or in a table, as words."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## Sample\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    typed = [line for language, block in blocks if not language for line in block.splitlines()]
    table = (ROOT / "docs" / "sampling.md").read_text(encoding="utf-8").partition("| tool | pipeline |")[2]
    options = re.findall(r"^\|[^|]*\| `(--[^`]*)`", table.partition("\n\n")[0], re.MULTILINE)
    begin = 'videodit sample --model shapes --prompt "a red circle"'
    typed += [f"{begin} {words} --out table/{n}.mp4" for n, words in enumerate(options)]
    return [shlex.split(line, comments=True)[2:] for line in typed if line.startswith("videodit sample ")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all that these commands name lies: tiny models of the packaged ones' sizes, clips and pictures."""
    folder = tmp_path_factory.mktemp("reader")
    said = [word for words in recommended() for word in words if " " in word]
    text = TextEncoder.from_captions([*vocabulary_captions(), *said], width=24, depth=1, heads=2)
    parts = (tiny_wan(), text.text_encoder, text.tokenizer, tiny_dit())
    from diffusers import FlowMatchEulerDiscreteScheduler

    for name, place in ((DEFAULT, "runs/mine/pipeline"), ("shapes", "shapes")):
        pipe = VideoDiTPipeline(*parts, FlowMatchEulerDiscreteScheduler(), **sizes(name))
        pipe.save_pretrained(folder / place)
    frames = np.random.default_rng(0).integers(0, 255, (17, SIDE, SIDE, 3), np.uint8)
    for name in ("before", "after", "source"):
        write_video(folder / f"{name}.mp4", frames, 8.0)
    for name in ("first", "last"):
        write_video(folder / f"{name}.png", frames[:1], 8.0)
    (folder / "prompts.txt").write_text("a red circle\na blue star\n")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("words", recommended(), ids=" ".join)
def test_it_makes_a_clip_and_says_nothing(
    words: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(folder)
    model = () if "--model" in words else ("--model", "runs/mine/pipeline")
    with caplog.at_level(logging.WARNING):
        assert tool("sample", *words, *model, "--steps", 1, "--overwrite") == 0
    assert caplog.text == ""


def test_all_of_it_is_found() -> None:
    found = [" ".join(words) for words in recommended()]
    assert sum("--window 33 --overlap 9" in one for one in found) == 2
    assert sum("--loop" in one for one in found) == 2
    assert len(found) == 3 + 6 + 6


@pytest.mark.slow
@pytest.mark.parametrize(("window", "told"), [(9, 0), (17, 1)])
def test_a_window_far_from_training_is_told_once_and_shorter_ones_of_the_clips_length_are_not(
    window: int, told: int, tiny_pipe: VideoDiTPipeline, caplog: pytest.LogCaptureFixture
) -> None:
    sizes = {"default_num_frames": 5, "default_height": 32, "default_width": 32, "trained_sizes": [[9, 32, 32, 8.0]]}
    pipe = VideoDiTPipeline(**tiny_pipe.components, **sizes)
    pipe.set_progress_bar_config(disable=True)
    with caplog.at_level(logging.WARNING):
        frames = long_clip(pipe, "a red circle", 29, window=window, overlap=1, loop=True, num_inference_steps=1)
        assert len(list(frames)) == 29
    assert caplog.text.count("far from") == told


def test_the_nearest_size_that_was_trained_at_is_named(
    tiny_pipe: VideoDiTPipeline, caplog: pytest.LogCaptureFixture
) -> None:
    sizes = {"default_num_frames": 5, "default_height": 32, "default_width": 32, "trained_sizes": [[9, 32, 64, 8.0]]}
    pipe = VideoDiTPipeline(**tiny_pipe.components, **sizes)
    with caplog.at_level(logging.WARNING):
        for size in ((5, 32, 32), (9, 32, 64), (1, 32, 32)):
            pipe.tell_of_size(type(pipe.default_size)(*size, 8.0))
        assert caplog.text == ""
        pipe.tell_of_size(type(pipe.default_size)(33, 32, 64, 8.0))
    assert "num_frames 33, trained at 9" in caplog.text
