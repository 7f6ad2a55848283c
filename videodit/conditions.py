"""What a model is told of a clip: prompts, as words or as states that were made of them before; a class; a size.

`Told` holds it as named tensors, and is the one place where they become keyword arguments of a model. Names of states
and masks are diffusers': `prompt_embeds` b m e and `prompt_attention_mask` b m, and the same of the negative prompt.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from videodit.models import Condition, VideoModel
from videodit.text import FamilyText, TextEncoder, TextStates, told_in

log = logging.getLogger(__name__)

OWN = ("channels", "vectors", "tokens")  # kinds of conditions of one's own
TEXT = ("prompt_embeds", "prompt_attention_mask", "pooled_prompt_embeds")
Encoder = TextEncoder | FamilyText


@dataclass(frozen=True)
class Told:
    """All that a model is told beside latents and times, as named tensors whose rows are clips.

    Where there is guidance, the clips of the pass that is told come first, those of the passes that are not behind.

    tensors: "prompt_embeds" b m e and "prompt_attention_mask" b m (True: read), or "text_memory", what the model made
    of them; "pooled_prompt_embeds" b e'; "class_labels" b; "size" b 2, height and width in pixels, float32; "guidance"
    b, the scale; "until" b, of a flow map, a time as the scheduler counts it; "frame_mask" b f (True: given). fps: of
    the latent, for all; None: the model's own. attention_kwargs: as in diffusers, for LoRA. What the model is told
    besides has the two names of `own_names`: the values, and b bool, which rows are told.
    """

    tensors: Mapping[str, Any]
    fps: float | None = None
    attention_kwargs: dict[str, Any] | None = None

    def kwargs(self, model: VideoModel) -> dict[str, Any]:
        """As keyword arguments of the model, of all that it asks for."""
        given = self.tensors
        keywords: dict[str, Any] = {"fps": self.fps, "attention_kwargs": self.attention_kwargs}
        keywords["frame_mask"] = given.get("frame_mask")
        for condition in model.conditions:
            value, rows = own_names(condition.name)
            if condition.kind in OWN:
                if value in given:
                    keywords.setdefault("conditions", {})[condition.name] = given[value]
                    keywords.setdefault("conditions_told", {})[condition.name] = given[rows]
            elif condition.kind == "text" and "text_memory" in given:
                keywords["text_memory"] = given["text_memory"]
            elif condition.kind == "text":
                keywords["encoder_hidden_states"] = given.get("prompt_embeds")
                keywords["encoder_attention_mask"] = given.get("prompt_attention_mask")
            elif condition.kind == "pooled":
                keywords["pooled_projections"] = given.get("pooled_prompt_embeds")
            elif condition.kind == "guidance":
                keywords["guidance"] = given.get("guidance")
            elif condition.kind == "until":
                keywords["r_timestep"] = given.get("until")
            elif condition.kind == "class":
                keywords["class_labels"] = given.get("class_labels")
            else:  # as PixArt-alpha at 1024 takes it
                height, width = given["size"][:, :1], given["size"][:, 1:]
                keywords["added_cond_kwargs"] = {"resolution": given["size"], "aspect_ratio": height / width}
        return keywords

    def rows(self, rows: slice | list[int]) -> Told:
        """The same of some clips."""
        return replace(self, tensors={name: tensor[rows] for name, tensor in self.tensors.items()})

    def repeated(self, times: int) -> Told:
        """Each clip so many times over."""
        return replace(self, tensors={k: rows.repeat_interleave(times, dim=0) for k, rows in self.tensors.items()})

    def to(self, device: torch.device) -> Told:
        return replace(self, tensors={name: tensor.to(device) for name, tensor in self.tensors.items()})

    def also(self, **tensors: Any) -> Told:
        """With these tensors beside, or in place of, its own; None takes one away."""
        kept = {name: tensor for name, tensor in {**self.tensors, **tensors}.items() if tensor is not None}
        return replace(self, tensors=kept)

    def texts(self, count: int) -> dict[str, Tensor]:
        """The text of `count` clips, and the negative one's where there is guidance, by diffusers' names."""
        parts = {name: self.tensors[name] for name in TEXT if name in self.tensors}
        told = {name: rows[:count] for name, rows in parts.items()}
        return told | {f"negative_{name}": rows[count:] for name, rows in parts.items() if len(rows) > count}

    def retold(self, count: int, tensors: Mapping[str, Tensor]) -> Told:
        """With texts by those names in the place of its own, itself where there are none; ValueError: another shape."""
        texts = self.texts(count)
        if not texts.keys() & tensors.keys():
            return self
        for name, tensor in tensors.items():
            if name in texts and tensor.shape != texts[name].shape:
                shapes = f"{tuple(tensor.shape)}, in place of {tuple(texts[name].shape)}"
                raise ValueError(f"callback_on_step_end gave back {name} of shape {shapes}")
        texts |= {name: tensor for name, tensor in tensors.items() if name in texts}
        both = {name: [texts[part] for part in (name, f"negative_{name}") if part in texts] for name in TEXT}
        return self.also(**{name: torch.cat(rows) for name, rows in both.items() if rows})


def own_names(name: str) -> tuple[str, str]:
    """Of a condition of one's own: what `Told` calls its values, and which rows are told."""
    return f"own.{name}", f"told.{name}"


def longest(tokens: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Tokens m c, a tensor a clip, as b m c with zeros behind the shorter ones, and which of them are there, b m; m is
    1 at least, though none be there."""
    if not any(map(len, tokens)):
        none = tokens[0].new_zeros(len(tokens), 1, tokens[0].shape[1])
        return none, torch.zeros(none.shape[:2], dtype=torch.bool, device=none.device)
    there = [torch.ones(len(one), dtype=torch.bool, device=one.device) for one in tokens]
    return torch.nn.utils.rnn.pad_sequence(list(tokens), True), torch.nn.utils.rnn.pad_sequence(there, True)


def own_of(model: VideoModel) -> list[Condition]:
    """Its conditions of one's own."""
    return [condition for condition in model.conditions if condition.kind in OWN]


def asked(model: VideoModel, kind: str) -> int | None:
    """The width of what a model asks for of this kind, `models.Condition`; None: nothing."""
    return next((condition.width for condition in model.conditions if condition.kind == kind), None)


def tokens_asked(model: VideoModel) -> int | None:
    """How many tokens a model's text must have; None: any number."""
    return next((condition.tokens for condition in model.conditions if condition.kind == "text"), None)


def has_null(model: VideoModel) -> bool:
    """Whether a model has a text of its own that stands for none."""
    return any(condition.null for condition in model.conditions if condition.kind == "text")


def reads_padding(model: VideoModel) -> bool:
    """Whether a model attends to all of a text, whatever a mask says."""
    return any(condition.reads_padding for condition in model.conditions)


def of_size(height: int, width: int, clips: int, device: torch.device) -> Tensor:
    """Of so many clips of one size in pixels: b 2."""
    return torch.tensor([[height, width]] * clips, dtype=torch.float32, device=device)


def of_call(
    encoder: Callable[[], Encoder],
    widths: tuple[int, int | None],
    prompts: list[str],
    negative_prompt: str | list[str] | None,
    embeds: Sequence[Tensor | None] = (None,) * 6,
    *,
    guided: bool,
    masked: bool = True,
    null: bool = False,
    whole: bool = False,
) -> Told:
    """Told the text of prompts, or of embeds in their place.

    Args:
        encoder: gives what encodes, asked for where something is to be encoded.
        widths: e, of the states that the model reads, and e' of pooled ones; None: it reads none.
        prompts: none where embeds are given. negative_prompt: one for all, or one each; None: the empty prompt.
        embeds: states, mask and pooled states of the prompts, and those of the negative ones (one for all, or one
            each).
        guided: whether the pass that is told nothing is run.
        masked: False gives states of padding too, and no mask, as `LattePipeline` does.
        null: without a negative prompt the pass that is told nothing gets a mask of nothing, not the empty prompt.
        whole: the model attends to all of a text: no mask leaves anything out, and all are of one length.

    Raises:
        ValueError: an empty prompt, prompts and embeds at once, numbers or shapes that do not fit.
    """
    given = (("", embeds[:3]), ("negative_", embeds[3:]))
    told, untold = (_given(sign, widths, whole, *three) for sign, three in given)
    if (told is not None and prompts) or (untold is not None and negative_prompt is not None):
        raise ValueError("a prompt and its embeds say the same: give one of them")
    if told is None and (not prompts or any(not prompt.strip() for prompt in prompts)):
        raise ValueError("the prompt is empty; say what the clip should show")
    count = len(prompts) if told is None else len(told.states)
    negatives = negative_prompt if isinstance(negative_prompt, list) else [negative_prompt or ""] * count
    against = len(negatives) if untold is None else len(untold.states)
    if against != count and (untold is None or against != 1):
        raise ValueError(f"{against} negative prompts for {count} prompts; give one, or one each")
    if not masked:
        if told is not None or untold is not None:
            raise ValueError("use_text_mask=False needs the states of padding, which are made of prompts: give those")
        encodes = encoder()
        if not isinstance(encodes, TextEncoder):
            raise ValueError(f"use_text_mask=False is of a single text encoder; {encodes.pipeline} has its own way")
        return Told({"prompt_embeds": _unmasked(encodes, prompts, negatives if guided else None)})
    parts = [told or encoded(encoder(), prompts)]
    if guided and null and negative_prompt is None and untold is None:
        parts += [TextStates(torch.zeros(count, 1, widths[0]), torch.zeros(count, 1, dtype=torch.bool))]
    elif guided:
        parts += [encoded(encoder(), negatives, against=True)] if untold is None else [untold] * (count // against)
    lengths = [part.states.shape[1] for part in parts]
    if whole and len(set(lengths)) > 1:
        raise ValueError(
            f"prompt_embeds has {lengths[0]} tokens and negative_prompt_embeds {lengths[1]}; this model attends to "
            "padding, so both need one length, as encode_prompt gives them"
        )
    return Told(told_in(_joined(parts)))


def tells_apart(encoder: Encoder) -> bool:
    """Whether negative prompts are encoded in another way than prompts."""
    return isinstance(encoder, FamilyText) and encoder.tells_apart


def encoded(encoder: Encoder, prompts: list[str], *, against: bool = False) -> TextStates:
    """States of prompts, or (`against`) of negative ones, each distinct one encoded once.

    A warning tells what is read otherwise than it is written, unknown words with the nearest known ones, and a prompt
    far from all that the model was shown.
    """
    readings = {prompt: encoder.read(prompt) for prompt in dict.fromkeys(prompts)}
    for prompt, reading in readings.items():
        if reading.otherwise and not against:
            told = ", ".join(f"{written!r} as {read!r}" for written, read in reading.otherwise)
            log.warning("%r: the model never saw these words and is told the nearest: %s", prompt, told)
    prompts = [readings[prompt].prompt for prompt in prompts]
    distinct = list(dict.fromkeys(prompts))
    for prompt in distinct:
        if unknown := [_with_nearest(word, encoder.nearest_words(word)) for word in encoder.unknown_words(prompt)]:
            log.warning(
                "%r: the model never saw the words %s; they have no effect it learned", prompt, ", ".join(unknown)
            )
    text = encoder(distinct, against=True) if against and tells_apart(encoder) else encoder(distinct)
    for prompt, near in zip(distinct, [] if against else encoder.nearest_learned(text), strict=False):
        if near:
            log.warning("%r is far from all that the model was shown; nearest: %s", prompt, ", ".join(near))
    return text.rows(torch.tensor([distinct.index(p) for p in prompts], device=text.states.device))


def _with_nearest(word: str, nearest: list[str]) -> str:
    return f"{word} (it knows {', '.join(nearest)})" if nearest else word


def _given(
    sign: str,
    widths: tuple[int, int | None],
    whole: bool,
    embeds: Tensor | None,
    mask: Tensor | None,
    pooled: Tensor | None,
) -> TextStates | None:
    """States, mask and pooled states that a user gives in place of a prompt; None where none is given.

    Tokens that are left out go behind the others, wherever they are: some models cut a text by its length (Lumina2).

    Args:
        sign: "" or "negative_", for messages.
        widths: e and e' that the model reads. whole: as in `of_call`.
        embeds: b m e. mask: b m, bool or 0 and 1; None: all tokens count. pooled: b e'.

    Raises:
        ValueError: a mask or pooled states alone, or none where the model reads some; shapes that do not fit each other
            or the model; a row that masks all, or, of a model that attends to padding, anything.
    """
    states, seen, vector = (f"{sign}{name}" for name in TEXT)
    if embeds is None:
        if alone := [name for name, tensor in ((seen, mask), (vector, pooled)) if tensor is not None]:
            raise ValueError(f"{alone[0]} without {states}: give both, as encode_prompt does")
        return None
    if embeds.ndim != 3 or embeds.shape[-1] != widths[0]:
        raise ValueError(
            f"{states} has shape {tuple(embeds.shape)}; this model reads (prompts, tokens, {widths[0]}), as its own "
            "encode_prompt gives them"
        )
    wanted = None if widths[1] is None else (len(embeds), widths[1])
    if (None if pooled is None else tuple(pooled.shape)) != wanted:
        have = "none is given" if pooled is None else f"{vector} has shape {tuple(pooled.shape)}"
        raise ValueError(
            f"{have}; beside {states} this model reads {vector} of {wanted}"
            if wanted
            else f"{have}; this model reads none"
        )
    mask = torch.ones(embeds.shape[:2], device=embeds.device) if mask is None else mask
    if mask.shape != embeds.shape[:2]:
        raise ValueError(f"{seen} has shape {tuple(mask.shape)}, but {states} needs {tuple(embeds.shape[:2])}")
    if not mask.any(dim=1).all():
        raise ValueError(f"{seen}: a row masks all its tokens; leave at least one")
    mask = mask.bool()
    if whole and not mask.all():
        raise ValueError(
            f"{seen} leaves tokens out, but this model attends to padding: give {states} without it, of those tokens "
            "that are to be read"
        )
    kept, order = mask.byte().sort(dim=1, descending=True, stable=True)
    states_first = embeds.gather(1, order[..., None].expand_as(embeds))
    return TextStates(states_first.masked_fill(kept[..., None] == 0, 0), kept.bool(), pooled)


def _joined(parts: list[TextStates]) -> TextStates:
    """Several encodings as one batch, padded to the longest, in type and place of the first."""
    first, length = parts[0].states, max(part.states.shape[1] for part in parts)

    def longest(x: Tensor) -> Tensor:
        return torch.nn.functional.pad(x, (0, 0) * (x.ndim - 2) + (0, length - x.shape[1])).to(first.device)

    pooled = [part.pooled.to(first) for part in parts if part.pooled is not None]
    return TextStates(
        torch.cat([longest(part.states).to(first.dtype) for part in parts]),
        torch.cat([longest(part.mask) for part in parts]),
        torch.cat(pooled) if pooled else None,
    )


def _unmasked(encoder: TextEncoder, prompts: list[str], negatives: list[str] | None) -> Tensor:
    """The states that `LattePipeline` gives its model: one prompt at its own length, several at the longest possible
    with zeros behind them, and the negative prompt's with the states of its padding."""
    states = encoded(encoder, prompts).states
    length = states.shape[1] if len(prompts) == 1 else encoder.max_length
    states = torch.nn.functional.pad(states, (0, 0, 0, length - states.shape[1]))
    parts = (
        [states]
        if negatives is None
        else [states, encoder.padded_states([encoder.read(one).prompt for one in negatives], length)]
    )
    return torch.cat(parts)


def check_class(classes: int | None, labels: list[int] | None, worded: bool) -> None:
    """ValueError where a model is told a class and should not be, or should be and is not, or one that it has not."""
    if labels is not None:
        if worded or classes is None:
            raise ValueError("class_labels are for a model that is told a class, in place of a prompt")
        if not labels or not all(0 <= label < classes for label in labels):
            raise ValueError(f"class_labels={labels} must be numbers from 0 to {classes - 1}, at least one")
    elif classes is not None:
        raise ValueError(f"this model is told a class: give class_labels (0 to {classes - 1}), not a prompt")


def of_classes(labels: list[int], none: int, guided: bool) -> Told:
    """Told classes; `none` is the number that stands for no class."""
    return Told({"class_labels": torch.tensor(labels + [none] * len(labels) * guided)})
