"""Flow maps: u(x_t, t, r), the mean velocity on the way from time t down to r, so that few steps make a clip.

Where v(x, t) = dx/dt is the velocity of a flow, x_r = x_t - (t - r) u(x_t, t, r) lies on the same way as x_t. At r = t
the map is v itself, so that one network is both. Along the way, with r held, d/dt [(t - r) u] = v, and so

    u = v - (t - r) du/dt            du/dt = (u at t + h and x_t + h v, less u at t - h and x_t - h v) / 2h

(MeanFlow, Geng et al. 2025, arXiv 2505.13447, eq. 6, there by a Jacobian product; Shortcut models, Frans et al. 2024,
arXiv 2410.12557; AnyFlow, Gu et al. 2026, arXiv 2605.13724). A difference in place of the product needs no more of a
network than calls, so that fused attention, sharding and compiled blocks stay as they are.

Times are those of `FlowPath`, in [0, 1], `b`, or `b f` where frames have times of their own; latents are `b c f h w`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .paths import over

# h: the error of the difference falls as its square, but answers of a network are rough from one time to the next: the
# packaged model's slope at t = 0.1 has a mean square of 147 at 1e-3, 18 at 4e-3, 7.5 at 1e-2 and 7.6 at 3e-2
HALF = 1e-2


def map_target(
    u: Callable[[Tensor, Tensor], Tensor], x_t: Tensor, t: Tensor, r: Tensor, velocity: Tensor, half: float = HALF
) -> Tensor:
    """What u(x_t, t, r) should be by its own slope: velocity - (t - r) du/dt, without gradients, b c f h w.

    Args:
        u: the map at other places and times, towards the same r; called twice, whatever the times: in another process
            they are others, and calls of split weights are made together.
        x_t, velocity: b c f h w; the velocity is zero on frames that are given, which stay where they are.
        t, r: b, or b f; 0 <= r <= t <= 1.
        half: h. The way goes on a little above t = 1. Within h of r the difference is taken from r on, where t - r is
            no more than h, and so its error h^2 too.

    Raises:
        ValueError: an r above its t.
    """
    if bool((r > t).any()):
        raise ValueError(f"r = {float(r[r > t][0])} lies above t = {float(t[r > t][0])}: a map leads down to data")
    with torch.no_grad():
        late, early = t + half, torch.maximum(t - half, r)
        after = u(x_t + over(x_t, late - t) * velocity, late)
        before = u(x_t - over(x_t, t - early) * velocity, early)
        return velocity - over(x_t, t - r) * (after - before) / over(x_t, late - early)


def towards(t: Tensor, other: Tensor, same: Tensor) -> tuple[Tensor, Tensor]:
    """Two times drawn alike as the pair (t, r) of a map: the later one first; where `same`, r is t.

    t, other: b, or b f. same: b, bool.
    """
    late, early = torch.maximum(t, other), torch.minimum(t, other)
    same = same.reshape(-1, *[1] * (t.ndim - 1))
    return torch.where(same, t, late), torch.where(same, t, early)


def tamed(error: Tensor, floor: float = 1e-2) -> Tensor:
    """Each sample's error, b, whose gradient is that of error / (error + floor), with what stands below held.

    So that no sample, of those whose way bends most, outweighs all others (MeanFlow, eq. 22, with p = 1).
    """
    weighted = error / (error.detach() + floor)
    return error.detach() + weighted - weighted.detach()
