"""What files say to a model besides frames: states of an encoder of one's own, rows of a sound; each made once.

They lie in a folder a maker beside the latents, by the hash of the file that they are of. A file that cannot be read
leaves why in its place, and is not opened again until it changes or that note is taken away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from videodit.codec.sounds import SOUNDS, sound_rows
from videodit.codec.states import states_encoder
from videodit.data.clips import Clips
from videodit.data.store import CacheError, shared
from videodit.disk import replace_text, whole, writing
from videodit.geometry import SOUND_RATE
from videodit.models import Condition
from videodit.video import VideoError, read_frames
from videodit.video.sound import read_sound


def is_made(one: Condition) -> bool:
    """Whether it is made of files, rather than held by them."""
    return one.of in SOUNDS or bool(one.encoder)


def made_of_files(clips: Clips, indices: Iterable[int], one: Condition, folder: Path) -> dict[int, Path]:
    """Where the states, or rows, of each clip's file are, for `rows_in`; what is not there is made.

    Under `torchrun` or `accelerate launch` each process makes its share. Clips whose file cannot be read are counted
    and named in `clips.skips`.

    Raises:
        ValueError: an encoder whose states have another width than the condition; VideoError: too many files are bad.
    """
    folder, read, make = _maker(one, folder)
    files: dict[int, tuple[Path, Path]] = {}
    for index in dict.fromkeys(indices):
        file, content, _ = clips.source.file(index, one)
        files[index] = file, folder / f"{content}.safetensors"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    state = PartialState(cpu=not torch.accelerator.is_available())
    todo = {target: file for file, target in files.values() if not (target.exists() or _why(target).exists())}
    share = shared(list(todo.items()), state)
    results = zip(share, clips.source.call(read[0], ([file, *read[1]] for _, file in share)), strict=True)
    for (target, _), found in tqdm(
        results, total=len(share), desc=f"reading {one.name}", disable=not share or not state.is_main_process
    ):
        try:
            rows = found if isinstance(found, VideoError) else make(found)
        except VideoError as error:  # of what its encoder cannot take
            rows = error
        if isinstance(rows, VideoError):
            replace_text(_why(target), str(rows))
        else:
            with whole(target) as scratch:
                save_file({"states": rows}, scratch)
    state.wait_for_everyone()
    for index, (file, target) in files.items():
        if target.exists() or index in clips.skips:
            continue
        if not _why(target).exists():
            raise CacheError(f"{target}: is not here, though {file} was read: all processes must see the same folder")
        clips.skip(index, f"{one.name}: {_why(target).read_text()} (noted in {_why(target)}; delete it to try again)")
    return {index: target for index, (_, target) in files.items()}


def rows_in(file: Path) -> Tensor:
    """Of a file that was made."""
    return load_file(file)["states"]


def _why(target: Path) -> Path:
    return target.with_suffix(".txt")


Read = tuple[Callable[..., Any], Sequence[Any]]  # what a process apart does, and what it is told beside the file


def _maker(one: Condition, folder: Path) -> tuple[Path, Read, Callable[[Any], Tensor]]:
    if one.of in SOUNDS:

        def heard(samples: Any) -> Tensor:
            return torch.from_numpy(sound_rows(samples, one.of, one.width))

        return folder / f"{one.of}-{one.width}", (read_sound, [SOUND_RATE]), heard
    encoder = states_encoder(one.encoder)

    def encoded(read: Any) -> Tensor:
        if why := encoder.too_long(read):
            raise VideoError(why)
        states = encoder(read if encoder.rate else read[0])
        if states.shape[1] != one.width:
            raise ValueError(
                f"model.conditions.{one.name}: {one.encoder} gives states of {states.shape[1]} numbers: "
                f"width: {states.shape[1]}"
            )
        return states

    read: Read = (read_frames, [[0.0]]) if encoder.rate is None else (read_sound, [encoder.rate])
    return folder / f"states-{encoder.fingerprint()[:12]}", read, encoded
