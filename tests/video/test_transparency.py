"""What is transparent is laid on a background, alike for images, animations and videos of every codec with alpha."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from videodit.config.ground import parse_ground
from videodit.video import UnsuitableError, VideoError, probe, read_clip, read_frames
from videodit.video.ground import lay
from videodit.video.writer import write_video

# codec, pixel format, ending, the most that a level may be off
VIDEOS = [
    ("qtrle", "argb", "mov", 1),
    ("png", "rgba", "mov", 1),
    ("ffv1", "bgra", "mkv", 1),
    ("prores_ks", "yuva444p10le", "mov", 6),
    ("libvpx-vp9", "yuva420p", "webm", 8),
    ("libvpx", "yuva420p", "webm", 10),
]
H, W, F = 32, 48, 5


def picture(number: int) -> np.ndarray:
    """A gray that brightens from frame to frame; opaque on the left, half clear in the middle, clear on the right."""
    frame = np.zeros((H, W, 4), dtype=np.uint8)
    frame[..., :3] = 40 + 20 * number
    frame[:, :16, 3], frame[:, 16:32, 3] = 255, 128
    return frame


def write(file: Path, codec: str, pixel_format: str) -> None:
    with av.open(str(file), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(8))
        stream.width, stream.height, stream.pix_fmt = W, H, pixel_format
        if codec == "prores_ks":
            stream.options = {"profile": "4444"}
        if codec.startswith("libvpx"):
            stream.options = {"crf": "4", "b": "4M", "auto-alt-ref": "0"}
            stream.metadata["alpha_mode"] = "1"
        for number in range(F):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgba")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def expected(number: int, ground: tuple[int, int, int]) -> list[list[float]]:
    """The colour in the middle of each third, by the definition of over."""
    gray = 40 + 20 * number
    shares = (1.0, 128 / 255, 0.0)
    return [[gray * share + level * (1 - share) for level in ground] for share in shares]


@pytest.mark.parametrize(("codec", "pixel_format", "ending", "slack"), VIDEOS)
@pytest.mark.parametrize(("name", "ground"), [("white", (255, 255, 255)), ("#0a64ff", (10, 100, 255))])
def test_videos_with_alpha_are_laid_on_the_background(tmp_path, codec, pixel_format, ending, slack, name, ground):
    file = tmp_path / f"clip.{ending}"
    write(file, codec, pixel_format)
    assert probe(file).transparent
    frames = read_clip(file, F, 8.0, background=name)
    for number, frame in enumerate(frames):
        found = frame[H // 2, [8, 24, 40]].astype(float)
        assert np.abs(found - expected(number, ground)).max() <= slack


@pytest.mark.parametrize("ending", ["png", "webp", "gif"])
def test_images_and_animations_with_alpha_are_too(tmp_path, ending):
    frames = [Image.fromarray(picture(number)) for number in range(F)]
    file = tmp_path / f"clip.{ending}"
    options = {"lossless": True, "exact": True} if ending == "webp" else {}
    frames[0].save(file, save_all=True, append_images=frames[1:], duration=125, disposal=2, **options)
    assert probe(file).transparent
    for number, frame in enumerate(read_clip(file, F, 8.0, background="red")):
        wanted = expected(number, (255, 0, 0))
        thirds = [0, 2] if ending == "gif" else [0, 1, 2]  # a GIF is clear or not
        assert np.abs(frame[H // 2, [8, 24, 40]].astype(float)[thirds] - np.array(wanted)[thirds]).max() <= 1


def test_edges_stay_clean_when_scaled(tmp_path):
    """Scaling before laying would mix the colour of what is clear (here: black) into the edge."""
    file = tmp_path / "clip.mkv"
    write(file, "ffv1", "bgra")
    frame = read_frames(file, [0.0], cover=(H // 2, W // 2), background="white")[0]
    assert frame.shape == (H // 2, W // 2, 3)
    assert frame[:, -6:].min() >= 254
    assert frame[:, 2:].min() >= 36  # 40 less what a bicubic edge rings: nowhere mixed with black


def test_what_has_an_alpha_channel_and_nothing_clear_is_not_transparent(tmp_path):
    Image.fromarray(np.full((8, 8, 4), 255, np.uint8)).save(tmp_path / "opaque.png")
    assert not probe(tmp_path / "opaque.png").transparent
    write_video(tmp_path / "opaque.mkv", np.zeros((2, 8, 8, 3), np.uint8), 8)
    assert not probe(tmp_path / "opaque.mkv").transparent


def test_decord_which_drops_alpha_is_refused(tmp_path):
    pytest.importorskip("decord")
    write(tmp_path / "clip.mkv", "ffv1", "bgra")
    with pytest.raises(UnsuitableError, match="is transparent, which decord drops; read it with backend='pyav'"):
        read_frames(tmp_path / "clip.mkv", [0.0], backend="decord")


def test_a_gradient_goes_from_the_top_to_the_bottom():
    clear = np.zeros((5, 2, 4), np.uint8)
    assert lay(clear, "black to #ffc864")[:, 0].tolist() == [
        [0, 0, 0],
        [64, 50, 25],
        [128, 100, 50],
        [191, 150, 75],
        [255, 200, 100],
    ]
    assert parse_ground("orange") == ((255, 165, 0), (255, 165, 0))


@pytest.mark.parametrize("name", ["", "blurple", "red to", "red to blue to green", "rgb(1,2", 7, None])
def test_what_is_no_background_is_named(name):
    with pytest.raises(ValueError, match="is no background: name a colour"):
        parse_ground(name)


def test_a_background_that_is_none_is_named_by_the_reader(tmp_path):
    Image.fromarray(picture(0)).save(tmp_path / "a.png")
    with pytest.raises((ValueError, VideoError), match="'nowhere' is no background"):
        read_frames(tmp_path / "a.png", [0.0], background="nowhere")
