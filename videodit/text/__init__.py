"""Prompts to token states and their mask, over any transformers text encoder: T5, UMT5, CLIP, or a small own one."""

from videodit.text.encoder import TextEncoder, TextStates, padded
from videodit.text.load import words_of

__all__ = ["TextEncoder", "TextStates", "padded", "words_of"]
