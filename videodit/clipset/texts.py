"""States of a set's prompts, encoded before any clip is made: then the text encoder may go, or need not come at all.

Each prompt is encoded by itself, so its states are the same whatever it is asked for with. In a file, a safetensors, a
prompt's name is the first 12 digits of its encoder's fingerprint, a space, and the prompt's words.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from videodit.clipset.requests import Request
from videodit.conditions import encoded
from videodit.text import TextEncoder, padded

FIX = "write it with --encode-text, with the same model and prompts"


def prompts_of(requests: Sequence[Request]) -> list[str]:
    """All that is to be encoded for these clips, negative prompts too, once each."""
    return list(dict.fromkeys(text for one in requests for text in (one.prompt, one.negative_prompt)))


@torch.no_grad()
def encode_texts(encoder: TextEncoder, prompts: Iterable[str]) -> dict[str, Tensor]:
    """States `m e` of each prompt, on the CPU, in the encoder's precision."""
    return {prompt: encoded(encoder, [prompt]).states[0].cpu().contiguous() for prompt in prompts}


def write_texts(file: Path, encoder: TextEncoder, prompts: Iterable[str]) -> Path:
    """Encodes prompts into a file, whole or not at all."""
    maker = encoder.fingerprint()[:12]
    tensors = {f"{maker} {prompt}": states for prompt, states in encode_texts(encoder, prompts).items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    scratch = file.with_name(f".{file.name}.{os.getpid()}")
    save_file(tensors, scratch)
    scratch.replace(file)
    return file


def read_texts(file: Path, prompts: Iterable[str], width: int) -> tuple[dict[str, Tensor], str]:
    """States of these prompts from a file, and 12 digits of the fingerprint of the encoder that made them.

    Args:
        width: e, of the states that the model reads. Whether they are of its own encoder, and not of another one that
            is as wide, cannot be known without that encoder.

    Raises:
        ValueError: no such file, a prompt that is not in it, another width; names the file and the fix.
    """
    try:
        with safe_open(file, "pt") as tensors:
            keys = {prompt: key for key in tensors.keys() for prompt in [key.partition(" ")[2]]}  # noqa: SIM118
            if lacking := [prompt for prompt in prompts if prompt not in keys]:
                raise ValueError(f"{file}: {len(lacking)} prompts are not in it, first {lacking[0]!r}; {FIX}")
            states = {prompt: tensors.get_tensor(keys[prompt]) for prompt in prompts}
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{file}: cannot be read as text states ({error}); {FIX}") from error
    if wrong := [one.shape[-1] for one in states.values() if one.ndim != 2 or one.shape[-1] != width]:
        raise ValueError(f"{file}: its states are {wrong[0]} wide, of another encoder: this model reads {width}; {FIX}")
    return states, next(iter(keys.values())).partition(" ")[0]


def embeds_of(texts: Mapping[str, Tensor], prompts: Sequence[str], negatives: Sequence[str]) -> dict[str, Tensor]:
    """Prompts and negative ones as `VideoDiTPipeline` takes them in their place."""
    told, mask = padded([texts[prompt] for prompt in prompts])
    untold, hidden = padded([texts[prompt] for prompt in negatives])
    return {
        "prompt_embeds": told,
        "prompt_attention_mask": mask,
        "negative_prompt_embeds": untold,
        "negative_prompt_attention_mask": hidden,
    }
