"""Prompts to token states and their mask, over any transformers text encoder: T5, UMT5, CLIP, or a small own one; and
over those of an image model's pipeline."""

from videodit.text.encoder import TextEncoder
from videodit.text.family import PARTS, ROWS, FamilyText, load_text, numbers_of_text, saved_captions, text_pipeline
from videodit.text.load import words_of
from videodit.text.states import OwnStates, TextStates, padded, told_in
from videodit.text.words import Word

__all__ = [
    "PARTS",
    "ROWS",
    "FamilyText",
    "OwnStates",
    "TextEncoder",
    "TextStates",
    "Word",
    "load_text",
    "numbers_of_text",
    "padded",
    "saved_captions",
    "text_pipeline",
    "told_in",
    "words_of",
]
