"""States of a set's prompts, encoded before any clip is made: then the text encoder may go, or need not come at all.

Each prompt is encoded by itself, so its states are the same whatever it is asked for with. In a file, a safetensors, a
prompt's name is the first 12 digits of its encoder's fingerprint, a space, and the prompt's words; with "/pooled"
before the space, that of its pooled states. Where the encoder has another way with negative prompts, theirs have
"/against" there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from videodit.clipset.requests import Request
from videodit.conditions import Encoder, encoded, tells_apart
from videodit.disk import whole, writing
from videodit.text import OwnStates, padded, told_in

NAME = re.compile("[0-9a-f]{12}(/pooled|/against)? ")  # what a prompt's name begins with
FIX = "write it with --encode-text, with the same model and prompts"


class Texts(NamedTuple):
    """States of prompts and of negative prompts, by their words."""

    told: dict[str, OwnStates]
    untold: dict[str, OwnStates]


def prompts_of(requests: Sequence[Request]) -> tuple[list[str], list[str]]:
    """All that is to be encoded for these clips, once each: prompts, and negative ones."""
    parts = ([one.prompt for one in requests], [one.negative_prompt for one in requests])
    return list(dict.fromkeys(parts[0])), list(dict.fromkeys(parts[1]))


@torch.no_grad()
def encode_texts(encoder: Encoder, prompts: Iterable[str], negatives: Iterable[str]) -> Texts:
    """What each prompt is encoded to, on the CPU, in the encoder's precision."""

    def own(prompt: str, against: bool) -> OwnStates:
        (made,) = encoded(encoder, [prompt], against=against).each()
        return OwnStates(*(None if x is None else x.cpu().contiguous() for x in made))  # type: ignore[arg-type]

    told = {prompt: own(prompt, False) for prompt in prompts}
    known = {} if tells_apart(encoder) else told
    return Texts(told, {prompt: known[prompt] if prompt in known else own(prompt, True) for prompt in negatives})


def write_texts(
    file: Path, encoder: Encoder, prompts: Sequence[str], negatives: Sequence[str] = (), *, overwrite: bool = False
) -> Path:
    """Encodes prompts into a file, whole or not at all.

    Raises:
        ValueError: another ending than .safetensors; or, unless `overwrite`, something lies there that is more than
            states of these prompts; or it cannot be written.
    """
    if file.suffix != ".safetensors":
        raise ValueError(f"{file}: text states are kept in a .safetensors file; give it that ending")
    apart = tells_apart(encoder)
    wanted = {(False, prompt) for prompt in prompts} | {(apart, prompt) for prompt in negatives}
    if not overwrite and file.exists() and (lost := _lost(file, wanted)):
        raise ValueError(f"{file}: is there already, and holds {lost}; name another file, or give --overwrite")
    maker = encoder.fingerprint()[:12]
    texts = encode_texts(encoder, prompts, negatives)
    tensors = {
        f"{maker}{part and f'/{part}'} {prompt}": tensor
        for prompt, own in (texts.told if apart else texts.untold | texts.told).items()
        for part, tensor in own.tensors().items()
    }
    if apart:  # no family that does so has pooled states
        tensors |= {f"{maker}/against {prompt}": own.states for prompt, own in texts.untold.items()}
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
    with whole(file) as scratch:
        save_file(tensors, scratch)
    return file


def _lost(file: Path, wanted: set[tuple[bool, str]]) -> str:
    """What a file holds that would be gone; "" where it is nothing. wanted: (of a negative one alone, prompt)."""
    try:
        with safe_open(file, "pt") as tensors:
            keys = list(tensors.keys())
    except (OSError, SafetensorError):
        return "something else than text states"
    if not all(NAME.match(key) for key in keys):
        return "something else than text states"
    makers = (key.partition(" ") for key in keys)
    others = {(maker.endswith("/against"), prompt) for maker, _, prompt in makers} - wanted
    return f"states of {len(others)} other prompts" if others else ""


def read_texts(file: Path, prompts: Iterable[str], negatives: Iterable[str], width: int) -> tuple[Texts, str]:
    """States of these prompts, and of these negative ones, from a file, and 12 digits of the fingerprint of the encoder
    that made them.

    Args:
        width: e, of the states that the model reads. Whether they are of its own encoder, and not of another one that
            is as wide, cannot be known without that encoder.

    Raises:
        ValueError: no such file, a prompt that is not in it, another width; names the file and the fix.
    """
    try:
        with safe_open(file, "pt") as tensors:
            keys = {key.partition(" ")[::2]: key for key in tensors.keys()}  # noqa: SIM118
            maker = next((maker for maker, _ in keys if "/" not in maker), "")
            against = f"{maker}/against" if any(one == f"{maker}/against" for one, _ in keys) else maker
            wanted = [*((maker, prompt) for prompt in prompts), *((against, prompt) for prompt in negatives)]
            if lacking := [prompt for name, prompt in wanted if (name, prompt) not in keys]:
                raise ValueError(f"{file}: {len(lacking)} prompts are not in it, first {lacking[0]!r}; {FIX}")

            def own(name: str, prompt: str) -> OwnStates:
                pooled = keys.get((f"{name}/pooled", prompt))
                return OwnStates(tensors.get_tensor(keys[name, prompt]), pooled and tensors.get_tensor(pooled))

            made = {one: own(*one) for one in wanted}
            states = Texts({p: made[maker, p] for p in prompts}, {p: made[against, p] for p in negatives})
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{file}: cannot be read as text states ({error}); {FIX}") from error
    found = [one.states for one in made.values()]
    if wrong := [one.shape[-1] for one in found if one.ndim != 2 or one.shape[-1] != width]:
        raise ValueError(f"{file}: its states are {wrong[0]} wide, of another encoder: this model reads {width}; {FIX}")
    return states, maker


def embeds_of(texts: Texts, prompts: Sequence[str], negatives: Sequence[str]) -> dict[str, Tensor]:
    """Prompts and negative ones as `VideoDiTPipeline` takes them in their place."""
    told = told_in(padded([texts.told[prompt] for prompt in prompts]))
    untold = told_in(padded([texts.untold[prompt] for prompt in negatives]))
    return told | {f"negative_{name}": tensor for name, tensor in untold.items()}
