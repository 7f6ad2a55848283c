"""Long clips: windows that go on from each other, in the memory of one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from videodit.caching import set_cache
from videodit.data.transforms import to_frames
from videodit.long import Windows, long_clip
from videodit.pipeline import VideoDiTPipeline

from .holding import counted_arrays

OPTIONS = {"num_inference_steps": 2, "guidance_scale": 1.0}
FRAME = 32 * 32 * 3  # bytes of one


def made(pipe: VideoDiTPipeline, num_frames: int, **options: Any) -> np.ndarray:
    return np.stack(list(long_clip(pipe, "a red circle", num_frames, **{"overlap": 5, **OPTIONS, **options})))


@pytest.mark.slow
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


@pytest.mark.slow
def test_windows_are_decoded_as_one_clip(tiny_pipe: VideoDiTPipeline) -> None:
    latents: list[torch.Tensor] = []
    call = VideoDiTPipeline.__call__

    class Spy(VideoDiTPipeline):
        def __call__(self, *args: object, **options: object) -> object:
            output = call(self, *args, **options)  # type: ignore[arg-type]
            latents.append(output.frames)  # type: ignore[union-attr, arg-type]
            return output

    spy = Spy(**tiny_pipe.components, default_num_frames=9, default_height=32, default_width=32)
    spy.set_progress_bar_config(disable=True)
    whole = np.stack(list(long_clip(spy, "a red circle", 17, overlap=5, **OPTIONS)))
    first, *others = latents
    decoded = spy.codec.decode(torch.cat([first, *(one[:, :, 2:] for one in others)], dim=2))  # 5 frames are 2 latents
    np.testing.assert_array_equal(whole, to_frames(decoded)[0])


@pytest.mark.slow
def test_any_length_is_made_and_a_longer_clip_begins_as_a_shorter_one(tiny_pipe: VideoDiTPipeline) -> None:
    long, short = made(tiny_pipe, 15), made(tiny_pipe, 11)
    assert (len(long), len(short)) == (15, 11)
    np.testing.assert_array_equal(long[:11], short)
    assert not np.array_equal(made(tiny_pipe, 11, seed=1), short)


@pytest.mark.slow
@pytest.mark.parametrize("cache", [None, "taylorseer=2", "first-block=1.5"])
@pytest.mark.parametrize("options", [{}, {"loop": True, "overlap": 1}])
def test_nothing_of_a_long_clip_stays_for_the_next(
    tiny_pipe: VideoDiTPipeline, cache: str | None, options: dict[str, int]
) -> None:
    options = {"num_inference_steps": 3, "guidance_scale": 2.0, **options}
    set_cache(tiny_pipe, cache)
    try:
        first = made(tiny_pipe, 17, **options)
        assert not np.array_equal(made(tiny_pipe, 17, seed=1, **options), first)
        made(tiny_pipe, 13)
        np.testing.assert_array_equal(made(tiny_pipe, 17, **options), first)
    finally:
        set_cache(tiny_pipe, None)


@pytest.mark.slow
@pytest.mark.cpu("memory of Python is counted, of which the stand-in's own tensors take some")
def test_memory_is_that_of_a_window(tiny_pipe: VideoDiTPipeline) -> None:
    def most(num_frames: int) -> int:
        with counted_arrays() as held:
            return max(held() for _ in long_clip(tiny_pipe, "a red circle", num_frames, overlap=1, **OPTIONS))

    assert 9 * FRAME <= most(113) <= most(33) + FRAME  # three windows are held from the third on


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


IMAGE = np.zeros((32, 32, 3), np.uint8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"last_video": np.stack([IMAGE] * 3)}, "last_video: 3 frames cannot be given by themselves at the end; .* 4"),
        ({"last_video": np.stack([[IMAGE] * 4] * 2)}, "last_video: 2 clips given for one long clip"),
        ({"last_video": [IMAGE] * 4, "last_image": IMAGE}, "last_image and last_video: both say how the clip ends"),
        ({"video": np.stack([IMAGE] * 5), "strength": 0.5}, "strength: a video is remade as a clip that one window"),
        ({"generator": torch.Generator()}, "generator: seed says the noise of all windows; leave it out"),
        ({"output_type": "np"}, "output_type: frames come as uint8"),
    ],
)
def test_what_windows_cannot_have_is_told_before_the_first(
    tiny_pipe: VideoDiTPipeline, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        long_clip(tiny_pipe, "a red circle", 21, overlap=5, **OPTIONS, **options)


@pytest.mark.slow
def test_a_clip_of_frames_in_any_form_ends_it_and_noise_that_is_given_is_the_first_windows(
    tiny_pipe: VideoDiTPipeline,
) -> None:
    end = np.stack([np.full((32, 32, 3), level, np.uint8) for level in (0, 60, 120, 180)])
    plain = made(tiny_pipe, 21, last_video=end, overlap=1)
    for form in (end[None], [list(end)]):
        np.testing.assert_array_equal(made(tiny_pipe, 21, last_video=form, overlap=1), plain)
    latents = torch.randn(1, 4, 3, 4, 4, generator=torch.Generator().manual_seed(9))
    one, other = (made(tiny_pipe, 17, latents=latents, seed=seed) for seed in (0, 5))
    np.testing.assert_array_equal(one[:9], other[:9])
    assert not np.array_equal(one[9:], other[9:])


def test_an_overlap_that_the_vae_cannot_take_names_those_it_can(tiny_pipe: VideoDiTPipeline) -> None:
    """Before anything is made."""
    with pytest.raises(ValueError, match=r"overlap=4: 4 frames cannot be given by themselves.*nearest: 1 or 5"):
        long_clip(tiny_pipe, "a red circle", 20, overlap=4)
    with pytest.raises(ValueError, match=r"window=8: 8 frames cannot be made at once.*nearest: 5 or 9"):
        long_clip(tiny_pipe, "a red circle", 20, window=8)


# --- ends and loops --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("step", "overlap", "size"), [(4, 5, 17), (4, 1, 9), (8, 9, 49), (1, 3, 16), (4, 9, 33)])
@pytest.mark.parametrize("loop", [False, True])
def test_windows_of_every_length_are_legal_and_make_all_frames(step: int, overlap: int, size: int, loop: bool) -> None:
    possible = 0
    for num_frames in range(1 + step, 130, step):
        try:
            found = Windows(num_frames, size, overlap, step, loop, step)
        except ValueError:
            assert num_frames < size
            continue
        possible += 1
        shown = 0 if loop else step
        assert found.body + found.fresh + shown == num_frames
        assert found.body >= overlap
        assert found.fresh > 0
        assert found.fresh + overlap + step <= size
        for count in (found.body, overlap + found.fresh + step):
            assert (count - 1) % step == 0
    assert possible > 10


def seen_by(pipe: VideoDiTPipeline) -> tuple[VideoDiTPipeline, list[dict[str, object]]]:
    """The pipeline, and what each call of it is given."""
    seen: list[dict[str, object]] = []
    call = VideoDiTPipeline.__call__

    class Spy(VideoDiTPipeline):
        def __call__(self, *args: object, **options: object) -> object:
            seen.append(options)
            return call(self, *args, **options)  # type: ignore[arg-type]

    spy = Spy(**pipe.components, default_num_frames=9, default_height=32, default_width=32)
    spy.set_progress_bar_config(disable=True)
    return spy, seen


@pytest.mark.parametrize(("num_frames", "overlap"), [(9, 1), (17, 1), (21, 1), (25, 1)])
def test_a_loop_leads_back_to_its_first_frames(tiny_pipe: VideoDiTPipeline, num_frames: int, overlap: int) -> None:
    spy, seen = seen_by(tiny_pipe)
    loop = np.stack(list(long_clip(spy, "a red circle", num_frames, overlap=overlap, loop=True, **OPTIONS)))
    assert loop.shape == (num_frames, 32, 32, 3)
    *others, last = seen
    np.testing.assert_array_equal(last["last_video"], loop[:4])
    assert all(one.get("last_video") is None for one in others)
    fresh = num_frames - sum(one["num_frames"] - (overlap if i else 0) for i, one in enumerate(others))
    np.testing.assert_array_equal(last["video"], loop[-fresh - overlap : -fresh])
    assert all(one["num_frames"] <= 9 for one in seen)


@pytest.mark.slow
def test_only_the_last_window_of_a_long_clip_has_its_end(tiny_pipe: VideoDiTPipeline) -> None:
    image = np.full((1, 32, 32, 3), 200, dtype=np.uint8)
    spy, seen = seen_by(tiny_pipe)
    made = np.stack(list(long_clip(spy, "a red circle", 21, overlap=1, last_image=image, **OPTIONS)))
    assert made.shape == (21, 32, 32, 3)
    assert [one["last_image"] is not None for one in seen] == [False] * (len(seen) - 1) + [True]
    alone = tiny_pipe("a red circle", num_frames=9, last_image=image, output_type="np", **OPTIONS).frames[0]
    np.testing.assert_allclose(made[-4:], np.rint(alone[-4:] * 255), atol=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loop": True, "last_image": np.zeros((1, 32, 32, 3), np.uint8)}, "a loop ends where it begins"),
        ({"loop": True, "num_frames": 18}, "num_frames=18: such a clip has 17 or 21 frames"),
        ({"loop": True, "num_frames": 17}, "leave nothing to make"),  # 5 + 4 of 9
    ],
)
def test_loops_that_cannot_be_are_refused(
    tiny_pipe: VideoDiTPipeline, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        long_clip(tiny_pipe, "a", **{"num_frames": 20, "overlap": 5 if "18" not in message else 1, **options})
