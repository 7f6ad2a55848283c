"""Encodes a run's clips, once: `tools/encode.py --config configs/shapes.yaml [key=value ...]`.

Clips become latents; captions become text states where their encoder is not trained. `tools/train.py` does the same
where it is missing. Several processes share the work: `torchrun --nproc-per-node 2 tools/encode.py --config ...`.
"""

from __future__ import annotations

import argparse
import logging
import sys

from videodit.command import command, load_without_bars


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="a YAML file of configs/")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for example data.clips=4096")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    load_without_bars()
    from videodit.config import load_config
    from videodit.training import inputs

    try:
        for config in load_config(args.config, args.overrides).legs():
            train, validation = inputs.open_clips(config, inputs.load_codec(config))
            if inputs.is_frozen(config) and (text := inputs.load_text(config)):
                inputs.encode_text_of(config, text, inputs.captions_of(train, validation))
            print(f"{len(train)} clips to train on, {len(validation)} to measure on: {inputs.latents_folder(config)}")
    except (ValueError, OSError) as error:
        print(f"encode: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(command(main))
