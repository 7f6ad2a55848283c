"""The nearest true clip, over grounds and phases, against brute force and known answers."""

from __future__ import annotations

import numpy as np
import pytest

from videodit.evaluation.measure.nearest import FRAMES, SIDE, TrueClip, TrueClips, in_halves
from videodit.video.ground import lay


def art(seed: int, clear: bool = True) -> np.ndarray:
    """A loop of noise in blocks, opaque within a disk that moves."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (FRAMES, 8, 8, 4), dtype=np.uint8)
    frames = blocks.repeat(SIDE // 8, axis=1).repeat(SIDE // 8, axis=2)
    y, x = np.mgrid[:SIDE, :SIDE]
    for number, frame in enumerate(frames):
        inside = (y - SIDE / 2) ** 2 + (x - SIDE / 2 - number) ** 2 < (SIDE / 3) ** 2
        frame[..., 3] = np.where(inside | (not clear), 255, 0)
    return frames


def true(frames: np.ndarray) -> TrueClip:
    return TrueClip(on(frames, "black"), on(frames, "white"))


def on(frames: np.ndarray, ground: str) -> np.ndarray:
    return np.stack([lay(frame, ground) for frame in frames])


@pytest.mark.parametrize("ground", ["white", "#1e90ff", "red to blue", "black to white"])
def test_a_clip_is_found_again_on_every_ground_and_in_every_phase(ground):
    arts = [art(seed) for seed in range(5)]
    clips = TrueClips(map(true, arts))
    for index, phase in ((0, 0), (3, 5), (4, FRAMES - 1)):
        shown = np.roll(on(arts[index], ground), -phase, axis=0)
        (found,) = clips.nearest(shown)
        assert (found.index, found.phase) == (index, phase)
        assert found.distance < 0.01  # of 8 bits, rounded


def test_the_distance_is_that_of_the_best_ground_by_least_squares():
    """Against numpy's solver, over all phases."""
    arts = [art(1), art(2), art(3, clear=False)]
    query = on(art(7), "green")
    x = query.astype(np.float64) / 255
    rows = np.broadcast_to(np.linspace(-1, 1, SIDE)[:, None], (SIDE, SIDE))
    best = []
    for frames in arts:
        a = frames[..., 3:] / 255.0
        p, m = frames[..., :3] / 255.0 * a, 1 - a[..., 0]
        sums = []
        for phase in range(FRAMES):
            e = x - np.roll(p, -phase, axis=0)
            mm = np.roll(m, -phase, axis=0)
            design = np.stack([mm.ravel(), (mm * rows).ravel()], axis=1)
            total = 0.0
            for channel in range(3):
                wanted = e[..., channel].ravel()
                ground = np.linalg.lstsq(design, wanted, rcond=None)[0]
                total += ((wanted - design @ ground) ** 2).sum()
            sums.append(total)
        best.append(np.sqrt(min(sums) / x.size))
    found = TrueClips(map(true, arts)).nearest(query, count=3)
    assert [near.index for near in found] == np.argsort(best).tolist()
    assert [near.distance for near in found] == pytest.approx(sorted(best), rel=1e-3)


def test_clips_of_other_lengths_and_sizes_compare_what_they_show():
    frames = np.repeat(art(0), 3, axis=0)  # three times as slow
    clips = TrueClips(map(true, [art(1), frames.repeat(2, axis=1).repeat(2, axis=2)]))
    (found,) = clips.nearest(on(art(0), "white"))
    assert (found.index, found.phase) == (1, 0)
    assert found.distance < 0.01


def test_the_ground_that_was_painted_is_read_off_the_clip():
    arts = [art(seed) for seed in range(3)]
    clips = TrueClips(map(true, arts))
    shown = np.roll(on(arts[1], "#ff0080 to #00ff00"), -4, axis=0)
    top, bottom = clips.ground(shown, clips.nearest(shown)[0])
    assert top == pytest.approx([1, 0, 128 / 255], abs=0.02)
    assert bottom == pytest.approx([0, 1, 0], abs=0.02)


def test_opaque_clips_compare_pixels():
    black, white = (np.full((3, 8, 8, 3), level, np.uint8) for level in (0, 255))
    found = TrueClips(map(TrueClip, (white, black))).nearest(np.full((3, 8, 8, 3), 51, np.uint8), count=2)
    assert [(near.index, round(near.distance, 4)) for near in found] == [(1, 0.2), (0, 0.8)]


def test_change_is_that_of_neighbouring_frames_before_the_same_ground():
    arts = [art(seed) for seed in range(2)]
    clips = TrueClips(map(true, arts))
    shown = on(arts[1], "#3366cc")
    ground = [0x33 / 255, 0x66 / 255, 0xCC / 255]
    assert clips.change(shown, 1, ground, ground) == pytest.approx(1, abs=0.01)
    pixels = shown.astype(float)
    other = on(arts[0], "#3366cc").astype(float)
    ratio = np.abs(np.diff(pixels, axis=0)).mean() / np.abs(np.diff(other, axis=0)).mean()
    assert clips.change(shown, 0, ground, ground) == pytest.approx(ratio, rel=0.01)
    assert clips.change(shown[:1], 1, ground, ground) == 0


def test_clips_are_alike_in_how_they_change_not_in_how_much():
    arts = [art(seed) for seed in range(3)]
    clips = TrueClips(map(true, arts))
    shown = np.roll(on(arts[1], "red to blue"), -4, axis=0)
    (near,) = clips.nearest(shown)
    assert clips.alike(shown, near) == pytest.approx(1, abs=1e-3)
    mean = shown.astype(float).mean(axis=0)
    assert clips.alike((mean + 0.3 * (shown - mean)).round().astype(np.uint8), near) == pytest.approx(1, abs=0.02)
    noise = np.random.default_rng(0).normal(0, 60, shown.shape)
    flickers = (mean + noise).clip(0, 255).astype(np.uint8)
    ground = [tuple(colour) for colour in clips.ground(flickers, near)]
    assert clips.change(flickers, 1, *ground) > 0.5  # which noise is, too
    assert abs(clips.alike(flickers, near)) < 0.05
    assert clips.alike(np.repeat(shown[:1], FRAMES, axis=0), near) == pytest.approx(0, abs=1e-4)


def test_halves():
    clip = np.zeros((2, 4, 8, 3), np.uint8)
    clip[:, :, 4:] = 10
    clip[1] += 20
    left, right = in_halves(clip)
    assert left.shape == right.shape == (2, 4, 4, 3)
    assert (left[0].max(), right[0].min()) == (0, 10)
    with pytest.raises(ValueError, match="uint8 f h w 3"):
        TrueClips([TrueClip(clip.astype(np.float32))])
