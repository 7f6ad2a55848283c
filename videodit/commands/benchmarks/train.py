"""`train`: where the time of a training step goes, in the trainer's own loop over encoded clips of the shapes world."""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from videodit.commands.benchmarks.devices import machine
from videodit.commands.benchmarks.turns import clock
from videodit.config import Run, load_config
from videodit.config.kinds import Count, Positive, Steps, argument
from videodit.training.loop import Loop
from videodit.training.precision import lacks_bfloat16
from videodit.training.trainer import Trainer

MODEL = ("forward", "backward", "optimizer")
OTHERS = ("data", "noise", "clipping", "average", "logging", "rest")
SHAPES = Path(__file__).parents[2] / "configs" / "shapes.yaml"


class Enough(Exception):
    """All steps that were wanted are taken."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", default=SHAPES, help="a YAML file of configs/ (shapes.yaml)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for example model.compile=false")
    parser.add_argument(
        "--stage", type=argument(Positive), default=2, help="of its stages, where it has some (2: clips of 17 frames)"
    )
    parser.add_argument("--model", default="shapes", help="pipeline folder that it goes on from (the packaged shapes)")
    parser.add_argument("--clips", type=argument(Positive), default=64, help="to encode first and train on (64)")
    parser.add_argument("--steps", type=argument(Steps), default=20, help="to measure (20)")
    parser.add_argument("--warmup", type=argument(Count), default=6, help="steps before these (6)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measures, and prints. ValueError: the configuration, the stage or the model is not usable."""
    with tempfile.TemporaryDirectory() as scratch:
        trainer = Trainer(config_of(args, scratch))
        steps = measure(trainer, args.warmup, args.steps)
    shares = [sum(step[part] for part in MODEL) / step["total"] for step in steps]
    size = trainer.config.data
    print(
        f"{args.model}: {sum(p.numel() for p in trainer.weights) / 1e6:.2f} M weights, batches of up to "
        f"{trainer.config.train.batch_size}, {size.num_frames} frames of {size.height} x {size.width}, {len(steps)} "
        f"steps, of which {sum(step['image'] for step in steps)} of images\n  {'':12}{'median ms':>12}{'share':>10}"
    )
    medians = {}
    for part in (*MODEL, *OTHERS, "total"):
        medians[part] = statistics.median(step[part] for step in steps)
        share = statistics.median(step[part] / step["total"] for step in steps)
        print(f"  {part:12}{1e3 * medians[part]:12.2f}{share:10.2%}")
    print(f"the model's own: {statistics.median(shares):.2%} ({min(shares):.2%} to {max(shares):.2%}) of a step")
    return {
        "what": "train",
        "machine": machine(trainer.accelerator.device),
        "share": statistics.median(shares),
        "medians": medians,
        "steps": steps,
    }


def config_of(args: argparse.Namespace, folder: str) -> Run:
    """A leg of the configuration, on a few clips, in a folder of its own, that validates and saves nothing."""
    legs = load_config(args.config, args.overrides).legs()
    if len(legs) > 1 and not 1 <= args.stage <= len(legs):
        raise ValueError(f"--stage {args.stage}: {args.config} has stages 1 to {len(legs)}")
    values = legs[args.stage - 1 if len(legs) > 1 else 0].model_dump()
    never = args.warmup + args.steps + 2
    values |= {"output": folder, "latents": None, "codec": args.model}
    values["data"] |= {"clips": args.clips, "validation": 0}
    values["train"] |= {"start_from": args.model, "steps_before": 0, "steps": never, "decay_steps": None}
    values["train"] |= dict.fromkeys(("checkpoint_every", "validate_every", "sample_every"), never) | {"keep_best": 0}
    if lacks_bfloat16(torch.device("cuda" if torch.cuda.is_available() else "cpu")):
        print("in fp32: this CPU has no instructions for bf16")
        values["train"]["precision"] = values["data"]["encode_precision"] = "no"
    return Run.model_validate(values)


def measure(trainer: Trainer, warmup: int, count: int) -> list[dict[str, float]]:
    """Seconds of each part of some steps, of a whole step (`total`), and whether it was one of images (`image`)."""
    steps: list[dict[str, float]] = []
    watch, loader, step, began = Watch(), trainer.loader, trainer.step, 0.0

    def cut(number: int, pieces: Any) -> dict[str, float]:
        """From the beginning of one step to that of the next: what is waited for is the next one's batch."""
        nonlocal began
        now = clock()
        if number > warmup:
            parts = {part: watch.seconds.get(part, 0.0) for part in (*MODEL, *OTHERS)}
            parts |= {"total": now - began, "rest": now - began - sum(parts.values())}
            steps.append(parts | {"image": watch.image})
        if len(steps) == count:
            raise Enough
        watch.seconds.clear()
        watch.image, began = pieces[0].size.num_frames == 1, now
        return step(number, pieces)

    with ExitStack() as stack:
        for owner, name, part in (
            (trainer.model, "forward", "forward"),
            (trainer.accelerator, "backward", "backward"),
            *((optimizer, "step", "optimizer") for optimizer in trainer.optimizers),
            (trainer.batches, "draw", "noise"),
            (trainer, "_clip", "clipping"),
            *((average, "update", "average") for average in (trainer.average, *trainer.powers)),
            (Loop, "record", "logging"),
        ):
            stack.enter_context(watch.around(owner, name, part))
        stack.enter_context(replaced(trainer, "loader", lambda wanted: watch.waits(loader(wanted), "data")))
        stack.enter_context(replaced(trainer, "step", cut))
        try:
            trainer.train()
        except Enough:
            return steps
    raise AssertionError("the run was to be longer than what is measured")


class Watch:
    """Seconds by part; a part inside another does not count for that one."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.image = False
        self._inside = 0.0

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        began, before = clock(), self._inside
        self._inside = 0.0
        try:
            yield
        finally:
            took = clock() - began
            self.seconds[name] += took - self._inside
            self._inside = before + took

    @contextmanager
    def around(self, owner: Any, name: str, part: str) -> Iterator[None]:
        """Counts the calls of a method for a part."""
        call = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.part(part):
                return call(*args, **kwargs)

        with replaced(owner, name, timed):
            yield

    def waits(self, batches: Iterable[Any], part: str) -> Iterator[Any]:
        """Counts what they are waited for."""
        source = iter(batches)
        while True:
            with self.part(part):
                batch = next(source, None)
            if batch is None:
                return
            yield batch


@contextmanager
def replaced(owner: Any, name: str, value: Callable[..., Any]) -> Iterator[None]:
    own = name in vars(owner)
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if own:
            setattr(owner, name, before)
        else:
            delattr(owner, name)
