"""VBench's aesthetic quality: LAION's linear score on CLIP's features of each frame (vbench/aesthetic_quality.py)."""

from __future__ import annotations

import os
from pickle import UnpicklingError

import numpy as np
import torch
from torch import nn

from videodit.evaluation.measure.features import FrameFeatures
from videodit.evaluation.measure.weights import MissingWeightsError, Source, one_line
from videodit.weights import state_hash

AESTHETIC_FILE = "sa_0_4_vit_l_14_linear.pth"
AESTHETIC_CLIP = "openai/clip-vit-large-patch14"


class Aesthetic:
    """A score of each frame: call it with frames (uint8 n h w 3) for a tenth of the linear score, float32 n 1.

    Args:
        clip: as VBench prepares its frames; the head was trained on OpenAI's ViT-L/14.
        head: of `clip.width` features, which are scaled to length 1 before.
    """

    def __init__(self, clip: FrameFeatures, head: nn.Linear):
        self.name = f"{clip.name}+linear"
        self.hash = f"{clip.hash}+{state_hash(head.state_dict())}"
        self.preprocessing = clip.preprocessing
        self._clip, self._head = clip, head

    @torch.inference_mode()
    def __call__(self, frames: np.ndarray) -> np.ndarray:
        features = nn.functional.normalize(torch.from_numpy(self._clip(frames)), dim=-1)
        return (self._head(features) / 10).numpy()


def load_aesthetic(path: Source, clip: FrameFeatures | None) -> Aesthetic:
    """The head from its file, on the CLIP that is there already.

    Raises MissingWeightsError for no CLIP or one of another width, no such file, or one of another model; says which.
    """
    how = f"give {AESTHETIC_FILE} of github.com/LAION-AI/aesthetic-predictor, and --clip {AESTHETIC_CLIP}"
    if clip is None:
        raise MissingWeightsError(f"aesthetic quality scores CLIP's features, and there is no CLIP; {how}")
    head = nn.Linear(clip.width, 1)
    try:
        head.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except (OSError, RuntimeError, UnpicklingError, TypeError, AttributeError, EOFError) as error:
        raise MissingWeightsError(f"aesthetic head from {os.fspath(path)}: {one_line(error)}; {how}") from error
    return Aesthetic(clip, head.eval())
