"""The same frames give the same file, each time: a set that was stopped cannot be told from one that was not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from videodit.video import write_video


@pytest.mark.parametrize("ending", [".mp4", ".mkv"])
def test_the_same_frames_give_the_same_bytes_each_time(tmp_path: Path, ending: str) -> None:
    draw = np.random.default_rng(0)
    grounds = [np.kron(draw.integers(0, 255, (8, 12, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8)) for _ in "abc"]
    frames = np.stack([np.roll(grounds[number // 16], number, axis=1) for number in range(48)])
    written = set()
    for number in range(6):
        path = write_video(tmp_path / f"{number}{ending}", frames, 24)
        written.add(path.read_bytes())
        np.random.default_rng(number).random(1000 * (number + 1))  # memory is used otherwise in between
    assert len(written) == 1


def test_a_file_does_not_follow_from_how_many_cores_wrote_it(tmp_path: Path) -> None:
    frames = np.zeros((3, 64, 64, 3), np.uint8)
    assert b"threads=1 " in write_video(tmp_path / "a.mp4", frames, 8).read_bytes()
