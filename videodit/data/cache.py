"""Latents and text states encoded once: what the transformer trains from.

`<folder>/index.json` tells what was encoded, under which key (data, codec, size); `shard_0000.safetensors` and so on
hold the latents. For each clip: `clip` c f h w, and `image`, its first frame encoded as an image, c 1 h w; both
normalized, float16. A shard is written whole or not at all, so that an interrupted encoding goes on where it was; a
cache made for other data or by another codec is an error, never silently used.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import PartialState
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from videodit.codec import VideoCodec
from videodit.config import Data
from videodit.data.source import Clips
from videodit.data.transforms import to_pixels
from videodit.text import TextEncoder, TextStates

SHARD = 256  # clips a file
BATCH = 8  # clips encoded at once


class CacheError(ValueError):
    """A cache that cannot be used; the message names the folder and the fix."""


@dataclass(frozen=True)
class Entry:
    """One encoded clip: its place in the shards, and its wordings as a clip and as an image."""

    shard: int
    row: int
    name: str
    captions: tuple[str, ...]
    image_captions: tuple[str, ...]


class LatentCache:
    """Encoded clips, read from memory-mapped shards.

    Raises:
        CacheError: the folder holds no complete cache for this key.
    """

    def __init__(self, folder: Path, key: str):
        try:
            index = json.loads((folder / "index.json").read_text())
        except (OSError, ValueError) as error:
            raise CacheError(f"{folder}: no complete cache here; run tools/encode.py with this config") from error
        if index["key"] != key:
            raise CacheError(
                f"{folder}: encoded from other data, another size or another VAE; delete it and run tools/encode.py"
            )
        self.skips: list[list[str]] = index["skips"]
        self.entries = [
            Entry(e["shard"], e["row"], e["name"], tuple(e["captions"]), tuple(e["image_captions"]))
            for e in index["entries"]
        ]
        self._shards = [safe_open(folder / f"shard_{i:04d}.safetensors", "pt") for i in range(index["shards"])]

    def __len__(self) -> int:
        return len(self.entries)

    def has_clip(self, index: int) -> bool:
        """Whether the entry is a clip; otherwise it is an image only."""
        entry = self.entries[index]
        return f"clip/{entry.row}" in self._shards[entry.shard].keys()  # noqa: SIM118

    def latent(self, index: int, image: bool) -> Tensor:
        """Normalized latent c f h w (an image: c 1 h w), float32."""
        entry = self.entries[index]
        return self._shards[entry.shard].get_tensor(f"{'image' if image else 'clip'}/{entry.row}").float()


class TextCache:
    """The states of captions, encoded once by an encoder that is not trained; called as the encoder is.

    Kept in one file of `float32` states `m e` under each caption's sha256, with the encoder's fingerprint. Captions
    that are not in it yet are added; a file of another encoder is encoded anew.
    """

    def __init__(self, file: Path, encoder: TextEncoder, captions: Iterable[str]):
        key = encoder.fingerprint()
        states: dict[str, Tensor] = {}
        if file.exists():
            with safe_open(file, "pt") as stored:
                if (stored.metadata() or {}).get("encoder") == key:
                    states = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        missing = sorted({c for c in captions if _digest(c) not in states})
        for first in tqdm(range(0, len(missing), BATCH), desc="encoding text", disable=not missing):
            part = missing[first : first + BATCH]
            with torch.no_grad():
                encoded, mask = encoder(part)
            for caption, one, real in zip(part, encoded, mask, strict=True):
                states[_digest(caption)] = one[real].float().cpu().contiguous()
        if missing:
            file.parent.mkdir(parents=True, exist_ok=True)
            _replace(file, lambda p: save_file(states, p, metadata={"encoder": key}))
        self._stored = safe_open(file, "pt")

    def __call__(self, prompts: list[str]) -> TextStates:
        """States b m e, zero where the mask b m is False, padded to the longest prompt."""
        states = [self._stored.get_tensor(_digest(prompt)) for prompt in prompts]
        mask = [torch.ones(len(s), dtype=torch.bool) for s in states]
        return TextStates(pad_sequence(states, batch_first=True), pad_sequence(mask, batch_first=True))


def _digest(caption: str) -> str:
    return hashlib.sha256(caption.encode()).hexdigest()


def cache_key(data: Data, seed: int, codec_fingerprint: str, part: str) -> str:
    """What a cache depends on: the data that decide its clips, the seed, the codec and the part."""
    no_matter = {"image_share", "max_bad_share", "memory_gb"}
    facts = data.model_dump(exclude=no_matter) | {"seed": seed, "codec": codec_fingerprint, "part": part}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


@torch.no_grad()
def encode_clips(clips: Clips, codec: VideoCodec, folder: Path, key: str, spans: int) -> LatentCache:
    """Encodes all clips into a cache folder, going on where an earlier call stopped. `spans`: draws of a longer file.

    Under `torchrun` or `accelerate launch` each process encodes its share of the shards.
    """
    state = PartialState(cpu=not torch.cuda.is_available())
    folder.mkdir(parents=True, exist_ok=True)
    stamp = folder / "key.txt"
    if stamp.exists() and stamp.read_text() != key:
        raise CacheError(f"{folder}: holds a cache of other data or another VAE; delete it, or choose another output")
    _replace(stamp, lambda p: p.write_text(key))
    if (folder / "index.json").exists():
        return LatentCache(folder, key)
    wanted = [(i, epoch) for i in range(len(clips)) for epoch in range(spans) if epoch == 0 or clips.varies(i)]
    shards = list(enumerate(range(0, len(wanted), SHARD)))
    listings = [folder / f"shard_{shard:04d}.json" for shard, _ in shards]
    with tqdm(total=len(wanted), desc=f"encoding {folder.name}", disable=not state.is_main_process) as bar:
        for shard, first in shards[state.process_index :: state.num_processes]:
            part = wanted[first : first + SHARD]
            if listings[shard].exists():
                bar.update(len(part))
                continue
            tensors, listing = _encode_shard(clips, codec, part, shard, bar)
            _replace(folder / f"shard_{shard:04d}.safetensors", lambda p, t=tensors: save_file(t, p))  # type: ignore[misc]
            _replace(listings[shard], lambda p, t=listing: p.write_text(json.dumps(t)))  # type: ignore[misc]
    state.wait_for_everyone()
    if state.is_main_process:
        parts = [json.loads(listing.read_text()) for listing in listings]
        index = {
            "key": key,
            "shards": len(shards),
            **{k: [x for part in parts for x in part[k]] for k in ("entries", "skips")},
        }
        _replace(folder / "index.json", lambda p: p.write_text(json.dumps(index)))
    state.wait_for_everyone()
    return LatentCache(folder, key)


def _encode_shard(
    clips: Clips, codec: VideoCodec, part: list[tuple[int, int]], shard: int, bar: tqdm
) -> tuple[dict[str, Tensor], dict[str, list[object]]]:
    """Tensors of a shard by name, and what the index says of it: `entries`, and `skips` as (where, why)."""
    tensors: dict[str, Tensor] = {}
    listing: dict[str, list[object]] = {"entries": [], "skips": []}
    waiting: list[tuple[int, Tensor]] = []

    def encode() -> None:
        pixels = torch.stack([p for _, p in waiting])
        latents = {"image": codec.encode(pixels[:, :, :1])}
        if pixels.shape[2] > 1:
            latents["clip"] = codec.encode(pixels)
        for kind, latent in latents.items():
            for (row, _), one in zip(waiting, latent, strict=True):
                tensors[f"{kind}/{row}"] = one.half().cpu().contiguous()
        waiting.clear()

    for row, (index, epoch) in enumerate(part):
        frames = clips.try_read(index, epoch)
        bar.update()
        if frames is None:
            listing["skips"].append([clips.skips[index].where, clips.skips[index].why])
            continue
        pixels = to_pixels(frames)
        if waiting and (len(waiting) == BATCH or waiting[0][1].shape != pixels.shape):
            encode()
        waiting.append((row, pixels))
        captions = {"captions": clips.captions(index, False), "image_captions": clips.captions(index, True)}
        listing["entries"].append({"shard": shard, "row": row, "name": clips.name(index), **captions})
    if waiting:
        encode()
    return tensors, listing


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Writes under a temporary name, then renames: whole or not there."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    write(scratch)
    scratch.replace(path)
