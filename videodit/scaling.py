"""Loss against steps, compute and clips: what runs wrote down, and the power laws that they follow.

    loss(x) = a + b x^-c        a: what would be left for ever, b and c above 0

(Kaplan et al. 2020, arXiv 2001.08361; with what is left, Hoffmann et al. 2022, arXiv 2203.15556). Fitted by least
squares of relative errors: for each c of a fine grid a and b are those of a linear fit, and the best c is refined
between its neighbours. How sure a fit is comes from fits to the curve with its residuals drawn anew, in blocks, since
neighbours of one run err alike (Künsch 1989).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from videodit.config import Run
from videodit.drawing import Curve, loglog, short

if TYPE_CHECKING:
    from videodit.describing import Description

AXES = {"steps": "steps", "compute": "compute of training, FLOP", "clips": "clips shown"}
GRID = np.geomspace(0.01, 4, 240)  # exponents that are tried
FEWEST = 6  # points of a fit
DRAWS = 300
TRAINING = 3  # forward and backward, in forwards


@dataclass(frozen=True)
class Law:
    """a + b x^-c, and the 95 % intervals of a and c."""

    a: float
    b: float
    c: float
    a_range: tuple[float, float]
    c_range: tuple[float, float]

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return self.a + self.b * x**-self.c

    def __str__(self) -> str:
        low, high = self.c_range
        left = f"{self.a:.3g} + " if self.a else ""
        return f"{left}{short(self.b)} x^-{self.c:.2f} ({low:.2f} to {high:.2f})"


@dataclass(frozen=True)
class History:
    """What a run wrote: `loss` at `steps`, with its configuration. model: of what it trained, for one clip."""

    folder: Path
    config: Run
    name: str
    steps: np.ndarray
    loss: np.ndarray

    def along(self, axis: str) -> np.ndarray:
        """The steps, clips shown, or FLOP spent at them. ValueError where what a step shows is not one size's."""
        if axis == "steps":
            return self.steps
        data, train = self.config.data, self.config.train
        if data.buckets or train.batch_tokens:
            key = "data.buckets" if data.buckets else "train.batch_tokens"
            raise ValueError(f"{self.folder}: with {key} steps show different numbers of clips: plot against steps")
        clips = self.steps * float(train.batch_size)
        return clips if axis == "clips" else clips * TRAINING * self.flops

    @cached_property
    def flops(self) -> float:
        """Of a forward pass of the mean clip: some are shown as images."""
        share = self.config.data.image_share
        image = self._model(1).flops if share else 0
        return (1 - share) * self._model(None).flops + share * image

    def _model(self, num_frames: int | None) -> Description:
        from videodit.describing import describe  # and torch with it, which losses alone do without

        found = [self.folder / "pipeline", *sorted((self.folder / "checkpoints").glob("*"), reverse=True)]
        whole = [folder for folder in found if (folder / "model_index.json").is_file()]
        if not whole:
            raise ValueError(
                f"{self.folder}: no checkpoint says yet what is trained: wait for one, or plot against steps"
            )
        return describe(whole[0], num_frames=num_frames)

    @property
    def after_warmup(self) -> np.ndarray:
        """Which points a law can hold for."""
        return self.steps > self.config.train.warmup_steps


def read_history(folder: str | Path, name: str | None = None) -> History:
    """A run's losses.

    Args:
        folder: the run's `output`.
        name: of a value in `losses.jsonl`; None: `validation_loss`, or, where there is none, the loss of training.

    Raises:
        ValueError: no run, a damaged line, or no such value; names the file.
    """
    folder = Path(folder)
    try:
        config = Run.model_validate_json((folder / "config.json").read_text(encoding="utf-8"))
        lines = (folder / "losses.jsonl").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "its config.json is none of a run"
        raise ValueError(f"{folder}: is no run's folder, with config.json and losses.jsonl ({why})") from error
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            rows.append((float(row["step"]), {key: float(value) for key, value in row.items()}))
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{folder / 'losses.jsonl'}: line {number} is damaged; take it out") from error
    there = {key for _, row in rows for key in row}
    usual = next((key for key in ("validation_loss", "loss_clip", "loss_image") if key in there), "validation_loss")
    name = name or usual
    points = sorted((step, row[name]) for step, row in rows if name in row and 0 < row[name] < np.inf)
    if not points:
        known = ", ".join(sorted(key for key in there if "loss" in key)) or "nothing yet"
        raise ValueError(f"{folder / 'losses.jsonl'}: has no {name}; it has {known}")
    steps, loss = np.array(points).T
    return History(folder, config, name, steps, loss)


def fitted(x: np.ndarray, y: np.ndarray, seed: int = 0) -> Law:
    """The law nearest to points x, y above 0.

    Raises:
        ValueError: fewer than `FEWEST` points.
    """
    if len(x) < FEWEST:
        raise ValueError(f"{len(x)} points: a power law needs {FEWEST} or more")
    middle = float(np.exp(np.log(x).mean()))  # so that powers of large numbers stay numbers
    a, b, c = _nearest(x / middle, y)
    curve = a + b * (x / middle) ** -c
    errors, rng = y / curve - 1, np.random.default_rng(seed)
    errors = (errors - errors.mean()) * np.sqrt(len(x) / (len(x) - 3))  # three numbers were fitted to them
    block = max(1, round(len(x) ** (1 / 3)))
    drawn = []
    for _ in range(DRAWS):
        starts = rng.integers(len(x), size=-(-len(x) // block))
        order = (starts[:, None] + np.arange(block)).ravel()[: len(x)] % len(x)
        drawn.append(_nearest(x / middle, np.maximum(curve * (1 + errors[order]), 1e-12)))
    low, high = np.quantile(drawn, (0.025, 0.975), axis=0)
    ranges = [(float(low[i]), float(high[i])) for i in (0, 2)]
    return Law(a, b * middle**c, c, *ranges)


def _nearest(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    grid = GRID
    for _ in range(2):  # coarse, then between the neighbours of the best
        a, b, error = _linear(x, y, grid)
        best = int(error.argmin())
        around = grid[max(0, best - 1)], grid[min(len(grid) - 1, best + 1)]
        found = float(a[best]), float(b[best]), float(grid[best])
        grid = np.geomspace(*around, 60)
    return found


def _linear(x: np.ndarray, y: np.ndarray, exponents: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each exponent the best a and b, neither below 0, and the sum of squared relative errors."""
    one, power = 1 / y, x[None] ** -exponents[:, None] / y  # each divided by y: what should be 1
    oo, op, pp = (one * one).sum(), (one * power).sum(1), (power * power).sum(1)
    o, p = one.sum(), power.sum(1)
    determinant = np.maximum(oo * pp - op**2, 1e-300)
    a, b = (o * pp - p * op) / determinant, (p * oo - o * op) / determinant
    b = np.where(a < 0, p / pp, b)
    a = np.maximum(a, 0)
    a, b = np.where(b < 0, o / oo, a), np.maximum(b, 0)
    return a, b, ((a[:, None] * one + b[:, None] * power - 1) ** 2).sum(1)


def frontier(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Numbers of the points that none beats: every one that costs as much or less has a higher loss."""
    order = np.lexsort((y, x))
    lowest = np.minimum.accumulate(np.concatenate([[np.inf], y[order][:-1]]))
    return order[y[order] < lowest]


def plotted(histories: Sequence[History], axis: str) -> tuple[str, list[str]]:
    """The picture of runs along an axis of `AXES`, and a line a law: dots are what was measured, dashes what was
    fitted behind the warm-up; of several runs against compute also the law of the best at each cost."""
    curves, said = dict[str, Curve](), []
    points = [(one.along(axis), one.loss, one.after_warmup) for one in histories]

    def law(name: str, x: np.ndarray, y: np.ndarray, of: int) -> None:
        try:
            found = fitted(x, y)
        except ValueError as error:
            curves[name] = Curve(x[:1].tolist(), y[:1].tolist(), "dots", of)
            said.append(f"{name}: {error}")
            return
        line = np.geomspace(x.min(), x.max(), 60)
        curves[f"{name}: {found}"] = Curve(line.tolist(), found(line).tolist(), "dashes", of)
        said.append(f"{name}: {found}; a {found.a_range[0]:.3g} to {found.a_range[1]:.3g}")

    for number, (one, (x, y, late)) in enumerate(zip(histories, points, strict=True)):
        curves[f"_{number}"] = Curve(x.tolist(), y.tolist(), "dots", number)
        law(one.folder.name, x[late], y[late], number)
    if len(histories) > 1 and axis == "compute":
        x, y = (np.concatenate([point[part][point[2]] for point in points]) for part in (0, 1))
        best = frontier(x, y)
        law("the best at each cost", x[best], y[best], len(histories))
    names = {one.name.replace("_", " ") for one in histories}
    return loglog(f"Loss against {axis}", AXES[axis], ", ".join(sorted(names)), curves), said
