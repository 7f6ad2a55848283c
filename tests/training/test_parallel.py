"""Several processes: what they compute together is what one computes alone (the world law), split either way."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from accelerate import PartialState
from processes import launch
from tiny import tiny_dit, tiny_pipeline
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from videodit.training import parallel
from videodit.training.optimizer import Muon, build_optimizers

SAMPLES, MAX_NORM = 5, 0.5


class Small(nn.Module):
    """A stand-in for `training.model.Model`: a transformer, and a text encoder of which a part is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.text = nn.Embedding(7, 24)
        self.frozen = nn.Linear(24, 24).requires_grad_(False)
        self.transformer = tiny_dit()

    def forward(self, noisy: Tensor, times: Tensor, words: Tensor) -> Tensor:
        states = self.frozen(self.text(words))
        return self.transformer(noisy, times, states, torch.ones_like(words, dtype=torch.bool), return_dict=False)[0]


class Result(NamedTuple):
    processes: int
    losses: list[float]
    norms: list[float]
    weights: dict[str, Tensor]
    sharded: int
    states: int  # of the optimizers, that step 1 changed


def global_batch(step: int) -> tuple[Tensor, ...]:
    """Five samples of clips; in step 1 of images, which skip the `time` blocks."""
    generator = torch.Generator().manual_seed(step)
    frames = 1 if step == 1 else 3
    noisy, target = torch.randn(2, SAMPLES, 4, frames, 4, 4, generator=generator, dtype=torch.float64)
    times = torch.rand(SAMPLES, generator=generator, dtype=torch.float64)
    return noisy, times, torch.randint(7, (SAMPLES, 3), generator=generator), target


def share() -> slice:
    """Three and two samples of five; alone, all."""
    state = PartialState()
    bounds = {1: (0, SAMPLES), 2: (0, 3, SAMPLES)}[state.num_processes]
    return slice(bounds[state.process_index], bounds[state.process_index + 1])


def train(split: str) -> Result:
    """Three steps, in double precision, so that only a wrong formula can show."""
    state = PartialState()
    torch.manual_seed(0)
    model = Small().double().train()
    if split == "fsdp":
        parallel.shard(model, model.transformer.blocks, "cpu")
    run: nn.Module = model
    if split == "ddp":
        run = DistributedDataParallel(model, find_unused_parameters=True)
    weights = [p for p in model.parameters() if p.requires_grad]
    inner = [m.weight for m in model.transformer.blocks.modules() if isinstance(m, nn.Linear)]
    optimizers = build_optimizers(weights, inner, 1e-2, (0.9, 0.99), 0.1)
    losses, norms = [], []
    for step in range(3):
        noisy, times, words, target = (x[share()] for x in global_batch(step))
        errors = (run(noisy, times, words) - target).square().mean(dim=(1, 2, 3, 4))
        (errors.sum() * state.num_processes / SAMPLES).backward()
        norm = parallel.total_norm_clip(weights, MAX_NORM)
        assert type(norm) is Tensor
        norms.append(float(norm))
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        losses.append(float(parallel.sum_over_processes(errors.detach().sum())) / SAMPLES)
        if step == 1:
            moved = sum(float(s["step"]) == 2 for s in optimizers[0].state.values())
    full = {k: v.full_tensor() if isinstance(v, DTensor) else v for k, v in model.state_dict().items()}
    sharded = sum(isinstance(p, DTensor) for p in model.parameters())
    return Result(state.num_processes, losses, norms, full, sharded, moved)


@pytest.fixture(scope="module")
def alone() -> Result:
    return train("none")


@pytest.mark.slow
@pytest.mark.parametrize("split", ["ddp", "fsdp"])
def test_world_law_two_processes_train_as_one_does(alone: Result, split: str) -> None:
    """With AdamW and Muon, an unequal split of the samples, and a step of images in between."""
    for result in launch(train, split):
        assert result.processes == 2
        assert result.losses == pytest.approx(alone.losses, rel=1e-9)
        assert result.norms == pytest.approx(alone.norms, rel=1e-9)
        assert min(result.norms) > MAX_NORM  # all were clipped
        assert result.sharded == (len(list(Small().parameters())) if split == "fsdp" else 0)
        assert result.states == alone.states < len(alone.weights)  # `time` blocks sat out the images
        assert result.weights.keys() == alone.weights.keys()
        for name, weight in alone.weights.items():
            torch.testing.assert_close(result.weights[name], weight, rtol=1e-6, atol=1e-9, msg=name)


def tell() -> tuple[list[float], list[bool], list[str], str]:
    rank = PartialState().process_index
    sums = [float(parallel.sum_over_processes(torch.tensor(x, dtype=torch.float64))) for x in (rank + 1, 0.5)]
    flags = [parallel.any_process(flag) for flag in (False, rank == 1, True)]
    words = parallel.gather_strings([f"{rank}", "x"][: 1 + rank])
    try:
        with parallel.all_or_none("eating"):
            if rank == 1:
                raise KeyError("no fork")
    except Exception as error:
        return sums, flags, words, f"{type(error).__name__}: {error}"
    return sums, flags, words, "went on"


@pytest.mark.slow
def test_processes_tell_each_other_and_fail_together() -> None:
    answers = launch(tell)
    assert [answer[:3] for answer in answers] == 2 * [([3.0, 1.0], [False, True, True], ["0", "1", "x"])]
    assert answers[0][3] == "RuntimeError: eating: another process failed, see its message"
    assert answers[1][3] == "KeyError: 'no fork'"


def test_one_process_alone_needs_no_group() -> None:
    assert tell() == ([1.0, 0.5], [False, False, True], ["0"], "went on")


def test_the_norm_is_that_of_all_weights_together_and_clips_them() -> None:
    weights = [nn.Parameter(torch.zeros(2)) for _ in range(3)]
    weights[0].grad, weights[1].grad = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])
    assert float(parallel.total_norm_clip(weights, 1.0)) == 5.0
    torch.testing.assert_close(weights[0].grad, torch.tensor([0.6, 0.0]))


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5)])
def test_muon_is_torchs_muon_on_matrices(shape: tuple[int, int]) -> None:
    ours, theirs = (nn.Parameter(torch.ones(shape)) for _ in range(2))
    muons = Muon([ours], 0.1, 0.3), torch.optim.Muon([theirs], 0.1, 0.3, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        ours.grad = torch.randn(shape)
        theirs.grad = ours.grad.clone()
        for muon in muons:
            muon.step()
    assert torch.equal(ours, theirs)


def test_muon_steps_a_kernel_as_a_matrix_of_its_outputs() -> None:
    kernel, matrix = nn.Parameter(torch.ones(6, 2, 3, 1)), nn.Parameter(torch.ones(6, 6))
    optimizer = Muon([kernel, matrix], 0.1, 0.3)
    kernel.grad = torch.randn(6, 2, 3, 1)
    matrix.grad = kernel.grad.flatten(1).clone()
    assert optimizer.step(lambda: 7.0) == 7.0
    assert torch.equal(kernel.flatten(1), matrix)
    optimizer.zero_grad()
    assert kernel.grad is None


def test_state_from_the_start_is_what_the_first_gradient_would_make() -> None:
    """AdamW as torch makes it, lazily: equal bits; and a weight without a gradient stays as it is, uncounted."""
    ours, theirs = ([nn.Parameter(torch.ones(3, 2)), nn.Parameter(torch.ones(2))] for _ in range(2))
    optimizer = build_optimizers(ours, [], 0.1, (0.9, 0.99), 0.2)[0]
    reference = torch.optim.AdamW(theirs[:1], 0.1, betas=(0.9, 0.99), weight_decay=0.2, fused=True)
    structure = [sorted(values) for values in optimizer.state_dict()["state"].values()]
    for _ in range(3):
        ours[0].grad = torch.randn(3, 2)
        theirs[0].grad = ours[0].grad.clone()
        optimizer.step()
        reference.step()
    assert torch.equal(ours[0], theirs[0])
    state, expected = optimizer.state_dict()["state"], reference.state_dict()["state"]
    assert [sorted(values) for values in state.values()] == structure
    for name, value in expected[0].items():
        assert state[0][name].dtype == value.dtype
        assert torch.equal(state[0][name], value)
    assert torch.equal(ours[1], torch.ones(2))
    assert not any(value.any() for value in state[1].values())


def sample(split: bool) -> tuple[Tensor, int]:
    """A clip of a pipeline, and how many of its model's weights lie in parts."""
    torch.manual_seed(0)
    pipe = tiny_pipeline()
    if split:
        parallel.shard(pipe.transformer, pipe.transformer.blocks, "cpu")
    clip = pipe("a red circle", num_inference_steps=2, output_type="latent", generator=torch.Generator().manual_seed(0))
    return clip.frames, sum(isinstance(weight, DTensor) for weight in pipe.transformer.parameters())


@pytest.mark.slow
def test_a_pipeline_samples_with_a_transformer_whose_weights_lie_in_parts() -> None:
    expected, none = sample(False)
    for clip, parts in launch(sample, True):
        assert parts > none == 0
        torch.testing.assert_close(clip, expected, rtol=0, atol=1e-5)
