"""Speed and memory against what users would take instead, each in one run: `tools/benchmark.py WHAT`.

    tools/benchmark.py model                        forward and backward against diffusers' and against bare products
    tools/benchmark.py memory                       the peak of a training step; --plans: is a dry run right about it?
    tools/benchmark.py sample                       prompt to pixels, feature caches among it
    tools/benchmark.py scaling --plot scaling.svg   8 to 128 frames, against full 3D attention
    tools/benchmark.py images                       an image model in a video model, against itself alone
    tools/benchmark.py train                        where a training step's time goes
    tools/benchmark.py data --json data.json        clips a second from video files; every measurement, for the record

Whoever is compared has the same weights and inputs, and must agree before anything is timed. Then all take turns, so
that a busy machine slows all alike: rows give the median, the lowest and the highest time, and ratios are the median
over rounds of the ratio in a round. Exit status 1: what should agree does not.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler, which counts memory, says when it begins and ends

from tools.benchmarks.turns import Disagreement
from videodit.command import command, import_torchao
from videodit.config.kinds import File, argument
from videodit.disk import replace_text
from videodit.terminal import Parser, shown

ROOMS = ("model", "memory", "sample", "scaling", "images", "train", "data")


def main() -> int:
    asked = Parser(__doc__)
    asked.add_argument("what", choices=ROOMS, help="WHAT --help tells the options of each")
    asked.add_argument("options", nargs=argparse.REMAINDER)
    what = asked.parse_args()
    if {"--plans", "--wan"} & {*what.options}:  # which quantize
        import_torchao()
    room = import_module(f"tools.benchmarks.{what.what}")  # the one alone: processes that read videos need no torch
    parser = Parser(room.__doc__, prog=f"{asked.prog} {what.what}")
    room.add_arguments(parser)
    parser.add_argument("--json", type=argument(File), metavar="FILE", help="write the measurements to this file")
    args = parser.parse_args(what.options)
    try:
        if args.json and args.json.exists() and not is_record(args.json, what.what):
            raise ValueError(f"--json {args.json}: is there already, and no record of {what.what}; name another file")
        found = room.run(args)
        if args.json:
            replace_text(args.json, json.dumps(found, indent=1))
    except Disagreement as error:
        print(shown(f"benchmark: {error}"), file=sys.stderr)
        return 1
    except (ValueError, OSError) as error:
        print(shown(f"benchmark: {error}"), file=sys.stderr)
        return 2
    return 0


def is_record(file: Path, what: str) -> bool:
    """Whether an earlier run wrote it."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and found.get("what") == what


if __name__ == "__main__":
    sys.exit(command(main))
