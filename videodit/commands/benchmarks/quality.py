"""`quality`: what each way to make clips for less costs in quality and saves in time, on the shapes world.

    videodit benchmark quality --way "whole" --way "taylorseer: cache=taylorseer" --way "four steps: model=DIR steps=4"

A way is a name and, behind a colon, what differs from the model's own: `model` (a folder; the packaged one), `steps`,
`guidance_scale`, `cache`. All make clips of the same held-out prompts from the same seeds, and a judge that measures
pixels says whether each shows what was asked; differences to the first way are paired, with their 95 % interval.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from videodit.caching import set_cache
from videodit.commands.benchmarks.devices import add_device, machine, named_device
from videodit.commands.benchmarks.turns import print_rows, rows, take_turns
from videodit.commands.worlds import load_pipeline
from videodit.config.kinds import Guidance, Positive, Seed, Steps, argument
from videodit.evaluation.judge import world
from videodit.evaluation.judge.sampled import ByPipeline
from videodit.evaluation.report.statistics import paired_difference

PROMPT = "a red circle moving right on a black background"
KEYS: dict[str, Callable[[str], Any]] = {
    "model": str,
    "steps": argument(Steps),
    "guidance_scale": argument(Guidance),
    "cache": str,
}


@dataclass(frozen=True)
class Way:
    """A way to make clips; None: the model's own."""

    name: str
    model: str = "shapes"
    steps: int | None = None
    guidance_scale: float | None = None
    cache: str | None = None


def way(text: str) -> Way:
    """Of "name: key=value ..."."""
    name, _, rest = (part.strip() for part in text.partition(":"))
    told: dict[str, Any] = {}
    for pair in rest.split():
        key, is_said, value = pair.partition("=")
        if key not in KEYS or not is_said or key in told:
            raise argparse.ArgumentTypeError(
                f"{pair!r} in {text!r} is none of {', '.join(KEYS)}, said once, as key=value"
            )
        try:
            told[key] = KEYS[key](value)
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentTypeError(f"{key}={error} (in {text!r})") from None
    if not name:
        raise argparse.ArgumentTypeError(f"{text!r} has no name before its colon")
    return Way(name, **told)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--way", type=way, action="append", required=True, metavar="NAME[: KEY=VALUE ...]", dest="ways")
    parser.add_argument(
        "--prompts", type=argument(Positive), default=400, help="of one thing, and a quarter of two (400)"
    )
    parser.add_argument("--seed", type=argument(Seed), default=0, help="of the prompts and their clips (0)")
    parser.add_argument("--batch-size", type=argument(Positive), default=16, help="clips judged together (16)")
    parser.add_argument("--rounds", type=argument(Positive), default=5, help="turns that each takes to be timed (5)")
    add_device(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measures, and prints as it goes. ValueError: a name twice, a model or cache that cannot be had."""
    if len({one.name for one in args.ways}) < len(args.ways):
        raise ValueError("--way: two have the same name; give each its own")
    device = named_device(args.device)
    pipes = {model: load_pipeline(model).to(device) for model in dict.fromkeys(one.model for one in args.ways)}
    for pipe in pipes.values():
        pipe.set_progress_bar_config(disable=True)
    count = 2 if args.quick else args.prompts
    judged = {one.name: judge(one, pipes[one.model], count, args) for one in args.ways}
    first = judged[args.ways[0].name]
    found: list[dict[str, Any]] = []
    print(
        f"\n{count} prompts of one thing and {len(first.model) - count} of two: % right, and points less than the first"
    )
    print(f"  {'':24}{'colour':>9}{'shape':>9}{'motion':>9}{'all':>9}{'two things':>12}   {'difference of all (95 %)'}")
    for name, results in judged.items():
        one, two = (results.shares(results.model, things) for things in (1, 2))
        right, wanted = ([float(row.right("all")) for row in each.model[:count]] for each in (results, first))
        off = paired_difference(right, wanted, list(map(str, range(count))), "higher")
        low, high = (off.value if edge is None else edge for edge in (off.low, off.high))  # None: of too few
        found.append({"name": name, "shares": {key: share.to_dict() for key, share in one.items()}})
        found[-1] |= {"two_things": two["all"].to_dict(), "difference": [off.value, low, high]}
        cells = "".join(f"{100 * one[key].value:9.1f}" for key in ("color", "shape", "motion", "all"))
        said = f"{100 * off.value:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
        print(f"  {name:24}{cells}{100 * two['all'].value:12.1f}   {'' if results is first else said}")
    tables = {}
    for kind, output in (("the walk, latents", "latent"), ("prompt to pixels", "np")):
        ways = {one.name: partial(clip, one, pipes[one.model], output) for one in args.ways}
        tables[output] = rows(take_turns(ways, args.rounds, title=kind), [args.ways[0].name])
        print_rows(f"one clip: {kind}", tables[output])
    return {"what": "quality", "machine": machine(device), "prompts": count, "rows": found, "times": tables}


def judge(one: Way, pipe: Any, count: int, args: argparse.Namespace) -> world.Results:
    """What the judge says of its clips."""
    generate = ByPipeline(pipe, pipe.default_size, (), one.steps, one.guidance_scale, ())
    with cached(pipe, one.cache):
        how = {"seed": args.seed, "batch_size": args.batch_size, "size": pipe.default_size}
        return world.evaluate_world(generate, prompts=count, **how)


def clip(one: Way, pipe: Any, output_type: str) -> None:
    with cached(pipe, one.cache):
        generator = [torch.Generator().manual_seed(0)]
        how = {"num_inference_steps": one.steps, "guidance_scale": one.guidance_scale}
        pipe(PROMPT, generator=generator, output_type=output_type, **how)


@contextmanager
def cached(pipe: Any, cache: str | None) -> Any:
    set_cache(pipe, cache)
    try:
        yield
    finally:
        set_cache(pipe, None)
