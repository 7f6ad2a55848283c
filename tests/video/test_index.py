"""Which frame is on screen at a time, by starts, clock and nothing else."""

from __future__ import annotations

import numpy as np

from videodit.video.index import Index


def test_a_frame_is_on_screen_from_its_start_on_until_the_next_starts() -> None:
    index = Index(np.array([0.0, 0.5, 1.0]), 1.5, slack=0.0)
    assert index.positions([0.0, 0.25, 0.5, 0.75, 1.0, 1.25]) == [0, 0, 1, 1, 2, 2]
    assert index.positions([1.0, 0.0, 0.5]) == [2, 0, 1]
    assert index.positions([]) == []


def test_a_start_that_the_files_clock_rounded_up_by_its_slack_is_met() -> None:
    index = Index(np.array([0.0, 0.5, 1.0]), 1.5, slack=0.125)
    assert index.positions([0.25, 0.375, 0.5, 0.75, 0.875]) == [0, 1, 1, 1, 2]


def test_a_time_before_the_first_frame_shows_it() -> None:
    assert Index(np.array([0.25, 0.5]), 1.0, slack=0.0).positions([0.0, 0.125]) == [0, 0]


def test_frames_a_second_are_frames_by_seconds_and_a_still_image_has_none() -> None:
    assert Index(np.array([0.0, 0.1, 0.4]), 0.5).fps == 6.0
    assert Index(np.zeros(1), 0.0).fps == 0.0
