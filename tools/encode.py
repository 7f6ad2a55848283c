"""Encodes a run's clips, once: `tools/encode.py --config configs/shapes.yaml [key=value ...]`.

Clips become latents; captions become text states where their encoder is not trained. `tools/train.py` does the same
where it is missing. Several processes share the work: `torchrun --nproc-per-node 2 tools/encode.py --config ...`.
"""

from __future__ import annotations

import logging
import sys

from videodit.command import command, load_without_bars
from videodit.config.kinds import Place, argument
from videodit.terminal import Parser, log_to_terminal


def main() -> int:
    parser = Parser(__doc__)
    parser.add_argument("--config", required=True, type=argument(Place), help="a YAML file of configs/")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for example data.clips=4096")
    args = parser.parse_args()
    log_to_terminal(logging.INFO)
    load_without_bars()
    from videodit.config import load_config
    from videodit.training import inputs
    from videodit.training.loop import EXIT_STATUS, end
    from videodit.training.parallel import one_run

    try:
        run = load_config(args.config, args.overrides)
        with one_run(run.output):
            for config in run.legs():
                train, validation = inputs.open_clips(config, inputs.load_codec(config))
                if inputs.is_frozen(config) and (text := inputs.load_text(config)):
                    inputs.encode_text_of(config, text, inputs.captions_of(train, validation))
                where = inputs.latents_folder(config)
                print(f"{len(train)} clips to train on, {len(validation)} to measure on: {where}")
    except tuple(EXIT_STATUS) as error:
        return end("encode", error)
    return 0


if __name__ == "__main__":
    sys.exit(command(main))
