"""Trains a text-to-video transformer: `videodit train --config configs/shapes.yaml [key=value ...]`.

Needs a VAE: `videodit train-vae` with the same config makes one, or set `codec:` to a saved one. Clips are encoded
first, once. A run that was stopped goes on from its last checkpoint when started again. A config with `stages` is
trained in legs, each going on from the one before.

    videodit train --config configs/shapes.yaml --dry-run        what it would train on, and in how much memory
    accelerate launch --num_processes 8 -m videodit train --config configs/shapes.yaml train.sharding=fsdp

SIGTERM and Ctrl-C save a checkpoint after the step and end with exit status 143 and 130; a loss that is no number ends
with 1. One run at a time writes into an output folder.
"""

from __future__ import annotations

import logging
from pathlib import Path

from videodit.command import command, import_torchao, load_without_bars
from videodit.config.kinds import Place, argument
from videodit.config.reading import LARGEST
from videodit.terminal import Parser, log_to_terminal, shown


@command
def main() -> int:
    parser = Parser(__doc__)
    parser.add_argument("--config", required=True, type=argument(Place), help="a YAML file of configs/")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for example train.steps=2000")
    parser.add_argument("--dry-run", action="store_true", help="say what would be trained on, and stop")
    parser.add_argument(
        "--allow-changed-data",
        action="store_true",
        help="go on from a checkpoint though files or captions were added, changed or taken out since",
    )
    args = parser.parse_args()
    log_to_terminal(logging.INFO)
    if wants_torchao(args.config, args.overrides):
        import_torchao()
    load_without_bars()
    from accelerate import PartialState

    from videodit.config import load_config
    from videodit.training.parallel import one_run
    from videodit.training.plan import plans
    from videodit.training.trainer import Trainer

    try:
        run = load_config(args.config, args.overrides)
        if args.dry_run:
            for number, planned in enumerate(plans(run), start=1):
                print(shown(f"stage {number} of {len(run.stages)}\n{planned}\n" if run.stages else planned))
            return 0
        with one_run(run.output):
            for leg in run.legs():
                print(Trainer(leg, allow_changed_data=args.allow_changed_data).train())
    finally:
        PartialState().destroy_process_group()
    return 0


def wants_torchao(config: str, overrides: list[str]) -> bool:
    """Whether a configuration has a word of what is torchao's, which must be known before any library is loaded."""
    try:
        with Path(config).open("rb") as file:
            said = [file.read(LARGEST).decode(errors="ignore"), *overrides]
    except OSError:  # which is told when the configuration is read
        return False
    return any(word in text for word in ("int8", "fp8", "adamw8bit") for text in said)
