"""What is kept and what is dropped, of facts and scenes that are told: each bound holds at its edge."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from videodit.data.limits import Options
from videodit.data.manifest import Item
from videodit.data.scenes import Scene
from videodit.data.sifting import Sifted, sift

FACTS = {
    "is_image": False,
    "duration": 4.0,
    "fps": 10.0,
    "height": 200,
    "width": 300,
    "interlaced": False,
    "pixel_aspect": 1.0,
    "hdr": False,
}


def look(seed: int) -> str:
    return base64.b64encode(np.random.default_rng(seed).integers(0, 256, (4, 8, 9, 3), np.uint8)).decode()


def scene(end: float = 4.0, seed: int = 0, **values: Any) -> Scene:
    told: dict[str, Any] = {"start": 0.0, "end": end, "motion": 0.01, "black": 0.0, "frozen": 0.0, "look": look(seed)}
    return Scene(**told | values)


class Told:
    """In place of a survey."""

    def __init__(self, facts: dict[Path, Any], scenes: dict[Path, Scene]) -> None:
        self._facts, self._scenes = facts, scenes

    def bring(self, items: Any) -> dict:
        return {}

    def facts(self, paths: Any) -> dict[Path, Any]:
        return self._facts

    def scenes(self, spans: Any, facts: Any) -> dict[Path, Any]:
        return {path: {span: [self._scenes[path]] for span in some} for path, some in spans.items()}


def sifted(options: Options, *clips: tuple[dict, Scene], start: float = 0.0, end: float | None = None) -> Sifted:
    """Of clips, one a file, by their facts and scene."""
    paths = [Path(f"{number}.mp4") for number in range(len(clips))]
    told: Any = Told(
        {path: FACTS | facts for path, (facts, _) in zip(paths, clips, strict=True)},
        {path: one for path, (_, one) in zip(paths, clips, strict=True)},
    )
    return sift([Item(path, ("a",), {}, start, end) for path in paths], told, options)


@pytest.mark.parametrize(
    ("options", "kept", "dropped", "reason"),
    [
        ({"min_size": 128}, ({"height": 128}, scene()), ({"height": 127}, scene()), "small"),
        ({"min_size": 128}, ({"width": 128}, scene()), ({"width": 127}, scene()), "small"),
        # a hundredth less is a rate that is written otherwise
        ({"min_fps": 8.0}, ({"fps": 7.93}, scene()), ({"fps": 7.9}, scene()), "slow"),
        ({}, ({"pixel_aspect": 1.009}, scene()), ({"pixel_aspect": 1.012}, scene()), "nonsquare"),
        ({}, ({"pixel_aspect": 0.991}, scene()), ({"pixel_aspect": 0.988}, scene()), "nonsquare"),
        ({}, ({}, scene()), ({"interlaced": True}, scene()), "interlaced"),
        ({}, ({}, scene()), ({"hdr": True}, scene()), "hdr"),
        ({"max_black": 0.1}, ({}, scene(black=0.1)), ({}, scene(black=0.101)), "black"),
        ({"max_frozen": 0.3}, ({}, scene(frozen=0.3)), ({}, scene(frozen=0.301)), "frozen"),
        ({"min_motion": 0.002}, ({}, scene(motion=0.002)), ({}, scene(motion=0.00199)), "still"),
        # half a frame, of ten a second, is no matter
        ({"min_seconds": 1.0}, ({}, scene(0.96)), ({}, scene(0.94)), "short"),
        ({}, ({}, scene()), ({}, scene(transition=True)), "transition"),
    ],
)
def test_each_bound_keeps_what_lies_on_it_and_drops_what_lies_beyond(
    options: dict, kept: tuple, dropped: tuple, reason: str
) -> None:
    asked = Options(keep=("duplicate",), **options)
    assert len(sifted(asked, kept).kept) == 1
    found = sifted(asked, dropped)
    assert [drop.reason for drop in found.dropped] == [reason]
    assert not found.kept
    assert found.total == {"clips": 1, "images": 0, "seconds": 4.0}


@pytest.mark.parametrize(
    ("start", "end", "is_inside"),
    [
        (0.0, None, True),
        (3.9, None, True),
        (4.0, None, False),
        (1.0, 4.09, True),  # a list may be wrong by a frame
        (1.0, 4.11, False),
    ],
)
def test_a_stretch_lies_in_its_file_but_for_a_frame(start: float, end: float | None, is_inside: bool) -> None:
    found = sifted(Options(keep=("duplicate",)), ({}, scene()), start=start, end=end)
    assert [drop.reason for drop in found.dropped] == ([] if is_inside else ["outside"])
    assert found.total["seconds"] == pytest.approx(4.0 - start)


def test_an_image_has_no_stretch_and_is_judged_by_size_and_blackness_alone() -> None:
    image = {"is_image": True, "duration": 0.0, "fps": 0.0}
    flat = scene(0.0, motion=0.0)
    options = Options(keep=("duplicate",))
    assert len(sifted(options, (image, flat)).kept) == 1
    assert sifted(options, (image, flat)).total == {"clips": 0, "images": 1, "seconds": 0.0}
    for found in (sifted(options, (image, flat), start=0.5), sifted(options, (image, flat), end=1.0)):
        assert [(drop.reason, drop.is_image) for drop in found.dropped] == [("outside", True)]
    assert sifted(options, (image, scene(0.0, black=1.0))).dropped[0].reason == "black"


def test_a_clip_that_looks_like_one_that_is_kept_is_named_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(4):
        (tmp_path / f"{number}.mp4").write_bytes(bytes(number + 1))
    clips = [({}, scene(seed=1)), ({}, scene(seed=2)), ({}, scene(seed=1, black=1.0)), ({}, scene(seed=2))]
    found = sifted(Options(), *clips)
    assert [one.item.path.name for one in found.kept] == ["0.mp4", "1.mp4"]
    assert [drop.reason for drop in found.dropped] == ["black", "duplicate"]
    assert found.dropped[1].why == f"as {tmp_path}/1.mp4 from 0.000 to 4.000 s"


EDGES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"min_seconds": 0.5}, {"min_seconds": 0.49}),
    ({"min_seconds": 2.0, "max_seconds": 4.0}, {"min_seconds": 2.0, "max_seconds": 3.99}),
    ({"min_size": 0}, {"min_size": -1}),
    ({"min_fps": 0.0}, {"min_fps": -0.1}),
    ({"min_motion": 0.0}, {"min_motion": -0.001}),
    ({"max_black": 0.0}, {"max_black": -0.01}),
    ({"max_black": 1.0}, {"max_black": 1.01}),
    ({"max_frozen": 0.0}, {"max_frozen": -0.01}),
    ({"max_frozen": 1.0}, {"max_frozen": 1.01}),
    ({"threshold": 0.1}, {"threshold": 0.0}),
    ({"keep": ("hdr", "nonsquare")}, {"keep": ("hdr", "black")}),
    ({"write": "clips", "size": 16}, {"write": "clips", "size": 15}),
    ({"write": "clips"}, {"write": "spans", "size": 64}),
]


@pytest.mark.parametrize(("allowed", "refused"), EDGES)
def test_options_are_taken_up_to_their_bounds_and_refused_beyond(
    allowed: dict[str, Any], refused: dict[str, Any]
) -> None:
    Options(**allowed)
    with pytest.raises(ValueError, match=r"give|can be kept|goes with"):
        Options(**refused)
