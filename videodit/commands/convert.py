"""Rewrites a model in another form.

  videodit convert --from PIPELINE --to DIR                       diffusers' Wan, AnyFlow, Latte ... -> VideoDiTPipeline
  videodit convert --from wan2.1_t2v.safetensors --to DIR         a project's own weights -> VideoDiT
  videodit convert --from DIR --to DIR --format wan               ours -> diffusers' class, where the structure allows
  videodit convert --from DIR --to wan.safetensors --format wan   ours -> the project's own names, as ComfyUI reads them
  videodit convert --from DIR --to DIR --dtype float16            half the size on disk
  videodit convert --from DIR --to DIR --control NAME             a branch of it alone, for others of its model
  videodit convert --verify DIR                                   nothing: are all its weights whole and as saved?

A model in half precision becomes float32 again when loaded (`VideoDiTPipeline.from_pretrained(folder)`), unless
`dtype` says otherwise. In bfloat16, whose eight bits are too few for them, what embeds times stays float32 (of a
Wan that comes in, as much of it as its own class keeps).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from videodit.command import command
from videodit.config.kinds import Amount, File, Place, Positive, argument
from videodit.terminal import Parser

# of `videodit.models.formats`: diffusers' classes, and files by the projects' own names
FORMATS = ("dit", "pixart", "latte", "wan", "anyflow", "stdit3")


@command
def main() -> int:
    parser = Parser(__doc__)
    parser.add_argument(
        "--from",
        dest="source",
        type=argument(Place),
        help="a pipeline or transformer: folder, hub name, checkpoint file",
    )
    parser.add_argument(
        "--to", dest="target", type=argument(File), help="the folder or .safetensors to write; must not exist yet"
    )
    parser.add_argument(
        "--verify",
        metavar="DIR",
        type=argument(Place),
        help="read a folder's weights: whole, finite, and as their checksums say",
    )
    parser.add_argument("--control", metavar="NAME", help="write a branch alone: what a condition of that name tells")
    parser.add_argument("--format", choices=("videodit", *FORMATS), default="videodit", help="(videodit)")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), default="float32", help="of the weights")
    parser.add_argument(
        "--num-attention-heads", type=argument(Positive), help="of a checkpoint file of no published width"
    )
    parser.add_argument(
        "--interpolation-scale", type=argument(Amount), help="of a checkpoint file of no published size"
    )
    parser.add_argument(
        "--sample-size", type=argument(Positive), help="of a checkpoint file without positions: tokens a side"
    )
    parser.add_argument(
        "--partial", action="store_true", help="of a checkpoint file take what fits: the rest fresh, or left out"
    )
    args = parser.parse_args()
    if (args.verify is None) == (args.source is None or args.target is None):
        parser.error("give --from and --to, or --verify alone")
    if args.verify is not None:
        return verified(args.verify)
    if args.target.exists():
        raise ValueError(f"{args.target} exists; choose another --to, or remove it")
    if args.control is not None and (args.format != "videodit" or args.partial or args.target.suffix):
        raise ValueError("--control writes a folder: leave --format and --partial out, and name --to without an ending")
    if args.target.suffix == ".safetensors" and args.format == "videodit":
        raise ValueError("a single file has a project's own names: give --format wan, or another")
    import torch

    from videodit import VideoDiTPipeline
    from videodit.exchange import halve, is_checkpoint, open_model, pipeline_to_diffusers, save_file, save_whole
    from videodit.models.branches import save_control
    from videodit.models.formats.files import to_diffusers

    unsaid = ("num_attention_heads", "interpolation_scale", "sample_size", "partial")
    file = {name: getattr(args, name) for name in unsaid}
    if args.sample_size and not is_checkpoint(args.source):
        raise ValueError(f"--sample-size is of a project's own checkpoint, and {args.source} is none; leave it out")
    model, report = open_model(args.source, dtype=getattr(torch, args.dtype), **file)
    if args.dtype == "float16":
        halve(model)
    if args.control is not None:
        whole: Any = getattr(model, "transformer", model)
        save_control(whole, args.control, args.target)
    elif args.target.suffix == ".safetensors":
        save_file(model, args.format, args.target)
    else:
        if args.format != "videodit":
            back = pipeline_to_diffusers if isinstance(model, VideoDiTPipeline) else to_diffusers
            model = back(model, args.format)
        save_whole(model, args.target, {"conversion.txt": f"{report}\n"} if report.copied else {})
    if report.copied:
        print(str(report).splitlines()[0] + (" (conversion.txt)" if args.target.is_dir() else ""))
    print(args.target)
    return 0


def verified(name: str) -> int:
    from videodit.disk import SUMS
    from videodit.packaged import named_folder
    from videodit.weights import verify

    folder = Path(named_folder(name))
    files, tensors = verify(folder)
    known = "and its files are those that were saved" if (folder / SUMS).is_file() else f"but it has no {SUMS}"
    print(f"{folder}: {tensors} tensors in {files} files are whole and finite, {known}")
    return 0
