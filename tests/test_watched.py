"""Clips that are watched while they are made: each step is told, nothing changes, and who watches can end it."""

from __future__ import annotations

from pathlib import Path

import pytest

from videodit.clipset import Request, Sampling, make_clips
from videodit.pipeline import VideoDiTPipeline

ONE = Request("a red circle moving left", seed=3, num_frames=9)
LONG = Request("a red circle moving left", num_frames=17, overlap=5, window=9)


def make(pipe: VideoDiTPipeline, request: Request, path: Path, **options: object) -> None:
    list(make_clips(pipe, [request], [path], Sampling(steps=3), model="tiny", **options))


@pytest.mark.slow
@pytest.mark.parametrize(("request_", "windows"), [(ONE, 1), (LONG, 3)], ids=["clip", "long"])
def test_each_step_of_each_window_is_told_and_the_clip_is_the_same(
    request_: Request, windows: int, tiny_pipe: VideoDiTPipeline, tmp_path: Path
) -> None:
    told: list[tuple[int, int]] = []
    make(tiny_pipe, request_, tmp_path / "a.mkv", watch=lambda *step: told.append(step))
    assert told == [(1, 3), (2, 3), (3, 3)] * windows
    make(tiny_pipe, request_, tmp_path / "b.mkv")
    assert (tmp_path / "a.mkv").read_bytes() == (tmp_path / "b.mkv").read_bytes()
    assert not list(tmp_path.glob("*preview*"))


@pytest.mark.slow
@pytest.mark.parametrize("request_", [ONE, LONG], ids=["clip", "long"])
def test_who_watches_ends_it_and_nothing_is_left(
    request_: Request, tiny_pipe: VideoDiTPipeline, tmp_path: Path
) -> None:
    told: list[int] = []

    def stop(step: int, steps: int) -> None:
        told.append(step)
        if len(told) == 5 or (request_ is ONE and step == 2):
            raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        make(tiny_pipe, request_, tmp_path / "a.mkv", watch=stop, preview=1)
    assert [file.name for file in tmp_path.iterdir()] == ["a.preview.png"]
    make(tiny_pipe, request_, tmp_path / "a.mkv")  # and the model makes the next one
    assert (tmp_path / "a.json").exists()
