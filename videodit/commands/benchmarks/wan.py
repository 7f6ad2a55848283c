"""What training a Wan takes, by `videodit train --dry-run`: from its configuration alone; nothing is run."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from transformers import UMT5Config

from videodit.config import Run
from videodit.models.formats.files import from_diffusers
from videodit.training.plan import Plan, plan

CARDS = (16, 24, 80)  # GB
FREE = 0.9  # of a card: an allocator's gaps, CUDA itself and the screen take the rest
SHAPES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # of the transformer and its VAE
    "Wan 2.1 1.3B": (
        {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30, "in_channels": 16, "out_channels": 16},
        {},
    ),
    "Wan 2.2 TI2V-5B": (
        {"num_attention_heads": 24, "ffn_dim": 14336, "num_layers": 30, "in_channels": 48, "out_channels": 48},
        {
            "base_dim": 160,
            "decoder_base_dim": 256,
            "z_dim": 48,
            "is_residual": True,
            "in_channels": 12,
            "out_channels": 12,
            "patch_size": 2,
            "scale_factor_spatial": 16,
            "latents_mean": [0.0] * 48,
            "latents_std": [1.0] * 48,
        },
    ),
}
UMT5 = {"vocab_size": 256384, "d_model": 4096, "d_ff": 10240, "num_heads": 64, "num_layers": 24}
TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2"]
AGAIN = {"gradient_checkpointing": True}
FUSED = {"fused_backward": True, "max_grad_norm": None}
AWAY = {"offload": ["activations"]}
CHOICES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # of model: and train:
    "all weights, AdamW": (AGAIN, {}),
    "all weights, adamw8bit, fused_backward": (AGAIN, FUSED | {"optimizer": "adamw8bit"}),
    "all weights, adafactor, fused_backward": (AGAIN, FUSED | {"optimizer": "adafactor"}),
    "LoRA": (AGAIN, {"base": "float32"}),
    "LoRA, bfloat16": (AGAIN, {"base": "bfloat16"}),
    "QLoRA, int8": (AGAIN, {"base": "int8"}),
    "QLoRA, nf4": (AGAIN, {"base": "nf4"}),
    "QLoRA, int8, offload activations": (AGAIN | AWAY, {"base": "int8"}),
    "LoRA, bfloat16, offload activations, blocks": (
        AGAIN | {"offload": ["activations", "blocks"]},
        {"base": "bfloat16"},
    ),
}


def wan_plans() -> list[dict[str, Any]]:
    """A row of a Markdown table for each model and choice; prints as it goes."""
    print(
        "| model, tokens | how | weights | optimizer, averages | peak | " + " | ".join(f"{c} GB" for c in CARDS) + " |"
    )
    print("|---" * (5 + len(CARDS)) + "|", flush=True)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in SHAPES:
            folder = _configurations(Path(scratch) / name.rpartition(" ")[2], *SHAPES[name])
            for how, (model, train) in CHOICES.items():
                found = plan(_config(folder, model, dict(train)))
                rows.append({"model": name, "how": how, "memory": found.memory, "peak": found.peak})
                print(_row(name, how, found), flush=True)
    return rows


def _row(name: str, how: str, found: Plan) -> str:
    memory = found.memory
    sizes = (memory["weights"], memory["optimizer"] + memory["averages"], found.peak)
    fits = ("yes" if found.peak <= FREE * card else "no" for card in CARDS)
    numbers = " | ".join(f"{size:.1f}" for size in sizes)
    return f"| {name}, {found.rows[0].tokens:,} | {how} | {numbers} | {' | '.join(fits)} |"


def _configurations(folder: Path, shape: dict[str, Any], vae: dict[str, Any]) -> Path:
    """A pipeline folder of configurations alone."""
    with torch.device("meta"):
        ours, _ = from_diffusers(WanTransformer3DModel(**shape))
        codec = AutoencoderKLWan(**vae)
    ours.save_config(folder / "transformer")
    codec.save_config(folder / "vae")
    (folder / "text_encoder").mkdir()
    (folder / "text_encoder" / "config.json").write_text(json.dumps(UMT5Config(**UMT5).to_dict()))
    return folder


def _config(folder: Path, model: dict[str, Any], train: dict[str, Any]) -> Run:
    """One clip of 81 frames of 480 x 832 in a step, in bf16."""
    if base := train.pop("base", None):
        train["lora"] = {"rank": 32, "alpha": 32, "targets": TARGETS, "base": base}
    data = {"clips": 2, "validation": 0, "image_share": 0.0, "num_frames": 81, "height": 480, "width": 832, "fps": 16.0}
    return Run.model_validate(
        {
            "output": str(folder / "run"),
            "codec": str(folder),
            "text": {"source": str(folder), "precision": "bf16"},
            "data": data,
            "model": model,
            "train": {"start_from": str(folder), "batch_size": 1, **train},
        }
    )
