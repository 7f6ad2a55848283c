"""`sample`: a whole call of the pipeline, prompt to pixels, against diffusers' `LattePipeline` of the same parts."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import cycle, islice
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, LattePipeline
from torch import Tensor

from videodit.caching import set_cache
from videodit.commands.benchmarks.devices import add_device, check_agreement, machine, named_device, peak_memory
from videodit.commands.benchmarks.peers import SMALL, Pair, compiled
from videodit.commands.benchmarks.turns import print_rows, rows, take_turns
from videodit.config.kinds import Positive, Steps, argument
from videodit.exchange import pipeline_from_diffusers
from videodit.text import TextEncoder

PROMPT, NEGATIVE, MOST = "a red circle moving right", "blue stars", 120  # tokens, padding included
TOLERANCE = 1e-3  # of the pixels, after all steps: what each step's rounding may grow to


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--steps", type=argument(Steps), default=20, help="scheduler steps, two passes each (20)")
    parser.add_argument(
        "--tokens",
        type=argument(Positive),
        nargs="+",
        default=[6, MOST],
        help=f"of the prompt, its end included (6 {MOST})",
    )
    parser.add_argument("--rounds", type=argument(Positive), default=3, help="turns that each takes (3)")
    parser.add_argument(
        "--cache",
        nargs="*",
        default=["taylorseer"],
        metavar="NAME[=NUMBER]",
        help="feature caches to try, as videodit sample names them (taylorseer)",
    )
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True, help="both, too")
    add_device(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measures, and prints as it goes. ValueError: no such cache; no such length of a prompt."""
    if not 2 <= min(args.tokens) <= max(args.tokens) <= MOST:
        raise ValueError(f"--tokens: each must be from 2 to {MOST}")
    device = named_device(args.device)
    shape = replace(SMALL, batch=1, caption=64, tokens=MOST)
    shape = replace(shape.quick(), tokens=MOST) if args.quick else shape
    theirs = peer_pipeline(Pair(shape), args.quick).to(device)
    ours = pipeline_from_diffusers(theirs)[0].to(device)
    for pipe in (theirs, ours):
        pipe.set_progress_bar_config(disable=True)
    latents = torch.randn(1, 4, shape.frames, shape.side, shape.side, generator=torch.Generator().manual_seed(0))
    pixels = shape.side * 8
    common = {"negative_prompt": NEGATIVE, "latents": latents.to(device), "num_inference_steps": args.steps}

    def sample_theirs(prompt: str, model: Any = theirs.transformer) -> Tensor:
        theirs.transformer = model
        size = {"video_length": shape.frames, "height": pixels, "width": pixels}
        frames = theirs(prompt, **common, **size, output_type="pt", clean_caption=False).frames
        return frames.reshape(1, shape.frames, 3, pixels, pixels)

    def sample_ours(prompt: str, model: Any = ours.transformer, cache: str | None = None) -> Tensor:
        ours.transformer = model
        set_cache(ours, cache)
        return ours(prompt, **common, guidance_scale=7.5, use_text_mask=False, output_type="pt").frames

    ways: dict[str, Callable[..., Any]] = {"videodit": sample_ours, "diffusers": sample_theirs}
    if args.compile:
        ways["videodit, compiled"] = partial(sample_ours, model=compiled(ours.transformer))
        ways["diffusers, compiled"] = partial(sample_theirs, model=compiled(theirs.transformer))
    ways |= {f"videodit, {cache}": partial(sample_ours, cache=cache) for cache in args.cache}
    print(f"{shape}; {args.steps} steps, guidance 7.5, {pixels} x {pixels} pixels")
    tables = []
    for tokens in args.tokens:
        torch.compiler.reset()  # or the second length would run the graphs for any, the first those for one
        prompt = prompt_of(tokens)
        told: dict[str, Callable[[], Any]] = {name: partial(way, prompt) for name, way in ways.items()}
        tables.append({"tokens": tokens} | compare(f"a prompt of {tokens} tokens, to pixels", told, device, args))
    about = {"shape": vars(shape), "steps": args.steps, "tables": tables}
    return {"what": "sample", "machine": machine(device)} | about


def compare(
    title: str, ways: dict[str, Callable[[], Any]], device: torch.device, args: argparse.Namespace
) -> dict[str, Any]:
    """How far ours and theirs are apart, and a row for each way."""
    for name in ways:
        if "compiled" in name:
            ways[name]()  # what compiling takes is not the clip's
    first = {name: peak_memory(way, device) for name, way in ways.items()}
    (_, plain), (_, expected) = first["videodit"], first["diffusers"]
    off = check_agreement("pixels", plain, expected, TOLERANCE)
    against = ["diffusers"] + ["diffusers, compiled"] * args.compile
    found = rows(take_turns(ways, args.rounds, warm=True, title="sampling"), against)
    for row in found:
        row["peak_bytes"], clip = first[row["name"]]
        row |= error_of(clip, plain) if row["name"].startswith("videodit,") else {}
    notes = {
        "peak MB": lambda row: f"{row['peak_bytes'] / 1e6:.1f}",
        "PSNR, dB": lambda row: f"{row['psnr']:.1f}" if "psnr" in row else "-",
    }
    print_rows(f"{title}; outputs differ by {off:.1e}", found, notes)
    return {"agreement": off, "rows": found}


def prompt_of(tokens: int) -> str:
    """So many words, the last token being the end of the text."""
    return " ".join(islice(cycle(PROMPT.split()), tokens - 1))


def error_of(clip: Tensor, plain: Tensor) -> dict[str, float]:
    """Of a clip made under a cache against the same without, pixels in [0, 1]."""
    square = float((clip - plain).square().mean())
    return {"mean_error": float((clip - plain).abs().mean()), "psnr": float(-10 * np.log10(max(square, 1e-12)))}


def peer_pipeline(pair: Pair, quick: bool) -> Any:
    """diffusers' pipeline of random parts: the Latte, a small VAE of 8 x 8 pixels a latent, a small T5."""
    torch.manual_seed(0)
    text = TextEncoder.from_captions([PROMPT, NEGATIVE], width=pair.shape.caption, max_length=MOST)
    channels = [8, 8, 8, 8] if quick else [16, 32, 32, 32]
    vae = AutoencoderKL(
        block_out_channels=channels,
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        norm_num_groups=8,
        latent_channels=4,
    ).eval()
    return LattePipeline(
        vae=vae,
        transformer=pair.theirs,
        scheduler=DDIMScheduler(clip_sample=False),
        text_encoder=text.text_encoder,
        tokenizer=text.tokenizer,
    )
