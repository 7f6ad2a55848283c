"""What the files that clips are asked for with hold: frames that are given, and what the model is told besides."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from videodit.codec.sounds import SOUNDS
from videodit.conditions import own_of
from videodit.data.columns import STATES, tokens_in
from videodit.geometry import Strides
from videodit.models import Condition
from videodit.pipeline import VideoDiTPipeline
from videodit.video import probe, read_clip, read_frames
from videodit.video.sound import SOUNDING


def conditions_of(pipe: VideoDiTPipeline, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What the model is told besides: frames of a file, from its first on at the clip's rate; numbers as JSON; or a
    file that the model's own code opens."""
    known = {one.name: one for one in own_of(pipe.transformer)}
    found: dict[str, Any] = {}
    for said in settings.get("conditions", ()):
        name, is_said, value = said.partition("=")
        if not is_said or name in found:
            raise ValueError(f"condition {said!r}: say each once, as name=file or name=numbers")
        if name not in known:
            raise ValueError(f"condition {name!r} is none of what this model is told ({', '.join(known) or 'none'})")
        if known[name].kind == "channels" and settings["num_frames"] == 1:
            found[name] = read_frames(value, [0.0])
        elif known[name].of == "past":
            found[name] = _last_frames(value, known[name].frames, settings["fps"], pipe.strides)
        elif _is_heard_or_seen(known[name], value):
            found[name] = value
        elif known[name].kind == "tokens":
            found[name] = tokens_in(Path(value), known[name].width)
        elif known[name].kind == "channels":
            found[name] = read_clip(value, settings["num_frames"], settings["fps"])
        else:
            try:
                found[name] = json.loads(value)
            except ValueError:
                raise ValueError(f"condition {said!r} holds no numbers: write them as 0.5, or [0.5, 1]") from None
    return found


def _last_frames(file: str, most: int, fps: float, strides: Strides) -> np.ndarray:
    """Of a video at the clip's rate, as many as the VAE takes by themselves."""
    duration = probe(file).duration
    count = (max(1, min(most, int(duration * fps + 1e-6))) - 1) // strides.step * strides.step + 1
    return read_clip(file, count, fps, start=max(0.0, duration - count / fps))


def frames_of(name: str, settings: Mapping[str, Any]) -> np.ndarray:
    """Of a file that frames are given from: a picture, or of a video at the clip's rate all that is to be remade, the
    last ones, to go on from, or the first ones, to lead to."""
    file, fps = settings[name], settings["fps"]
    if name in ("image", "last_image"):
        return read_frames(file, [0.0])
    if name == "video" and "strength" in settings:
        return read_clip(file, settings["num_frames"], fps)
    count = settings["given_frames" if name == "video" else "last_given_frames"]
    start = probe(file).duration - count / fps
    if start < -0.5 / fps:
        raise ValueError(f"{file}: too short to give {count} frames at {fps:g} a second; give fewer")
    return read_clip(file, count, fps, start=max(0.0, start) if name == "video" else 0.0)


def sound_of(pipe: VideoDiTPipeline, settings: Mapping[str, Any], path: Path) -> str | None:
    """The file whose sound a clip was told, which it then has, where its own file can; None: none."""
    known = {one.name: one for one in own_of(pipe.transformer)}
    told = (said.partition("=")[::2] for said in settings.get("conditions", ()))
    heard = [value for name, value in told if known[name].of in SOUNDS and _is_heard_or_seen(known[name], value)]
    return heard[0] if heard and path.suffix.lower() in SOUNDING else None


def _is_heard_or_seen(one: Condition, value: str) -> bool:
    """Whether a file is meant, of a sound or for an encoder, and not numbers or states."""
    if one.of in SOUNDS:
        return Path(value).is_file() or not value.startswith(("[", "-", *"0123456789."))
    return bool(one.encoder) and Path(value).suffix.lower() not in STATES
