"""The art: animated WebP files of 256x256 pixels with transparency, in the npm packages that carry them.

`npm pack @lobehub/fluent-emoji-anim-1@1.0.0` (and -2, -3, -4) leaves four archives in a folder, which are read as they
are. A loop, whatever its length (13 to 97 frames), becomes `LOOP` frames at even distances.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

PACKAGES = tuple(f"lobehub-fluent-emoji-anim-{number}-1.0.0.tgz" for number in (1, 2, 3, 4))
LOOP = 24  # frames of a loop at 8 a second: the usual 3 s of the set
MARGIN = 8  # of 256 pixels on each side, empty in nearly all pictures: the art fills the frame
SIDE = 128  # of the art as `read` gives it


class ArtError(ValueError):
    """Art that is missing or damaged; the message names the file and the fix."""


def read(folder: Path, wanted: set[str]) -> Iterator[tuple[str, np.ndarray]]:
    """(code, frames uint8 f h w 4) of the wanted codes, in the order of the archives; a still picture has one frame.

    Raises:
        ArtError: an archive is missing, damaged, or of another version than the four together have all that is wanted.
    """
    left = set(wanted)
    for name in PACKAGES:
        file = folder / name
        if not file.is_file():
            version = name.removesuffix(".tgz").rpartition("-")
            package = version[0].replace("lobehub-", "@lobehub/")
            raise ArtError(f"{file} is missing: run `npm pack {package}@{version[2]}` in {folder}")
        try:
            with tarfile.open(file) as archive:
                for member in archive:
                    code = Path(member.name).stem.replace("-fe0f", "")
                    if code in left and member.isfile() and (data := archive.extractfile(member)):
                        left.discard(code)
                        yield code, frames_of(data.read(), f"{file}::{member.name}")
        except (tarfile.TarError, EOFError, OSError) as error:
            raise ArtError(f"{file} is damaged ({error}): delete it and pack it again") from error
    if left:
        names = ", ".join(sorted(left)[:5])
        raise ArtError(f"{folder}: the packages lack {len(left)} of {len(wanted)} pictures ({names} ...): take 1.0.0")


def frames_of(data: bytes, name: str) -> np.ndarray:
    """The loop as `LOOP` frames, or one frame, uint8 f h w 4 of `SIDE` pixels, alpha not multiplied in."""
    try:
        with Image.open(io.BytesIO(data), formats=("WEBP",)) as image:
            count = getattr(image, "n_frames", 1)
            side, frames = max(image.size), []
            left, top = MARGIN - (side - image.width) // 2, MARGIN - (side - image.height) // 2
            cut = (left, top, left + side - 2 * MARGIN, top + side - 2 * MARGIN)  # outside of the picture: transparent
            for place in range(LOOP if count > 1 else 1):
                image.seek(place * count // LOOP)
                picture = image.convert("RGBA").convert("RGBa").crop(cut)
                frames.append(np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC).convert("RGBA")))
    except (OSError, EOFError, SyntaxError, Image.DecompressionBombError) as error:
        raise ArtError(f"{name} is damaged ({error}): delete its package and pack it again") from error
    return np.stack(frames)
