"""Rewrites a model in another form.

  tools/convert.py --from PIPELINE --to DIR                       PixArt, DiT or Latte of diffusers -> VideoDiTPipeline
  tools/convert.py --from PixArt-XL-2-512x512.pth --to DIR        a project's own checkpoint -> VideoDiT
  tools/convert.py --from DIR --to DIR --format pixart            ours -> diffusers' class, where the structure allows
  tools/convert.py --from DIR --to DIR --dtype float16            half the size on disk

A model in half precision becomes float32 again when loaded (`VideoDiTPipeline.from_pretrained(folder)`), unless
`torch_dtype` says otherwise.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--from", dest="source", required=True, help="a pipeline or transformer: folder, hub name, checkpoint file"
    )
    parser.add_argument("--to", dest="target", type=Path, required=True, help="the folder to write; must not exist yet")
    parser.add_argument(
        "--format", choices=("videodit", "dit", "pixart", "latte"), default="videodit", help="(videodit)"
    )
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), default="float32", help="of the weights")
    args = parser.parse_args()
    if args.target.exists():
        print(f"convert: {args.target} exists; choose another --to, or remove it", file=sys.stderr)
        return 2
    import torch

    from videodit.models.conversion import to_diffusers
    from videodit.pipeline import VideoDiTPipeline, open_model

    try:
        model = open_model(args.source, torch_dtype=getattr(torch, args.dtype))
        if args.format != "videodit":
            whole = isinstance(model, VideoDiTPipeline)
            model = model.to_diffusers(args.format) if whole else to_diffusers(model, args.format)
        model.save_pretrained(args.target)
    except (ValueError, OSError) as error:
        print(f"convert: {error}", file=sys.stderr)
        return 2
    print(args.target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
