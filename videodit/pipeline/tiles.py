"""Large pictures from a model of smaller ones: each step is predicted tile by tile, and the tiles blended.

As MultiDiffusion does it (Bar-Tal et al. 2023, arXiv 2302.08113): what tiles share is the mean of what each predicts of
it, weighted by the distance to the tile's edge, so that nothing changes at once where a tile ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from videodit.geometry import ClipSize


@dataclass(frozen=True)
class Side:
    """A side of tiles: of `length` places, of which `overlap` at least are the next one's too; both whole patches."""

    length: int
    overlap: int
    patch: int = 1

    def starts(self, whole: int) -> list[int]:
        """Where tiles begin along so many places: as few as can be, at even distances."""
        room = whole - self.length
        if room <= 0:
            return [0]
        count = -(-room // (self.length - self.overlap)) + 1
        return [round(number * room / (count - 1) / self.patch) * self.patch for number in range(count)]

    def shares(self, length: int) -> Tensor:
        """Of a tile's places, how much each counts."""
        ramp = torch.arange(1, length + 1).clamp(max=self.overlap)
        return torch.minimum(ramp, ramp.flip(0)).float() / self.overlap


@dataclass(frozen=True)
class Tiles:
    """Of a picture's rows and columns; `size` in pixels, height and width."""

    rows: Side
    columns: Side
    size: tuple[int, int]

    @classmethod
    def of_call(cls, pipe: Any, tile_size: int | tuple[int, int], factor: float) -> Tiles:
        """Of a pipeline's call.

        Raises:
            ValueError: a size that the model cannot do, or tiles that share nothing, or all; a feature cache, or a
                model that holds a past.
        """
        model = pipe.transformer
        if not 0 < factor < 1:
            raise ValueError(f"tile_overlap_factor={factor} must be above 0 and below 1")
        if model.is_cache_enabled:
            raise ValueError("tile_size does not go with a feature cache: take one of them out")
        if getattr(model, "past", None) is not None:
            raise ValueError("tile_size: a model that goes on from what it remembers does so of whole pictures only")
        size = (tile_size, tile_size) if isinstance(tile_size, int) else (tile_size[0], tile_size[1])
        sides = []
        for pixels, patch in zip(size, model.patch_size[1:], strict=True):
            length = pipe.strides.latent_side(pixels, "tile_size", patch)
            shared = max(1, round(length * factor / patch)) * patch
            if shared >= length:
                raise ValueError(f"tile_size={pixels}: a tile of one patch shares all with the next; take a larger one")
            sides.append(Side(length, shared, patch))
        return cls(sides[0], sides[1], size)

    def seen(self, size: ClipSize) -> ClipSize:
        """What the model sees of a clip at once."""
        height, width = map(min, (size.height, size.width), self.size)
        return replace(size, height=height, width=width)

    def cut(self, height: int, width: int) -> Iterator[tuple[slice, slice]]:
        for top in self.rows.starts(height):
            for left in self.columns.starts(width):
                yield slice(top, top + self.rows.length), slice(left, left + self.columns.length)

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
        if height <= self.tiles.rows.length and width <= self.tiles.columns.length:
            return self.model(latents, times, **told)
        total = weights = torch.zeros((), device=latents.device)
        for rows, columns in self.tiles.cut(height, width):
            part = latents[..., rows, columns]
            made = self.model(part, times, **self._told(told, rows, columns))[0].float()
            share = torch.outer(self.tiles.rows.shares(part.shape[-2]), self.tiles.columns.shares(part.shape[-1]))
            right, below = width - columns.start - part.shape[-1], height - rows.start - part.shape[-2]
            edges = (columns.start, right, rows.start, below)
            total = total + torch.nn.functional.pad(made * share.to(made), edges)
            weights = weights + torch.nn.functional.pad(share.to(made), edges)
        return (total / weights,)

    @staticmethod
    def _told(told: dict[str, Any], rows: slice, columns: slice) -> dict[str, Any]:
        """With maps beside the latent cut as it is."""
        if not told.get("conditions"):
            return told
        cut = {name: one[..., rows, columns] if one.ndim == 5 else one for name, one in told["conditions"].items()}
        return told | {"conditions": cut}
