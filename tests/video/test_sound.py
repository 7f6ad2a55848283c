"""Sound of files: read as it is, written beside frames; and errors that name the file."""

from __future__ import annotations

import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from videodit.geometry import SOUND_RATE as RATE
from videodit.video import VideoError, read_clip, write_video
from videodit.video.sound import read_sound


def tone(seconds: float, rate: int = RATE, pitch: float = 440.0, loud: float = 0.5) -> np.ndarray:
    return (loud * np.sin(2 * np.pi * pitch * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def write_wav(path: Path, samples: np.ndarray, rate: int = RATE) -> Path:
    """Samples n, or n channels."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1 if samples.ndim == 1 else samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.rint(samples * 32767).astype("<i2").tobytes())
    return path


def frames(count: int = 9) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)


def test_samples_come_as_they_are_and_of_several_channels_their_mean(tmp_path: Path) -> None:
    mono = tone(0.5)
    np.testing.assert_allclose(read_sound(write_wav(tmp_path / "a.wav", mono)), mono, atol=1e-4)
    stereo = np.stack([mono, -0.5 * mono], axis=1)
    np.testing.assert_allclose(read_sound(write_wav(tmp_path / "b.wav", stereo)), 0.25 * mono, atol=1e-3)


def test_another_rate_is_the_same_sound(tmp_path: Path) -> None:
    file = write_wav(tmp_path / "a.wav", tone(0.5, 44_100), 44_100)
    np.testing.assert_allclose(read_sound(file)[200:7800], tone(0.5)[200:7800], atol=5e-3)
    assert abs(len(read_sound(file, 8_000)) - 4_000) <= 2


@pytest.mark.parametrize(("suffix", "tolerance"), [(".mkv", 2e-3), (".mp4", 0.05)])
def test_a_clip_has_as_much_of_a_sound_as_it_is_long_and_its_frames_stay(
    tmp_path: Path, suffix: str, tolerance: float
) -> None:
    shown = frames()
    file = write_wav(tmp_path / "long.wav", tone(3.0, 48_000), 48_000)
    clip, silent = (
        write_video(tmp_path / f"{name}{suffix}", shown, 8.0, sound=sound) for name, sound in (("a", file), ("b", None))
    )
    np.testing.assert_array_equal(read_clip(clip, 9, 8.0), read_clip(silent, 9, 8.0))
    heard = read_sound(clip)
    assert abs(len(heard) - 9 / 8 * RATE) < 0.08 * RATE
    middle = slice(2000, 14_000)
    np.testing.assert_allclose(heard[middle], tone(2.0)[middle], atol=tolerance)


def test_behind_a_short_sound_is_silence(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "a.mkv", frames(), 8.0, sound=write_wav(tmp_path / "a.wav", tone(0.5)))
    heard = read_sound(clip)
    assert len(heard) == round(9 / 8 * RATE)
    assert np.abs(heard[8200:]).max() < 1e-3
    assert np.abs(heard[:8000]).max() > 0.4


@pytest.mark.parametrize(("zero", "late"), [(0.0, 0.5), (5.0, 0.25), (5.0, 0.0), (5.0, -0.25)])
def test_a_clips_sound_is_counted_from_its_first_frame(tmp_path: Path, zero: float, late: float) -> None:
    with av.open(str(tmp_path / "late.mkv"), "w") as container:
        shown = container.add_stream("ffv1", rate=8)
        shown.width = shown.height = 16
        shown.pix_fmt = "bgr0"
        heard = container.add_stream("flac", rate=RATE, layout="mono")
        for number, one in enumerate(frames()):
            picture = av.VideoFrame.from_ndarray(one, "rgb24").reformat(format="bgr0")
            picture.pts, picture.time_base = round(zero * 8) + number, Fraction(1, 8)
            container.mux(shown.encode(picture))
        container.mux(shown.encode())
        frame = av.AudioFrame.from_ndarray(np.rint(tone(0.5)[None] * 32767).astype(np.int16), "s16", "mono")
        frame.sample_rate, frame.pts, frame.time_base = RATE, round((zero + late) * RATE), Fraction(1, RATE)
        container.mux([*heard.encode(frame), *heard.encode(None)])  # type: ignore[arg-type]
    samples = read_sound(tmp_path / "late.mkv")
    begin = round(late * RATE)
    assert not samples[: max(0, begin - 20)].any()
    np.testing.assert_allclose(samples[max(0, begin) :], tone(0.5)[max(0, -begin) :], atol=2e-3)


def test_what_has_no_sound_is_named(tmp_path: Path) -> None:
    silent = write_video(tmp_path / "silent.mkv", frames(), 8.0)
    (tmp_path / "text.wav").write_text("no sound at all, but many words" * 50)
    (tmp_path / "empty.wav").touch()
    (tmp_path / "x.txt").write_text("x")
    for file, why in (
        (silent, "silent.mkv has no sound in it"),
        (tmp_path / "text.wav", "text.wav cannot be read as a sound"),
        (tmp_path / "empty.wav", "empty.wav is empty"),
        (tmp_path / "x.txt", "x.txt is no sound or video by its name"),
        (tmp_path / "none.wav", "none.wav cannot be opened"),
        (tmp_path, "is a folder"),
    ):
        with pytest.raises(VideoError, match=why):
            read_sound(file)
    assert read_sound(
        write_video(tmp_path / "A.MKV", frames(), 8.0, sound=write_wav(tmp_path / "a.wav", tone(1)))
    ).any()
    with pytest.raises(ValueError, match=r"a \.gif has no sound; write \.mp4 or \.mkv"):
        write_video(tmp_path / "a.gif", frames(), 8.0, sound=silent)
    with pytest.raises(VideoError, match=r"text\.wav cannot be read as a sound"):
        write_video(tmp_path / "a.mp4", frames(), 8.0, sound=tmp_path / "text.wav")
    assert not (tmp_path / "a.mp4").exists()
