"""Speed and memory against what users would take instead, each in one run: `videodit benchmark WHAT`.

    videodit benchmark model                        forward and backward against diffusers' and against bare products
    videodit benchmark memory                       the peak of a training step; --plans: is a dry run right about it?
    videodit benchmark sample                       prompt to pixels, feature caches among it
    videodit benchmark quality --way A --way B      what each way to sample costs in quality, and saves in time
    videodit benchmark scaling --plot scaling.svg   8 to 128 frames, against full 3D attention
    videodit benchmark images                       an image model in a video model, against itself alone
    videodit benchmark train                        where a training step's time goes
    videodit benchmark data --json data.json        clips a second from video files; every measurement, for the record

Whoever is compared has the same weights and inputs, and must agree before anything is timed. Then all take turns, so
that a busy machine slows all alike: rows give the median, the lowest and the highest time, and ratios are the median
over rounds of the ratio in a round. Exit status 1: what should agree does not.
"""

from __future__ import annotations

import argparse
import json
import os
from importlib import import_module
from pathlib import Path

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler, which counts memory, says when it begins and ends

from videodit.command import command, import_torchao
from videodit.config.kinds import File, argument
from videodit.disk import replace_text
from videodit.terminal import Parser

ROOMS = ("model", "memory", "sample", "quality", "scaling", "images", "train", "data")


@command
def main() -> int:
    asked = Parser(__doc__)
    asked.add_argument("what", choices=ROOMS, help="WHAT --help tells the options of each")
    asked.add_argument("options", nargs=argparse.REMAINDER)
    what = asked.parse_args()
    if {"--plans", "--wan"} & {*what.options}:  # which quantize
        import_torchao()
    room = import_module(
        f"videodit.commands.benchmarks.{what.what}"
    )  # the one alone: processes that read videos need no torch
    parser = Parser(room.__doc__, prog=f"{asked.prog} {what.what}")
    room.add_arguments(parser)
    parser.add_argument("--json", type=argument(File), metavar="FILE", help="write the measurements to this file")
    args = parser.parse_args(what.options)
    if args.json and args.json.exists() and not is_record(args.json, what.what):
        raise ValueError(f"--json {args.json}: is there already, and no record of {what.what}; name another file")
    found = room.run(args)
    if args.json:
        replace_text(args.json, json.dumps(found, indent=1))
    return 0


def is_record(file: Path, what: str) -> bool:
    """Whether an earlier run wrote it."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and found.get("what") == what
