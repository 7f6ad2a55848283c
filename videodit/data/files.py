"""What is known of each file: measured once, and hashed once, for as long as its size and time of change stay.

Both cost a pass over the file, and every run wants them: which bucket a clip fills, and under which name its latent is
kept. `files.json` remembers them beside the latents; errors it does not, since what could not be read may be tomorrow.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tqdm import tqdm

from videodit.video.reader import VideoError, probe

CHUNK = 1 << 20
REMEMBER_EVERY = 5000  # files


@dataclass(frozen=True)
class Facts:
    """A file's length in seconds (0: an image), frames a second, size in pixels; or the error that reading it gave."""

    duration: float = 0.0
    fps: float = 0.0
    height: int = 0
    width: int = 0
    is_image: bool = False
    error: str | None = None
    sha256: str | None = None


class Files:
    """Facts of files, remembered in `memory` (None: for as long as this object lives)."""

    def __init__(self, memory: Path | None = None):
        self.memory = memory
        self._changed = 0  # facts that are not in the memory yet
        self._facts: dict[str, tuple[int, int, Facts]] = {}  # by path: bytes, time of change in ns, facts
        if memory and memory.exists():
            try:
                stored = json.loads(memory.read_text())
                self._facts = {path: (size, time, Facts(**facts)) for path, (size, time, facts) in stored.items()}
            except (ValueError, TypeError):
                pass  # of another version, or damaged: everything in it can be measured again

    def facts(self, path: Path) -> Facts:
        """Measured now if it is not known; what cannot be read has an `error`."""
        known = self._known(path)
        if known is None or (known.duration == 0 and not known.is_image and known.error is None):
            known = self._keep(path, replace(_measure(path), sha256=known.sha256 if known else None))
        return known

    def sha256(self, path: Path) -> str:
        """Of the file's bytes. VideoError where it cannot be read."""
        known = self._known(path) or Facts()
        if known.sha256 is None:
            known = self._keep(path, replace(known, sha256=_hash(path)))
        assert known.sha256
        return known.sha256

    def measure(self, paths: Iterable[Path], what: str, *, hashed: bool = False, show: bool = True) -> None:
        """Looks at many files at once, and remembers: `facts` of each, or with `hashed` its `sha256`."""
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            work = pool.map(self._sha256_or_none if hashed else self.facts, distinct := list(dict.fromkeys(paths)))
            for _ in tqdm(work, total=len(distinct), desc=what, disable=not show or not distinct, delay=2):
                if self._changed >= REMEMBER_EVERY:
                    self.remember()
        self.remember()

    def remember(self) -> None:
        """Writes the memory, where something has become known since."""
        if self.memory and self._changed:
            self._changed = 0
            known = {p: (s, t, asdict(f)) for p, (s, t, f) in list(self._facts.items()) if not f.error}
            self.memory.parent.mkdir(parents=True, exist_ok=True)
            scratch = self.memory.with_name(f".{self.memory.name}.{os.getpid()}")
            scratch.write_text(json.dumps(known))
            scratch.replace(self.memory)

    def _known(self, path: Path) -> Facts | None:
        size, time, facts = self._facts.get(str(path.absolute()), (-1, -1, None))
        return facts if (size, time) == _stamp(path) else None

    def _keep(self, path: Path, facts: Facts) -> Facts:
        self._facts[str(path.absolute())] = (*_stamp(path), facts)
        self._changed += 1
        return facts

    def _sha256_or_none(self, path: Path) -> str | None:
        try:
            return self.sha256(path)
        except VideoError:
            return None  # said where the file is read


def _stamp(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except OSError:
        return 0, 0
    return stat.st_size, stat.st_mtime_ns


def _measure(path: Path) -> Facts:
    try:
        info = probe(path)
    except VideoError as error:
        return Facts(error=str(error))
    return Facts(info.duration, info.fps, info.height, info.width, info.is_image)


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise VideoError(f"{path}: cannot be read ({error.strerror})") from error
    return digest.hexdigest()
