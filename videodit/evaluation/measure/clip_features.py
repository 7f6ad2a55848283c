"""What is seen in a whole clip, as one vector, for distances between sets of clips.

Without weights there are pixels; with weights that the user has, VideoMAE and I3D. Only distances on I3D
may be called FVD. Features come as they leave the network, not normalized.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from einops import rearrange
from transformers import VideoMAEModel

from videodit.evaluation.measure.pixels import LUMA, Undefined
from videodit.evaluation.measure.weights import (
    Device,
    MissingWeightsError,
    Source,
    check_frames,
    describe,
    load_model,
    load_processor,
    missing_weights,
    one_line,
    pick_device,
    short_name,
)
from videodit.weights import state_hash

VIDEOMAE_SOURCE = "MCG-NJU/videomae-base"
I3D_FILE = "i3d_torchscript.pt"


class ClipFeatures(Protocol):
    """What turns a whole clip into one vector: `frame_indices` says which frames it wants, the call takes these."""

    name: str
    hash: str
    preprocessing: str
    sampling: str  # of the frames, for a signature: "16 evenly"

    def frame_indices(self, num_frames: int) -> list[int]:
        """Which frames of a clip it wants. Raises Undefined for a clip that is too short, naming what it needs."""

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """Those frames, uint8 f h w 3, to float32 d."""


class PixelFeatures:
    """A clip without any network: luma (BT.709, in [0, 1]) averaged over 8 x 8 boxes, at 8 frames evenly; 512 numbers.

    It sees layout, brightness and slow motion, and nothing that a person would call content: distances on it find
    collapsed colours or a wrong tempo, and must not be read as quality.
    """

    name = "pixels_8x8x8"
    hash = ""
    preprocessing = "luma BT.709 averaged over 8x8 boxes"
    sampling = "8 evenly"

    def frame_indices(self, num_frames: int) -> list[int]:
        """Which frames of a clip it wants, see `evenly`. Raises Undefined for fewer than 8."""
        return evenly(num_frames, 8, self.name)

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """8 frames, uint8 8 h w 3, to float32 512: rows of rows of frames."""
        check_frames(frames, count=8)
        luma = frames @ (LUMA / 255)
        boxes = _boxes(luma.shape[1]) @ luma @ _boxes(luma.shape[2]).T
        return rearrange(boxes, "f y x -> (f y x)").astype(np.float32)


class VideoMAEFeatures:
    """VideoMAE (Tong et al. 2022, arXiv 2203.12602): the mean of the last hidden states of 16 frames, evenly.

    Ge et al. 2024 (arXiv 2404.12391) found that distances on features of this kind see motion where I3D sees content;
    theirs are of a much larger model.
    """

    def __init__(self, model: Any, name: str, processor: Any, device: Device = None) -> None:
        self.name = name
        self.hash = state_hash(model.state_dict())
        self.preprocessing = describe(processor)
        self.device = pick_device(device)
        self._model = model.eval().to(self.device)
        self._processor = processor
        self.num_frames: int = self._model.config.num_frames
        self.sampling = f"{self.num_frames} evenly"

    def frame_indices(self, num_frames: int) -> list[int]:
        """Which frames of a clip it wants, see `evenly`. Raises Undefined for fewer than the model reads (16)."""
        return evenly(num_frames, self.num_frames, self.name)

    @torch.inference_mode()
    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """Those frames, uint8 f h w 3, to float32 d."""
        check_frames(frames, count=self.num_frames)
        prepared = self._processor(list(frames), return_tensors="pt", input_data_format="channels_last")
        tokens = self._model(pixel_values=prepared["pixel_values"].to(self.device)).last_hidden_state  # 1 s d
        return tokens.mean(dim=1)[0].float().cpu().numpy()


class I3DFeatures:
    """I3D on Kinetics-400, the features of FVD (Unterthiner et al. 2018, arXiv 1812.01717): 400 logits of a clip.

    As StyleGAN-V (Skorokhodov et al. 2022, arXiv 2112.14683) calls its TorchScript file: values 0 to 255, the module
    rescales them and resizes each frame, squeezed, to 224 x 224, without antialiasing. The first `num_frames` frames
    in a row are read, at the rate they come in; at another length or rate, distances are other numbers.
    """

    shortest = 10  # I3D halves the time thrice and then pools over two

    def __init__(self, model: Any, name: str, hash: str, num_frames: int, device: Device) -> None:
        self.name = name
        self.hash = hash
        self.preprocessing = "224x224 bilinear no-antialias, in the module"
        self.num_frames = num_frames
        self.sampling = f"first {num_frames}"
        self.device = pick_device(device)
        self._model = model.eval().to(self.device)

    def frame_indices(self, num_frames: int) -> list[int]:
        """The first frames of a clip. Raises Undefined if it has fewer than are read."""
        if num_frames < self.num_frames:
            raise Undefined(
                f"the clip has {num_frames} frames, {self.name} reads {self.num_frames}: take longer clips, or "
                f"--i3d-frames (load_i3d(..., num_frames=)) with what all clips have, {self.shortest} at least"
            )
        return list(range(self.num_frames))

    @torch.inference_mode()
    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """Those frames, uint8 f h w 3, to float32 d."""
        check_frames(frames, count=self.num_frames)
        clip = rearrange(torch.from_numpy(np.ascontiguousarray(frames)), "f h w c -> 1 c f h w")
        found = self._model(clip.to(self.device).float(), rescale=True, resize=True, return_features=True)
        return found.flatten().float().cpu().numpy()


def evenly(num_frames: int, wanted: int, name: str) -> list[int]:
    """The middles of `wanted` equal parts of a clip: frame floor((i + 1/2) num_frames / wanted) for each i.

    Raises Undefined, a ValueError, if the clip has fewer frames than are wanted, naming who wants them.
    """
    if num_frames < wanted:
        raise Undefined(f"the clip has {num_frames} frames, {name} needs {wanted} or more")
    return [(2 * i + 1) * num_frames // (2 * wanted) for i in range(wanted)]


def load_videomae(source: Source, device: Device = None) -> VideoMAEFeatures:
    """VideoMAE from a hub name or a folder (model, image processor), in float32.

    Raises MissingWeightsError if it cannot be had, or is none; says why and how to get it.
    """
    with missing_weights("VideoMAE", source, VIDEOMAE_SOURCE):
        model = load_model(source, {"videomae": VideoMAEModel})
        processor = load_processor(source)
    return VideoMAEFeatures(model, short_name(source), processor, device)


def load_i3d(path: Source, num_frames: int = 16, device: Device = None) -> I3DFeatures:
    """I3D from StyleGAN-V's TorchScript file. Its hash is that of the file: sha256sum shows it.

    A TorchScript file holds code, which runs: take it from where you trust it.

    Args:
        path: the file, i3d_torchscript.pt.
        num_frames: how many frames of each clip are read; FVD is mostly given at 16.
        device: the accelerator where there is one, by default.

    Raises:
        MissingWeightsError: no such file, or another module; says which file is expected.
        ValueError: num_frames below 10.
    """
    if num_frames < I3DFeatures.shortest:
        raise ValueError(f"num_frames={num_frames}: I3D needs {I3DFeatures.shortest} frames or more")
    how = f"get {I3D_FILE}, linked in github.com/universome/fvd-comparison, and give its path"
    try:
        model = torch.jit.load(os.fspath(path), map_location="cpu")
        with Path(path).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        takes = {argument.name for argument in model.forward.schema.arguments}
    except (OSError, RuntimeError, ValueError, AttributeError) as error:
        raise MissingWeightsError(f"I3D from {os.fspath(path)}: {one_line(error)}; {how}") from error
    if not {"rescale", "resize", "return_features"} <= takes:
        raise MissingWeightsError(
            f"I3D from {os.fspath(path)}: a module that takes {', '.join(sorted(takes - {'self'}))}, not the one of "
            f"StyleGAN-V, which takes rescale, resize, return_features; {how}"
        )
    return I3DFeatures(model, Path(path).stem, digest[:12], num_frames, device)


def _boxes(length: int) -> np.ndarray:
    """8 length: weights that average a line of pixels over 8 equal parts, counting pixels across an edge by share."""
    edges = np.arange(9) * length / 8
    pixel = np.arange(length)
    shares = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    return np.maximum(shares, 0) * 8 / length
