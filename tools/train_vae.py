"""Trains a small causal video VAE: `tools/train_vae.py --config configs/shapes.yaml [key=value ...]`."""

from __future__ import annotations

import argparse
import logging
import sys

from videodit.command import command, load_without_bars


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="a YAML file of configs/")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for example vae.learning_rate=0.0005")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    load_without_bars()
    from videodit.config import load_config
    from videodit.training.loop import EXIT_STATUS
    from videodit.training.vae import train_vae

    try:
        print(train_vae(load_config(args.config, args.overrides)))
    except tuple(EXIT_STATUS) as error:
        print(f"train_vae: {error}", file=sys.stderr)
        return next(status for kind, status in EXIT_STATUS.items() if isinstance(error, kind))
    return 0


if __name__ == "__main__":
    sys.exit(command(main))
