"""What a model is told of the frames before a window: the older they are, the fewer tokens they get, and of all
together there is a bounded number (FramePack, Zhang & Agrawala 2025, arXiv 2504.12626).

The newest latent frame has a token a place, the two before it one for 2 x 2 places, the four before these one for 4 by
4, and all that is older one for each quarter of the picture, of its mean over time. A token is what lies there, and
where.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

PACKED = ((1, 1), (2, 2), (4, 4))  # so many frames, from the newest on, of places so many a side
WAVES = 4  # of row and column each, and of the age
WHERE = 6 * WAVES + 1


def past_width(channels: int) -> int:
    """Numbers of a token, of latents of so many channels."""
    return channels + WHERE


def past_tokens(latents: Tensor) -> Tensor:
    """Latents c f h w of the frames before a window, oldest first, normalized -> m c', float32; none of no frames."""
    _, f, h, w = latents.shape
    parts, end = [], f
    for count, side in PACKED:
        for number in range(end - 1, max(end - count, 0) - 1, -1):
            size = (-(-h // side), -(-w // side))
            parts.append(_tokens(adaptive_avg_pool2d(latents[:, number].float(), size), f - 1 - number))
        end = max(end - count, 0)
    if end:
        older = latents[:, :end].float().mean(dim=1)
        parts.append(_tokens(adaptive_avg_pool2d(older, (min(h, 2), min(w, 2))), f - 1 - (end - 1) / 2))
    return torch.cat(parts) if parts else latents.new_zeros(0, past_width(len(latents))).float()


def _tokens(frame: Tensor, age: float) -> Tensor:
    """Of a picture c h w that ended so many latent frames before the window: h w tokens."""
    _, h, w = frame.shape
    rows, columns = ((torch.arange(n, device=frame.device) + 0.5) / n for n in (h, w))
    old = torch.full((h, w), math.log2(1 + age), device=frame.device)
    grid = torch.stack([rows[:, None].expand(h, w), columns[None].expand(h, w), old / 8], dim=-1)
    angles = grid[..., None] * (math.pi * 2.0 ** torch.arange(WAVES, device=frame.device))
    where = torch.cat([angles.sin().flatten(2), angles.cos().flatten(2), old[..., None] / 8], dim=-1)
    return torch.cat([frame.movedim(0, -1), where], dim=-1).flatten(0, 1)
