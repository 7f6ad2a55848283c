"""What the network is asked to predict, and how its error is judged.

Clean latents x_0 and noise n of unit variance are mixed along a path (Kingma et al. 2021, arXiv 2107.00630, sec. 3.1)

    x_t = alpha_t x_0 + sigma_t n                t = 0 is data, t = 1 (or the last index) is noise

with `FlowPath` (alpha = 1 - t, sigma = t; Liu et al. 2022, arXiv 2209.03003) or `DiffusionPath` (alpha^2 + sigma^2 = 1
on the indices of a noise schedule; Ho et al. 2020, arXiv 2006.11239). The network may be trained to predict any of

    flow          n - x_0                        the velocity dx_t/dt of the flow path
    epsilon       n
    v_prediction  alpha_t n - sigma_t x_0        Salimans & Ho 2022, arXiv 2202.00512, app. D
    sample        x_0

which, x_t being known, are linear maps of each other: `to_x0` and `to_noise` undo `target`.

Axes: latents and everything of their shape are `b c f h w`; t is `b`, or `b f` where frames have times of their own.
Arithmetic is in the wider of float32 and the inputs' precision, so bfloat16 latents give float32 results.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, NoReturn, get_args

import torch
from einops import rearrange, reduce
from torch import Tensor

PredictionType = Literal["flow", "epsilon", "v_prediction", "sample"]


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
        _same_shape(x0=x0, noise=noise)
        return _over(x0, self.alpha(t)) * x0 + _over(x0, self.sigma(t)) * noise


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

    def _posterior(self, t: Tensor) -> Posterior:
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


# ------------------------------------------------------------------------------------ what to predict, and back again


def target(path: Path, prediction_type: PredictionType, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """What the network should have said, `b c f h w`, for x_0 and noise of that shape at times t (b, or b f).

    Raises:
        ValueError: if the prediction type is unknown, or shapes do not fit each other.
    """
    _same_shape(x0=x0, noise=noise)
    match prediction_type:
        case "flow":
            return noise - x0
        case "epsilon":
            return noise
        case "sample":
            return x0
        case "v_prediction":
            return _over(x0, path.alpha(t)) * noise - _over(x0, path.sigma(t)) * x0
    _unknown(prediction_type)


def to_x0(path: Path, prediction_type: PredictionType, prediction: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """The x_0 that a prediction implies, given the x_t it was made from; all `b c f h w`, t is b or b f.

    Where alpha_t = 0, x_t holds nothing of x_0, and an epsilon prediction implies none: the result is then not finite,
    rather than a wrong number. The other types have an answer at every t.

    Raises:
        ValueError: if the prediction type is unknown, or shapes do not fit each other.
    """
    _same_shape(prediction=prediction, x_t=x_t)
    alpha, sigma = _over(x_t, path.alpha(t)), _over(x_t, path.sigma(t))
    match prediction_type:
        case "flow":
            return (x_t - sigma * prediction) / (alpha + sigma)
        case "epsilon":
            return (x_t - sigma * prediction) / alpha
        case "sample":
            return prediction
        case "v_prediction":
            return (alpha * x_t - sigma * prediction) / (alpha**2 + sigma**2)
    _unknown(prediction_type)


def to_noise(path: Path, prediction_type: PredictionType, prediction: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """The noise that a prediction implies, given the x_t it was made from; all `b c f h w`, t is b or b f.

    Where sigma_t = 0, x_t holds no noise, and a sample prediction implies none: the result is then not finite. The
    other types have an answer at every t.

    Raises:
        ValueError: if the prediction type is unknown, or shapes do not fit each other.
    """
    _same_shape(prediction=prediction, x_t=x_t)
    alpha, sigma = _over(x_t, path.alpha(t)), _over(x_t, path.sigma(t))
    match prediction_type:
        case "flow":
            return (x_t + alpha * prediction) / (alpha + sigma)
        case "epsilon":
            return prediction
        case "sample":
            return (x_t - alpha * prediction) / sigma
        case "v_prediction":
            return (sigma * x_t + alpha * prediction) / (alpha**2 + sigma**2)
    _unknown(prediction_type)


# ------------------------------------------------------------------------------------------------- judging the error


def loss(prediction: Tensor, target: Tensor, weight: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
    """Mean squared error of each sample, shape b, in float32 or wider.

    Args:
        prediction, target: `b c f h w`, of one shape.
        weight: b, or b f: multiplies each sample's, or each frame's, error. None is 1.
        mask: b f bool, True on the frames that count (frames given as a condition do not). None counts all. The mean is
            over the frames that count; it is 0, not NaN, for a sample in which none does.

    Raises:
        ValueError: if shapes do not fit each other, or the mask is not bool.
    """
    _same_shape(prediction=prediction, target=target)
    error = (_widened(prediction) - _widened(target)) ** 2
    return _mean_of_counted(error, weight, mask)


def min_snr_weight(path: Path, prediction_type: PredictionType, t: Tensor, gamma: float = 5.0) -> Tensor:
    """Min-SNR-gamma loss weights, of the shape of t: the error of x_0 counts min(SNR, gamma), SNR = alpha^2 / sigma^2.

    Hang et al. 2023 (arXiv 2303.09556), sec. 3.4: min(SNR, gamma) for sample, that over SNR for epsilon, and over
    SNR + 1 for v_prediction; written so that neither end of the path divides by zero.

    Raises:
        ValueError: for flow, for which the paper defines no weight: choose where t is drawn instead (`times`); for an
            unknown type; and if gamma is not positive.
    """
    if gamma <= 0:
        raise ValueError(f"min-SNR gamma must be positive, but is {gamma}; the paper's choice is 5.")
    data, noise = path.alpha(t) ** 2, path.sigma(t) ** 2
    match prediction_type:
        case "sample":
            return (data / noise).clamp(max=gamma)
        case "epsilon":
            return (gamma * noise / data).clamp(max=1)
        case "v_prediction":
            return torch.minimum(data, gamma * noise) / (data + noise)
        case "flow":
            raise ValueError(
                "min-SNR weights are defined for epsilon, v_prediction and sample, not for flow: leave its weight at "
                "one, and set the distribution of training times instead."
            )
    _unknown(prediction_type)


# --------------------------------------------------------------------------------------------- learned variance range


class LearnedRange(NamedTuple):
    """The two halves of a prediction with a learned variance: `b c f h w` each."""

    prediction: Tensor
    v: Tensor


def split_learned_range(prediction: Tensor) -> LearnedRange:
    """Part `b 2c f h w` into the prediction proper and v, which places the log variance between its two bounds.

    v is -1 at the posterior's log variance and 1 at log beta; nothing clips it. Nichol & Dhariwal 2021 (arXiv
    2102.09672), sec. 3.1, with the channel order of DiT and of diffusers' `variance_type="learned_range"`.

    Raises:
        ValueError: if the number of channels is odd.
    """
    if prediction.shape[1] % 2:
        raise ValueError(
            f"A learned range needs an even number of channels, half of them for the variance, but the prediction has "
            f"{prediction.shape[1]}: build the model with out_channels = 2 * in_channels."
        )
    return LearnedRange(*rearrange(prediction, "b (two c) f h w -> two b c f h w", two=2))


def vlb_loss(
    path: DiffusionPath,
    prediction_type: PredictionType,
    prediction: Tensor,
    v: Tensor,
    x0: Tensor,
    x_t: Tensor,
    t: Tensor,
    mask: Tensor | None = None,
) -> Tensor:
    """Each sample's term of the variational bound at t, shape b, in bits per dimension: what trains a learned variance.

    Nichol & Dhariwal 2021 (arXiv 2102.09672): the log variance of the model's step is, by eq. 15,

        (v + 1)/2 log beta_t + (1 - v)/2 log posterior_variance_t        (at t = 0 that of t = 1, for it is 0 there)

    and the term is KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)) for t > 0 (eq. 6), and for t = 0 the negative
    log-likelihood of x_0 on the 8-bit grid of pixels in [-1, 1] (eq. 5, with Ho et al. 2020, eq. 13). Latents are on no
    such grid; DiT uses the same term for them, and so it is kept. The model's mean comes from the prediction
    *detached*: only v is trained (sec. 3.1). L_hybrid adds 0.001 of the sum over T steps: T / 1000 times this.

    Args:
        path: the schedule; flow paths have no such step.
        prediction, v: `b c f h w`, the network's two halves (`split_learned_range`); where epsilon implies no x_0
            (`to_x0`), the term is not finite either.
        x0, x_t: `b c f h w`.
        t: indices, b or b f.
        mask: b f bool, True on the frames that count; as in `loss`.

    Raises:
        ValueError: if the prediction type is unknown, or shapes do not fit each other.
    """
    _same_shape(prediction=prediction, v=v, x0=x0, x_t=x_t)
    x0, v = _widened(x0), _widened(v)
    step = Posterior(*(_over(x0, part).to(x0) for part in path._posterior(t)))
    x0_implied = to_x0(path, prediction_type, prediction.detach(), x_t, t)
    log_variance = (v + 1) / 2 * step.log_beta + (1 - v) / 2 * step.log_variance

    # x_t has the same weight in the means of both Gaussians, so these differ by their shares of x_0 alone.
    apart = step.x0_share * (x0 - x0_implied)
    ratio = step.log_variance - log_variance
    divergence = (ratio.exp() - 1 - ratio + apart**2 * (-log_variance).exp()) / 2
    decoding = -_log_likelihood_on_pixel_grid(x0, mean=x0_implied, log_variance=log_variance)

    nats = torch.where(_over(x0, t) == 0, decoding, divergence)
    return _mean_of_counted(nats, None, mask) / math.log(2)


def _log_likelihood_on_pixel_grid(x0: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Log-probability of a Gaussian in the bin of x_0, one of 256 over [-1, 1], the outer two open (Ho, eq. 13)."""
    precision = (-log_variance / 2).exp()
    below_upper = torch.special.ndtr((x0 + 1 / 255 - mean) * precision).masked_fill(x0 > 0.999, 1.0)
    below_lower = torch.special.ndtr((x0 - 1 / 255 - mean) * precision).masked_fill(x0 < -0.999, 0.0)
    return (below_upper - below_lower).clamp(min=1e-12).log()


# -------------------------------------------------------------------------------------------------------------- parts


def _mean_of_counted(error: Tensor, weight: Tensor | None, mask: Tensor | None) -> Tensor:
    """Mean of `b c f h w` over each sample, weighted, over the frames that the mask counts: b."""
    per_frame = reduce(error, "b c f h w -> b f", "mean")
    if weight is not None:
        per_frame = per_frame * _frames(error, weight)
    if mask is None:
        return reduce(per_frame, "b f -> b", "mean")
    if mask.dtype != torch.bool or mask.shape != per_frame.shape:
        raise ValueError(
            f"The mask of frames must be bool of shape {tuple(per_frame.shape)} (b f), True on frames that count, but "
            f"is {mask.dtype} of shape {tuple(mask.shape)}."
        )
    counted = reduce(per_frame.masked_fill(~mask, 0), "b f -> b", "sum")
    return counted / mask.sum(dim=1).clamp(min=1)


def _over(x: Tensor, value: Tensor) -> Tensor:
    """A value per sample (b) or per frame (b f), laid out to multiply x (b c f h w)."""
    return rearrange(_frames(x, value), "b f -> b 1 f 1 1")


def _frames(x: Tensor, value: Tensor) -> Tensor:
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


def _same_shape(**tensors: Tensor) -> None:
    if len({tensor.shape for tensor in tensors.values()}) > 1:
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items())
        raise ValueError(f"These must have one shape (b c f h w): {shapes}.")


def _widened(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


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


def _unknown(prediction_type: str) -> NoReturn:
    raise ValueError(
        f"Unknown prediction_type {prediction_type!r}: choose one of {', '.join(get_args(PredictionType))}."
    )
