"""Averages of weights, made after training: of one run over another length, or of several models.

  videodit average --from runs/mine --sigma-rel 0.08 --to averaged       of a run with train.ema_sigma_rels
  videodit average --from one/pipeline other/pipeline --to averaged      the mean of models that come of one

`--sigma-rel` is the average's length as a part of the training (Karras et al. 2024, arXiv 2312.02696): best between the
stored ones. The mean of several models is often better than each (Wortsman et al. 2022, arXiv 2203.05482), where one
was trained on from the other, or both from a third.
"""

from __future__ import annotations

from pathlib import Path

from videodit.command import command
from videodit.config.kinds import Amount, Count, Place, SigmaRel, argument
from videodit.terminal import Parser


@command
def main() -> int:
    parser = Parser(__doc__)
    parser.add_argument(
        "--from",
        dest="sources",
        nargs="+",
        required=True,
        type=argument(Place),
        metavar="FOLDER",
        help="a run's output folder; or several pipeline folders",
    )
    parser.add_argument(
        "--sigma-rel", type=argument(SigmaRel), help="of a run: length of the average, 0.05 to 0.1 are common"
    )
    parser.add_argument(
        "--step", type=argument(Count), help="of a run: where it ends, one of the stored steps (default: the last)"
    )
    parser.add_argument(
        "--weights", nargs="+", type=argument(Amount), help="of several models: one each, above 0 (default: equal)"
    )
    parser.add_argument("--to", type=argument(Place), required=True, help="a new folder for the pipeline")
    args = parser.parse_args()
    several = len(args.sources) > 1
    if not several and (args.sigma_rel is None or args.weights):
        raise ValueError("--from one run: give --sigma-rel, and no --weights; or name several pipeline folders")
    if several and (args.sigma_rel is not None or args.step is not None):
        raise ValueError("--sigma-rel and --step are of one run: name its output folder alone, or leave them out")
    from videodit.exchange import save_whole
    from videodit.training.posthoc import mean_of, reconstruct

    if Path(args.to).exists():
        raise ValueError(f"{args.to}: exists; choose another --to, or remove it")
    if several:
        save_whole(mean_of(args.sources, args.weights), Path(args.to), {})
        print(args.to)
        return 0
    pipe, total = reconstruct(Path(args.sources[0]), args.sigma_rel, args.step)
    save_whole(pipe, Path(args.to), {})
    print(f"{args.to} (coefficients sum to {total:.4f})")
    return 0
