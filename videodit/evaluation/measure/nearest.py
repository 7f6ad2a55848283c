"""Which true clip is nearest to a clip, over all backgrounds and phases of its loop, and how near.

It answers two questions: whether a model shows what was asked, where true clips are known by name; and whether it only
remembers, for then some training clip is nearer than true clips are to each other.

A true clip may be transparent: pixels P with alpha A multiplied in. Before a ground g it shows P + (1 - A) g, and which
ground a model painted does not count, as long as it is a colour or a vertical gradient. So with M = 1 - A, rows y, and
the ground g = g_0 + g_1 y of each colour channel, the same in all frames, the distance of a clip X is

    min over phases s and g of  mean of (X_f - P_{f+s} - M_{f+s} (g_0 + g_1 y))^2

which is a least squares problem of two unknowns a channel: |E|^2 - b' G^-1 b with E = X - P, b_k = <M y^k, E> and
G_kl = <M y^k, M y^l>. Nothing is transparent: G is zero, and the distance that of pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import interpolate

FRAMES = 12  # of a clip that are compared, at even distances
SIDE = 32  # pixels
AT_ONCE = 64  # true clips
AMONG = 64  # true clips whose distance to the others is taken
CLOSE = 0.5  # of the median of these distances: a clip that is nearer is remembered
LITTLE = 1e-3  # of the frame: less that is clear is taken for none
DOUBLE = 1e-3  # a distance: what is nearer is the same clip again


@dataclass(frozen=True)
class Near:
    """A true clip by its place among them, the root mean square of the differences (0 to 1), and by how many of its
    `FRAMES` it is ahead."""

    index: int
    distance: float
    phase: int


@dataclass(frozen=True)
class TrueClip:
    """A true clip as it shows over black and over white, uint8 f h w 3 each; None: nothing of it is transparent.

    A loop is given without the last frame that is its first again.
    """

    over_black: np.ndarray
    over_white: np.ndarray | None = None


class TrueClips:
    """True clips, of any lengths and sizes, to compare with.

    sources: what each is a stretch of, once `clips` were asked for all; None: each is by itself.
    """

    def __init__(self, clips: Iterable[TrueClip], sources: Sequence[int] | None = None):
        parts = [_parts(clip) for clip in clips]
        none = torch.zeros(FRAMES, 2, SIDE * SIDE)
        self._shown = torch.stack([shown for shown, _ in parts]) if parts else torch.empty(0, FRAMES, 3, SIDE * SIDE)
        clear = [none if one is None else one for _, one in parts]  # n f k p; in no memory where nothing is clear
        opaque = all(one is None for _, one in parts)
        self._clear = none.expand(len(parts), *none.shape) if opaque else torch.stack(clear)
        self._sources = range(len(parts)) if sources is None else sources
        flat = self._clear.double()
        gram = torch.einsum("nfkp,nflp->nkl", flat, flat)
        small = gram[:, 0, 0] < LITTLE * flat.shape[1] * flat.shape[3]
        gram[small] = torch.eye(2, dtype=gram.dtype)
        inverse = torch.linalg.inv(gram + 1e-6 * torch.eye(2, dtype=gram.dtype) * gram[:, :1, :1])
        inverse[small] = 0
        self._inverse = inverse.float()
        self._norm = self._shown.square().sum(dim=(1, 2, 3))
        self._seen = torch.einsum("nfkp,nfcp->nkc", self._clear, self._shown)

    def __len__(self) -> int:
        return len(self._shown)

    def nearest(self, clip: np.ndarray, count: int = 1) -> list[Near]:
        """The `count` nearest of all, the nearest first, to a clip uint8 f h w 3."""
        return self._nearest(_frames(clip), count)

    @cached_property
    def apart(self) -> float:
        """How far true clips are from the nearest other, in the median over `AMONG` of them; stretches of the same,
        and the same clip again, are no others. 0 where there are none."""
        chosen = sorted({round(i) for i in np.linspace(0, len(self) - 1, min(AMONG, len(self)))})
        nearest = [self._to_another(index) for index in chosen]
        return float(np.median([distance for distance in nearest if distance is not None] or [0.0]))

    @property
    def close(self) -> float:
        """What is nearer to a true clip is remembered: half of `apart`; 0 where nothing is known."""
        return CLOSE * self.apart

    def _to_another(self, index: int) -> float | None:
        near = self._nearest(self._shown[index], count=len(self))
        others = (one.distance for one in near if self._sources[one.index] != self._sources[index])
        return next((distance for distance in others if distance > DOUBLE), None)

    def _nearest(self, ours: Tensor, count: int) -> list[Near]:
        found = [self._distances(ours, slice(at, at + AT_ONCE)) for at in range(0, len(self), AT_ONCE)]
        squares = torch.cat(found) / ours.numel()
        best, phases = squares.min(dim=1)
        order = best.argsort(stable=True)[:count].tolist()
        return [Near(i, float(best[i].clamp(min=0).sqrt()), int(phases[i])) for i in order]

    def ground(self, clip: np.ndarray, near: Near) -> tuple[np.ndarray, np.ndarray]:
        """Before what a clip shows that true one: colours at the top and at the bottom, 0 to 1, by least squares."""
        one = slice(near.index, near.index + 1)
        seen = self._clear[one].roll(-near.phase, dims=1)
        errors = _frames(clip) - self._shown[one].roll(-near.phase, dims=1)
        ground = torch.einsum("nkl,nflp,nfcp->kc", self._inverse[one], seen, errors)
        return (ground[0] - ground[1]).numpy(), (ground[0] + ground[1]).numpy()

    def change(self, clip: np.ndarray, index: int, top: Sequence[float], bottom: Sequence[float]) -> float:
        """How much a clip changes from frame to frame, over how much that true one does before such a ground. Noise is
        change too, where it differs from frame to frame."""
        true = self._before(index, top, bottom)
        ours, theirs = (float(frames.diff(dim=0).abs().mean()) for frames in (_frames(clip), true))
        return ours / max(theirs, 1e-6)

    def alike(self, clip: np.ndarray, near: Near) -> float:
        """How alike a clip and a true one change, in that phase and before the ground of the clip: the correlation of
        what each is beside its own mean over time, -1 to 1. Noise is like nothing; what stands still has 0."""
        true = self._before(near.index, *self.ground(clip, near)).roll(-near.phase, dims=0)
        ours, theirs = (frames - frames.mean(dim=0) for frames in (_frames(clip), true))
        return float((ours * theirs).sum() / (ours.norm() * theirs.norm()).clamp(min=1e-6))

    def _before(self, index: int, top: Sequence[float] | np.ndarray, bottom: Sequence[float] | np.ndarray) -> Tensor:
        """A true clip before a ground of these colours at the top and at the bottom, f c p."""
        down = torch.linspace(0, 1, SIDE).repeat_interleave(SIDE)
        above, below = (torch.as_tensor(colour, dtype=torch.float32)[:, None] for colour in (top, bottom))
        return self._shown[index] + self._clear[index][:, :1] * (above * (1 - down) + below * down)

    def _distances(self, ours: Tensor, some: slice) -> Tensor:
        """Sums of squares by true clip and phase: n s."""
        shown, clear = self._shown[some], self._clear[some]
        both = _over_phases(torch.einsum("fcp,ngcp->nfg", ours, shown)[:, None, None])[:, 0, 0]  # n s
        errors = ours.square().sum() - 2 * both + self._norm[some, None]
        seen = _over_phases(torch.einsum("fcp,ngkp->nkcfg", ours, clear)) - self._seen[some, ..., None]  # n k c s
        return errors - torch.einsum("nkcs,nkl,nlcs->ns", seen, self._inverse[some], seen)


def _over_phases(pairs: Tensor) -> Tensor:
    """Sums over f of n k c f (f + s), for each s: n k c s."""
    frames = pairs.shape[-1]
    place = torch.arange(frames)
    return torch.stack([pairs[..., place, (place + s) % frames].sum(dim=-1) for s in range(frames)], dim=-1)


def _parts(clip: TrueClip) -> tuple[Tensor, Tensor | None]:
    """Pixels with alpha multiplied in, f c p, and what is clear, times 1 and times rows from -1 to 1, f 2 p."""
    black = _frames(clip.over_black)
    if clip.over_white is None:
        return black, None
    clear = (_frames(clip.over_white) - black).mean(dim=1, keepdim=True)
    rows = torch.linspace(-1, 1, SIDE).repeat_interleave(SIDE)
    return black, torch.cat([clear, clear * rows], dim=1)


def _frames(clip: np.ndarray) -> Tensor:
    """`FRAMES` of uint8 f h w 3 at `SIDE`, f c p, 0 to 1."""
    if clip.dtype != np.uint8 or clip.ndim != 4 or clip.shape[-1] != 3 or not all(clip.shape):
        raise ValueError(f"a clip is uint8 f h w 3, not {clip.dtype} {clip.shape}")
    chosen = torch.from_numpy(clip[np.arange(FRAMES) * len(clip) // FRAMES])
    pixels = rearrange(chosen.float() / 255, "f h w c -> f c h w")
    return interpolate(pixels, (SIDE, SIDE), mode="area" if min(clip.shape[1:3]) >= SIDE else "nearest").flatten(2)


def in_halves(clip: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The squares in the middle of a clip's left and right halves: two things side by side."""
    _, height, width, _ = clip.shape
    side = min(height, width // 2)
    top = (height - side) // 2
    rows = clip[:, top : top + side]
    return rows[:, :, :side], rows[:, :, width - side :]
