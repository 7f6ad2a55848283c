"""How data turns into noise: the paths x_t = alpha_t x_0 + sigma_t n along which latents x_0 and noise n are mixed.

Kingma et al. 2021 (arXiv 2107.00630), sec. 3.1. t = 0 is data, t = 1 (or the last index) is noise.

Axes: latents are `b c f h w`; t is `b`, or `b f` where frames have times of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor


class Path:
    """How data turns into noise: the coefficients of x_t = alpha_t x_0 + sigma_t noise."""

    def alpha(self, t: Tensor) -> Tensor:
        """Share of the data in x_t, in [0, 1], of the shape of t."""
        raise NotImplementedError

    def sigma(self, t: Tensor) -> Tensor:
        """Share of the noise in x_t, in [0, 1], of the shape of t."""
        raise NotImplementedError

    def model_time(self, t: Tensor) -> Tensor:
        """What the network and the diffusers schedulers call the timestep of t."""
        raise NotImplementedError

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t (b c f h w) from x_0 and noise of that shape, at times t (b, or b f)."""
        same_shape(x0=x0, noise=noise)
        return over(x0, self.alpha(t)) * x0 + over(x0, self.sigma(t)) * noise


@dataclass(frozen=True)
class FlowPath(Path):
    """The straight path of flow matching: alpha = 1 - t, sigma = t, with t in [0, 1], float32 or float64.

    Liu et al. 2022 (arXiv 2209.03003), eq. 1, with time running from data to noise as in Esser et al. 2024
    (arXiv 2403.03206) and in diffusers' `FlowMatchEulerDiscreteScheduler`. The network's timestep is 1000 t.

    Raises:
        ValueError: from every method, if t is of half precision (which tells only half of 1000 steps apart) or integer.
    """

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - _exact_float(t)

    def sigma(self, t: Tensor) -> Tensor:
        return _exact_float(t)

    def model_time(self, t: Tensor) -> Tensor:
        return 1000 * _exact_float(t)


@dataclass(frozen=True, eq=False)
class DiffusionPath(Path):
    """The variance-preserving path of a noise schedule: alpha^2 = alphas_cumprod[t], sigma^2 = 1 - alphas_cumprod[t].

    Ho et al. 2020 (arXiv 2006.11239), eq. 4. t is an integer index in [0, T); the network's timestep is that index.

    Args:
        alphas_cumprod: (T,) float32 or float64, falling from near 1 to near (or, with zero terminal SNR, to) 0.

    Raises:
        ValueError: if alphas_cumprod is not such a tensor, and from every method, if t is not of an integer type.
    """

    alphas_cumprod: Tensor

    def __post_init__(self) -> None:
        if self.alphas_cumprod.ndim != 1 or len(self.alphas_cumprod) < 2:
            raise ValueError(f"alphas_cumprod must be (T,) with T >= 2, but is {tuple(self.alphas_cumprod.shape)}.")
        _exact_float(self.alphas_cumprod, "alphas_cumprod")

    @classmethod
    def from_scheduler(cls, scheduler: Any) -> DiffusionPath:
        """The path that a diffusers scheduler (DDPM, DDIM, DPM++, UniPC, ...) was made for.

        Raises:
            ValueError: if the scheduler runs on flow sigmas or has no `alphas_cumprod`: its path is `FlowPath()`.
        """
        flow = getattr(scheduler.config, "use_flow_sigmas", False)
        if flow or getattr(scheduler, "alphas_cumprod", None) is None:
            raise ValueError(f"{type(scheduler).__name__} follows no alphas_cumprod schedule: use FlowPath() with it.")
        return cls(scheduler.alphas_cumprod)

    def alpha(self, t: Tensor) -> Tensor:
        return self._alphas_cumprod_at(t).sqrt()

    def sigma(self, t: Tensor) -> Tensor:
        return (1 - self._alphas_cumprod_at(t)).sqrt()

    def model_time(self, t: Tensor) -> Tensor:
        return _index(t)

    def _alphas_cumprod_at(self, t: Tensor) -> Tensor:
        return self.alphas_cumprod.to(t.device)[_index(t)]

    def posterior(self, t: Tensor) -> Posterior:
        """The step back q(x_{t-1} | x_t, x_0), in float64 (Ho et al. 2020, eqs. 6 and 7), in the shape of t."""
        alphas_cumprod = self.alphas_cumprod.to(t.device, torch.float64)
        before = torch.cat([alphas_cumprod.new_ones(1), alphas_cumprod[:-1]])
        beta = 1 - alphas_cumprod / before
        variance = beta * (1 - before) / (1 - alphas_cumprod)
        variance[0] = variance[1]  # it is 0 at t = 0, where the logarithm of the next one stands in
        x0_share = before.sqrt() * beta / (1 - alphas_cumprod)
        return Posterior(*(table[_index(t)] for table in (x0_share, variance.log(), beta.log())))


class Posterior(NamedTuple):
    """One reverse step: the weight of x_0 in its mean, and the two ends of the learned range of log variances."""

    x0_share: Tensor
    log_variance: Tensor
    log_beta: Tensor


# -------------------------------------------------------------------------------------------------------------- parts


def over(x: Tensor, value: Tensor) -> Tensor:
    """A value per sample (b) or per frame (b f), laid out to multiply x (b c f h w)."""
    return rearrange(of_frames(x, value), "b f -> b 1 f 1 1")


def of_frames(x: Tensor, value: Tensor) -> Tensor:
    """A value per sample (b) as b 1; a value per frame (b f) as it is."""
    if x.ndim != 5:
        raise ValueError(
            f"Expected latents of shape b c f h w, but got {tuple(x.shape)}; an image is a clip with f = 1."
        )
    b, _, f, _, _ = x.shape
    if value.shape == (b,):
        return rearrange(value, "b -> b 1")
    if value.shape == (b, f):
        return value
    raise ValueError(
        f"Times and weights are one a sample, ({b},), or one a frame, ({b}, {f}), for latents {tuple(x.shape)}, but "
        f"have shape {tuple(value.shape)}."
    )


def same_shape(**tensors: Tensor) -> None:
    """ValueError unless all have one shape; names each."""
    if len({tensor.shape for tensor in tensors.values()}) > 1:
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items())
        raise ValueError(f"These must have one shape (b c f h w): {shapes}.")


def _exact_float(t: Tensor, name: str = "t") -> Tensor:
    if t.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"{name} must be float32 or float64 (halves lose steps), but is {t.dtype}: pass {name}.float()."
        )
    return t


def _index(t: Tensor) -> Tensor:
    if t.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"On a DiffusionPath t is an index (int64), but is {t.dtype}: see times.index_from_time.")
    return t
