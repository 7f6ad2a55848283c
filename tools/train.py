"""Trains a text-to-video transformer: `tools/train.py --config configs/shapes.yaml [key=value ...]`.

Needs a VAE: `tools/train_vae.py` with the same config makes one, or set `codec:` to a saved one. Clips are encoded
first, once. A run that was stopped goes on from its last checkpoint when started again. A config with `stages` is
trained in legs, each going on from the one before.

    tools/train.py --config configs/shapes.yaml --dry-run        what it would train on, and in how much memory
    accelerate launch --num_processes 8 tools/train.py --config configs/shapes.yaml train.sharding=fsdp

SIGTERM saves a checkpoint and ends with exit status 143; a loss that is no number ends with 1.
"""

from __future__ import annotations

import argparse
import logging
import sys

from videodit.command import command, load_without_bars


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="a YAML file of configs/")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for example train.steps=2000")
    parser.add_argument("--dry-run", action="store_true", help="say what would be trained on, and stop")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    load_without_bars()
    from accelerate import PartialState

    from videodit.config import load_config
    from videodit.training.loop import EXIT_STATUS
    from videodit.training.plan import plans
    from videodit.training.trainer import Trainer

    try:
        run = load_config(args.config, args.overrides)
        if args.dry_run:
            for number, planned in enumerate(plans(run), start=1):
                print(f"stage {number} of {len(run.stages)}\n{planned}\n" if run.stages else planned)
            return 0
        for leg in run.legs():
            print(Trainer(leg).train())
    except tuple(EXIT_STATUS) as error:
        print(f"train: {error}", file=sys.stderr)
        return next(status for kind, status in EXIT_STATUS.items() if isinstance(error, kind))
    finally:
        PartialState().destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(command(main))
