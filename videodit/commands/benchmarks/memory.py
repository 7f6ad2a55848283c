"""`memory`: the peak of a training step, of ours and of diffusers' Latte, without and with checkpointing; or `--plans`:
of our trainer's steps under what makes them smaller, against what `videodit train --dry-run` says of them."""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial
from typing import Any

from videodit.commands.benchmarks.devices import add_device, machine, named_device, peak_memory, precisions
from videodit.commands.benchmarks.peers import LATTE, LAYERS, Pair, train
from videodit.commands.benchmarks.planned import measure_plans
from videodit.commands.benchmarks.wan import wan_plans


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--layers", type=int, choices=LAYERS, metavar="N", default=2, help="of Latte-1's 28 (2)")
    parser.add_argument("--plans", action="store_true", help="is a dry run right? Under each choice, on the CPU")
    parser.add_argument("--wan", action="store_true", help="plans for Wan's shapes at 480 rows: computed, not run")
    add_device(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measures, and prints as it goes. ValueError: no such device."""
    device = named_device(args.device)
    if args.wan:
        return {"what": "memory", "plans": wan_plans()}
    if args.plans:
        return {"what": "memory", "machine": machine(), "plans": measure_plans(quick=args.quick)}
    shape = replace(LATTE, layers=args.layers)
    shape = shape.quick() if args.quick else shape
    print(f"{shape}\npeak of forward and backward, MB, beside weights and input")
    found: list[dict[str, Any]] = []
    for precision, dtype in precisions(device).items():
        pair = Pair(shape, dtype, device)
        off = pair.agree()
        gradients = sum(p.numel() * p.element_size() for p in pair.ours.parameters())
        print(f"\n{precision}: outputs differ by {off:.1e}; gradients are {gradients / 1e6:.1f} MB")
        print(f"  {'':20}{'videodit':>12}{'diffusers':>12}{'ratio':>8}")
        for checkpointing in (False, True):
            peaks = {}
            for name, model, call in (
                ("videodit", pair.ours, pair.call_ours),
                ("diffusers", pair.theirs, pair.call_theirs),
            ):
                if checkpointing:
                    model.enable_gradient_checkpointing()
                peaks[name], _ = peak_memory(partial(train, model, call), device)
            ours, theirs = peaks["videodit"], peaks["diffusers"]
            row = {
                "precision": precision,
                "checkpointing": checkpointing,
                "agreement": off,
                "peak_bytes": peaks,
                "gradient_bytes": gradients,
                "ratio": ours / theirs,
            }
            title = "checkpointing" if checkpointing else "no checkpointing"
            print(f"  {title:20}{ours / 1e6:12.1f}{theirs / 1e6:12.1f}{row['ratio']:8.3f}")
            found.append(row)
    return {"what": "memory", "machine": machine(device), "shape": vars(shape), "rows": found}
