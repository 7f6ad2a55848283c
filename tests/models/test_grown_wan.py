"""A Wan that was grown: adapters of Wan fit it, and it goes back to Wan where its structure is Wan's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel
from peft import LoraConfig
from tiny import awaken
from torch import Tensor

from videodit.models.adapters import adapter_pairs
from videodit.models.formats.files import from_diffusers, to_diffusers
from videodit.models.growth import grow
from videodit.models.transformer import VideoDiT

SHAPE: dict[str, Any] = {"num_attention_heads": 2, "attention_head_dim": 20, "in_channels": 4, "out_channels": 4}
SHAPE |= {"text_dim": 12, "freq_dim": 32, "ffn_dim": 60, "num_layers": 2}


def wan() -> WanTransformer3DModel:
    torch.manual_seed(0)
    return awaken(WanTransformer3DModel(**SHAPE), scale=0.1)


def call(model: Any) -> Tensor:
    g = torch.Generator().manual_seed(1)
    x, text = torch.randn(1, 4, 3, 4, 6, generator=g), torch.zeros(1, 512, 12)
    text[:, :5] = torch.randn(1, 5, 12, generator=g)
    with torch.no_grad():
        return model(x, torch.tensor([303.0]), text).sample


def grown(axes: tuple[str, ...], **more: Any) -> VideoDiT:
    model, _ = from_diffusers(wan())
    return grow(model, axes=axes, sample_fps=4.0, **more)[0]


@pytest.mark.parametrize("growth", [{"axes": ("joint",)}, {"axes": ("window",), "window": (9, 9, 9)}])
def test_an_adapter_of_wan_does_to_a_grown_one_what_it_does_to_wan(growth: dict[str, Any]) -> None:
    theirs, ours = wan(), grown(**growth)
    torch.testing.assert_close(call(ours), call(theirs), rtol=1e-4, atol=1e-5)
    theirs.add_adapter(LoraConfig(r=3, lora_alpha=5, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    awaken(theirs, seed=3, scale=0.0)
    with torch.no_grad():
        for name, weight in theirs.named_parameters():
            if ".lora_" in name:
                weight.copy_(0.2 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(len(name))))
    state = {}
    for layer, pair in adapter_pairs(theirs, "default").items():
        state |= {f"transformer.{layer}.lora_A.weight": pair.down, f"transformer.{layer}.lora_B.weight": pair.up}
    meta = {"r": 3, "lora_alpha": 5, "target_modules": ["to_q", "to_k", "to_v", "to_out.0"]}
    ours.load_lora_adapter(state, metadata=meta)
    assert (call(theirs) - call(grown(**growth))).norm() > 0.1
    torch.testing.assert_close(call(ours), call(theirs), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("layers", [2, 3])
def test_a_grown_wan_of_its_structure_goes_back(layers: int) -> None:
    ours = grown(("joint",), num_layers=layers)
    torch.testing.assert_close(call(to_diffusers(ours, "wan")), call(ours), rtol=1e-4, atol=1e-5)
