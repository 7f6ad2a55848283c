"""Latents, encoded once: a store of tensors (`store`) under the names of what they were made from.

A latent's name is the hash of the content of its file, the span, the size, the VAE's fingerprint and the precision; a
caption's that of its words and the encoder's fingerprint. So nothing can be taken for something else: a file that was
replaced, another crop or another VAE has other names, and captions, which are read from the manifest each time, cannot
slip. A folder may serve several runs. It holds safetensors files, each written whole or not at all, so that encoding
goes on where it was stopped, on any number of processes; their headers are the index, and carry a checksum of every
tensor, looked at when it is read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from accelerate import PartialState
from torch import Tensor
from tqdm import tqdm

from videodit.codec import VideoCodec
from videodit.codec.maps import map_of
from videodit.codec.past import past_tokens
from videodit.data.buckets import Buckets
from videodit.data.clips import Clips
from videodit.data.columns import sound_at, tokens_in, vectors_at
from videodit.data.source import Span
from videodit.data.states import is_made, made_of_files, rows_in
from videodit.data.store import BATCH, SHARD, CacheError, Store, hashed, shared
from videodit.data.transforms import to_pixels
from videodit.geometry import ClipSize, Strides
from videodit.models import Condition


@dataclass(frozen=True)
class Sample:
    """One thing to train on: its bucket's size, its wordings as a clip and as an image, and where its latents are.

    maps, vectors: of what the model is told besides, by name: where it is, or what it is, of the clip and of the image.
    tokens: likewise the file, the width of its states, and what names its content. pasts: likewise where the latents
    are of the frames before the clip ("": there are none), and the width of its tokens.
    """

    name: str
    size: ClipSize
    captions: tuple[str, ...]
    image_captions: tuple[str, ...]
    latent: str
    image: str
    maps: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    vectors: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    tokens: Mapping[str, tuple[Path, int, str]] = field(default_factory=dict)
    pasts: Mapping[str, tuple[str, int]] = field(default_factory=dict)

    @property
    def besides(self) -> list[str]:
        """What names all that it is told besides its caption."""
        vectors = [json.dumps([name, both[0].tolist()]) for name, both in self.vectors.items()]
        tokens = (one[2] for one in self.tokens.values())
        return [
            *(names[0] for names in self.maps.values()),
            *vectors,
            *tokens,
            *(one[0] for one in self.pasts.values()),
        ]

    @property
    def is_image(self) -> bool:
        return self.size.num_frames == 1


class Latents:
    """Encoded samples. `latents[i, image]` is c f h w (an image: c 1 h w), normalized, float32, in every epoch."""

    def __init__(self, samples: Sequence[Sample], store: Store):
        self.samples, self.store = samples, store

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, which: tuple[int, bool]) -> Tensor:
        number, image = which
        sample = self.samples[number]
        return self.store[sample.image if image else sample.latent].float()

    def told(self, number: int, image: bool) -> dict[str, Tensor]:
        """What the model is told of a sample besides, by name: maps c f h w, vectors c or f c, tokens 1 m c."""
        sample = self.samples[number]
        maps = {name: self.store[names[image]].float() for name, names in sample.maps.items()}
        tokens = {name: tokens_in(file, width)[None] for name, (file, width, _) in sample.tokens.items()}
        for name, (latent, width) in sample.pasts.items():
            there = latent and not image
            tokens[name] = past_tokens(self.store[latent])[None] if there else torch.zeros(1, 0, width)
        return maps | {name: values[image] for name, values in sample.vectors.items()} | tokens

    def read(self, number: int, image: bool, epoch: int) -> tuple[int, Tensor, dict[str, str]]:
        """The sample that is shown, its latent, and what was bad on the way, as `LiveClips.read`: here, nothing."""
        return number, self[number, image], {}


@torch.no_grad()
def encode_clips(
    clips: Clips,
    buckets: Buckets,
    codec: VideoCodec,
    folder: Path,
    precision: torch.dtype | None,
    *,
    images: bool,
    conditions: Sequence[Condition] = (),
) -> Latents:
    """The latents of all spans in the buckets, encoded where the folder does not hold them yet, in float16.

    Under `torchrun` or `accelerate launch` each process encodes its share. What cannot be read is named in
    `clips.skips`.

    Args:
        precision: of the VAE's arithmetic (None: float32).
        images: whether the first frame of each clip is encoded as an image too.
        conditions: what the model is told besides: files of other columns are encoded beside, each as it says.

    Raises:
        VideoError: too many clips are unreadable.
        CacheError: a file of the store is damaged.
    """
    fingerprint = codec.fingerprint()
    store = Store(folder / f"vae-{fingerprint[:12]}")
    maker = (fingerprint, str(precision), "float16")
    told = [one for one in conditions if one.kind == "channels"]
    parts = {"": CLIP} | {one.name: one for one in told}
    named = {part: _named(clips, _spans(buckets), maker, one) for part, one in parts.items()}
    for part, one in parts.items():
        _encode_missing(clips, codec, store, named[part], precision, images, one)
    for part in parts:
        for span, clip, _ in named[part]:
            if (why := store.failed.get(clip)) and span.index not in clips.skips:
                clips.skip(span.index, why)
    pasts = {
        one.name: _pasts(clips, codec, store, named[""], maker, precision, one) for one in conditions if one.frames
    }
    clips.recall(span.index for span, *_ in named[""])
    every = [span.index for span, *_ in named[""]]
    made = {one.name: made_of_files(clips, every, one, folder) for one in conditions if is_made(one)}
    samples = []
    for at, (span, clip, image) in enumerate(named[""]):
        if span.index in clips.skips:
            continue  # the whole file is left out, as it will be when the run goes on
        words = (clips.source.captions(span, False), clips.source.captions(span, True))
        maps = {one.name: named[one.name][at][1:] for one in told}
        files = {name: places[span.index] for name, places in made.items()}
        vectors = {one.name: _vectors(clips, span, one, codec, files) for one in conditions if one.kind == "vectors"}
        tokens = {one.name: _tokens(clips, span, one, files) for one in conditions if one.of == "states"}
        before_it = {one.name: (pasts[one.name][at], one.width) for one in conditions if one.frames}
        name = clips.source.name(span.index)
        samples.append(Sample(name, span.size, *words, clip, image, maps, vectors, tokens, before_it))
    return Latents(samples, store)


def _vectors(
    clips: Clips, span: Span, one: Condition, codec: VideoCodec, made: Mapping[str, Path]
) -> tuple[Tensor, Tensor]:
    if one.name in made:
        begin = clips.source.file(span.index, one)[2] + span.start
        return sound_at(rows_in(made[one.name]), one, begin, span.size, codec.strides)
    facts = clips.source.facts(span.index)
    assert facts is not None  # of a file
    return vectors_at(clips.source.numbers(span.index, one), one, facts, span, codec.strides)


def _tokens(clips: Clips, span: Span, one: Condition, made: Mapping[str, Path]) -> tuple[Path, int, str]:
    file, content, _ = clips.source.file(span.index, one)
    if (there := made.get(one.name)) is not None:  # by whom, too
        return there, one.width, f"{there.parent.name} {content}"
    return file, one.width, content


def _pasts(
    clips: Clips,
    codec: VideoCodec,
    store: Store,
    named: Named,
    maker: tuple[str, ...],
    precision: torch.dtype | None,
    one: Condition,
) -> list[str]:
    """Where the latents are of the frames before each span; "": there are none, or it is an image."""
    spans = [before(span, one.frames, codec.strides) for span, *_ in named]
    there = [span for span in spans if span is not None]
    found = dict(zip(there, _named(clips, there, maker, CLIP), strict=True))
    alike = sorted(found.values(), key=lambda each: each[0].size.num_frames)  # to be encoded together
    _encode_missing(clips, codec, store, alike, precision, False, replace(CLIP, name=one.name))
    for span, name, _ in found.values():
        if (why := store.failed.get(name)) and span.index not in clips.skips:
            clips.skip(span.index, why)
    return ["" if span is None else found[span][1] for span in spans]


def before(span: Span, most: int, strides: Strides) -> Span | None:
    """Of at most so many frames, as many as a VAE takes, up to those of a span; None: an image, or there are none."""
    size = span.size
    count = min(most, math.floor(span.start * size.fps + 1e-6)) if size.num_frames > 1 else 0
    if count < 1:
        return None
    count = (count - 1) // strides.step * strides.step + 1
    return replace(span, size=replace(size, num_frames=count), start=max(0.0, span.start - count / size.fps))


CLIP = Condition("clips", "channels", 0, of="vae", from_clip=True)  # what is encoded of a clip itself
Named = list[tuple[Span, str, str]]  # spans, with the names of their latents, and of those as images


def _named(clips: Clips, spans: Sequence[Span], maker: tuple[str, ...], what: Condition) -> Named:
    maker = maker if what is CLIP else (*maker, what.of, *([str(what.factor)] if what.factor > 1 else []))
    names = [
        {image: _name(clips, span, maker, _column(what), image=image) for image in (False, True)} for span in spans
    ]
    return [(span, both[False], both[True]) for span, both in zip(spans, names, strict=True)]


def _column(what: Condition) -> str | None:
    """Whose files are read for it; None: the clips themselves."""
    return None if what.from_clip else what.name


def _encode_missing(
    clips: Clips,
    codec: VideoCodec,
    store: Store,
    named: Named,
    precision: torch.dtype | None,
    images: bool,
    what: Condition,
) -> None:
    """Encodes what of these the store does not hold; CacheError where it then does not have all that can be read."""
    state = PartialState(cpu=not torch.accelerator.is_available())

    def wanted(clip: str, image: str) -> tuple[str, ...]:
        return (clip, image) if images else (clip,)

    todo = [one for one in named if store.missing(wanted(*one[1:]))]
    shards = shared([todo[i : i + SHARD] for i in range(0, len(todo), SHARD)], state)
    with tqdm(
        total=sum(map(len, shards)), desc=f"encoding {what.name}", disable=not shards or not state.is_main_process
    ) as bar:
        for shard in shards:
            tensors, failed = _encode(clips, codec, shard, precision, images, bar, what)
            store.add({name: tensors[name] for name in store.missing(tensors)}, failed)
    state.wait_for_everyone()
    store.scan()
    lost = [name for _, *names in named for name in store.missing(wanted(*names)) if names[0] not in store.failed]
    if lost:
        raise CacheError(f"{store.folder}: {len(lost)} latents are not here: all processes must see the same folder")


def _spans(buckets: Buckets) -> list[Span]:
    return [span for spans in buckets.spans.values() for span in spans]


def _name(clips: Clips, span: Span, maker: tuple[str, ...], column: str | None = None, *, image: bool = False) -> str:
    size = span.size.image() if image else span.size
    rate = 0.0 if size.num_frames == 1 else size.fps
    facts = (size.num_frames, size.height, size.width, rate, span.start, *span.place)
    laid = (*((span.background,) if span.background else ()), *((span.zoom,) if span.zoom != 1 else ()))
    return hashed(clips.source.content(span.index, column), *facts, *laid, *maker)


def _encode(
    clips: Clips,
    codec: VideoCodec,
    shard: Sequence[tuple[Span, str, str]],
    precision: torch.dtype | None,
    images: bool,
    bar: tqdm,
    what: Condition,
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Latents by name, and why others could not be made."""
    tensors: dict[str, Tensor] = {}
    failed: dict[str, str] = {}
    waiting: list[tuple[str, str, Tensor]] = []

    def encode() -> None:
        pixels = torch.stack([p for *_, p in waiting])
        with torch.autocast(codec.device.type, precision, enabled=precision is not None):
            latents = map_of(codec, pixels, what.of, what.factor)
            firsts = (
                map_of(codec, pixels[:, :, :1], what.of, what.factor) if images and pixels.shape[2] > 1 else latents
            )
        for (clip, image, _), one, first in zip(waiting, latents, firsts, strict=True):
            tensors[clip] = one.half().cpu().contiguous()
            if images:
                tensors[image] = first.half().cpu().contiguous()
        waiting.clear()

    for (span, clip, image), frames in zip(
        shard, clips.read_ahead([span for span, *_ in shard], _column(what)), strict=True
    ):
        bar.update()
        if frames is None:
            failed[clip] = clips.skips[span.index].why
            continue
        pixels = to_pixels(frames)
        if waiting and (len(waiting) == BATCH or waiting[0][-1].shape != pixels.shape):
            encode()
        waiting.append((clip, image, pixels))
    if waiting:
        encode()
    return tensors, failed
