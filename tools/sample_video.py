"""Makes clips from prompts.

  tools/sample_video.py --prompt "a red circle moving right on a black background"
  tools/sample_video.py --prompt "a pink heart spins" "a big green star falls" --seed 7 --out clips/
  tools/sample_video.py --prompts-file prompts.txt --model runs/mine/pipeline --out clips/

Without --model the model in the package is used: moving shapes, offline. The ending of --out chooses the format: .mp4,
.mkv (lossless), .gif, .webp, .png (an image, or a folder of frames). Several clips go into a folder, one seed each:
--seed, --seed + 1 and so on. Every clip's settings are written into its metadata and into a .json file beside it.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path
from typing import Any


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--prompt", nargs="+", help="what to show; several make several clips")
    source.add_argument("--prompts-file", type=Path, help="a text file, one prompt a line")
    parser.add_argument(
        "--model", help="a pipeline folder, a training checkpoint or a hub name (default: the shipped model)"
    )
    parser.add_argument("--num-frames", type=int, help="frames; 1 makes an image (default: the model's own, as below)")
    parser.add_argument("--height", type=int, help="pixels")
    parser.add_argument("--width", type=int, help="pixels")
    parser.add_argument("--fps", type=float, help="frames a second")
    parser.add_argument("--seed", type=int, default=0, help="of the first clip (default 0)")
    parser.add_argument("--steps", type=int, default=30, help="scheduler steps (default 30)")
    parser.add_argument("--guidance-scale", type=float, default=4.0, help="1: no guidance (default 4)")
    parser.add_argument("--negative-prompt", default="", help="what to stay away from")
    parser.add_argument("--batch-size", type=int, default=8, help="clips made together (default 8)")
    parser.add_argument("--out", type=Path, help="a file, or a folder (default: sample.mp4, or samples/ for several)")
    return parser.parse_args()


def read_prompts(args: argparse.Namespace) -> list[str]:
    if args.prompt:
        return list(args.prompt)
    try:
        lines = args.prompts_file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{args.prompts_file}: cannot be read as text ({error})") from error
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise ValueError(f"{args.prompts_file}: holds no prompt; write one a line")
    return prompts


def output_paths(out: Path | None, count: int) -> list[Path]:
    """One path a clip: the file itself for one clip, numbered files in a folder for several."""
    if out is None:
        out = Path("sample.mp4") if count == 1 else Path("samples")
    if out.suffix and not out.is_dir():
        return [out] if count == 1 else [out.with_name(f"{out.stem}_{i:04d}{out.suffix}") for i in range(count)]
    return [out / f"{i:04d}.mp4" for i in range(count)]


def main() -> int:
    args = parse()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        for path in sample(args):
            print(path)
    except (ValueError, OSError) as error:
        print(f"sample_video: {error}", file=sys.stderr)
        return 2
    return 0


def sample(args: argparse.Namespace) -> list[Path]:
    prompts = read_prompts(args)
    paths = output_paths(args.out, len(prompts))
    if args.batch_size < 1:
        raise ValueError(f"--batch-size {args.batch_size} must be at least 1")
    import torch

    from videodit.pipeline import VideoDiTPipeline, named_folder
    from videodit.video.writer import check_writable, write_video

    for path in paths:
        check_writable(path)
    pipe: Any = VideoDiTPipeline.from_pretrained(named_folder(args.model)) if args.model else VideoDiTPipeline.shipped()
    size = pipe.default_size
    fps = args.fps if args.fps is not None else size.fps
    written = []
    for first in range(0, len(prompts), args.batch_size):
        part = prompts[first : first + args.batch_size]
        seeds = [args.seed + first + i for i in range(len(part))]
        clips = pipe(
            part,
            negative_prompt=args.negative_prompt,
            num_frames=args.num_frames,
            height=args.height,
            width=args.width,
            fps=args.fps,
            num_inference_steps=args.steps,
            guidance_scale=args.guidance_scale,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            output_type="np",
        ).frames
        for prompt, seed, clip, path in zip(part, seeds, clips, paths[first:], strict=False):
            frames = (clip * 255).round().astype("uint8")
            settings = {
                "prompt": prompt,
                "negative_prompt": args.negative_prompt,
                "seed": seed,
                "steps": args.steps,
                "guidance_scale": args.guidance_scale,
                "num_frames": frames.shape[0],
                "height": frames.shape[1],
                "width": frames.shape[2],
                "fps": fps,
                "scheduler": type(pipe.scheduler).__name__,
                "model": args.model or "shipped",
            }
            metadata = {"comment": json.dumps(settings), "title": prompt}
            written.append(write_video(path, frames, fps, metadata=metadata))
            path.with_suffix(".json").write_text(json.dumps(settings, indent=1) + "\n")
    return written


if __name__ == "__main__":
    sys.exit(main())
