"""What preparing clips asks of raw videos, and the reasons for which a stretch of one is dropped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

REASONS = {
    "left_out": "left out by the manifest",
    "unreadable": "cannot be read",
    "outside": "the stretch asked for is not in the file",
    "small": "fewer pixels than --min-size",
    "slow": "fewer frames a second than --min-fps",
    "interlaced": "interlaced",
    "nonsquare": "pixels that are not square",
    "hdr": "brightness coded for HDR displays",
    "transition": "one scene fades or dissolves into the next",
    "short": "shorter than --min-seconds",
    "black": "more black frames than --max-black",
    "frozen": "stands still for more than --max-frozen",
    "still": "moves less than --min-motion",
    "duplicate": "shows what another clip shows",
}
KEEPABLE = ("duplicate", "interlaced", "nonsquare", "hdr")


@dataclass(frozen=True)
class Options:
    """What is cut, what is dropped and what is written.

    Args:
        min_seconds: shorter scenes are dropped; at least 0.5, in which motion can be measured.
        max_seconds: longer scenes are cut into equal pieces; at least twice `min_seconds`.
        min_size: pixels of the shorter side.
        min_fps: frames a second, on average.
        min_motion: mean change of luma (0 to 1) a second.
        max_black: share of black frames.
        max_frozen: share of time that stands still for a second or more.
        threshold: of the scene detector: by how much a cut stands out from the frames around it.
        cuts: whether scenes are looked for at all.
        keep: of `KEEPABLE`, what is not dropped.
        write: "spans" of the files as they are, or "clips", each a file of its own.
        size: pixels that the shorter side of a written clip is scaled down to; None: as it is.

    Raises ValueError for a value that makes no sense.
    """

    min_seconds: float = 1.0
    max_seconds: float = 15.0
    min_size: int = 128
    min_fps: float = 8.0
    min_motion: float = 0.002
    max_black: float = 0.1
    max_frozen: float = 0.3
    threshold: float = 3.0
    cuts: bool = True
    keep: tuple[str, ...] = ()
    write: Literal["spans", "clips"] = "spans"
    size: int | None = None

    def __post_init__(self) -> None:
        rules = {
            f"--min-seconds {self.min_seconds:g}: give 0.5 or more": self.min_seconds >= 0.5,
            f"--max-seconds {self.max_seconds:g}: give twice --min-seconds or more": (
                self.max_seconds >= 2 * self.min_seconds
            ),
            f"--min-size {self.min_size}: give 0 or more": self.min_size >= 0,
            f"--min-fps {self.min_fps:g}: give 0 or more": self.min_fps >= 0,
            f"--min-motion {self.min_motion:g}: give 0 or more": self.min_motion >= 0,
            f"--max-black {self.max_black:g}: give 0 to 1": 0 <= self.max_black <= 1,
            f"--max-frozen {self.max_frozen:g}: give 0 to 1": 0 <= self.max_frozen <= 1,
            f"--threshold {self.threshold:g}: give more than 0": self.threshold > 0,
            f"keep {self.keep}: {', '.join(KEEPABLE)} can be kept": set(self.keep) <= set(KEEPABLE),
            f"--size {self.size}: give 16 pixels or more": self.size is None or self.size >= 16,
            "--size goes with --write clips": self.size is None or self.write == "clips",
        }
        for message, holds in rules.items():
            if not holds:
                raise ValueError(message)
