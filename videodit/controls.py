"""What a user gives for a model's own conditions -> what the model is told: maps beside the latent, and vectors.

    pipe("a fox", conditions={"depth": frames, "loudness": [0.1, 0.4, 0.9, 0.5, 0.2]})

Frames are given as those of `pipeline` arguments are (`given.pixels_of`), as many as the clip has; numbers as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from videodit.codec import VideoCodec
from videodit.codec.maps import map_of
from videodit.codec.past import past_tokens
from videodit.codec.sounds import SOUNDS, sound_rows
from videodit.codec.states import states_encoder
from videodit.conditions import longest, own_names, own_of
from videodit.data.columns import sound_at
from videodit.data.transforms import to_frames
from videodit.geometry import ClipSize
from videodit.given import clips_of, pixels_of, repeated_clips
from videodit.models import Condition, VideoModel
from videodit.video import read_frames
from videodit.video.sound import read_sound

Cut = Callable[[int, int], Any]  # what is given from a latent frame on, for so many frames


def controls_of(
    codec: VideoCodec,
    model: VideoModel,
    given: Mapping[str, Any] | None,
    count: int,
    times: int,
    size: ClipSize,
    scales: Mapping[str, float] | None = None,
) -> dict[str, Tensor]:
    """By the names that `conditions.Told` has for them: of so many clips, each given value serving `times` of them.

    Args:
        scales: of those that a branch reads, by how much of what it adds.

    Raises:
        ValueError: a condition that the model is not told, or one that it cannot do without; another number of frames,
            of clips or of numbers; a scale of what is not given, or of no branch.
    """
    given, scales = given or {}, scales or {}
    for name in scales:
        if given.get(name) is None or not _known(model, given)[name].branch:
            raise ValueError(
                f"condition_scale: {name!r} is no condition that is given and that a branch reads: give its map, "
                f"--condition {name}=FILE"
            )
        if not 0 <= scales[name] < float("inf"):
            raise ValueError(f"condition_scale: {name!r} at {scales[name]} must be 0 or more")
    known = _known(model, given)
    if missing := [name for name, one in known.items() if not one.null and given.get(name) is None]:
        raise ValueError(f"conditions: this model was not trained to do without {missing[0]!r}: give it")
    told = {}
    for name, value in given.items():
        if value is not None:
            one, (values, rows) = known[name], own_names(name)
            if one.kind == "tokens":
                told[values], told[rows] = _tokens(codec, one, value, count, times, size)
                continue
            make = _map if one.kind == "channels" else _vectors
            told[values] = make(codec, one, value, count, times, size)
            told[rows] = torch.full((count,), float(scales.get(name, 1.0))) if one.branch else torch.ones(count).bool()
    return told


def over_windows(
    codec: VideoCodec,
    model: VideoModel,
    given: Mapping[str, Any],
    size: ClipSize,
    *,
    around: bool = False,
    joined: bool = False,
) -> Cut:
    """Conditions of a clip that is made window after window -> of one, from a latent frame on, of so many frames.

    Args:
        given: of the whole clip, of whose `size` they are; behind its last frame that one stays.
        around: behind the last frame comes the first again.
        joined: windows are parts of one latent; else each is a clip by itself, whose maps are made of its own frames.

    Raises:
        ValueError: as `controls_of` does, of the whole clip.
    """
    strides, known = codec.strides, _known(model, given)
    step = strides.step
    whole = replace(size, num_frames=-(-(size.num_frames - 1) // step) * step + 1)

    def places(start: int, count: int, end: int) -> list[int]:
        return [n % end if around else min(n, end - 1) for n in range(start, start + count)]

    def of_latents(value: Tensor, axis: int) -> Cut:
        return lambda first, count: value.index_select(
            axis, torch.tensor(places(first, strides.latent_frames(count), value.shape[axis]), device=value.device)
        )

    def of_frames(frames: np.ndarray) -> Cut:
        return lambda first, count: frames[places(first * strides.time, count, len(frames))]

    cuts: dict[str, Cut] = {}
    for name, value in given.items():
        one = known[name]
        if value is None or one.kind == "tokens" or (one.kind == "vectors" and one.per != "frame"):
            continue
        if one.kind == "vectors":
            cuts[name] = of_latents(_vectors(codec, one, value, 1, 1, whole), 1)
        elif _is_made(codec, one, value, whole):
            cuts[name] = of_latents(_map(codec, one, value, 1, 1, whole), 2)
        elif joined:
            pixels = _pixels(one, value, 1, 1, size)
            rest = pixels[:, :, -1:].expand(-1, -1, whole.num_frames - size.num_frames, -1, -1)
            cuts[name] = of_latents(_map_of(codec, one, torch.cat([pixels, rest], dim=2), size), 2)
        else:
            cuts[name] = of_frames(to_frames(_pixels(one, value, 1, 1, size))[0])
    return lambda first, count: {**given, **{name: cut(first, count) for name, cut in cuts.items()}}


def _map(codec: VideoCodec, one: Condition, value: Any, count: int, times: int, size: ClipSize) -> Tensor:
    if _is_made(codec, one, value, size):
        return _rows(value.float(), count, times, f"conditions[{one.name!r}]")
    return _map_of(codec, one, _pixels(one, value, count, times, size), size)


def _map_of(codec: VideoCodec, one: Condition, pixels: Tensor, size: ClipSize) -> Tensor:
    return map_of(codec, pixels, one.of, one.factor, small=pixels.shape[-2:] != (size.height, size.width))


def _is_made(codec: VideoCodec, one: Condition, value: Any, size: ClipSize) -> bool:
    """Whether it is a map already, b c f h w, of a clip of this size."""
    return isinstance(value, Tensor) and tuple(value.shape[1:]) == (one.width, *size.latent(codec.strides)[1:])


def _pixels(one: Condition, value: Any, count: int, times: int, size: ClipSize) -> Tensor:
    """As large as the clip; or, of what is `of: small`, as such a picture, where all frames are."""
    what = f"conditions[{one.name!r}]"
    if one.of == "small":
        sides = size.height // one.factor, size.width // one.factor
        if all(frame.shape[:2] == sides for clip in clips_of(value, what) for frame in clip):
            size = replace(size, height=sides[0], width=sides[1])
    pixels = pixels_of(repeated_clips(value, times, what), count, size, what)
    if pixels.shape[2] != size.num_frames:
        raise ValueError(f"{what}: {pixels.shape[2]} frames for a clip of {size.num_frames}; give as many")
    return pixels


def _known(model: VideoModel, given: Mapping[str, Any]) -> dict[str, Condition]:
    known = {one.name: one for one in own_of(model)}
    if unknown := sorted(set(given) - set(known)):
        raise ValueError(
            f"conditions: {unknown[0]!r} is none of what this model is told ({', '.join(known) or 'none'})"
        )
    return known


def _vectors(codec: VideoCodec, one: Condition, value: Any, count: int, times: int, size: ClipSize) -> Tensor:
    what = f"conditions[{one.name!r}]"
    files = value if isinstance(value, list | tuple) else [value]
    if one.of in SOUNDS and all(isinstance(file, str | Path) for file in files):
        sounds = (torch.from_numpy(sound_rows(read_sound(file), one.of, one.width)) for file in files)
        value = torch.stack([sound_at(rows, one, 0.0, size, codec.strides)[0] for rows in sounds])
    own: tuple[int, ...] = (one.width,)
    if one.per == "frame":
        own = (codec.strides.latent_frames(size.num_frames), one.width)
    numbers = torch.as_tensor(value, dtype=torch.float32)
    if (one.width == 1 and numbers.shape[-1:] != (1,)) or numbers.ndim == 0:
        numbers = numbers[..., None]
    numbers = numbers[None] if numbers.ndim == len(own) else numbers
    if tuple(numbers.shape[1:]) != own or not numbers.isfinite().all():
        raise ValueError(
            f"{what}: numbers of shape {tuple(numbers.shape)}; give {own} finite ones, or a row of them a clip"
        )
    return _rows(numbers, count, times, what)


def _tokens(
    codec: VideoCodec, one: Condition, value: Any, count: int, times: int, size: ClipSize
) -> tuple[Tensor, Tensor]:
    what = f"conditions[{one.name!r}]"
    several = isinstance(value, list | tuple) or (getattr(value, "ndim", 2) == 3 and not _is_picture(value))
    each_one = value if several else [value]
    if one.of == "past" and not all(isinstance(each, Tensor) and each.ndim == 2 for each in each_one):  # frames
        pixels = pixels_of(repeated_clips(value, times, what), count, replace(size, num_frames=1), what)
        if pixels.shape[2] > one.frames:
            raise ValueError(
                f"{what}: {pixels.shape[2]} frames; this model learned at most {one.frames}: give the last"
            )
        return longest([past_tokens(latents) for latents in codec.encode(pixels).cpu()])
    if one.encoder:
        each_one = [_encoded(one, each, what) for each in each_one]
    given = [torch.as_tensor(each, dtype=torch.float32) for each in each_one]
    for each in given:
        none = not len(each) and one.of != "past"
        if each.ndim != 2 or each.shape[1] != one.width or none or not each.isfinite().all():
            raise ValueError(
                f"{what}: states of shape {tuple(each.shape)}; give m x {one.width}, finite, for all or each"
            )
    values, there = longest(given)
    return _rows(values, count, times, what), _rows(there, count, times, what)


def _is_picture(value: Any) -> bool:
    return isinstance(value, PIL.Image.Image) or (isinstance(value, np.ndarray) and value.dtype == np.uint8)


def _encoded(one: Condition, value: Any, what: str) -> Any:
    """States of a picture or a sound, by the condition's encoder; what are states already stays.

    value: a file; a picture too as PIL has it, or uint8 h w 3; a sound too as float n, at its encoder's rate.
    """
    is_file = isinstance(value, str | Path)
    if not is_file and not _is_picture(value) and getattr(value, "ndim", 2) == 2:
        return value
    encoder = states_encoder(one.encoder)
    if encoder.rate is None:
        return encoder(read_frames(value, [0.0])[0] if is_file else clips_of(value, what)[0][0])
    sound = read_sound(value, encoder.rate) if is_file else np.asarray(value, dtype=np.float32)
    if why := encoder.too_long(sound):
        raise ValueError(f"{what}: {why}")
    return encoder(sound)


def _rows(value: Tensor, count: int, times: int, what: str) -> Tensor:
    if len(value) not in (1, count // times):
        raise ValueError(f"{what}: {len(value)} given for {count // times} prompts; give one, or one each")
    return value.expand(count, *value.shape[1:]) if len(value) == 1 else value.repeat_interleave(times, dim=0)


def told_rows(
    own: Mapping[str, Tensor], guided: bool, untold: Sequence[str], device: torch.device
) -> dict[str, Tensor]:
    """For the pass with the prompt, and where there is guidance the one without, which is not told those of `untold`.

    ValueError: one of these is not given.
    """
    found: dict[str, Tensor] = {}
    names = [name.partition(".")[2] for name in own if name.startswith("own.")]
    if absent := [name for name in untold if name not in names]:
        raise ValueError(f"guidance_conditions: {absent[0]!r} is not given in conditions")
    for name in names:
        keys = own_names(name)
        value, said = (own[key].to(device) for key in keys)
        both = [said, torch.zeros_like(said) if name in untold else said]
        told = torch.cat([value] * (1 + guided)), torch.cat(both[: 1 + guided])
        found |= dict(zip(keys, told, strict=True))
    return found
