"""Measures clips, or a model.

  videodit evaluate CLIPS                                           a video, a folder of videos or a manifest
  videodit evaluate CLIPS --reference TRUE_CLIPS                    also frame by frame, and as sets (Fréchet, MMD)
  videodit evaluate CLIPS --compare OTHER_CLIPS                     paired differences, with how sure they are
  videodit evaluate CLIPS --nearest TRAINING_CLIPS                  are they new, or remembered? are they as asked?
  videodit evaluate MODEL --prompts prompts.txt                     a pipeline folder or hub name: it samples first
  videodit evaluate CLIPS --clip openai/clip-vit-base-patch32       with weights that you have
  videodit evaluate --votes clips/compare/votes.json                who won of two that were compared on the page
  videodit evaluate --world shapes                                  the packaged model on 256 + 64 held-out prompts
  videodit evaluate --world emoji --art DIR HELD_OUT_DIR            a model of emoji: is the nearest true clip as asked?

With CLIPS, --out receives results.json (every number with its protocol, every clip with its curves; --schema prints
what is in it) and report.html: one file that plays the clips, the worst first, and shows where they break. Without
weights it measures consistency, flicker, smoothness, warping error, motion, cuts, freezes. Clips that are worth nothing
(still, of one colour, noise, the same for several prompts) are flagged, and left out of means that would reward them.
Scores depend on the frame rate: clips of several rates need --fps. They depend on what a codec did too: measure
lossless files where you can.

With --world shapes, clips are made from prompts that name combinations no training clip had, and a judge that measures
pixels says whether each shows what was asked: colour, shape, motion. Beside the model stand the judge's own score on
true clips and that of a model deaf to its prompts. --out receives results.json and contact_sheet.png.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import statistics
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videodit.command import command
from videodit.commands.worlds import GIVEN, WORLD_PROMPTS, evaluate_world, load_pipeline
from videodit.config.kinds import Count, File, Guidance, Place, Positive, Rate, Seed, Steps, argument
from videodit.disk import replace_text
from videodit.terminal import Parser, log_to_terminal, shown

if TYPE_CHECKING:
    from videodit.clipset import ClipFile
    from videodit.evaluation.measure.clips import Clip
    from videodit.evaluation.report.remembered import TrueFile, TrueFiles
    from videodit.evaluation.report.results import Results
    from videodit.video.guarded import Guarded

OURS = re.compile(rb'\s*{\s*"(schema|settings)"')  # how results.json begins
NETWORKS = ("clip", "dino", "aesthetic", "videomae", "vjepa", "i3d")  # whose features are kept
PLACE, FILE, COUNT = argument(Place), argument(File), argument(Positive)


class PrintSchema(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from videodit.evaluation.report.results import Results

        print(json.dumps(Results.model_json_schema(by_alias=True), indent=1))
        parser.exit()


def side(text: str) -> int | None:
    if text != "native" and not (text.isdecimal() and 16 <= int(text[:6]) < 10**5):
        raise argparse.ArgumentTypeError(f"{text!r} is neither 'native' nor a number of pixels from 16 on")
    return None if text == "native" else int(text)


def parse() -> argparse.Namespace:
    parser = Parser(__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "clips",
        nargs="?",
        type=PLACE,
        metavar="CLIPS",
        help="a video, a folder, a manifest; or a model, with --prompts",
    )
    what.add_argument("--world", choices=["shapes", "emoji"], help="judge a model on the prompts of this world")
    what.add_argument("--votes", type=FILE, help="a file of votes of videodit app: win rates, and how sure they are")
    parser.add_argument("--out", type=FILE, default=Path("evaluation"), help="a folder (default: evaluation)")
    parser.add_argument("--schema", action=PrintSchema, nargs=0, help="print the JSON schema of results.json, and end")
    parser.add_argument(
        "--prompts",
        type=PLACE,
        help="a file: of CLIPS, what was asked for (rows with name and prompt, or a line each in the order of names; "
        "default: what is said beside each clip); for a model, what to make. With --world: how many (default "
        f"{WORLD_PROMPTS})",
    )
    clips = parser.add_argument_group("with CLIPS")
    clips.add_argument("--reference", type=PLACE, help="clips that should have come out: same kinds of source")
    clips.add_argument("--compare", type=PLACE, help="another set, measured now, or the --out folder of an earlier run")
    clips.add_argument(
        "--nearest",
        type=PLACE,
        help="true clips, as those of training: the nearest to each, how near, and whether its caption is the prompt",
    )
    clips.add_argument("--metrics", nargs="+", help="names or patterns, as '*consistency*' (default: all that can be)")
    clips.add_argument(
        "--fps", type=argument(Rate), help="frames a second to look at (default: all frames, at the files' rate)"
    )
    clips.add_argument("--size", type=side, default=256, help="scaled down to this shorter side, or 'native' (256)")
    clips.add_argument("--clip", type=PLACE, help="CLIP weights: consistency and text alignment (hub name or folder)")
    clips.add_argument("--dino", type=PLACE, help="DINO weights: subject consistency (hub name or folder)")
    clips.add_argument(
        "--aesthetic", type=PLACE, help="LAION's linear head on --clip: VBench's aesthetic quality (file)"
    )
    clips.add_argument(
        "--videomae", type=PLACE, help="VideoMAE weights, for distances to --reference (hub name, folder)"
    )
    clips.add_argument("--vjepa", type=PLACE, help="V-JEPA 2 weights, for JEDi to --reference (hub name, folder)")
    clips.add_argument("--i3d", type=PLACE, help="I3D as TorchScript, for FVD to --reference (a file)")
    clips.add_argument("--i3d-frames", type=COUNT, default=16, help="that it reads of each clip, its first (16)")
    clips.add_argument("--lpips", action="store_true", help="LPIPS too; needs the packages lpips and torchvision")
    clips.add_argument(
        "--raft", type=PLACE, help="motion by RAFT instead of DIS: a state dict of torchvision's raft_large"
    )
    clips.add_argument("--cache", type=FILE, help="folder for what networks saw (default: OUT/features)")
    clips.add_argument("--vbench", action="store_true", help="also write what VBench measures, in its format")
    clips.add_argument(
        "--report-clips",
        type=argument(Count),
        default=48,
        help="clips in report.html at most; 0: no report (default 48)",
    )
    clips.add_argument("--workers", type=COUNT, default=os.cpu_count() or 1, help="clips at once (default: one a core)")
    model = parser.add_argument_group("with a model")
    model.add_argument(
        "--model", type=PLACE, help="with --world: a pipeline folder or hub name (default: the packaged model of it)"
    )
    model.add_argument(
        "--art", nargs="+", type=FILE, help="with --world emoji: the folders that videodit make-emoji wrote"
    )
    model.add_argument(
        "--given",
        choices=list(GIVEN),
        help="with --world: frames of the true clip that the model is given, as in objective.given_frames",
    )
    model.add_argument(
        "--told",
        nargs="+",
        metavar="NAME",
        help="with --world: maps of the true clip that the model is told, of its conditions; and how far they lead",
    )
    model.add_argument("--num-frames", type=COUNT, help="of the clips made (default: the model's own)")
    model.add_argument("--seed", type=argument(Seed), default=0, help="of prompts and noise (default 0)")
    model.add_argument("--seeds", type=COUNT, default=1, help="clips a prompt, each from another seed (default 1)")
    model.add_argument("--steps", type=argument(Steps), help="scheduler steps (default: the model's own)")
    model.add_argument("--guidance-scale", type=argument(Guidance), help="1: no guidance (default: the model's own)")
    model.add_argument("--batch-size", type=COUNT, default=16, help="clips made together (default 16)")
    return parser.parse_args()


@command
def main() -> int:
    args = parse()
    log_to_terminal(logging.WARNING)
    if args.votes:
        print(shown(votes_told(args.votes)))
        return 0
    check_folder(args.out)
    text = evaluate_world(args) if args.world else evaluate_clips(args)
    print(shown(text))
    print(f"\nwritten to {args.out}")
    return 0


def votes_told(file: Path) -> str:
    from videodit.evaluation.report.votes import load_votes, preferences

    votes = load_votes(file)
    waiting = sum(pair.choice is None for pair in votes.pairs)
    return "\n".join([*map(str, preferences(votes)), f"{len(votes.pairs) - waiting} votes, {waiting} pairs without"])


def check_folder(out: Path) -> None:
    """Makes the folder and tries it, before any work is done."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise ValueError(f"--out {out}: cannot be written to ({error.strerror}); give another folder") from error
    there = [out / name for name in ("results.json", "report.html") if (out / name).exists()]
    if there and not (there[0].suffix == ".json" and OURS.match(there[0].read_bytes()[:64])):
        raise ValueError(f"{there[0]}: is there already, and no earlier evaluation; give another --out")


# --- clips -----------------------------------------------------------------------------------------------------------


def evaluate_clips(args: argparse.Namespace) -> str:
    from videodit.clipset import find_clips, is_model
    from videodit.evaluation.measure.plan import Extractors
    from videodit.evaluation.report.compare import compare
    from videodit.evaluation.report.remembered import TrueFiles
    from videodit.evaluation.report.vbench import to_vbench
    from videodit.video.guarded import Guarded

    if args.model:
        raise ValueError("--model goes with --world; a model to sample from stands in the place of CLIPS")
    if args.told:
        raise ValueError("--told goes with --world")
    if args.given:
        raise ValueError("--given goes with --world; rows of --prompts name files of their own (image, video ...)")
    weights = {name: getattr(args, name) for name in (*NETWORKS, "raft")}
    extractors = Extractors.load(**weights, i3d_frames=args.i3d_frames, lpips=args.lpips)
    share_cores(args.workers)
    if args.compare and is_model(args.compare):
        raise ValueError(
            f"--compare {args.compare} is a model: evaluate it with an --out of its own, and compare with that"
        )
    with Guarded(args.workers) as guard:
        results, clips = measured(args, args.clips, args.prompts, extractors, guard, named=args.clips)
        true = None
        if args.nearest:
            seconds = statistics.median(clip.num_frames / clip.fps if clip.fps else 0.0 for clip in clips.values())
            true = TrueFiles([*map(true_file, find_clips(args.nearest))], guard, seconds)
            results = true.beside(results, list(clips.values()), args.nearest)
        replace_text(args.out / "results.json", results.to_json())  # whatever becomes of a comparison
        other: Results | None = None
        other_clips: dict[str, Clip] = {}
        if args.compare and (Path(args.compare) / "results.json").is_file():
            other, other_clips = earlier(args.compare, guard, args.fps)
        elif args.compare:
            other, other_clips = measured(args, args.compare, None, extractors, guard, named=args.compare)
        if other is not None:
            results = results.model_copy(update={"comparison": compare(results, other, args.compare)})
        replace_text(args.out / "results.json", results.to_json())
        (args.out / "report.html").unlink(missing_ok=True)  # of an earlier run
        if args.report_clips:
            report(args, results, clips, other, other_clips, true)
    lines = [results.to_text()]
    if args.vbench:
        found, left_out = to_vbench(results)
        replace_text(args.out / "vbench_eval_results.json", json.dumps(found, indent=1) + "\n")
        lines += [f"vbench_eval_results.json lacks {line}" for line in left_out]
    return "\n".join(lines)


def true_file(file: ClipFile) -> TrueFile:
    from videodit.evaluation.report.remembered import TrueFile

    captions = () if file.prompt is None else (file.prompt,)
    return TrueFile(file.path, file.name, captions, file.start, file.end, file.failure)


def share_cores(workers: int) -> None:
    """One thread a worker: sums of several threads come in another order, and so would the last digits."""
    import torch

    torch.set_num_threads(1)
    try:
        import cv2
    except ImportError:
        return
    cv2.setNumThreads(1)


def measured(
    args: argparse.Namespace, source: str, prompts: str | None, extractors: Any, guard: Guarded, *, named: str
) -> tuple[Results, dict[str, Clip]]:
    """The results of a source, and its clips by name."""
    from videodit.clipset import find_clips, is_model, open_clips
    from videodit.evaluation.measure.feature_cache import FeatureCache
    from videodit.evaluation.suite import evaluate

    if is_model(source):
        made = set(sampled(args, source, prompts))
        files = [
            file for file in find_clips(args.out / "clips") if file.path in made
        ]  # an earlier run may have left more
    else:
        files = find_clips(source, prompts)
    clips, failures = open_clips(files, guard, fps=args.fps)
    reference, broken = open_clips(find_clips(args.reference), guard, fps=args.fps) if args.reference else ([], [])
    if args.reference and not reference:
        raise ValueError(
            f"--reference {args.reference}: none of it can be read; first: {broken[0].name}: {broken[0].why}"
        )
    networks = any(getattr(args, name) for name in NETWORKS)
    results = evaluate(
        clips,
        reference=reference,
        metrics=args.metrics,
        extractors=extractors,
        side=args.size,
        resampled=args.fps is not None,
        workers=args.workers,
        cache=FeatureCache(args.cache or (args.out / "features" if networks else None)),
        failures=[*failures, *(one.model_copy(update={"name": f"reference {one.name}"}) for one in broken)],
        settings={"clips": named, **{name: getattr(args, name) for name in ("reference", "fps", "size", "metrics")}},
    )
    if not results.clips:
        raise ValueError(
            f"{source}: nothing could be measured; first: {results.failures[0].name}: {results.failures[0].why}"
        )
    return results, {clip.name: clip for clip in clips}


def sampled(args: argparse.Namespace, model: str, prompts: str | None) -> list[Path]:
    """A model's clips in OUT/clips, lossless; what an earlier run made is not made again."""

    from videodit.clipset import Sampling, make_clips, read_requests
    from videodit.memory import place
    from videodit.packaged import PACKAGED

    if prompts is None:
        here = Path(model).exists() or model in ("shipped", *PACKAGED)
        there = "is a model" if here else "is not here; if it is a model on the hub"
        raise ValueError(f"{model} {there}: give --prompts, a file of what it shall make")
    requests = read_requests(prompts, args.seed)
    requests = [
        replace(one, seed=one.seed + len(requests) * i, num_frames=one.num_frames or args.num_frames)
        for one in requests
        for i in range(args.seeds)
    ]
    folder = args.out / "clips"
    paths = [folder / f"{number:05d}.mkv" for number in range(len(requests))]
    pipe = load_pipeline(model)
    place(pipe, "none")
    sampling = Sampling(args.steps, args.guidance_scale)
    return list(make_clips(pipe, requests, paths, sampling, model=model, batch_size=args.batch_size))


def earlier(folder: str, guard: Guarded, fps: float | None) -> tuple[Results, dict[str, Clip]]:
    """Results of an earlier run, and its clips that are still there."""
    from videodit.clipset import ClipFile, open_clips
    from videodit.evaluation.report.results import load_results

    results = load_results(Path(folder) / "results.json")
    there = [clip for clip in results.clips if clip.path is not None]
    files = [ClipFile(Path(clip.path or ""), clip.name, start=clip.start, end=clip.end) for clip in there]
    clips, _ = open_clips(files, guard, fps=fps)
    return results, {clip.name: clip for clip in clips}


def report(
    args: argparse.Namespace,
    results: Results,
    clips: Mapping[str, Clip],
    other: Results | None,
    other_clips: Mapping[str, Clip],
    true: TrueFiles | None,
) -> None:
    from videodit.evaluation.report.page import frames_of, write_report

    write_report(
        args.out / "report.html",
        results,
        frames_of(clips),
        other=other,
        other_frames=frames_of(other_clips) if other else None,
        nearest_frames=true.frames if true else None,
        max_clips=args.report_clips,
    )
