"""Classifier-free guidance: go further from the prediction without the prompt (Ho & Salimans 2022, arXiv 2207.12598).

diffusers' guiders are built around a loop of their own: they hold the step as state, and prepare the model's inputs. A
pipeline that runs the model itself needs the formula alone; the rescaling is diffusers' own function.
"""

from __future__ import annotations

from collections.abc import Sequence

from diffusers.guiders.guider_utils import rescale_noise_cfg
from torch import Tensor


def classifier_free_guidance(conditional: Tensor, unconditional: Tensor, scale: float, rescale: float = 0.0) -> Tensor:
    """unconditional + scale (conditional - unconditional), on all channels.

    Args:
        conditional, unconditional: one prediction each with and without the prompt, of one shape `b ...`; without the
            learned-range half.
        scale: 1 gives `conditional` exactly, 0 `unconditional`; above 1 follows the prompt more closely.
        rescale: in [0, 1], how much of each sample's standard deviation to bring back to that of `conditional` (Lin et
            al. 2023, arXiv 2305.08891, eqs. 15 and 16; they use 0.7), against the glare of large scales.

    Raises:
        ValueError: if the shapes differ or rescale is out of range.
    """
    if conditional.shape != unconditional.shape:
        raise ValueError(
            f"Guidance needs two predictions of one shape, but conditional is {tuple(conditional.shape)} and "
            f"unconditional {tuple(unconditional.shape)}."
        )
    if not 0 <= rescale <= 1:
        raise ValueError(f"rescale must be in [0, 1], but is {rescale}.")
    if scale == 1:
        return conditional
    guided = unconditional + scale * (conditional - unconditional)
    return rescale_noise_cfg(guided, conditional, rescale) if rescale else guided


def two_scale_guidance(
    told: Tensor, untold: Tensor, free: Tensor, scale: float, image_scale: float, rescale: float = 0.0
) -> Tensor:
    """free + image_scale (untold - free) + scale (told - untold): a scale for given frames and one for the prompt.

    After Brooks et al. 2023, arXiv 2211.09800, eq. 3.

    Args:
        told, untold, free: one prediction each with prompt and given frames, with the frames alone, with neither.
        scale, image_scale: equal ones are `classifier_free_guidance` between `told` and `free`.
        rescale: as there, towards `told`.

    Raises:
        ValueError: if shapes differ or rescale is out of range.
    """
    base = classifier_free_guidance(untold, free, image_scale)
    if told.shape != base.shape:
        raise ValueError(f"Guidance needs predictions of one shape: {tuple(told.shape)}, {tuple(base.shape)}.")
    if not 0 <= rescale <= 1:
        raise ValueError(f"rescale must be in [0, 1], but is {rescale}.")
    guided = base + scale * (told - untold)
    return rescale_noise_cfg(guided, told, rescale) if rescale else guided


def scales_of_steps(
    scale: float | Sequence[float], interval: tuple[float, float], steps: int, name: str = "guidance_scale"
) -> list[float]:
    """The guidance of each step; 1, which is none, outside of the interval (Kynkäänniemi et al. 2024, 2404.07724).

    Args:
        scale: one for all steps, or one a step; less than 1 is none either, as in diffusers' pipelines.
        interval: from which to which share of the steps, in [0, 1]; a step counts by its middle.
        name: of the scale, for messages.

    Raises:
        ValueError: another number of scales, or an interval that is none.
    """
    begin, end = interval
    if not 0 <= begin <= end <= 1:
        raise ValueError(f"guidance_interval={tuple(interval)} must be two rising shares of the steps, in [0, 1]")
    scales = list(scale) if isinstance(scale, Sequence) else [scale] * steps
    if len(scales) != steps:
        raise ValueError(f"{name} has {len(scales)} values for {steps} steps; give one, or one each")
    return [max(1.0, float(one)) if begin <= (index + 0.5) / steps <= end else 1.0 for index, one in enumerate(scales)]
