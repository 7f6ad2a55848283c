"""Under which names latents are kept, and what is encoded together: with sources and codecs that say plain numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from videodit.config import Data
from videodit.data.buckets import fill, sizes_of
from videodit.data.cache import _name, encode_clips
from videodit.data.clips import open_data
from videodit.data.source import Span
from videodit.data.store import BATCH
from videodit.geometry import ClipSize

SIZE = ClipSize(9, 32, 48, 8.0)
OTHER: list[dict[str, Any]] = [{"num_frames": 5}, {"height": 48}, {"width": 32}, {"fps": 4.0}]


def name(span: Span, content: str = "content", maker: tuple[str, ...] = ("vae",), *, image: bool = False) -> str:
    clips: Any = SimpleNamespace(source=SimpleNamespace(content=lambda index, column: f"{content} {index}"))
    return _name(clips, span, maker, image=image)


def test_whatever_makes_another_latent_is_in_its_name() -> None:
    span = Span(0, SIZE)
    clips = [
        span,
        *(replace(span, size=replace(SIZE, **one)) for one in OTHER),
        replace(span, index=1),
        replace(span, start=0.5),
        replace(span, place=(0.0, 0.5)),
        replace(span, place=(0.5, 0.0)),
        replace(span, background="white"),
        replace(span, zoom=2.0),
    ]
    names = [name(one) for one in clips] + [name(span, "other"), name(span, maker=("vae", "bf16"))]
    assert len(set(names)) == len(names)


def test_the_image_of_a_clip_is_a_clip_of_one_frame_however_long_and_fast_the_clip_is() -> None:
    span = Span(0, SIZE, 0.5)
    image = name(span, image=True)
    assert image != name(span)
    for size in (SIZE, replace(SIZE, num_frames=5), replace(SIZE, fps=4.0)):
        assert name(replace(span, size=size), image=True) == image
        assert name(replace(span, size=size.image())) == image
    assert name(replace(span, size=replace(SIZE, height=48)), image=True) != image


class Sees:
    """A codec that keeps every eighth pixel of every frame, and tells what it was given at once."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.batches: list[tuple[int, ...]] = []

    def fingerprint(self) -> str:
        return "sees every eighth pixel"

    def encode(self, pixels: Tensor) -> Tensor:
        self.batches.append(tuple(pixels.shape))
        return pixels[..., ::8, ::8]


def test_clips_of_one_size_are_encoded_together_a_few_at_a_time_and_images_are_first_frames(tmp_path: Path) -> None:
    sizes = ({"num_frames": 2}, {"num_frames": 3}, {"num_frames": 1, "width": 32})
    data = Data(clips=3 * BATCH + 3, validation=0, height=16, width=16, buckets=sizes)
    clips, codec = open_data(data, 0).train, Sees()
    buckets = fill(clips, sizes_of(data), 1)
    found = encode_clips(clips, buckets, codec, tmp_path, None, images=True)  # type: ignore[arg-type]
    assert all(count <= BATCH for count, *_ in codec.batches)
    ahead = [shape for shape in codec.batches if shape[2] > 1 or shape[4] == 32]
    assert sorted(ahead) == sorted((n, 3, f, 16, w) for f, w in ((2, 16), (3, 16), (1, 32)) for n in (1, BATCH))
    for number, sample in enumerate(found.samples):
        frames = torch.from_numpy(next(iter(clips.source.stream([Span(number_of(sample.name), sample.size)])))).float()
        expected = (frames / 127.5 - 1).permute(3, 0, 1, 2)[..., ::8, ::8]
        torch.testing.assert_close(found[number, False], expected.half().float())
        torch.testing.assert_close(found[number, True], expected[:, :1].half().float())


def number_of(name: str) -> int:
    """Of a clip of the shapes world, of which none is held out."""
    return int(name.split()[2])
