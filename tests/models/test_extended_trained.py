"""A `TimeExtended` of every family, trained for a step or two: its adapters, and how it goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from families import MODELS, loud, tiny_image_model, told
from family_pipelines import stable_pipeline
from safetensors.torch import load_file
from torch import Tensor

from videodit import extend_in_time
from videodit.config import Lora
from videodit.models.extended import TimeExtended
from videodit.training import checkpoint
from videodit.training.model import add_lora

EVERY = pytest.mark.parametrize("name", MODELS)


def extended(name: str) -> TimeExtended:
    model = TimeExtended(tiny_image_model(name))
    loud(model.blocks)
    return model


def predicted(model: TimeExtended, name: str, seed: int = 2, frames: int = 2) -> Tensor:
    latents = torch.randn(2, model.in_channels, frames, 8, 8, generator=torch.Generator().manual_seed(seed))
    return model(latents, torch.tensor([300.0, 700.0]), **told(name, model.image), return_dict=False)[0]


@EVERY
def test_round_trip_law_adapters_of_image_and_time_are_saved_and_loaded(name: str, tmp_path: Path) -> None:
    model = extended(name)
    own, plain = {key for key, _ in model.image.named_modules()}, predicted(model, name).detach()
    layer = "attention.to_q" if name == "Z-Image" else "to_q"
    add_lora(model, Lora(rank=2, alpha=4, targets=["to_q"]))
    for key, weight in model.named_parameters():
        if ".lora_B." in key:
            torch.nn.init.normal_(weight, std=0.1, generator=torch.Generator().manual_seed(len(key)))
    wanted = predicted(model, name).detach()
    assert not torch.allclose(wanted, plain, atol=1e-3)
    model.save_lora_adapter(tmp_path)
    again = extended(name)
    again.load_lora_adapter(tmp_path)
    torch.testing.assert_close(predicted(again, name), wanted, atol=1e-6, rtol=1e-5)
    part = "unet." if name == "UNet" else "transformer."
    (file,) = tmp_path.glob("*.safetensors")
    layers = {key.removeprefix(part).rpartition(".lora_")[0] for key in load_file(file)}
    time = {key for key in layers if key.startswith("time_blocks." if name == "HunyuanDiT" else "blocks.")}
    assert layers - time <= own  # by the image model's own names
    assert any(key.endswith(layer) for key in layers - time)
    assert len(time) >= len(model.blocks)


@pytest.mark.slow
@EVERY
def test_resume_law_a_model_that_was_saved_and_loaded_goes_on_as_if_it_had_not_been(name: str, tmp_path: Path) -> None:
    def begun() -> tuple[TimeExtended, Any]:
        model = extended(name)
        model.checkpoint_units(1)
        return model, torch.optim.AdamW(model.parameters(), 0.01)

    def step(model: TimeExtended, optimizer: Any, seed: int) -> None:
        optimizer.zero_grad()
        predicted(model, name, seed).square().mean().backward()
        optimizer.step()

    def state(model: TimeExtended, optimizer: Any) -> dict[str, Any]:
        return {"model": model.state_dict(), "optimizer": optimizer.state_dict()}

    whole = begun()
    step(*whole, 1)
    saved = checkpoint.save(tmp_path, 1, state(*whole), keep=1)
    step(*whole, 2)
    model, optimizer = begun()
    _, loaded = checkpoint.load(saved)
    model.load_state_dict(loaded["model"])
    optimizer.load_state_dict(loaded["optimizer"])
    step(model, optimizer, 2)
    for key, weight in whole[0].state_dict().items():
        assert torch.equal(model.state_dict()[key], weight), key


def test_stable_diffusion_takes_an_adapter_that_was_trained_on_clips_and_gives_its_own(tmp_path: Path) -> None:
    """Its files say `unet.` where others say `transformer.`."""
    ours: Any = extend_in_time(stable_pipeline(), num_frames=2)
    theirs = stable_pipeline()
    add_lora(ours.transformer, Lora(rank=2, alpha=4, targets=["attn2.to_q"]))
    ours.transformer.save_lora_adapter(tmp_path / "ours")
    theirs.load_lora_weights(tmp_path / "ours")
    adapted = {key for key, part in theirs.unet.named_modules() if "default_0" in getattr(part, "lora_A", {})}
    assert adapted
    assert all(key.endswith("attn2.to_q") for key in adapted)
    theirs.save_lora_weights(tmp_path / "theirs", unet_lora_layers=unet_layers(theirs.unet))
    again: Any = extend_in_time(stable_pipeline(), num_frames=2)
    again.load_lora_weights(tmp_path / "theirs")
    layers = {key for key, part in again.transformer.named_modules() if "default_0" in getattr(part, "lora_A", {})}
    assert layers == {f"image.{key}" for key in adapted}


def unet_layers(unet: Any) -> dict[str, Tensor]:
    from peft.utils import get_peft_model_state_dict

    return get_peft_model_state_dict(unet, adapter_name="default_0")
