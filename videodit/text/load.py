"""An encoder and its tokenizer, from a pipeline of diffusers or a repository of transformers: a folder or hub name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForTextEncoding,
    AutoTokenizer,
    CLIPTextModel,
    ModernBertModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from videodit.text.learned import LearnedCaptions
from videodit.text.words import known_words
from videodit.weights import check_finite, loading

# of model types for which transformers' AutoModelForTextEncoding has no class, or the one of text and pictures
CLASSES = {"clip": CLIPTextModel, "clip_text_model": CLIPTextModel, "modernbert": ModernBertModel}
_HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "token")
_LAYOUT = (
    "text_encoder/ with config.json and the weights (model.safetensors), and tokenizer/ with tokenizer_config.json and "
    "tokenizer.json, as TextEncoder.save_pretrained and diffusers pipelines write them"
)


def loaded_parts(
    name_or_folder: str | os.PathLike[str], **kwargs: Any
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Encoder and tokenizer, as `TextEncoder.from_pretrained` says."""
    hub = {key: value for key, value in kwargs.items() if key in _HUB_OPTIONS}
    model_folder, tokenizer_folder = _subfolders(name_or_folder, hub)
    config = AutoConfig.from_pretrained(name_or_folder, subfolder=model_folder, **hub)
    loader: Any = CLASSES.get(config.model_type, AutoModelForTextEncoding)
    with loading(Path(name_or_folder, model_folder)):
        text_encoder, info = loader.from_pretrained(
            name_or_folder, subfolder=model_folder, output_loading_info=True, **kwargs
        )
    check_finite(text_encoder, Path(name_or_folder, model_folder))
    if info["missing_keys"]:
        raise ValueError(
            f"The weights in {Path(name_or_folder, model_folder)} lack {sorted(info['missing_keys'])[:3]}, "
            f"{len(info['missing_keys'])} in all, of {type(text_encoder).__name__}: they belong to another model."
        )
    return text_encoder, AutoTokenizer.from_pretrained(name_or_folder, subfolder=tokenizer_folder, **hub)


def width_of(name_or_folder: str | os.PathLike[str]) -> int:
    """As `TextEncoder.width_of` says."""
    config = AutoConfig.from_pretrained(name_or_folder, subfolder=_subfolders(name_or_folder, {}, whole=False)[0])
    return getattr(config, "text_config", config).hidden_size


def numbers_of(name_or_folder: str | os.PathLike[str]) -> int:
    """As `TextEncoder.numbers_of` says."""
    config = AutoConfig.from_pretrained(name_or_folder, subfolder=_subfolders(name_or_folder, {}, whole=False)[0])
    with torch.device("meta"):
        known: Any = CLASSES.get(config.model_type)
        of_text = getattr(config, "text_config", config)
        model = known(of_text) if known else AutoModelForTextEncoding.from_config(config)
    return sum(weight.numel() for weight in model.parameters())


def words_of(name_or_folder: str | os.PathLike[str]) -> list[str] | None:
    """The words that a model's tokenizer knows, sorted, or where that spells any word from pieces those that the model
    was shown; None where nobody knows these. Loads no weights.

    Raises:
        FileNotFoundError: if a folder lacks a part; names the folder and what it should hold.
    """
    _, folder = _subfolders(name_or_folder, {})
    known = known_words(AutoTokenizer.from_pretrained(name_or_folder, subfolder=folder))
    if known is not None or not Path(name_or_folder, "learned", "config.json").is_file():
        return known
    shown: Any = LearnedCaptions.load_config(name_or_folder, subfolder="learned")
    return sorted(shown["words"]) if shown.get("words") else None


def _subfolders(name_or_folder: str | os.PathLike[str], hub: dict[str, Any], *, whole: bool = True) -> tuple[str, str]:
    """Where under a folder or hub name encoder and tokenizer lie: in a pipeline's subfolders, or both at its top.

    A folder must have all that they need, or, not `whole`, the encoder's configuration.
    """
    folder = Path(name_or_folder)
    pipeline, bare = ("text_encoder", "tokenizer"), ("", "")
    if folder.is_dir():
        own = (folder / "config.json").is_file() and not (folder / "text_encoder").is_dir()
        layout = bare if own else pipeline
        for part, *patterns in [
            (layout[0], "config.json"),
            (layout[0], "model.safetensors", "*.safetensors", "*.bin"),
            (layout[1], "tokenizer_config.json"),
            (layout[1], "tokenizer.json", "*.model", "vocab.*"),
        ]:
            if (whole or patterns == ["config.json"]) and not any(
                file for pattern in patterns for file in (folder / part).glob(pattern)
            ):
                raise FileNotFoundError(f"{folder} lacks {Path(part, patterns[0])}. It should hold {_LAYOUT}.")
        return layout
    if isinstance(name_or_folder, Path) or str(name_or_folder).count("/") > 1 or str(name_or_folder)[:1] in "./~":
        raise FileNotFoundError(f"There is no folder {folder}. It should hold {_LAYOUT}.")
    try:
        AutoConfig.from_pretrained(str(name_or_folder), subfolder=pipeline[0], **hub)
    except (OSError, ValueError):  # no such subfolder: the repository is the encoder's own
        return bare
    return pipeline
