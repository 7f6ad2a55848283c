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
from functools import lru_cache
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
BARE = 0.75  # the cosine above which a new word may be left out, where nothing takes its place
SAME = 0.98  # the cosine of a caption's states by one encoder
BATCH = 32

Encode = Callable[[list[str]], TextStates]


@dataclass(frozen=True)
class Reading:
    """A prompt in words that were shown, and what was read otherwise than it is written: as written, as read."""

    prompt: str
    otherwise: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Span:
    """Words about a new one: the numbers of the first and the last, how they are written, and the common ones that
    stand right before them."""

    first: int
    last: int
    text: str
    before: tuple[str, ...]


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
        kept = sorted(said, key=lambda one: (len(one.split()), one))[: MOST - len(old["captions"])]
        if before is not None and not kept:
            means = before.vectors.new_zeros(0, before.config["width"], dtype=torch.float32)
        else:
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

    def read(self, prompt: str, encode: Encode, most: int = 128) -> Reading:
        """The prompt with each new word, and what belongs to it, read as the nearest caption; what is far, as written.

        A caption stands for it only if it has no common words but those that it begins with, and few more words: such a
        one names a thing, and does not tell of a scene.

        Args:
            most: so many first words are looked at: others are cut.
        """
        if self.config["words"] is None or self.config["far"] == -1:
            return Reading(prompt)
        known, common = set(self.config["words"]), frozenset(self.config["words"][: self.config["common"]])
        words = list(WORD.finditer(prompt))[:most]
        new = [word.group().lower() not in known for word in words]
        if not any(new):
            return Reading(prompt)
        spans = {at: list(_spans(prompt, words, new, at, common)) for at in range(len(words)) if new[at]}
        texts = list(dict.fromkeys(span.text for each in spans.values() for span in each))
        cosines = torch.cat([self._cosines(encode(texts[i : i + BATCH])) for i in range(0, len(texts), BATCH)]).cpu()
        rows = dict(zip(texts, self._fitting(texts, cosines, common), strict=True))
        parts, otherwise, done, end = [], [], 0, 0  # of words and of letters that are read
        for number, each in spans.items():
            free = [span for span in each if span.first >= done]
            if number < done or not free:
                continue
            span = max(free, key=lambda one: rows[one.text][0])
            cosine, thing = rows[span.text]
            if cosine >= self.config["far"]:
                thing = _joined(thing, span.before, common)
                parts += [prompt[end : words[span.first].start()], thing]
                otherwise.append((span.text, thing))
                done, end = span.last + 1, words[span.last].end()
        return Reading("".join([*parts, prompt[end:]]), tuple(otherwise))

    def _fitting(self, texts: list[str], cosines: Tensor, common: frozenset[str]) -> list[tuple[float, str]]:
        """Of each text, what may stand for it and is nearest: its cosine, and how it is said."""
        things = _things(tuple(self.config["captions"]), common)
        lengths = torch.tensor([len(own) for _, own in things])
        found = []
        for text, row in zip(texts, cosines, strict=True):
            written = frozenset(words_in(text))
            fits = (lengths > 0) & (lengths <= len(words_in(text)) + LONGER)
            bare = torch.tensor([own <= written for _, own in things])
            row = row.masked_fill(~fits | (bare & (row < BARE)), -2)
            found.append((float(row.max()), things[int(row.argmax())][0]))
        return found

    def is_of(self, encode: Encode) -> bool:
        """Whether the captions' states are this encoder's."""
        said = encode(self.config["captions"][:4])
        width = said.states.shape[-1]
        return width == self.config["width"] and bool((self._cosines(said).diagonal() > SAME).all())

    def _cosines(self, text: TextStates) -> Tensor:
        """Of prompts to all captions, b n."""
        vectors = nn.functional.normalize(_means(text).to(self.middle) - self.middle, dim=1).float()
        return vectors @ nn.functional.normalize(self.vectors.float(), dim=1).T


def _spans(prompt: str, words: list[Match[str]], new: list[bool], at: int, common: frozenset[str]) -> Iterator[Span]:
    """What may belong to a new word: what stands about it, without common words and commas, and with new ones that
    follow."""

    def joins(left: int) -> bool:
        """Whether a word and the next belong together."""
        if left + 1 == len(words) or prompt[words[left].end() : words[left + 1].start()].strip():
            return False
        return not {words[left].group().lower(), words[left + 1].group().lower()} & common

    begin = end = at
    while begin > max(0, at - SPAN + 1) and joins(begin - 1):
        begin -= 1
    while end < at + SPAN - 1 and joins(end) and new[end + 1]:
        end += 1
    for first in range(max(begin, end - SPAN + 1), at + 1):
        number = first
        while number > 0 and words[number - 1].group().lower() in common:
            number -= 1
        before = tuple(word.group().lower() for word in words[number:first])
        last = end
        while True:
            yield Span(first, last, prompt[words[first].start() : words[last].end()], before)
            if last - first + 1 == SPAN or not joins(last):
                break
            last += 1


@lru_cache(maxsize=4)
def _things(captions: tuple[str, ...], common: frozenset[str]) -> list[tuple[str, frozenset[str]]]:
    """Of each caption how it is said, and its words but the common ones that it begins with; none of one that has
    others, which names no thing."""
    found = []
    for caption in captions:
        words = list(WORD.finditer(caption))
        own = [number for number, word in enumerate(words) if word.group().lower() not in common]
        whole = bool(own) and own == list(range(own[0], len(words)))
        said = caption[words[0].start() : words[-1].end()] if words else ""
        found.append((said, frozenset(words[number].group().lower() for number in own) if whole else frozenset()))
    return found


def _joined(thing: str, before: tuple[str, ...], common: frozenset[str]) -> str:
    """A caption without the common words that it begins with and that stand before it already, an "a" for an "an"."""
    words = list(WORD.finditer(thing))
    lead = 0
    while words[lead].group().lower() in common:
        lead += 1
    for count in range(min(lead, len(before)), 0, -1):
        pairs = zip((word.group().lower() for word in words[:count]), before[len(before) - count :], strict=True)
        if all(one.startswith(other) or other.startswith(one) for one, other in pairs):
            return thing[words[count].start() :]
    return thing


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
