"""`TimeExtended` spread over processes, sharded, compiled, cast and quantized: the same numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from families import MODELS, flux, loud, sana, sd3, tiny_image_model, told
from processes import averaged, launch
from torch import Tensor
from torch.distributed.tensor import DTensor

from videodit.models.extended import TimeExtended
from videodit.training import parallel

SPREAD = ("SD3", "Flux", "Flux2", "Z-Image", "Lumina2", "UNet")


def outcome(model: TimeExtended, name: str, frames: int, rows: slice = slice(None)) -> dict[str, Tensor]:
    """The prediction, and the gradients of weights and latent, averaged over processes as DDP does; of some rows."""
    model.zero_grad()
    draw = torch.Generator().manual_seed(frames)
    width = 8 if model.family.square else 12
    latents = torch.randn(2, model.in_channels, frames, 8, width, generator=draw).requires_grad_()
    given = (torch.arange(frames) == 0) & torch.tensor([[False], [True]])
    kw = {key: value[rows] for key, value in told(name, model.image).items()}
    times = torch.tensor([300.0, 700.0])[rows]
    prediction = model(latents[rows], times, **kw, frame_mask=given[rows], return_dict=False)[0]
    target = torch.randn(2, *prediction.shape[1:], generator=draw)
    (prediction - target[rows]).square().mean().backward()
    found = {key: p.grad for key, p in model.named_parameters() if p.grad is not None} | {"latent": latents.grad}
    if model.sequence_group is not None:
        averaged(found.values())
    whole = {key: grad.full_tensor() if isinstance(grad, DTensor) else grad for key, grad in found.items()}
    return {key: grad.clone() for key, grad in whole.items()} | {"prediction": prediction.detach()}


def worst(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> tuple[str, float]:
    """What differs most, relative to the largest of its kind."""
    assert found.keys() == wanted.keys()
    largest = max(float(x.norm()) for key, x in wanted.items() if key != "prediction")
    errors = {key: float((found[key] - x).norm()) / (float(x.norm()) + 1e-3 * largest) for key, x in wanted.items()}
    name = max(errors, key=errors.__getitem__)
    return name, errors[name]


def extended(name: str) -> TimeExtended:
    model = TimeExtended(tiny_image_model(name))
    loud(model.blocks)
    return model


def spread(names: tuple[str, ...], frames: tuple[int, ...], checkpointing: bool) -> dict[str, tuple[str, float]]:
    """Of each family, what differs most where processes share the frames."""
    found = {}
    for name in names:
        model = extended(name)
        for count in frames:
            model.set_sequence_group(None)
            alone = outcome(model, name, count)
            model.set_sequence_group(dist.group.WORLD)
            model.checkpoint_units(int(checkpointing))
            found[f"{name} {count}"] = worst(outcome(model, name, count), alone)
            model.checkpoint_units(0)
    return found


def sharded(names: tuple[str, ...], parts: bool) -> dict[str, tuple[str, float]]:
    """Of each family, what differs most where weights are spread, as FSDP2 does; parts: and each process has a clip of
    the batch."""
    found = {}
    rows = slice(dist.get_rank(), dist.get_rank() + 1) if parts else slice(None)
    for name in names:
        alone = outcome(extended(name), name, 3)
        alone["prediction"] = alone["prediction"][rows]
        model = extended(name)
        parallel.shard(model, model.gathered, "cpu")
        model.checkpoint_units(1)
        ours = outcome(model, name, 3, rows)
        if parts:  # of the clip that it has, and that is not averaged
            ours["latent"], alone["latent"] = ours["latent"][rows] / 2, alone["latent"][rows]
        found[name] = worst(ours, alone)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
def test_processes_that_share_the_frames_compute_what_one_does(checkpointing: bool) -> None:
    for found in launch(spread, SPREAD if not checkpointing else SPREAD[:2], (5, 2, 1), checkpointing):
        assert all(error < 2e-5 for _, error in found.values()), found


@pytest.mark.slow
def test_sharded_weights_compute_the_same() -> None:
    for found in launch(sharded, ("SD3", "Flux", "Z-Image"), False):
        assert all(error < 2e-5 for _, error in found.values()), found


@pytest.mark.slow
def test_world_law_processes_with_a_part_of_the_batch_and_of_the_weights_compute_the_same() -> None:
    for found in launch(sharded, tuple(MODELS), True):
        assert [*found] == [*MODELS]
        assert all(error < 2e-5 for _, error in found.values()), found


DEEP = {  # six blocks
    "SD3": lambda: sd3(num_layers=6, dual_attention_layers=()),
    "Flux": lambda: flux(num_layers=2, num_single_layers=4),
    "Sana": lambda: sana(num_layers=6),
}


@pytest.mark.slow
@pytest.mark.cpu("TorchDynamo knows no stand-in")
@pytest.mark.parametrize("name", ["SD3", "Flux", "Sana"])
def test_compiled_blocks_compute_the_same_in_one_graph_for_all_that_are_alike(name: str) -> None:
    model = TimeExtended(DEEP[name]())
    loud(model.blocks)
    wanted = outcome(model, name, 3)
    torch._dynamo.reset()
    graphs: list[Any] = []

    def counted(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    model.compile_repeated_blocks(backend=counted, fullgraph=True)
    name_of, error = worst(outcome(model, name, 3), wanted)
    assert error < 1e-5, name_of
    kinds = {type(block) for block in model.units}
    assert len(graphs) <= 2 * len(kinds) < len(model.units)  # the first and the last differ in what they get and give
    torch._dynamo.reset()


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_bfloat16_is_near_float32(name: str) -> None:
    """Of the size of the prediction, 8 %: eight bits, through up to six blocks."""
    model = extended(name).eval()
    draw = torch.Generator().manual_seed(0)
    latents = torch.randn(2, model.in_channels, 3, 8, 8, generator=draw)
    kw, times = told(name, model.image), torch.tensor([300.0, 700.0])
    wanted = model(latents, times, **kw, return_dict=False)[0]
    half = extended(name).to(torch.bfloat16).eval()
    found = half(latents, times, **kw, return_dict=False)[0].float()
    assert float((found - wanted).norm() / wanted.norm()) < 0.08


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_weights_kept_in_fewer_bits_give_what_they_round_to(name: str) -> None:
    model, rounded = extended(name).eval(), extended(name).eval()
    model.enable_layerwise_casting(storage_dtype=torch.bfloat16, compute_dtype=torch.float32)
    kept = {key: weight.dtype for key, weight in model.state_dict().items()}
    assert torch.bfloat16 in kept.values()
    assert all(dtype == torch.float32 for key, dtype in kept.items() if key.startswith("time_embeds."))
    for key, weight in rounded.state_dict().items():
        weight.copy_(weight.to(kept[key]))
    latents = torch.randn(2, model.in_channels, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    kw, times = told(name, model.image), torch.tensor([300.0, 700.0])
    wanted = rounded(latents, times, **kw, return_dict=False)[0]
    torch.testing.assert_close(model(latents, times, **kw, return_dict=False)[0], wanted, atol=1e-6, rtol=1e-6)
