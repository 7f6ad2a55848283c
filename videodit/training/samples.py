"""What a run was trained on, kept with its checkpoints: data that changed meanwhile is told, not taken in silence.

A sample is two numbers: what is shown (its latent's name, which follows from the file's bytes, the stretch, the size
and the VAE), and what is said of it. So files that were replaced, added or taken out are counted apart from captions
that were written anew.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

FILE = "samples.safetensors"


class ChangedDataError(ValueError):
    """The data is not that of the checkpoint; the message counts what differs, and names the fix."""


def prints(samples: Iterable[tuple[str, str]]) -> Tensor:
    """Of (what is shown, what is said) of each sample, two numbers each: n 2, int64."""
    rows = [[_number(shown), _number(said)] for shown, said in samples]
    return torch.tensor(rows, dtype=torch.int64).reshape(-1, 2)


def save_prints(now: Tensor, folder: Path) -> None:
    save_file({"prints": now}, folder / FILE)


def check_unchanged(checkpoint: Path, now: Tensor, source: str) -> str | None:
    """In words, how the samples differ from those that a checkpoint was trained on; None: they do not, or who knows.

    One that was written before checkpoints knew their samples has none.
    """
    file = checkpoint / FILE
    if not file.is_file():
        return None
    before = load_file(file)["prints"]
    if torch.equal(before, now):
        return None
    (old, new), (shown, now_shown) = (
        [Counter(map(tuple, rows.tolist())) for rows in (before, now)],
        [Counter(rows[:, 0].tolist()) for rows in (before, now)],
    )
    gone, added = (shown - now_shown).total(), (now_shown - shown).total()
    told = (old - new).total() - gone
    counts = [f"{gone} of {len(before)} samples are gone"] if gone else []
    counts += [f"{added} are new"] if added else []
    counts += [f"{told} have other captions"] if told else []
    return f"{source}: {', '.join(counts) or 'the samples stand in another order'} since {checkpoint} was written"


def _number(words: str) -> int:
    return int.from_bytes(hashlib.sha256(words.encode(errors="surrogatepass")).digest()[:8], "big", signed=True)
