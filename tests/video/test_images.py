"""Images and animations are clips: of one frame, or with times of their own."""

import numpy as np
import pytest
from PIL import Image

from videodit.video import (
    VideoError,
    probe,
    read_clip,
    read_frames,
    stream_frames,
)

from .conftest import HEIGHT, WIDTH, numbered, numbers


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".gif"])
def test_an_image_is_a_clip_of_one_frame(tmp_path, suffix):
    path = tmp_path / f"still{suffix}"
    pixels = numbered(5)
    options = {".webp": {"lossless": True}, ".jpg": {"quality": 100, "subsampling": 0}}.get(suffix, {})
    Image.fromarray(pixels).save(path, **options)
    info = probe(path)
    assert (info.num_frames, info.fps, info.duration, info.is_image) == (1, 0.0, 0.0, True)
    assert (info.height, info.width) == (HEIGHT, WIDTH)
    clip = read_clip(path, 1, 8)
    assert clip.shape == (1, HEIGHT, WIDTH, 3)
    assert np.abs(clip[0].astype(int) - pixels).max() <= (4 if suffix == ".jpg" else 0)
    with pytest.raises(VideoError, match="still image and cannot give 2 frames"):
        read_clip(path, 2, 8)
    with pytest.raises(VideoError, match="on screen at time 0 only"):
        read_frames(path, [0.5])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    """The eight orientations of the EXIF standard, each as the turn that undoes it."""
    upright = numbered(5)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.png"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif)
    np.testing.assert_array_equal(read_clip(path, 1, 8)[0], upright)
    assert (probe(path).height, probe(path).width) == (HEIGHT, WIDTH)


def test_transparent_pixels_are_shown_over_white(tmp_path):
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[:2] = (200, 10, 10, 255)
    pixels[2:] = (200, 10, 10, 0)
    Image.fromarray(pixels).save(tmp_path / "clear.png")
    frame = read_clip(tmp_path / "clear.png", 1, 8)[0]
    assert (frame[:2] == (200, 10, 10)).all()
    assert (frame[2:] == 255).all()


def test_sixteen_bits_are_refused_rather_than_clipped(tmp_path):
    Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(VideoError, match="more than 8 bits"):
        read_clip(tmp_path / "deep.png", 1, 8)


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_an_animation_is_a_clip_with_its_own_times(tmp_path, suffix):
    path = tmp_path / f"animation{suffix}"
    first, *others = [Image.fromarray(numbered(n)) for n in range(4)]
    options = {"lossless": True} if suffix == ".webp" else {}
    first.save(path, save_all=True, append_images=others, duration=[100, 300, 50, 50], loop=0, **options)
    info = probe(path)
    assert (info.num_frames, info.is_image) == (4, False)
    assert info.duration == pytest.approx(0.5)
    assert info.fps == pytest.approx(8)
    assert numbers(read_frames(path, [0, 0.09, 0.1, 0.39, 0.4, 0.45])) == [0, 0, 1, 1, 2, 3]


def test_a_cut_image_is_an_error(tmp_path):
    path = tmp_path / "cut.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(VideoError, match=r"cut\.png cannot be read"):
        read_clip(path, 1, 8)


def test_a_picture_larger_than_the_bound_is_refused_unread(tmp_path):
    path = tmp_path / "huge.png"
    Image.new("1", (9000, 9000)).save(path)
    with pytest.raises(VideoError, match=r"huge\.png says that its frames are 9000x9000, more than 67 million pixels"):
        probe(path)


def test_the_still_picture_before_an_animated_png_is_no_frame_of_it(tmp_path):
    path = tmp_path / "animation.png"
    still, *pictures = [Image.fromarray(numbered(n)) for n in (99, 0, 1, 2)]
    still.save(path, save_all=True, default_image=True, append_images=pictures, duration=250, loop=0)
    info = probe(path)
    assert (info.num_frames, info.duration) == (3, pytest.approx(0.75))
    assert numbers(read_frames(path, [0, 0.25, 0.6])) == [0, 1, 2]
    assert numbers(np.stack([frame for _, frame in stream_frames(path)])) == [0, 1, 2]
