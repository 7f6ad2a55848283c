"""The words that a tokenizer knows, those among them that are nearest to one that it does not know, and the words of a
text with their tokens."""

from __future__ import annotations

import difflib
import re
import string
import unicodedata
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tokenizers import models
from transformers import PreTrainedTokenizerBase

# a run of letters and digits, as "jack-o'-lantern" and "snow-capped" are; of scripts that set no spaces, each sign
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+(?:[-'\u2019]+[^\W_{_UNSPACED}]+)*")


def words_in(text: str) -> list[str]:
    """In order, in lower case."""
    return [word.group().lower() for word in WORD.finditer(text)]


def known_words(tokenizer: PreTrainedTokenizerBase) -> list[str] | None:
    """All that it knows, sorted, special tokens left out; None of one that spells words from pieces, as T5's does."""
    if not isinstance(tokenizer.backend_tokenizer.model, models.WordLevel):
        return None
    return sorted(set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens))


def nearest_words(word: str, known: Sequence[str], most: int = 3) -> list[str]:
    """Up to `most` known words of the same stem ("falls" for "falling"), else those of nearly the same letters."""
    word = word.lower()
    kin = [other for other in known if _stem(other) == _stem(word)]
    return kin[:most] or difflib.get_close_matches(word, known, most, cutoff=0.75)


class Word(NamedTuple):
    """A word as it stands in a text, and the numbers of its tokens among all of the text's."""

    text: str
    tokens: tuple[int, ...]


def words_of_tokens(text: str, tokens: Iterable[tuple[int | None, tuple[int, int]]]) -> list[Word]:
    """The words of a text, in order, put together from its tokens.

    Args:
        tokens: of each the number of its word, as the tokenizer has it (None: a special token), and the characters that
            it stands for, from and to. Where a tokenizer takes several words for one, spaces part them; punctuation is
            left out where it is a token of its own.
    """
    found: list[tuple[int, int, tuple[int, ...]]] = []
    before: tuple[int | None, int] = (None, 0)
    for number, (owner, (start, end)) in enumerate(tokens):
        goes_on = owner == before[0] and not re.search(r"\s", text[before[1] : start] + text[start:end][:1])
        if owner is not None and says_something(text[start:end]):
            start += len(text[start:end]) - len(text[start:end].lstrip())
            if goes_on and found:
                begin, last, numbers = found[-1]
                found[-1] = begin, max(last, end), (*numbers, number)
            else:
                found.append((start, end, (number,)))
            before = owner, end
    return [Word(text[start:end].strip(), numbers) for start, end, numbers in found]


def says_something(token: str) -> bool:
    """Whether a token is more than punctuation and signs that control how text is laid out."""
    return any(c not in string.punctuation and unicodedata.category(c) not in _SILENT for c in token)


_SILENT = {"Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "Cc", "Cf", "Zs", "Zl", "Zp"}


def _stem(word: str) -> str:
    """An English word without its ending, and without what the ending did to it: "spinning", "spins": "spin"."""
    bare = re.sub(r"(?<=\w{3})(?:ing|ed|er|est|ly|es|s|e)$", "", word)
    return re.sub(r"([b-df-hj-np-tv-z])\1$", r"\1", re.sub(r"y$", "i", bare))
