"""Grows an image model into a video model that, before it is trained, is the image model on every frame.

  tools/inflate.py --from PIPELINE --to DIR                      PixArt, DiT, Latte or our own, whole
  tools/inflate.py --from DiT-XL-2-256x256.pt --to DIR           a transformer alone
  tools/inflate.py --from facebook/DiT-XL-2-256 --to DIR --text-encoder google/t5-v1_1-xl --drop-classes
  tools/inflate.py --from DIR --to DIR --vae VAE --patch-frames 2

Writes the grown pipeline (or transformer) and `growth.txt`: what became of every tensor.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--from", dest="source", required=True, help="a pipeline or transformer: folder, hub name, checkpoint file"
    )
    parser.add_argument("--to", dest="target", type=Path, required=True, help="the folder to write; must not exist yet")
    parser.add_argument("--axes", type=names, default=("space", "time"), help="the pattern of blocks (space,time)")
    parser.add_argument("--time-blocks", choices=("fresh", "copied"), default="fresh", help="how new blocks begin")
    parser.add_argument("--patch-frames", type=int, help="latent frames a token (as it is)")
    parser.add_argument("--latent-channels", type=int, help="of another VAE (as it is)")
    parser.add_argument("--vae", help="the VAE to go with it, of a pipeline: folder or hub name")
    parser.add_argument("--sample-size", type=int, help="tokens a side of the size to train at (as it is)")
    parser.add_argument("--qk-norm", type=names, help="axes with QK-norm (the new ones)")
    parser.add_argument("--time-positions", choices=("rotary", "sincos"), help="(as it is, or rotary)")
    parser.add_argument("--text-axes", type=names, help="axes whose blocks read the text (all)")
    parser.add_argument(
        "--text-encoder", help="for a model without text: the encoder it shall read, folder or hub name"
    )
    parser.add_argument(
        "--drop-classes", action="store_true", help="of a model that is told a class, keep the class none"
    )
    parser.add_argument("--fps", type=float, help="frames a second that clips will have, for a pipeline (8)")
    parser.add_argument("--num-frames", type=int, help="frames a clip by default, for a pipeline (17)")
    parser.add_argument("--seed", type=int, default=0, help="of the new weights")
    args = parser.parse_args()
    if args.target.exists():
        print(f"inflate: {args.target} exists; choose another --to, or remove it", file=sys.stderr)
        return 2

    from videodit.codec import VideoCodec
    from videodit.models.growth import grow
    from videodit.pipeline import VideoDiTPipeline, open_model
    from videodit.text import TextEncoder

    try:
        source = open_model(args.source)
        whole = isinstance(source, VideoDiTPipeline)
        vae = VideoCodec.from_pretrained(args.vae).vae if args.vae else source.vae if whole else None
        strides = VideoCodec(vae).strides if vae is not None else None
        text = TextEncoder.from_pretrained(args.text_encoder) if args.text_encoder else None
        fps = args.fps or (source.default_size.fps if whole else None)
        model, report = grow(
            source.transformer if whole else source,
            axes=args.axes,
            time_blocks=args.time_blocks,
            patch_frames=args.patch_frames,
            in_channels=args.latent_channels or (strides.channels if strides else None),
            sample_size=args.sample_size,
            qk_norm=args.qk_norm,
            time_positions=args.time_positions,
            cross_attention_axes=args.text_axes,
            caption_channels=text.width if text else None,
            drop_classes=args.drop_classes,
            sample_fps=fps / strides.time if fps and strides else fps,
            seed=args.seed,
        )
        if strides and strides.channels != model.config.in_channels:
            raise ValueError(
                f"the VAE has {strides.channels} latent channels, --latent-channels {args.latent_channels}"
            )
        if whole:
            source.grown(model, vae, text, num_frames=args.num_frames or 17, fps=fps).save_pretrained(args.target)
        else:
            model.save_pretrained(args.target)
    except (ValueError, OSError) as error:
        print(f"inflate: {error}", file=sys.stderr)
        return 2
    (args.target / "growth.txt").write_text(f"{report}\n")
    print(f"{args.target}: {str(report).splitlines()[0]} (growth.txt)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
