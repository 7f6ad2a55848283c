"""Large pictures from a model of smaller ones: each step is predicted tile by tile, and the tiles blended.

As MultiDiffusion does it (Bar-Tal et al. 2023, arXiv 2302.08113): what tiles share is the mean of what each predicts of
it, weighted by the distance to the tile's edge, so that nothing changes at once where a tile ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tiles:
    """Squares of `side` places, which share `overlap` at least with the next; both whole patches of `patch` places."""

    side: int
    overlap: int
    patch: int = 1

    @classmethod
    def of_call(cls, pipe: Any, tile_size: int, factor: float) -> Tiles:
        """Of a pipeline's call.

        Raises:
            ValueError: a size that the model cannot do, or tiles that share nothing, or all; a feature cache.
        """
        patch = pipe.transformer.patch_size[1]
        if not 0 < factor < 1:
            raise ValueError(f"tile_overlap_factor={factor} must be above 0 and below 1")
        if pipe.transformer.is_cache_enabled:
            raise ValueError("tile_size does not go with a feature cache: take one of them out")
        side = pipe.strides.latent_side(tile_size, "tile_size", patch)
        shared = max(1, round(side * factor / patch)) * patch
        if shared >= side:
            raise ValueError(f"tile_size={tile_size}: a tile of one patch shares all with the next; take a larger one")
        return cls(side, shared, patch)

    def starts(self, length: int) -> list[int]:
        """Where tiles begin along a side of so many places: as few as can be, at even distances."""
        room = length - self.side
        if room <= 0:
            return [0]
        count = -(-room // (self.side - self.overlap)) + 1
        return [round(number * room / (count - 1) / self.patch) * self.patch for number in range(count)]

    def shares(self, length: int) -> Tensor:
        """Of a tile's places, h w: how much each counts. A side of `length` that is not cut counts alike."""
        ramp = torch.arange(1, length + 1).clamp(max=self.overlap)
        return torch.minimum(ramp, ramp.flip(0)).float() / self.overlap

    def cut(self, height: int, width: int) -> Iterator[tuple[slice, slice]]:
        for top in self.starts(height):
            for left in self.starts(width):
                yield slice(top, top + self.side), slice(left, left + self.side)

    def over(self, model: Any) -> Any:
        """The model, such that it predicts tile by tile."""
        return Tiled(model, self)


class Tiled:
    """A model that is called with latents b c f h w of any size and sees tiles, with what it is told of each."""

    def __init__(self, model: Any, tiles: Tiles):
        self.model, self.tiles = model, tiles

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def __call__(self, latents: Tensor, times: Tensor, **told: Any) -> tuple[Tensor]:
        height, width = latents.shape[-2:]
        if max(height, width) <= self.tiles.side:
            return self.model(latents, times, **told)
        total = weights = torch.zeros((), device=latents.device)
        for rows, columns in self.tiles.cut(height, width):
            part = latents[..., rows, columns]
            made = self.model(part, times, **self._told(told, rows, columns))[0].float()
            share = torch.outer(*(self.tiles.shares(side) for side in part.shape[-2:])).to(made)
            edges = (
                columns.start,
                width - columns.start - part.shape[-1],
                rows.start,
                height - rows.start - part.shape[-2],
            )
            total = total + torch.nn.functional.pad(made * share, edges)
            weights = weights + torch.nn.functional.pad(share, edges)
        return (total / weights,)

    @staticmethod
    def _told(told: dict[str, Any], rows: slice, columns: slice) -> dict[str, Any]:
        """With maps beside the latent cut as it is."""
        if not told.get("conditions"):
            return told
        cut = {name: one[..., rows, columns] if one.ndim == 5 else one for name, one in told["conditions"].items()}
        return told | {"conditions": cut}
