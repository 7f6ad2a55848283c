"""Trains a text-to-video transformer: `tools/train.py --config configs/shapes.yaml [key=value ...]`.

Needs a VAE: `tools/train_vae.py` with the same config makes one, or set `codec:` to a saved one. Clips are encoded
first, once. A run that was stopped goes on from its last checkpoint when started again. A config with `stages` is
trained in legs, each going on from the one before.
"""

from __future__ import annotations

import argparse
import logging
import sys


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="a YAML file of configs/")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for example train.steps=2000")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    from videodit.config import load_config
    from videodit.training.trainer import Trainer

    try:
        for leg in load_config(args.config, args.overrides).legs():
            print(Trainer(leg).train())
    except ValueError as error:
        print(f"train: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
