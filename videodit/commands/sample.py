"""Makes clips from prompts.

  videodit sample --prompt "face with tears of joy on a blue background"
  videodit sample --prompt "a pink heart spins" "a big green star falls" --model shapes --seed 7 --out clips/
  videodit sample --prompts-file prompts.txt --model runs/mine/pipeline --out clips/

Without --model the first packaged model is used, of living emoji; `--model shapes` is the other, of moving shapes.
The ending of --out chooses the format: .mp4, .mkv (lossless), .gif, .webp, .png (an image, or a folder of frames).
Several clips go into a folder, one seed each: --seed, --seed + 1 and so on. A prompts file is a text with a prompt a
line, or .csv, .tsv, .jsonl with a clip a row: prompt and, where wanted, seed, negative_prompt, num_frames, height,
width, fps, image, video, given_frames, strength.

Every clip's settings are written into its metadata and into a .json file beside it. A run that was stopped goes on:
clips of a set that are there, made with the same settings, are not made again.

All prompts are encoded first, and the text encoder is let go of. Its states can be made elsewhere, or once for all:

  videodit sample --prompts-file prompts.txt --model MODEL --encode-text states.safetensors
  videodit sample --prompts-file prompts.txt --model MODEL --text-states states.safetensors --out clips/

Several processes make each clip together, each with a part of its frames and places (`--cache` is for one alone):

  torchrun --nproc-per-node 4 -m videodit sample --prompt "..." --num-frames 257 --out long.mp4
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videodit.command import command, import_torchao, load_without_bars
from videodit.config.kinds import Count, File, Guidance, Place, Positive, Rate, Seed, Share, Steps, Strength, argument
from videodit.packaged import is_quantized, named_folder
from videodit.terminal import Parser, log_to_terminal, shown

if TYPE_CHECKING:
    from accelerate import PartialState

    from videodit.clipset import Request

DTYPES = ("float32", "bfloat16", "float16")


def parse() -> argparse.Namespace:
    parser = Parser(__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--prompt", nargs="+", help="what to show; several make several clips")
    source.add_argument("--words", action="store_true", help="list the words that the model knows, and make no clip")
    source.add_argument(
        "--prompts-file", type=argument(File), help="a prompt a line; or .csv, .tsv, .jsonl ..., a clip a row"
    )
    parser.add_argument(
        "--model",
        type=argument(Place),
        help="a pipeline folder, a training checkpoint, a hub name or a packaged model (default: the packaged one)",
    )
    parser.add_argument(
        "--num-frames", type=argument(Positive), help="frames; 1 makes an image (default: the model's own, as below)"
    )
    parser.add_argument("--height", type=argument(Positive), help="pixels")
    parser.add_argument("--width", type=argument(Positive), help="pixels")
    parser.add_argument("--fps", type=argument(Rate), help="frames a second")
    parser.add_argument("--seed", type=argument(Seed), default=0, help="of the first clip (default 0)")
    parser.add_argument("--steps", type=argument(Steps), help="scheduler steps (default: the model's own)")
    parser.add_argument("--guidance-scale", type=argument(Guidance), help="1: no guidance (default: the model's own)")
    parser.add_argument(
        "--guidance-rescale", type=argument(Share), default=0.0, help="0 to 1, against the glare of large scales"
    )
    parser.add_argument(
        "--guidance-interval",
        type=argument(Share),
        nargs=2,
        default=(0.0, 1.0),
        metavar=("FROM", "TO"),
        help="shares of the steps between which there is guidance (default 0 1); outside it costs nothing",
    )
    parser.add_argument(
        "--image-guidance-scale",
        type=argument(Guidance),
        default=1.0,
        help="of given frames; above 1: a third pass (default 1: none)",
    )
    parser.add_argument(
        "--condition",
        action="append",
        metavar="NAME=FILE or NUMBERS",
        help="of a model that is told more than a prompt: frames of a file, or numbers; may be said for several",
    )
    parser.add_argument(
        "--control",
        action="append",
        metavar="FOLDER[=WEIGHT]",
        type=argument(Place),
        help="a branch by which the model is told a map: then --condition NAME=FILE; may be said for several",
    )
    parser.add_argument(
        "--tile-size",
        type=argument(Positive),
        metavar="PIXELS",
        help="for clips far larger than the model's own: predict them in tiles of this side, blended (default: whole)",
    )
    parser.add_argument(
        "--upscale",
        nargs="?",
        const="own",
        type=argument(Place),
        metavar="MODEL",
        help="make the clip larger by a second model that learned it (without a name: the model's own second stage)",
    )
    parser.add_argument(
        "--upscale-height", type=argument(Positive), metavar="PIXELS", help="of that (default: by that model's factor)"
    )
    parser.add_argument(
        "--skip-guidance-layers",
        type=argument(Count),
        nargs="+",
        metavar="BLOCK",
        help="numbers of blocks: a further pass without these is gone away from, in some steps (default: none)",
    )
    parser.add_argument(
        "--all-blocks", action="store_true", help="of a model that leaves blocks out at some noise levels, run all"
    )
    parser.add_argument("--skip-layer-guidance-scale", type=argument(Guidance), help="how far (default 2.8)")
    parser.add_argument("--skip-layer-guidance-start", type=argument(Share), help="share of the steps (default 0.01)")
    parser.add_argument("--skip-layer-guidance-stop", type=argument(Share), help="share of the steps (default 0.2)")
    parser.add_argument(
        "--true-cfg-scale",
        type=argument(Guidance),
        help="of a model that is told --guidance-scale itself (Flux): that between two passes (default 1: none)",
    )
    parser.add_argument("--negative-prompt", default="", help="what to stay away from")
    parser.add_argument(
        "--scheduler", help="a diffusers scheduler, as UniPCMultistepScheduler (default: the model's own)"
    )
    states = parser.add_mutually_exclusive_group()
    states.add_argument(
        "--encode-text",
        type=argument(File),
        metavar="FILE.safetensors",
        help="write the states of all prompts, negative ones too, and make no clip",
    )
    states.add_argument(
        "--text-states",
        type=argument(File),
        metavar="FILE.safetensors",
        help="take the prompts' states from there, and load no text encoder",
    )
    cheap = parser.add_argument_group("speed and memory (docs/sampling.md has measurements)")
    cheap.add_argument(
        "--cache",
        metavar="NAME[=NUMBER]",
        help="a feature cache: first-block, pyramid-attention, taylorseer or sea; the number is how far it goes",
    )
    cheap.add_argument("--dtype", choices=DTYPES, default="float32", help="of the weights (default float32)")
    parser.add_argument(
        "--lora",
        action="append",
        metavar="PLACE[=WEIGHT]",
        type=argument(Place),
        help="an adapter on the model: a file, folder or hub name, in diffusers', ComfyUI's or kohya's style",
    )
    cheap.add_argument("--layerwise-casting", action="store_true", help="keep the model's weights in float8_e4m3fn")
    cheap.add_argument(
        "--quantize",
        choices=("int8", "fp8", "nf4"),
        help="keep the model's weights in 8 bits (needs videodit[quantize]) or in 4 (nf4: videodit[nf4], and a GPU)",
    )
    cheap.add_argument(
        "--compile", action="store_true", help="compile the model's blocks first: for many clips or long ones"
    )
    cheap.add_argument("--vae-tiling", action="store_true", help="encode and decode large pictures in tiles")
    cheap.add_argument(
        "--offload",
        choices=("none", "model", "group", "sequential"),
        default="none",
        help="keep on the accelerator only the part that works (model), of the model only its block (group), or only "
        "the layer (sequential: least, slowest)",
    )
    start = parser.add_argument_group("given frames (a model must have been trained for them: objective.given_frames)")
    start.add_argument("--image", "--first-image", type=argument(Place), help="a file: the clip's first frame")
    start.add_argument(
        "--last-image", type=argument(Place), help="a file: its last frame, held for as long as the VAE's step in time"
    )
    start.add_argument(
        "--video",
        type=argument(Place),
        help="a file: the clip goes on from its last frames, or remakes it, with --strength",
    )
    start.add_argument(
        "--given-frames",
        type=argument(Positive),
        help="frames of --video to go on from, 4k + 1 for most VAEs (default 1)",
    )
    start.add_argument("--last-video", type=argument(Place), help="a file: the clip leads to its first frames")
    start.add_argument(
        "--last-given-frames",
        type=argument(Positive),
        help="frames of --last-video, 4k for most VAEs (default: the VAE's step)",
    )
    start.add_argument(
        "--loop", action="store_true", default=None, help="the clip goes on from its end to its beginning"
    )
    start.add_argument(
        "--overlap",
        type=argument(Count),
        help="make a long clip in windows, each going on from so many frames of the one before (0: a model with linear "
        "blocks goes on from all that was)",
    )
    start.add_argument(
        "--window", type=argument(Positive), help="frames of such a window (default: the model's own number)"
    )
    start.add_argument(
        "--strength", type=argument(Strength), help="how much of --video is made anew, above 0 to 1 (all)"
    )
    parser.add_argument("--batch-size", type=argument(Positive), default=8, help="clips made together (default 8)")
    parser.add_argument(
        "--preview",
        type=argument(Positive),
        metavar="STEPS",
        help="every so many steps show the clip so far in OUT.preview.png",
    )
    parser.add_argument(
        "--attention-maps",
        action="store_true",
        help="show which word acted where and when: a clip a word, and a sheet of all, in the folder OUT.attention",
    )
    parser.add_argument(
        "--out", type=argument(File), help="a file, or a folder (default: sample.mp4, or samples/ for several)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace what is there, whoever made it")
    return parser.parse_args()


@command
def main() -> int:
    args = parse()
    log_to_terminal(logging.WARNING)
    if args.words:
        return list_words(args.model or "shipped")
    if args.lora and importlib.util.find_spec("peft") is None:  # said before a model is loaded for nothing
        raise ImportError("--lora needs peft: pip install 'videodit[lora]'")
    if args.quantize or is_quantized(args.model):
        import_torchao()
    load_without_bars()
    import torch
    from accelerate import PartialState

    from videodit.training.parallel import TIMEOUT

    processes = PartialState(cpu=not torch.accelerator.is_available(), timeout=TIMEOUT)
    try:
        for path in sample(args, processes):
            processes.print(path)
    finally:
        processes.destroy_process_group()
    return 0


def list_words(model: str) -> int:
    from videodit.text import words_of

    words = words_of(named_folder(model))
    for word in (
        ["any: its tokenizer spells words from pieces, and nobody knows which it was shown"] if words is None else words
    ):
        print(shown(word))
    return 0


def sample(args: argparse.Namespace, processes: PartialState) -> Iterator[Path]:
    import torch
    from diffusers import PipelineQuantizationConfig

    from videodit.clipset import (
        Sampling,
        SecondStage,
        make_clips,
        output_paths,
        prompts_of,
        read_texts,
        second_stage,
        weights_digest,
        write_texts,
    )
    from videodit.conditions import asked
    from videodit.memory import place, return_large_blocks, tile
    from videodit.models.quantized import quantization
    from videodit.pipeline import VideoDiTPipeline
    from videodit.text import PARTS, load_text

    return_large_blocks()
    requests, folder, dtype = requested(args), named_folder(args.model or "shipped"), getattr(torch, args.dtype)
    if args.encode_text:
        text = load_text(folder, dtype=dtype)
        return iter([write_texts(args.encode_text, text, *prompts_of(requests), overwrite=args.overwrite)])
    for option, given in (("--compile", args.compile), ("--cache", args.cache), ("--text-states", args.text_states)):
        if args.attention_maps and given:
            raise ValueError(f"--attention-maps looks at every word in every block and step: take {option} out")
    if args.quantize and args.layerwise_casting:
        raise ValueError("--quantize and --layerwise-casting both say how the weights are kept: give one")
    cuts = {
        "--layerwise-casting": args.layerwise_casting,
        f"--offload {args.offload}": args.offload in ("group", "sequential"),
        f"--cache {args.cache}": args.cache and args.cache.partition("=")[0] != "taylorseer",
    }
    if args.compile and (cutting := [words for words, given in cuts.items() if given]):
        raise ValueError(
            f"--compile: {cutting[0]} works inside of the blocks and cuts compiled ones apart; take one out"
        )
    same = {field.name: getattr(args, field.name) for field in fields(Sampling) if hasattr(args, field.name)}
    other = {
        "guidance_interval": tuple(args.guidance_interval),
        "skipped_blocks": [] if args.all_blocks else None,
        "conditions": args.condition,
        "dtype": args.dtype if args.dtype != "float32" else None,
        "compile": args.compile or None,
        "layerwise_casting": args.layerwise_casting or None,
        "vae_tiling": args.vae_tiling or None,
        "text_states": None,  # which is set to what encoded them
    }
    sampling = Sampling(**(same | other))
    one = len(requests) == 1
    paths = output_paths(args.out or Path("sample.mp4" if one else "samples"), len(requests))
    options: dict[str, Any] = dict.fromkeys(PARTS) if args.text_states else {}
    if args.quantize:
        how = quantization(args.quantize, f"--quantize {args.quantize}", dtype)
        options["quantization_config"] = PipelineQuantizationConfig(quant_mapping={"transformer": how})
    pipe: Any = VideoDiTPipeline.from_pretrained(folder, dtype=dtype, **options)
    sampling = replace(sampling, condition_scale=pipe.control(args.control or []) or None)
    pipe.adapt(args.lora or [])
    upscale = None
    if args.upscale is not None:
        larger = VideoDiTPipeline.from_pretrained(second_stage(args.model or "shipped", args.upscale), dtype=dtype)
        upscale = SecondStage(larger, args.upscale, args.upscale_height)
        if args.vae_tiling:
            tile(larger.vae)
        place(larger, args.offload)
    elif args.upscale_height is not None:
        raise ValueError("--upscale-height is of --upscale: say that too, or leave it out")
    texts, encoder = None, None
    if args.text_states:
        texts, encoder = read_texts(args.text_states, *prompts_of(requests), asked(pipe.transformer, "text") or 0)
    if args.vae_tiling:
        tile(pipe.vae)
    if args.layerwise_casting:
        pipe.transformer.enable_layerwise_casting(torch.float8_e4m3fn, getattr(torch, args.dtype))
    digest = weights_digest(pipe)
    place(pipe, args.offload)
    if args.compile:
        pipe.transformer.compile_repeated_blocks()
    if processes.num_processes > 1:
        pipe.transformer.set_sequence_group(torch.distributed.group.WORLD)
        pipe.set_progress_bar_config(disable=not processes.is_main_process)
    return make_clips(
        pipe,
        requests,
        paths,
        replace(sampling, text_states=encoder),
        model=args.model or "shipped",
        model_digest=digest,
        texts=texts,
        keeps_text_encoder=False,
        batch_size=args.batch_size,
        preview=args.preview,
        attention=args.attention_maps,
        upscale=upscale,
        inputs=[
            *(file for file in (args.prompts_file, args.text_states) if file is not None),
            *(said.partition("=")[2] for said in args.condition or () if Path(said.partition("=")[2]).is_file()),
        ],
        overwrite=args.overwrite,
        renew=one,
        writes=processes.is_main_process,
    )


def requested(args: argparse.Namespace) -> list[Request]:
    """What to make; a line of a file goes before the command's own words."""
    from videodit.clipset import Request, read_requests

    if args.prompt:
        requests = [Request(prompt, seed=args.seed + number) for number, prompt in enumerate(args.prompt)]
    else:
        requests = read_requests(args.prompts_file, args.seed)
    own = {field.name: getattr(args, field.name) for field in fields(Request)[3:]}
    return [
        replace(
            one,
            negative_prompt=one.negative_prompt or args.negative_prompt,
            **{name: value for name, value in own.items() if getattr(one, name) is None},
        )
        for one in requests
    ]
