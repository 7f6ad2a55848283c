"""One HTML file that shows an evaluation: its numbers with their protocols, and its clips where they break.

The file stands alone: it opens from disk, without a network, in any browser. `report.html` beside this module is its
page (style and script); this module puts the data in. The results are JSON in a script element, and so is each clip,
its video as base64 H.264, and JPEG thumbnails of its worst moments. The page builds all from those and sets every text
as text, so a prompt with markup in it is only ever read; a Content-Security-Policy allows its own script alone.

What is seen are compressed copies, 256 px on the short side at most; what is measured are the frames themselves.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from videodit.disk import whole, writing
from videodit.evaluation.measure.clips import Clip
from videodit.evaluation.report.results import ClipResult, Nearest, Results
from videodit.video.index import VideoError
from videodit.video.writer import write_video

Frames = Callable[[ClipResult], Iterable[np.ndarray] | None]

SHORT_SIDE = 256  # of the videos shown; larger clips are scaled down
THUMBNAIL_SIDE = 96
FAVOURITE = "consistency_consecutive"
MOTIONS = ("motion_per_second", "change_per_second")
TEMPLATE = Path(__file__).with_name("report.html")


def write_report(
    path: str | Path,
    results: Results,
    frames: Frames,
    *,
    other: Results | None = None,
    other_frames: Frames | None = None,
    nearest_frames: Callable[[Nearest], Iterable[np.ndarray]] | None = None,
    max_clips: int = 48,
) -> Path:
    """Write `results` as one self-contained HTML file; returns its path.

    `frames` gives the frames of a clip (uint8 h w 3, in order, one size), or None where they are not to be had; the
    card then says so, as it does with the reason where reading fails with a VideoError or OSError. It is asked for one
    clip after the other, only as fast as the file is written. With `other` (the results that `results.comparison` is
    against) and `other_frames`, a clip is shown beside its partner; else, with `nearest_frames`, beside the true clip
    that is nearest to it.

    Of more than `max_clips` clips those shown are the worst by the first measure (`consistency_consecutive`, else the
    first with a curve), with up to a quarter of the places for clips that it cannot rank: still, or without a value.
    The page counts the others.

    The file is written under a temporary name beside `path` and renamed when complete.

    Raises:
        ValueError: `max_clips` is below 1; `other` without a comparison in `results`, `other_frames` without `other`;
            frames are not uint8 h w 3 of one size; the file cannot be written (DiskError).
    """
    path = Path(path)
    if max_clips < 1:
        raise ValueError(f"max_clips={max_clips} shows nothing: give 1 or more")
    partners = _partners(results, other, other_frames)
    choice = _choose(results, max_clips)
    head, middle, tail = _template()
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with (
        whole(path) as unfinished,
        unfinished.open("w", encoding="utf-8", newline="\n") as file,
        TemporaryDirectory() as folder,
    ):
        file.write(head + _script(_overview(results, other, choice), 'id="results"') + middle)
        for clip in choice.clips:
            file.write(_script(_side(clip, frames, Path(folder)), 'class="clip"'))
            if clip.name in partners and other_frames is not None:
                partner = _side(partners[clip.name], other_frames, Path(folder))
                file.write(_script(partner, 'class="partner"'))
            elif clip.nearest is not None and nearest_frames is not None and other is None:
                file.write(_script(_nearest(clip, nearest_frames, Path(folder)), 'class="partner"'))
        file.write(tail)
    return path


def frames_of(known: Mapping[str, Clip]) -> Frames:
    """The frames of results whose clips, by name, are at hand and still what was measured."""

    def frames(result: ClipResult) -> Iterator[np.ndarray] | None:
        clip = known.get(result.name)
        return clip.stream(SHORT_SIDE) if clip and clip.digest == result.digest else None

    return frames


class _Choice(NamedTuple):
    metric: str | None  # by which the clips are ranked at first
    clips: tuple[ClipResult, ...]  # those shown, in the order of the page
    statement: str  # how they were chosen


def _choose(results: Results, max_clips: int) -> _Choice:
    metric = _first_metric(results)
    ranked, unranked = _ranking(results, metric)
    if len(results.clips) <= max_clips:
        return _Choice(metric, (*ranked, *sorted(unranked, key=_is_still)), "")
    places = max(min(len(unranked), max_clips // 4), max_clips - len(ranked))
    shown = (*ranked[: max_clips - places], *sorted(unranked[:places], key=_is_still))
    title = results.summaries[metric].metric.title if metric else "any measure"
    statement = (
        f"Shown are {max_clips - places} of the {len(ranked)} clips that {title} ranks, worst first, and {places} of "
        f"the {len(unranked)} that it does not (still, or without a value), in the order of the results. "
        f"{len(results.clips) - len(shown)} more clips are in results.json, not shown here."
    )
    return _Choice(metric, shown, statement)


def _first_metric(results: Results) -> str | None:
    """The favourite if it has a value, else the first measure with a curve, else the first with a value."""

    def valued(name: str, *, curve: bool) -> bool:
        scores = (clip.scores[name] for clip in results.clips if name in clip.scores)
        return any(score.value is not None and (bool(score.curve) or not curve) for score in scores)

    if FAVOURITE in results.summaries and valued(FAVOURITE, curve=False):
        return FAVOURITE
    by_preference = ((name, curve) for curve in (True, False) for name in results.summaries)
    return next((name for name, curve in by_preference if valued(name, curve=curve)), None)


def _ranking(results: Results, metric: str | None) -> tuple[list[ClipResult], list[ClipResult]]:
    """Clips worst first; and those without a rank, still ones or without a value, in the results' order.

    Where neither way is better, the highest come first. The page's script orders by the same rule.
    """

    def value(clip: ClipResult) -> float | None:
        score = clip.scores.get(metric or "")
        return None if score is None else score.value

    sign = 1 if metric and results.summaries[metric].metric.better == "higher" else -1
    ranked = [(sign * v, clip) for clip in results.clips if not _is_still(clip) and (v := value(clip)) is not None]
    unranked = [clip for clip in results.clips if _is_still(clip) or value(clip) is None]
    return [clip for _, clip in sorted(ranked, key=lambda pair: pair[0])], unranked


def _is_still(clip: ClipResult) -> bool:
    return "still" in clip.flags


def _partners(results: Results, other: Results | None, other_frames: Frames | None) -> dict[str, ClipResult]:
    """The other set's clip, by the name of this set's."""
    if other is None:
        if other_frames is not None:
            raise ValueError("other_frames without other: give the other set's results too")
        return {}
    if results.comparison is None:
        raise ValueError("other is given, but results has no comparison: compare the two sets first")
    by_name = {clip.name: clip for clip in other.clips}
    strangers = [theirs for _, theirs in results.comparison.pairs if theirs not in by_name]
    if strangers:
        raise ValueError(f"{strangers[0]!r} is in the comparison, but not in other: give the results compared with")
    return {ours: by_name[theirs] for ours, theirs in results.comparison.pairs}


def _overview(results: Results, other: Results | None, choice: _Choice) -> dict[str, Any]:
    """All that the page shows above the cards."""
    cards = {id(clip): number for number, clip in enumerate(choice.clips)}
    measured = {name for clip in results.clips for name, score in clip.scores.items() if score.value is not None}
    return {
        "results": results.model_dump(mode="json", by_alias=True, exclude={"clips": True, "comparison": {"pairs"}}),
        "pairs": len(results.comparison.pairs) if results.comparison else 0,
        "points": [_point(clip) | {"card": cards.get(id(clip))} for clip in results.clips],
        "other_points": [_point(clip) for clip in other.clips] if other else [],
        "metric": choice.metric,
        "motion": next((name for name in MOTIONS if name in measured), None),
        "statement": choice.statement,
    }


def _point(clip: ClipResult) -> dict[str, Any]:
    values = {name: score.value for name, score in clip.scores.items() if score.value is not None}
    return {"name": clip.name, "flags": clip.flags, "values": values}


def _side(clip: ClipResult, frames: Frames, folder: Path) -> dict[str, Any]:
    """A clip with all that its card needs."""
    shown = _Shown(clip, frames)
    kind, source = _media(clip, shown, folder)
    notes = [shown.why] if shown.why else []
    if kind != "none" and shown.count != clip.num_frames:
        notes.append(f"shown are {shown.count} frames, measured were {clip.num_frames}")
    return {
        "clip": clip.model_dump(mode="json"),
        "media": {"kind": kind, "source": source, "frames": shown.count},
        "thumbnails": shown.thumbnails,
        "notes": notes,
    }


def _nearest(clip: ClipResult, frames: Callable[[Nearest], Iterable[np.ndarray]], folder: Path) -> dict[str, Any]:
    """The true clip nearest to a clip, as its partner, as long as it."""
    near = clip.nearest
    assert near is not None
    shown = list(frames(near))
    rate = clip.fps * len(shown) / max(clip.num_frames, 1)
    height, width, _ = shown[0].shape
    partner = ClipResult(
        name=near.name, digest="", num_frames=len(shown), fps=rate, height=height, width=width, nearest=near
    )
    return _side(partner, lambda _: shown, folder)


def _media(clip: ClipResult, shown: _Shown, folder: Path) -> tuple[str, str]:
    """How the clip is to be seen, and base64 of it: ("video", H.264), ("image", JPEG), ("none", "")."""
    frames = iter(shown)
    first = list(islice(frames, 2))
    if not first:
        return "none", ""
    if len(first) == 1:
        return "image", _jpeg(first[0], quality=92)
    # Few frames between keyframes: a jump along the curve decodes at most a dozen.
    video = write_video(folder / "clip.mp4", chain(first, frames), clip.fps, crf=20, keyframe_every=12)
    return "video", base64.b64encode(video.read_bytes()).decode()


class _Shown:
    """A clip's frames on their way to the page, fitted for display; keeps thumbnails around the worst moments."""

    def __init__(self, clip: ClipResult, frames: Frames) -> None:
        self.clip, self.frames = clip, frames
        self.count = 0
        self.why = ""
        self.thumbnails: dict[int, str] = {}

    def __iter__(self) -> Iterator[np.ndarray]:
        wanted = {frame for moment in self.clip.worst for frame in (moment.frame - 1, moment.frame)}
        try:
            frames = self.frames(self.clip)
            if frames is None:
                self.why = "its frames are not to be had here"
                return
            for frame in frames:
                fitted = self._fitted(frame)
                if self.count in wanted:
                    self.thumbnails[self.count] = _jpeg(_scaled(frame, THUMBNAIL_SIDE), quality=80)
                self.count += 1
                yield fitted
            if not self.count:
                self.why = "it has no frames"
        except (VideoError, OSError) as error:
            self.why = f"its frames cannot be read from frame {self.count} on: {error}"

    def _fitted(self, frame: np.ndarray) -> np.ndarray:
        """Not too large, and of even sizes as H.264's colours need: the last row or column once more."""
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            what = f"{frame.dtype} of shape {frame.shape}"
            raise ValueError(f"{self.clip.name}: frame {self.count} is {what}: uint8 h w 3 is needed")
        frame = _scaled(frame, SHORT_SIDE)
        height, width = frame.shape[:2]
        return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def _scaled(frame: np.ndarray, side: int) -> np.ndarray:
    """The frame (uint8 h w 3) with `side` pixels on its short side, if it has more."""
    scale = side / min(frame.shape[:2])
    if scale >= 1:
        return frame
    size = (round(frame.shape[1] * scale), round(frame.shape[0] * scale))
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS))


def _jpeg(frame: np.ndarray, quality: int) -> str:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, format="JPEG", quality=quality)
    return base64.b64encode(buffer.getvalue()).decode()


def _script(data: dict[str, Any], attribute: str) -> str:
    """Data as a script element that nothing in it can close: `<` only occurs as its JSON escape."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/json" {attribute}>{text}</script>\n'


def _template() -> tuple[str, str, str]:
    """The page before the results, between results and clips, and after; its policy names its own script's hash."""
    page = TEMPLATE.read_text(encoding="utf-8")
    script = page.rpartition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    head, rest = page.replace("SCRIPT-HASH", digest).split("<!-- results -->")
    middle, tail = rest.split("<!-- clips -->")
    return head, middle, tail
