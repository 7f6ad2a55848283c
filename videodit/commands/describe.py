"""What a model is made of and where its cost lies: `videodit describe MODEL`, and with --svg as a picture.

  videodit describe shapes
  videodit describe runs/mine/pipeline --num-frames 129 --height 480 --width 832 --svg stack.svg

MODEL is a pipeline folder, a training checkpoint, a hub name, a folder of a transformer, or a packaged model. No
weights are read: all is counted of the model's shape, for one call about one clip. FLOP are multiplications and
additions of matrix products, convolutions and attention. A step of sampling with guidance takes two such calls, one
of training what three take.
"""

from __future__ import annotations

import logging

from videodit.command import command
from videodit.config.kinds import File, Place, Positive, argument
from videodit.disk import replace_text
from videodit.terminal import Parser, log_to_terminal, shown


@command
def main() -> int:
    parser = Parser(__doc__)
    parser.add_argument("model", metavar="MODEL", type=argument(Place), help="what to describe")
    parser.add_argument("--num-frames", type=argument(Positive), help="of the clip (default: the model's own)")
    parser.add_argument("--height", type=argument(Positive), help="pixels (likewise)")
    parser.add_argument("--width", type=argument(Positive), help="pixels (likewise)")
    parser.add_argument("--svg", type=argument(File), metavar="FILE.svg", help="draw the stack")
    args = parser.parse_args()
    if args.svg and args.svg.suffix.lower() != ".svg":
        raise ValueError(f"--svg {args.svg}: is an SVG; give a name that ends with .svg")
    log_to_terminal(logging.WARNING)
    from videodit.describing import describe, picture

    found = describe(args.model, args.num_frames, args.height, args.width)
    print(*map(shown, str(found).split("\n")), sep="\n")
    if args.svg:
        replace_text(args.svg, picture(found))
    return 0
