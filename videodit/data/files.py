"""What is known of each file: measured once, and hashed once, for as long as its size and time of change stay.

Both cost a pass over the file, and every run wants them: which bucket a clip fills, and under which name its latent is
kept. `files.json` remembers them beside the latents. A file that cannot be decoded, crashes the decoder or takes too
long goes into quarantine: a line in `quarantine.jsonl` says why, and no run with these latents opens it again until it
changes, the limits are raised, or the line is taken out. So a run that goes on sees the same clips as before.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter
from tqdm import tqdm

from videodit.disk import replace_text, writing
from videodit.video.guarded import Guarded
from videodit.video.index import UnsuitableError, VideoError
from videodit.video.reader import probe

log = logging.getLogger(__name__)

CHUNK = 1 << 20
REMEMBER_EVERY = 5000  # files
UNASKED = {"peculiar": None}  # of a memory whose version did not ask
PECULIAR: dict[str, tuple[str, Callable[[dict], bool]]] = {  # what is told of it, and when it holds of a `VideoInfo`
    "interlaced": ("interlaced: read as stored, two fields in a frame", lambda info: info["interlaced"]),
    "hdr": ("HDR (PQ or HLG): read as stored, which looks pale", lambda info: info["hdr"]),
    "nonsquare": (
        "of pixels that are not square: read as stored, so what they show is stretched",
        lambda info: abs(info["pixel_aspect"] - 1) > 0.01,
    ),
}


@dataclass(frozen=True)
class Facts:
    """A file's length in seconds (0: an image), frames a second, size in pixels, whether it is `transparent` in parts,
    in what its pixels are no plain ones (`PECULIAR`, separated by spaces); or the error that reading it gave."""

    duration: float = 0.0
    fps: float = 0.0
    height: int = 0
    width: int = 0
    is_image: bool = False
    error: str | None = None
    sha256: str | None = None
    transparent: bool | None = None  # None: measured before anyone asked
    peculiar: str | None = ""

    @property
    def is_measured(self) -> bool:
        asked = self.transparent is not None and self.peculiar is not None
        measured = (self.duration > 0 or self.is_image) and asked
        return measured or self.error is not None


_FACTS = TypeAdapter(Facts)


class Files:
    """Facts of files, remembered in `memory` (None: for as long as this object lives); `reader` opens them."""

    def __init__(self, memory: Path | None = None, reader: Guarded | None = None):
        self.memory, self.reader = memory, reader or Guarded()
        self.quarantine = memory.with_name("quarantine.jsonl") if memory else None
        self._changed = 0  # facts that are not in the memory yet
        self._facts: dict[str, tuple[int, int, Facts]] = {}  # by path: bytes, time of change in ns, facts
        if memory and memory.exists():
            self._facts = _remembered(memory)
        self.recall()

    def recall(self) -> None:
        """Reads the quarantine: what other processes have put there too."""
        if self.quarantine and self.quarantine.exists():
            for line in self.quarantine.read_text(encoding="utf-8", errors="replace").splitlines():
                with suppress(ValueError, TypeError, KeyError):  # a line that was being written
                    row = json.loads(line)
                    path, stamp = Path(row["file"]), (row["bytes"], row["changed"])
                    patience = row["seconds"] >= self.reader.seconds and row["memory_gb"] >= self.reader.memory_gb
                    if patience and stamp == _stamp(path):
                        facts = replace(self._known(path) or Facts(), error=str(row["why"]))
                        self._facts[row["file"]] = (*stamp, facts)

    def facts(self, path: Path) -> Facts:
        """Measured now if it is not known; what cannot be read has an `error`."""
        known = self._known(path)
        if known is None or not known.is_measured:
            self._measured(path, self._probe(path))
        return self._known(path) or Facts(error=f"{path}: changed while it was measured; try again")

    def known_error(self, path: Path) -> str | None:
        """What is known to be wrong with a file, without looking at it."""
        known = self._known(path)
        return known.error if known else None

    def peculiar(self, path: Path) -> list[str]:
        """In what its pixels are known to be no plain ones, without looking at it."""
        return (known.peculiar or "").split() if (known := self._known(path)) else []

    def sha256(self, path: Path) -> str:
        """Of the file's bytes. VideoError where it cannot be read."""
        known = self._known(path) or Facts()
        if known.sha256 is None:
            known = self._keep(path, replace(known, sha256=_hash(path)))
        assert known.sha256
        return known.sha256

    def measure(self, paths: Iterable[Path], what: str, *, show: bool = True) -> None:
        """Measures many files at once, and remembers."""
        new = [path for path in dict.fromkeys(paths) if not (self._known(path) or Facts()).is_measured]
        work = zip(new, self.reader.map(probe, ((path,) for path in new)), strict=True)
        for path, result in tqdm(work, total=len(new), desc=what, disable=not show or not new, delay=2):
            self._measured(path, result)
        self.remember()

    def hash(self, paths: Iterable[Path], what: str, *, show: bool = True) -> None:
        """Hashes many files at once, and remembers."""
        known = {path: self._known(path) or Facts() for path in dict.fromkeys(paths)}
        new = [path for path, facts in known.items() if not facts.sha256 and not facts.error]
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            for _ in tqdm(
                pool.map(self._try_hash, new), total=len(new), desc=what, disable=not show or not new, delay=2
            ):
                self._remember_some()
        self.remember()

    def fail(self, path: Path, error: VideoError, *, is_missing: bool = False) -> None:
        """Notes why a file cannot be read; one that is there, and is not just unsuitable, goes into quarantine.

        Args:
            is_missing: put one that is not there into quarantine too, until it is.
        """
        known = self._known(path)
        if isinstance(error, UnsuitableError) or (known and known.error):
            return
        self._keep(path, replace(known or Facts(), error=str(error)))
        size, changed = _stamp(path)
        if self.quarantine and (changed or is_missing):
            limits = {"seconds": self.reader.seconds, "memory_gb": self.reader.memory_gb}
            row = {"file": str(path.absolute()), "bytes": size, "changed": changed, **limits, "why": str(error)}
            with writing(self.quarantine):
                self.quarantine.parent.mkdir(parents=True, exist_ok=True)
                with self.quarantine.open("a", encoding="utf-8") as lines:
                    lines.write(json.dumps(row) + "\n")  # at once, and in one piece: several processes may do so

    def remember(self) -> None:
        """Writes the memory, where something has become known since."""
        if self.memory and self._changed:
            self._changed = 0
            known = {p: (s, t, asdict(f)) for p, (s, t, f) in list(self._facts.items()) if not f.error}
            with writing(self.memory):
                self.memory.parent.mkdir(parents=True, exist_ok=True)
            replace_text(self.memory, json.dumps(known))

    def _remember_some(self) -> None:
        if self._changed >= REMEMBER_EVERY:
            self.remember()

    def _probe(self, path: Path) -> dict | VideoError:
        try:
            return self.reader.call(probe, path)
        except VideoError as error:
            return error

    def _measured(self, path: Path, result: dict | VideoError) -> None:
        """Keeps what `probe` said."""
        if isinstance(result, VideoError):
            self.fail(path, result)
        else:
            measured = {key: result[key] for key in ("duration", "fps", "height", "width", "is_image", "transparent")}
            measured["peculiar"] = " ".join(name for name, (_, holds) in PECULIAR.items() if holds(result))
            self._keep(path, replace(self._known(path) or Facts(), **measured))
        self._remember_some()

    def _known(self, path: Path) -> Facts | None:
        size, time, facts = self._facts.get(str(path.absolute()), (-1, -1, None))
        return facts if (size, time) == _stamp(path) else None

    def _keep(self, path: Path, facts: Facts) -> Facts:
        self._facts[str(path.absolute())] = (*_stamp(path), facts)
        self._changed += 1
        return facts

    def _try_hash(self, path: Path) -> None:
        with suppress(VideoError):  # said where the file is read
            self.sha256(path)


def _remembered(memory: Path) -> dict[str, tuple[int, int, Facts]]:
    """What a memory holds that is well formed; of another version, or damaged, the rest can be measured again."""
    try:
        stored = json.loads(memory.read_text(encoding="utf-8"))
        rows = list(stored.items())
    except (ValueError, AttributeError, RecursionError):
        rows = []
    known = {}
    for path, row in rows:
        with suppress(ValueError, TypeError):
            size, time, facts = row
            known[path] = (int(size), int(time), _FACTS.validate_python(UNASKED | facts))
    if len(known) < len(rows) or not rows:
        log.warning("%s: damaged in parts: %d files are measured anew", memory, len(rows) - len(known))
    return known


def _stamp(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except OSError:
        return 0, 0
    return stat.st_size, stat.st_mtime_ns


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise VideoError(f"{path}: cannot be read ({error.strerror})") from error
    return digest.hexdigest()
