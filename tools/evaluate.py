"""Measures a model, or clips.

  tools/evaluate.py --world shapes                                  the shipped model on 256 + 64 held-out prompts
  tools/evaluate.py --world shapes --model runs/mine/pipeline --prompts 64 --steps 20 --out runs/mine/evaluation
  tools/evaluate.py CLIPS                                           a video, a folder of videos or a manifest

With --world shapes, clips are made from prompts that name combinations no training clip had, and a judge that measures
pixels says whether each shows what was asked: colour, shape, motion. Beside the model stand the judge's own score on
true clips and that of a model deaf to its prompts.
With CLIPS, each clip's frame consistency (mean cosine of consecutive frames, as mean-centred pixels) and motion (mean
change of luma a second) are printed. Both depend on the frame rate, so all clips are read at --fps.

--out receives results.json and, for a world, contact_sheet.png.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from videodit.pipeline import VideoDiTPipeline

SHEET_CLIPS = 24
CLIP_SIDE = 256  # pixels; larger clips are measured at this size


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("clips", nargs="?", type=Path, metavar="CLIPS", help="a video, a folder, or a .jsonl/.csv/.tsv")
    what.add_argument("--world", choices=["shapes"], help="judge a model on the prompts of this world")
    parser.add_argument("--out", type=Path, default=Path("evaluation"), help="a folder (default: evaluation)")
    world = parser.add_argument_group("with --world")
    world.add_argument("--model", help="a pipeline folder or a hub name (default: the shipped model)")
    world.add_argument("--prompts", type=int, default=256, help="of one thing; a quarter as many of two (default 256)")
    world.add_argument("--seed", type=int, default=0, help="of prompts and noise (default 0)")
    world.add_argument("--steps", type=int, default=30, help="scheduler steps (default 30)")
    world.add_argument("--guidance-scale", type=float, default=4.0, help="1: no guidance (default 4)")
    world.add_argument("--batch-size", type=int, default=16, help="clips made together (default 16)")
    clips = parser.add_argument_group("with CLIPS")
    clips.add_argument("--fps", type=float, default=8.0, help="frames a second to measure at (default 8)")
    clips.add_argument("--num-frames", type=int, default=17, help="frames of each clip, at most (default 17)")
    return parser.parse_args()


def main() -> int:
    args = parse()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        check_folder(args.out)
        text, results = evaluate_model(args) if args.world else evaluate_clips(args)
        write_json(args.out / "results.json", results)
    except (ValueError, OSError) as error:
        print("evaluate:", *str(error).split(), file=sys.stderr)  # on one line
        return 2
    print(text)
    print(f"\nwritten to {args.out}")
    return 0


def check_folder(out: Path) -> None:
    """Makes the folder and tries it, before any work is done."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise ValueError(f"--out {out}: cannot be written to ({error.strerror}); give another folder") from error


def write_json(path: Path, results: dict[str, Any]) -> None:
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text(json.dumps(results, indent=1) + "\n")
    unfinished.replace(path)


def evaluate_model(args: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    import numpy as np
    import torch

    from videodit.evaluation.world import evaluate_world
    from videodit.video.writer import contact_sheet

    pipe = load_pipeline(args.model)
    pipe.set_progress_bar_config(disable=True)
    if torch.cuda.is_available():
        pipe.to("cuda")
    size = pipe.default_size
    total = args.prompts + args.prompts // 4
    wanted = set(np.linspace(0, total - 1, SHEET_CLIPS).astype(int).tolist())
    shown: dict[int, np.ndarray] = {}
    made = 0

    def generate(prompts: list[str], seeds: list[int]) -> np.ndarray:
        nonlocal made
        output: Any = pipe(
            prompts,
            num_frames=size.num_frames,
            height=size.height,
            width=size.width,
            fps=size.fps,
            num_inference_steps=args.steps,
            guidance_scale=args.guidance_scale,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            output_type="np",
        )
        frames = np.rint(output.frames * 255).astype(np.uint8)
        shown.update({made + i: clip for i, clip in enumerate(frames) if made + i in wanted})
        made += len(frames)
        return frames

    results = evaluate_world(generate, prompts=args.prompts, seed=args.seed, batch_size=args.batch_size, size=size)
    rows = [results.model[index] for index in shown]
    labels = [f"{'right' if row.right('all') else 'WRONG'}: {row.prompt} (seen: {row.seen_text()})" for row in rows]
    contact_sheet(list(shown.values()), args.out / "contact_sheet.png", labels=labels)
    settings = {name: getattr(args, name) for name in ("world", "prompts", "seed", "steps", "guidance_scale")}
    return results.summary(), {"settings": {"model": args.model or "shipped", **settings}, **results.to_dict()}


def load_pipeline(model: str | None) -> VideoDiTPipeline:
    from videodit.pipeline import VideoDiTPipeline

    if model is None:
        return VideoDiTPipeline.shipped()
    try:
        return VideoDiTPipeline.from_pretrained(model)
    except (ValueError, OSError) as error:
        why = (
            error if Path(model).is_dir() else "there is no such folder here, and no such model to be had from the hub"
        )
        raise ValueError(f"--model {model}: {why}") from error


def evaluate_clips(args: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    from videodit.evaluation.metrics import box_reduced, frame_consistency, is_still, motion_per_second
    from videodit.video import VideoError, probe, read_clip

    paths, skips = clip_paths(args.clips)
    rows: list[dict[str, Any]] = []
    for path in paths:
        try:
            length = min(args.num_frames, int(probe(path).duration * args.fps + 1e-6))
            if length < 2:
                raise VideoError(f"{path} gives {length} frames at {args.fps:g} fps; two are needed")
            frames = box_reduced(read_clip(path, length, args.fps), CLIP_SIDE)
        except VideoError as error:
            skips.append(str(error))
            continue
        motion = float(motion_per_second(frames, args.fps))
        row = {"path": str(path), "num_frames": length, "consistency_consecutive": float(frame_consistency(frames))}
        rows.append({**row, "motion_per_second": motion, "still": bool(is_still(motion))})
    if not rows:
        raise ValueError(
            f"{args.clips}: nothing to measure, {len(skips)} skipped; first: {skips[0] if skips else 'none'}"
        )
    lines = [f"{'consistency':>11} {'motion':>8}  clip, at {args.fps:g} frames a second"]
    for r in rows:
        still = "  STILL: its consistency says nothing" if r["still"] else ""
        lines.append(f"{r['consistency_consecutive']:>11.4f} {r['motion_per_second']:>8.4f}  {r['path']}{still}")
    lines += [f"skipped: {skip}" for skip in skips]
    lines.append(f"{len(rows)} measured, {len(skips)} skipped")
    return "\n".join(lines), {"fps": args.fps, "clips": rows, "skipped": skips}


def clip_paths(source: Path) -> tuple[list[Path], list[str]]:
    """The clips of a file, a manifest or a folder, and what its manifest skipped. A plain folder needs no captions."""
    from videodit.data.manifest import FOLDER_MANIFESTS, read_manifest
    from videodit.video import IMAGE_SUFFIXES, VIDEO_SUFFIXES

    suffixes = IMAGE_SUFFIXES + VIDEO_SUFFIXES
    if source.is_file() and source.suffix.lower() in suffixes:
        return [source], []
    if source.is_dir() and not any((source / name).is_file() for name in FOLDER_MANIFESTS):
        return sorted(path for path in source.rglob("*") if path.suffix.lower() in suffixes and path.is_file()), []
    manifest = read_manifest(source)
    return [item.path for item in manifest.items], [f"{skip.where}: {skip.why}" for skip in manifest.skips]


if __name__ == "__main__":
    sys.exit(main())
