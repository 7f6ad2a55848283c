"""Sound from files, and into them: one channel of samples, read at a rate; a clip's sound beside its frames."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer

from videodit.geometry import SOUND_RATE
from videodit.video.index import CONTAINERS, VIDEO_SUFFIXES, VideoError, checked

SOUND_SUFFIXES = (".wav", ".mp3", ".flac", ".ogg", ".oga", ".opus", ".m4a", ".aac", ".aiff", ".aif")
LONGEST = 3600.0  # seconds of silence before it
_FORMATS = f"{CONTAINERS},aac,aiff,flac,mp3,wav"
_WRITTEN = {".mp4": ("aac", 48_000), ".mkv": ("flac", 48_000)}  # by what a clip's file is called
SOUNDING = tuple(_WRITTEN)


def read_sound(path: str | Path, rate: int = SOUND_RATE) -> np.ndarray:
    """All of a file's first sound, its channels' mean, float32 n in [-1, 1], `rate` samples a second: from the first
    frame on that the file shows, with silence where it begins later; of a sound alone from its own beginning.

    Raises `VideoError` for a path that is missing, a folder, empty or damaged, or has no sound.
    """
    with _opened(checked(path, SOUND_SUFFIXES + VIDEO_SUFFIXES, "sound or video")) as (container, stream):
        resampler = av.AudioResampler(format="fltp", rate=rate)  # FFmpeg's mono is louder than the mean
        parts: list[np.ndarray] = []
        begin, zero = 0.0, _shown_from(container)
        for number, frame in enumerate(container.decode(stream)):
            if number == 0:
                begin = 0.0 if zero is None else float(frame.time or 0.0) - zero
                if begin > LONGEST:
                    raise VideoError(f"{path}: its sound begins {begin:.0f} s after its frames: damaged, or another's")
            parts += [piece.to_ndarray().mean(axis=0) for piece in resampler.resample(frame)]
        parts += [piece.to_ndarray().mean(axis=0) for piece in resampler.resample(None)]
    samples = np.concatenate([np.zeros(max(0, round(begin * rate)), np.float32), *parts])[
        max(0, -round(begin * rate)) :
    ]
    if not len(samples):
        raise VideoError(f"{path} has a sound of no length: give a file that has some")
    return np.clip(samples, -1, 1).astype(np.float32)


def _shown_from(container: InputContainer) -> float | None:
    """The time in seconds of a file's first frame; None: it has none."""
    shown = [one for one in container.streams.video if one.start_time is not None and one.time_base is not None]
    return float(shown[0].start_time * shown[0].time_base) if shown else None  # type: ignore[operator]


@contextmanager
def _opened(path: Path) -> Iterator[tuple[InputContainer, AudioStream]]:
    try:
        with av.open(str(path), options={"format_whitelist": _FORMATS}, metadata_errors="replace") as container:
            if not container.streams.audio:
                raise VideoError(f"{path} has no sound in it: give a file that has")
            stream = container.streams.audio[0]
            stream.codec_context.thread_count = 1  # files are read side by side
            yield container, stream
    except (av.error.FFmpegError, OSError) as error:
        reason = error.strerror or "unknown error"
        raise VideoError(f"{path} cannot be read as a sound ({reason}): copy or convert it again") from error


class Track:
    """A file's sound beside a clip's frames, from its beginning, as long as the clip; to be made before any of it is
    written."""

    def __init__(self, container: OutputContainer, sound: str | Path, suffix: str):
        codec, self.rate = _WRITTEN[suffix]
        self.samples = read_sound(sound, self.rate)
        stream = container.add_stream(codec, rate=self.rate, layout="mono")
        assert isinstance(stream, AudioStream)
        self.container, self.stream = container, stream
        stream.codec_context.thread_count = 1

    def write(self, seconds: float) -> None:
        """Where a file's sound ends before, there is silence."""
        count = round(seconds * self.rate)
        samples = np.pad(self.samples[:count], (0, max(0, count - len(self.samples))))
        codec = self.stream.codec_context
        resampler = av.AudioResampler(codec.format.name, "mono", self.rate, codec.frame_size or 1024)
        frame = av.AudioFrame.from_ndarray(samples[None], format="flt", layout="mono")
        frame.sample_rate, frame.pts = self.rate, 0
        for piece in (*resampler.resample(frame), *resampler.resample(None)):
            self.container.mux(self.stream.encode(piece))
        self.container.mux(self.stream.encode(None))
