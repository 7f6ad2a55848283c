"""`model`: a transformer's forward and backward pass against diffusers' class and against the floor of both."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from videodit.commands.benchmarks.devices import add_device, machine, named_device, precisions
from videodit.commands.benchmarks.peers import (
    LATTE,
    LAYERS,
    PIXART,
    SMALL,
    Floor,
    Pair,
    Shape,
    compiled,
    count_flops,
    train,
)
from videodit.commands.benchmarks.turns import print_rows, ratio, rows, take_turns
from videodit.config.kinds import Positive, Weight, argument

SHAPES = {"latte": LATTE, "pixart": PIXART, "small": SMALL}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--layers", type=int, choices=LAYERS, metavar="N", default=1, help="of 28, not at width 256 (1)"
    )
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES), help="small: width 256 (all)")
    parser.add_argument("--rounds", type=argument(Positive), default=3, help="turns that each takes at least (3)")
    parser.add_argument("--seconds", type=argument(Weight), default=8, help="to go on with turns in each table (8)")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True, help="both, too")
    add_device(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measures, and prints as it goes. ValueError: no such device."""
    device = named_device(args.device)
    layers = {"latte": args.layers, "pixart": min(PIXART.layers, 8 * args.layers)}  # of a sixteenth of the tokens
    shapes = [replace(SHAPES[name], layers=layers.get(name, SMALL.layers)) for name in args.shapes]
    tables = []
    for precision, dtype in precisions(device).items():
        for shape in shapes:
            found = compare(shape.quick() if args.quick else shape, dtype, device, args)
            tables += [{"precision": precision} | table for table in found]
    return {"what": "model", "machine": machine(device), "tables": tables}


def compare(shape: Shape, dtype: torch.dtype, device: torch.device, args: argparse.Namespace) -> list[dict[str, Any]]:
    """A table for the forward pass, and one for forward and backward.

    The ceiling is what one large matrix product, which takes its turn with them, reaches of this precision.
    """
    pair = Pair(shape, dtype, device)
    off, floor = pair.agree(), Floor(pair)
    forward: dict[str, Callable[[], Any]] = {
        "floor": floor.forward,
        "videodit": pair.call_ours,
        "diffusers": pair.call_theirs,
    }
    both: dict[str, Callable[[], Any]] = {
        "floor": floor.train,
        "videodit": lambda: train(pair.ours, pair.call_ours),
        "diffusers": lambda: train(pair.theirs, pair.call_theirs),
    }
    if args.compile:
        ours, theirs = compiled(pair.ours), compiled(pair.theirs)
        forward |= {
            "videodit, compiled": lambda: pair.call_ours(ours),
            "diffusers, compiled": lambda: pair.call_theirs(theirs),
        }
        both |= {
            "videodit, compiled": lambda: train(ours, lambda: pair.call_ours(ours)),
            "diffusers, compiled": lambda: train(theirs, lambda: pair.call_theirs(theirs)),
        }
    print(f"\n{shape}, {dtype}; outputs differ by {off:.1e}".replace("torch.", ""))
    flops, side = flops_of(shape), 128 if args.quick else 8192 if device.type == "cuda" else 2048
    square = torch.randn(side, side, dtype=dtype, device=device)
    tables = []
    for name, ways in (("forward", forward), ("forward and backward", both)):
        with torch.set_grad_enabled(ways is both):
            every = ways | {"ceiling": lambda: square @ square}
            took = take_turns(every, args.rounds, seconds=args.seconds, title=name)
        product = took.pop("ceiling")
        ceiling = 2 * side**3 / statistics.median(product)
        needed, against = flops[name]["floor"], ["floor", "diffusers"]
        found = rows(took, against + ["diffusers, compiled"] * args.compile)
        for row in found:
            row["flops"] = flops[name][row["name"].removesuffix(", compiled")]
            row["needed_flops_per_second"] = needed / row["median"]
            row["of_ceiling"] = needed / (2 * side**3) * ratio(product, row["seconds"])
        notes = {
            "TFLOP": lambda row: f"{row['flops'] / 1e12:.4g}",
            "TFLOP/s": lambda row: f"{row['needed_flops_per_second'] / 1e12:.3g}",
            "of the ceiling": lambda row: f"{row['of_ceiling']:.0%}",
        }
        print_rows(f"{name}; ceiling {ceiling / 1e12:.3g} TFLOP/s", found, notes)
        about = {"shape": vars(shape), "pass": name, "agreement": off, "ceiling_flops_per_second": ceiling}
        tables.append(about | {"rows": found})
    return tables


def flops_of(shape: Shape) -> dict[str, dict[str, int]]:
    """What each does, counted on tensors without content."""
    pair = Pair(shape, device=torch.device("meta"))
    floor = Floor(pair)
    with torch.no_grad():
        forward = {
            "floor": count_flops(floor.forward),
            "videodit": count_flops(pair.call_ours),
            "diffusers": count_flops(pair.call_theirs),
        }
    both = {
        "floor": count_flops(floor.train),
        "videodit": count_flops(lambda: train(pair.ours, pair.call_ours)),
        "diffusers": count_flops(lambda: train(pair.theirs, pair.call_theirs)),
    }
    return {"forward": forward, "forward and backward": both}
