"""`scaling`: time and memory of a forward pass from 8 to 128 frames: factorized, windows, linear, full attention."""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import numpy as np
import torch
from diffusers import WanTransformer3DModel

from videodit.commands.benchmarks.devices import add_device, machine, named_device, peak_memory
from videodit.commands.benchmarks.turns import print_rows, rows, take_turns
from videodit.config.kinds import File, Positive, argument
from videodit.disk import replace_text
from videodit.drawing import Curve, loglog
from videodit.models.transformer import VideoDiT

CHANNELS, TEXT = 4, (120, 512)  # text tokens and their width
PEER = "Wan, full 3D"
NEAR, SUMS = "videodit, windows", "videodit, linear"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--frames", type=argument(Positive), nargs="+", default=[8, 16, 32, 64, 128], help="(8 16 32 64 128)"
    )
    parser.add_argument("--places", type=argument(Positive), default=16, help="tokens a side of each frame (16)")
    parser.add_argument("--width", type=argument(Positive), default=256, help="of both models, a multiple of 64 (256)")
    parser.add_argument(
        "--layers", type=argument(Positive), default=1, help="a space and a time block each; theirs: two blocks (1)"
    )
    parser.add_argument(
        "--window",
        type=argument(Positive),
        nargs=3,
        default=[8, 8, 8],
        metavar=("FRAMES", "ROWS", "COLUMNS"),
        help="of ours whose blocks all look within windows (8 8 8)",
    )
    parser.add_argument("--rounds", type=argument(Positive), default=3, help="turns that each takes (3)")
    parser.add_argument("--plot", type=argument(File), metavar="FILE.svg", help="draw the times")
    add_device(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measures, and prints as it goes. ValueError: options out of range."""
    if args.width < 64 or args.width % 64:
        raise ValueError(f"--width {args.width} must be a multiple of 64, the width of a head")
    if len(set(args.frames)) < 2 or min(args.frames) < 1:
        raise ValueError("--frames: name two lengths or more, of at least one frame")
    device = named_device(args.device)
    lengths, places = ([2, 4, 8], 2) if args.quick else (sorted(set(args.frames)), args.places)
    window = (2, 2, 2) if args.quick else tuple(args.window)
    made = models(args.width, args.layers, window, device)
    print(f"{2 * args.layers} blocks, {args.width} wide, {places} x {places} places, forward pass of one clip, fp32")
    tables: list[dict[str, Any]] = []
    for frames in lengths:
        latent = torch.randn(1, CHANNELS, frames, 2 * places, 2 * places, device=device)
        inputs = latent, torch.tensor([500], device=device), torch.randn(1, *TEXT, device=device)
        ways = {name: partial(model, *inputs) for name, model in made.items()}
        with torch.no_grad():
            peaks = {name: peak_memory(way, device)[0] for name, way in ways.items()}
            took = take_turns(ways, args.rounds, warm=True, title=f"{frames} frames")
        found = [row | {"peak_bytes": peaks[row["name"]]} for row in rows(took, [PEER])]
        notes = {"peak MB": lambda row: f"{row['peak_bytes'] / 1e6:.1f}"}
        print_rows(f"{frames} frames, {frames * places**2} tokens", found, notes)
        tables.append({"frames": frames, "rows": found})
    names = [row["name"] for row in tables[0]["rows"]]
    exponents = {
        key: {name: exponent(lengths, [table["rows"][i][key] for table in tables]) for i, name in enumerate(names)}
        for key in ("median", "peak_bytes")
    }
    print("\nexponent in the number of frames (least squares of the logarithms)")
    for name in names:
        print(f"  {name:30}time {exponents['median'][name]:.2f}, memory {exponents['peak_bytes'][name]:.2f}")
    if args.plot:
        times = {name: [table["rows"][i]["median"] for table in tables] for i, name in enumerate(names)}
        curves = {name: Curve(lengths, seconds) for name, seconds in times.items()}
        title = f"{2 * args.layers} blocks, {args.width} wide, {places} x {places} places"
        replace_text(args.plot, loglog(title, "frames", "seconds, forward pass", curves, lengths))
    return {"what": "scaling", "machine": machine(device), "tables": tables, "exponents": exponents}


def models(width: int, layers: int, window: tuple[int, ...], device: torch.device) -> dict[str, Any]:
    """Ours, ours in windows and linear, and Wan's of as many blocks of the same width and MLP, all reading the text.

    They compute different things, so there are no outputs that could agree.
    """
    torch.manual_seed(0)
    heads = {"num_attention_heads": width // 64, "attention_head_dim": 64}
    shape: dict[str, Any] = {"num_layers": layers, "caption_channels": TEXT[1]} | heads
    ours: Any = VideoDiT(CHANNELS, **shape)
    near: Any = VideoDiT(CHANNELS, axes=("window", "window"), window=window, **shape)
    theirs: Any = WanTransformer3DModel(
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        text_dim=TEXT[1],
        ffn_dim=4 * width,
        num_layers=2 * layers,
        cross_attn_norm=False,
        **heads,
    )
    sums: Any = VideoDiT(CHANNELS, axes=("space", "linear"), **shape)
    made = {"videodit": ours, NEAR: near, SUMS: sums, PEER: theirs}
    return {name: model.to(device).eval() for name, model in made.items()}


def exponent(lengths: list[int], values: list[float]) -> float:
    """p of the power law length^p that lies nearest."""
    return float(np.polyfit(np.log(lengths), np.log(values), 1)[0])
