"""States of a set's prompts, encoded before any clip is made: then the text encoder may go, or need not come at all.

Each prompt is encoded by itself, so its states are the same whatever it is asked for with. In a file, a safetensors, a
prompt's name is the first 12 digits of its encoder's fingerprint, a space, and the prompt's words; with "/pooled"
before the space, that of its pooled states.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from videodit.clipset.requests import Request
from videodit.conditions import Encoder, encoded
from videodit.disk import whole, writing
from videodit.text import OwnStates, padded, told_in

NAME = re.compile("[0-9a-f]{12}(/pooled)? ")  # what a prompt's name begins with
FIX = "write it with --encode-text, with the same model and prompts"


def prompts_of(requests: Sequence[Request]) -> list[str]:
    """All that is to be encoded for these clips, negative prompts too, once each."""
    return list(dict.fromkeys(text for one in requests for text in (one.prompt, one.negative_prompt)))


@torch.no_grad()
def encode_texts(encoder: Encoder, prompts: Iterable[str]) -> dict[str, OwnStates]:
    """What each prompt is encoded to, on the CPU, in the encoder's precision."""
    made = {}
    for prompt in prompts:
        (own,) = encoded(encoder, [prompt]).each()
        made[prompt] = OwnStates(*(None if x is None else x.cpu().contiguous() for x in own))  # type: ignore[arg-type]
    return made


def write_texts(file: Path, encoder: Encoder, prompts: Sequence[str], *, overwrite: bool = False) -> Path:
    """Encodes prompts into a file, whole or not at all.

    Raises:
        ValueError: another ending than .safetensors; or, unless `overwrite`, something lies there that is more than
            states of these prompts; or it cannot be written.
    """
    if file.suffix != ".safetensors":
        raise ValueError(f"{file}: text states are kept in a .safetensors file; give it that ending")
    if not overwrite and file.exists() and (lost := _lost(file, prompts)):
        raise ValueError(f"{file}: is there already, and holds {lost}; name another file, or give --overwrite")
    maker = encoder.fingerprint()[:12]
    tensors = {
        f"{maker}{part and f'/{part}'} {prompt}": tensor
        for prompt, own in encode_texts(encoder, prompts).items()
        for part, tensor in own.tensors().items()
    }
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
    with whole(file) as scratch:
        save_file(tensors, scratch)
    return file


def _lost(file: Path, prompts: Sequence[str]) -> str:
    """What a file holds that would be gone; "" where it is nothing."""
    try:
        with safe_open(file, "pt") as tensors:
            keys = list(tensors.keys())
    except (OSError, SafetensorError):
        return "something else than text states"
    if not all(NAME.match(key) for key in keys):
        return "something else than text states"
    others = {key.partition(" ")[2] for key in keys} - set(prompts)
    return f"states of {len(others)} other prompts" if others else ""


def read_texts(file: Path, prompts: Iterable[str], width: int) -> tuple[dict[str, OwnStates], str]:
    """States of these prompts from a file, and 12 digits of the fingerprint of the encoder that made them.

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
            if lacking := [prompt for prompt in prompts if (maker, prompt) not in keys]:
                raise ValueError(f"{file}: {len(lacking)} prompts are not in it, first {lacking[0]!r}; {FIX}")
            names = {prompt: (keys[maker, prompt], keys.get((f"{maker}/pooled", prompt))) for prompt in prompts}
            states = {
                prompt: OwnStates(*(name and tensors.get_tensor(name) for name in both))  # type: ignore[arg-type]
                for prompt, both in names.items()
            }
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{file}: cannot be read as text states ({error}); {FIX}") from error
    found = [own.states for own in states.values()]
    if wrong := [one.shape[-1] for one in found if one.ndim != 2 or one.shape[-1] != width]:
        raise ValueError(f"{file}: its states are {wrong[0]} wide, of another encoder: this model reads {width}; {FIX}")
    return states, maker


def embeds_of(texts: Mapping[str, OwnStates], prompts: Sequence[str], negatives: Sequence[str]) -> dict[str, Tensor]:
    """Prompts and negative ones as `VideoDiTPipeline` takes them in their place."""
    told, untold = (told_in(padded([texts[prompt] for prompt in some])) for some in (prompts, negatives))
    return told | {f"negative_{name}": tensor for name, tensor in untold.items()}
