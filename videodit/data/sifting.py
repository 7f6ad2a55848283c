"""Which scenes of raw files become clips, and why the others do not: the first of `REASONS` that holds, in their order.

What concerns the whole file is asked before it is decoded; exact copies are decoded once.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from videodit.data.duplicates import Seen
from videodit.data.files import Files
from videodit.data.limits import Options
from videodit.data.manifest import Item
from videodit.data.scenes import Scene, look_of
from videodit.data.survey import Span, Survey
from videodit.video.index import VideoError


@dataclass(frozen=True)
class Kept:
    """A scene that becomes a clip, what the source says of it, and the facts of its file."""

    item: Item
    facts: Mapping[str, Any]
    scene: Scene


@dataclass(frozen=True)
class Drop:
    """A stretch of a file that does not, in seconds; an image, or a file of which nothing is known, has no length."""

    file: str
    start: float
    end: float
    reason: str
    why: str
    is_image: bool = False


class Sifted(NamedTuple):
    """What is kept and what is dropped, in the order of the source, and how much there was: clips, images, seconds."""

    kept: list[Kept]
    dropped: list[Drop]
    total: dict[str, Any]


def name_of(item: Item) -> str:
    return item.origin or str(item.path.absolute())


def sift(items: Sequence[Item], survey: Survey, options: Options) -> Sifted:
    """Looks at all items, and decides."""
    errors = survey.bring(items)
    facts: dict[Path, Any] = survey.facts(item.path for item in items if item.path not in errors) | errors
    fates = [_unfit(item, facts[item.path], options) for item in items]
    if "duplicate" not in options.keep:
        _drop_copies(items, facts, fates)
    spans: dict[Path, dict[Span, None]] = defaultdict(dict)
    for item, fate in zip(items, fates, strict=True):
        if fate is None:
            spans[item.path][_span(item)] = None
    watched = survey.scenes({path: list(some) for path, some in spans.items()}, facts)
    sifted, seen = Sifted([], [], _total(items, facts)), Seen()
    for item, fate in zip(items, fates, strict=True):
        found = watched.get(item.path)
        if fate is not None:
            sifted.dropped.append(fate)
        elif isinstance(found, VideoError):
            sifted.dropped.append(_drop(item, facts[item.path], "unreadable", str(found)))
        else:
            assert found is not None
            for scene in found[_span(item)]:
                _judge(Kept(item, facts[item.path], scene), sifted, seen, options)
    return sifted


def _judge(one: Kept, sifted: Sifted, seen: Seen, options: Options) -> None:
    against = _poor(one, options) or _double(one, sifted.kept, seen, options)
    if against is None:
        sifted.kept.append(one)
    else:
        drop = Drop(name_of(one.item), one.scene.start, one.scene.end, *against, one.facts["is_image"])
        sifted.dropped.append(drop)


def _span(item: Item) -> Span:
    return item.start, item.end


def _stretch(item: Item, facts: Mapping[str, Any] | VideoError) -> tuple[float, float]:
    """What there is of it in the file."""
    end = 0.0 if isinstance(facts, VideoError) else facts["duration"]
    start = min(item.start, end)
    return start, end if item.end is None else max(start, min(end, item.end))


def _total(items: Sequence[Item], facts: Mapping[Path, Any]) -> dict[str, Any]:
    stretches = [_stretch(item, facts[item.path]) for item in items]
    images = sum(not isinstance(facts[item.path], VideoError) and facts[item.path]["is_image"] for item in items)
    seconds = round(math.fsum(end - start for start, end in stretches), 3)
    return {"clips": len(items) - images, "images": images, "seconds": seconds}


def _drop(item: Item, facts: Mapping[str, Any] | VideoError, reason: str, why: str) -> Drop:
    """Of all that an item is."""
    is_image = not isinstance(facts, VideoError) and facts["is_image"]
    return Drop(name_of(item), *_stretch(item, facts), reason, why, is_image)


def _unfit(item: Item, facts: Mapping[str, Any] | VideoError, options: Options) -> Drop | None:
    """What speaks against a file before it is decoded."""
    if isinstance(facts, VideoError):
        return _drop(item, facts, "unreadable", str(facts))
    height, width, seconds = facts["height"], facts["width"], facts["duration"]
    against = [("small", f"{width}x{height} pixels", min(height, width) < options.min_size)]
    if facts["is_image"]:
        against.insert(0, ("outside", "an image has no stretches", item.start > 0 or item.end is not None))
    else:
        fps, aspect = facts["fps"], facts["pixel_aspect"]
        last = seconds + 1 / fps  # by which a list may be wrong about the end
        against = [
            ("outside", f"the file is {seconds:.3f} s long", item.start >= seconds or (item.end or 0.0) > last),
            *against,
            ("slow", f"{fps:.3g} frames a second", 1.01 * fps < options.min_fps),
            ("interlaced", "two fields a frame", facts["interlaced"]),
            ("nonsquare", f"pixels are {aspect:.3f} times as wide as high", abs(aspect - 1) > 0.01),
            ("hdr", "PQ or HLG", facts["hdr"]),
        ]
    found = ((reason, why) for reason, why, holds in against if holds and reason not in options.keep)
    return next((_drop(item, facts, *one) for one in found), None)


def _drop_copies(items: Sequence[Item], facts: Mapping[Path, Any], fates: list[Drop | None]) -> None:
    """Drops those whose bytes are those of an earlier one. Only files of one size are hashed."""
    good = [place for place, fate in enumerate(fates) if fate is None]
    sizes = Counter(path.stat().st_size for path in {items[place].path for place in good})
    alike = [items[place].path for place in good if sizes[items[place].path.stat().st_size] > 1]
    files = Files()
    files.hash(alike, "hashing", show=False)
    digests = {path: files.sha256(path) for path in dict.fromkeys(alike)}
    first: dict[tuple[str, Span], int] = {}
    for place in good:
        item = items[place]
        other = first.setdefault((digests.get(item.path, str(item.path)), _span(item)), place)
        if other != place:
            why = f"the same bytes as {name_of(items[other])}"
            fates[place] = _drop(item, facts[item.path], "duplicate", why)


def _poor(one: Kept, options: Options) -> tuple[str, str] | None:
    """What speaks against a scene."""
    scene, is_image = one.scene, one.facts["is_image"]
    against = [("black", f"{scene.black:.0%} of its frames", scene.black > options.max_black)]
    if not is_image:
        seconds = scene.end - scene.start
        against = [
            ("transition", f"{seconds:.3f} s", scene.transition),
            ("short", f"{seconds:.3f} s", seconds < options.min_seconds - 0.5 / one.facts["fps"]),
            *against,
            ("frozen", f"{scene.frozen:.0%} of its time", scene.frozen > options.max_frozen),
            ("still", f"{scene.motion:g} a second", scene.motion < options.min_motion),
        ]
    return next(((reason, why) for reason, why, holds in against if holds), None)


def _double(one: Kept, kept: Sequence[Kept], seen: Seen, options: Options) -> tuple[str, str] | None:
    """Which kept clip a scene shows again; if none, it is kept in mind itself."""
    if "duplicate" in options.keep:
        return None
    look, seconds = look_of(one.scene.look), one.scene.end - one.scene.start
    if (number := seen.find(look, seconds)) is None:
        seen.add(len(kept), look, seconds)
        return None
    other = kept[number]
    where = "" if other.facts["is_image"] else f" from {other.scene.start:.3f} to {other.scene.end:.3f} s"
    return "duplicate", f"as {name_of(other.item)}{where}"
