"""What a run learns from: clips, the sizes that they are brought to, and how they are read."""

from __future__ import annotations

from collections import Counter
from string import Formatter
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from videodit.config.ground import parse_ground
from videodit.config.kinds import Amount, Count, Place, Positive, Precision, Rate, Share, Weight
from videodit.config.section import Section


def _listed(value: Any) -> Any:
    """One text as a list of it."""
    return (value,) if isinstance(value, str) else value


def _grounds(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        parse_ground(name)
    return names


class Bucket(Section):
    """A size that clips are brought to; what is left out is as in `data`."""

    num_frames: Positive | None = None
    height: Positive | None = None
    width: Positive | None = None
    fps: Rate | None = None
    batch_size: Positive | None = Field(None, description="over all processes; null: as `train` says")


class Data(Section):
    """What to learn from, and at which size.

    Each clip goes to one of `buckets`: of those that it fills (long enough, fast enough, not smaller) the one nearest
    in aspect ratio, then the largest, then the longest. Clips of `shapes`, which has any size, are dealt to them in
    turn; a bucket that stands there twice has twice as many. Without buckets there is one, of the size that stands
    here. That size is also what the VAE is trained on and what the pipeline samples unless told otherwise.
    """

    source: Place = Field(
        "shapes", description="'shapes', or clips of yours: a manifest, a folder, tar shards, a URL (`data.manifest`)"
    )
    shapes: Count = Field(0, description="so many clips of the world of moving shapes beside those of `source`")
    clips: Positive | None = Field(None, description="at most so many of a manifest (null: all); shapes: drawn, 8192")
    more: dict[str, float] = Field(
        {}, description="of shapes: weights of words against the others' 1, as {spinning: 3, star: 2}; validation's too"
    )
    num_frames: Positive = 17
    height: Positive = 64
    width: Positive = 64
    fps: Rate = 8.0
    buckets: tuple[Bucket, ...] = Field((), strict=False, description="sizes to train on; none: the one above")
    upscale: bool = Field(False, description="enlarge what is smaller than a bucket, rather than leave it out")
    crop: Literal["center", "random"] = Field("center", description="what of a picture of another shape is kept")
    zoom: float = Field(
        1.0, ge=1, le=64, description="show a part, which `crop` chooses, of pictures so many times as large as a clip"
    )
    background: Annotated[tuple[str, ...], BeforeValidator(_listed), AfterValidator(_grounds)] = Field(
        ("white",),
        strict=False,
        min_length=1,
        description="what transparent clips and images are laid on: a colour (white, #ff8800), a gradient from top to "
        "bottom (white to blue), or a list to draw from by seed; a row's column `grounds` may list fewer",
    )
    background_captions: tuple[str, ...] = Field(
        (),
        strict=False,
        description="phrasings that tell what was laid: '{caption} on a {background} background'; none: not told",
    )
    slower: Literal["leave_out", "repeat"] = Field(
        "leave_out", description="what has fewer frames a second than a bucket: repeat shows some of them twice"
    )
    reader: Literal["pyav", "decord", "torchcodec"] = "pyav"
    read_seconds: Amount = Field(
        60.0, description="reading one clip may take; a file that takes longer is put into quarantine"
    )
    read_memory_gb: Amount = Field(4.0, description="reading one clip may take")
    read_processes: Positive | None = Field(None, description="that read files; null: one a core, at most 8")
    start: Literal["random", "first"] = Field("random", description="where in a longer file a clip begins")
    spans: Positive = Field(1, description="how many stretches of a longer file (or random crops) are encoded")
    repeat: Positive = Field(1, description="how often an epoch shows each of them")
    encode: Literal["once", "each_step"] = Field(
        "once", description="each_step: nothing is stored, and each epoch shows other stretches and crops"
    )
    encode_precision: Precision = Field("no", description="of the VAE when clips are encoded")
    validation: Count = Field(64, description="clips kept out of training, to measure on")
    validation_source: Place | None = Field(
        None, description="measure on so many of these clips instead, and keep none out: a manifest, as `source`"
    )
    image_share: Share = Field(0.1, description="share of the clips that an epoch shows as images: their first frame")
    max_bad_share: Share = Field(0.05, description="unreadable files beyond this share of the manifest stop the run")
    memory_gb: Weight = Field(2.0, description="decoded clips kept in memory")

    @model_validator(mode="after")
    def _more_of_what_is_there(self) -> Data:
        if self.shapes and self.source == "shapes":
            raise ValueError("shapes: is beside clips of yours; source 'shapes' draws `clips` of them")
        if self.more and self.source != "shapes" and not self.shapes:
            raise ValueError(
                f"more: is of source 'shapes' alone; {self.source} shows each clip as often as it lists it"
            )
        return self

    @model_validator(mode="after")
    def _has_parts(self) -> Data:
        if self.zoom != 1 and (self.source == "shapes" or self.shapes):
            raise ValueError("zoom: is of clips of yours; shapes are drawn whole")
        return self

    @model_validator(mode="after")
    def _phrasings_can_be_filled(self) -> Data:
        for phrase in self.background_captions:
            try:
                named = {name for _, name, form, turn in Formatter().parse(phrase) if name is not None or form or turn}
            except ValueError:
                named = set()
            if not {"caption"} <= named <= {"caption", "background"}:
                raise ValueError(
                    f"background_captions: {phrase!r} must hold {{caption}}, may hold {{background}}, and nothing else "
                    f"in braces"
                )
        return self

    @model_validator(mode="after")
    def _buckets_differ(self) -> Data:
        keys = ("num_frames", "height", "width", "fps")
        rows = [(*(getattr(b, key) or getattr(self, key) for key in keys), b.batch_size) for b in self.buckets]
        counts = Counter(row[:4] for row in (set(rows) if self.source == "shapes" else rows))
        for (num_frames, height, width, fps), times in counts.items():
            if times > 1:
                size = f"{num_frames}x{height}x{width} at {fps:g} fps"
                raise ValueError(f"buckets: {size} stands there {times} times; take one out")
        return self
