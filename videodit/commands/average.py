"""Another length of average, after training: `videodit average --from runs/shapes --sigma-rel 0.08 --to averaged`.

For a run trained with `train.ema_sigma_rels: [0.05, 0.1]`, which keeps averages with each checkpoint. `--sigma-rel` is
the average's length as a part of the training (Karras et al. 2024, arXiv 2312.02696): best between the stored ones.
"""

from __future__ import annotations

from pathlib import Path

from videodit.command import command
from videodit.config.kinds import Count, Place, SigmaRel, argument
from videodit.terminal import Parser


@command
def main() -> int:
    parser = Parser(__doc__)
    parser.add_argument("--from", dest="source", required=True, type=argument(Place), help="a run's output folder")
    parser.add_argument(
        "--sigma-rel", type=argument(SigmaRel), required=True, help="length of the average, 0.05 to 0.1 are common"
    )
    parser.add_argument(
        "--step", type=argument(Count), help="where it ends: one of the stored steps; the last unless given"
    )
    parser.add_argument("--to", type=argument(Place), required=True, help="a new folder for the pipeline")
    args = parser.parse_args()
    from videodit.exchange import save_whole
    from videodit.training.posthoc import reconstruct

    if Path(args.to).exists():
        raise ValueError(f"{args.to}: exists; choose another --to, or remove it")
    pipe, total = reconstruct(Path(args.source), args.sigma_rel, args.step)
    save_whole(pipe, Path(args.to), {})
    print(f"{args.to} (coefficients sum to {total:.4f})")
    return 0
