"""Is a dry run right about memory? Steps of the trainer itself, under each choice that makes them smaller."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import is_peft_available, is_torchao_available
from torch import Tensor

from videodit.commands.benchmarks.devices import peak_memory
from videodit.commands.benchmarks.turns import Disagreement
from videodit.config import Run
from videodit.models.quantized import plain_parts
from videodit.models.transformer import VideoDiT
from videodit.pipeline import VideoDiTPipeline
from videodit.training.plan import plan
from videodit.training.trainer import Trainer

RIGHT = 0.15  # of the measured peak
LORA = {"rank": 8, "targets": ["to_q", "to_k", "to_v", "to_out.0"]}
AGAIN = {"gradient_checkpointing": True}
CHOICES: dict[str, dict[str, dict[str, Any]]] = {
    "AdamW": {},
    "AdamW, checkpointed": {"model": AGAIN},
    "AdamW in 8 bits": {"model": AGAIN, "train": {"optimizer": "adamw8bit"}},
    "Adafactor": {"model": AGAIN, "train": {"optimizer": "adafactor"}},
    "fused backward": {"model": AGAIN, "train": {"fused_backward": True, "max_grad_norm": None}},
    "LoRA": {"train": {"lora": LORA}},
    "LoRA, checkpointed": {"model": AGAIN, "train": {"lora": LORA}},
    "QLoRA int8": {"train": {"lora": LORA | {"base": "int8"}}},
    "QLoRA int8, checkpointed": {"model": AGAIN, "train": {"lora": LORA | {"base": "int8"}}},
}


def measure_plans(*, quick: bool = False) -> list[dict[str, Any]]:
    """On the CPU, in float32; prints as it goes. Disagreement: a plan is off by more than RIGHT."""
    print(f"\n{'MB of a process, trainer':32}{'planned':>10}{'measured':>10}{'ratio':>8}")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        base = _base(Path(scratch), quick)
        for number, (name, choice) in enumerate(CHOICES.items()):
            config = _config(Path(scratch) / str(number), base, choice, quick)
            if _needs(config):
                print(f"  {name:30}  left out: {_needs(config)} is not installed")
                continue
            said = round(1e9 * plan(config).peak)
            measured = _measured(config)
            rows.append({"name": name, "planned_bytes": said, "measured_bytes": measured, "ratio": said / measured})
            print(f"  {name:30}{said / 1e6:10.1f}{measured / 1e6:10.1f}{said / measured:8.3f}")
    wrong = [row["name"] for row in rows if abs(row["ratio"] - 1) > RIGHT]
    if wrong:
        raise Disagreement(f"--dry-run is off by more than {RIGHT:.0%} of the memory of: {', '.join(wrong)}")
    return rows


def _base(folder: Path, quick: bool) -> Path:
    """A pipeline of the packaged VAE and text encoder, and a larger transformer with random weights."""
    pipe = VideoDiTPipeline.shipped("shapes")
    ours = {key: pipe.transformer.config[key] for key in ("in_channels", "caption_channels", "sample_size")}
    shape = {"num_layers": 1} if quick else {"num_layers": 4, "num_attention_heads": 8, "attention_head_dim": 64}
    pipe.register_modules(transformer=VideoDiT(**ours, **shape))
    pipe.save_pretrained(folder / "base")
    return folder / "base"


def _config(folder: Path, base: Path, choice: dict[str, dict[str, Any]], quick: bool) -> Run:
    data = {"clips": 8 if quick else 24, "validation": 0, "image_share": 0.0, "num_frames": 9 if quick else 17}
    train: dict[str, Any] = {
        "start_from": str(base),
        "batch_size": 2 if quick else 12,
        "precision": "no",
        "trackers": [],
    }
    return Run.model_validate(
        {
            "output": str(folder),
            "codec": "shapes",
            "latents": str(folder.parent / "latents"),
            "text": {"source": "shapes"},
            "data": data,
            "model": choice.get("model", {}),
            "train": train | choice.get("train", {}),
        }
    )


def _needs(config: Run) -> str:
    """A package that is not here."""
    train = config.train
    if train.lora and not is_peft_available():
        return "peft"
    coded = train.optimizer == "adamw8bit" or (train.lora is not None and train.lora.base == "int8")
    return "torchao" if coded and not is_torchao_available() else ""


def _measured(config: Run) -> int:
    """What is held between steps, and the most that a step, after the first, takes beside it."""
    trainer = Trainer(config)
    trainer.step(0)
    states = [optimizer.state_dict()["state"] for optimizer in trainer.raw_optimizers]
    lasting = [*trainer.raw_model.state_dict().values(), *_tensors(states), *trainer.average.averages]
    held = sum(part.nbytes for tensor in lasting for _, part in plain_parts("", tensor))
    peak, _ = peak_memory(partial(trainer.step, 1), torch.device("cpu"))
    return held + peak


def _tensors(state: Any) -> Iterator[Tensor]:
    if isinstance(state, Tensor):
        yield state
    for value in state.values() if isinstance(state, dict) else state if isinstance(state, list) else ():
        yield from _tensors(value)
