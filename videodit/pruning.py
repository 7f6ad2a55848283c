"""What of a model could be spared: how far its clips move without a block, or without units of its MLPs.

It is measured where it matters, on the way of the model's own sampling: at some noise levels of some clips' walks the
prediction is made again without a part. What changes of it, times how far the walk goes at that level, is how far it
has gone astray there, and what a walk that does go astray so ends with says how much more becomes of that: early, when
all is noise, little decides much. Where a model says the mean it was trained to say, the mean square of what changes is
the rise of its validation loss, without the noise of the data. Blocks are taken greedily: the one without which, beside
those already taken, the least changes (as ShortGPT and BlockPruner do for language models, arXiv 2403.03853 and
2406.10594).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from videodit.diffusion.schedulers import is_flow
from videodit.models.transformer import VideoDiT

Schedule = list[tuple[float, float, list[int]]]  # above the one, to the other noise level, blocks that are left out


@dataclass
class Level:
    """A noise level of a walk: a stretch of steps between `low` and `high` (1 noise, 0 data), and the model's call in
    the middle of it, for all clips. gain: how much farther than there they end astray, as a ratio of mean squares."""

    low: float
    high: float
    call: partial[Any]
    said: Tensor  # b c f h w
    gain: float = 1.0

    @torch.no_grad()
    def moved(self, without: Collection[int]) -> float:
        """How far clips end from where they would, without these blocks in the stretch: the mean square of latents."""
        change = self.call(skip_layers=tuple(without))[0].float() - self.said
        return float(self.gain * (self.high - self.low) ** 2 * change.square().mean())


@torch.no_grad()
def levels_of(pipe: Any, prompts: Sequence[str], levels: int = 6, seed: int = 0, **options: Any) -> list[Level]:
    """The noise levels of the model's own sampling of these prompts, from the first steps on, as many steps in each.

    Args:
        options: of the pipeline's call.

    Raises:
        ValueError: no flow model, no VideoDiT, a feature cache, or fewer steps than levels.
    """
    model = pipe.transformer
    if not isinstance(model, VideoDiT) or not is_flow(pipe.scheduler):
        kind = type(model if not isinstance(model, VideoDiT) else pipe.scheduler).__name__
        raise ValueError(f"what could be spared is measured of a VideoDiT that was trained by flow, not of a {kind}")
    if pipe.transformer_2 is not None:
        raise ValueError("what could be spared is measured of one model, and this pipeline has two experts")
    if model.is_cache_enabled:
        raise ValueError("what could be spared is not measured under a feature cache: take it out")
    calls: list[tuple[float, partial[Any], Tensor]] = []
    forward = model.forward

    def kept(hidden_states: Tensor, timestep: Tensor, *args: Any, **kwargs: Any) -> Any:
        said = forward(hidden_states, timestep, *args, **kwargs)
        kwargs.pop("skip_layers", None)
        call = partial(forward, hidden_states.clone(), timestep, *args, **kwargs)
        calls.append((float(timestep.max()) / pipe.scheduler.config.num_train_timesteps, call, said[0].float()))
        return said

    def walk(skipped: Schedule) -> Tensor:
        generators = [torch.Generator().manual_seed(seed + number) for number in range(len(prompts))]
        return pipe(list(prompts), generator=generators, output_type="latent", skipped_blocks=skipped, **options).frames

    model.forward = kept  # type: ignore[method-assign]
    try:
        end = walk([])
    finally:
        del model.forward
    if not 0 < levels <= len(calls):
        raise ValueError(f"levels={levels}: there are {len(calls)} steps; take 1 to as many")
    edges = [len(calls) * place // levels for place in range(levels + 1)]
    sigmas = [*(sigma for sigma, _, _ in calls), 0.0]
    found = []
    for first, last in pairwise(edges):
        _, call, said = calls[(first + last) // 2]
        level = Level(sigmas[last], sigmas[first], call, said)
        number, moved = next(spared([level], 1, range(len(model.blocks))))
        level.gain = float((walk([(level.low, level.high, [number])]) - end).square().mean()) / max(moved, 1e-12)
        found.append(level)
    return found


def spared(
    levels: Sequence[Level], most: int, blocks: Collection[int], may: Callable[[list[int]], bool] = bool
) -> Iterator[tuple[int, float]]:
    """Blocks that are left out one after the other at all these levels, and how far clips move then.

    may: whether these can be left out together; all can, unless it says so.
    """
    out: list[int] = []
    for _ in range(most):
        open_ = [number for number in blocks if number not in out and may([*out, number])]
        moved = {number: sum(one.moved([*out, number]) for one in levels) for number in open_}
        if not moved:
            return
        number = min(moved, key=lambda one: (moved[one], one))
        out.append(number)
        yield number, moved[number]


def schedule(levels: Sequence[Level], share: float, blocks: Collection[int]) -> tuple[Schedule, float]:
    """Which blocks to leave out at which level, so that of all blocks' calls this share is spared, and how far clips
    move then: always the next block of the level where that moves them least.

    Raises:
        ValueError: a share that would leave some level without a block.
    """
    orders = [list(spared([level], len(blocks) - 1, blocks)) for level in levels]
    wanted, taken = round(share * len(levels) * len(blocks)), [0] * len(levels)
    if not 0 < wanted <= sum(map(len, orders)):
        raise ValueError(f"{share} of the blocks' calls: between one and all but one of each level can be spared")
    before = [[0.0, *(moved for _, moved in order)] for order in orders]
    for _ in range(wanted):
        open_ = [number for number, order in enumerate(orders) if taken[number] < len(order)]
        rise = {number: before[number][taken[number] + 1] - before[number][taken[number]] for number in open_}
        taken[min(rise, key=lambda number: (rise[number], number))] += 1
    found = [
        (level.low, level.high, sorted(number for number, _ in order[:count]))
        for level, order, count in zip(levels, orders, taken, strict=True)
        if count
    ]
    return found, sum(moved[count] for moved, count in zip(before, taken, strict=True))


def units_worth(model: VideoDiT, levels: Sequence[Level]) -> dict[int, Tensor]:
    """Of each block's MLP how much each hidden unit adds to its output, in mean square over all levels: k by block."""
    outs = dict(enumerate(outs_of(model)))
    worth = {number: torch.zeros(out.in_features) for number, out in outs.items()}
    with torch.no_grad(), _watched(outs, worth) as weigh:
        for level in levels:
            weigh[0] = (level.high - level.low) ** 2
            level.call()
    return {number: of * outs[number].weight.detach().float().square().sum(dim=0).cpu() for number, of in worth.items()}


def outs_of(model: VideoDiT) -> list[nn.Linear]:
    """The last layer of each block's MLP."""
    return [block.ff.net[-1] for block in model.blocks]  # type: ignore[union-attr, index, misc]


@contextmanager
def _watched(outs: dict[int, nn.Linear], worth: dict[int, Tensor]) -> Iterator[list[float]]:
    weigh = [1.0]

    def see(number: int, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        worth[number] += weigh[0] * inputs[0].float().square().flatten(0, -2).mean(dim=0).cpu()

    hooks = [out.register_forward_pre_hook(partial(see, number)) for number, out in outs.items()]
    try:
        yield weigh
    finally:
        for hook in hooks:
            hook.remove()
