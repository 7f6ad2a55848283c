"""What captions are encoded to, each once, beside the latents (`cache`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from accelerate import PartialState
from torch import Tensor
from tqdm import tqdm

from videodit.data.store import BATCH, SHARD, Store, hashed, shared
from videodit.text import FamilyText, OwnStates, TextEncoder, TextStates, padded


class TextCache:
    """What captions are encoded to, float32, each once, by an encoder that is not trained; called as it is."""

    def __init__(self, folder: Path, encoder: TextEncoder | FamilyText, captions: Iterable[str]):
        state = PartialState(cpu=not torch.accelerator.is_available())
        self._encoder = encoder.fingerprint()
        self.store = Store(folder / f"text-{self._encoder[:12]}")
        todo = [c for c in sorted(set(captions)) if self.store.missing([self._name(c)])]
        shards = shared([todo[i : i + SHARD] for i in range(0, len(todo), SHARD)], state)
        for shard in tqdm(shards, desc="encoding text", disable=not shards or not state.is_main_process):
            parts = [shard[i : i + BATCH] for i in range(0, len(shard), BATCH)]
            self.store.add({name: tensor for part in parts for name, tensor in self._encoded(encoder, part)})
        state.wait_for_everyone()
        self.store.scan()

    def __call__(self, prompts: list[str]) -> TextStates:
        """States b m e, zero where the mask b m is False, padded to the longest prompt, and pooled ones."""
        return padded([OwnStates(self.store[self._name(p)], self._pooled(p)) for p in prompts])

    def _pooled(self, caption: str) -> Tensor | None:
        name = self._name(caption, "pooled")
        return None if self.store.missing([name]) else self.store[name]

    def _name(self, caption: str, part: str = "") -> str:
        return hashed(self._encoder, caption) + part

    @torch.no_grad()
    def _encoded(self, encoder: TextEncoder | FamilyText, captions: Sequence[str]) -> Iterable[tuple[str, Tensor]]:
        for caption, own in zip(captions, encoder(list(captions)).each(), strict=True):
            for part, tensor in own.tensors().items():
                yield self._name(caption, part), tensor.float().cpu().contiguous()
