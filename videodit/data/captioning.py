"""Clips described by a vision-language model that its user has: a manifest goes in, one with captions comes out.

The model is any image-text-to-text model of transformers with a chat template (LLaVA, Qwen-VL, SmolVLM, InternVL ...).
It sees pictures from the middles of equal parts of a clip, in their order, and is asked in words. What a clip is and
where it lies stays as the source says; a clip that has a caption keeps it.

Each row is written as soon as it is known, so a run that was stopped goes on behind its last whole row.
"""

from __future__ import annotations

import json
import logging
import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from videodit.data.manifest import read_manifest, tell
from videodit.data.remote import fetch
from videodit.data.rows import Item
from videodit.disk import writing
from videodit.video import VideoError, probe, read_frames
from videodit.video.guarded import Guarded

Describe = Callable[[list[np.ndarray]], str]

SIDE = 448  # pixels of the shorter side, at most, of what a model is shown
PROMPT = (
    "These pictures are frames of one short clip, in their order. Describe in one or two plain sentences what is seen "
    "and how it moves: things, colours, actions, the camera. Do not mention pictures, frames or a clip."
)

log = logging.getLogger(__name__)


def caption_clips(
    source: str, out: Path, describe: Describe, captioner: str, *, num_frames: int = 8, cache: Path | None = None
) -> Counter[str]:
    """Writes `out`, a manifest of the clips of `source`, each with a caption, and counts them.

    A file that cannot be read, and one of which the model says nothing, has a row with an empty caption and the reason
    in a column `not_captioned`; it is named in a warning. A row that is taken out of `out` is made again.

    Args:
        source: as `data.source` of a configuration. out: a `.jsonl`, new or of an earlier run.
        describe: pictures, `uint8 h w c` each, -> caption.
        captioner: who describes; kept in a column of that name, with the number of frames.
        num_frames: of each clip that are shown; of an image one.

    Returns:
        How many are `captioned`, had a caption (`kept`), were there already (`before`), or are `not captioned`.

    Raises:
        ValueError: a source that cannot be used; an `out` that is not of this source and captioner.
    """
    captioner = f"{captioner}, {num_frames} frames"
    found = read_manifest(source, cache, captions=False)
    tell(found.notes)
    for skip in found.skips:
        log.warning("%s: left out: %s", skip.where, skip.why)
    rows: dict[tuple[Any, ...], tuple[Item, dict[str, Any]]] = {}
    for item, row in ((item, _row(item, out)) for item in found.items):
        first, before = rows.setdefault(_key(row), (item, row))
        if before is not row:  # a clip that stands in several rows is one, of all their captions
            rows[_key(row)] = first, before | {"caption": _together(before["caption"], row["caption"])}
    known = _known(out, source, {key: row for key, (_, row) in rows.items()}, captioner)
    count = Counter(before=len(known))
    left = [rows[key] for key in rows if key not in known]
    with Guarded() as guarded, writing(out), out.open("a", encoding="utf-8") as file:
        calls = (_call(item, num_frames) for item, row in left if not row["caption"])
        pictures = guarded.map(pictures_of, calls)
        for _, row in tqdm(left, desc="captions", delay=1):
            kind = "kept" if row["caption"] else "captioned"
            if kind == "captioned":
                row = {name: value for name, value in row.items() if name != "not_captioned"}  # of an earlier captioner
                row |= _described(next(pictures), describe, captioner)
            if "not_captioned" in row:
                kind = "not captioned"
                log.warning("%s: %s", row["file"], row["not_captioned"])
            count[kind] += 1
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()
    return count


def pictures_of(path: str, start: float, end: float | None, num_frames: int) -> np.ndarray:
    """Of a stretch of a file, from the middles of `num_frames` equal parts, `uint8 f h w c`; an image is one."""
    info = probe(path)
    last = info.duration if end is None else min(end, info.duration)
    times = [0.0] if info.is_image else [start + (i + 0.5) / num_frames * (last - start) for i in range(num_frames)]
    large = min(info.height, info.width) > SIDE
    return read_frames(path, times, cover=(SIDE, SIDE) if large else None)


def load_captioner(
    folder: str, *, prompt: str = PROMPT, max_new_tokens: int = 128, dtype: str = "float32"
) -> tuple[Describe, str]:
    """A model of transformers that describes pictures, greedily, and its name with a digest of what it is asked.

    Args:
        folder: a saved model with its processor, or a hub name.

    Raises:
        ValueError: none that transformers knows as an image-text-to-text model, or one that cannot be asked in words
            (no chat template).
    """
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    try:
        processor: Any = AutoProcessor.from_pretrained(folder)
        model: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=getattr(torch, dtype)).to(device).eval()
    except (ValueError, OSError, KeyError) as error:
        raise ValueError(f"{folder}: is no image-text-to-text model that transformers loads ({error})") from error
    if not getattr(processor, "chat_template", None):
        raise ValueError(f"{folder}: has no chat template, so it cannot be asked: take one that is tuned to answer")

    @torch.no_grad()
    def describe(pictures: list[np.ndarray]) -> str:
        content = [*({"type": "image"} for _ in pictures), {"type": "text", "text": prompt}]
        talk = [{"role": "user", "content": content}]
        asked = processor.apply_chat_template(talk, add_generation_prompt=True, tokenize=False)
        inputs = processor(text=[asked], images=[pictures], return_tensors="pt").to(device, model.dtype)
        said = model.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens)
        answer = processor.batch_decode(said[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0]
        return " ".join(answer.split())

    digest = zlib.crc32(json.dumps([prompt, max_new_tokens]).encode())
    return describe, f"{Path(folder).resolve().name if Path(folder).exists() else folder} {digest:08x}"


def _described(pictures: np.ndarray | VideoError, describe: Describe, captioner: str) -> dict[str, str]:
    """What a row has beside what its source says."""
    said = "" if isinstance(pictures, VideoError) else describe(list(pictures))
    why = str(pictures) if isinstance(pictures, VideoError) else "the model said nothing of it"
    return {"caption": said, "captioner": captioner} | ({} if said else {"not_captioned": why})


def _call(item: Item, num_frames: int) -> tuple[str, float, float | None, int] | VideoError:
    try:
        fetch(item)
    except VideoError as error:
        return error
    return str(item.path), item.start, item.end, num_frames


def _row(item: Item, out: Path) -> dict[str, Any]:
    """As the source has it; a file in the folder of `out` is named from there, so that they can be moved together."""
    path, folder = item.path.absolute(), out.absolute().parent
    place = item.origin or (os.path.relpath(path, folder) if path.is_relative_to(folder) else str(path))
    captions: Any = list(item.captions) if len(item.captions) > 1 else "".join(item.captions)
    span = {} if item.end is None and not item.start else {"start": item.start, "end": item.end}
    row = {"file": place, "caption": captions} | {name: value for name, value in span.items() if value is not None}
    return row | {name: value for name, value in item.attributes.items() if name not in row}


def _together(first: str | list[str], second: str | list[str]) -> str | list[str]:
    both = [one for part in (first, second) for one in ([part] if isinstance(part, str) else part) if one]
    said = list(dict.fromkeys(both))
    return said if len(said) > 1 else "".join(said)


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["file"], row.get("start", 0.0), row.get("end")


def _known(out: Path, source: str, wanted: Mapping[Any, dict[str, Any]], captioner: str) -> set[tuple[Any, ...]]:
    """The clips that `out` has rows of; a last line that was not written to its end is taken away."""
    if out.suffix != ".jsonl":
        raise ValueError(f"{out}: name a .jsonl file, a row a clip")
    if out.exists() and out.resolve() == Path(source).resolve():
        raise ValueError(f"{out}: is the source, which stays as it is: name another file")
    if not out.exists():
        return set()
    text = out.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    known = set()
    for number, row in _rows(whole, out):
        if _key(row) not in wanted:
            raise ValueError(f"{out}:{number}: {row['file']} is no clip of {source}: name another file")
        if not wanted[_key(row)]["caption"] and row.get("captioner", captioner) != captioner:
            raise ValueError(f"{out}:{number}: was captioned by {row['captioner']}, not {captioner}: name another file")
        known.add(_key(row))
    if whole != text:
        with writing(out), out.open("rb+") as file:
            file.truncate(len(whole))
    return known


def _rows(text: bytes, out: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.splitlines(), start=1):  # of bytes: at line feeds alone
        try:
            row = json.loads(line)
            row["file"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{out}:{number}: is no row of such a file ({error}): name another file") from error
        yield number, row
