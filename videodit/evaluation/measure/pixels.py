"""Measures of clips from pixels alone: closeness to a reference, consistency from frame to frame, and motion.

A static clip is perfectly consistent, so consistency means something only beside motion: print both. All values depend
on the frame rate and size at which they are taken, and a lossy codec hides flicker: score lossless frames, or say so.
Frames are uint8 or float in [0, 1], (...) f h w c, c = 3; the leading axes (a batch) are kept in the result.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from einops import rearrange
from PIL import Image

ConsistencyVariant = Literal["consecutive", "all-pairs", "first+prev"]

LUMA = np.array([0.2126, 0.7152, 0.0722])  # BT.709
SSIM_WINDOW, SSIM_SIGMA, SSIM_C1, SSIM_C2 = 11, 1.5, 0.01**2, 0.03**2  # of Wang et al., for values in [0, 1]
STILL_BELOW = 0.0005  # luma a second: an eighth of a gray level; the least moving clip of the shapes world has 0.0009


class Undefined(ValueError):
    """A measure that these frames do not have: they are too small or too few for it, or too much alike."""


def psnr(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio of each clip in dB, over all its frames at once; infinite for equal clips."""
    if a.shape != b.shape:
        raise ValueError(f"clips of shapes {a.shape} and {b.shape} cannot be compared; make them the same size")
    error = ((_unit(a) - _unit(b)) ** 2).mean(axis=(-4, -3, -2, -1))
    with np.errstate(divide="ignore"):
        return -10 * np.log10(error)


def frame_consistency(frames: np.ndarray, variant: ConsistencyVariant = "consecutive") -> np.ndarray:
    """Mean cosine between the frames of each clip, as vectors of pixels less their own mean. 1 is a static clip.

    Centring matters: white noise scores 0.75 on raw pixels and 0 on centred ones. A frame of one gray has no direction:
    its cosine is 1 with another such frame, 0 with any other. Three definitions are in use, so name the one you print:

    - "consecutive": mean over t of cos(f_t, f_t+1);
    - "all-pairs": mean over i != j of cos(f_i, f_j) (the competition code of Tune-A-Video);
    - "first+prev": mean over t >= 1 of (max(0, cos(f_t, f_t-1)) + max(0, cos(f_t, f_0))) / 2 (VBench).

    Raises ValueError for another variant or for fewer than two frames.
    """
    if variant not in get_args(ConsistencyVariant):
        raise ValueError(f"variant={variant!r} is none of {', '.join(get_args(ConsistencyVariant))}")
    pixels, flat = directions(rearrange(_unit(_clip(frames)), "... f h w c -> ... f (h w c)"))
    flat = flat[..., None]
    cosines = pixels @ pixels.swapaxes(-1, -2) + (flat & flat.swapaxes(-1, -2))  # ... f f
    count = cosines.shape[-1]
    previous = np.diagonal(cosines, offset=1, axis1=-2, axis2=-1)
    if variant == "consecutive":
        return previous.mean(axis=-1)
    if variant == "all-pairs":
        return (cosines.sum(axis=(-2, -1)) - np.trace(cosines, axis1=-2, axis2=-1)) / (count * (count - 1))
    return (np.maximum(previous, 0) + np.maximum(cosines[..., 0, 1:], 0)).mean(axis=-1) / 2


def directions(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vectors (... d) less their own mean, of length 1, so that their products are cosines; and which of them (...) are
    flat, all values alike: those have no direction and are 0."""
    centred = vectors - vectors.mean(axis=-1, keepdims=True)
    norm = np.linalg.norm(centred, axis=-1, keepdims=True)
    flat = norm < 1e-6 * np.sqrt(vectors.shape[-1])
    return np.where(flat, 0, centred / np.where(flat, 1, norm)), flat[..., 0]


def motion_per_second(frames: np.ndarray, fps: float) -> np.ndarray:
    """Mean absolute change of luma a second, of each clip: |Y_t+1 - Y_t| * fps, with Y in [0, 1].

    It measures change, not movement: flicker and noise count, and a small thing moves less of the picture.
    Raises ValueError for fewer than two frames.
    """
    return np.abs(np.diff(luma(_clip(frames)), axis=-3)).mean(axis=(-3, -2, -1)) * fps


def is_still(motion: np.ndarray | float) -> np.ndarray:
    """Whether a clip's `motion_per_second` is so low that its consistency says nothing."""
    return np.asarray(motion) < STILL_BELOW


def luma(frames: np.ndarray) -> np.ndarray:
    """BT.709 luma of frames (... 3), uint8 or float in [0, 1], as they are coded: float64 (...) in [0, 1]."""
    return _unit(frames) @ LUMA


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Structural similarity of two images of one channel (h w in [0, 1]): Wang et al. 2004, -1 to 1.

    Local means and variances are of a Gaussian window, 11 x 11 of sigma 1.5; the value is the mean of the map where the
    window fits whole, which leaves out a border of 5 pixels. The images are not made smaller before.

    Raises:
        Undefined: the window does not fit.
        ValueError: the images differ in size.
    """
    if a.shape != b.shape:
        raise ValueError(f"images of {a.shape} and {b.shape} cannot be compared; make them the same size")
    if min(a.shape) < SSIM_WINDOW:
        raise Undefined(
            f"frames of {a.shape[1]}x{a.shape[0]} are smaller than the {SSIM_WINDOW} pixels of SSIM's window"
        )
    mean_a, mean_b, squares, product = _gaussian(np.stack([a, b, a * a + b * b, a * b]))
    likeness = (2 * mean_a * mean_b + SSIM_C1) / (mean_a**2 + mean_b**2 + SSIM_C1)
    covariance, variances = product - mean_a * mean_b, squares - mean_a**2 - mean_b**2
    return float((likeness * (2 * covariance + SSIM_C2) / (variances + SSIM_C2)).mean())


def box_means(image: np.ndarray, side: int) -> np.ndarray:
    """An image (h w) averaged over a grid of `side` x `side` boxes, as equal as whole pixels allow; fewer boxes where
    there are fewer pixels."""
    starts = [np.arange(n) * length // n for length in image.shape for n in [min(side, length)]]
    sums = np.add.reduceat(np.add.reduceat(image, starts[0], axis=0), starts[1], axis=1)
    rows, columns = (np.diff([*s, length]) for s, length in zip(starts, image.shape, strict=True))
    return sums / np.outer(rows, columns)


def box_reduced(frames: np.ndarray, side: int) -> np.ndarray:
    """Frames (uint8 f h w c) averaged over square boxes, so that the smaller side is `side` or less than twice that."""
    factor = min(frames.shape[1:3]) // side
    if factor < 2:
        return frames
    return np.stack([np.asarray(Image.fromarray(frame).reduce(factor)) for frame in frames])


def _gaussian(images: np.ndarray) -> np.ndarray:
    """Images (... h w) under SSIM's window, where it fits whole."""
    taps = np.exp(-0.5 * ((np.arange(SSIM_WINDOW) - SSIM_WINDOW // 2) / SSIM_SIGMA) ** 2)
    taps /= taps.sum()
    height, width = (length - SSIM_WINDOW + 1 for length in images.shape[-2:])
    rows = sum(tap * images[..., i : i + height, :] for i, tap in enumerate(taps))
    return sum(tap * rows[..., i : i + width] for i, tap in enumerate(taps))


def _clip(frames: np.ndarray) -> np.ndarray:
    if frames.ndim < 4 or frames.shape[-4] < 2 or frames.shape[-1] != 3:
        raise ValueError(f"frames {frames.shape} must be (...) f h w 3 with two frames or more")
    return frames


def _unit(frames: np.ndarray) -> np.ndarray:
    """Frames as float64 in [0, 1]."""
    if frames.dtype == np.uint8:
        return frames / 255
    if np.issubdtype(frames.dtype, np.floating):
        return frames.astype(np.float64)
    raise ValueError(f"frames are {frames.dtype}; give uint8, or float in [0, 1]")
