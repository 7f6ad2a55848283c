"""A set of clips on disk: what is asked for, the clips that a model makes of it, and what is there to be looked at.

Every clip that is made has its settings in its metadata and in a `.json` file beside it. So a run that was stopped goes
on: what was made with the same settings, by the same weights, is not made again; what was made with others is never
overwritten unasked. And so prompt and seed of each clip are known where the set is measured.
"""

from __future__ import annotations

import csv
import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from videodit.data.manifest import CAPTION_COLUMNS, FOLDER_MANIFESTS, Item, read_manifest
from videodit.data.remote import fetch
from videodit.evaluation.clips import Clip, clip_from_file
from videodit.evaluation.results import Failure
from videodit.evaluation.weights import state_hash
from videodit.pipeline import VideoDiTPipeline
from videodit.video import IMAGE_SUFFIXES, VIDEO_SUFFIXES, VideoError, check_writable, write_video
from videodit.video.guarded import Guarded

log = logging.getLogger(__name__)

NAME_COLUMNS = ("name", "file", "path", "video", "video_path", "file_name")


@dataclass(frozen=True)
class Request:
    """One clip to make. What is None is the model's own; sizes are in pixels and frames, `fps` in frames a second."""

    prompt: str
    seed: int = 0
    negative_prompt: str = ""
    num_frames: int | None = None
    height: int | None = None
    width: int | None = None
    fps: float | None = None


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


# --- what is asked for -----------------------------------------------------------------------------------------------


def read_requests(file: str | Path, seed: int = 0) -> list[Request]:
    """The lines of a prompts file: `.txt`, a prompt a line; `.csv`, `.tsv`, `.jsonl` or `.json`, a row a clip.

    Columns: `prompt` (or `caption`, `text` ...) and, each where wanted, `seed`, `negative_prompt`, `num_frames`,
    `height`, `width`, `fps`. Other columns are named in a warning. A line without a seed of its own has `seed` + its
    number, from 0.

    Raises:
        ValueError: the file cannot be read or holds no prompt, or a line has none or a value of the wrong kind; names
            file and line.
    """
    path = Path(file)
    requests, unused = [], set()
    for number, (where, row) in enumerate(_rows(path)):
        column = next((name for name in CAPTION_COLUMNS if row.get(name)), None)
        if column is None or not str(row[column]).strip():
            raise ValueError(f"{where}: no prompt; fill one of {', '.join(CAPTION_COLUMNS)}")
        values: dict[str, Any] = {"prompt": str(row[column]).strip(), "seed": seed + number}
        for field in fields(Request)[1:]:
            if row.get(field.name) not in (None, ""):
                values[field.name] = _value(where, field.name, row[field.name])
        unused |= row.keys() - values.keys() - {column, *NAME_COLUMNS, *(f.name for f in fields(Request))}
        requests.append(Request(**values))
    if not requests:
        raise ValueError(f"{path}: holds no prompt; write one a line")
    if unused:
        log.warning("%s: the columns %s say nothing of how a clip is made: not used", path, ", ".join(sorted(unused)))
    return requests


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(file and line, row) of every line that is not empty."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read as text ({error})") from error
    kind = path.suffix.lower()
    if kind in (".csv", ".tsv"):
        for number, row in enumerate(csv.DictReader(text.splitlines(), delimiter="\t" if kind == ".tsv" else ","), 2):
            if None in row:
                raise ValueError(f"{path}:{number}: more values than the first line has columns; quote commas")
            yield f"{path}:{number}", row
        return
    if kind == ".json":
        found = _parsed(text, str(path))
        if not isinstance(found, list):
            raise ValueError(f"{path}: must hold a list of objects, a clip each")
        lines = [(f"{path} item {number}", one) for number, one in enumerate(found)]
    elif kind == ".jsonl":
        numbered = [(f"{path}:{number}", line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
        lines = [(where, _parsed(line, where)) for where, line in numbered]
    else:
        lines = [(f"{path}:{n}", {"prompt": line}) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
    for where, row in lines:
        if not isinstance(row, dict):
            raise ValueError(f"{where}: must be an object with a prompt")
        yield where, row


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{where}: is no JSON ({error})") from error


def _value(where: str, name: str, value: Any) -> Any:
    """A column's value as `Request` has it."""
    if name == "negative_prompt":
        return str(value)
    try:
        number = float(value)
        if name != "fps" and number != int(number):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        kind = "a number" if name == "fps" else "a whole number"
        raise ValueError(f"{where}: {name} is {value!r}; it must be {kind}") from None
    return number if name == "fps" else int(number)


# --- making ----------------------------------------------------------------------------------------------------------


def output_paths(out: Path, count: int) -> list[Path]:
    """One path a clip: `out` itself for one clip, numbered files beside each other, or in a folder, for several."""
    if out.suffix and not out.is_dir():
        return [out] if count == 1 else [out.with_name(f"{out.stem}_{i:04d}{out.suffix}") for i in range(count)]
    return [out / f"{i:04d}.mp4" for i in range(count)]


def make_clips(
    pipe: VideoDiTPipeline,
    requests: Sequence[Request],
    paths: Sequence[Path],
    *,
    model: str,
    steps: int = 30,
    guidance_scale: float = 4.0,
    batch_size: int = 8,
    overwrite: bool = False,
) -> Iterator[Path]:
    """Makes a clip a request, each from its own seed, and writes it; gives the paths as clips are there.

    Args:
        paths: a file a clip; their endings choose the format (`video.write_video`).
        model: what the settings say it was made by.
        steps: scheduler steps. guidance_scale: 1 is none.
        batch_size: clips of one size made together.
        overwrite: make again what is there with other settings, instead of an error.

    Raises:
        ValueError: an option is out of range, two requests share a file, or, before anything is made, a file is there
            that was made with other settings.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1")
    if twice := [path for path, times in Counter(paths).items() if times > 1]:
        raise ValueError(f"{twice[0]}: several clips would be written to it")
    made_by = {
        "steps": steps,
        "guidance_scale": guidance_scale,
        "scheduler": type(pipe.scheduler).__name__,
        "model": model,
        "model_digest": state_hash(pipe.transformer.state_dict()),
    }
    settings = [_settings(pipe, request) | made_by for request in requests]
    missing = [not _is_made(*each, overwrite) for each in zip(paths, settings, strict=True)]
    for path, wanted in zip(paths, missing, strict=True):
        if wanted:
            check_writable(path)
    done = 0
    for batch in _batches(settings, missing, batch_size):
        clips = _sample(pipe, [settings[i] for i in batch])
        for index, frames in zip(batch, clips, strict=True):
            _write(paths[index], frames, settings[index])
        yield from paths[done : batch[-1] + 1]
        done = batch[-1] + 1
    yield from paths[done:]


def _settings(pipe: VideoDiTPipeline, request: Request) -> dict[str, Any]:
    size = pipe.default_size
    own = {"num_frames": size.num_frames, "height": size.height, "width": size.width, "fps": size.fps}
    asked = {field.name: getattr(request, field.name) for field in fields(Request)}
    return asked | {name: value for name, value in own.items() if asked[name] is None}


def _is_made(path: Path, settings: Mapping[str, Any], overwrite: bool) -> bool:
    """Whether the clip is there with these settings."""
    beside = path.with_suffix(".json")
    if overwrite or not beside.exists() or not (path.exists() or path.with_suffix("").is_dir()):
        return False
    try:
        there = json.loads(beside.read_text())
    except (OSError, ValueError):
        there = None
    if there == settings:
        return True
    differ = [k for k in settings if not isinstance(there, dict) or there.get(k) != settings[k]]
    raise ValueError(
        f"{path}: is there already, made with another {', '.join(differ) or 'set of settings'}; give --overwrite to "
        "make it anew, or another --out"
    )


def _batches(settings: Sequence[Mapping[str, Any]], missing: Sequence[bool], size: int) -> Iterator[list[int]]:
    """Numbers of clips to make together: neighbours of one size."""
    batch: list[int] = []
    for index, wanted in enumerate(missing):
        if not wanted:
            continue
        if batch and (len(batch) == size or _size(settings[index]) != _size(settings[batch[0]])):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _size(settings: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(settings[name] for name in ("num_frames", "height", "width", "fps"))


def _sample(pipe: VideoDiTPipeline, settings: Sequence[Mapping[str, Any]]) -> Iterator[np.ndarray]:
    one = settings[0]
    output: Any = pipe(
        [each["prompt"] for each in settings],
        negative_prompt=[each["negative_prompt"] for each in settings],
        num_frames=one["num_frames"],
        height=one["height"],
        width=one["width"],
        fps=one["fps"],
        num_inference_steps=one["steps"],
        guidance_scale=one["guidance_scale"],
        generator=[torch.Generator().manual_seed(each["seed"]) for each in settings],
        output_type="np",
    )
    for clip in output.frames:
        yield np.rint(clip * 255).astype(np.uint8)


def _write(path: Path, frames: np.ndarray, settings: Mapping[str, Any]) -> None:
    metadata = {"comment": json.dumps(settings), "title": settings["prompt"]}
    path.with_suffix(".json").unlink(missing_ok=True)  # the clip is made when its settings stand beside it
    write_video(path, frames, settings["fps"], metadata=metadata)
    path.with_suffix(".json").write_text(json.dumps(settings, indent=1) + "\n")


# --- finding ---------------------------------------------------------------------------------------------------------


def is_model(source: str | Path) -> bool:
    """Whether a source is a pipeline: its folder, "shipped", or what may be a name on the hub and is nothing here."""
    path, name = Path(source), str(source)
    if path.exists():
        return (path / "model_index.json").is_file()
    return name == "shipped" or (name.count("/") == 1 and not name.startswith((".", "~")) and not path.suffix)


def find_clips(source: str | Path, prompts: str | Path | None = None) -> list[ClipFile]:
    """The clips of a video file, a folder (at any depth) or a manifest (`data.manifest`), in the order of their names.

    Prompt and seed of a clip come from the `.json` that `make_clips` put beside it, else from a `.txt` beside it or the
    manifest's caption (the first of several) and its column `seed`. Rows that cannot be used have a `failure`.

    Args:
        prompts: a file that says them instead: rows with a column `name` (the clip's, with or without its ending) and
            `prompt`, `seed`; or, without names, a line for each clip, in the order of their names.

    Raises:
        ValueError: there is no such source, or nothing in it; the prompts do not fit the clips.
    """
    path = Path(source)
    suffixes = IMAGE_SUFFIXES + VIDEO_SUFFIXES
    if path.is_file() and path.suffix.lower() in suffixes:
        found = [_with_settings(ClipFile(path, path.name))]
    elif path.is_dir() and not any((path / name).is_file() for name in FOLDER_MANIFESTS):
        files = (file for file in path.rglob("*") if file.suffix.lower() in suffixes and file.is_file())
        seen = [file for file in files if not any(part.startswith(".") for part in file.relative_to(path).parts)]
        found = [_with_settings(ClipFile(file, file.relative_to(path).as_posix())) for file in seen]
    else:
        found = _from_manifest(source)
    if not found:
        raise ValueError(f"{source}: nothing to measure: no video, GIF or image in it")
    found = sorted(found, key=lambda clip: (clip.name, clip.start))
    return _with_prompts(found, Path(prompts)) if prompts is not None else found


def open_clips(
    files: Sequence[ClipFile], guard: Guarded, *, fps: float | None = None
) -> tuple[list[Clip], list[Failure]]:
    """The clips to measure (`evaluation.clips.clip_from_file`), and those that cannot be opened, with the reason."""
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


def _with_settings(clip: ClipFile) -> ClipFile:
    beside, text = clip.path.with_suffix(".json"), clip.path.with_suffix(".txt")
    if beside.is_file():
        try:
            made = json.loads(beside.read_text())
        except (OSError, ValueError):
            made = None
        if isinstance(made, dict) and isinstance(made.get("prompt"), str):
            seed = made.get("seed")
            return replace(clip, prompt=made["prompt"], seed=seed if isinstance(seed, int) else None)
    if text.is_file():
        lines = text.read_text(encoding="utf-8-sig", errors="replace").splitlines()
        return replace(clip, prompt=next((line.strip() for line in lines if line.strip()), None))
    return clip


def _from_manifest(source: str | Path) -> list[ClipFile]:
    manifest = read_manifest(source, captions=False)
    root = Path(source) if Path(source).is_dir() else Path(source).parent
    found = [_from_item(item, root) for item in manifest.items]
    names = Counter(clip.name for clip in found)
    found = [replace(c, name=f"{c.name} from {c.start:g} s") if names[c.name] > 1 else c for c in found]
    return found + [ClipFile(Path(skip.where), skip.where, failure=skip.why) for skip in manifest.skips]


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
    rows = list(_rows(file))
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
    told = []
    for clip in clips:
        key = clip.name if clip.name in said else str(Path(clip.name).with_suffix(""))
        if key not in said:
            raise ValueError(f"{file}: has no row for {clip.name}; its names are those of clips, as {next(iter(said))}")
        request, seed = said[key]
        told.append(replace(clip, prompt=request.prompt, seed=clip.seed if seed is None else seed))
    return told
