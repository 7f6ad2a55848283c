"""Grows an image model into a video model that, before it is trained, is the image model on every frame.

  videodit inflate --from PIPELINE --to DIR                      PixArt, DiT, Latte or our own, whole
  videodit inflate --from PixArt-XL-2-512x512.pth --to DIR       a transformer alone
  videodit inflate --from facebook/DiT-XL-2-256 --to DIR --text-encoder google/t5-v1_1-xl --drop-classes
  videodit inflate --from DIR --to DIR --vae VAE --patch-frames 2
  videodit inflate --from DIR --to DIR --num-layers 6            goes on from a model of 4 with more weights
  videodit inflate --from stabilityai/stable-diffusion-3.5-medium --to DIR     SD3, Flux, Sana, Qwen-Image, Z-Image ...

Writes the grown pipeline (or transformer) and `growth.txt`: what became of every tensor. An image model that is none of
the first line's stays as it is, with time blocks behind its own: for those --every and --time-blocks-from, --fps,
--num-frames, --vae, --dtype and --seed.
"""

from __future__ import annotations

import argparse
from typing import Any

from videodit.command import command
from videodit.config.kinds import Amount, File, Place, Positive, Rate, Seed, argument
from videodit.terminal import Parser


def names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


@command
def main() -> int:
    parser = Parser(__doc__)
    parser.add_argument(
        "--from",
        dest="source",
        required=True,
        type=argument(Place),
        help="a pipeline or transformer: folder, hub name, checkpoint file",
    )
    parser.add_argument(
        "--to", dest="target", type=argument(File), required=True, help="the folder to write; must not exist yet"
    )
    parser.add_argument("--axes", type=names, default=("space", "time"), help="the pattern of blocks (space,time)")
    parser.add_argument(
        "--window",
        nargs=3,
        type=argument(Positive),
        metavar=("FRAMES", "ROWS", "COLUMNS"),
        help="of window blocks, as --axes window makes of joint ones: tokens that see each other (as it is)",
    )
    parser.add_argument(
        "--num-layers", type=argument(Positive), help="turns of the pattern, more than it has (as it is)"
    )
    parser.add_argument("--skips", choices=("long",), help="long: give it long skips, silent at first (as it is)")
    parser.add_argument("--time-blocks", choices=("fresh", "copied"), default="fresh", help="how new blocks begin")
    parser.add_argument("--patch-frames", type=argument(Positive), help="latent frames a token (as it is)")
    parser.add_argument("--latent-channels", type=argument(Positive), help="of another VAE (the VAE's)")
    parser.add_argument(
        "--sample-size", type=argument(Positive), help="tokens a side of the size to train at (as it is)"
    )
    parser.add_argument("--qk-norm", type=names, help="axes with QK-norm (the new ones)")
    parser.add_argument("--time-positions", choices=("rotary", "sincos", "both"), help="(as it is, or rotary)")
    parser.add_argument("--text-axes", type=names, help="axes whose blocks read the text (all)")
    parser.add_argument(
        "--text-encoder",
        type=argument(Place),
        help="for a model without text: the encoder it shall read, folder or hub name",
    )
    parser.add_argument(
        "--drop-classes", action="store_true", help="of a model that is told a class, keep the class none"
    )
    parser.add_argument("--fps", type=argument(Rate), help="frames a second that clips will have (8)")
    parser.add_argument("--vae", type=argument(Place), help="of a pipeline: the VAE to go with it, folder or hub name")
    parser.add_argument(
        "--num-frames", type=argument(Positive), help="of a pipeline: frames a clip by default (its own, or 17)"
    )
    parser.add_argument("--seed", type=argument(Seed), default=0, help="of the new weights")
    parser.add_argument("--every", type=argument(Positive), help="a time block behind each so many blocks (1)")
    parser.add_argument(
        "--time-blocks-from",
        type=argument(Place),
        help="time blocks that were trained with this image model: a folder",
    )
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), help="of its weights (float32)")
    parser.add_argument(
        "--num-attention-heads", type=argument(Positive), help="of a checkpoint file of no published width"
    )
    parser.add_argument(
        "--interpolation-scale", type=argument(Amount), help="of a checkpoint file of no published size"
    )
    args = parser.parse_args()
    if args.target.exists():
        raise ValueError(f"{args.target} exists; choose another --to, or remove it")

    from videodit import TextEncoder, VideoCodec, VideoDiTPipeline
    from videodit.exchange import NATIVE, grown_pipeline, open_model, save_whole
    from videodit.extending import family_at
    from videodit.models.growth import grow

    if (family := family_at(args.source)) is not None and family not in NATIVE:
        return extend(args, parser, family)
    for name in OF_EXTENDING:
        if getattr(args, name) is not None:
            raise ValueError(f"--{name.replace('_', '-')} is of an image model that stays as it is; leave it out")
    file = {name: getattr(args, name) for name in ("num_attention_heads", "interpolation_scale", "sample_size")}
    source, converted = open_model(args.source, **file)
    pipe = source if isinstance(source, VideoDiTPipeline) else None
    if pipe is None and (args.vae or args.num_frames):
        raise ValueError(f"--vae and --num-frames are a pipeline's, but {args.source} is a transformer alone")
    codec = None
    if pipe is not None:
        codec = VideoCodec.from_pretrained(args.vae) if args.vae else pipe.codec
    text = TextEncoder.from_pretrained(args.text_encoder) if args.text_encoder else None
    fps = args.fps if args.fps is not None else pipe.default_size.fps if pipe else None
    model, report = grow(
        source if pipe is None else pipe.transformer,
        axes=args.axes,
        window=tuple(args.window) if args.window else None,
        skips=args.skips,
        num_layers=args.num_layers,
        time_blocks=args.time_blocks,
        patch_frames=args.patch_frames,
        in_channels=codec.strides.channels if codec and args.latent_channels is None else args.latent_channels,
        sample_size=args.sample_size,
        qk_norm=args.qk_norm,
        time_positions=args.time_positions,
        cross_attention_axes=args.text_axes,
        caption_channels=text.width if text else None,
        drop_classes=args.drop_classes,
        sample_fps=fps / codec.strides.time if fps is not None and codec else fps,
        seed=args.seed,
    )
    grown: VideoDiTPipeline | object = model
    if pipe is not None and codec is not None and fps is not None:
        if codec.strides.channels != model.config.in_channels:
            raise ValueError(f"--latent-channels {args.latent_channels}: the VAE has {codec.strides.channels}")
        own = pipe.default_size.num_frames
        num_frames = args.num_frames if args.num_frames is not None else own if own > 1 else 17
        grown = grown_pipeline(pipe, model, codec.vae, text, num_frames=num_frames, fps=fps)
    notes = f"{report}\n" + (f"\nBefore that, the conversion:\n{converted}\n" if converted.copied else "")
    save_whole(grown, args.target, {"growth.txt": notes})
    print(f"{args.target}: {str(report).splitlines()[0]} (growth.txt)")
    return 0


OF_EXTENDING = ("every", "time_blocks_from", "dtype")


def extend(args: argparse.Namespace, parser: Parser, family: str) -> int:
    """An image model that stays as it is, with time blocks behind its own."""
    import torch

    from videodit.codec import VideoCodec
    from videodit.exchange import save_whole
    from videodit.extending import extend_in_time, left_out_at

    read = {"source", "target", "fps", "num_frames", "vae", "seed", *OF_EXTENDING}
    for name in vars(args).keys() - read:
        if getattr(args, name) != parser.get_default(name):
            raise ValueError(f"--{name.replace('_', '-')} is of a model that is grown; a {family} stays as it is")
    if args.time_blocks_from and args.every:
        raise ValueError("--every is of fresh time blocks, and those of --time-blocks-from say their own; leave it out")
    dtype = getattr(torch, args.dtype or "float32")
    model: Any = extend_in_time(
        args.source,
        every=args.every or 1,
        num_frames=args.num_frames or 17,
        fps=args.fps or 8.0,
        vae=VideoCodec.from_pretrained(args.vae, dtype=dtype).vae if args.vae else None,
        time_blocks=args.time_blocks_from,
        dtype=dtype,
        seed=args.seed,
    )
    if not hasattr(model, "transformer"):  # a transformer alone
        unread = {
            "--vae": args.vae,
            "--num-frames": args.num_frames,
            "--fps": args.fps if args.time_blocks_from else None,
        }
        for name, value in unread.items():
            if value is not None:
                raise ValueError(
                    f"{name} is of a pipeline's clips, and {args.source} is a transformer alone; leave it out"
                )
    blocks = getattr(model, "transformer", model).blocks
    note = f"{family}: as it was; {len(blocks)} time blocks, {args.time_blocks_from or 'silent'}\n"
    told = note.strip()
    note += "".join(f"{name}: left out, no part of a video pipeline\n" for name in left_out_at(args.source))
    save_whole(model, args.target, {"growth.txt": note})
    print(f"{args.target}: {told} (growth.txt)")
    return 0
