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
from typing import Literal, NamedTuple, NoReturn, get_args

import torch
from einops import rearrange, reduce
from torch import Tensor

from .paths import DiffusionPath, Path, Posterior, of_frames, over, same_shape

PredictionType = Literal["flow", "epsilon", "v_prediction", "sample"]


# ------------------------------------------------------------------------------------ what to predict, and back again


def target(path: Path, prediction_type: PredictionType, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """What the network should have said, `b c f h w`, for x_0 and noise of that shape at times t (b, or b f).

    Raises:
        ValueError: if the prediction type is unknown, or shapes do not fit each other.
    """
    same_shape(x0=x0, noise=noise)
    match prediction_type:
        case "flow":
            return noise - x0
        case "epsilon":
            return noise
        case "sample":
            return x0
        case "v_prediction":
            return over(x0, path.alpha(t)) * noise - over(x0, path.sigma(t)) * x0
    _unknown(prediction_type)


def to_x0(path: Path, prediction_type: PredictionType, prediction: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """The x_0 that a prediction implies, given the x_t it was made from; all `b c f h w`, t is b or b f.

    Where alpha_t = 0, x_t holds nothing of x_0, and an epsilon prediction implies none: the result is then not finite,
    rather than a wrong number. The other types have an answer at every t.

    Raises:
        ValueError: if the prediction type is unknown, or shapes do not fit each other.
    """
    same_shape(prediction=prediction, x_t=x_t)
    alpha, sigma = over(x_t, path.alpha(t)), over(x_t, path.sigma(t))
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
    same_shape(prediction=prediction, x_t=x_t)
    alpha, sigma = over(x_t, path.alpha(t)), over(x_t, path.sigma(t))
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
    same_shape(prediction=prediction, target=target)
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
    same_shape(prediction=prediction, v=v, x0=x0, x_t=x_t)
    x0, v = _widened(x0), _widened(v)
    step = Posterior(*(over(x0, part).to(x0) for part in path.posterior(t)))
    x0_implied = to_x0(path, prediction_type, prediction.detach(), x_t, t)
    log_variance = (v + 1) / 2 * step.log_beta + (1 - v) / 2 * step.log_variance

    # x_t has the same weight in the means of both Gaussians, so these differ by their shares of x_0 alone.
    apart = step.x0_share * (x0 - x0_implied)
    ratio = step.log_variance - log_variance
    divergence = (ratio.exp() - 1 - ratio + apart**2 * (-log_variance).exp()) / 2
    decoding = -_log_likelihood_on_pixel_grid(x0, mean=x0_implied, log_variance=log_variance)

    nats = torch.where(over(x0, t) == 0, decoding, divergence)
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
        per_frame = per_frame * of_frames(error, weight)
    if mask is None:
        return reduce(per_frame, "b f -> b", "mean")
    if mask.dtype != torch.bool or mask.shape != per_frame.shape:
        raise ValueError(
            f"The mask of frames must be bool of shape {tuple(per_frame.shape)} (b f), True on frames that count, but "
            f"is {mask.dtype} of shape {tuple(mask.shape)}."
        )
    counted = reduce(per_frame.masked_fill(~mask, 0), "b f -> b", "sum")
    return counted / mask.sum(dim=1).clamp(min=1)


def _widened(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _unknown(prediction_type: str) -> NoReturn:
    raise ValueError(
        f"Unknown prediction_type {prediction_type!r}: choose one of {', '.join(get_args(PredictionType))}."
    )
