"""Encodes a run's clips to latents, once: `tools/encode.py --config configs/shapes.yaml [key=value ...]`.

`tools/train.py` does the same where it is missing. Several processes share the work:
`torchrun --nproc-per-node 2 tools/encode.py --config ...`.
"""

from __future__ import annotations

import argparse
import logging
import sys


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="a YAML file of configs/")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for example data.clips=4096")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    from videodit.config import load_config
    from videodit.training.trainer import encode_all, load_codec

    try:
        config = load_config(args.config, args.overrides)
        train, validation = encode_all(config, load_codec(config))
    except ValueError as error:
        print(f"encode: {error}", file=sys.stderr)
        return 2
    print(f"{len(train)} clips to train on, {len(validation)} to measure on: {config.output}/latents")
    return 0


if __name__ == "__main__":
    sys.exit(main())
