"""The mathematics of diffusion on clips: paths and objectives, training times, guidance. Pure functions, no model."""

from .guidance import classifier_free_guidance
from .objectives import (
    LearnedRange,
    PredictionType,
    loss,
    min_snr_weight,
    split_learned_range,
    target,
    to_noise,
    to_x0,
    vlb_loss,
)
from .paths import DiffusionPath, FlowPath, Path
from .times import TimeDistribution, index_from_time, shift_for, shift_time, times_from_uniform

__all__ = [
    "DiffusionPath",
    "FlowPath",
    "LearnedRange",
    "Path",
    "PredictionType",
    "TimeDistribution",
    "classifier_free_guidance",
    "index_from_time",
    "loss",
    "min_snr_weight",
    "shift_for",
    "shift_time",
    "split_learned_range",
    "target",
    "times_from_uniform",
    "to_noise",
    "to_x0",
    "vlb_loss",
]
