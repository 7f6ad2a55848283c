"""What a step is conditioned on, and options that must not change what is learned."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers.models.attention import AttentionModuleMixin
from runs import run

from videodit.geometry import Strides
from videodit.training import inputs
from videodit.training.batches import Batch
from videodit.training.loop import changes
from videodit.training.model import build_transformer
from videodit.training.trainer import Trainer

CLIPS = {"num_frames": 9, "image_share": 0.0}


def woken(trainer: Trainer) -> Trainer:
    """With weights all of which matter: at first, the head and the time blocks are silent."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in trainer.weights:
            weight.add_(0.05 * torch.randn(weight.shape, generator=generator).to(weight))
    trainer.raw_model.eval()
    return trainer


def pieces(trainer: Trainer, steps: int) -> list[Batch]:
    return [piece for step in range(steps) for piece in trainer.batches[step]]


@pytest.mark.slow
def test_given_frames_are_clean_and_count_in_no_loss(tmp_path: Path) -> None:
    trainer = woken(Trainer(run(tmp_path, data=CLIPS, objective={"given_frames": {"first": 1.0}})))
    batch = trainer.batches[0][0]
    assert batch.given is not None
    assert batch.given.tolist() == [[True, False, False]] * len(batch.names)
    with torch.no_grad():
        errors = trainer.errors(batch)
        other = batch.noise.clone()
        other[:, :, 0] = 17.0  # the noise of a frame that is given goes nowhere
        assert torch.equal(trainer.errors(dataclasses.replace(batch, noise=other)), errors)
        shown = batch.shown.clone()
        shown[:, :, 0] = 3.0  # but what it shows does
        assert (trainer.errors(dataclasses.replace(batch, shown=shown)) - errors).abs().min() > 1e-4
    torch.manual_seed(1)
    batch = batch.to(trainer.accelerator.device)
    x, t = batch.shown, rearranged(batch.times)
    noisy = (1 - t) * x + t * batch.noise
    noisy[:, :, 0] = x[:, :, 0]
    with torch.no_grad():
        predicted = trainer.raw_model(noisy, 1000 * batch.times, batch.captions, 2.0, batch.given)
    by_hand = ((predicted - (batch.noise - x)) ** 2)[:, :, 1:].mean(dim=(1, 2, 3, 4))
    torch.testing.assert_close(errors, by_hand, rtol=1e-5, atol=1e-6)


def rearranged(times: torch.Tensor) -> torch.Tensor:
    return times.reshape(-1, 1, 1, 1, 1)


@pytest.mark.slow
def test_kinds_of_given_frames_come_in_their_shares(tmp_path: Path) -> None:
    shares = {"first": 0.3, "last": 0.2}
    trainer = Trainer(run(tmp_path, data=CLIPS, objective={"given_frames": shares}))
    rows = torch.cat([piece.given for piece in pieces(trainer, 200) if piece.given is not None])
    kinds = {"first": [True, False, False], "last": [False, False, True], "none": [False] * 3}
    found = {kind: sum(row == mask for row in rows.tolist()) / len(rows) for kind, mask in kinds.items()}
    assert found == pytest.approx({"first": 0.3, "last": 0.2, "none": 0.5}, abs=0.06)


@pytest.mark.slow
def test_frames_have_times_of_their_own_in_the_stated_share(tmp_path: Path) -> None:
    trainer = Trainer(run(tmp_path, data=CLIPS, objective={"frame_times": 0.4}))
    times = torch.cat([piece.times for piece in pieces(trainer, 200)])
    assert times.shape[1] == 3
    own = (times != times[:, :1]).any(dim=1)
    assert float(own.float().mean()) == pytest.approx(0.4, abs=0.06)
    trainer.step(0)


@pytest.mark.slow
def test_longer_and_larger_clips_are_shifted_by_the_root_of_their_tokens(tmp_path: Path) -> None:
    """Of logit-normal times under a shift s the median is s / (1 + s)."""
    trainer = Trainer(run(tmp_path, data=CLIPS, objective={"shift": 3.0, "shift_tokens": 4}))
    half = torch.tensor([0.5], dtype=torch.float64)
    for shape, tokens in (((1, 4, 1, 4, 4), 4), ((1, 4, 3, 4, 4), 12), ((1, 4, 5, 8, 8), 80), ((1, 4, 3, 4, 8), 24)):
        shift = 3.0 * math.sqrt(tokens / 4)
        assert float(trainer.batches.times(half, torch.Size(shape))) == pytest.approx(shift / (1 + shift), rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("every", [True, 2])
def test_checkpointed_blocks_have_the_same_gradients(every: bool | int, tmp_path: Path) -> None:
    gradients, kept = [], []
    for option in (False, every):
        trainer = woken(Trainer(run(tmp_path, data=CLIPS, model={"num_layers": 2, "gradient_checkpointing": option})))
        counted: list[int] = []

        def keep(x: torch.Tensor, counted: list[int] = counted) -> torch.Tensor:
            counted.append(x.nbytes)
            return x

        trainer.raw_model.train()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            errors = trainer.errors(trainer.batches[0][0])
        errors.sum().backward()
        gradients.append(torch.cat([w.grad.flatten() for w in trainer.weights if w.grad is not None]))
        kept.append(sum(counted))
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-7)
    assert kept[1] < (0.35 if every is True else 0.75) * kept[0]


@pytest.mark.slow
def test_a_tracker_that_is_not_installed_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"train\.trackers: trackio is not installed; pip install trackio"):
        Trainer(run(tmp_path, train={"trackers": ["trackio"]})).train()


def test_changes_of_a_configuration_are_listed(tmp_path: Path) -> None:
    before, now = run(tmp_path), run(tmp_path, train={"steps": 9}, data={"fps": 4.0})
    file = tmp_path / "config.json"
    file.write_text(before.model_dump_json())
    assert changes(file, before) == []
    assert changes(file, now) == ["data.fps: 8.0 -> 4.0", "train.steps: 4 -> 9"]
    assert changes(tmp_path / "none.json", now) == []


@pytest.mark.slow
def test_the_best_checkpoints_stay_beside_the_last(tmp_path: Path) -> None:
    train = {"steps": 10, "checkpoint_every": 2, "validate_every": 2, "sample_every": 10, "keep": 1, "keep_best": 1}
    trainer = Trainer(run(tmp_path, train=train))
    scores = iter([5.0, 1.0, 3.0, 2.0, 4.0])
    trainer.validate = lambda: {"validation_loss": next(scores)}
    trainer.train()
    assert sorted(f.name for f in (tmp_path / "checkpoints").iterdir()) == ["step_00000004", "step_00000010"]
    with pytest.raises(ValueError, match="must be a multiple of validate_every=4"):
        run(tmp_path, train={"keep_best": 1})


@pytest.mark.parametrize("backend", [None, "native"])
def test_every_attention_of_a_model_has_the_backend_that_is_named(tmp_path: Path, backend: str | None) -> None:
    config = run(tmp_path, model={"attention_backend": backend})
    text: Any = SimpleNamespace(width=24)
    model = build_transformer(config, Strides(4, 8, 4), text)
    attentions = [module for module in model.modules() if isinstance(module, AttentionModuleMixin)]
    assert len(attentions) > 1
    assert {getattr(module.processor._attention_backend, "value", None) for module in attentions} == {backend}


@pytest.mark.parametrize(("named", "dtype"), [("no", torch.float32), ("bf16", torch.bfloat16)])
def test_clips_are_encoded_in_the_precision_that_is_named_and_come_as_float32(
    tmp_path: Path, named: str, dtype: torch.dtype
) -> None:
    layer, seen = torch.nn.Linear(4, 4), []

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        seen.append(layer(pixels).dtype)
        return layer(pixels)

    codec: Any = SimpleNamespace(vae=layer, encode=encode)
    assert (
        inputs.encode(run(tmp_path, data={"encode_precision": named}), codec, torch.zeros(2, 4)).dtype == torch.float32
    )
    assert seen == [dtype]
