"""What an evaluation measures: which measures were asked for, by which networks, and why some cannot be taken."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from videodit.evaluation.measure.clip_features import (
    I3D_FILE,
    VIDEOMAE_SOURCE,
    ClipFeatures,
    PixelFeatures,
    load_i3d,
    load_videomae,
)
from videodit.evaluation.measure.features import (
    CLIP_SOURCE,
    DINO_SOURCE,
    FEATURE_METRICS,
    FrameFeatures,
    load_clip,
    load_dino,
)
from videodit.evaluation.measure.flow import DIS, Flow
from videodit.evaluation.measure.measures import MEASURES, PAIRED
from videodit.evaluation.measure.perceptual import load_lpips, load_raft
from videodit.evaluation.measure.streaming import Measure
from videodit.evaluation.report.results import Metric

ALWAYS = ("change_per_second", "frozen_share")  # motion stands beside everything else
HOW = {
    "clip": f"give --clip with a hub name or folder, as {CLIP_SOURCE}",
    "dino": f"give --dino with a hub name or folder, as {DINO_SOURCE}",
    "videomae": f"give --videomae with a hub name or folder, as {VIDEOMAE_SOURCE}",
    "i3d": f"give --i3d with the file {I3D_FILE}",
    "lpips": "give --lpips; pip install lpips torchvision",
}
PACKAGES = {"cv2": "opencv-python-headless", "scenedetect": "scenedetect-headless"}

_FRECHET = "Squared Fréchet distance between Gaussians fitted to the features of both sets (Heusel et al. 2017), on "
_MMD = "Unbiased squared MMD with the kernel (x.y/d + 1)^3 (Binkowski et al. 2018), on "
_SETS = {
    "pixels": "luma averaged over 8x8 boxes at 8 frames",
    "videomae": "VideoMAE's mean hidden state",
    "i3d": "the logits of I3D on Kinetics-400 (Unterthiner et al. 2018)",
}


@dataclass(frozen=True)
class Extractors:
    """Networks to measure with. What is None is not to be had; `missing` may say why, by the same names.

    `clip` and `dino` look at frames as their own processor prepares them, `vbench_clip` and `vbench_dino` as VBench
    does; `videomae` and `i3d` make a vector of a whole clip; `lpips` compares two frames; `flow` finds motion.
    """

    clip: Any = None
    dino: FrameFeatures | None = None
    vbench_clip: FrameFeatures | None = None
    vbench_dino: FrameFeatures | None = None
    videomae: ClipFeatures | None = None
    i3d: ClipFeatures | None = None
    lpips: Any = None
    flow: Flow = DIS
    pixels: ClipFeatures = field(default_factory=PixelFeatures)
    missing: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def load(
        cls,
        *,
        clip: str | None = None,
        dino: str | None = None,
        videomae: str | None = None,
        i3d: str | None = None,
        i3d_frames: int = 16,
        lpips: bool = False,
        raft: str | None = None,
    ) -> Extractors:
        """Those that are named: `clip`, `dino` and `videomae` by hub name or folder, `i3d` and `raft` by file; of a
        clip, I3D reads the first `i3d_frames`.

        What cannot be had is in `missing`, with the reason. Raises MissingWeightsError for `raft`, in whose place no
        other flow may stand.
        """
        found: dict[str, Any] = {}
        missing: dict[str, str] = {}
        loaders: dict[str, tuple[Any, Callable[[], Any]]] = {
            "clip": (clip, lambda: load_clip(str(clip))),
            "vbench_clip": (clip, lambda: load_clip(str(clip), "vbench")),
            "dino": (dino, lambda: load_dino(str(dino))),
            "vbench_dino": (dino, lambda: load_dino(str(dino), "vbench")),
            "videomae": (videomae, lambda: load_videomae(str(videomae))),
            "i3d": (i3d, lambda: load_i3d(str(i3d), i3d_frames)),
            "lpips": (lpips, load_lpips),
        }
        for name, (source, load) in loaders.items():
            if source:
                try:
                    found[name] = load()
                except ValueError as error:  # MissingWeightsError, or a model that VBench's rules do not fit
                    missing[name] = str(error)
        return cls(**found, flow=load_raft(raft) if raft else DIS, missing=missing)


def _distance(name: str, title: str, definition: str, extractor: str) -> Metric:
    needs = "" if extractor == "pixels" else f"{extractor} weights"
    variant = "polynomial kernel, unbiased" if name.startswith("mmd") else ""
    return Metric(name=name, title=title, definition=definition, better="lower", variant=variant, needs=needs)


# Only I3D's is called FVD.
DISTANCES: dict[str, tuple[str, Metric]] = {
    name: (extractor, _distance(name, title, rule + _SETS[extractor], extractor))
    for name, title, rule, extractor in (
        ("fd_pixels_8x8x8", "Fréchet distance on pixels 8x8x8", _FRECHET, "pixels"),
        ("mmd_pixels_8x8x8", "MMD on pixels 8x8x8", _MMD, "pixels"),
        ("fd_videomae", "Fréchet distance on VideoMAE", _FRECHET, "videomae"),
        ("mmd_videomae", "MMD on VideoMAE", _MMD, "videomae"),
        ("fvd", "FVD", _FRECHET, "i3d"),
        ("mmd_i3d", "MMD on I3D", _MMD, "i3d"),
    )
}


def all_metrics() -> dict[str, Metric]:
    """Every measure by its name, whether or not it can be taken here."""
    of_pixels = {name: measure.metric for name, measure in MEASURES.items()}
    of_pairs = {name: measure.metric for name, measure in PAIRED.items()}
    return of_pixels | FEATURE_METRICS | of_pairs | {name: metric for name, (_, metric) in DISTANCES.items()}


def extractor_of(name: str) -> str:
    """Which of the `Extractors` a measure of `FEATURE_METRICS`, or a distance, is taken with."""
    if name in DISTANCES:
        return DISTANCES[name][0]
    if name == "vbench_subject_consistency":
        return "vbench_dino"
    return "vbench_clip" if name == "vbench_background_consistency" else name.split("_")[0]


def needs_reference(name: str) -> bool:
    return name in PAIRED or name in DISTANCES or name == "lpips_paired"


class Plan:
    """The measures to take, by how they are taken; `why_not` tells of those that cannot be.

    Args:
        patterns: names or patterns such as "*consistency*"; None: all that the extractors and a reference allow.
        extractors: networks that there are.
        has_reference: whether there are clips to compare with.

    Raises:
        ValueError: a pattern that no measure fits.
    """

    def __init__(self, patterns: Sequence[str] | None, extractors: Extractors, has_reference: bool):
        self.extractors, self.has_reference = extractors, has_reference
        known = all_metrics()
        self.metrics = {name: known[name] for name in self._chosen(patterns, list(known))}
        self.why_not = {name: why for name in self.metrics if (why := self._why_not(name))}
        taken = [name for name in self.metrics if name not in self.why_not]
        self.streaming: dict[str, Measure] = {name: MEASURES[name] for name in taken if name in MEASURES}
        self.paired: dict[str, Measure] = {name: PAIRED[name] for name in taken if name in PAIRED}
        self.on_frames = [name for name in taken if name in FEATURE_METRICS and not name.startswith("lpips")]
        self.distances = {name: DISTANCES[name][0] for name in taken if name in DISTANCES}
        if "lpips_temporal" in taken:
            self.streaming["lpips_temporal"] = extractors.lpips.temporal
        if "lpips_paired" in taken:
            self.paired["lpips_paired"] = extractors.lpips.paired

    def _chosen(self, patterns: Sequence[str] | None, known: list[str]) -> list[str]:
        if patterns is None:
            return [name for name in known if name in MEASURES or not self._why_not(name) or self._was_named(name)]
        chosen = set(ALWAYS)
        for pattern in patterns:
            fitting = fnmatch.filter(known, pattern)
            if not fitting:
                near = difflib.get_close_matches(pattern, known, n=3) or known
                raise ValueError(f"there is no measure {pattern!r}; there is {', '.join(near)}")
            chosen |= set(fitting)
        return [name for name in known if name in chosen]

    def _was_named(self, name: str) -> bool:
        """Whether the weights of a measure were asked for, and are missing."""
        if name not in FEATURE_METRICS and name not in DISTANCES:
            return False
        missing = extractor_of(name) in self.extractors.missing
        return missing and (self.has_reference or not needs_reference(name))

    def _why_not(self, name: str) -> str:
        if needs_reference(name) and not self.has_reference:
            return "there is nothing to compare with: give --reference"
        package = all_metrics()[name].needs
        if package in PACKAGES and find_spec(package) is None:
            return f'{PACKAGES[package]} is not installed: pip install "videodit[evaluation]"'
        if name in FEATURE_METRICS or name in DISTANCES:
            which = extractor_of(name)
            if getattr(self.extractors, which) is None:
                kind = which.removeprefix("vbench_")
                return self.extractors.missing.get(which, f"no weights: {HOW[kind]}")
        return ""
