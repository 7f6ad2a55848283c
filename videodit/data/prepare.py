"""Raw videos made into clips to train on: cut at scene changes, sorted out, and written down with what was dropped.

The way of a file: its facts are read (size, rate, interlaced or not), its scenes are found and measured in one pass
(`survey`, `scenes`), and each is kept or dropped for a reason (`sifting`). What is kept goes into `clips.jsonl`, as
stretches of the original files or as files of their own (`cut`); what is dropped into `dropped.jsonl`. Every second of
the source is in one or the other, and `report.json` counts both.

All of it follows from the source and the options alone: a run that was killed and started again writes the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from videodit.data import cut
from videodit.data.limits import REASONS, Options
from videodit.data.manifest import Item, Skip, read_manifest, tell
from videodit.data.remote import is_url
from videodit.data.rows import file_of, is_there
from videodit.data.sifting import Drop, Kept, Sifted, name_of, sift
from videodit.data.survey import Memory, Survey, stamp, time_limit
from videodit.disk import LOCK, clear_scratch, locked, replace_text
from videodit.geometry import covering
from videodit.video.guarded import Guarded
from videodit.video.index import VideoError

MANIFEST, DROPPED, REPORT, SUMMARY = "clips.jsonl", "dropped.jsonl", "report.json", "report.txt"
ANALYSIS, CLIPS = "analysis.jsonl", "clips"  # the memory, which is there from the start; the folder of written clips
_CLIP_NAME = re.compile(r"_[0-9a-f]{12}\.(mp4|png)$")


def prepare(
    source: str | Path,
    out: Path,
    options: Options,
    *,
    processes: int | None = None,
    overwrite: bool = False,
    cache: Path | None = None,
    show: bool = True,
) -> dict[str, Any]:
    """Makes the clips of a source; returns what `report.json` says, for `summary`.

    Args:
        source: a folder of videos, with captions beside them or without, or what else `manifest` reads.
        out: folder; new, empty, or of such a run, which then goes on.
        processes: that read files; None: one a core, at most 8.
        overwrite: replace another manifest that is there.
        cache: folder for files that are fetched; None: as `read_manifest`.
        show: progress bars.

    Raises ValueError for a source that cannot be read, a folder that holds other things or that another run writes
    into, a manifest that would change.
    """
    if processes is not None and processes < 1:
        raise ValueError(f"--processes {processes}: give 1 or more")
    source = str(source) if is_url(str(source)) else str(Path(source).absolute())
    settings = {"source": source, "options": json.loads(json.dumps(asdict(options)))}
    _check_folder(source, out, settings, overwrite)
    items, skips = _clips_of(source, cache)
    shard = next((item.origin for item in items if "::" in item.origin), None)
    if shard and options.write == "spans":
        raise ValueError(f"{shard} lies in a shard, where a manifest cannot name it: use --write clips")
    out.mkdir(parents=True, exist_ok=True)
    with locked(out), Guarded(processes or min(8, os.cpu_count() or 1)) as guarded:
        clear_scratch(out.rglob(".*"))
        threshold = options.threshold if options.cuts else None
        survey = Survey(Memory(out / ANALYSIS), guarded, threshold, options.max_seconds, show=show)
        sifted = sift(items, survey, options)
        rows = [_row(out, one, options) for one in sifted.kept]
        _check_manifest(out / MANIFEST, rows, overwrite)
        if options.write == "clips":
            _write_clips(out, sifted.kept, rows, options, guarded, show)
    dropped = [Drop(skip.where, 0.0, 0.0, "left_out", skip.why) for skip in skips] + sifted.dropped
    report = settings | _counts(sifted, dropped) | {"laid_on_white": 0}
    if options.write == "clips":
        report["laid_on_white"] = sum(bool(one.facts.get("transparent")) for one in sifted.kept)
    replace_text(out / DROPPED, _lines(asdict(drop) for drop in dropped))
    replace_text(out / REPORT, json.dumps(report, indent=2) + "\n")
    replace_text(out / SUMMARY, summary(report) + "\n")
    replace_text(out / MANIFEST, _lines(rows))
    current = {row["file"] for row in rows}
    for clip in (out / CLIPS).glob("*"):
        if _CLIP_NAME.search(clip.name) and f"{CLIPS}/{clip.name}" not in current:
            clip.unlink()  # of a manifest that was replaced
    return report


def summary(report: dict[str, Any]) -> str:
    """The report for people to read."""

    def line(name: str, count: dict[str, Any], what: str) -> str:
        return f"{name:12}{count['clips']:8} clips{count['images']:8} images{count['seconds']:11.1f} s  {what}".rstrip()

    lines = [line("source", report["total"], report["source"]), line("kept", report["kept"], "")]
    lines += [line(reason, count, REASONS[reason]) for reason, count in report["dropped"].items()]
    if report["dropped"]:
        lines.append(f"{DROPPED} says of each that was dropped why.")
    if count := report["shared_caption"]:
        lines.append(f"{count} clips come from sources that were cut, and share their captions: see whether they hold.")
    if columns := report["of_whole_file"]:
        lines.append(
            f"{', '.join(columns)}: of whole files, also where a clip begins later in its own: cut them likewise "
            "before a model is told them (model.conditions)."
        )
    if count := report["laid_on_white"]:
        lines.append(
            f"{count} clips are transparent, and were written on white: --write spans leaves them as they are, for "
            "data.background to lay on others."
        )
    if count := report["without_caption"]:
        lines.append(f"{count} clips have no caption: training needs one in each row of {MANIFEST}.")
    return "\n".join(lines)


def _check_folder(source: str, out: Path, settings: dict[str, Any], overwrite: bool) -> None:
    """Raises for a folder that is not ours, or that this run could only change without leave."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file: name a folder")
    if not is_url(source) and Path(source).is_dir() and out.resolve().is_relative_to(Path(source).resolve()):
        raise ValueError(f"{out} lies in {source}, where the next run would find it: name a folder elsewhere")
    if out.is_dir() and any(file.name != LOCK for file in out.iterdir()) and not (out / ANALYSIS).is_file():
        raise ValueError(f"{out} holds other things: name a new or empty folder")
    if (out / MANIFEST).exists() and (out / REPORT).exists() and not overwrite:
        try:
            report = json.loads((out / REPORT).read_text(encoding="utf-8"))
            before, came_from = dict(report["options"]), report["source"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{out / REPORT}: damaged ({error}); --overwrite writes it anew") from error
        changed = [key for key, value in settings["options"].items() if before.get(key, value) != value]
        changed += ["source"] if came_from != settings["source"] else []
        if changed:
            raise ValueError(
                f"{out / MANIFEST} was made with another {', '.join(changed)}: --overwrite replaces it (what is known "
                f"of the files is used again), or name another folder"
            )


def _check_manifest(path: Path, rows: Sequence[dict[str, Any]], overwrite: bool) -> None:
    """Raises where another is there and must not be replaced."""
    if path.exists() and not overwrite and (text := path.read_text(encoding="utf-8")) != _lines(rows):
        count = text.count("\n")
        raise ValueError(
            f"{path} ({count} clips) would change ({len(rows)} clips), as it or its source did since it was made: "
            f"--overwrite replaces it, or name another folder"
        )


def _clips_of(source: str, cache: Path | None) -> tuple[Sequence[Item], Sequence[Skip]]:
    """What the source holds, captions or not, and what was left out."""
    found = read_manifest(source, cache, captions=False)
    tell(found.notes)
    return found.items, found.skips


def _row(out: Path, one: Kept, options: Options) -> dict[str, Any]:
    """Of the manifest: where the clip is, what is said of it, what was measured, and the source's other columns."""
    item, facts, scene = one.item, one.facts, one.scene
    height, width = facts["height"], facts["width"]
    span: dict[str, Any] = {} if facts["is_image"] else {"start": scene.start, "end": scene.end}
    place: dict[str, Any] = {"file": item.origin or _beside(item.path, out)}
    if options.write == "clips":
        height, width = _size(height, width, options.size, facts["is_image"])
        span = {f"source_{key}": value for key, value in span.items()}
        place, span = {"file": f"{CLIPS}/{_clip_name(one, options)}"}, {"source": name_of(item)} | span
    captions: Any = list(item.captions) if len(item.captions) > 1 else "".join(item.captions)
    measured = {"height": height, "width": width}
    if not facts["is_image"]:
        seconds, fps = round(scene.end - scene.start, 3), round(facts["fps"], 3)
        measured |= {"seconds": seconds, "fps": fps, "motion": scene.motion, "frozen": scene.frozen}
    row = place | {"caption": captions} | span | measured | {"black": scene.black}
    return row | {key: value for key, value in item.attributes.items() if key not in row}


def _beside(path: Path, out: Path) -> str:
    """Relative to `out` where both lie in its parent folder, so that they can be moved together."""
    path, out = path.resolve(), out.resolve()
    return os.path.relpath(path, out) if path.is_relative_to(out.parent) else str(path)


def _size(height: int, width: int, size: int | None, is_image: bool) -> tuple[int, int]:
    """Of a written clip."""
    if size is not None and size < min(height, width):
        height, width = covering(height, width, size, size)
    return (height, width) if is_image else (height // 2 * 2, width // 2 * 2)


def _clip_name(one: Kept, options: Options) -> str:
    """Says where a clip comes from, and changes with whatever would change it."""
    content = [cut.VERSION, options.size, *stamp(one.item.path), one.scene.start, one.scene.end]
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]
    stem = re.sub(r"[^\w-]+", "_", one.item.path.stem)[:40]
    return f"{stem}_{digest}.png" if one.facts["is_image"] else f"{stem}_{one.scene.start:.3f}_{digest}.mp4"


def _write_clips(
    out: Path, kept: Sequence[Kept], rows: Sequence[dict[str, Any]], options: Options, guarded: Guarded, show: bool
) -> None:
    """Writes those that are not there yet. A file is there whole or not at all. VideoError: one cannot be written."""
    (out / CLIPS).mkdir(exist_ok=True)
    pieces: dict[str, list[cut.Piece]] = defaultdict(list)
    facts = {}
    for one, row in zip(kept, rows, strict=True):
        target, path = out / row["file"], str(one.item.path)
        if not target.exists():
            pieces[path].append(cut.Piece(one.scene.start, one.scene.end, str(target)))
            facts[path] = one.facts
    calls = ((path, some, facts[path]["fps"], options.size) for path, some in pieces.items())
    limits = {path: 10 * time_limit(facts[path]) for path in pieces}  # encoding takes longer than decoding
    results = guarded.map(cut.write_pieces, calls, seconds=lambda path, *_: limits[path])
    for result in tqdm(results, total=len(pieces), desc="writing", disable=not show or not pieces, delay=1):
        if isinstance(result, VideoError):
            raise result


def _counts(sifted: Sifted, dropped: Sequence[Drop]) -> dict[str, Any]:
    """Of the report: clips, images and seconds of the source, of what is kept, and of what is dropped by reason."""
    kept = sifted.kept
    parts = Counter(id(one.item) for one in kept)
    by_reason: dict[str, list[Drop]] = {reason: [] for reason in REASONS}
    for drop in dropped:
        by_reason[drop.reason].append(drop)
    return {
        "total": sifted.total,
        "kept": _count([(one.facts["is_image"], one.scene.end - one.scene.start) for one in kept]),
        "dropped": {
            reason: _count([(drop.is_image, drop.end - drop.start) for drop in some])
            for reason, some in by_reason.items()
            if some
        },
        "shared_caption": sum(bool(one.item.captions) and parts[id(one.item)] > 1 for one in kept),
        "without_caption": sum(not one.item.captions for one in kept),
        "of_whole_file": sorted({name for one in kept for name in _of_whole_file(one)}),
    }


def _of_whole_file(one: Kept) -> list[str]:
    """Columns of a clip that begins within its file which name another file, or hold a number a frame: they are of the
    file from its beginning."""
    item = one.item
    return [
        name
        for name, value in item.attributes.items()
        if one.scene.start > 0
        and (_are_numbers(value) or ((file := file_of(item, name)) is not None and is_there(file)))
    ]


def _are_numbers(value: str) -> bool:
    try:
        return np.ndim(np.array(json.loads(value), dtype=np.float32)) > 0
    except (ValueError, TypeError, RecursionError):
        return False


def _count(some: Sequence[tuple[bool, float]]) -> dict[str, Any]:
    images = sum(is_image for is_image, _ in some)
    return {
        "clips": len(some) - images,
        "images": images,
        "seconds": round(math.fsum(seconds for _, seconds in some), 3),
    }


def _lines(rows: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
