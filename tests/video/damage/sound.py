"""Small numbered clips of every kind, and stills: what damaged files are made from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from ..conftest import numbered, write_numbered

FRAMES, RATE = 24, 25  # a frame takes 40 ms, which every format's clock can say
STILL = 5  # the number that still images carry
GOP = {"g": "12", "bf": "3", "crf": "10"}
CLIPS: dict[str, dict[str, Any]] = {
    "faststart.mp4": {"options": GOP, "container": {"movflags": "faststart"}},
    "index_last.mp4": {"options": GOP},
    "fragments.mp4": {"options": GOP, "container": {"movflags": "frag_keyframe+empty_moov"}},
    "hevc.mp4": {"codec": "libx265", "options": {"x265-params": "keyint=12:log-level=none"}},
    "h264.mkv": {"options": GOP},
    "vp8.webm": {"codec": "libvpx", "options": {"auto-alt-ref": "1", "lag-in-frames": "16"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"g": "12"}},
    "mpeg4.avi": {"codec": "mpeg4", "options": {"bf": "2", "g": "9"}},
    "h264.ts": {"options": GOP},
    "mpeg2.mpg": {"codec": "mpeg2video", "options": {"bf": "2", "g": "9"}},
    "raw.h264": {"options": GOP},
    "h264.flv": {"options": GOP},
    "wmv2.wmv": {"codec": "wmv2"},
}
ANIMATIONS: dict[str, dict[str, Any]] = {
    "animation.gif": {},
    "animation.webp": {"lossless": True},
    "animation.png": {},
}
STILLS: dict[str, dict[str, Any]] = {
    "still.png": {},
    "still.jpg": {"quality": 95},
    "still.bmp": {},
    "still.webp": {"lossless": True},
}

Sound = dict[str, Path]
Made = Iterator[tuple[str, str, bytes, str]]  # damage ("kind: detail"), suffix, content, sound file ("": of none)


def make_sound(folder: Path) -> Sound:
    """A clip of FRAMES numbered frames of every kind, and stills."""
    folder.mkdir(parents=True, exist_ok=True)
    exact = {"fflags": "bitexact"}  # Matroska would draw random numbers
    for name, how in CLIPS.items():
        how = how | {"container": exact | how.get("container", {})}
        write_numbered(folder, name, num_frames=FRAMES, rate=RATE, **how)
    first, *others = [Image.fromarray(numbered(n)) for n in range(FRAMES)]
    for name, how in ANIMATIONS.items():
        first.save(folder / name, save_all=True, append_images=others, duration=1000 // RATE, loop=0, **how)
    for name, how in STILLS.items():
        Image.fromarray(numbered(STILL)).save(folder / name, **how)
    return {name: folder / name for name in (*CLIPS, *ANIMATIONS, *STILLS)}


def patched(content: bytes, place: int, value: bytes) -> bytes:
    return content[:place] + value + content[place + len(value) :]
