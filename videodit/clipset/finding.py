"""What is there to be looked at: clips of a folder or a manifest, with the prompts and seeds they were made from."""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from videodit.clipset.decoding import PREVIEW
from videodit.clipset.requests import NAME_COLUMNS, prompt_rows, read_requests
from videodit.data.folders import MEDIA, Tree
from videodit.data.manifest import FOLDER_MANIFESTS, Item, Note, read_manifest, tell
from videodit.data.plain import is_plain_file, natural
from videodit.data.remote import fetch
from videodit.evaluation.measure.clips import Clip, clip_from_file, without_ending
from videodit.evaluation.report.results import Failure
from videodit.packaged import PACKAGED
from videodit.video import VideoError
from videodit.video.guarded import Guarded

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClipFile:
    """A clip that is there: its file, or a stretch of it (seconds), and what is known of how it was asked for."""

    path: Path
    name: str
    prompt: str | None = None
    seed: int | None = None
    start: float = 0.0
    end: float | None = None
    failure: str = ""  # why it is known to be unusable


def is_model(source: str | Path) -> bool:
    """Whether a source is a pipeline: its folder, a packaged one, or what may be a name on the hub and is not here."""
    path, name = Path(source), str(source)
    if path.exists():
        return (path / "model_index.json").is_file()
    return name in ("shipped", *PACKAGED) or (
        name.count("/") == 1 and not name.startswith((".", "~")) and not path.suffix
    )


def find_clips(source: str | Path, prompts: str | Path | None = None) -> list[ClipFile]:
    """The clips of a video file, a folder (at any depth) or a manifest (`data.manifest`), in the natural order of their
    names: `2.mp4` before `10.mp4`.

    Prompt and seed of a clip come from the `.json` that `make_clips` put beside it, else from a `.txt` beside it or the
    manifest's caption (the first of several) and its column `seed`. Rows that cannot be used have a `failure`.

    Args:
        prompts: a file that says them instead: rows with a column `name` (the clip's, with or without its ending) and
            `prompt`, `seed`; or, without names, a line for each clip, in the natural order of their names.

    Raises:
        ValueError: there is no such source, or nothing in it; the prompts do not fit the clips.
    """
    path = Path(source)
    if path.is_file() and path.suffix.lower() in MEDIA:
        found = [_with_settings(ClipFile(path, path.name), Tree.around(path))]
    elif path.is_dir() and not any((path / name).is_file() for name in FOLDER_MANIFESTS):
        tree = Tree.of(path)
        seen = [file for file in tree.media if not file.name.endswith(PREVIEW)]
        found = [_with_settings(ClipFile(file, _said(file.relative_to(path).as_posix())), tree) for file in seen]
        tell(Note(skip.where, skip.why) for skip in tree.left_out())
    else:
        found = _from_manifest(source)
    if not found:
        raise ValueError(f"{source}: nothing to measure: no video, GIF or image in it")
    found = sorted(found, key=lambda clip: (natural(clip.name), clip.start))
    return _with_prompts(found, Path(prompts)) if prompts is not None else found


def open_clips(
    files: Sequence[ClipFile], guard: Guarded, *, fps: float | None = None
) -> tuple[list[Clip], list[Failure]]:
    """The clips to measure, as `clip_from_file` gives them, and those that cannot be opened, with the reason."""
    clips, failures = [], []
    for file in files:
        try:
            if file.failure:
                raise VideoError(file.failure)
            clip = clip_from_file(
                file.path,
                guard,
                fps=fps,
                start=file.start,
                end=file.end,
                name=file.name,
                prompt=file.prompt,
                seed=file.seed,
            )
        except VideoError as error:
            failures.append(Failure(name=file.name, why=str(error)))
        else:
            clips.append(clip)
    return clips, failures


def _said(name: str) -> str:
    """A file's name as text; bytes that are no UTF-8 are escaped."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _with_settings(clip: ClipFile, tree: Tree) -> ClipFile:
    beside, text = clip.path.with_suffix(".json"), tree.text_of(clip.path)
    if is_plain_file(beside):
        try:
            made = json.loads("\n".join(tree.lines_beside(beside, clip.path)))
        except (OSError, ValueError, RecursionError):
            made = None
            log.warning("%s: cannot be read: prompt and seed of %s stay unknown", beside, clip.name)
        if isinstance(made, dict) and isinstance(made.get("prompt"), str):
            seed = made.get("seed")
            return replace(clip, prompt=made["prompt"], seed=seed if isinstance(seed, int) else None)
    try:
        return clip if text is None else replace(clip, prompt=next(iter(tree.lines_beside(text, clip.path)), None))
    except (OSError, ValueError) as error:
        log.warning("%s: the prompt of %s stays unknown", error, clip.name)
        return clip


def _from_manifest(source: str | Path) -> list[ClipFile]:
    manifest = read_manifest(source, captions=False)
    tell(manifest.notes)
    root = Path(source) if Path(source).is_dir() else Path(source).parent
    found = [_from_item(item, root) for item in manifest.items]
    found = _named_apart(found)
    return found + [ClipFile(Path(skip.where), skip.where, failure=skip.why) for skip in manifest.skips]


def _named_apart(clips: list[ClipFile]) -> list[ClipFile]:
    """Stretches of one file by their times, and what is there twice by number."""
    names = Counter(clip.name for clip in clips)
    timed = [replace(c, name=f"{c.name} {_span(c)}") if names[c.name] > 1 else c for c in clips]
    seen: Counter[str] = Counter()
    apart = []
    for clip in timed:
        seen[clip.name] += 1
        apart.append(replace(clip, name=f"{clip.name} ({seen[clip.name]})") if seen[clip.name] > 1 else clip)
    return apart


def _span(clip: ClipFile) -> str:
    return f"from {clip.start:.6g} s" + ("" if clip.end is None else f" to {clip.end:.6g} s")


def _from_item(item: Item, root: Path) -> ClipFile:
    near = not item.origin and item.path.is_relative_to(root)
    name = item.path.relative_to(root).as_posix() if near else (item.origin or item.path.name)
    seed = item.attributes.get("seed", "")
    prompt = item.captions[0] if item.captions else None
    clip = ClipFile(item.path, name, prompt, int(seed) if seed.isdecimal() else None, item.start, item.end)
    try:
        fetch(item)
    except VideoError as error:
        return replace(clip, failure=str(error))
    return clip


def _with_prompts(clips: list[ClipFile], file: Path) -> list[ClipFile]:
    rows = list(prompt_rows(file))
    requests = read_requests(file)
    named = [next((str(row[c]) for c in NAME_COLUMNS if row.get(c)), None) for _, row in rows]
    has_seed = [row.get("seed") not in (None, "") for _, row in rows]
    seeds = [request.seed if own else None for request, own in zip(requests, has_seed, strict=True)]
    if not any(named):
        if len(requests) != len(clips):
            raise ValueError(
                f"{file}: {len(requests)} prompts for {len(clips)} clips; give each row a name, or one each"
            )
        return [
            replace(clip, prompt=request.prompt, seed=clip.seed if seed is None else seed)
            for clip, request, seed in zip(clips, requests, seeds, strict=True)
        ]
    said = {name: (request, seed) for name, request, seed in zip(named, requests, seeds, strict=True) if name}
    if len(said) < len(rows):
        raise ValueError(f"{file}: some rows have no name, or one that another has; a row a clip is needed")
    clips_known = {clip.name for clip in clips} | {without_ending(clip.name) for clip in clips}
    if strangers := sorted(said.keys() - clips_known):
        raise ValueError(f"{file}: names {strangers[0]}, which is no clip here; take the row out, or bring the clip")
    told = []
    for clip in clips:
        key = clip.name if clip.name in said else without_ending(clip.name)
        if key not in said:
            raise ValueError(f"{file}: has no row for {clip.name}; its names are those of clips, as {next(iter(said))}")
        request, seed = said[key]
        told.append(replace(clip, prompt=request.prompt, seed=clip.seed if seed is None else seed))
    return told
