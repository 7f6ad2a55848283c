"""Trains a small causal video VAE: `videodit train-vae --config configs/shapes.yaml [key=value ...]`."""

from __future__ import annotations

import logging

from videodit.command import command, load_without_bars
from videodit.config.kinds import Place, argument
from videodit.terminal import Parser, log_to_terminal


@command
def main() -> int:
    parser = Parser(__doc__)
    parser.add_argument("--config", required=True, type=argument(Place), help="a YAML file of configs/")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for example vae.learning_rate=0.0005")
    args = parser.parse_args()
    log_to_terminal(logging.INFO)
    load_without_bars()
    from videodit.config import load_config
    from videodit.training.parallel import one_run
    from videodit.training.vae import train_vae

    run = load_config(args.config, args.overrides)
    with one_run(run.output):
        print(train_vae(run))
    return 0
