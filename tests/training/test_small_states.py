"""Optimizers with small states, and the step in the midst of backward: exact, resumed exactly, and as small as said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.utils import is_torchao_available
from runs import equal, losses, mixed, run
from torch import nn

from videodit.commands.benchmarks.devices import peak_memory
from videodit.config import ConfigError, load_config
from videodit.training import checkpoint, optimizer
from videodit.training.optimizer import build_optimizers
from videodit.training.trainer import Trainer

KINDS = [
    pytest.param("adamw8bit", marks=pytest.mark.skipif(not is_torchao_available(), reason="needs torchao")),
    "adafactor",
]


def stepped(kind: str, weights: list[nn.Parameter], gradients: list[list[torch.Tensor]], rate: float = 0.01) -> Any:
    (found,) = build_optimizers(weights, [], rate, (0.9, 0.99), 0.1, kind=kind)
    for each in gradients:
        for weight, gradient in zip(weights, each, strict=True):
            weight.grad = gradient
        found.step()
    return found


def test_adafactor_is_that_of_the_paper() -> None:
    """Shazeer & Stern 2018, algorithm 4, with beta2 of 7.2, at a rate of its own, decoupled decay; in numpy."""
    rng = np.random.default_rng(0)
    start, gradients = rng.standard_normal((6, 8)), rng.standard_normal((3, 6, 8))
    weight, rate, rows, columns = start.copy(), 0.01, np.zeros(6), np.zeros(8)
    for t, gradient in enumerate(gradients, 1):
        beta = 1 - t**-0.8
        rows = beta * rows + (1 - beta) * (gradient**2 + 1e-30).mean(1)
        columns = beta * columns + (1 - beta) * (gradient**2 + 1e-30).mean(0)
        update = gradient / np.sqrt(np.outer(rows, columns) / rows.mean())
        update /= max(1.0, float(np.sqrt((update**2).mean())))
        weight = weight - rate * 0.1 * weight - rate * update
    ours = nn.Parameter(torch.tensor(start, dtype=torch.float32))
    stepped("adafactor", [ours], [[torch.tensor(g, dtype=torch.float32)] for g in gradients], rate)
    torch.testing.assert_close(ours.detach().double(), torch.tensor(weight), rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(not is_torchao_available(), reason="needs torchao")
def test_8_bits_step_nearly_as_adamw_and_small_weights_exactly() -> None:
    large, small = torch.randn(64, 256), torch.randn(16, 16)
    gradients = [[torch.randn_like(large), torch.randn_like(small)] for _ in range(5)]
    moved = {}
    for kind in ("adamw", "adamw8bit"):
        weights = [nn.Parameter(large.clone()), nn.Parameter(small.clone())]
        stepped(kind, weights, [[g.clone() for g in each] for each in gradients])
        moved[kind] = [w.detach() - start for w, start in zip(weights, (large, small), strict=True)]
    exact, coded = moved["adamw"], moved["adamw8bit"]
    torch.testing.assert_close(coded[1], exact[1], rtol=1e-4, atol=1e-6)
    assert 0 < float((coded[0] - exact[0]).norm() / exact[0].norm()) < 0.1


def bytes_of(state: Any) -> int:
    if isinstance(state, torch.Tensor):
        parts = state.__tensor_flatten__()[0] if hasattr(state, "__tensor_flatten__") else ()
        return sum(bytes_of(getattr(state, part)) for part in parts) or state.nbytes
    values = state.values() if isinstance(state, dict) else state if isinstance(state, list | tuple) else ()
    return sum(map(bytes_of, values))


@pytest.mark.parametrize(("kind", "share"), [("adamw8bit", 0.27), ("adafactor", 0.01)])
def test_states_are_small_and_whole_from_the_start(kind: str, share: float) -> None:
    """Against AdamW's eight bytes a number; what a checkpoint holds does not wait for a weight's first gradient."""
    if kind == "adamw8bit" and not is_torchao_available():
        pytest.skip("needs torchao")
    weights = [nn.Parameter(torch.randn(512, 1024)), nn.Parameter(torch.randn(1024))]
    (fresh,) = build_optimizers(weights, [], 0.01, (0.9, 0.99), 0.1, kind=kind)
    before = fresh.state_dict()["state"]
    layout = {n: {key: getattr(x, "shape", None) for key, x in state.items()} for n, state in before.items()}
    assert bytes_of(before) <= share * 8 * sum(w.numel() for w in weights) + 2 * 4 * 1024 + 4096
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    fresh.step()
    after = fresh.state_dict()["state"]
    assert {n: {key: getattr(x, "shape", None) for key, x in s.items()} for n, s in after.items()} == layout
    assert bytes_of(after) == bytes_of(before)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_small_states_are_gone_on_with_bit_for_bit(tmp_path: Path, kind: str) -> None:
    """In the midst of an epoch, after images that skip the time blocks; and at another rate, which is the config's."""
    how = {"optimizer": kind, "ema_sigma_rels": [], "validate_every": 9, "sample_every": 9, "checkpoint_every": 2}
    Trainer(mixed(tmp_path / "one", steps=4, **how)).train()
    Trainer(mixed(tmp_path / "two", steps=2, **how)).train()
    Trainer(mixed(tmp_path / "two", steps=4, **how)).train()
    ends = [checkpoint.load(checkpoint.list_checkpoints(tmp_path / run / "checkpoints")[-1]) for run in ("one", "two")]
    assert equal(*ends)
    assert losses(tmp_path / "one") == losses(tmp_path / "two")
    slower = Trainer(mixed(tmp_path / "two", steps=5, learning_rate=1e-5, **how))
    slower.train()
    assert {group["lr"] for group in slower.raw_optimizers[0].param_groups} == {1e-5}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["adamw", "muon", *KINDS])
def test_a_step_in_the_midst_of_backward_is_the_same_step(tmp_path: Path, kind: str) -> None:
    """Bit for bit in weights, states and losses, and to the order of a sum in the gradient's norm."""
    how = {"optimizer": kind, "max_grad_norm": None, "gradient_accumulation_steps": 1, "ema_sigma_rels": []}
    plain, fused = (Trainer(mixed(tmp_path / str(on), fused_backward=on, **how)) for on in (False, True))
    for step in range(3):
        expected, found = plain.step(step), fused.step(step)
        assert found.pop("grad_norm") == pytest.approx(expected.pop("grad_norm"), rel=1e-5)
        assert found == expected
    ours, theirs = (trainer.state() for trainer in (plain, fused))
    for part in ("model", "average"):
        assert equal(ours[part], theirs[part])
    for one, other in zip(ours["optimizers"], theirs["optimizers"], strict=True):
        assert equal(plain_state(one["state"]), plain_state(other["state"]))


def plain_state(state: Any) -> Any:
    return {n: {k: x.dequantize() if hasattr(x, "codes") else x for k, x in s.items()} for n, s in state.items()}


@pytest.mark.slow
def test_gradients_are_freed_as_they_come(tmp_path: Path) -> None:
    """Where weights are most of what a step holds, the peak is less by nearly all gradients but the largest."""
    peaks = []
    for fused in (False, True):
        small = {"num_frames": 1, "clips": 4, "validation": 0, "image_share": 0.0}
        config = run(
            tmp_path / str(fused),
            data=small,
            model={"num_layers": 4, "mlp_ratio": 4.0, "axes": ["space"]},
            train={"batch_size": 1, "max_grad_norm": None, "fused_backward": fused, "ema_decay": 0.0},
        )
        trainer = Trainer(config)
        trainer.step(0)
        peaks.append(peak_memory(lambda trainer=trainer: trainer.step(1), torch.device("cpu"))[0])
    gradients = [4 * w.numel() for w in trainer.weights]
    assert peaks[0] - peaks[1] > 0.7 * (sum(gradients) - max(gradients))


@pytest.mark.parametrize(
    ("train", "said"),
    [
        ("fused_backward: true", r"against max_grad_norm=1\.0; set it to null"),
        ("fused_backward: true, max_grad_norm: null, gradient_accumulation_steps: 2", "steps=2; set it to 1"),
        ("fused_backward: true, max_grad_norm: null, on_nonfinite: skip", "on_nonfinite=skip; set it to stop"),
        ("fused_backward: true, max_grad_norm: null, precision: fp16", "precision=fp16; set it to bf16"),
        ("fused_backward: true, max_grad_norm: null, sharding: fsdp", "fused_backward is not split by sharding: fsdp"),
        ("optimizer: adamw8bit, sharding: fsdp", "optimizer: adamw8bit is not split by sharding: fsdp"),
        ("optimizer: adafactor, sharding: fsdp", "optimizer: adafactor is not split by sharding: fsdp"),
    ],
)
def test_what_does_not_go_together_is_named(tmp_path: Path, train: str, said: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(f"output: {tmp_path / 'run'}\ntrain: {{{train}}}\n")
    with pytest.raises(ConfigError, match=said):
        load_config(file)


def test_8_bits_without_torchao_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizer, "is_torchao_available", lambda: False)
    with pytest.raises(ValueError, match=r"adamw8bit needs torchao: pip install 'videodit\[quantize\]'"):
        build_optimizers([nn.Parameter(torch.ones(2))], [], 0.1, (0.9, 0.99), 0.1, kind="adamw8bit")
