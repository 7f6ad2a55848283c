"""Prompts to token states and their mask, over any transformers text encoder: T5, UMT5, CLIP, or a small own one.

The states of a prompt are the encoder's last hidden states, one a token; the mask is True on the tokens to attend to.
A prompt gives the same states alone as among others (to float tolerance): padding is always on the right, is masked in
the encoder too, and its states are zero. Prompts longer than `max_length` are cut with a warning, never in silence.

Where the captions come from a small world of their own, no published encoder is needed: `TextEncoder.from_captions`
builds a word-level tokenizer and a small ModernBERT (Warner et al. 2024, arXiv 2412.13663), to train with the model.

Axes: b prompts, m text tokens, e width of the encoder.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from videodit.text.identity import fingerprint, of_config, of_tokenizer
from videodit.text.learned import LearnedCaptions, Reading
from videodit.text.load import loaded_parts, numbers_of, width_of
from videodit.text.own import own_parts
from videodit.text.states import TextStates
from videodit.text.words import Word, known_words, nearest_words, says_something, words_of_tokens

DEFAULT_MAX_LENGTH = 120
_UNSTATED_LENGTH = 10**6  # transformers writes a huge number where a tokenizer states no length


class TextEncoder(nn.Module):
    """A transformers text encoder with its tokenizer, in evaluation mode until its user says `.train()`.

    Args:
        text_encoder: any encoder whose output has `last_hidden_state` (b m e).
        tokenizer: the fast tokenizer it was trained with. It is set to pad and cut on the right, and `max_length`
            becomes its `model_max_length`, so that whoever saves the tokenizer saves the length with it. Where its
            configuration says `lowercase_prompts`, prompts are lower-cased and stripped first, as PixArt and Latte do.
        max_length: the most tokens of a prompt that are kept, special ones included. None is what the tokenizer states,
            or 120 if it states nothing, and never more than the encoder has positions for.
        learned: captions that the model was shown, which say how new words are read, and what is far from all of them.

    Raises:
        ValueError: if the tokenizer is not a fast one or cannot pad, or if max_length is more than the encoder has
            positions for, or leaves no room beside the special tokens.
    """

    def __init__(
        self,
        text_encoder: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int | None = None,
        learned: LearnedCaptions | None = None,
    ) -> None:
        super().__init__()
        if not tokenizer.is_fast:
            raise ValueError(
                f"{type(tokenizer).__name__} cannot tell which characters a token stands for: load the fast tokenizer "
                f"(AutoTokenizer, with the tokenizers library's tokenizer.json)."
            )
        if tokenizer.pad_token is None:
            raise ValueError("The tokenizer has no pad_token: set one, e.g. tokenizer.pad_token = tokenizer.eos_token.")
        # Relative positions (T5) end nowhere; others say where they do.
        positions: int | None = getattr(text_encoder.config, "max_position_embeddings", None)
        if max_length is None:
            stated = tokenizer.model_max_length
            max_length = stated if stated < _UNSTATED_LENGTH else DEFAULT_MAX_LENGTH
            max_length = min(max_length, positions or max_length)
        if positions is not None and max_length > positions:
            raise ValueError(
                f"max_length = {max_length}, but {type(text_encoder).__name__} has {positions} positions: set "
                f"max_length to {positions} or less."
            )
        if max_length <= tokenizer.num_special_tokens_to_add():
            raise ValueError(f"max_length = {max_length} leaves no room for words beside the special tokens: raise it.")
        tokenizer.padding_side = tokenizer.truncation_side = "right"
        tokenizer.model_max_length = max_length
        self.text_encoder = text_encoder
        self.tokenizer = tokenizer
        self.max_length = max_length
        self._learned = [learned]  # in a list, for it is no part of the encoder
        self.lowercase = bool(tokenizer.init_kwargs.get("lowercase_prompts", False))
        self.eval()

    @classmethod
    def from_pretrained(
        cls, name_or_folder: str | os.PathLike[str], *, max_length: int | None = None, **kwargs: Any
    ) -> TextEncoder:
        """Load an encoder and its tokenizer from a folder or a hub name.

        Args:
            name_or_folder: holds `text_encoder/` and `tokenizer/`, as diffusers pipelines do, or both in one place, as
                transformers' own repositories do. Of a full T5 or CLIP only the text encoder is loaded.
            max_length: as in the constructor.
            **kwargs: for the model's transformers loader (`dtype`, `device_map`, ...); those about the hub (`revision`,
                `token`, `cache_dir`, `local_files_only`, ...) go to the tokenizer's loader too.

        Raises:
            FileNotFoundError: if a folder lacks a part; names the folder and what it should hold.
            ValueError: if the weights do not fill the encoder, are damaged or not finite; as the constructor.
        """
        return cls(*loaded_parts(name_or_folder, **kwargs), max_length)

    @staticmethod
    def width_of(name_or_folder: str | os.PathLike[str]) -> int:
        """e of the encoder that `from_pretrained` would load, without loading it; FileNotFoundError as there."""
        return width_of(name_or_folder)

    @staticmethod
    def numbers_of(name_or_folder: str | os.PathLike[str]) -> int:
        """How many numbers the weights of the encoder are that `from_pretrained` would load, without loading it."""
        return numbers_of(name_or_folder)

    @classmethod
    def from_captions(
        cls,
        captions: Iterable[str],
        *,
        width: int = 192,
        depth: int = 2,
        heads: int = 4,
        max_length: int = 48,
        seed: int = 0,
    ) -> TextEncoder:
        """A small encoder for the words of these captions, with random weights: to be trained with the model.

        The tokenizer lower-cases, splits at spaces and around punctuation, and knows every word of the captions; in
        scripts without spaces, and in Korean, every sign. The order of the captions does not matter. The weights follow
        from the sizes and `seed`, and the global random state is left as it was.

        Args:
            captions: any number of strings, with at least one word among them.
            width: e; a multiple of twice the heads.
            depth, heads: of the encoder (rotary positions, gated GELU, no dropout).
            max_length: in tokens, the end token included.
            seed: of the weights.

        Raises:
            ValueError: if the captions hold no words, or width is not a multiple of twice the heads.
        """
        return cls(*own_parts(captions, width, depth, heads, seed), max_length)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write `folder/text_encoder` and `folder/tokenizer`, which this class, transformers and diffusers load."""
        self.text_encoder.save_pretrained(Path(folder, "text_encoder"))
        self.tokenizer.save_pretrained(Path(folder, "tokenizer"))

    @property
    def parts(self) -> dict[str, Any]:
        """Encoder and tokenizer, by the names under which a pipeline has them."""
        return {"text_encoder": self.text_encoder, "tokenizer": self.tokenizer}

    @property
    def width(self) -> int:
        """e, the width of the states."""
        return self.text_encoder.config.hidden_size

    def forward(self, prompts: list[str]) -> TextStates:
        """States (b m e, in the encoder's precision) and mask (b m) of prompts, padded to the longest of them.

        Differentiable; freeze the encoder or use `torch.no_grad()` where it is not trained. An empty prompt is the null
        caption of classifier-free guidance: it attends to the encoder's end token, or to one padding token where the
        tokenizer adds no special ones. Warns if a prompt is cut.

        Raises:
            ValueError: if prompts is not a list of at least one string.
        """
        if isinstance(prompts, str) or not prompts:
            raise ValueError(f"Expected a list of at least one prompt, but got {prompts!r}.")
        states, mask = self._states(prompts, "longest")
        self._warn_of_cuts(prompts, mask)
        mask = mask.to(states.device)
        return TextStates(states.masked_fill(~mask[..., None], 0), mask)

    def _states(self, prompts: list[str], padding: str) -> tuple[Tensor, Tensor]:
        """All states (b m e), padding included, and the mask (b m), which the encoder sees."""
        tokens = self.tokenizer(
            [self._as_read(prompt) for prompt in prompts],
            padding=padding,
            truncation=True,
            max_length=self.max_length,
            return_tensors="pt",
        )
        ids, mask = _attending(tokens["input_ids"], tokens["attention_mask"].bool(), self.tokenizer.pad_token_id)
        device = self.text_encoder.device
        device = torch.device("cpu") if device.type == "meta" else device  # offloaded by parts, which fetch their input
        output = self.text_encoder(input_ids=ids.to(device), attention_mask=mask.to(device).long())
        return output.last_hidden_state, mask

    def _as_read(self, prompt: str) -> str:
        return prompt.lower().strip() if self.lowercase else prompt

    def padded_states(self, prompts: list[str], length: int) -> Tensor:
        """States (b m e) of prompts padded or cut to `length` tokens, those of the padding included.

        For a model that was used without a mask (diffusers' Latte); the padding is masked in the encoder all the same.
        """
        return self._states(prompts, "max_length")[0][:, :length]

    def truncated(self, prompt: str) -> str | None:
        """The end of the prompt, as written, that does not fit into `max_length` tokens; None if all of it does."""
        tokens = self._content_tokens(prompt)
        room = self.max_length - self.tokenizer.num_special_tokens_to_add()
        if len(tokens) <= room:
            return None
        return prompt[tokens[room].start :]

    def unknown_words(self, prompt: str) -> list[str]:
        """The parts of the prompt, in order and as written, for which the tokenizer has no token but the unknown one.

        Whole words with a word-level tokenizer; with subword ones what they cannot spell, often nothing at all. What is
        only punctuation is no word.
        """
        unknown = self.tokenizer.unk_token_id
        spans = [(token.start, token.end) for token in self._content_tokens(prompt) if token.id == unknown]
        parts = [prompt[start:end].strip() for start, end in dict.fromkeys(spans)]  # a letter's bytes share its span
        return [part for part in parts if says_something(part)]

    def words(self, prompt: str) -> list[Word]:
        """The words of the prompt that are read, in order, each with the numbers of its tokens among the states' m.

        A word is one of the tokenizer's, which has several tokens where it spells words from pieces; it stands as the
        tokenizer is given it. What is only punctuation is no word.
        """
        text = self._as_read(prompt)
        tokens = self.tokenizer(text, return_offsets_mapping=True, truncation=True, max_length=self.max_length)
        return words_of_tokens(text, zip(tokens.word_ids(), tokens["offset_mapping"], strict=True))

    def nearest_words(self, word: str) -> list[str]:
        """Known words that may be meant by an unknown one, at most three; none of a tokenizer of pieces of words."""
        return nearest_words(word, known_words(self.tokenizer) or [])

    @property
    def learned(self) -> LearnedCaptions | None:
        """Captions that the model was shown, where they are known."""
        return self._learned[0]

    @torch.no_grad()
    def read(self, prompt: str) -> Reading:
        """The prompt in words that the model was shown, as far as they are near: what is to be encoded, and cut.

        A tokenizer of whole words has one token for all that it does not know, which is near to nothing.
        """
        if self.learned is None or known_words(self.tokenizer) is not None:
            return Reading(prompt)
        return self.learned.read(prompt, self, self.max_length)

    def nearest_learned(self, text: TextStates) -> list[list[str]]:
        """Of each prompt that is far from all that the model was shown, the nearest captions; of others none."""
        return self.learned.nearest(text) if self.learned else [[]] * len(text.states)

    def fingerprint(self) -> str:
        """sha256, in hexadecimal, of all that decides the states: tokenizer, max_length, configuration and weights.

        It survives saving and loading, and says whether cached states are still those of this encoder.
        """
        tokenizer, encoder = self.tokenizer, self.text_encoder
        facts = [of_tokenizer(tokenizer), tokenizer.pad_token_id, self.max_length, self.lowercase]
        return fingerprint([*facts, type(encoder).__name__, of_config(encoder)], [encoder])

    def _content_tokens(self, prompt: str) -> list[_Token]:
        """All tokens of a prompt of any length, without the special ones that the tokenizer adds."""
        if self.lowercase:  # letter by letter, so that places stay what they are in the prompt
            prompt = "".join(letter.lower() if len(letter.lower()) == 1 else letter for letter in prompt)
        tokens = self.tokenizer(
            prompt, return_offsets_mapping=True, return_special_tokens_mask=True, truncation=False, verbose=False
        )
        parts = zip(tokens["input_ids"], tokens["offset_mapping"], tokens["special_tokens_mask"], strict=True)
        return [_Token(token, start, end) for token, (start, end), special in parts if not special]

    def _warn_of_cuts(self, prompts: list[str], mask: Tensor) -> None:
        full = (mask.sum(dim=1) == self.max_length).tolist()
        if any(self.truncated(prompt) for prompt, fills in zip(prompts, full, strict=True) if fills):
            warnings.warn(
                f"Prompts of more than {self.max_length} tokens are cut to that length: `TextEncoder.truncated` tells "
                f"what is lost, and a larger max_length keeps it.",
                stacklevel=2,
            )


class _Token(NamedTuple):
    """A token's number, and the characters of the prompt that it stands for."""

    id: int
    start: int
    end: int


def _attending(ids: Tensor, mask: Tensor, pad: int) -> tuple[Tensor, Tensor]:
    """Token ids and mask (b m) in which every row attends to something: an empty one to its first padding."""
    if ids.shape[1] == 0:
        ids = torch.full((len(ids), 1), pad)
        mask = torch.zeros(ids.shape, dtype=torch.bool)
    mask[:, 0] |= ~mask.any(dim=1)
    return ids, mask
