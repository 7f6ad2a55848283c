"""Retrieval: is a prompt's clip found among all clips, and a clip's prompt among all prompts?

By cosines of features of one space, CLIP's. A clip is the mean of its frames' features of length 1 (CLIP4Clip's mean
pooling, Luo et al. 2021, arXiv 2104.08860). What is equally near counts as nearer, so that a model whose clips are all
alike finds nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from videodit.evaluation.measure.feature_metrics import RECALL_AT
from videodit.evaluation.report.results import Score

PREFIXES = ("clip_text_to_video_r", "clip_video_to_text_r")


def ranks(videos: np.ndarray, texts: np.ndarray, asked: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Of each clip: at which place its prompt finds one of its own clips, and it its prompt; 1 is the first.

    videos: n d, texts: m d, of any lengths. asked: of each clip its prompt, n numbers below m. A prompt's other clips
    neither help nor hinder it.
    """
    videos, texts = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (videos, texts))
    near = texts @ videos.T  # m n
    own = np.arange(len(texts))[:, None] == np.asarray(asked)  # m n
    best = np.where(own, near, -np.inf).max(axis=1, keepdims=True)
    by_text = 1 + ((near >= best) & ~own).sum(axis=1)
    mine = near[asked, np.arange(len(asked))]
    return by_text[asked], ((near >= mine).sum(axis=0))


def recalls(videos: Sequence[np.ndarray], texts: np.ndarray, asked: Sequence[int]) -> list[dict[str, Score]]:
    """Of each clip its scores by name; none where a guess would be right too."""
    found = dict(zip(PREFIXES, ranks(np.stack(videos), texts, asked), strict=True))
    others = dict(zip(PREFIXES, (len(videos), len(texts)), strict=True))
    return [
        {
            f"{prefix}{k}": _score(int(places[at]), k, others[prefix])
            for prefix, places in found.items()
            for k in RECALL_AT
        }
        for at in range(len(videos))
    ]


def _score(place: int, k: int, among: int) -> Score:
    if among <= k:
        return Score(value=None, why=f"there are {among} to find it among: more than {k} are needed")
    return Score(value=float(place <= k))
