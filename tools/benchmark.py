"""Speed and memory against what users would take instead, each in one run: `tools/benchmark.py WHAT`.

    tools/benchmark.py model                        forward and backward against diffusers' and against bare products
    tools/benchmark.py memory                       the peak of a training step
    tools/benchmark.py sample                       prompt to pixels, feature caches among it
    tools/benchmark.py scaling --plot scaling.svg   8 to 128 frames, against full 3D attention
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
from videodit.command import command

ROOMS = ("model", "memory", "sample", "scaling", "train", "data")


def main() -> int:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("what", choices=ROOMS, help="WHAT --help tells the options of each")
    asked.add_argument("options", nargs=argparse.REMAINDER)
    what = asked.parse_args()
    room = import_module(f"tools.benchmarks.{what.what}")  # the one alone: processes that read videos need no torch
    parser = argparse.ArgumentParser(
        prog=f"{asked.prog} {what.what}",
        description=room.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    room.add_arguments(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the measurements to this file")
    args = parser.parse_args(what.options)
    try:
        found = room.run(args)
        if args.json:
            args.json.write_text(json.dumps(found, indent=1))
    except Disagreement as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 1
    except (ValueError, OSError) as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(command(main))
