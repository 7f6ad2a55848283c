"""Loss against steps, compute and clips, with fitted power laws: `videodit plot runs/a runs/b --out scaling.svg`.

  videodit plot runs/small runs/large --out scaling.svg
  videodit plot runs/small runs/large --against compute --out compute.svg

Dots are what `losses.jsonl` of a run holds, dashes the law a + b x^-c behind the warm-up. In brackets stands the
interval in which c is with 95 %, from residuals drawn anew: it tells how sure the fit is of these points, not whether
another seed, or ten times as much compute, would follow it. Compute is three forward passes a clip, as `videodit
describe` counts them.
"""

from __future__ import annotations

from pathlib import Path

from videodit.command import command
from videodit.config.kinds import File, Place, argument
from videodit.disk import replace_text
from videodit.drawing import beside
from videodit.scaling import AXES, plotted, read_history
from videodit.terminal import Parser, shown


@command
def main() -> int:
    parser = Parser(__doc__)
    parser.add_argument("runs", metavar="RUN", nargs="+", type=argument(Place), help="the output folder of a run")
    parser.add_argument("--out", required=True, type=argument(File), metavar="FILE.svg", help="the picture")
    parser.add_argument(
        "--against", choices=list(AXES), action="append", help="one axis, or several (default: all three)"
    )
    parser.add_argument(
        "--loss", help="a value of losses.jsonl (default: validation_loss, or where there is none that of training)"
    )
    args = parser.parse_args()
    if args.out.suffix.lower() != ".svg":
        raise ValueError(f"--out {args.out}: is an SVG; give a name that ends with .svg")
    if twice := {run for run in args.runs if args.runs.count(run) > 1}:
        raise ValueError(f"{twice.pop()}: is named twice")
    histories = [read_history(Path(run), args.loss) for run in args.runs]
    if len({history.name for history in histories}) > 1:
        names = ", ".join(f"{history.folder}: {history.name}" for history in histories)
        raise ValueError(f"these are no losses of one kind ({names}): name one that all have, by --loss")
    pictures = []
    for axis in args.against or AXES:
        picture, laws = plotted(histories, axis)
        pictures.append(picture)
        print(f"{histories[0].name} against {axis}", *(f"  {shown(law)}" for law in laws), sep="\n")
    replace_text(args.out, beside(pictures))
    print(shown(str(args.out)))
    return 0
