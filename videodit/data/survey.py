"""What is learned of raw files, each looked at once: facts from its header, then its scenes.

Files are opened in processes with limits, the longest first. What was learned is a line in `analysis.jsonl` as soon as
it is known, under the file's path, size and time of change and the settings that it follows from: a survey that is
stopped goes on, one with another filter begins with everything known. Errors are not remembered, since what could not
be read may be tomorrow.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from tqdm import tqdm

from videodit.data import scenes
from videodit.data.manifest import Item
from videodit.data.remote import fetch
from videodit.data.scenes import Scene
from videodit.disk import writing
from videodit.video.guarded import Guarded
from videodit.video.index import VideoError
from videodit.video.reader import probe

PIXELS_A_SECOND = 20e6  # a decoder that is slower hangs
BYTES_A_SECOND = 10e6  # a disk
PATIENCE = 60.0  # seconds, for whatever a file is
_BAR = "{l_bar}{bar}| {n:.0f}/{total:.0f} s of video [{elapsed}<{remaining}]"

Span = tuple[float, float | None]  # of a file, in seconds; None: to its end


class Memory:
    """Answers by question, in a file of lines `[question, answer]`; a line that was torn off counts for nothing."""

    def __init__(self, path: Path):
        self._path = path
        self._known: dict[str, Any] = {}
        if path.exists():
            lines = path.read_bytes().splitlines(keepends=True)
            for line in lines:
                with suppress(ValueError, TypeError):  # torn, or none of ours
                    question, answer = json.loads(line)
                    self._known[json.dumps(question)] = answer
            if lines and not lines[-1].endswith(b"\n"):
                with writing(path), path.open("ab") as file:
                    file.write(b"\n")

    def __contains__(self, question: list) -> bool:
        return json.dumps(question) in self._known

    def __getitem__(self, question: list) -> Any:
        return self._known[json.dumps(question)]

    def __setitem__(self, question: list, answer: Any) -> None:
        self._known[json.dumps(question)] = answer
        with writing(self._path), self._path.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps([question, answer]) + "\n")


class Survey:
    """Facts and scenes of files.

    Args:
        memory: of what was learned before.
        guarded: the processes that open files.
        threshold: of the scene detector; None: no cuts.
        seconds: longer scenes are cut into equal pieces.
        show: progress bars.
    """

    def __init__(self, memory: Memory, guarded: Guarded, threshold: float | None, seconds: float, *, show: bool = True):
        self._memory, self._guarded, self._show = memory, guarded, show
        self._settings = [scenes.VERSION, threshold, seconds]

    def bring(self, items: Iterable[Item]) -> dict[Path, VideoError]:
        """Fetches what is elsewhere; the errors of files that cannot be."""
        distant = [item for item in items if item.origin]
        with ThreadPoolExecutor(8) as pool:
            work = zip(distant, pool.map(_error_of_fetching, distant), strict=True)
            bar = tqdm(work, total=len(distant), desc="fetching", disable=not self._show or not distant, delay=1)
            return {item.path: error for item, error in bar if error}

    def facts(self, paths: Iterable[Path]) -> dict[Path, dict[str, Any] | VideoError]:
        """The fields of `VideoInfo` of each file, or why it cannot be read."""
        questions = {path: ["facts", *stamp(path)] for path in paths}
        new = [path for path in questions if questions[path] not in self._memory]
        errors = {}
        limits = {str(path): PATIENCE + sum(questions[path][2:3]) / BYTES_A_SECOND for path in new}
        results = self._guarded.map(probe, ((str(path),) for path in new), seconds=lambda path: limits[path])
        bar = tqdm(results, total=len(new), desc="opening", disable=not self._show or not new, delay=1)
        for path, result in zip(new, bar, strict=True):
            if isinstance(result, VideoError):
                errors[path] = result
            else:
                self._memory[questions[path]] = result
        return {path: errors[path] if path in errors else self._memory[questions[path]] for path in questions}

    def scenes(
        self, spans: Mapping[Path, Sequence[Span]], facts: Mapping[Path, Any]
    ) -> dict[Path, dict[Span, list[Scene]] | VideoError]:
        """The scenes of each span of each file, or why it cannot be decoded."""
        questions = {path: ["scenes", *self._settings, *stamp(path), spans[path]] for path in spans}
        new = [path for path in questions if questions[path] not in self._memory]
        new.sort(key=lambda path: -_work(facts[path]))
        limits = {str(path): time_limit(facts[path]) for path in new}
        calls = ((str(path), spans[path], *self._settings[1:]) for path in new)
        results = self._guarded.map(scenes.watch, calls, seconds=lambda path, *_: limits[path])
        errors, total = {}, sum(facts[path]["duration"] for path in new)
        with tqdm(total=total, desc="watching", bar_format=_BAR, disable=not self._show or not new, delay=1) as bar:
            for path, result in zip(new, results, strict=True):
                if isinstance(result, VideoError):
                    errors[path] = result
                else:
                    self._memory[questions[path]] = result
                bar.update(facts[path]["duration"])
        return {path: errors.get(path) or self._answer(questions[path], spans[path]) for path in spans}

    def _answer(self, question: list, spans: Sequence[Span]) -> dict[Span, list[Scene]]:
        found = [[Scene(**scene) for scene in one] for one in self._memory[question]]
        return dict(zip(spans, found, strict=True))


def time_limit(facts: Mapping[str, Any]) -> float:
    """Seconds that decoding a file may take."""
    return PATIENCE + _work(facts) / PIXELS_A_SECOND


def _error_of_fetching(item: Item) -> VideoError | None:
    try:
        fetch(item)
    except VideoError as error:
        return error
    return None


def stamp(path: Path) -> list:
    """What names a file's content, short of reading it; nothing of one that is not there."""
    try:
        stat = path.stat()
    except OSError:
        return [str(path.absolute())]
    return [str(path.absolute()), stat.st_size, stat.st_mtime_ns]


def _work(facts: Mapping[str, Any]) -> float:
    """Pixels to decode."""
    return facts["num_frames"] * facts["height"] * facts["width"]
