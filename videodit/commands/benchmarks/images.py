"""`images`: what it costs an image model to stand in a video model, and how time grows with the frames."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import diffusers
import torch
from torch import Tensor

from videodit.commands.benchmarks.devices import add_device, machine, named_device
from videodit.commands.benchmarks.scaling import exponent
from videodit.commands.benchmarks.turns import Disagreement, print_rows, rows, take_turns
from videodit.config.kinds import Positive, argument
from videodit.models.extended import TimeExtended
from videodit.models.families import Frames

BARE, OFF, ON = "the image model", "extended, time blocks off", "extended"
TEXT = (64, 256)  # tokens and width
TOLERANCE = 1e-5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--frames", type=argument(Positive), nargs="+", default=[4, 8, 16, 32], help="(4 8 16 32)")
    parser.add_argument("--places", type=argument(Positive), default=16, help="tokens a side of each frame (16)")
    parser.add_argument("--width", type=argument(Positive), default=256, help="a multiple of 64 (256)")
    parser.add_argument("--layers", type=argument(Positive), default=4, help="blocks, a time block behind each (4)")
    parser.add_argument("--rounds", type=argument(Positive), default=5, help="turns that each takes (5)")
    add_device(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measures, and prints as it goes. ValueError: options out of range."""
    if args.width < 64 or args.width % 64:
        raise ValueError(f"--width {args.width} must be a multiple of 64, the width of a head")
    device = named_device(args.device)
    lengths, places = ([2, 4], 2) if args.quick else (sorted(set(args.frames)), args.places)
    tables = []
    for name, image in models(args.width, args.layers).items():
        model = TimeExtended(image).to(device).eval()
        medians: dict[str, list[float]] = {}
        for frames in lengths:
            found = table(model, name, frames, places, args.rounds, device)
            tables.append({"family": name, "frames": frames, "rows": found})
            for row in found:
                medians.setdefault(row["name"], []).append(row["median"])
        if len(lengths) > 1:
            for way, times in medians.items():
                print(f"  {way:30}exponent in the number of frames {exponent(lengths, times):.2f}")
    return {"what": "images", "machine": machine(device), "tables": tables}


def models(width: int, layers: int) -> dict[str, Any]:
    """An image model a family, of one shape."""
    torch.manual_seed(0)
    heads = {"num_attention_heads": width // 64, "attention_head_dim": 64}
    return {
        "SD3": diffusers.SD3Transformer2DModel(
            **heads,
            num_layers=layers,
            joint_attention_dim=TEXT[1],
            caption_projection_dim=width,
            pooled_projection_dim=TEXT[1],
            qk_norm="rms_norm",
        ),
        "Sana": diffusers.SanaTransformer2DModel(
            **heads,
            num_layers=layers,
            num_cross_attention_heads=width // 64,
            cross_attention_head_dim=64,
            cross_attention_dim=width,
            caption_channels=TEXT[1],
        ),
        "Z-Image": diffusers.ZImageTransformer2DModel(
            dim=width,
            n_layers=layers,
            n_heads=width // 64,
            n_kv_heads=width // 64,
            cap_feat_dim=TEXT[1],
            axes_dims=[16, 24, 24],
        ),
    }


@torch.no_grad()
def table(
    model: TimeExtended, name: str, frames: int, places: int, rounds: int, device: torch.device
) -> list[dict[str, Any]]:
    """Rows of one family at one length. Disagreement: a silent clip is not the image model on every frame."""
    side = places * model.patch_size[1]
    latents = torch.randn(1, model.in_channels, frames, side, side, device=device)
    times, told = torch.tensor([500.0], device=device), texts(model, device)
    each = Frames(
        latents[0].transpose(0, 1).contiguous(),
        times.expand(frames),
        text=told["encoder_hidden_states"].expand(frames, -1, -1),
        pooled=told["pooled_projections"].expand(frames, -1) if "pooled_projections" in told else None,
    )

    def off() -> Tensor:
        model.along_time = lambda number, states: states  # type: ignore[method-assign]
        try:
            return model(latents, times, **told, return_dict=False)[0]
        finally:
            del model.along_time

    ways: dict[str, Callable[[], Tensor]] = {
        BARE: partial(model.family.call, model.image, each),
        OFF: off,
        ON: lambda: model(latents, times, **told, return_dict=False)[0],
    }
    bare, clip = ways[BARE](), ways[ON]()[0].transpose(0, 1)
    if (error := float((bare - clip).norm() / bare.norm())) > TOLERANCE:
        raise Disagreement(f"{name}: a silent clip differs from its frames by {error:.1e} of their size")
    found = rows(take_turns(ways, rounds, warm=True, title=f"{name}, {frames} frames"), [BARE])
    print_rows(f"{name}, {frames} frames of {places} x {places} tokens", found)
    return found


def texts(model: TimeExtended, device: torch.device) -> dict[str, Tensor]:
    told = {"encoder_hidden_states": torch.randn(1, *TEXT, device=device)}
    if any(condition.kind == "pooled" for condition in model.conditions):
        told["pooled_projections"] = torch.randn(1, TEXT[1], device=device)
    return told
