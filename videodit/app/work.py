"""Work that takes its turn: one job at a time, in the order in which they were asked for, each watched and stopped.

A page that is closed leaves its jobs as they are: they are made to their end, and whoever opens the page next has them.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from videodit.terminal import shown

log = logging.getLogger(__name__)


class Stopped(Exception):
    """Raised in a job that was cancelled, at its next step."""


class Job:
    """One thing asked for: what of it is made by now, and how it ended.

    `state` is "waiting", "working", "done", "stopped" or "failed"; `error` says why it failed, in words for its user.
    """

    def __init__(self, owner: str, clips: int):
        self.owner, self.clips = owner, clips
        self.state, self.error = "waiting", ""
        self.made: list[Path] = []
        self.notes: list[str] = []  # what was warned of
        self.step = self.steps = 0  # of the clip, or the window of it, that is being made
        self.preview: Path | None = None
        self._cancelled, self._version = False, 0
        self._changed = threading.Condition(threading.RLock())

    @property
    def ended(self) -> bool:
        return self.state not in ("waiting", "working")

    def cancel(self) -> None:
        """It ends at its next step, or, where its turn has not come, now."""
        with self._changed:
            self._cancelled = True
            self.tell(**{"state": "stopped"} if self.state == "waiting" else {})

    def start(self) -> bool:
        """Its turn has come; False where it was cancelled before."""
        with self._changed:
            if not self._cancelled:
                self.tell(state="working")
            return not self._cancelled

    def check(self) -> None:
        """Raises Stopped where it was cancelled."""
        if self._cancelled:
            raise Stopped

    def watch(self, step: int, steps: int) -> None:
        """What `make_clips` calls after each step."""
        self.check()
        self.tell(step=step, steps=steps)

    def tell(self, **news: object) -> None:
        """Sets what is new, and lets those know who follow it."""
        with self._changed:
            for name, value in news.items():
                setattr(self, name, value)
            self._version += 1
            self._changed.notify_all()

    def changes(self) -> Iterator[Job]:
        """The job itself, at once and whenever something is new, until it has ended."""
        seen = -1
        while True:
            with self._changed:
                while self._version == seen:
                    self._changed.wait()
                seen, ended = self._version, self.ended
            yield self
            if ended:
                return


class Worker:
    """Does jobs one after another, in a thread of its own."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "videodit-app")
        self._jobs: list[Job] = []
        self._lock = threading.Lock()

    def begin(self, job: Job, work: Callable[[Job], None]) -> Job:
        """Has `work` done when its turn comes."""
        with self._lock:
            self._jobs.append(job)
        done: Future = self._thread.submit(self._do, job, work)
        done.add_done_callback(lambda _: self._next(job))
        return job

    def ahead(self, job: Job) -> int:
        """How many jobs come before it."""
        with self._lock:
            before = self._jobs[: self._jobs.index(job)] if job in self._jobs else []
        return sum(not other.ended for other in before)

    def of(self, owner: str) -> list[Job]:
        """The jobs of an owner that have not ended."""
        with self._lock:
            return [job for job in self._jobs if job.owner == owner and not job.ended]

    def cancel(self, owner: str) -> None:
        """Cancels all of an owner's jobs; the others move up."""
        for job in self.of(owner):
            job.cancel()
        self._tell()

    def leave(self, owner: str) -> None:
        """The owner is gone: the jobs go on, and are nobody's."""
        for job in self.of(owner):
            job.owner = ""
            log.info("a page was closed; what it asked for is made all the same")

    def adopt(self, owner: str) -> list[Job]:
        """The jobs that are nobody's become this owner's."""
        with self._lock:
            found = [job for job in self._jobs if not job.owner]
            for job in found:
                job.owner = owner
        return found

    def close(self) -> None:
        """Cancels all, and waits for the step that is being made."""
        with self._lock:
            for job in self._jobs:
                job.cancel()
        self._thread.shutdown()

    def _next(self, job: Job) -> None:
        with self._lock:
            self._jobs.remove(job)
        self._tell()

    def _tell(self) -> None:
        with self._lock:
            jobs = list(self._jobs)
        for job in jobs:
            job.tell()

    def _do(self, job: Job, work: Callable[[Job], None]) -> None:
        if not job.start():
            return
        notes = _Notes(job)
        logging.getLogger("videodit").addHandler(notes)
        try:
            work(job)
            job.tell(state="done")
        except Stopped:
            log.info("stopped; %d of %d clips are made", len(job.made), job.clips)
            job.tell(state="stopped")
        except (ValueError, OSError, ImportError) as error:  # what a user can mend
            said = " ".join(str(error).split())
            log.error("%s", shown(said))
            job.tell(state="failed", error=said)
        except Exception as error:
            memory = "out of memory" in str(error).lower()
            log.exception("a clip could not be made")
            said = "the memory does not suffice: ask for fewer frames or a smaller size" if memory else ""
            job.tell(state="failed", error=said or f"{type(error).__name__}; the console has the whole of it")
        finally:
            logging.getLogger("videodit").removeHandler(notes)


class _Notes(logging.Handler):
    """Keeps what is warned of while a job is made, each once, for its page."""

    def __init__(self, job: Job):
        super().__init__(logging.WARNING)
        self.job = job

    def emit(self, record: logging.LogRecord) -> None:
        said = record.getMessage()
        if record.levelno == logging.WARNING and said not in self.job.notes:
            self.job.notes.append(said)
