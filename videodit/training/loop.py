"""What every training loop shares: where it writes, how it logs, when it saves, how it stops, resumes and goes back."""

from __future__ import annotations

import importlib.util
import json
import logging
import math
import signal
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from tqdm import tqdm

from videodit.config import Run
from videodit.disk import replace_text, write_lines, writing
from videodit.training import checkpoint, parallel
from videodit.training.notes import changes, passed_over, step_of

log = logging.getLogger(__name__)

T = TypeVar("T")
SPIKE_WINDOW, SPIKE_AFTER = 100, 20  # losses whose median a spike is measured by; how many there must be
SKIPS = 10  # steps in a row without a finite loss or gradient, after which skipping is no help


class Interrupted(Exception):
    """SIGTERM: the run has saved a checkpoint and stopped; the same command goes on."""

    status = 143  # of the command


class InterruptedByUser(Interrupted):
    """SIGINT (Ctrl-C): as SIGTERM."""

    status = 130


SIGNALS = {signal.SIGTERM: Interrupted, signal.SIGINT: InterruptedByUser}


class Loop:
    """The frame of a training run: a folder, a progress bar, losses to `losses.jsonl` and trackers, checkpoints.

    ```python
    loop = Loop(folder, config, accelerator, steps=1000, checkpoint_every=100, keep=2, log_every=10)
    loop.resume(state, load_state)
    for step, batch in loop.run(batches):      # 0-based number of the step to take, and what `batches` gives for it
        loop.record(step, loss=...)
        loop.checkpoint(step)                  # when due
    ```

    Of several processes all walk along, and the main one writes.

    Args:
        keep: so many last checkpoints stay; and `keep_best` with the lowest metric.
        trackers: of accelerate's, beside `losses.jsonl`.

    Raises:
        ValueError: the folder cannot be written, or a tracker is not installed.
    """

    def __init__(
        self,
        folder: Path,
        config: Run,
        accelerator: Accelerator,
        *,
        steps: int,
        checkpoint_every: int,
        keep: int,
        log_every: int,
        keep_best: int = 0,
        trackers: Iterable[str] = ("tensorboard",),
    ):
        self.folder, self.config, self.accelerator, self.steps = folder, config, accelerator, steps
        self.checkpoint_every, self.keep, self.keep_best, self.log_every = checkpoint_every, keep, keep_best, log_every
        self.at = 0  # steps taken
        self.losses = folder / "losses.jsonl"
        self.metric: float | None = None  # of the weights as they are after the step, for `keep_best`
        self._sums: dict[str, list[float]] = {}
        self._recent: list[float] = []
        self._passed_over: set[int] = set()
        self._go_back = False
        self._signal: int | None = None
        self._extra: Callable[[Path], None] | None = None
        self._clock = time.monotonic()
        self._waited = self._waited_in_all = self._took_in_all = 0.0
        for name in trackers:
            if importlib.util.find_spec(name) is None:
                raise ValueError(f"train.trackers: {name} is not installed; pip install {name}, or take it out")
        if accelerator.is_main_process:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                replace_text(folder / "config.json", config.model_dump_json(indent=1))
                self.losses.touch()
            except OSError as error:
                raise ValueError(f"{folder}: cannot be written ({error.strerror}); choose another `output`") from error
        accelerator.project_configuration.set_directories(str(folder / "trackers"))
        accelerator.log_with = list(trackers)
        accelerator.init_trackers("videodit")

    @property
    def goes_back(self) -> bool:
        """Whether the step that was taken will be taken back."""
        return self._go_back

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    # --- going on ----------------------------------------------------------------------------------------------------

    def resume(
        self,
        state: Callable[[], dict[str, Any]],
        load_state: Callable[[dict[str, Any]], None],
        wanted: str | None = "latest",
        accept: Callable[[Path, dict[str, Any]], None] | None = None,
    ) -> None:
        """Goes on from the last whole checkpoint in the folder, where there is one; later losses are forgotten.

        Args:
            wanted: `train.resume`: another checkpoint to go on from, or None: from none.
            accept: is shown the checkpoint, and its state without tensors, and may raise.

        Raises:
            ValueError: `wanted` is no checkpoint, or is None and there are some; a file of the run is damaged, and
                what it said cannot be known again.
        """
        self._state, self._load_state, self._wanted = state, load_state, wanted
        found = checkpoint.list_checkpoints(self.checkpoints)
        if wanted is None and found:
            raise ValueError(
                f"{self.checkpoints}: holds checkpoints, but train.resume is null; delete them, choose another "
                f"output, or set train.resume: latest"
            )
        if wanted not in (None, "latest"):
            found = [Path(wanted)]  # type: ignore[arg-type]
        if found:
            self._passed_over = set(passed_over(self.folder))
            if self._passed_over:
                log.warning("passes over steps %s (passed_over.json)", sorted(self._passed_over))
            self._load(found[-1], accept)
            self._forget_later(found[-1])
            for line in changes(found[-1] / "config.json", self.config):
                log.warning("goes on under another configuration: %s", line)
        self._forget()

    def _load(self, folder: Path, accept: Callable[[Path, dict[str, Any]], None] | None = None) -> None:
        self.at, state = checkpoint.load(folder, self._with_losses(), partial(accept, folder) if accept else None)
        self._recent = state.pop("recent")
        self._load_state(state)
        log.info("going on from %s", folder)

    def _with_losses(self) -> dict[str, Any]:
        return self._state() | {"recent": self._recent}

    def _forget_later(self, folder: Path) -> None:
        """Checkpoints of a later step are of a run that is given up: they would be taken for this one's."""
        if self.accelerator.is_main_process:
            for later in checkpoint.list_checkpoints(self.checkpoints):
                if later != folder and checkpoint.describe(later)["step"] > self.at:
                    log.warning("%s is of a run that is given up: renamed to given_up_%s", later, later.name)
                    later.rename(later.with_name(f"given_up_{later.name}"))
        self.accelerator.wait_for_everyone()

    def _forget(self) -> None:
        """Lines of `losses.jsonl` about steps that will be taken anew."""
        if self.accelerator.is_main_process:
            lines = self.losses.read_text(encoding="utf-8", errors="replace").splitlines()
            steps = [step_of(line) for line in lines]
            if damaged := [number for number, step in enumerate(steps, 1) if step is None]:
                log.warning(
                    "%s: %d of its lines are damaged, and left out: line %s",
                    self.losses,
                    len(damaged),
                    ", ".join(map(str, damaged[:5])),
                )
            kept = [line for line, step in zip(lines, steps, strict=True) if step is not None and step <= self.at]
            write_lines(self.losses, kept)

    def run(self, batches: Callable[[Sequence[int]], Iterable[T]]) -> Iterator[tuple[int, T]]:
        """The steps left and their batches, with a progress bar; says at the end how long the data was waited for.

        Raises:
            Interrupted: after SIGTERM or SIGINT, when a checkpoint is saved.
        """
        before = {number: _catch(number, self._interrupt) for number in SIGNALS}
        disable = not self.accelerator.is_main_process
        try:
            with tqdm(initial=self.at, total=self.steps, dynamic_ncols=True, disable=disable) as self.bar:
                while self.at < self.steps:
                    yield from self._until_done_or_back(batches)
        finally:
            for number, handler in before.items():
                _catch(number, handler)
            with writing(self.folder / "trackers"):
                for tracker in self.accelerator.trackers:
                    tracker.finish()
        if self._took_in_all:
            share = 100 * self._waited_in_all / self._took_in_all
            log.info("waited for data: %.2f %% of %.0f s", share, self._took_in_all)

    def _until_done_or_back(self, batches: Callable[[Sequence[int]], Iterable[T]]) -> Iterator[tuple[int, T]]:
        steps = [step for step in range(self.at, self.steps) if step not in self._passed_over]
        self._go_back = False
        for step, batch in zip(steps, self._timed(batches(steps)), strict=True):
            yield step, batch
            self.bar.update(step + 1 - self.at)
            self.at = step + 1
            if self._go_back:
                return self._return_to_last()
            if parallel.any_process(self._signal is not None):
                self._stop(signal.Signals(parallel.largest(self._signal or 0)))
        self.at = self.steps

    def _timed(self, batches: Iterable[T]) -> Iterator[T]:
        """Counts the seconds that batches are waited for, and all seconds."""
        source = iter(batches)
        while True:
            began = time.monotonic()
            try:
                batch = next(source)
            except StopIteration:
                return
            waited = time.monotonic() - began
            yield batch
            self._waited += waited
            self._waited_in_all += waited
            self._took_in_all += time.monotonic() - began

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        """After this step. A second Ctrl-C means at once; but launchers of several pass on what all have got."""
        if self._signal == number == signal.SIGINT and self.accelerator.num_processes == 1:
            raise KeyboardInterrupt
        self._signal = number

    def _stop(self, why: signal.Signals) -> None:
        if not self._saved():
            self._save(self.at)
        again = "the same command" if self._wanted == "latest" else "train.resume: latest"
        raise SIGNALS[why](f"stopped by {why.name} after step {self.at}; {again} goes on from there")

    # --- saying ------------------------------------------------------------------------------------------------------

    def record(self, step: int, **values: float | torch.Tensor) -> None:
        """Averages the values and writes them every `log_every` steps."""
        for name, value in values.items():
            self._sums.setdefault(name, []).append(float(value))
        if self.due(step, self.log_every):
            seconds = time.monotonic() - self._clock
            means = {name: sum(v) / len(v) for name, v in self._sums.items()}
            self.write(step, means | {"seconds": seconds, "data_wait": self._waited / max(seconds, 1e-9)})
            self.bar.set_postfix({k: f"{v:.4g}" for k, v in means.items()})
            self._sums.clear()
            self._clock, self._waited = time.monotonic(), 0.0

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One line of `losses.jsonl`, and the trackers."""
        if not self.accelerator.is_main_process:
            return
        with writing(self.losses), self.losses.open("a") as file:
            file.write(json.dumps({"step": step + 1, **{k: float(f"{v:.8g}") for k, v in values.items()}}) + "\n")
        with writing(self.folder / "trackers"):
            self.accelerator.log(dict(values), step=step + 1)

    def due(self, step: int, every: int) -> bool:
        """Whether something done every so many steps is due after `step`; always after the last."""
        return (step + 1) % every == 0 or step + 1 == self.steps

    # --- saving ------------------------------------------------------------------------------------------------------

    def checkpoint(self, step: int, extra: Callable[[Path], None] | None = None) -> None:
        """Saves when due, and not when the step is to be taken back."""
        self._extra = extra
        if self.due(step, self.checkpoint_every) and not self._go_back:
            self._save(step + 1)
        self.metric = None  # of this step's weights, no others

    def _save(self, steps: int) -> None:
        def extra(folder: Path) -> None:
            if self.accelerator.is_main_process:
                (folder / "config.json").write_text(self.config.model_dump_json(indent=1))
            if self._extra:
                self._extra(folder)

        checkpoint.save(
            self.checkpoints,
            steps,
            self._with_losses(),
            keep=self.keep,
            extra=extra,
            metric=self.metric,
            keep_best=self.keep_best,
        )

    def _saved(self) -> bool:
        found = checkpoint.list_checkpoints(self.checkpoints)
        return bool(found) and checkpoint.describe(found[-1])["step"] == self.at

    # --- going back --------------------------------------------------------------------------------------------------

    def watch(self, step: int, loss: float, factor: float | None) -> None:
        """Goes back to the last checkpoint where a loss is `factor` times the median of those before it (None: never).

        The same on all processes, since the loss is. The step is passed over the second time.
        """
        if factor is None:
            return
        if not math.isfinite(loss):
            return  # what is done with it is said elsewhere
        if len(self._recent) >= SPIKE_AFTER and loss > factor * statistics.median(self._recent):
            if checkpoint.list_checkpoints(self.checkpoints):
                self._go_back = True
                self._passed_over.add(step)
                return
            log.warning("step %d: loss %.4g is a spike, but there is no checkpoint yet to go back to", step, loss)
        self._recent = [*self._recent[1 - SPIKE_WINDOW :], loss]

    def _return_to_last(self) -> None:
        passed_over = sorted(self._passed_over)
        if self.accelerator.is_main_process:
            replace_text(self.folder / "passed_over.json", json.dumps(passed_over))
        self.accelerator.wait_for_everyone()
        log.warning("step %d: the loss is a spike; it is passed over", self.at - 1)
        self._load(checkpoint.list_checkpoints(self.checkpoints)[-1])
        self._forget()
        self._sums.clear()
        self.bar.n = self.at


def _catch(number: int, handler: Any) -> Any:
    """Sets a signal's handler where that is possible (the main thread); returns the one before."""
    try:
        return signal.signal(number, handler)
    except ValueError:
        return None
