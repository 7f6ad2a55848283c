"""What a model was shown, as its text encoder sees it: new words are read as what is near, and far prompts are told.

An encoder that was trained on much more than the captions gives states for any words, and a small model makes a clip of
any states: nothing says that it never saw such a thing. Here a caption is the mean of its states, less the mean of all
captions (states of most encoders lie in a narrow cone), and near is what the cosine says. How near captions are that
share few words is measured on the captions themselves: a prompt is far that is farther from all than 19 of 20 captions
are from their nearest.

A word that no caption has says little to a model, whatever its encoder knows of it. So such a word, with as many of
those beside it as belong to it, is read as the caption that is nearest: "kitten on a pink background" as "cat on a pink
background".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from re import Match
from typing import Any

import torch
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from torch import Tensor, nn

from videodit.text.states import TextStates
from videodit.text.words import WORD, words_in

MOST = 4096  # captions that are kept, the shortest: each shows one thing
KIN = 1 / 3  # captions that share more of their words than this say the same
FAR = 0.05  # the share of captions that are farther from all others
COMMON = 0.2  # words of more captions than these belong to no thing: "on", "background"
SPAN = 6  # words that are read as one thing, at most
LONGER = 2  # words that a caption may have more than what is read as it
BATCH = 32

Encode = Callable[[list[str]], TextStates]


@dataclass(frozen=True)
class Reading:
    """A prompt in words that were shown, and what was read otherwise than it is written: as written, as read."""

    prompt: str
    otherwise: tuple[tuple[str, str], ...] = ()


class LearnedCaptions(ModelMixin, ConfigMixin):
    """Captions (n) and their directions (n e, in bytes), a part of a pipeline that is saved and loaded with the others.

    Args:
        captions: in the order of the vectors.
        width: e of the encoder.
        far: the cosine below which nothing is near; -1 where too few captions say so.
        words: all that the model was shown, in lower case, the most frequent first; None: it knows others too.
        common: how many of these are in more than a fifth of the captions.
    """

    @register_to_config
    def __init__(
        self, captions: list[str], width: int, far: float = -1.0, words: list[str] | None = None, common: int = 0
    ):
        super().__init__()
        self.vectors = nn.Parameter(torch.zeros(len(captions), width, dtype=torch.int8), requires_grad=False)
        self.middle = nn.Parameter(torch.zeros(width), requires_grad=False)

    @classmethod
    def of(
        cls, captions: Iterable[str], encode: Encode, before: LearnedCaptions | None = None, *, more: bool = False
    ) -> LearnedCaptions:
        """Of captions, those that are empty left out, and what encodes them.

        Args:
            before: of the model that these train on, by the same encoder; its captions stay.
            more: it was shown others besides, and nobody knows which: no word is new then.
        """
        old: Any = before.config if before else {"captions": [], "words": [], "common": 0}
        said = {one for one in captions if one.strip()}.difference(old["captions"])
        if before is not None and not said:
            return before
        kept = sorted(said, key=lambda one: (len(one.split()), one))[:MOST]
        means = torch.cat([_means(encode(kept[i : i + BATCH])) for i in range(0, len(kept), BATCH)])
        middle = before.middle.to(means) if before else means.mean(dim=0)
        vectors = nn.functional.normalize(means - middle, dim=1)
        counts = Counter(word for one in sorted(said) for word in sorted(set(words_in(one))))
        words = list(dict.fromkeys([*(old["words"] or ()), *(word for word, _ in counts.most_common())]))
        learned = cls(
            [*old["captions"], *kept],
            means.shape[1],
            before.config["far"] if before else _far(kept, vectors),
            None if more else words,
            old["common"] if before else sum(count > COMMON * len(said) for count in counts.values()),
        )
        vectors = _in_bytes(vectors)
        learned.vectors.data = torch.cat([before.vectors.to(vectors), vectors]) if before else vectors
        learned.middle.data = middle
        return learned

    def nearest(self, text: TextStates, most: int = 3) -> list[list[str]]:
        """Of each prompt that is far from all captions, the nearest of these; of the others none."""
        found = (cosines := self._cosines(text)).topk(min(most, cosines.shape[1]), dim=1)
        captions = self.config["captions"]
        return [
            [captions[i] for i in near] if cosines[0] < self.config["far"] else []
            for cosines, near in zip(found.values.tolist(), found.indices.tolist(), strict=True)
        ]

    def read(self, prompt: str, encode: Encode) -> Reading:
        """The prompt with each new word, and what belongs to it, read as the nearest caption; what is far, as written.

        A caption is taken without the common words before it, and only if it has no others and few more words than what
        is read as it: it names a thing, and does not tell of a scene.
        """
        if self.config["words"] is None or self.config["far"] == -1:
            return Reading(prompt)
        known, common = set(self.config["words"]), set(self.config["words"][: self.config["common"]])
        words = list(WORD.finditer(prompt))
        new = [word.group().lower() not in known for word in words]
        parts, otherwise, done, end = [], [], 0, 0  # of words and of letters that are read
        for number in range(len(words)):
            if number < done or not new[number]:
                continue
            spans = list(_spans(prompt, words, new, number, done, common))
            if (found := self._named([text for text, _ in spans], encode, common)) is None:
                continue
            (text, last), thing = spans[found[0]], found[1]
            parts += [prompt[end : words[last].end() - len(text)], thing]
            otherwise.append((text, thing))
            done, end = last + 1, words[last].end()
        return Reading("".join([*parts, prompt[end:]]), tuple(otherwise))

    def _named(self, texts: list[str], encode: Encode, common: set[str]) -> tuple[int, str] | None:
        """Which of these texts is nearest to a thing that was shown, and which; None: all are far."""
        things = [_thing(caption, common) for caption in self.config["captions"]]
        lengths = torch.tensor([len(words_in(thing)) for thing in things])
        room = torch.tensor([len(words_in(text)) + LONGER for text in texts])
        cosines = self._cosines(encode(texts)).cpu()
        cosines[(lengths == 0) | (lengths > room[:, None])] = -2
        text, thing = divmod(int(cosines.argmax()), len(things))
        return (text, things[thing]) if cosines[text, thing] >= self.config["far"] else None

    def _cosines(self, text: TextStates) -> Tensor:
        """Of prompts to all captions, b n."""
        vectors = nn.functional.normalize(_means(text).to(self.middle) - self.middle, dim=1).float()
        return vectors @ nn.functional.normalize(self.vectors.float(), dim=1).T


def _spans(
    prompt: str, words: list[Match[str]], new: list[bool], number: int, first: int, common: set[str]
) -> Iterator[tuple[str, int]]:
    """What stands about a new word, without common ones and commas, and with new ones that follow: the text, and its
    last word.

    first: the word from which on it may begin.
    """

    def joins(left: int) -> bool:
        """Whether a word and the next belong together."""
        if left + 1 == len(words):
            return False
        between = prompt[words[left].end() : words[left + 1].start()]
        return not between.strip() and not {words[i].group().lower() for i in (left, left + 1)} & common

    begin = end = number
    while begin > max(first, number - SPAN + 1) and joins(begin - 1):
        begin -= 1
    while end < number + SPAN - 1 and joins(end) and new[end + 1]:
        end += 1
    for start in range(max(begin, end - SPAN + 1), number + 1):
        last = end
        while True:
            yield prompt[words[start].start() : words[last].end()], last
            if last - start + 1 == SPAN or not joins(last):
                break
            last += 1


def _thing(caption: str, common: set[str]) -> str:
    """A caption without the common words that it begins with; nothing where there are others in it."""
    words = list(WORD.finditer(caption))
    own = [number for number, word in enumerate(words) if word.group().lower() not in common]
    if not own or own != list(range(own[0], len(words))):
        return ""
    return caption[words[own[0]].start() :].rstrip()


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
