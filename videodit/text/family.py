"""Prompts as the pipeline of an image model's family encodes them: `FamilyText`.

Several encoders, pooled states, templates and layers in between are a family's own: its pipeline's `encode_prompt` is
asked, and its code is not said again here. Where a family reads the states of padding (SD3, Flux), these are states
like others, so a prompt gives the same alone as among others.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from diffusers.configuration_utils import FrozenDict
from torch import nn
from transformers import PreTrainedModel

from videodit.text.encoder import TextEncoder
from videodit.text.identity import fingerprint, of_config, of_tokenizer
from videodit.text.learned import LearnedCaptions, Reading
from videodit.text.load import loaded_parts
from videodit.text.states import OwnStates, TextStates, padded
from videodit.weights import check_finite, loading

PARTS = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "text_encoder_3", "tokenizer_3")


@dataclass(frozen=True)
class Row:
    """encode: (pipeline, prompts, keywords for `encode_prompt`) -> states, mask (None: all), pooled (None: none).
    null: likewise, of the empty prompt and of negative ones, where these are encoded in another way (Sana gives them no
    instruction, Lumina2 no system prompt). pads: the side to which `encode` itself sets the tokenizer. without: what
    `encode` does without where it is not there."""

    encode: Callable[[Any, list[str], dict[str, Any]], tuple[Any, Any, Any]]
    null: Callable[[Any, list[str], dict[str, Any]], tuple[Any, Any, Any]] | None = None
    pads: str | None = None
    without: tuple[str, ...] = ()


def _sd3(pipe: Any, prompts: list[str], how: dict[str, Any]) -> tuple[Any, Any, Any]:
    states, _, pooled, _ = pipe.encode_prompt(prompts, prompts, prompts, do_classifier_free_guidance=False, **how)
    return states, None, pooled


def _flux(pipe: Any, prompts: list[str], how: dict[str, Any]) -> tuple[Any, Any, Any]:
    states, pooled, _ = pipe.encode_prompt(prompts, **how)
    return states, None, pooled


def _masked(pipe: Any, prompts: list[str], how: dict[str, Any]) -> tuple[Any, Any, Any]:
    states, mask, *_ = pipe.encode_prompt(prompts, do_classifier_free_guidance=False, **how)
    return states, mask, None


def _against(pipe: Any, prompts: list[str], how: dict[str, Any]) -> tuple[Any, Any, Any]:
    _, _, states, mask = pipe.encode_prompt(prompts, True, prompts, **how)
    return states, mask, None


def _sana(pipe: Any, prompts: list[str], how: dict[str, Any]) -> tuple[Any, Any, Any]:
    told = inspect.signature(type(pipe).__call__).parameters["complex_human_instruction"].default
    return _masked(pipe, prompts, {**how, "complex_human_instruction": told})


def _list(pipe: Any, prompts: list[str], how: dict[str, Any]) -> tuple[Any, Any, Any]:
    states, _ = pipe.encode_prompt(prompts, do_classifier_free_guidance=False, **how)
    masks = [torch.ones(len(one), dtype=torch.bool, device=one.device) for one in states]
    pad = torch.nn.utils.rnn.pad_sequence
    return pad(list(states), batch_first=True), pad(masks, batch_first=True), None


def _plain(pipe: Any, prompts: list[str], how: dict[str, Any]) -> tuple[Any, Any, Any]:
    states, mask = pipe.encode_prompt(prompts, **how)
    return states, mask, None


def _all(pipe: Any, prompts: list[str], how: dict[str, Any]) -> tuple[Any, Any, Any]:
    states, *_ = pipe.encode_prompt(prompts, **how)
    return states, None, None


def _hunyuan(pipe: Any, prompts: list[str], how: dict[str, Any]) -> tuple[Any, Any, Any]:
    """CLIP's tokens and T5's behind them, each as wide as the wider, and a last number: 1 of words, 0 of padding."""
    texts = []
    for index, (key, default) in enumerate((("text_len", 77), ("text_len_t5", 256))):
        length = default if pipe.transformer is None else pipe.transformer.config[key]
        asked = {"do_classifier_free_guidance": False, "max_sequence_length": length, "text_encoder_index": index}
        states, _, words, _ = pipe.encode_prompt(prompts, **asked, **how)
        texts.append((states, words[..., None].to(states)))
    width = max(states.shape[-1] for states, _ in texts)
    wide = [torch.nn.functional.pad(states, (0, width - states.shape[-1])) for states, _ in texts]
    both = [torch.cat([states, words], dim=-1) for states, (_, words) in zip(wide, texts, strict=True)]
    return torch.cat(both, dim=1), None, None


def _stable(pipe: Any, prompts: list[str], how: dict[str, Any]) -> tuple[Any, Any, Any]:
    states, _ = pipe.encode_prompt(prompts, num_images_per_prompt=1, do_classifier_free_guidance=False, **how)
    return states, None, None


ROWS = {
    "StableDiffusion3Pipeline": Row(_sd3, without=("text_encoder_3", "tokenizer_3")),
    "FluxPipeline": Row(_flux),
    "Flux2Pipeline": Row(_all),
    "SanaPipeline": Row(_sana, null=_against, pads="right"),
    "QwenImagePipeline": Row(_plain),
    "ZImagePipeline": Row(_list),
    "Lumina2Pipeline": Row(_masked, null=_against),
    "PixArtAlphaPipeline": Row(_masked),
    "PixArtSigmaPipeline": Row(_masked),
    "HunyuanDiTPipeline": Row(_hunyuan),
    "StableDiffusionPipeline": Row(_stable),
}


class _Shape(nn.Module):
    """An image model's configuration in the place of it, for pipelines that ask for a width: SD3's without its T5."""

    def __init__(self, config: dict[str, Any]):
        super().__init__()
        takes = inspect.signature(getattr(diffusers, config["_class_name"]).__init__).parameters.values()
        self.config = FrozenDict({one.name: one.default for one in takes if one.name != "self"} | config)


class FamilyText(nn.Module):
    """Text encoders and tokenizers of an image model, as its pipeline uses them. Frozen: they are never trained.

    Args:
        pipeline: the name of diffusers' class, one of `ROWS`.
        parts: by the names of `PARTS`, of those that it has; its image model too, which some ask for a width.
        max_length: tokens of a prompt that are read (diffusers' `max_sequence_length`); None: the pipeline's default.

    Raises:
        ValueError: another pipeline, or it lacks a part, or takes no length.
    """

    def __init__(self, pipeline: str, parts: Mapping[str, Any], max_length: int | None = None):
        super().__init__()
        if pipeline not in ROWS:
            raise ValueError(f"text_pipeline={pipeline!r} is none of {', '.join(ROWS)}")
        cls = getattr(diffusers, pipeline)
        takes = inspect.signature(cls.__init__).parameters
        if parts.get("text_encoder") is None or parts.get("tokenizer") is None:
            raise ValueError(
                f"no text encoder is loaded ({pipeline}'s text_encoder and tokenizer): give prompt_embeds, "
                f"negative_prompt_embeds and what goes with them, as encode_prompt makes them where there is one"
            )
        own = [name for name in PARTS if name in takes]
        if lacking := [name for name in own if parts.get(name) is None and name not in ROWS[pipeline].without]:
            raise ValueError(
                f"{pipeline} encodes by {' and '.join(lacking)} too, and there is none: add it, or give prompt_embeds"
            )
        if [name for name in own if parts.get(name) is None] and parts.get("transformer") is None:
            raise ValueError(
                f"{pipeline} without {ROWS[pipeline].without[0]} encodes to the width that its transformer reads: load "
                f"either of them"
            )
        needs = [name for name in takes if name != "self" and takes[name].default is inspect.Parameter.empty]
        checks = {"requires_safety_checker": False} if "requires_safety_checker" in takes else {}
        self.pipe = cls(**{name: parts.get(name) for name in {*needs, *own}}, **checks)
        self.pipeline, self.given_length = pipeline, max_length
        self.encoders = nn.ModuleDict(
            {name: parts[name] for name in PARTS if isinstance(parts.get(name), PreTrainedModel)}
        ).requires_grad_(False)
        self.tokenizers = {name: parts[name] for name in PARTS if "tokenizer" in name and parts.get(name) is not None}
        default = inspect.signature(cls.__call__).parameters.get("max_sequence_length")
        if max_length is not None and default is None:
            raise ValueError(
                f"{pipeline} reads what its tokenizer says, or its image model: leave max_sequence_length "
                f"(text.max_length) out"
            )
        self.max_length = max_length or (default.default if default else self.tokenizers["tokenizer"].model_max_length)
        self.how = {"max_sequence_length": self.max_length} if default else {}
        self.eval()

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        pipeline: str,
        *,
        model: str | Path | None = None,
        max_length: int | None = None,
        **kwargs: Any,
    ) -> FamilyText:
        """Loads the encoders and tokenizers of a pipeline folder; keyword arguments are for transformers' loaders.

        model: the pipeline folder of the image model, of which the configuration is read; None: the same.

        Raises:
            OSError: a part is not there. ValueError: a file of weights is damaged or not finite.
        """
        parts: dict[str, Any] = {}
        for name, (library, kind) in _index(folder).items():
            loader = getattr(import_module(library), kind)
            with loading(Path(folder, name)):
                parts[name] = loader.from_pretrained(folder, subfolder=name, **({} if "tokenizer" in name else kwargs))
            if "tokenizer" not in name:
                check_finite(parts[name], Path(folder, name))
        return cls(pipeline, parts | {"transformer": _shape_of(model or folder)}, max_length)

    @property
    def parts(self) -> dict[str, Any]:
        """Encoders and tokenizers, by the names under which a pipeline has them."""
        return {**dict(self.encoders.items()), **self.tokenizers}

    @property
    def device(self) -> torch.device:
        device = next(self.encoders["text_encoder"].parameters()).device
        return torch.device("cpu") if device.type == "meta" else device  # offloaded by parts, which fetch their input

    @property
    def tells_apart(self) -> bool:
        """Whether a negative prompt is encoded in another way than a prompt of the same words."""
        return ROWS[self.pipeline].null is not None

    @torch.no_grad()
    def forward(self, prompts: list[str], against: bool = False) -> TextStates:
        """States (b m e), mask (b m) and, of families that have them, pooled states (b e').

        The empty prompt is the null caption of classifier-free guidance: what the family's pipeline takes where no
        negative prompt is given. against: they are negative prompts.

        Raises:
            ValueError: if prompts is not a list of at least one string.
        """
        if isinstance(prompts, str) or not prompts:
            raise ValueError(f"Expected a list of at least one prompt, but got {prompts!r}.")
        row = ROWS[self.pipeline]
        made: dict[str, OwnStates] = {}
        for null in (False, True):
            some = [prompt for prompt in dict.fromkeys(prompts) if (against or prompt == "") is null]
            if some:
                encode = row.null if null and row.null else row.encode
                # a copy: Z-Image's pipeline writes its templates into the list that it is given
                made |= dict(zip(some, self._encoded(encode, list(some)).each(), strict=True))
        return padded([made[prompt] for prompt in prompts])

    def _encoded(self, encode: Any, prompts: list[str]) -> TextStates:
        states, mask, pooled = encode(self.pipe, prompts, {"device": self.device, **self.how})
        mask = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device) if mask is None else mask.bool()
        return TextStates(states, mask, pooled)

    def unknown_words(self, prompt: str) -> list[str]:
        """None: its tokenizers spell any word."""
        return []

    def nearest_words(self, word: str) -> list[str]:
        return []

    def read(self, prompt: str) -> Reading:
        """As it is written: what its image model was shown is not known."""
        return Reading(prompt)

    def nearest_learned(self, text: TextStates) -> list[list[str]]:
        """None: what its image model was shown is not known."""
        return [[]] * len(text.states)

    def fingerprint(self) -> str:
        """sha256, in hexadecimal, of all that decides the states: tokenizers, lengths, configurations and weights."""
        words = [fact for name, one in self.tokenizers.items() for fact in self._facts_of(name, one)]
        encoders = list(self.encoders.values())
        kinds = [[type(one).__name__, of_config(one)] for one in encoders]  # type: ignore[arg-type]
        return fingerprint([self.pipeline, self.max_length, *words, *kinds], encoders)

    def _facts_of(self, name: str, processor: Any) -> list[Any]:
        tokenizer = getattr(processor, "tokenizer", processor)
        templates = [getattr(one, "chat_template", None) for one in (processor, tokenizer)]
        side = ROWS[self.pipeline].pads or tokenizer.padding_side
        numbers = [tokenizer.pad_token_id, side, tokenizer.model_max_length]
        return [name, of_tokenizer(tokenizer), templates, *numbers]

    def save_pretrained(self, folder: str | Path) -> None:
        """Each part into its folder, as diffusers' pipelines have them."""
        for name, part in self.parts.items():
            part.save_pretrained(Path(folder, name))


def load_text(
    folder: str | Path, like: str | Path | None = None, *, max_length: int | None = None, **kwargs: Any
) -> TextEncoder | FamilyText:
    """The text encoder of a folder or hub name, as the model that is saved at `like` (None: there too) reads it; of a
    family `max_length` None is what is saved there.

    Raises:
        OSError, ValueError: as the two classes' `from_pretrained`.
    """
    if (pipeline := text_pipeline(like or folder)) is not None:
        max_length = max_length or _saved(like or folder).get("text_max_length")
        return FamilyText.from_pretrained(folder, pipeline, model=like, max_length=max_length, **kwargs)
    if "text_encoder_2" in (index := _parts_in(_saved(folder))):
        raise ValueError(
            f"{folder}: has several text encoders ({', '.join(name for name in index if 'tokenizer' not in name)}), of "
            "which one alone would be read; name a folder of one, or start from a pipeline of this family "
            "(videodit inflate)"
        )
    return TextEncoder(*loaded_parts(folder, **kwargs), max_length, saved_captions(like or folder))


def saved_captions(folder: str | Path) -> LearnedCaptions | None:
    """Those that a saved model was shown, where it says so."""
    has = (_saved(folder).get("learned") or [None])[0]
    return LearnedCaptions.from_pretrained(folder, subfolder="learned") if has else None


def numbers_of_text(folder: str | Path) -> int:
    """How many weights `load_text` would load; OSError as there. Loads none."""
    if text_pipeline(folder) is None:
        return TextEncoder.numbers_of(folder)
    count = 0
    for name, (library, kind) in _index(folder).items():
        if "tokenizer" not in name:
            cls = getattr(import_module(library), kind)
            with torch.device("meta"):
                model = cls(cls.config_class.from_pretrained(folder, subfolder=name))
            count += sum(weight.numel() for weight in model.parameters())
    return count


def text_pipeline(folder: str | Path) -> str | None:
    """The pipeline whose `encode_prompt` a saved model's prompts go through; None: it has a `TextEncoder`."""
    return _saved(folder).get("text_pipeline")


def _saved(folder: str | Path) -> Any:
    """The index of a pipeline; empty where there is none."""
    try:
        return DiffusionPipeline.load_config(folder)
    except OSError:
        return {}


def _shape_of(folder: str | Path) -> _Shape | None:
    try:
        config: Any = AutoencoderKL.load_config(folder, subfolder="transformer")  # as of any model of diffusers
    except OSError:
        return None
    return _Shape(config.get("base", config))


def _index(folder: str | Path) -> dict[str, Any]:
    return _parts_in(DiffusionPipeline.load_config(folder))


def _parts_in(index: Any) -> dict[str, Any]:
    return {name: index[name] for name in PARTS if (index.get(name) or [None])[0]}
