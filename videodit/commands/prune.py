"""What of a model could be spared, and a model without it.

    videodit prune --from DIR --prompts prompts.txt                              how much each block matters, and when
    videodit prune --from DIR --prompts prompts.txt --to DIR --blocks 6          the six blocks that matter most
    videodit prune --from DIR --prompts prompts.txt --to DIR --mlp-ratio 2       MLPs twice as wide as the model
    videodit prune --from DIR --prompts prompts.txt --to DIR --save 0.25         all blocks, of which a quarter is left
                                                                                 out by noise level when sampling

It is measured on the model's own way from noise to clips of these prompts. A model of fewer blocks or units is to be
trained on: with `train.start_from: DIR` and `train.distill: {teacher: THE WHOLE MODEL}` it learns from the whole one.
"""

from __future__ import annotations

from pathlib import Path

from videodit.command import command
from videodit.config.kinds import Amount, Place, Positive, Seed, Share, argument
from videodit.terminal import Parser


@command
def main() -> int:
    parser = Parser(__doc__)
    parser.add_argument("--from", dest="source", required=True, type=argument(Place), help="a pipeline folder")
    parser.add_argument("--prompts", required=True, type=argument(Place), help="a file of prompts, as sample reads it")
    parser.add_argument("--to", type=argument(Place), help="the folder to write; must not exist yet")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--blocks", type=argument(Positive), help="how many blocks are left")
    how.add_argument("--mlp-ratio", type=argument(Amount), help="hidden units of an MLP by the model's width")
    how.add_argument("--save", type=argument(Share), help="share of the blocks' calls that sampling leaves out")
    parser.add_argument("--levels", type=argument(Positive), default=6, help="noise levels that are told apart (6)")
    parser.add_argument("--count", type=argument(Positive), default=16, help="prompts that are looked at (16)")
    parser.add_argument("--seed", type=argument(Seed), default=0, help="of the first clip (0)")
    args = parser.parse_args()
    wants = [name for name in ("blocks", "mlp_ratio", "save") if getattr(args, name) is not None]
    if bool(wants) != bool(args.to):
        raise ValueError("--to goes with one of --blocks, --mlp-ratio and --save")
    if args.to and Path(args.to).exists():
        raise ValueError(f"{args.to} exists; choose another --to, or remove it")

    from videodit import pruning
    from videodit.clipset.requests import read_requests
    from videodit.commands.worlds import load_pipeline
    from videodit.exchange import save_whole
    from videodit.memory import place
    from videodit.models.pruned import why_not, with_narrower_mlp, without_blocks

    prompts = [request.prompt for request in read_requests(args.prompts)][: args.count]
    pipe = load_pipeline(args.source)
    pipe.set_progress_bar_config(disable=True)
    place(pipe, "none")
    model, blocks = pipe.transformer, range(len(pipe.transformer.units))
    levels = pruning.levels_of(pipe, prompts, args.levels, args.seed)
    if not wants:
        print(table(model, levels))
        return 0
    if args.save is not None:
        found, moved = pruning.schedule(levels, args.save, blocks)
        pipe.register_to_config(default_skipped_blocks=[list(one) for one in found])
        for low, high, out in found:
            print(f"noise {low:.3f} to {high:.3f}: without {', '.join(map(str, out))}")
    elif args.blocks is not None:
        if not args.blocks < len(blocks):
            raise ValueError(f"--blocks {args.blocks}: this model has {len(blocks)}; name fewer")
        most = len(blocks) - args.blocks
        order = list(pruning.spared(levels, most, blocks, lambda out: not why_not(model, out)))
        if len(order) < most:
            raise ValueError(f"--blocks {args.blocks}: of this model {len(blocks) - len(order)} must stay at least")
        out, moved = sorted(number for number, _ in order), order[-1][1]
        pipe.transformer = without_blocks(model, out)
        pipe.register_to_config(default_skipped_blocks=None)  # whose numbers are of the whole model
        print(f"without blocks {', '.join(f'{number} ({model.blocks[number].axis})' for number in out)}")
    else:
        worth, width = pruning.units_worth(model, levels), pruning.outs_of(model)[0].out_features
        count, had = round(args.mlp_ratio * width), len(worth[0])
        if not 0 < count < had:
            raise ValueError(f"--mlp-ratio {args.mlp_ratio}: this model has {had / width:g}; name less, above 0")
        kept = {number: of.topk(count).indices.sort().values for number, of in worth.items()}
        lost = sum(float(of.sum() - of[kept[number]].sum()) for number, of in worth.items())
        moved = lost / sum(float(of.sum()) for of in worth.values())
        pipe.transformer = with_narrower_mlp(model, kept)
        print(f"{count} of {had} units of each MLP are left; the others were {100 * moved:.2f} % of what MLPs add")
    save_whole(pipe, Path(args.to), {})
    if args.mlp_ratio is None:
        print(f"clips end {moved**0.5:.2f} of the spread of latents from where they would, by estimate")
    print(args.to)
    return 0


def table(model: object, levels: list) -> str:  # type: ignore[type-arg]
    """By block and noise level, in per cent: the change of the prediction without it, as a share of what it says."""
    head = "".join(f"{f'{one.high:.3f}-{one.low:.3f}':>14}" for one in levels)
    lines = [f"change of the prediction without a block, %, by noise level\n{'block':14}{head}"]
    for number, block in enumerate(model.blocks):  # type: ignore[attr-defined]
        shares = (
            100 * (one.moved([number]) / one.gain / (one.high - one.low) ** 2 / one.said.square().mean().item()) ** 0.5
            for one in levels
        )
        lines.append(f"{number:3} {block.axis:10}" + "".join(f"{share:14.1f}" for share in shares))
    gains = "".join(f"{one.gain**0.5:14.2f}" for one in levels)
    return "\n".join([*lines, f"{'grows by':14}{gains}   (from there to the clip's end)"])
