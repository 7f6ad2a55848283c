"""Encodes a run's clips, once: `videodit encode --config configs/shapes.yaml [key=value ...]`.

Clips become latents; captions become text states where their encoder is not trained. `videodit train` does the same
where it is missing. Several processes share the work: `torchrun --nproc-per-node 2 -m videodit encode --config ...`.
"""

from __future__ import annotations

import logging

from videodit.command import command, load_without_bars
from videodit.config.kinds import Place, argument
from videodit.terminal import Parser, log_to_terminal


@command
def main() -> int:
    parser = Parser(__doc__)
    parser.add_argument("--config", required=True, type=argument(Place), help="a YAML file of configs/")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for example data.clips=4096")
    args = parser.parse_args()
    log_to_terminal(logging.INFO)
    load_without_bars()
    from videodit.config import load_config
    from videodit.training import inputs
    from videodit.training.parallel import one_run

    run = load_config(args.config, args.overrides)
    with one_run(run.output):
        for config in inputs.legs_ahead(run):
            train, validation = inputs.open_clips(config, inputs.load_codec(config))
            if inputs.is_frozen(config) and (text := inputs.load_text(config)):
                inputs.encode_text_of(config, text, inputs.captions_of(train, validation))
            where = inputs.latents_folder(config)
            print(f"{len(train)} clips to train on, {len(validation)} to measure on: {where}")
    return 0
