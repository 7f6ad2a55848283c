"""LPIPS and RAFT, which need torchvision: `pip install lpips torchvision`, in the build that goes with your torch."""

from __future__ import annotations

import os
from functools import partial
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import pad

from videodit.evaluation.measure.features import FEATURE_METRICS
from videodit.evaluation.measure.flow import Flow
from videodit.evaluation.measure.pixels import Undefined
from videodit.evaluation.measure.streaming import Curve, Measure, Window
from videodit.evaluation.measure.weights import (
    Device,
    MissingWeightsError,
    Source,
    check_frames,
    one_line,
    pick_device,
)
from videodit.weights import state_hash

RAFT_SIDE = 128  # pixels; RAFT's pyramid of correlations needs them
RAFT_UPDATES = 20  # as VBench runs it


class Lpips:
    """LPIPS (Zhang et al. 2018, arXiv 1801.03924), version 0.1 on AlexNet, at the size of the frames.

    Call it with two frames (uint8 h w 3) for their distance; 0 is equal. As measures of a clip while it streams past it
    is `temporal`, between neighbouring frames, and `paired`, between each frame and the reference's.
    """

    def __init__(self, model: Any, device: Device = None) -> None:
        self.name = f"lpips-alex-0.1@{state_hash(model.state_dict())}"
        self.device = pick_device(device)
        self._model = model.eval().to(self.device)

    @torch.inference_mode()
    def __call__(self, a: np.ndarray, b: np.ndarray) -> float:
        check_frames(a[None])
        check_frames(b[None])
        if a.shape != b.shape:
            raise ValueError(f"frames of shapes {a.shape} and {b.shape} cannot be compared; make them the same size")
        return float(self._model(*(_symmetric(frame).to(self.device) for frame in (a, b))))

    @property
    def temporal(self) -> Measure:
        def distance(window: Window) -> float:
            return self(window.previous.pixels, window.current.pixels)

        return Measure(FEATURE_METRICS["lpips_temporal"], partial(Curve, distance), self.name)

    @property
    def paired(self) -> Measure:
        def distance(window: Window, reference: Window) -> float:
            return self(window.current.pixels, reference.current.pixels)

        return Measure(FEATURE_METRICS["lpips_paired"], partial(Curve, distance, frames=1), self.name)


def load_lpips(device: Device = None) -> Lpips:
    """LPIPS of the `lpips` package, which brings its own weights and fetches AlexNet's through torch hub.

    Raises MissingWeightsError where the package, torchvision or AlexNet cannot be had; says why and how to get them.
    """
    how = (
        "pip install lpips torchvision, and put alexnet-owt-7be5be79.pth of download.pytorch.org/models into "
        "~/.cache/torch/hub/checkpoints where that host cannot be reached"
    )
    try:
        import lpips

        model = lpips.LPIPS(net="alex", version="0.1", verbose=False)
    # torchvision of another build than torch's fails with RuntimeError; OSError is a failed download.
    except (ImportError, OSError, RuntimeError) as error:
        raise MissingWeightsError(f"LPIPS: {one_line(error)}; {how}") from error
    return Lpips(model, device)


def load_raft(path: Source, device: Device = None) -> Flow:
    """RAFT (Teed and Deng 2020, arXiv 2003.12039), torchvision's raft_large with 20 updates, as a `Flow`.

    Frames are padded to multiples of 8 by repeating their edges, half on either side.

    Args:
        path: a state dict for raft_large, such as raft_large_C_T_SKHT_V2-ff5fadd5.pth of download.pytorch.org/models.
            The file of the original repository, raft-things.pth, which VBench takes, has other names inside.
        device: the accelerator where there is one, by default.

    Raises:
        MissingWeightsError: no torchvision, no such file, or weights of another model; says how to get them.
        Undefined: by its `between`, for frames under 128 pixels high or wide.
    """
    how = "pip install torchvision, and give raft_large_C_T_SKHT_V2-ff5fadd5.pth of download.pytorch.org/models"
    try:
        from torchvision.models.optical_flow import raft_large

        model = raft_large(weights=None)
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except (ImportError, OSError, RuntimeError, UnpicklingError, TypeError) as error:
        raise MissingWeightsError(f"RAFT from {os.fspath(path)}: {one_line(error)}; {how}") from error
    place = pick_device(device)
    name = f"raft-large@{state_hash(model.state_dict())}"
    model = model.eval().to(place)

    @torch.inference_mode()
    def between(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        height, width = a.shape[:2]
        if min(height, width) < RAFT_SIDE:
            raise Undefined(f"frames of {width}x{height} are too small for RAFT: {RAFT_SIDE} pixels each way")
        top, left = -height % 8 // 2, -width % 8 // 2
        edges = (left, -width % 8 - left, top, -height % 8 - top)
        pair = (pad(_symmetric(frame).to(place), edges, mode="replicate") for frame in (a, b))
        flow = model(*pair, num_flow_updates=RAFT_UPDATES)[-1][0]  # 2 h w, x before y
        return rearrange(flow[:, top : top + height, left : left + width], "xy h w -> h w xy").float().cpu().numpy()

    return Flow(name, between)


def _symmetric(frame: np.ndarray) -> Tensor:
    """uint8 h w c to float32 1 c h w in [-1, 1]."""
    return rearrange(torch.from_numpy(np.ascontiguousarray(frame)), "h w c -> 1 c h w").float() / 127.5 - 1
