"""A model on a world: clips of prompts that training never saw, judged, with a contact sheet of some."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from videodit.command import load_without_bars
from videodit.config.kinds import Positive, argument
from videodit.disk import replace_text
from videodit.packaged import PACKAGED, named_folder

if TYPE_CHECKING:
    from videodit.models import Condition, VideoModel
    from videodit.pipeline import VideoDiTPipeline

SHEET_CLIPS = 24
WORLD_PROMPTS = 256
GIVEN = {  # kind of given frames: arguments of the pipeline
    "first": ("image",),
    "start": ("video",),
    "last": ("last_image",),
    "ends": ("image", "last_image"),
    "inner": ("video", "last_video"),
}


def evaluate_world(args: argparse.Namespace) -> str:

    from videodit.clipset import Sampling
    from videodit.evaluation.judge import emoji, world
    from videodit.evaluation.judge.sampled import ByPipeline, agreement_text, spread
    from videodit.memory import place
    from videodit.video.writer import contact_sheet

    try:
        count = argument(Positive)(str(args.prompts or WORLD_PROMPTS))
    except argparse.ArgumentTypeError as error:
        raise ValueError(f"--prompts {error}: with --world it is a number, of prompts") from None
    if (args.world == "emoji") != bool(args.art):
        raise ValueError("--world emoji and --art go together: --art names the folders that videodit make-emoji wrote")
    true = emoji.load_gallery(*args.art) if args.art else None
    model = args.model or (args.world if args.world in PACKAGED else "shipped")
    pipe = load_pipeline(model)
    pipe.set_progress_bar_config(disable=True)
    place(pipe, "none")
    sampling = Sampling(args.steps, args.guidance_scale).resolved(pipe)
    size = replace(pipe.default_size, num_frames=args.num_frames or pipe.default_size.num_frames)
    given = GIVEN.get(args.given or "", ())
    told = maps_of(pipe.transformer, args.told or ())
    kinds = emoji.ONE_TRUE if given or told else emoji.KINDS
    total = count + count // 4 if true is None else sum(len(emoji.questions(kind, count)) for kind in kinds)
    generate = ByPipeline(pipe, size, given, sampling.steps, sampling.guidance_scale, spread(total, SHEET_CLIPS), told)
    if true is not None:
        shown = partial(emoji.true_clip, folders=args.art, height=size.height, width=size.width)
        batches = {"count": count, "seed": args.seed, "batch_size": args.batch_size}
        answers = emoji.evaluate_emoji(generate, true, **batches, told=shown if given or told else None)
        found, text = emoji.to_dict(answers), emoji.to_text(answers)
        labels = [answers[index].label for index in generate.shown]
    else:
        results = world.evaluate_world(generate, prompts=count, seed=args.seed, batch_size=args.batch_size, size=size)
        found, text = results.to_dict(), results.summary()
        labels = [results.model[index].label for index in generate.shown]
    if told:
        found["agreement"] = generate.agreement
        text += "\n\n" + agreement_text(generate.agreement)
    contact_sheet(list(generate.shown.values()), args.out / "contact_sheet.png", labels=labels)
    settings = {"model": model, "world": args.world, "prompts": count}
    settings |= {name: getattr(args, name) for name in ("given", "told", "num_frames", "seed")}
    settings |= {"steps": sampling.steps, "guidance_scale": sampling.guidance_scale}
    replace_text(args.out / "results.json", json.dumps({"settings": settings, **found}, indent=1) + "\n")
    return text


def maps_of(model: VideoModel, names: Sequence[str]) -> list[Condition]:
    """The model's conditions of these names, which a clip can be a map for; ValueError: another."""
    from videodit.conditions import own_of

    known = {one.name: one for one in own_of(model) if one.kind == "channels"}
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"--told {unknown[0]}: this model is told maps of {', '.join(known) or 'nothing'}")
    return [known[name] for name in names]


def load_pipeline(model: str) -> VideoDiTPipeline:
    from videodit.pipeline import VideoDiTPipeline

    load_without_bars()
    try:
        return VideoDiTPipeline.from_pretrained(named_folder(model))
    except (ValueError, OSError) as error:
        why = (
            error if Path(model).is_dir() else "there is no such folder here, and no such model to be had from the hub"
        )
        raise ValueError(f"--model {model}: {why}") from error
