"""Sequence parallelism: several processes that share the tokens of a clip compute what one computes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from diffusers import FirstBlockCacheConfig
from processes import averaged, launch
from tiny import tiny_dit
from torch import Tensor

from videodit.models.transformer import VideoDiT

# name: (configuration, latent frames, what else the call gives); 3 x 5 places, so that nothing divides
CASES: dict[str, tuple[dict[str, Any], int, tuple[str, ...]]] = {
    "factorized": ({}, 5, ("mask", "fps")),
    "frames have times of their own": ({"time_positions": "both"}, 5, ("mask", "times", "given")),
    "the same under adaLN-zero": ({"norm_type": "ada_norm_zero", "time_positions": "sincos"}, 6, ("times", "given")),
    "time comes first, two frames a token": ({"axes": ("time", "space"), "patch_size": (2, 2, 2)}, 9, ("mask",)),
    "an image": ({}, 1, ("mask",)),
    "an image, all tokens at once": ({"axes": ("joint",)}, 1, ("mask",)),
    "two frames": ({}, 2, ("times",)),
    "all tokens at once": ({"axes": ("joint",)}, 5, ("mask", "fps", "given")),
    "all three axes": ({"axes": ("space", "joint", "time"), "time_positions": "both"}, 5, ("times",)),
    "six heads, no text": ({"axes": ("joint", "time"), "num_attention_heads": 6, "caption_channels": None}, 7, ()),
    "windows and sums": ({"axes": ("window", "linear", "time"), "window": (2, 2, 3)}, 5, ("mask", "given")),
    "text and time in context": ({"caption_in": "context", "norm_type": "layer_norm"}, 5, ("mask", "times", "given")),
    "text in context, all tokens at once": ({"caption_in": "context", "axes": ("joint",)}, 3, ("mask",)),
    "one block": ({"axes": ("joint",), "num_layers": 1}, 5, ("mask",)),
}


def arguments(model: VideoDiT, frames: int, given: tuple[str, ...], side: tuple[int, int] = (6, 10)) -> dict[str, Any]:
    """What a call gives: two samples, of which the second has a shorter text, another rate and a given frame."""
    g = torch.Generator().manual_seed(frames)
    values: dict[str, Any] = {
        "hidden_states": torch.randn(2, 4, frames, *side, generator=g).requires_grad_(),
        "timestep": 1000 * torch.rand(2, *([frames] if "times" in given else []), generator=g),
    }
    if model.config.caption_channels:
        values["encoder_hidden_states"] = torch.randn(2, 7, 24, generator=g).requires_grad_()
    if "mask" in given:
        values["encoder_attention_mask"] = torch.arange(7) < torch.tensor([[7], [3]])
    if "fps" in given:
        values["fps"] = torch.tensor([2.0, 3.0])
    if "given" in given:
        values["frame_mask"] = (torch.arange(frames) == 1) & torch.tensor([[False], [True]])
    return values


def outcome(model: VideoDiT, frames: int, given: tuple[str, ...]) -> dict[str, Tensor]:
    """The prediction, and the gradients of weights, latent and text, averaged over processes as DDP does."""
    model.zero_grad()
    values = arguments(model, frames, given)
    prediction = model(**values, return_dict=False)[0]
    target = torch.randn(prediction.shape, generator=torch.Generator().manual_seed(9))
    (prediction - target).square().mean().backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    found |= {name: x.grad for name, x in values.items() if isinstance(x, Tensor) and x.requires_grad}
    if model.sequence_group is not None:
        averaged(found.values())
    return {name: x.clone() for name, x in found.items()} | {"prediction": prediction.detach()}


def differences(cases: tuple[str, ...], checkpointing: bool, compiled: bool) -> dict[str, tuple[str, float]]:
    """Of each case, what differs most from one process, and by how much, relative to its norm."""
    found = {}
    for case in cases:
        config, frames, given = CASES[case]
        model = tiny_dit(**config)
        alone = outcome(model, frames, given)
        model.set_sequence_group(dist.group.WORLD)
        if checkpointing:
            model.enable_gradient_checkpointing()
        if compiled:
            model.compile_repeated_blocks(backend="aot_eager")
        together = outcome(model, frames, given)
        assert alone.keys() == together.keys()
        errors = {
            name: float((together[name] - x).norm() / x.norm())
            for name, x in alone.items()
            if not name.endswith("to_k.bias")  # softmax does not see it: but for rounding and QK-norm, zero
        }
        worst = max(errors, key=errors.__getitem__)
        found[case] = worst, errors[worst]
    return found


def refused(model: VideoDiT) -> str:
    model.enable_cache(FirstBlockCacheConfig(threshold=0.1))
    try:
        model(**arguments(model, 3, ()))
    except ValueError as error:
        return str(error)
    return "nothing"


def bytes_kept() -> tuple[int, int, str]:
    """Of activations, for the backward pass of 8 frames of 8 x 8 places, alone and spread; and what is refused."""
    model = tiny_dit().train()
    weights = {p.untyped_storage()._cdata for p in model.parameters()}
    found = []
    for group in (None, dist.group.WORLD):
        model.set_sequence_group(group)
        kept: dict[int, Tensor] = {}  # by storage; held, so that none is reused and counted as another

        def keep(x: Tensor, kept: dict[int, Tensor] = kept) -> Tensor:
            if x.untyped_storage()._cdata not in weights:
                kept[x.untyped_storage()._cdata] = x
            return x

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            model(**arguments(model, 8, ("mask",), side=(16, 16)))
        found.append(sum(x.untyped_storage().nbytes() for x in kept.values()))
    return found[0], found[1], refused(model)


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "checkpointing"), [(2, True), (4, False)])
def test_processes_that_share_a_clip_compute_what_one_does(processes: int, checkpointing: bool) -> None:
    """Outputs and gradients, where frames, places and heads are not divided by the processes."""
    for found in launch(differences, tuple(CASES), checkpointing, False, processes=processes):
        assert found.keys() == CASES.keys()
        assert {case: error for case, error in found.items() if not error[1] < 1e-5} == {}


@pytest.mark.slow
def test_blocks_that_are_compiled_compute_the_same() -> None:
    for found in launch(differences, ("one block",), False, True):
        assert found["one block"][1] < 1e-5


@pytest.mark.slow
def test_each_of_two_processes_keeps_half_of_the_activations_and_a_feature_cache_is_refused() -> None:
    for alone, spread, message in launch(bytes_kept):
        assert 0.45 * alone < spread < 0.6 * alone
        assert "disable_cache()" in message
