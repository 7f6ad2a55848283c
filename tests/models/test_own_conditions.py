"""What a model is told besides: silent at first, nothing where it is not told, and there in all that is made of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from videodit.models import Condition
from videodit.models.formats.files import to_checkpoint
from videodit.models.formats.table import ConversionError
from videodit.models.growth import grow
from videodit.models.pruned import without_blocks
from videodit.models.transformer import VideoDiT

from ..tiny import awaken, tiny_dit

DEPTH, CAMERA = Condition("depth", "channels", 3), Condition("camera", "vectors", 2, of="numbers")
LOUD = Condition("loud", "vectors", 1, per="frame", of="numbers")
PICTURE = Condition("picture", "tokens", 5, of="states")
ALL = [DEPTH, CAMERA, LOUD, PICTURE]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def call(model: VideoDiT, own: dict[str, Tensor] | None = None, **how: Any) -> Tensor:
    told = {} if model.config.num_classes else {"encoder_hidden_states": drawn(2, 3, 24, seed=1)}
    told |= {"class_labels": torch.tensor([0, 1])} if model.config.num_classes else {}
    return model(drawn(2, 4, 3, 4, 4), torch.tensor([300.0, 700.0]), **told, conditions=own, **how).sample


def values() -> dict[str, Tensor]:
    told = {"depth": drawn(2, 3, 3, 4, 4, seed=2), "camera": drawn(2, 2, seed=3), "loud": drawn(2, 3, 1, seed=4)}
    return told | {"picture": drawn(2, 6, 5, seed=5)}


def nobody(told: dict[str, Tensor], but: int | None = None) -> dict[str, Tensor]:
    """That no row is told, but one."""
    rows = {
        name: torch.zeros(value.shape[: 2 if name == "picture" else 1], dtype=torch.bool)
        for name, value in told.items()
    }
    for one in rows.values():
        if but is not None:
            one[but] = True
    return rows


KINDS: dict[str, dict[str, Any]] = {
    "one modulation for all": {},
    "an embedding each": {
        "norm_type": "ada_norm_zero",
        "shared_embedder": False,
        "num_classes": 3,
        "caption_channels": None,
    },
}


@pytest.mark.parametrize("kind", KINDS)
def test_silence_law_of_conditions(kind: str) -> None:
    model = tiny_dit(**KINDS[kind])
    before = call(model)
    model.add_conditions(ALL)
    told = values()
    assert torch.equal(call(model), before)
    assert torch.equal(call(model, {name: told[name] for name in ("depth", "camera", "picture")}), before)
    torch.testing.assert_close(call(model, told), before)  # times are embedded for each frame then, to rounding


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_that_is_not_told_is_as_if_there_were_no_condition(kind: str) -> None:
    model, told = tiny_dit(**KINDS[kind]), values()
    model.add_conditions(ALL)
    awaken(model, seed=7)
    without, with_it = call(model), call(model, told)
    assert (without - with_it).abs().max() > 0.1
    for name in told:
        some = call(model, {name: told[name]}, conditions_told=nobody({name: told[name]}, 1))
        torch.testing.assert_close(some[0], without[0], rtol=1e-5, atol=1e-5)
        assert (some[1] - without[1]).abs().max() > 1e-3
        zeros = call(model, {name: torch.zeros_like(told[name])})  # which says something
        assert (zeros - without).abs().max() > 1e-3
    hidden = {name: torch.full_like(value, torch.nan) for name, value in told.items()}
    torch.testing.assert_close(call(model, hidden, conditions_told=nobody(told)), without, rtol=1e-5, atol=1e-5)


def test_tokens_that_are_not_there_are_not_read() -> None:
    model, told = tiny_dit(), values()["picture"]
    model.add_conditions([PICTURE])
    awaken(model, seed=7)
    there = torch.arange(6) < torch.tensor([[6], [2]])
    some = call(model, {"picture": told}, conditions_told={"picture": there})
    torch.testing.assert_close(some[:1], call(model, {"picture": told})[:1])
    torch.testing.assert_close(some[1:], call(model, {"picture": told[:, :2]})[1:])
    with pytest.raises(ValueError, match="read behind blocks of a number"):
        without_blocks(model, [1])
    with pytest.raises(ConversionError, match="reads behind blocks"):
        grow(model, num_layers=3)


def test_maps_and_vectors_reach_their_own_place_and_frame_alone() -> None:
    """With blocks that look at nothing else: a map its place, a frame's number its frame."""
    model = tiny_dit(caption_channels=None, axes=("space",))
    model.add_conditions(ALL)
    awaken(model, seed=7)
    for block in model.blocks:
        torch.nn.init.zeros_(block.attn1.to_out[0].weight)
    told = values()

    def moved(name: str, *at: int | slice) -> Tensor:
        other = {key: value.clone() for key, value in told.items()}
        other[name][at] += 1
        latents, times = drawn(2, 4, 3, 4, 4), torch.tensor([300.0, 700.0])
        first, second = (model(latents, times, conditions=one).sample for one in (told, other))
        return ((first - second).abs() > 1e-6).any(dim=1)  # b f h w

    where = moved("depth", 1, 0, 2, 3, 0).nonzero()
    assert {tuple(place.tolist()) for place in where} == {(1, 2, h, w) for h in (2, 3) for w in (0, 1)}
    assert {(b, f) for b, f, _, _ in moved("loud", 0, 1, 0).nonzero().tolist()} == {(0, 1)}
    assert {(b, f) for b, f, _, _ in moved("camera", 1, 0).nonzero().tolist()} == {(1, 0), (1, 1), (1, 2)}


def test_conditions_are_saved_grown_and_pruned_with_the_model(tmp_path: Path) -> None:
    model, told = tiny_dit(), values()
    model.add_conditions(ALL)
    awaken(model, seed=7)
    wanted = call(model, told)
    model.save_pretrained(tmp_path)
    again = VideoDiT.from_pretrained(tmp_path)
    assert again.own_conditions == tuple(ALL)
    assert torch.equal(call(again, told), wanted)
    other = tiny_dit()
    other.add_conditions(ALL[:3])
    awaken(other, seed=7)
    some = {name: told[name] for name in list(told)[:3]}
    deeper, _ = grow(other, num_layers=3)
    torch.testing.assert_close(call(deeper, some), call(other, some))
    torch.testing.assert_close(call(without_blocks(other, [2]), some), call(other, some, skip_layers=[2]))
    again.add_conditions([DEPTH])  # which it knows
    assert torch.equal(call(again, told), wanted)
    with pytest.raises(ValueError, match="condition depth: this model knows it with width 3, not 4"):
        again.add_conditions([Condition("depth", "channels", 4)])
    again.add_conditions([replace(DEPTH, null=not DEPTH.null)])  # how it goes on being trained
    assert again.own_conditions[0].null is not DEPTH.null
    with pytest.raises(ConversionError, match="a model that is told maps reads them frame by frame"):
        grow(other, patch_frames=2)
    with pytest.raises(ConversionError, match=r"dit has no place for what this model is told besides \(depth\)"):
        to_checkpoint(model, "dit")


@pytest.mark.parametrize(
    ("own", "why"),
    [
        ({"edge": drawn(2, 1)}, "condition edge: this model is told depth, camera, loud, picture"),
        ({"depth": drawn(2, 3, 3, 4, 5)}, r"condition depth has shape \(2, 3, 3, 4, 5\); it must be \(2, 3, 3, 4, 4\)"),
        ({"camera": drawn(2, 3)}, r"condition camera has shape \(2, 3\); it must be \(2, 2\)"),
        ({"picture": drawn(2, 6, 4)}, r"condition picture has shape \(2, 6, 4\); it must be \(2, 6, 5\)"),
        ({"loud": drawn(2, 1)}, r"condition loud has shape \(2, 1\); it must be \(2, 3, 1\)"),
    ],
)
def test_what_does_not_fit_is_named(own: dict[str, Tensor], why: str) -> None:
    model = tiny_dit()
    model.add_conditions(ALL)
    with pytest.raises(ValueError, match=why):
        call(model, own)
    with pytest.raises(ValueError, match="this model is told no such thing"):
        call(tiny_dit(), own)
