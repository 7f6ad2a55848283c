"""Clips that are worth nothing, whatever they score: of one colour, noise alone, without motion that one sees, or the
same clip for whatever was asked.

Each would win some measure (a gray clip is consistent, noise moves), so each is told by name and left out of the means
that it would win (`ClipResult.left_out`). They are told on `CELLS` x `CELLS` boxes of a frame, on which the grain of a
camera and of a codec averages out and what one sees does not; all limits are in gray levels. Measured on true clips of
the shapes and emoji worlds, pans and real videos, at 64 to 256 pixels, beside the fullest worthless ones:

- colours in a frame, from box to box: 60 in true clips of both worlds, 7 in gray under grain of sigma 4;
- change of a box over the clip (standard deviation): 4.3 in the slowest true clip (one second before a fixed camera),
  3.9 in still pictures under grain of sigma 8, stored as they are and through H.264 at CRF 18 to 30. Change of luma a
  second cannot tell these apart: 0.0019 in a true clip, 0.21 in a still one;
- noise: its pixels differ from their neighbours as much as from any other (von Neumann's ratio 1; 0.44 after H.264),
  and box means keep 0.06 of its variance at most; in true clips of both worlds 0.23 at most, and 0.22 at least;
- box means at eight moments: those of one clip and its copies in H.264 at CRF 18 to 28 are 2.5 apart (root mean
  square), those of two true clips 11 or more.

What a NaN becomes in pixels is 0: such clips are black. Noise that went through a VAE's decoder looks like texture, and
is not told.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from videodit.evaluation.measure.pixels import LUMA, box_means
from videodit.evaluation.report.results import ClipResult, Flag

CELLS, NOISE_CELLS = 16, 8  # boxes on a side: for what one sees, and for what is left of noise
FLAT = 8  # less from the darkest to the brightest box, in each colour: one colour
DARK, LIGHT = 16, 239  # gray levels: black is no brighter, white no darker
ROUGH, KEPT = 0.4, 0.1  # noise is rougher, and keeps less in boxes
SEEN = 4  # less change of each box over the clip: nothing moves that one sees
SHARE = 0.5  # of the frames that are of one colour or noise: then the clip is
ALIKE = 3  # boxes of the same clip differ by so much at most (root mean square), through a codec
MOMENTS = 8  # of a clip, at which it is compared with others


class Looks:
    """What a clip looks like, from its frames as they stream past."""

    def __init__(self, num_frames: int):
        self._kinds: Counter[Flag] = Counter()
        self._count, self._first = 0, np.zeros(0)
        self._sum, self._squares = np.zeros(0), np.zeros(0)
        self._moments = {i * num_frames // MOMENTS for i in range(MOMENTS)}
        self._print: list[np.ndarray] = []

    def watching(self, frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """The frames (uint8 h w 3) as they are, each looked at on its way."""
        for frame in frames:
            self._see(frame)
            yield frame

    @property
    def flags(self) -> tuple[Flag, ...]:
        """After the last frame: what the clip is worth nothing for."""
        found: list[Flag] = []
        if sum(self._kinds.values()) >= max(1, SHARE * self._count):
            found.append(self._kinds.most_common(1)[0][0])
        if self._count > 1 and self._change() < SEEN:
            found.append("still")
        return tuple(found)

    @property
    def print(self) -> np.ndarray:
        """What the clip is known by among others: box means at `MOMENTS`, float32; of fewer frames, fewer."""
        return np.stack(self._print).astype(np.float32)

    def _see(self, frame: np.ndarray) -> None:
        boxes = np.stack([box_means(frame[..., c].astype(np.float64), CELLS) for c in range(3)], axis=-1)
        self._kinds.update(_kind(frame, boxes))
        if self._count in self._moments:
            self._print.append(boxes)
        if not self._count:
            self._first, self._sum, self._squares = boxes, np.zeros_like(boxes), np.zeros_like(boxes)
        moved = boxes - self._first
        moved -= np.median(moved, axis=(0, 1))  # a picture that is brighter by turns flickers, and does not move
        self._sum += moved
        self._squares += moved**2
        self._count += 1

    def _change(self) -> float:
        """Of the box that changes most, the standard deviation over the clip."""
        mean = self._sum / self._count
        return float(np.sqrt(np.maximum(self._squares / self._count - mean**2, 0)).max())


def is_still(frames: Iterable[np.ndarray]) -> bool:
    """Whether nothing moves that one sees, in frames uint8 h w 3; one frame is still."""
    looks = Looks(1)
    shown = sum(1 for _ in looks.watching(frames))
    return shown < 2 or "still" in looks.flags


def _kind(frame: np.ndarray, boxes: np.ndarray) -> tuple[Flag, ...]:
    """What a frame alone is worth nothing for; nothing: it shows something."""
    if np.ptp(boxes, axis=(0, 1)).max() < FLAT:
        mean = float(boxes.mean(axis=(0, 1)) @ LUMA)
        return ("black" if mean <= DARK else "white" if mean >= LIGHT else "blank",)
    gray = frame @ LUMA
    variance = gray.var()
    if min(gray.shape) < 2 * NOISE_CELLS or not variance:
        return ()
    steps = min(float(np.square(np.diff(gray, axis=axis)).mean()) for axis in (0, 1)) / (2 * variance)
    return ("noise",) if steps > ROUGH and box_means(gray, NOISE_CELLS).var() < KEPT * variance else ()


def duplicates(clips: Sequence[tuple[ClipResult, np.ndarray]]) -> set[str]:
    """Names of clips that are the same picture by picture (`Looks.print`), though something else was asked for.

    Another seed is something else. Clips of one colour are not compared: they are all alike.
    """
    groups: dict[tuple[int, ...], list[tuple[ClipResult, np.ndarray]]] = {}
    for clip, shown in clips:
        if not {"black", "white", "blank"} & set(clip.flags):
            groups.setdefault((clip.num_frames, clip.height, clip.width), []).append((clip, shown))
    found: set[str] = set()
    for members in groups.values():
        members.sort(key=lambda one: float(one[1].mean()))
        means = np.array([shown.mean() for _, shown in members])
        for at, (clip, shown) in enumerate(members):
            for other, theirs in members[at + 1 : int(np.searchsorted(means, means[at] + ALIKE, "right"))]:
                asked = (clip.prompt, clip.seed) != (other.prompt, other.seed)
                if asked and np.sqrt(np.square(shown - theirs).mean()) <= ALIKE:
                    found |= {clip.name, other.name}
    return found
