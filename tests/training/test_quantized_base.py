"""Adapters on weights that are kept in fewer bits (QLoRA): trained, gone on with, saved and merged."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import BitsAndBytesConfig
from diffusers.utils import is_bitsandbytes_available, is_torchao_available
from processes import launch
from runs import equal, losses, run
from tiny import awaken, tiny_dit
from torch import nn

from videodit import VideoDiT, VideoDiTPipeline
from videodit.commands.benchmarks.devices import peak_memory
from videodit.config import ConfigError, Lora, load_config
from videodit.models import quantized
from videodit.training import checkpoint
from videodit.training.model import add_lora
from videodit.training.trainer import Trainer

needs_torchao = pytest.mark.skipif(not is_torchao_available(), reason="needs torchao")
LORA = {"rank": 3, "alpha": 6, "targets": ["attn1.to_q", "to_out.0"]}
CONFIG = "output: {}\ntrain: {{start_from: shapes, sharding: {}, lora: {{base: {}}}}}\n"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    Trainer(run(folder, train={"optimizer": "muon", "steps": 3, "checkpoint_every": 9})).train()
    model = VideoDiT.from_pretrained(folder / "pipeline", subfolder="transformer")
    awaken(model, scale=0.02).save_pretrained(folder / "pipeline" / "transformer")
    return folder


def adapted(base: Path, folder: Path, kept: str, **train: Any) -> Any:
    for part in ("vae", "latents"):
        shutil.copytree(base / part, folder / part, dirs_exist_ok=True)
    start = {"start_from": str(base / "pipeline"), "lora": {**LORA, "base": kept}, "learning_rate": 0.02}
    return run(folder, train={**start, "ema_decay": 0.0, "log_every": 1, "schedule": "constant", **train})


def rounded(weight: torch.Tensor) -> torch.Tensor:
    """What int8 by rows stands for: 255 even steps, the largest at 127 (symmetric, one scale a row)."""
    scale = weight.abs().amax(dim=1, keepdim=True) / 127.5
    return (weight / scale).round().clamp(-128, 127) * scale


@needs_torchao
@pytest.mark.slow
@pytest.mark.parametrize("kept", ["int8", "fp8", "bfloat16"])
def test_adapters_on_fewer_bits_resume_exactly_and_are_saved_as_others_are(
    base: Path, tmp_path: Path, kept: str
) -> None:
    trainer = Trainer(adapted(base, tmp_path / "one", kept))
    names = {name for name, weight in trainer.raw_model.named_parameters() if weight.requires_grad}
    assert all(weight.dtype == torch.float32 for weight in trainer.weights)
    folder = trainer.train()
    Trainer(adapted(base, tmp_path / "two", kept, steps=2)).train()
    Trainer(adapted(base, tmp_path / "two", kept)).train()
    ends = [checkpoint.load(checkpoint.list_checkpoints(tmp_path / run / "checkpoints")[-1]) for run in ("one", "two")]
    assert equal(*ends)
    assert losses(tmp_path / "one") == losses(tmp_path / "two")
    assert set(ends[0][1]["model"]) == names  # the base is no part of it

    plain = VideoDiT.from_pretrained(base / "pipeline", subfolder="transformer")
    x = torch.randn(2, 4, 2, 4, 4), torch.tensor([300.0, 900.0]), torch.randn(2, 5, 24)
    with torch.no_grad():
        alone = plain(*x).sample
        plain.load_lora_adapter(folder / "lora", prefix=None, weight_name="pytorch_lora_weights.safetensors")
        beside = plain(*x).sample
        merged = VideoDiT.from_pretrained(folder, subfolder="transformer")(*x).sample
    assert (beside - alone).abs().max() > 1e-3
    torch.testing.assert_close(merged, beside, rtol=1e-5, atol=1e-5)  # into the weights as they were, not as rounded
    assert VideoDiTPipeline.from_pretrained(folder).transformer.dtype == torch.float32


@pytest.mark.slow
@needs_torchao
def test_the_base_is_what_int8_stands_for_and_losses_are_near_those_of_floats(base: Path, tmp_path: Path) -> None:
    trainers = [Trainer(adapted(base, tmp_path / kept, kept)) for kept in ("float32", "int8")]
    ours, eighth = (dict(trainer.raw_model.transformer.named_parameters()) for trainer in trainers)
    fewer = [name for name, weight in eighth.items() if hasattr(weight, "dequantize") and weight.ndim == 2]
    fewer = [name for name in fewer if type(eighth[name]) is not nn.Parameter]
    linear = {name for name, _ in quantized.quantizable(VideoDiT.from_pretrained(base / "pipeline/transformer"))}
    assert {name.removesuffix(".weight").removesuffix(".base_layer") for name in fewer} == linear
    for name in fewer:
        torch.testing.assert_close(eighth[name].dequantize(), rounded(ours[name]), rtol=1e-2, atol=1e-3)
    found = [trainer.step(0) for trainer in trainers]
    (kind,) = {*found[0], *found[1]} - {"grad_norm"}
    assert found[0][kind] == pytest.approx(found[1][kind], rel=0.05)
    assert found[0]["grad_norm"] == pytest.approx(found[1]["grad_norm"], rel=0.2)


@needs_torchao
def test_a_row_of_zeros_is_no_number_in_fp8_and_that_is_told(tmp_path: Path) -> None:
    model = tiny_dit()
    with torch.no_grad():
        model.blocks[1].ff.net[2].weight[3] = 0
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"blocks\.1\.ff\.net\.2\.weight is not finite.*a row of zeros.*take int8"):
        VideoDiT.from_pretrained(tmp_path, quantization_config=quantized.quantization("fp8", ""), dtype=torch.float32)


@needs_torchao
@pytest.mark.slow
def test_a_checkpoint_on_other_weights_is_refused(base: Path, tmp_path: Path) -> None:
    Trainer(adapted(base, tmp_path / "run", "int8", steps=2)).train()
    other = tmp_path / "other"
    shutil.copytree(base / "pipeline", other / "pipeline")
    model = VideoDiT.from_pretrained(other / "pipeline", subfolder="transformer")
    with torch.no_grad():
        model.blocks[0].ff.net[2].weight.mul_(1.5)
    model.save_pretrained(other / "pipeline" / "transformer")
    for kept, start in (("int8", other), ("bfloat16", base)):
        config = adapted(base, tmp_path / "run", kept, start_from=str(start / "pipeline"))
        with pytest.raises(ValueError, match=r"step_00000002: its adapters are on other weights, .*train\.start_from"):
            Trainer(config).train()


def two_processes(base: Path, folder: Path) -> dict[int, float]:
    Trainer(adapted(base, folder, "int8", batch_size=4)).train()
    return losses(folder)


@needs_torchao
@pytest.mark.slow
def test_two_processes_have_the_losses_of_one(base: Path, tmp_path: Path) -> None:
    for part in ("vae", "latents"):
        shutil.copytree(base / part, tmp_path / "two" / part)
    one = two_processes(base, tmp_path / "one")
    two, _ = launch(two_processes, base, tmp_path / "two")
    assert two == pytest.approx(one, rel=1e-4)


def test_what_fewer_bits_need_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("torchao", "bitsandbytes"):
        monkeypatch.setattr(quantized, f"is_{package}_available", lambda: False)
    for kind, extra in (("int8", "quantize"), ("fp8", "quantize"), ("nf4", "nf4")):
        with pytest.raises(ValueError, match=rf"^train\.lora\.base: {kind} needs .*pip install 'videodit\[{extra}\]'$"):
            quantized.quantization(kind, f"train.lora.base: {kind}")
    monkeypatch.setattr(quantized, "is_bitsandbytes_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"nf4 needs an accelerator \(a GPU\), and none is here"):
        quantized.quantization("nf4", "--quantize nf4")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    if not is_bitsandbytes_available():
        monkeypatch.setattr(BitsAndBytesConfig, "post_init", lambda self: None)  # asks for the package's version
    found = quantized.quantization("nf4", "--quantize nf4", torch.bfloat16)
    assert isinstance(found, BitsAndBytesConfig)
    assert (found.load_in_4bit, found.bnb_4bit_quant_type, found.bnb_4bit_compute_dtype) == (
        True,
        "nf4",
        torch.bfloat16,
    )


def test_fewer_bits_are_of_adapters_and_not_split(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    for sharding, kept, said in (
        ("fsdp", "int8", "train: Value error, lora.base: int8 is not split by sharding: fsdp|lora.base: int8 is not"),
        ("none", "int4", "train.lora.base: must be 'float32', 'bfloat16', 'int8', 'fp8' or 'nf4'"),
    ):
        file.write_text(CONFIG.format(tmp_path / "run", sharding, kept))
        with pytest.raises(ConfigError, match=said):
            load_config(file)
    file.write_text(f"output: {tmp_path / 'run'}\ntrain: {{base: int8}}\n")
    with pytest.raises(ConfigError, match=r"train\.base: unknown key"):
        load_config(file)


@pytest.mark.slow
def test_prompts_are_encoded_first_and_clips_sampled_one_by_one(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an encoder that is not trained, so that it and the rest need not be on a device together; the same clips."""
    prompts = ["a red circle moving left", "a blue star"]
    trainer = Trainer(adapted(base, tmp_path, "float32", prompts=prompts))
    calls: list[dict[str, Any]] = []
    call = VideoDiTPipeline.__call__

    def watched(self: VideoDiTPipeline, *args: Any, **kwargs: Any) -> Any:
        calls.append({**kwargs, "given": args, "frames": (made := call(self, *args, **kwargs)).frames})
        return made

    monkeypatch.setattr(VideoDiTPipeline, "__call__", watched)
    trainer.sample(0)
    assert [one["prompt_embeds"].shape[0] for one in calls] == [1, 1]
    assert all(not one["given"] and "prompt" not in one for one in calls)
    monkeypatch.undo()
    with trainer.averaged_pipeline(to_save=False) as pipe:
        pipe.to(trainer.accelerator.device)
        together = pipe(prompts, generator=[torch.Generator().manual_seed(i) for i in range(2)]).frames
    for one, frames in zip(calls, together, strict=True):
        assert abs(one["frames"][0] - frames).max() < 1e-4


@pytest.mark.slow
def test_under_autocast_adapters_keep_no_input_of_their_own_and_give_the_same_numbers(base: Path) -> None:
    """Against peft's own way, which casts to the adapters' float32 first: bit for bit, in less memory."""
    found, peaks = [], []
    for precision in ("bf16", "no"):
        model = VideoDiT.from_pretrained(base / "pipeline", subfolder="transformer")
        torch.manual_seed(0)
        add_lora(model, Lora(rank=2, targets=["to_out.0", "ff.net.2"]), precision)
        for name, weight in model.named_parameters():
            if ".lora_B" in name:
                nn.init.normal_(weight)
        torch.manual_seed(1)
        x = torch.randn(1, 4, 3, 32, 32), torch.tensor([300.0]), torch.randn(1, 5, 24)

        def step(model: VideoDiT = model, x: tuple[torch.Tensor, ...] = x) -> None:
            with torch.autocast("cpu", torch.bfloat16):
                loss = model(*x).sample.float().square().mean()
            loss.backward()

        peaks.append(peak_memory(step, torch.device("cpu"))[0])
        found.append({name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None})
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    assert peaks[0] < 0.95 * peaks[1]
