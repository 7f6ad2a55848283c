"""What every training loop shares: where it writes, how it logs, when it saves, how it resumes."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from videodit.config import Run
from videodit.training import checkpoint

log = logging.getLogger(__name__)


class Loop:
    """The frame of a training run: a folder, a progress bar, losses to `losses.jsonl` and TensorBoard, checkpoints.

    ```python
    loop = Loop(folder, config, steps=1000, checkpoint_every=100, keep=2, log_every=10)
    loop.resume(load_state)
    for step in loop.remaining():       # 0-based number of the step to take
        loop.record(step, loss=...)
        loop.checkpoint(step, state)    # when due
    ```

    Of several processes the main one writes; the others only walk along.

    Raises:
        ValueError: the folder cannot be written.
    """

    def __init__(self, folder: Path, config: Run, *, steps: int, checkpoint_every: int, keep: int, log_every: int):
        self.folder, self.steps = folder, steps
        self.checkpoint_every, self.keep, self.log_every = checkpoint_every, keep, log_every
        self.start = 0
        self.state = PartialState()
        self.losses = folder / "losses.jsonl"
        self._sums: dict[str, list[float]] = {}
        self._clock = time.monotonic()
        if not self.state.is_main_process:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "config.json").write_text(config.model_dump_json(indent=1))
            self.losses.touch()
        except OSError as error:
            raise ValueError(f"{folder}: cannot be written ({error.strerror}); choose another `output`") from error
        self._board = SummaryWriter(str(folder / "tensorboard"))

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    def resume(self, load_state: Callable[[dict[str, Any]], None]) -> None:
        """Goes on from the last whole checkpoint in the folder, where there is one; later losses are forgotten."""
        found = checkpoint.list_checkpoints(self.checkpoints)
        if found:
            self.start, state = checkpoint.load(found[-1])
            load_state(state)
            log.info("resuming from %s", found[-1])
        if self.state.is_main_process:
            lines = self.losses.read_text().splitlines()
            self.losses.write_text("".join(f"{line}\n" for line in lines if json.loads(line)["step"] <= self.start))

    def remaining(self) -> Iterator[int]:
        """The steps left, with a progress bar."""
        steps = range(self.start, self.steps)
        disable = not self.state.is_main_process
        with tqdm(steps, initial=self.start, total=self.steps, dynamic_ncols=True, disable=disable) as self.bar:
            yield from self.bar
        if self.state.is_main_process:
            self._board.close()

    def record(self, step: int, **values: float | torch.Tensor) -> None:
        """Averages the values and writes them every `log_every` steps."""
        for name, value in values.items():
            self._sums.setdefault(name, []).append(float(value))
        if self.due(step, self.log_every):
            means = {name: sum(v) / len(v) for name, v in self._sums.items()}
            self.write(step, means | {"seconds": time.monotonic() - self._clock})
            self.bar.set_postfix({k: f"{v:.4g}" for k, v in means.items()})
            self._sums.clear()
            self._clock = time.monotonic()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One line of `losses.jsonl`, and TensorBoard."""
        if not self.state.is_main_process:
            return
        with self.losses.open("a") as file:
            file.write(json.dumps({"step": step + 1, **{k: round(v, 6) for k, v in values.items()}}) + "\n")
        for name, value in values.items():
            self._board.add_scalar(name, value, step + 1)

    def due(self, step: int, every: int) -> bool:
        """Whether something done every so many steps is due after `step`; always after the last."""
        return (step + 1) % every == 0 or step + 1 == self.steps

    def checkpoint(
        self, step: int, state: Callable[[], dict[str, Any]], extra: Callable[[Path], None] | None = None
    ) -> None:
        """Saves when due; `state` is called only then."""
        if self.due(step, self.checkpoint_every) and self.state.is_main_process:
            checkpoint.save(self.checkpoints, step + 1, state(), keep=self.keep, extra=extra)
