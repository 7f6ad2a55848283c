"""Optical flow: where each pixel of a frame goes to in the next one, and what can be told from that.

Without weights it is OpenCV's dense inverse search (DIS, Kroeger et al. 2016, arXiv 1603.03590) at its preset "medium":
within a tenth of a pixel on textured shifts, the same on any number of threads, some 15 ms for frames of 256 x 256. A
learned flow takes its place as another `Flow`.

A flow is `float32 h w 2` in pixels, x before y: what is at (x, y) in the one frame is at (x + u, y + v) in the other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType

import numpy as np

from videodit.evaluation.measure.pixels import Undefined

DIS_SIDE = 16  # pixels; OpenCV's DIS reads outside of images that are less high or wide


@dataclass(frozen=True)
class Flow:
    """A way to find flow: its name, for protocols, and `between(a, b)`, two frames `uint8 h w 3` -> `float32 h w 2`.

    `between` raises Undefined for frames that it cannot take.
    """

    name: str
    between: Callable[[np.ndarray, np.ndarray], np.ndarray]


def dis(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Flow from one frame to another, `uint8 h w 3` -> `float32 h w 2`, by DIS on their gray values.

    Raises:
        Undefined: frames are under 16 pixels high or wide.
        ImportError: OpenCV is not installed.
    """
    cv2 = _cv2()
    if min(a.shape[:2]) < DIS_SIDE:
        raise Undefined(
            f"frames of {a.shape[1]}x{a.shape[0]} are too small for optical flow: {DIS_SIDE} pixels each way"
        )
    gray = [cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in (a, b)]
    # A new one each time: it keeps buffers, so that threads cannot share it, and is made in no time.
    return cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(*gray, None)


DIS = Flow("dis-medium", dis)


def warp(image: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """The image (`h w` or `h w c`, uint8 or float32) as seen from the frame where `flow` begins: image(x + u, y + v).

    Bilinear; outside of the image its edge goes on, so ask `inside` too.
    """
    columns, rows = _places(*flow.shape[:2])
    cv2 = _cv2()
    return cv2.remap(image, columns + flow[..., 0], rows + flow[..., 1], cv2.INTER_LINEAR, None, cv2.BORDER_REPLICATE)


def inside(flow: np.ndarray) -> np.ndarray:
    """Where (bool h w) a flow ends inside of the picture."""
    height, width = flow.shape[:2]
    columns, rows = _places(height, width)
    x, y = columns + flow[..., 0], rows + flow[..., 1]
    return (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)


def visible(forward: np.ndarray, backward: np.ndarray) -> np.ndarray:
    """Which pixels (bool h w) of the frame where `forward` begins can be found again in the one where it ends.

    Those are left out that leave the picture, that are occluded, |F + B|^2 > 0.01 (|F|^2 + |B|^2) + 0.5 with B the
    backward flow where F ends, or that lie at motion boundaries, |grad u|^2 + |grad v|^2 > 0.01 |F|^2 + 0.002
    (Sundaram et al. 2010; Lai et al. 2018, arXiv 1808.00449).
    """
    back = warp(backward, forward)
    length = _square(forward)
    occluded = _square(forward + back) > 0.01 * (length + _square(back)) + 0.5
    slopes = sum(_square(gradient) for gradient in np.gradient(forward, axis=(0, 1)))
    return inside(forward) & ~occluded & (slopes <= 0.01 * length + 0.002)


def midpoint(a: np.ndarray, b: np.ndarray, forward: np.ndarray, backward: np.ndarray) -> np.ndarray:
    """The frame halfway between two (`uint8 h w 3`), as float32, from the flows between them.

    The flows from the middle are mixed of both, (-F + B) / 4 to the first and (F - B) / 4 to the second frame, and the
    frames that they fetch are averaged (Jiang et al. 2018, arXiv 1712.00080, eq. 4 at t = 1/2). Where only one of them
    lies inside of the picture, it alone counts.
    """
    to_b = (forward - backward) / 4
    first, second = (inside(flow).astype(np.float32)[..., None] for flow in (-to_b, to_b))
    alike = first == second
    share = np.where(alike, np.float32(0.5), first)
    return share * warp(a.astype(np.float32), -to_b) + (1 - share) * warp(b.astype(np.float32), to_b)


def _square(vectors: np.ndarray) -> np.ndarray:
    """Squared lengths of vectors (h w 2)."""
    return vectors[..., 0] ** 2 + vectors[..., 1] ** 2


@lru_cache(maxsize=4)
def _places(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Column and row numbers of pixels, float32 h w each. Not to be written to."""
    rows, columns = np.indices((height, width), dtype=np.float32)
    return columns, rows


def _cv2() -> ModuleType:
    try:
        import cv2
    except ImportError as error:
        raise ImportError(f'optical flow is OpenCV\'s ({error}): pip install "videodit[evaluation]"') from error
    return cv2
