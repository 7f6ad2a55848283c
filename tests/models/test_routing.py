"""Token routing: which places the middle blocks see, and what becomes of the others."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import awaken, tiny_dit

from videodit.models.transformer import VideoDiT


def inputs() -> dict[str, Any]:
    draw = torch.Generator().manual_seed(1)
    told = {"hidden_states": torch.randn(2, 4, 3, 8, 8, generator=draw), "timestep": torch.tensor([100.0, 800.0])}
    return told | {"encoder_hidden_states": torch.randn(2, 5, 24, generator=draw)}


def model(**config: Any) -> VideoDiT:
    return awaken(tiny_dit(num_layers=3, **config)).eval()


def test_all_places_in_their_order_change_nothing() -> None:
    wide, x = model(), inputs()
    torch.testing.assert_close(wide(**x, routed=torch.arange(16).expand(2, 16)).sample, wide(**x).sample)


@pytest.mark.parametrize("axes", [("space", "time"), ("joint",)])
def test_the_middle_blocks_see_the_kept_places_alone_and_the_others_pass_them_by(axes: tuple[str, ...]) -> None:
    """The same, block by block, of tokens that are taken apart by a mask, each clip by itself."""
    one, x, kept = model(axes=axes), inputs(), torch.tensor([[0, 3, 7, 12], [1, 2, 9, 15]])
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    for block in one.blocks:
        block.register_forward_hook(lambda _, args, out: seen.append((args[0].clone(), out.clone())))
    one(**x, routed=kept)
    first, last = len(axes), len(one.blocks) - len(axes)
    before, middle, after = seen[first - 1][1], seen[first:last], seen[last][0]
    assert {states.shape for states, _ in middle} == {(2, 3, 4, before.shape[3])}
    for clip, places in enumerate(kept):
        stays = torch.zeros(16, dtype=torch.bool)
        stays[places] = True
        if axes == ("space", "time"):  # else places in time are added before the first block
            torch.testing.assert_close(middle[0][0][clip], before[clip][:, stays])
        torch.testing.assert_close(after[clip][:, stays], middle[-1][1][clip])
        torch.testing.assert_close(after[clip][:, ~stays], before[clip][:, ~stays])


def test_a_routed_clip_is_the_same_alone_and_among_others() -> None:
    one, x, kept = model(), inputs(), torch.tensor([[0, 3, 7, 12], [1, 2, 9, 15]])
    both = one(**x, routed=kept).sample
    for row in range(2):
        alone = one(**{name: value[row : row + 1] for name, value in x.items()}, routed=kept[row : row + 1]).sample
        torch.testing.assert_close(alone, both[row : row + 1], atol=1e-5, rtol=1e-5)


def test_every_weight_learns_from_a_routed_step() -> None:
    one = model().train()
    one(**inputs(), routed=torch.tensor([[0, 3], [1, 2]])).sample.square().mean().backward()
    assert [name for name, weight in one.named_parameters() if weight.grad is None or not weight.grad.any()] == []


@pytest.mark.parametrize(
    ("config", "routed", "message"),
    [
        ({"num_layers": 2}, torch.zeros(2, 4, dtype=torch.long), "num_layers above 2"),
        ({"num_layers": 3, "time_positions": "grid"}, torch.zeros(2, 4, dtype=torch.long), "turned"),
        ({"num_layers": 3}, torch.zeros(3, 4, dtype=torch.long), "routed has shape"),
        ({"num_layers": 3}, torch.zeros(2, 4), "float32"),
    ],
)
def test_what_cannot_be_routed_is_named(config: dict[str, Any], routed: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_dit(**config)(**inputs(), routed=routed)
