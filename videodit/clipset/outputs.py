"""Where clips are written, and what may lie there already: nothing that was given, and no file of somebody else's."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from videodit.clipset.decoding import PREVIEW
from videodit.disk import clear_scratch
from videodit.video import read_metadata

FIX = "give another --out, or --overwrite to replace it"
OURS = ("prompt", "seed", "steps", "model_digest")  # which settings hold


def output_paths(out: Path, count: int) -> list[Path]:
    """One path a clip: `out` itself for one clip, numbered files beside each other, or in a folder, for several."""
    if out.suffix and not out.is_dir():
        return [out] if count == 1 else [out.with_name(f"{out.stem}_{i:04d}{out.suffix}") for i in range(count)]
    return [out / f"{i:04d}.mp4" for i in range(count)]


def check_outputs(paths: Sequence[Path], settings: Sequence[Mapping[str, Any]], inputs: Iterable[str | Path]) -> None:
    """Refuses to write over what is read, or to write two clips into one file.

    Args:
        settings: of each clip.
        inputs: files that are read.

    Raises:
        ValueError: names the file.
    """
    if twice := [path for path, times in Counter(paths).items() if times > 1]:
        raise ValueError(f"{twice[0]}: several clips would be written to it")
    read = {Path(os.path.realpath(file)) for file in inputs}
    for path, one in zip(paths, settings, strict=True):
        written = [Path(os.path.realpath(file)) for file in (target(path, one), *_beside(path))]
        if overlap := [file for file in read if not {file, *file.parents}.isdisjoint(written)]:
            raise ValueError(f"{overlap[0]}: is read, and making {path} would write over it; give another --out")


def clear_left(paths: Sequence[Path], settings: Sequence[Mapping[str, Any]]) -> None:
    """Removes what runs that were killed had begun of these clips; what another still writes stays."""
    written = [file for path, one in zip(paths, settings, strict=True) for file in (target(path, one), *_beside(path))]
    folders = dict.fromkeys(file.parent for file in written)
    clear_scratch((one for folder in folders for one in folder.glob(".*")), {file.name for file in written})


def is_made(path: Path, settings: Mapping[str, Any], *, overwrite: bool, renew: bool) -> bool:
    """Whether the clip is there with these settings.

    Args:
        overwrite: whatever lies there may be replaced.
        renew: a clip of ours with other settings may be.

    Raises:
        ValueError: something else lies there; names it, and what differs.
    """
    clip, beside = target(path, settings), path.with_suffix(".json")
    if overwrite or not (clip.exists() or beside.exists()):
        return False
    if beside.exists() and not _is_ours(_settings_beside(beside)):
        raise ValueError(f"{beside}: is there already, and holds no settings of a clip; {FIX}")
    if not clip.exists():
        return False  # settings without their clip, which was taken away
    there = _settings_beside(beside) if beside.exists() else _settings_in(clip)
    if there == settings and not renew:
        return True
    if renew and _is_ours(there):
        return False
    known = there if _is_ours(there) else {}
    differ = [name for name in {**settings, **known} if known.get(name) != settings.get(name)]
    what = f"made with another {', '.join(differ)}" if known else "and was not made here"
    raise ValueError(f"{path}: is there already, {what}; give --overwrite to make it anew, or another --out")


def target(path: Path, settings: Mapping[str, Any]) -> Path:
    """What `write_video` writes for a clip of these settings: of a PNG of several frames a folder."""
    return path.with_suffix("") if path.suffix.lower() == ".png" and settings["num_frames"] > 1 else path


def _beside(path: Path) -> tuple[Path, ...]:
    return path.with_suffix(".json"), path.with_suffix(PREVIEW)


def _is_ours(settings: Any) -> bool:
    return isinstance(settings, dict) and all(name in settings for name in OURS)


def _settings_beside(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def _settings_in(clip: Path) -> Any:
    """Where a run was stopped before they stood beside it."""
    try:
        return json.loads(read_metadata(clip / "0000.png" if clip.is_dir() else clip).get("comment", ""))
    except (OSError, ValueError, RecursionError):
        return None
