"""What a step's error and a look at held-out clips are made of."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from runs import run
from tiny import awaken
from torch import Tensor, nn

from videodit.diffusion import objectives
from videodit.diffusion.paths import DiffusionPath, FlowPath
from videodit.geometry import ClipSize
from videodit.pipeline import VideoDiTPipeline
from videodit.training import measure
from videodit.training.trainer import Trainer

STEPS = 500


def loss_of(prediction: Tensor, *parts: Tensor, learned: bool, counted: Tensor | None = None) -> Tensor:
    """`Trainer.loss` of a run that predicts epsilon, on a path of `STEPS` steps."""
    path = DiffusionPath.from_scheduler(DDIMScheduler(num_train_timesteps=STEPS))
    objective = SimpleNamespace(learned_range=learned, prediction_type="epsilon", min_snr_gamma=None)
    trainer: Any = SimpleNamespace(config=SimpleNamespace(objective=objective), path=path)
    return Trainer.loss(trainer, prediction, *parts, counted)


def test_a_learned_range_adds_the_variational_term_in_thousandths_of_the_path() -> None:
    """Nichol & Dhariwal 2021, eq. 16: L_simple + 0.001 L_vlb, which sums over all T steps; of frames that count."""
    x0, noise, said, v = torch.randn(4, 2, 3, 4, 2, 2)
    path = DiffusionPath.from_scheduler(DDIMScheduler(num_train_timesteps=STEPS))
    t, counted = torch.tensor([0, 300]), torch.tensor([[True, False, True, True], [True, True, False, False]])
    noisy = path.add_noise(x0, noise, t)
    both = loss_of(torch.cat([said, v], dim=1), x0, noise, noisy, t, learned=True, counted=counted)
    simple = loss_of(said, x0, noise, noisy, t, learned=False, counted=counted)
    squares = ((said - noise) ** 2).mean(dim=(1, 3, 4))
    torch.testing.assert_close(simple, (squares * counted).sum(dim=1) / counted.sum(dim=1))
    vlb = objectives.vlb_loss(path, "epsilon", said, v, x0, noisy, t, counted)
    assert (vlb > 0).all()
    torch.testing.assert_close(both - simple, vlb * STEPS * 0.001, rtol=1e-4, atol=1e-5)


def with_dropout(text_encoder: nn.Module) -> None:
    """Half of what passes any of its dropouts is dropped where it is trained."""
    layers = [module for module in text_encoder.modules() if isinstance(module, nn.Dropout)]
    assert layers
    for layer in layers:
        layer.p = 0.5


@pytest.mark.slow
def test_a_text_encoder_drops_nothing_in_a_step_in_validation_or_in_a_sample(tmp_path: Path) -> None:
    """Its dropout would draw from a generator that runs on: no step could be taken again, no clip made again."""
    plain, dropping = Trainer(run(tmp_path)), Trainer(run(tmp_path))
    with_dropout(dropping.raw_model.text.text_encoder)
    for trainer in (plain, dropping):
        awaken(trainer.raw_model.transformer)  # so that the text reaches its output
        trainer.raw_model.train()
    assert dropping.step(0) == plain.step(0)
    dropping.raw_model.train()
    assert dropping.validate() == plain.validate()


def test_a_pipelines_text_encoder_drops_nothing(tiny_pipe: VideoDiTPipeline) -> None:
    before = [(module, module.p) for module in tiny_pipe.text_encoder.modules() if isinstance(module, nn.Dropout)]
    expected = tiny_pipe.encode_prompt("a red circle")[0]
    try:
        with_dropout(tiny_pipe.text_encoder)
        tiny_pipe.text_encoder.train()
        assert torch.equal(tiny_pipe.encode_prompt("a red circle")[0], expected)
    finally:
        for module, p in before:
            module.p = p


@pytest.mark.parametrize(("path", "last"), [(FlowPath(), 1.0), (None, 1000)])
def test_held_out_clips_are_measured_at_the_middles_of_equal_parts_of_time(path: Any, last: float) -> None:
    """Clips of one size share out [0, 1] among them, whatever batches and processes they are in."""
    path = path or DiffusionPath.from_scheduler(DDIMScheduler())
    sizes = [ClipSize(5, 16, 16, 8.0), ClipSize(1, 16, 16, 8.0)]
    samples = [
        SimpleNamespace(
            size=sizes[i % 3 == 2], name=str(i), is_image=i % 3 == 2, captions=("a",), image_captions=("b",)
        )
        for i in range(9)
    ]

    class Latents(list):
        def __getitem__(self, key: Any) -> Tensor:
            return torch.zeros(2, 1, 2, 2)

        def told(self, number: int, image: bool) -> dict[str, Tensor]:
            return {}

    latents: Any = Latents(range(9))
    latents.samples = samples
    for processes in (1, 2):
        found: dict[str, float] = {}
        for process in range(processes):
            batches = measure.held_out_batches(latents, {sizes[0]: 4, sizes[1]: 2}, path, 0, (process, processes))
            for batch in batches:
                if batch.counts.all():
                    found |= dict(zip(batch.names, batch.times.tolist(), strict=True))
        clips = [found[str(i)] for i in range(9) if i % 3 != 2]
        images = [found[str(i)] for i in range(9) if i % 3 == 2]
        assert clips == pytest.approx([last * (i + 0.5) / 6 for i in range(6)], abs=1e-6 if last == 1 else 1)
        assert images == pytest.approx([last * (i + 0.5) / 3 for i in range(3)], abs=1e-6 if last == 1 else 1)


@pytest.mark.parametrize("steps", [None, 40, 1000])
def test_losses_are_means_over_what_counts_and_told_apart_by_quarters_of_time(steps: int | None) -> None:
    """Of flow (None), or of a path of so many steps; a quarter in which nothing lies is left out."""
    path: Any = FlowPath()
    if steps is not None:
        path = DiffusionPath.from_scheduler(DDIMScheduler(num_train_timesteps=steps))
    shares = torch.tensor([[0.0, 0.2], [0.25, 0.3], [0.8, 0.9], [1.0, 0.1]])  # of time, two samples a batch
    times = shares if steps is None else (shares * steps).long().clamp(max=steps - 1)
    counts = torch.tensor([[1.0, 1.0], [1.0, 1.0], [1.0, 1.0], [1.0, 0.0]])  # the last fills a place
    each = torch.tensor([[1.0, 2.0], [3.0, 5.0], [7.0, 11.0], [13.0, float("nan")]])
    batches: Any = [
        SimpleNamespace(times=t, counts=c, number=i) for i, (t, c) in enumerate(zip(times, counts, strict=True))
    ]
    found = measure.losses(lambda batch: each[batch.number], iter(batches), path)
    assert found == pytest.approx({"all": 6.0, "t0": 1.5, "t1": 4.0, "t3": (7 + 11 + 13) / 3})
