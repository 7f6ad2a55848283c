"""Jobs take turns, are followed and stopped, and end in words for their user."""

from __future__ import annotations

import logging
import threading

import pytest

from videodit.app.work import Job, Worker


@pytest.fixture
def worker():
    worker = Worker()
    yield worker
    worker.close()


class Gate:
    """Work that begins, and goes on when it is let."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Event(), threading.Event()

    def __call__(self, job: Job) -> None:
        self.begun.set()
        assert self.go.wait(60)
        job.check()


def ended(job: Job) -> Job:
    return list(job.changes())[-1]


def test_one_job_at_a_time_in_the_order_asked_for(worker: Worker) -> None:
    first, order = Gate(), []
    jobs = [worker.begin(Job("a", 1), first)]
    assert first.begun.wait(60)
    jobs += [worker.begin(Job("b", 1), lambda job, n=n: order.append(n)) for n in range(3)]
    assert [worker.ahead(job) for job in jobs] == [0, 1, 2, 3]
    assert [job.state for job in jobs] == ["working", "waiting", "waiting", "waiting"]
    first.go.set()
    assert [ended(job).state for job in jobs] == ["done"] * 4
    assert order == [0, 1, 2]
    assert worker.of("b") == []


def test_a_waiting_job_is_stopped_at_once_and_a_working_one_at_its_next_step(worker: Worker) -> None:
    gate, done = Gate(), []
    working = worker.begin(Job("a", 1), gate)
    assert gate.begun.wait(60)
    waiting = worker.begin(Job("b", 1), lambda job: done.append(1))
    behind = worker.begin(Job("c", 1), lambda job: None)
    assert worker.ahead(behind) == 2
    worker.cancel("b")
    assert ended(waiting).state == "stopped"
    assert worker.ahead(behind) == 1
    assert working.state == "working"
    working.cancel()
    assert working.state == "working"
    gate.go.set()
    assert ended(working).state == "stopped"
    assert ended(worker.begin(Job("c", 1), lambda job: None)).state == "done"
    assert done == []


def test_a_job_is_followed_to_its_end_step_by_step(worker: Worker) -> None:
    gate = Gate()

    def work(job: Job) -> None:
        gate(job)
        for step in range(1, 4):
            job.watch(step, 3)

    job = worker.begin(Job("a", 1), work)
    seen = job.changes()
    next(seen)
    gate.go.set()
    assert [(one.step, one.state) for one in seen][-1] == (3, "done")
    assert [one.state for one in job.changes()] == ["done"]  # who comes late is told the end


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("num_frames=3: pick\n 5"), "num_frames=3: pick 5"),
        (OSError(28, "No space left on device"), "No space left"),
        (RuntimeError("CUDA out of memory. Tried"), "ask for fewer frames or a smaller size"),
        (RuntimeError("odd"), "RuntimeError; the console has the whole of it"),
    ],
)
def test_an_error_ends_its_job_in_one_line_on_page_and_console_and_no_other_job(
    error: Exception, said: str, worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(job: Job) -> None:
        raise error

    job = ended(worker.begin(Job("a", 1), fails))
    assert job.state == "failed"
    assert said in job.error
    assert "\n" not in job.error
    assert str(error).split()[-1] in caplog.text
    assert ended(worker.begin(Job("a", 1), lambda job: None)).state == "done"


def test_what_is_warned_of_is_told_once(worker: Worker) -> None:
    def warns(job: Job) -> None:
        for _ in range(2):
            logging.getLogger("videodit.conditions").warning("a word that it never saw: %s", "zebra")

    assert ended(worker.begin(Job("a", 1), warns)).notes == ["a word that it never saw: zebra"]
    assert ended(worker.begin(Job("a", 1), lambda job: None)).notes == []


def test_a_job_whose_page_is_closed_goes_on_and_is_the_next_pages(worker: Worker) -> None:
    gate = Gate()
    job = worker.begin(Job("a", 1), gate)
    assert gate.begun.wait(60)
    assert worker.adopt("b") == []  # it is somebody's
    worker.leave("a")
    assert worker.adopt("b") == [job]
    assert worker.of("b") == [job]
    gate.go.set()
    assert ended(job).state == "done"


def test_at_the_end_all_are_stopped() -> None:
    def until_stopped(job: Job) -> None:
        for _ in job.changes():
            job.check()

    worker = Worker()
    jobs = [worker.begin(Job("a", 1), until_stopped) for _ in range(2)]
    worker.close()
    assert [job.state for job in jobs] == ["stopped", "stopped"]
