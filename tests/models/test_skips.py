"""Long skips: silent at first, from a block to its like on the other side of the middle, and nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from videodit.models.checks import check_route
from videodit.models.formats.table import ConversionError
from videodit.models.growth import grow
from videodit.models.pruned import without_blocks
from videodit.models.transformer import VideoDiT

from ..tiny import awaken, tiny_dit


def call(model: VideoDiT, frames: int = 3, **how: Any) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    latents, text = torch.randn(2, 4, frames, 4, 4, generator=draw), torch.randn(2, 3, 24, generator=draw)
    return model(latents, torch.tensor([300.0, 700.0]), encoder_hidden_states=text, **how).sample


def silent(layers: int) -> VideoDiT:
    """Awake, but for its skips."""
    model = tiny_dit(num_layers=layers, skips="long")
    for linear in model.skip_projections.values():
        torch.nn.init.zeros_(linear.bias)
        linear.weight.data = torch.eye(32, 64)
    return model


@pytest.mark.parametrize("layers", [2, 3, 5])
def test_silence_law_of_long_skips(layers: int) -> None:
    with_skips = silent(layers)
    plain = VideoDiT(**{**with_skips.config, "skips": None})
    plain.load_state_dict({k: v for k, v in with_skips.state_dict().items() if not k.startswith("skip_")})
    for frames in (3, 1):
        torch.testing.assert_close(call(with_skips, frames), call(plain.eval(), frames))
    grown, _ = grow(plain, axes=("space", "time"), skips="long")
    torch.testing.assert_close(call(grown), call(plain))
    fresh = VideoDiT(4, num_layers=2, num_attention_heads=2, attention_head_dim=16, skips="long")
    assert all(torch.equal(linear.weight, torch.eye(32, 64)) for linear in fresh.skip_projections.values())


@pytest.mark.parametrize("layers", [2, 3, 4])
def test_a_block_sees_what_was_behind_its_like(layers: int) -> None:
    """Its input is the states before it and, times a number, those that its like in the first half gave."""
    model, inputs, outputs = silent(layers), {}, {}
    for number, block in enumerate(model.blocks):
        block.register_forward_pre_hook(lambda _, args, number=number: inputs.__setitem__(number, args[0].clone()))
        block.register_forward_hook(lambda _, args, out, number=number: outputs.__setitem__(number, out.clone()))
    pairs = {layer * 2 + i: (layers - 1 - layer) * 2 + i for layer in range((layers + 1) // 2, layers) for i in (0, 1)}
    assert model.long_skips == pairs
    for number, linear in model.skip_projections.items():
        linear.weight.data = torch.cat([torch.eye(32), (int(number) + 1) * torch.eye(32)], dim=1)
    with torch.no_grad():
        call(model)
    for number in range(1, 2 * layers):
        wanted = outputs[number - 1]
        if number in pairs:
            wanted = wanted + (number + 1) * outputs[pairs[number]]
        torch.testing.assert_close(inputs[number], wanted)


def test_gradients_saving_and_left_out_blocks(tmp_path: Path) -> None:
    model = tiny_dit(skips="long")
    wanted = call(model)
    wanted.square().mean().backward()
    assert all(linear.weight.grad[:, 32:].abs().max() > 0 for linear in model.skip_projections.values())
    model.checkpoint_units(1)
    torch.testing.assert_close(call(model.train()), wanted)
    model.checkpoint_units(0)
    assert call(model, skip_layers=[1, 2]).isfinite().all()
    model.save_pretrained(tmp_path)
    again = VideoDiT.from_pretrained(tmp_path)
    assert torch.equal(call(again), call(model.eval()))
    assert again.config.skips == "long"


def test_what_cannot_be_says_why() -> None:
    model = awaken(VideoDiT(4, num_layers=4, num_attention_heads=2, attention_head_dim=16, skips="long"))
    for config in ({"skips": "short"}, {"skips": "long", "num_layers": 1}):
        with pytest.raises(ValueError, match="skips="):
            VideoDiT(4, **config)
    with pytest.raises(ValueError, match="no states for long skips"):
        check_route(model)
    with pytest.raises(ValueError, match="look back to others"):
        without_blocks(model, [1])
    with pytest.raises(ConversionError, match="between blocks of a number"):
        grow(model, num_layers=5)
