"""What a pipeline knows of the call that it makes, or made last: scales, steps, and what callbacks may set."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from videodit.conditions import TEXT, asked
from videodit.pipeline.parts import Parts

log = logging.getLogger(__name__)


class State(Parts):
    """Of one call; names are diffusers'."""

    _current_timestep: Tensor | None = None
    _guidance_scale: float | Sequence[float] = 1.0
    _true_cfg_scale: float | Sequence[float] | None = None  # None: guidance_scale is between the passes
    _num_timesteps = 0
    _interrupt = False

    @property
    def _callback_tensor_inputs(self) -> list[str]:
        texts = TEXT if self.transformer is not None and asked(self.transformer, "pooled") is not None else TEXT[:2]
        return ["latents", "pred_original_sample", *texts, *(f"negative_{name}" for name in texts)]

    @property
    def guidance_scale(self) -> float | Sequence[float]:
        """Of the call that is being made; read in each step, so that a callback may set `_guidance_scale`."""
        return self._guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether there is guidance in the steps to come; at a scale of 1 or less there is none."""
        scale = self._between
        return max(scale) > 1 if isinstance(scale, Sequence) else scale > 1

    @property
    def _between(self) -> float | Sequence[float]:
        """The scale between the passes."""
        return self._guidance_scale if self._true_cfg_scale is None else self._true_cfg_scale

    @property
    def num_timesteps(self) -> int:
        """Steps of the call that is being made, or was last."""
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        """Whether the steps to come are left out: a callback sets `_interrupt`."""
        return self._interrupt

    @property
    def current_timestep(self) -> Tensor | None:
        """Of the scheduler, in the step that is being made, or was last."""
        return self._current_timestep

    def _set_scales(self, scale: Any, true_cfg_scale: Any, against: bool) -> None:
        """Keeps a call's scales; `against`: a negative prompt of words is given, for which there must be a pass.
        States may be the empty one's, as `encode_prompt` gives them beside any prompt."""
        told = asked(self.transformer, "guidance") is not None
        if not told and true_cfg_scale != 1.0:
            raise ValueError("true_cfg_scale is of a model that is told guidance_scale itself; set guidance_scale")
        if asked(self.transformer, "until") is not None and true_cfg_scale != 1.0:
            raise ValueError("true_cfg_scale: this model, a flow map, has its guidance in itself; set guidance_scale")
        if told and not isinstance(scale, int | float):
            raise ValueError("this model is told guidance_scale itself, one for all steps: give one number")
        if asked(self.transformer, "until") is not None and against:
            raise ValueError(
                "negative_prompt has no effect on a flow map, which has its guidance in itself: leave it out"
            )
        if told and against and true_cfg_scale == 1.0:
            raise ValueError(
                "negative_prompt has no effect at true_cfg_scale=1, for this model is told guidance_scale itself: set "
                "true_cfg_scale above 1, or leave the negative prompt out"
            )
        low, high = self.config.trained_guidance or (0.0, math.inf)
        if told and not self._size_is_told and not low <= float(scale) <= high:  # type: ignore[arg-type]
            log.warning(
                "guidance_scale=%g: this model learned %g to %g, and beyond that says anything", scale, low, high
            )
        self._guidance_scale, self._true_cfg_scale = scale, true_cfg_scale if told else None

    def _shown_scale(self, rows: int) -> Tensor | None:
        """What a model is told that learned to be told a scale; None: it did not."""
        if self._true_cfg_scale is None:
            return None
        return torch.full((rows,), float(self._guidance_scale), device=self._execution_device)  # type: ignore[arg-type]
