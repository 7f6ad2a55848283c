"""What a model was shown, as its text encoder sees it: so that a prompt far from all of it is told, with what is near.

An encoder that was trained on much more than the captions gives states for any words, and a small model makes a clip of
any states: nothing says that it never saw such a thing. Here a caption is the mean of its states, less the mean of all
captions (states of most encoders lie in a narrow cone), and near is what the cosine says. How near captions are that
share few words is measured on the captions themselves: a prompt is far that is farther from all than 19 of 20 captions
are from their nearest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from torch import Tensor, nn

from videodit.text.states import TextStates

MOST = 4096  # captions that are kept, the shortest: each shows one thing
KIN = 1 / 3  # captions that share more of their words than this say the same
FAR = 0.05  # the share of captions that are farther from all others
BATCH = 32


class LearnedCaptions(ModelMixin, ConfigMixin):
    """Captions (n) and their directions (n e, in bytes), a part of a pipeline that is saved and loaded with the others.

    Args:
        captions: in the order of the vectors.
        width: e of the encoder.
        far: the cosine below which nothing is near; -1 where too few captions say so.
    """

    @register_to_config
    def __init__(self, captions: list[str], width: int, far: float = -1.0):
        super().__init__()
        self.vectors = nn.Parameter(torch.zeros(len(captions), width, dtype=torch.int8), requires_grad=False)
        self.middle = nn.Parameter(torch.zeros(width), requires_grad=False)

    @classmethod
    def of(cls, captions: Iterable[str], encode: Callable[[list[str]], TextStates]) -> LearnedCaptions:
        """Of captions, those that are empty left out, and what encodes them."""
        kept = sorted({one for one in captions if one.strip()}, key=lambda one: (len(one.split()), one))[:MOST]
        means = torch.cat([_means(encode(kept[i : i + BATCH])) for i in range(0, len(kept), BATCH)])
        middle = means.mean(dim=0)
        vectors = nn.functional.normalize(means - middle, dim=1)
        learned = cls(kept, means.shape[1], _far(kept, vectors))
        learned.vectors.data, learned.middle.data = _in_bytes(vectors), middle
        return learned

    def nearest(self, text: TextStates, most: int = 3) -> list[list[str]]:
        """Of each prompt that is far from all captions, the nearest of these; of the others none."""
        vectors = nn.functional.normalize(_means(text).to(self.middle) - self.middle, dim=1).float()
        known = nn.functional.normalize(self.vectors.float(), dim=1)
        found = (vectors @ known.T).topk(min(most, len(known)), dim=1)
        captions = self.config["captions"]
        return [
            [captions[i] for i in near] if cosines[0] < self.config["far"] else []
            for cosines, near in zip(found.values.tolist(), found.indices.tolist(), strict=True)
        ]


def _means(text: TextStates) -> Tensor:
    """The mean of each prompt's states, b e."""
    return text.states.float().sum(dim=1) / text.mask.sum(dim=1, keepdim=True)


def _in_bytes(vectors: Tensor) -> Tensor:
    """Their directions, int8: the largest number of each is 127."""
    return (127 * vectors / vectors.abs().amax(dim=1, keepdim=True).clamp(min=1e-12)).round().to(torch.int8)


def _far(captions: list[str], vectors: Tensor) -> float:
    """The cosine of which all but `FAR` of the captions have another one near that is not said in the same words."""
    words = [frozenset(caption.lower().replace(",", " ").split()) for caption in captions]
    best = []
    for number in range(0, len(captions), max(1, len(captions) // 1024)):
        cosines, order = (vectors @ vectors[number]).sort(descending=True)
        for cosine, other in zip(cosines.tolist(), order.tolist(), strict=True):
            if len(words[number] & words[other]) <= KIN * len(words[number] | words[other]):
                best.append(cosine)
                break
    return float(torch.tensor(best).quantile(FAR)) if best else -1.0
