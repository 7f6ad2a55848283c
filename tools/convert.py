"""Rewrites a pipeline folder, for instance in half precision: `tools/convert.py --from DIR --to DIR [--dtype float16]`.

The result loads as every pipeline folder does; weights are half the size on disk and become float32 again when loaded
(`VideoDiTPipeline.from_pretrained(folder)`), unless `torch_dtype` says otherwise.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--from", dest="source", required=True, help="a pipeline folder, a training checkpoint, a hub name"
    )
    parser.add_argument("--to", dest="target", type=Path, required=True, help="the folder to write; must not exist yet")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), default="float32", help="of the weights")
    args = parser.parse_args()
    if args.target.exists():
        print(f"convert: {args.target} exists; choose another --to, or remove it", file=sys.stderr)
        return 2
    import torch

    from videodit import VideoDiTPipeline

    try:
        pipe = VideoDiTPipeline.from_pretrained(args.source, torch_dtype=getattr(torch, args.dtype))
        pipe.save_pretrained(args.target)
    except (ValueError, OSError) as error:
        print(f"convert: {error}", file=sys.stderr)
        return 2
    print(args.target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
