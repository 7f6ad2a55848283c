"""VBench (Huang et al. 2024, arXiv 2311.17982): its preprocessing, its mean over clips, and its file of results.

Read from its code (github.com/Vchitect/VBench, vbench/utils.py, subject_consistency.py, background_consistency.py,
temporal_flickering.py). What one would not guess:

- all frames are used, at their own rate and size; they become floats of 0 to 255 before they are resized, so nothing is
  rounded or clamped, and the resize does not antialias;
- DINO sees whole frames, their short side 224 and the rest as it comes; CLIP sees the middle square;
- features are those of DINO's class token, and of CLIP's projection; the variant is first+prev;
- the number of a set weighs each step from frame to frame alike, so a long clip counts more; but run on several GPUs,
  VBench weighs clips alike for subject consistency, and still steps for background consistency;
- on a GPU its CLIP runs in half precision, which moves single cosines by about 1e-3; here all is float32;
- temporal flickering is meant for clips of static scenes, and still clips are in every mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import interpolate

from videodit.evaluation.report.results import Protocol, Results

CLIP_PREPROCESSING = "VBench: short side 224 bicubic no-antialias, center-crop 224x224"
DINO_PREPROCESSING = "VBench: short side 224 bilinear no-antialias"
SIDE = 224
CLIP_NORM = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
DINO_NORM = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Videos = list[dict[str, Any]]


def clip_pixels(frames: np.ndarray) -> Tensor:
    """Frames (uint8 n h w 3) as VBench's background consistency feeds them to CLIP: float32 n 3 224 224."""
    return torch.stack([_normalized(_middle(_short_side(frame, "bicubic")), CLIP_NORM) for frame in frames])


def dino_pixels(frames: np.ndarray) -> Tensor:
    """Frames (uint8 n h w 3) as VBench's subject consistency feeds them to DINO: float32 n 3 h w, min(h, w) = 224."""
    return torch.stack([_normalized(_short_side(frame, "bilinear"), DINO_NORM) for frame in frames])


def dino_positions(table: Tensor, rows: int, columns: int) -> Tensor:
    """The position table (1 1+s d, s a square) for rows x columns patches, as facebookresearch/dino resizes it.

    It resizes by (rows + 0.1) / side, to be safe from rounding, and so samples at slightly other places than a resize
    to `rows` does, as transformers has it.
    """
    first, places = table[:, :1], table[:, 1:]
    side = round(places.shape[1] ** 0.5)
    if (rows, columns) == (side, side):
        return table
    resized = interpolate(
        rearrange(places, "1 (y x) d -> 1 d y x", y=side),
        scale_factor=((rows + 0.1) / side, (columns + 0.1) / side),
        mode="bicubic",
        align_corners=False,
    )
    return torch.cat([first, rearrange(resized, "1 d y x -> 1 (y x) d")], dim=1)


def vbench_mean(values: Iterable[float], steps: Iterable[int]) -> float:
    """VBench's number for a set, from each clip's value and its number of steps, frames less one: steps weigh alike."""
    weights = np.array(list(steps), dtype=np.float64)
    found = np.array(list(values), dtype=np.float64)
    if found.shape != weights.shape or not weights.sum() > 0:
        raise ValueError(f"{len(found)} values and {len(weights)} numbers of steps, {weights.sum():g} steps in all")
    return float((found * weights).sum() / weights.sum())


def to_vbench(results: Results) -> tuple[dict[str, list[Any]], list[str]]:
    """The results in VBench's format, `<name>_eval_results.json`, and why anything is not in them.

    {dimension: [number, [{"video_path": ..., "video_results": value}, ...]]}, for the dimensions that were measured as
    VBench does. Its numbers may differ from our summaries: VBench weighs steps alike and leaves no still clip out.

    Returns:
        The content of the file, ready for json.dump; and a line for each dimension and each clip that is left out.
    """
    found: dict[str, list[Any]] = {}
    left_out: list[str] = []
    for dimension, (metric, wrong) in _DIMENSIONS.items():
        summary = results.summaries.get(metric)
        if summary is None or summary.status == "skipped":
            left_out.append(f"{dimension}: {metric} was {f'skipped: {summary.why}' if summary else 'not asked for'}")
            continue
        reason = wrong(summary.protocol)
        if reason:
            left_out.append(f"{dimension}: not measured as VBench does: {reason}")
            continue
        videos, steps, missing = _videos(results, metric)
        left_out += [f"{dimension}: {line}" for line in missing]
        if videos:
            weights = [1] * len(videos) if metric == "temporal_flickering" else steps
            found[dimension] = [vbench_mean((video["video_results"] for video in videos), weights), videos]
    left_out += [f"all: {failure.name} is left out: {failure.why}" for failure in results.failures]
    return found, left_out


def _videos(results: Results, metric: str) -> tuple[Videos, list[int], list[str]]:
    """Each clip with a value, how many steps it has, and a line for each clip without."""
    videos: Videos = []
    steps: list[int] = []
    missing = []
    for clip in results.clips:
        score = clip.scores.get(metric)
        if score is None or score.value is None:
            missing.append(f"{clip.name} has no value: {score.why if score else 'not measured'}")
            continue
        videos.append({"video_path": clip.path or clip.name, "video_results": score.value})
        steps.append(clip.num_frames - 1)
    return videos, steps, missing


def _not_all_frames(protocol: Protocol) -> str:
    return "" if protocol.sampling == "all" else f"on frames '{protocol.sampling}', not on all"


def _not_by(model: str, preprocessing: str) -> Callable[[Protocol], str]:
    def reason(protocol: Protocol) -> str:
        if protocol.features != model:
            return f"by {protocol.features!r}; VBench's is {model!r}, and a folder with its weights is to be named so"
        if protocol.preprocessing != preprocessing:
            return f"on frames of {protocol.preprocessing!r}, not of {preprocessing!r}"
        return _not_all_frames(protocol)

    return reason


def _not_native(protocol: Protocol) -> str:
    if protocol.preprocessing != "native":
        return f"on frames of {protocol.preprocessing!r}, not at native size"
    return _not_all_frames(protocol)


_DIMENSIONS: dict[str, tuple[str, Callable[[Protocol], str]]] = {
    "subject_consistency": ("vbench_subject_consistency", _not_by("dino-vitb16", DINO_PREPROCESSING)),
    "background_consistency": ("vbench_background_consistency", _not_by("clip-vit-base-patch32", CLIP_PREPROCESSING)),
    "temporal_flickering": ("temporal_flickering", _not_native),
}


def _short_side(frame: np.ndarray, mode: str) -> Tensor:
    """uint8 h w 3 to float32 3 h w in 0 to 255, the short side 224, the long one rounded down."""
    height, width = frame.shape[:2]
    short = min(height, width)
    size = (SIDE * height // short, SIDE * width // short)
    image = rearrange(torch.from_numpy(np.ascontiguousarray(frame)), "h w c -> 1 c h w").float()
    return interpolate(image, size=size, mode=mode, align_corners=False)[0]


def _middle(image: Tensor) -> Tensor:
    """The middle 224 x 224 of c h w; halves of a pixel go to the even side, as torchvision's round does."""
    top, left = (round((length - SIDE) / 2) for length in image.shape[1:])
    return image[:, top : top + SIDE, left : left + SIDE]


def _normalized(image: Tensor, norm: tuple[tuple[float, ...], tuple[float, ...]]) -> Tensor:
    """c h w in 0 to 255, less the mean and by the deviation of values in 0 to 1."""
    mean, deviation = (rearrange(torch.tensor(values), "c -> c 1 1") for values in norm)
    return (image / 255 - mean) / deviation
