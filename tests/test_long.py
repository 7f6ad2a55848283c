"""Long clips: windows that go on from each other, in the memory of one."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch

from videodit.long import long_clip
from videodit.pipeline import VideoDiTPipeline

OPTIONS = {"num_inference_steps": 2, "guidance_scale": 1.0}


def made(pipe: VideoDiTPipeline, num_frames: int, **options: int) -> np.ndarray:
    return np.stack(list(long_clip(pipe, "a red circle", num_frames, **{"overlap": 5, **OPTIONS, **options})))


def test_the_first_window_is_the_clip_of_that_seed_and_each_next_goes_on_from_it(tiny_pipe: VideoDiTPipeline) -> None:
    whole = made(tiny_pipe, 17, seed=3)
    assert whole.shape == (17, 32, 32, 3)
    generator = [torch.Generator().manual_seed(3)]
    first = tiny_pipe("a red circle", generator=generator, output_type="np", **OPTIONS).frames[0]
    np.testing.assert_array_equal(whole[:9], np.rint(first * 255))
    seen: list[np.ndarray] = []
    call = VideoDiTPipeline.__call__

    class Spy(VideoDiTPipeline):
        def __call__(self, *args: object, **options: object) -> object:
            seen.append(options["video"])  # type: ignore[arg-type]
            return call(self, *args, **options)  # type: ignore[arg-type]

    spy = Spy(**tiny_pipe.components, default_num_frames=9, default_height=32, default_width=32)
    spy.set_progress_bar_config(disable=True)
    again = np.stack(list(long_clip(spy, "a red circle", 17, overlap=5, seed=3, video=None, **OPTIONS)))
    np.testing.assert_array_equal(again, whole)
    assert seen[0] is None
    np.testing.assert_array_equal(seen[1], whole[4:9])  # two windows of nine, four frames new in each
    np.testing.assert_array_equal(seen[2], whole[8:13])


def test_any_length_is_made_and_a_longer_clip_begins_as_a_shorter_one(tiny_pipe: VideoDiTPipeline) -> None:
    long, short = made(tiny_pipe, 15), made(tiny_pipe, 11)
    assert (len(long), len(short)) == (15, 11)
    np.testing.assert_array_equal(long[:11], short)
    assert not np.array_equal(made(tiny_pipe, 11, seed=1), short)


def test_memory_is_that_of_a_window(tiny_pipe: VideoDiTPipeline) -> None:
    def peak(num_frames: int) -> int:
        tracemalloc.start()
        for _ in long_clip(tiny_pipe, "a red circle", num_frames, overlap=1, **OPTIONS):
            pass
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(17)
    assert peak(113) < 1.1 * peak(17) + 100_000  # 96 frames more are 295,000 bytes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"overlap": 9}, "overlap=9 must be 1 or more, and less than the window of 9"),
        ({"overlap": 0}, "overlap=0"),
        ({"overlap": 5, "num_frames": 9}, "fit into one window of 9"),
    ],
)
def test_what_cannot_be_long_is_refused_at_once(
    tiny_pipe: VideoDiTPipeline, options: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        long_clip(tiny_pipe, "a", **{"num_frames": 20, **options})


def test_an_overlap_that_the_vae_cannot_take_names_those_it_can(tiny_pipe: VideoDiTPipeline) -> None:
    with pytest.raises(ValueError, match=r"4 frames cannot be given by themselves.*nearest: 1 or 5"):
        made(tiny_pipe, 20, overlap=4)
