"""Control by a copy of the first blocks: silent at first, by its equations, and a file of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from einops import rearrange
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from videodit.caching import set_cache
from videodit.models import Condition
from videodit.models.branches import FILE, Branch, branch_of, load_control, save_control
from videodit.models.formats.table import ConversionError
from videodit.models.growth import grow
from videodit.models.linear import Past
from videodit.models.pruned import without_blocks
from videodit.models.transformer import VideoDiT
from videodit.pipeline import VideoDiTPipeline
from videodit.weights import WeightsError

from ..tiny import awaken, tiny_dit, tiny_pipeline
from .test_own_conditions import KINDS, call, drawn

EDGES = Condition("edges", "channels", 3, True, of="vae", branch=3)
MAP = drawn(2, 3, 3, 4, 4, seed=2)


def told(model: VideoDiT, one: Condition = EDGES, *, awake: bool = True) -> VideoDiT:
    model.add_conditions([one])
    return awaken(model, seed=7) if awake else model


def branch(model: VideoDiT) -> Any:
    return branch_of(model, "edges")[1]


@pytest.mark.parametrize("kind", KINDS)
def test_silence_law_of_branches(kind: str) -> None:
    model = tiny_dit(**KINDS[kind], axes=("space", "time"))
    before = call(model)
    told(model, awake=False)
    assert torch.equal(call(model, {"edges": MAP}), before)
    for copied, block in zip(branch(model).blocks, model.blocks, strict=False):
        assert all(torch.equal(a, b) for a, b in zip(copied.parameters(), block.parameters(), strict=True))
    awaken(branch(model).blocks)
    assert torch.equal(call(model), before)  # copies are no longer the model's own


@torch.no_grad()
def test_it_is_computed_as_its_equations_say() -> None:
    """y = x + map, y = copy(y), x = block(x) + projection(y), each block called with what the model's own is."""
    model = told(tiny_dit(axes=("space",), num_layers=4)).double()
    seen: list[tuple[Any, ...]] = []
    model.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    ends: list[Tensor] = []
    model.norm_out.register_forward_pre_hook(lambda _, inputs: ends.append(inputs[0]))
    call(model, {"edges": MAP})
    (x, *rest), own = seen[0], branch(model)
    laid = torch.cat([MAP, torch.ones_like(MAP[:, :1])], dim=1)
    patches = rearrange(laid.double(), "b c f (h p) (w q) -> b f (h w) (c p q)", p=2, q=2)
    y = x + patches @ own.embed.proj.weight.T
    for number, block in enumerate(model.blocks):
        x = block(x, *rest)
        if number < 3:
            y = own.blocks[number](y, *rest)
            x = x + y @ own.projections[number].weight.T + own.projections[number].bias
    torch.testing.assert_close(ends[0], x)


def test_rows_alone_among_others_untold_and_told_in_part() -> None:
    model = told(tiny_dit())
    without, with_it = call(model), call(model, {"edges": MAP})
    assert (without - with_it).abs().max() > 0.1
    some = call(
        model,
        {"edges": torch.where(torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1, 1) > 0, MAP, torch.nan)},
        conditions_told={"edges": torch.tensor([False, True])},
    )
    torch.testing.assert_close(some[0], without[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(some[1], with_it[1], rtol=1e-5, atol=1e-5)
    ends: list[Tensor] = []
    last = told(tiny_dit(), Condition("edges", "channels", 3, of="vae", branch=4))
    for projection in branch(last).projections[:-1]:
        torch.nn.init.zeros_(projection.weight)
        torch.nn.init.zeros_(projection.bias)
    last.norm_out.register_forward_pre_hook(lambda _, inputs: ends.append(inputs[0]))
    for share in (0.0, 0.25, 1.0):
        call(last, {"edges": MAP}, conditions_told={"edges": torch.full((2,), share)})
    torch.testing.assert_close(ends[1] - ends[0], 0.25 * (ends[2] - ends[0]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("frames", [1, 3])
def test_a_text_kept_and_blocks_made_anew_change_nothing(frames: int) -> None:
    model = told(tiny_dit())
    text, shown = drawn(2, 3, 24, seed=1), MAP[:, :, :frames]
    latents, times = drawn(2, 4, 3, 4, 4)[:, :, :frames], torch.tensor([300.0, 700.0])
    plain = model(latents, times, text, conditions={"edges": shown}).sample
    memory = model.text_memory(text)
    kept = model(latents, times, text_memory=memory, conditions={"edges": shown}).sample
    torch.testing.assert_close(kept, plain, rtol=1e-5, atol=1e-5)
    second = model(latents[1:], times[1:], text_memory=memory[1:], conditions={"edges": shown[1:]}).sample
    torch.testing.assert_close(second, plain[1:], rtol=1e-4, atol=1e-4)
    grads = []
    for every in (0, 1):
        model.checkpoint_units(every)
        model.zero_grad()
        model.train()(latents, times, text, conditions={"edges": shown}).sample.square().mean().backward()
        grads.append(branch(model).embed.proj.weight.grad.clone())
    torch.testing.assert_close(*grads)
    assert grads[0].any()


def test_a_branch_is_saved_alone_and_goes_onto_its_own_model(tmp_path: Path) -> None:
    base, model = tiny_dit(), told(tiny_dit(), awake=False)
    awaken(branch(model), seed=3)
    file = save_control(model, "edges", tmp_path)
    assert load_control(base, tmp_path) == "edges"
    assert torch.equal(call(base, {"edges": MAP}), call(model, {"edges": MAP}))
    again = VideoDiT.from_config(model.config)
    again.load_state_dict(model.state_dict())
    assert torch.equal(call(again.eval(), {"edges": MAP}), call(model, {"edges": MAP}))
    with pytest.raises(ValueError, match="this model is told 'edges' already"):
        load_control(base, tmp_path)
    with pytest.raises(WeightsError, match="of another model"):
        load_control(awaken(tiny_dit(), seed=9), tmp_path)
    with pytest.raises(WeightsError, match="no such file"):
        load_control(tiny_dit(), tmp_path / "none")
    half = {name: x * (torch.nan if "projections.0.weight" in name else 1) for name, x in load_file(file).items()}
    with safe_open(file, "pt") as saved:
        about = saved.metadata()
    (tmp_path / "bad").mkdir()
    save_file(half, tmp_path / "bad" / FILE, metadata=about)
    other = tiny_dit()
    with pytest.raises(WeightsError, match="is not finite"):
        load_control(other, tmp_path / "bad")
    save_file(
        {name: x for name, x in half.items() if "blocks.0" not in name and x.isfinite().all()},
        tmp_path / "bad" / FILE,
        metadata=about,
    )
    with pytest.raises(WeightsError, match="its tensors are not those of such a branch"):
        load_control(other, tmp_path / "bad")
    assert load_control(other, tmp_path) == "edges"  # nothing was left of the others
    with pytest.raises(ValueError, match="of a model in float16 its own would not be known again"):
        save_control(model.half(), "edges", tmp_path / "half")
    model.float()
    with pytest.raises(ValueError, match="'depth' is no branch of this model \\(edges\\)"):
        save_control(model, "depth", tmp_path)
    save_file(load_file(file), tmp_path / FILE)
    with pytest.raises(WeightsError, match="no branch of a model"):
        load_control(tiny_dit(), tmp_path)


def test_two_of_them_add_what_each_says(tmp_path: Path) -> None:
    pipe = tiny_pipeline()
    for name in ("edges", "depth"):
        one = tiny_pipeline().transformer
        one.add_conditions([Condition(name, "channels", 4, True, of="vae", branch=2)])
        awaken(branch_of(one, name)[1], seed=len(name))
        save_control(one, name, tmp_path / name)
        assert pipe.load_control(tmp_path / name) == name
    frames = torch.rand(9, 3, 32, 32)
    how: dict[str, Any] = {"num_inference_steps": 2, "output_type": "latent", "guidance_scale": 2.0}

    def made(conditions: dict[str, Any], scale: dict[str, float] | None = None) -> Tensor:
        rng = torch.Generator().manual_seed(0)
        return pipe("a red circle", generator=rng, conditions=conditions, condition_scale=scale, **how).frames

    both, one = made({"edges": frames, "depth": frames}), made({"edges": frames})
    assert (both - one).abs().max() > 1e-3
    torch.testing.assert_close(made({"edges": frames, "depth": frames}, {"depth": 0.0}), one, rtol=1e-4, atol=1e-4)
    half = made({"edges": frames}, {"edges": 0.5})
    assert 0 < (half - made({})).norm() < (one - made({})).norm()
    with pytest.raises(ValueError, match="condition_scale: 'edges' at -1 must be 0 or more"):
        made({"edges": frames}, {"edges": -1})
    with pytest.raises(ValueError, match="condition_scale: 'depth' is no condition that is given"):
        made({"edges": frames}, {"depth": 0.5})
    pipe.save_pretrained(tmp_path / "pipe")
    pipe = VideoDiTPipeline.from_pretrained(tmp_path / "pipe")
    torch.testing.assert_close(made({"edges": frames, "depth": frames}), both)


@pytest.mark.parametrize(
    ("config", "one", "why"),
    [
        ({"axes": ("space", "linear")}, EDGES, "linear blocks, whose sums"),
        ({"caption_in": "context"}, EDGES, "a model with text or time among tokens"),
        ({}, Condition("edges", "channels", 3, branch=5), "more than the 4 first blocks"),
        ({"skips": "long"}, EDGES, "more than the 2 first blocks of two halves"),
    ],
)
def test_models_that_cannot_have_one_are_named(config: dict[str, Any], one: Condition, why: str) -> None:
    with pytest.raises(ValueError, match=f"there is no branch of {why}"):
        tiny_dit(**config).add_conditions([one])


def test_what_does_not_go_with_a_branch_is_named() -> None:
    model = told(tiny_dit())
    assert isinstance(branch(model), Branch)
    with pytest.raises(ValueError, match="goes neither with routing"):
        call(model, {"edges": MAP}, routed=torch.zeros(2, 2, dtype=torch.long))
    model.past = Past()
    with pytest.raises(ValueError, match="nor with what is held of the past"):
        call(model, {"edges": MAP})
    model.past = None
    with pytest.raises(ValueError, match="read behind blocks of a number"):
        without_blocks(model, [1])
    with pytest.raises(ConversionError, match="reads behind blocks"):
        grow(model, num_layers=3)
    pipe = tiny_pipeline()
    pipe.transformer.add_conditions([Condition("edges", "channels", 4, True, of="vae", branch=2)])
    set_cache(pipe, "taylorseer")
    with pytest.raises(ValueError, match="between the blocks that a feature cache leaves out"):
        pipe("a red circle", num_inference_steps=2, conditions={"edges": torch.rand(9, 3, 32, 32)})
