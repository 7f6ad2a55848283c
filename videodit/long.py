"""Clips of any length, and loops: a window after another, each going on from the last frames of the one before.

What is in memory is one window, however long the clip: frames are given out as they are made. The frames that two
windows share are those of the earlier one; the model sees them as given (`given`), so it must have been trained to go
on from frames (`objective.given_frames: {start: ...}`). A causal VAE's decoder goes on too, from what it kept of the
window before: decoded by itself, a window would begin a little sharper or softer than the one before ended. What a
clip ends with is given to its last window; in a loop these are the clip's own first frames (`{inner: ...}`).

A model that was trained to be told its past (a condition that is `of: past`) is told, with each window, of the frames
before those that it shares, in tokens that are fewer the older they are (`codec.past`).

Windows of a model that remembers (`models.linear`) need share none: each goes on from sums over all frames before it,
which are what it would see of them as given frames of one long clip.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from videodit.conditions import own_of
from videodit.controls import Cut, over_windows
from videodit.data.transforms import to_frames
from videodit.geometry import ClipSize
from videodit.given import check_closing, clips_of, given_frames
from videodit.memory import check_decode
from videodit.models.linear import CAUSAL, remembers, with_past
from videodit.pipeline import VideoDiTPipeline
from videodit.pipeline.tiles import Tiles

LAST = ("last_image", "last_video")
NOT_OF_WINDOWS = {  # options of the pipeline that say nothing of a clip which is made window after window
    "generator": "seed says the noise of all windows",
    "output_type": "frames come as uint8",
    "strength": "a video is remade as a clip that one window makes",
    "num_videos_per_prompt": "it is one clip",
}


@dataclass(frozen=True)
class Windows:
    """How a clip of `num_frames` is made: `size` frames at once, `overlap` of them from the window before.

    `closing` frames end the last window as they are given: those of the clip's end, or, in a loop, of its beginning;
    `step` is what lengths of windows grow by.
    """

    num_frames: int
    size: int
    overlap: int
    closing: int = 0
    loop: bool = False
    step: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.overlap < self.size:
            raise ValueError(
                f"overlap={self.overlap} must be 1 or more, and less than the window of {self.size} frames"
            )
        if self.closing and not self.fresh > 0:
            raise ValueError(
                f"num_frames={self.num_frames} in windows of {self.size}: {self.overlap} shared and {self.closing} "
                "last frames leave nothing to make; ask for more frames, a larger window or a smaller overlap"
            )
        if self.closing and (self.num_frames - 1) % self.step:
            below = (self.num_frames - 1) // self.step * self.step + 1
            raise ValueError(f"num_frames={self.num_frames}: such a clip has {below} or {below + self.step} frames")

    @property
    def fresh(self) -> int:
        """Frames that the last window makes, between those it goes on from and those it ends with."""
        most = self.size - self.overlap - self.closing
        shown = 0 if self.loop else self.closing
        least = max(self.overlap, self.closing if self.loop else 1)
        room = self.num_frames - shown - (-(-(least - 1) // self.step) * self.step + 1)
        return min(most, room) // self.step * self.step

    @property
    def body(self) -> int:
        """Frames that are made before the last window, where that one has an end of its own."""
        return self.num_frames - self.fresh - (0 if self.loop else self.closing)


def long_clip(
    pipe: VideoDiTPipeline,
    prompt: str | None,
    num_frames: int,
    *,
    overlap: int | None = None,
    window: int | None = None,
    loop: bool = False,
    seed: int = 0,
    **options: Any,
) -> Iterator[np.ndarray]:
    """Frames `uint8 h w 3` of a long clip or a loop, as they are made.

    Args:
        prompt: None where `prompt_embeds` are among the options.
        num_frames: of the whole; any number, but for loops and clips with a given end: these have legal lengths.
        overlap: frames of a window that the next one goes on from: as many as the VAE takes by themselves (4k + 1);
            None: about a third of the window. 0, for a model that remembers, and what None means there: it goes on from
            all that was.
        window: frames made at once; None: the model's own number.
        loop: the clip goes on from its last frame to its first.
        seed: of the first window, which is the clip that this seed makes alone; later windows draw from it and theirs.
            `latents` among the options are the first window's noise.
        options: of the pipeline: sizes, steps, guidance, an `image` or `video` to begin with, an end, `conditions` (of
            the whole clip) ...

    Raises:
        ValueError: an overlap that leaves nothing to make, a clip that one window makes, or what the pipeline refuses.
    """
    strides = pipe.codec.strides
    step = strides.step
    for name, instead in NOT_OF_WINDOWS.items():
        if options.get(name) is not None:
            raise ValueError(f"{name}: {instead}; leave it out")
    size = pipe.default_size.num_frames if window is None else window
    if (
        overlap is None
        and remembers(pipe.transformer)
        and not loop
        and not any(options.get(name) is not None for name in LAST)
    ):
        overlap = 0
    if overlap is None:
        overlap = step * (size // (3 * step)) + 1 if strides.time > 1 else max(1, size // 3)
    ends = [name for name in LAST if options.get(name) is not None]
    if loop and ends:
        raise ValueError(f"{ends[0]}: a loop ends where it begins; give no end")
    if not loop and num_frames <= size:
        raise ValueError(f"num_frames={num_frames} fit into one window of {size}: make it as any clip")
    if overlap == 0:
        _check_past(pipe, loop or bool(ends))
    for name, count, cannot in (("window", size, "be made at once"), ("overlap", overlap, "be given by themselves")):
        if count == 0:
            continue
        try:
            strides.latent_frames(count)
        except ValueError as error:
            raise ValueError(f"{name}={count}: {count} frames cannot {cannot}: {error}") from None
    closing = step if loop else _frames_at_end(pipe, {name: options[name] for name in ends})
    sides = {name: options.get(name) or getattr(pipe.default_size, name) for name in ("height", "width", "fps")}
    shown = replace(pipe.default_size, num_frames=size, **sides)
    check_decode(pipe.codec, (1, *shown.latent(strides, pipe.transformer.patch_size)), whole=False)
    tile = options.get("tile_size")
    pipe.tell_of_size(
        Tiles.of_call(pipe, tile, options.get("tile_overlap_factor", 0.25)).seen(shown) if tile else shown
    )
    whole = replace(shown, num_frames=num_frames)
    given = options.pop("conditions", None) or {}
    told = over_windows(pipe.codec, pipe.transformer, given, whole, around=loop, joined=overlap == 0)
    if overlap == 0:
        return _remembered(pipe, prompt, num_frames, size, seed, told, options)
    windows = Windows(num_frames, size, overlap, closing, loop, step)
    if ends:
        try:
            strides.latent_frames(overlap + windows.fresh + closing)
        except ValueError:
            why = f"the window that {closing} frames end would have {overlap + windows.fresh + closing}"
            raise ValueError(
                f"{ends[0]}: {why}, which {type(pipe.vae).__name__} does not make; make it at once"
            ) from None
    return _made(pipe, prompt, windows, shown, seed, told, options)


def _frames_at_end(pipe: VideoDiTPipeline, end: dict[str, Any]) -> int:
    """How many frames an end gives, of one clip; ValueError: it cannot be one."""
    if not end:
        return 0
    (name, frames), time = next(iter(end.items())), pipe.codec.strides.time
    if len(end) > 1:
        raise ValueError(f"{' and '.join(end)}: both say how the clip ends; give one")
    given = clips_of(frames, name)
    if len(given) > 1:
        raise ValueError(f"{name}: {len(given)} clips given for one long clip; give one")
    if name == "last_image":
        return time
    check_closing(len(given[0]), time, name)
    return len(given[0])


def _check_past(pipe: VideoDiTPipeline, has_end: bool) -> None:
    if not remembers(pipe.transformer):
        why = f"only a model whose axes are {' and '.join(CAUSAL)} goes on from what it remembers"
    elif has_end:
        why = "a clip that comes back to frames, or to an end that is given, goes on from frames"
    elif pipe.codec.strides.time > 1 and not pipe.codec.streams:
        why = "this VAE decodes each window by itself"
    else:
        return
    raise ValueError(f"overlap=0: {why}; let windows share some frames")


def _remembered(
    pipe: VideoDiTPipeline,
    prompt: str | None,
    num_frames: int,
    size: int,
    seed: int,
    told: Cut,
    options: dict[str, Any],
) -> Iterator[np.ndarray]:
    carry: list[Any] = []
    made = number = 0
    length = pipe.codec.strides.latent_frames(size)
    with with_past(pipe.transformer):
        while made < num_frames:
            options = options | {"conditions": told(number * length, size)}
            new = _window(pipe, prompt, size, 0, carry, _seed(seed, number), options)
            yield from new[: num_frames - made]
            made, number = made + len(new), number + 1
            options = options | {"image": None, "video": None, "latents": None, "image_guidance_scale": 1.0}


def _made(
    pipe: VideoDiTPipeline,
    prompt: str | None,
    windows: Windows,
    shown: ClipSize,
    seed: int,
    told: Cut,
    options: dict[str, Any],
) -> Iterator[np.ndarray]:
    time = pipe.codec.strides.time
    end = {name: options.get(name) for name in LAST}
    options = options | dict.fromkeys(LAST)
    overlap, closing = windows.overlap, windows.closing
    past = Before(pipe, overlap, told(0, windows.size))
    body = windows.body if closing else windows.num_frames
    carry: list[Any] = []  # what the decoder keeps from window to window
    last = first = None  # of the frames given out: those to go on from, and those that a loop comes back to
    made = number = 0
    while made < body:
        shared = overlap if number else 0
        count = min(windows.size, body - made + shared) if closing else windows.size
        options = options | {"conditions": told((made - shared) // time, count) | past.told()}
        new = _window(pipe, prompt, count, shared, carry, _seed(seed, number), options)
        yield from new[: body - made]
        last = np.concatenate([last, new])[-overlap:] if last is not None else new[-overlap:]
        first = new[:closing] if first is None else first
        past.add(new)
        made, number = made + len(new), number + 1
        options = options | {"image": None, "video": last, "latents": None}
    if closing:
        end = {"last_video": first} if windows.loop else end
        count = overlap + windows.fresh + closing
        options = options | {"conditions": told((body - overlap) // time, count) | past.told()}
        yield from _window(pipe, prompt, count, overlap, carry, _seed(seed, number), options | end)[:-closing]
    if closing and not windows.loop:  # as they are given
        given = given_frames(pipe.codec, 1, replace(shown, num_frames=count), pipe.transformer.patch_size, **end)
        assert given is not None
        assert given.closing is not None
        yield from to_frames(given.closing)[0]


class Before:
    """The frames before a window, as many as the model learned to be told of, for its condition that is its past."""

    def __init__(self, pipe: VideoDiTPipeline, overlap: int, told: dict[str, Any]):
        """told: the first window; frames that are its past are that of later ones too, behind what is made since."""
        self.one = next((one for one in own_of(pipe.transformer) if one.of == "past"), None)
        self.strides, self.overlap = pipe.codec.strides, overlap
        self.frames: np.ndarray | None = None
        self.made = 0
        given = told.get(self.one.name) if self.one else None
        if given is not None and not isinstance(given, Tensor):
            self.frames = np.stack(clips_of(given, "past")[0])

    def add(self, new: np.ndarray) -> None:
        """Of frames that were made; what is too old is let go of."""
        if self.one is not None:
            frames = new if self.frames is None else np.concatenate([self.frames, new])
            self.frames = frames[-(self.one.frames + self.overlap) :]
            self.made += len(new)

    def told(self) -> dict[str, np.ndarray]:
        """With the window that begins with the last `overlap` of them; nothing before the second."""
        if self.one is None or self.frames is None or not self.made or len(self.frames) <= self.overlap:
            return {}
        before = self.frames[: -self.overlap]
        count = (min(len(before), self.one.frames) - 1) // self.strides.step * self.strides.step + 1
        return {self.one.name: before[-count:]}


@torch.no_grad()
def _window(
    pipe: VideoDiTPipeline,
    prompt: str | None,
    count: int,
    shared: int,
    carry: list[Any],
    seed: int,
    options: dict[str, Any],
) -> np.ndarray:
    """`count` frames without the first `shared`, which were shown before."""
    generator = torch.Generator().manual_seed(seed)
    with pipe.size_is_told():
        made: Any = pipe(prompt, num_frames=count, generator=[generator], output_type="latent", **options)
    return np.concatenate([to_frames(piece)[0] for piece in pipe.codec.decode_chunks(made.frames, shared, carry)])


def _seed(seed: int, number: int) -> int:
    """The first window's is the seed itself."""
    return seed if number == 0 else int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0] >> 1)
