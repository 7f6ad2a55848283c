"""Pictures of maps: a clip a word, and a sheet of all."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import interpolate

from videodit.attention_maps.maps import WordMap
from videodit.disk import held, replace_text, scratch_beside
from videodit.video import contact_sheet, write_video

ATTENTION = ".attention"  # of the folder beside a clip
INDEX = "maps.json"
SIDE = 256  # pixels that the smaller side of an overlay has at least
COLUMNS = 6  # frames a word on the sheet
# from nothing to most, in even steps that grow ever brighter
RAMP = np.array([(0, 0, 0), (60, 15, 110), (165, 40, 100), (235, 100, 45), (252, 180, 35), (252, 250, 165)])


def overlay(frames: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """A clip under a map: uint8 f h w c, gray and dim where the map is at its lowest, bright where at its highest.

    Args:
        frames: uint8 f h w c. shares: f h w, any finite numbers.
    """
    low, high = float(shares.min()), float(shares.max())
    heat = (shares - low) / (high - low) if high > low else np.zeros_like(shares)
    steps = np.linspace(0, 1, len(RAMP))
    colour = np.stack([np.interp(heat, steps, RAMP[:, channel]) for channel in range(3)], axis=-1)
    gray = frames @ np.array([0.299, 0.587, 0.114])
    cover = np.clip(1.6 * heat, 0, 0.65)[..., None]
    return np.rint((1 - cover) * 0.8 * gray[..., None] + cover * colour).clip(0, 255).astype(np.uint8)


def write_overlays(folder: Path, frames: np.ndarray, words: Sequence[WordMap], fps: float) -> Path:
    """Writes `00_word.mp4` and so on (of an image .png), `sheet.png`, and `maps.json`, which says what is in them.

    Args:
        folder: made anew in place of an earlier one. frames: uint8 f h w c.

    Raises:
        ValueError: the folder is there, and is none of these.
    """
    check_replaceable(folder)
    factor = -(-SIDE // min(frames.shape[1:3]))
    height, width = (factor * side for side in frames.shape[1:3])
    pixels = torch.from_numpy(frames).movedim(-1, 1).float()
    large = interpolate(pixels, (height, width), mode="bicubic").round().clamp(0, 255).byte().movedim(1, -1).numpy()
    scratch = scratch_beside(folder)
    try:
        with held(scratch, is_folder=True):
            rows, labels, index = [large], ["the clip"], []
            for number, word in enumerate(words):
                shown = overlay(large, word.over(height, width))
                plain = re.sub(r"[^\w-]", "", word.text)[:40]
                name = f"{number:02}_{plain}{'.mp4' if len(frames) > 1 else '.png'}"
                write_video(scratch / name, shown, fps)
                mean, most = float(word.places.mean()), float(word.places.max())
                index.append({"word": word.text, "file": name, "mean": mean, "most": most})
                rows.append(shown)
                labels.append(f"{word.text}: {100 * mean:.1f} % of the attention, {100 * most:.1f} % where most")
            contact_sheet(rows, scratch / "sheet.png", labels=labels, columns=COLUMNS)
            replace_text(scratch / INDEX, json.dumps(index, indent=1, ensure_ascii=False) + "\n")
            if folder.exists():
                shutil.rmtree(folder)
            scratch.replace(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def check_replaceable(folder: Path) -> None:
    """ValueError where something else than an earlier folder of overlays is there."""
    if folder.exists() and not (folder / INDEX).is_file():
        raise ValueError(f"{folder}: is there already, and holds no attention maps; move it, or give another --out")
