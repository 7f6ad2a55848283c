"""Makes clips to train on out of raw videos: `videodit prepare SOURCE --out DIR`.

SOURCE is a folder of videos and images (at any depth, with captions in `x.txt` beside `x.mp4`, or without), or a
manifest, tar shards or a URL, as `data.source` of a config. Each file is cut where its scenes change; what is too
short, small, slow, still, black, frozen or there already is dropped. DIR receives

  clips.jsonl      a row a clip, for `data.source`: file, caption, start, end (seconds) and what was measured
  dropped.jsonl    a row for whatever was dropped, and why
  report.txt       counts and seconds by reason, as printed; report.json the same for programs
  analysis.jsonl   what is known of each file: a run that was stopped goes on, one with other limits need not look again
  clips/           with --write clips: the clips themselves

  videodit prepare raw/ --out data/clips
  videodit prepare raw/ --out data/clips --min-motion 0.02 --overwrite       another choice, in seconds
  videodit prepare raw/ --out data/small --write clips --size 256            small files that are read quickly

Needs PySceneDetect: pip install "videodit[prepare]".
"""

from __future__ import annotations

import argparse
import logging

from videodit.command import command
from videodit.config.kinds import Count, File, Number, Place, Positive, argument
from videodit.terminal import Parser, log_to_terminal, shown


@command
def main() -> int:
    from videodit.data.limits import KEEPABLE, Options

    parser = Parser(__doc__)
    parser.add_argument("source", type=argument(Place), metavar="SOURCE", help="a folder, manifest, tar shards or URL")
    parser.add_argument(
        "--out", type=argument(File), required=True, metavar="DIR", help="a new folder, or one to go on in"
    )
    cuts = parser.add_argument_group("cutting (another choice has to look at the files again)")
    _option(cuts, "--max-seconds", Options.max_seconds, "longer scenes are cut into equal pieces")
    _option(
        cuts, "--threshold", Options.threshold, "how much a cut stands out from the frames around it; less finds more"
    )
    cuts.add_argument("--no-cuts", action="store_true", help="each file is one scene")
    limits = parser.add_argument_group("dropping")
    _option(limits, "--min-seconds", Options.min_seconds, "length of a scene")
    _option(limits, "--min-size", Options.min_size, "pixels of the shorter side")
    _option(limits, "--min-fps", Options.min_fps, "frames a second")
    _option(limits, "--min-motion", Options.min_motion, "mean change of luma (0 to 1) a second")
    _option(limits, "--max-black", Options.max_black, "share of black frames")
    _option(limits, "--max-frozen", Options.max_frozen, "share of time in which nothing changes for a second or more")
    for what, plural in zip(KEEPABLE, ("duplicates", "interlaced", "nonsquare", "hdr"), strict=True):
        limits.add_argument(f"--keep-{plural}", dest="keep", action="append_const", const=what, default=[])
    output = parser.add_argument_group("output")
    output.add_argument(
        "--write", choices=("spans", "clips"), default=Options.write, help="clips: a file each, as .mp4"
    )
    output.add_argument(
        "--size", type=argument(Positive), help="with --write clips: scale the shorter side down to so many pixels"
    )
    output.add_argument("--overwrite", action="store_true", help="replace the clips.jsonl of another choice in DIR")
    output.add_argument("--processes", type=argument(Positive), help="that read files (one a core)")
    output.add_argument("--cache", type=argument(File), help="folder for files that are fetched (~/.cache/videodit)")
    args = parser.parse_args()
    log_to_terminal(logging.WARNING)
    given = {name: value for name, value in vars(args).items() if name in Options.__dataclass_fields__}
    from videodit.data.prepare import prepare, summary

    options = Options(
        **given | {"cuts": not args.no_cuts, "keep": tuple(what for what in KEEPABLE if what in args.keep)}
    )
    report = prepare(
        args.source, args.out, options, processes=args.processes, overwrite=args.overwrite, cache=args.cache
    )
    print(shown(summary(report)))
    return 0


def _option(group: argparse._ArgumentGroup, name: str, default: float, what: str) -> None:
    kind = argument(Count if isinstance(default, int) else Number)
    group.add_argument(name, type=kind, default=default, help=f"{what} (%(default)s)")
