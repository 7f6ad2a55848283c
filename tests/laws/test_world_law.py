"""World law: draws are keyed by step and place, never by process; a global batch gives the same losses anywhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import launch
from runs import losses, mixed, train, train_measured, train_with_nan

from videodit.config import Run
from videodit.training import checkpoint, loop
from videodit.training.batches import Batch, Batches
from videodit.training.trainer import Trainer


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, float]]:
    """Three steps on one process."""
    folder = tmp_path_factory.mktemp("alone")
    return folder, train(folder, steps=3, checkpoint_every=2, validate_every=1)


def held_out(folder: Path) -> list[float]:
    """What was measured after each step, of the weights as they are and of their average."""
    lines = [json.loads(line) for line in (folder / "losses.jsonl").read_text().splitlines()]
    return [line[key] for line in lines for key in sorted(line) if key.startswith("validation")]


def apart(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """The difference of two models, relative to one."""
    squares = [((a[name] - b[name]).double().square().sum(), b[name].double().square().sum()) for name in b]
    return float((sum(d for d, _ in squares) / sum(n for _, n in squares)) ** 0.5)


def beside(alone: Path, folder: Path) -> Path:
    for part in ("vae", "latents"):
        shutil.copytree(alone / part, folder / part)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "together", "sharding"), [(2, 1, "none"), (2, 1, "fsdp"), (2, 2, "none"), (4, 2, "fsdp")]
)
def test_world_law_several_processes_have_the_losses_of_one(
    alone: tuple[Path, dict[int, float]], processes: int, together: int, sharding: str, tmp_path: Path
) -> None:
    """Of which `together` share a batch, or each has a part of it."""
    folder = beside(alone[0], tmp_path)
    found = launch(train_measured, folder, sharding, 3, together, processes=processes)
    assert found == processes * [losses(folder)]
    assert list(found[0]) == [1, 2, 3]
    np.testing.assert_allclose([*found[0].values()], [*alone[1].values()], rtol=1e-6)
    np.testing.assert_allclose(held_out(folder), held_out(alone[0]), rtol=1e-5)
    theirs, ours = (checkpoint.load(f / "checkpoints" / "step_00000003")[1] for f in (folder, alone[0]))
    assert apart(theirs["model"], ours["model"]) < 1e-3  # sums in another order, made larger by Muon's bfloat16
    shutil.rmtree(folder / "checkpoints" / "step_00000003")
    on_one = train(folder, steps=3, checkpoint_every=2, validate_every=1)  # goes on from what two have left
    assert list(on_one) == [1, 2, 3]
    np.testing.assert_allclose([*on_one.values()], [*alone[1].values()], rtol=1e-6)


def of(config: Run, trainer: Trainer, step: int, process: tuple[int, int]) -> list[Batch]:
    batches = trainer.batches
    return Batches(config, trainer.train_clips, batches.sampler, trainer.path, batches.strides, batches.patch, process)[
        step
    ]


@pytest.mark.slow
@pytest.mark.parametrize("pieces", [1, 2])
def test_noise_law_each_sample_has_its_own_noise_whatever_the_number_of_processes(
    alone: tuple[Path, dict[int, float]], pieces: int
) -> None:
    config = mixed(alone[0], gradient_accumulation_steps=pieces, caption_dropout=0.5)
    trainer = Trainer(config)
    for step in range(2 * trainer.batches.sampler.steps_per_epoch):
        whole = of(mixed(alone[0], gradient_accumulation_steps=1), trainer, step, (0, 1))[0]
        noise = whole.noise.flatten(1)
        assert len({row.numpy().tobytes() for row in noise}) == len(noise) == whole.total
        for count in (1, 2, 3):
            parts = [piece for index in range(count) for piece in of(config, trainer, step, (index, count))]
            counted = [piece for piece in parts if piece.counts.all()]
            assert {piece.total for piece in parts} == {whole.total}
            assert [name for piece in counted for name in piece.names] == whole.names
            for field in ("shown", "noise", "times", "given"):
                ours = getattr(whole, field)
                if ours is not None:
                    assert torch.equal(torch.cat([getattr(piece, field) for piece in counted]), ours)
            per_process = [len(of(config, trainer, step, (index, count))) for index in range(count)]
            assert len(set(per_process)) == 1  # or one would wait for another


def test_noise_differs_from_step_to_step(alone: tuple[Path, dict[int, float]]) -> None:
    trainer = Trainer(mixed(alone[0]))
    rows = [row.numpy().tobytes() for step in range(20) for piece in trainer.batches[step] for row in piece.noise]
    assert len(set(rows)) == len(rows)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")  # no step is taken, on purpose
def test_accumulation_law_pieces_are_the_whole(alone: tuple[Path, dict[int, float]], tmp_path: Path) -> None:
    """One piece or several, of unequal buckets and batches: the same losses and gradients."""
    found: dict[int, list[torch.Tensor]] = {}
    for pieces in (1, 2, 3):
        trainer = Trainer(mixed(beside(alone[0], tmp_path / str(pieces)), gradient_accumulation_steps=pieces))
        with torch.no_grad():
            for weight in trainer.weights:
                moved = torch.randn(weight.shape, generator=torch.Generator().manual_seed(weight.numel()))
                weight.add_(0.02 * moved.to(weight.device))
        kept: list[torch.Tensor] = []

        def keep(*_: object, trainer: Trainer = trainer, kept: list[torch.Tensor] = kept) -> bool:
            kept.append(torch.cat([w.grad.flatten() for w in trainer.weights if w.grad is not None]))
            return False  # no step: all gradients are at the same weights

        trainer._usable = keep
        found[pieces] = [torch.tensor([next(iter(trainer.step(step).values()))]) for step in range(7)] + kept
    for pieces in (2, 3):
        for ours, whole in zip(found[pieces], found[1], strict=True):
            assert (ours - whole).norm() < 1e-5 * whole.norm()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")  # no step is taken, on purpose
def test_the_loss_is_the_mean_over_the_samples_of_the_global_batch(alone: tuple[Path, dict[int, float]]) -> None:
    trainer = Trainer(mixed(alone[0], gradient_accumulation_steps=2))
    trainer._usable = lambda *_: False  # so that the weights stay, and the model need not be built for each step
    for step in range(7):
        trainer.raw_model.train()
        each = torch.cat([trainer.errors(piece).detach() for piece in trainer.batches[step]])
        assert next(iter(trainer.step(step).values())) == pytest.approx(float(each.double().mean()), rel=1e-6)


@pytest.mark.slow
def test_a_loss_that_is_no_number_stops_all_processes_at_one_step(
    alone: tuple[Path, dict[int, float]], tmp_path: Path
) -> None:
    folder = beside(alone[0], tmp_path)
    trainer = Trainer(mixed(folder))
    steps = [[n for i in range(2) for p in of(mixed(folder), trainer, s, (i, 2)) for n in p.names] for s in range(5)]
    name = steps[2][-1]  # on the second process
    first = next(s for s, names in enumerate(steps) if name in names)
    said = launch(train_with_nan, folder, name)
    assert said[0] == said[1]
    assert f"step {first}: loss nan" in said[0]
    assert said[0].endswith(f"samples: {name}")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")  # the first is passed over
def test_a_loss_that_is_no_number_is_passed_over_where_that_is_asked_for(
    alone: tuple[Path, dict[int, float]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = beside(alone[0], tmp_path)
    trainer = Trainer(mixed(folder, on_nonfinite="skip", steps=20))
    before = {k: v.clone() for k, v in trainer.raw_model.state_dict().items()}
    batch = trainer.batches[0]
    batch[0].shown[0, 0] = float("nan")
    for _ in range(9):
        trainer.step(0, batch)
    after = trainer.raw_model.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert batch[0].names[0] in caplog.text
    with pytest.raises(FloatingPointError, match="step 0: loss nan"):  # ten in a row
        trainer.step(0, batch)


@pytest.mark.slow
def test_a_spike_goes_back_to_the_last_checkpoint_and_is_passed_over(
    alone: tuple[Path, dict[int, float]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "SPIKE_AFTER", 4)
    folder = beside(alone[0], tmp_path)
    config = mixed(folder, steps=9, checkpoint_every=3, keep=9, spike_factor=10.0, validate_every=9, sample_every=9)
    trainer = Trainer(config)
    step, taken = trainer.step, []

    def spiky(number: int, pieces: list[Batch]) -> dict[str, float]:
        taken.append(number)
        assert len(taken) < 20  # one that is not passed over would be gone back from for ever
        values = step(number, pieces)
        if number == 5:
            with torch.no_grad():
                trainer.weights[0].add_(1.0)  # what a spike does to the weights
            values[next(iter(values))] *= 100
        return values

    trainer.step = spiky
    trainer.train()
    assert taken == [*range(6), 3, 4, 6, 7, 8]
    assert list(losses(folder)) == [n + 1 for n in range(9) if n != 5]
    # as if the step had never been: a run that goes on from the checkpoint before, and is told to pass over it
    other = beside(alone[0], tmp_path / "other")
    shutil.copytree(folder / "checkpoints" / "step_00000003", other / "checkpoints" / "step_00000003")
    (other / "passed_over.json").write_text("[5]")
    Trainer(config.model_copy(update={"output": str(other)})).train()
    states = [checkpoint.load(f / "checkpoints" / "step_00000009")[1]["model"] for f in (folder, other)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
