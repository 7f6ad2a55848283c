"""Grows an image model into a video model that, before it is trained, is the image model on every frame.

  tools/inflate.py --from PIPELINE --to DIR                      PixArt, DiT, Latte or our own, whole
  tools/inflate.py --from PixArt-XL-2-512x512.pth --to DIR       a transformer alone
  tools/inflate.py --from facebook/DiT-XL-2-256 --to DIR --text-encoder google/t5-v1_1-xl --drop-classes
  tools/inflate.py --from DIR --to DIR --vae VAE --patch-frames 2

Writes the grown pipeline (or transformer) and `growth.txt`: what became of every tensor.
"""

from __future__ import annotations

import sys

from videodit.command import command
from videodit.config.kinds import Amount, File, Place, Positive, Rate, Seed, argument
from videodit.terminal import Parser


def names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


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
    parser.add_argument(
        "--num-attention-heads", type=argument(Positive), help="of a checkpoint file of no published width"
    )
    parser.add_argument(
        "--interpolation-scale", type=argument(Amount), help="of a checkpoint file of no published size"
    )
    args = parser.parse_args()
    if args.target.exists():
        print(f"inflate: {args.target} exists; choose another --to, or remove it", file=sys.stderr)
        return 2

    from videodit import TextEncoder, VideoCodec, VideoDiTPipeline
    from videodit.exchange import grown_pipeline, open_model, save_whole
    from videodit.models.growth import grow

    try:
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
    except (ValueError, OSError) as error:
        print("inflate:", *str(error).split(), file=sys.stderr)
        return 2
    print(f"{args.target}: {str(report).splitlines()[0]} (growth.txt)")
    return 0


if __name__ == "__main__":
    sys.exit(command(main))
