"""The words that a tokenizer knows, and those among them that are nearest to one that it does not know."""

from __future__ import annotations

import difflib
import re
import string
import unicodedata
from collections.abc import Sequence

from tokenizers import models
from transformers import PreTrainedTokenizerBase


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


def says_something(token: str) -> bool:
    """Whether a token is more than punctuation and signs that control how text is laid out."""
    return any(c not in string.punctuation and unicodedata.category(c) not in _SILENT for c in token)


_SILENT = {"Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "Cc", "Cf", "Zs", "Zl", "Zp"}


def _stem(word: str) -> str:
    """An English word without its ending, and without what the ending did to it: "spinning", "spins": "spin"."""
    bare = re.sub(r"(?<=\w{3})(?:ing|ed|er|est|ly|es|s|e)$", "", word)
    return re.sub(r"([b-df-hj-np-tv-z])\1$", r"\1", re.sub(r"y$", "i", bare))
