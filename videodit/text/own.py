"""A small text encoder of one's own, for captions from a small world: its words are theirs, its weights are fresh.

A token is a word or a punctuation mark. Scripts that put no spaces between words give a sign a token, with the marks on
it (Chinese, Japanese, Thai, Lao, Khmer, Burmese, Tibetan), and so does Korean, whose words take endings: so captions
share tokens, and a new sentence of known signs is read.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import ModernBertConfig, ModernBertModel, PreTrainedTokenizerFast

_SIGN = Regex(r"[\p{Han}\p{Hiragana}\p{Katakana}ー\p{Hangul}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}]\p{M}*")
_PUNCTUATION = r"[!-/:-@\[-`{-~\p{P}]"  # as the tokenizers library has it


def own_parts(
    captions: Iterable[str], width: int, depth: int, heads: int, seed: int
) -> tuple[ModernBertModel, PreTrainedTokenizerFast]:
    """Encoder and tokenizer, as `TextEncoder.from_captions` says.

    The attention is scaled by the root of its width. T5's is not: trained along at the transformer's learning rate it
    soon looks at one token alone, and does not tell "a red circle and a blue square" from the other way round.
    """
    if width % (2 * heads):
        raise ValueError(f"width = {width} is not a multiple of {2 * heads}, two numbers a head (heads = {heads}).")
    tokenizer = _word_tokenizer(captions)
    end = tokenizer.eos_token_id
    config = ModernBertConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        global_attn_every_n_layers=1,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=end,
        sep_token_id=end,
        bos_token_id=None,
        cls_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return ModernBertModel(config), tokenizer


def _word_tokenizer(captions: Iterable[str]) -> PreTrainedTokenizerFast:
    """A word-level tokenizer that knows the captions' words, sorted, after <pad>, </s> and <unk>; ends with </s>.

    Punctuation that the captions never have is left out: it would be an unknown word, whose state nothing has trained.
    """
    if isinstance(captions, str):
        raise ValueError("captions must be a list of strings, not one string.")
    one_form = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    splitter = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation(), pre_tokenizers.Split(_SIGN, "isolated")]
    )
    pieces = (splitter.pre_tokenize_str(one_form.normalize_str(caption)) for caption in captions)
    words = sorted({word for caption in pieces for word, _ in caption})
    if not words:
        raise ValueError("The captions hold no words: a tokenizer needs at least one.")
    vocabulary = {word: number for number, word in enumerate(["<pad>", "</s>", "<unk>", *words])}
    known = "".join(f"(?!\\x{{{ord(word):x}}})" for word in words if len(word) == 1 and not word.isalnum())
    unheard = normalizers.Replace(Regex(known + _PUNCTUATION), " ")
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([one_form, unheard])
    tokenizer.pre_tokenizer = splitter
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", vocabulary["</s>"])]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
