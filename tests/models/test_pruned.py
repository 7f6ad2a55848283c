"""Models without blocks or units: against the whole model that leaves them out, and its MLPs by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from videodit.models import Condition
from videodit.models.pruned import with_narrower_mlp, without_blocks
from videodit.models.transformer import VideoDiT

from ..tiny import tiny_dit

SHAPES: dict[str, tuple[dict[str, Any], list[int]]] = {
    "space and time": ({}, [1]),
    "positions in time, from a later block on": ({"time_positions": "both"}, [1, 2]),
    "an embedder each": ({"norm_type": "ada_norm_zero", "shared_embedder": False}, [1, 2]),
    "no time left": ({"axes": ("space", "time", "joint"), "images_skip_time": False}, [1, 4]),
    "normed along one": ({"axes": ("space", "time", "joint"), "qk_norm": ("time", "joint")}, [1, 4, 5]),
    "text along one": ({"cross_attention_axes": ("space",)}, [0, 3]),
    "windows": ({"axes": ("window", "time"), "window": (2, 2, 2), "num_layers": 4}, [0, 2, 3]),
}


def call(model: VideoDiT, **how: Any) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    latents, text = torch.randn(2, 4, 3, 4, 4, generator=draw), torch.randn(2, 3, 24, generator=draw)
    told = {"encoder_hidden_states": text, "fps": 3.0}
    return model(latents, torch.tensor([300.0, 700.0]), **told, **how, return_dict=False)[0]


@pytest.mark.parametrize("name", SHAPES)
def test_what_is_left_computes_what_the_whole_model_does_without_the_rest(name: str, tmp_path: Any) -> None:
    config, out = SHAPES[name]
    model = tiny_dit(**config)
    small = without_blocks(model, out)
    assert [block.axis for block in small.blocks] == [b.axis for n, b in enumerate(model.blocks) if n not in out]
    torch.testing.assert_close(call(small), call(model, skip_layers=out), rtol=0, atol=0)
    axes, left = list(small.config.axes), [block.axis for block in small.blocks]
    assert axes * small.config.num_layers == left
    assert not any(left[:n] * (len(left) // n) == left for n in range(1, len(axes)))  # the shortest pattern
    small.save_pretrained(tmp_path)
    torch.testing.assert_close(call(VideoDiT.from_pretrained(tmp_path)), call(small), rtol=0, atol=0)


def test_units_that_are_taken_out_are_those_that_would_be_zero() -> None:
    model = tiny_dit()
    width = model.blocks[0].ff.net[-1].in_features
    draw = torch.Generator().manual_seed(2)
    kept = {number: torch.randperm(width, generator=draw)[:40].sort().values for number in range(len(model.blocks))}
    small = with_narrower_mlp(model, kept)
    for number, block in enumerate(model.blocks):
        away = torch.ones(width, dtype=torch.bool)
        away[kept[number]] = False
        block.ff.net[-1].weight.data[:, away] = 0
    torch.testing.assert_close(call(small), call(model))
    assert small.blocks[0].ff.net[-1].in_features == 40


@pytest.mark.parametrize(
    ("config", "out", "why"),
    [
        ({}, [4], "block 4: this model has 0 to 3"),
        ({}, [0, 1, 2, 3], "all blocks: at least one"),
        ({"cross_attention_axes": ("space",)}, [0, 2], "all blocks that read the text"),
        ({"time_positions": "both"}, [1], "block 1: those behind it see positions in time"),
        ({"axes": ("window",), "window": (2, 2, 2)}, [0], "block 1: without those before it its windows"),
        ({"norm_type": "ada_norm_zero", "shared_embedder": False}, [0], "block 0: the prediction is made with"),
        ({"activation_fn": "geglu"}, [0], "MLPs with gates"),
    ],
)
def test_what_would_compute_something_else_is_refused(config: dict[str, Any], out: list[int], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        without_blocks(tiny_dit(**config), out)


def test_each_block_keeps_as_many_units() -> None:
    model = tiny_dit()
    with pytest.raises(ValueError, match=r"as many units; these are of \[3, 4\]"):
        with_narrower_mlp(model, {0: torch.arange(3), 1: torch.arange(4), 2: torch.arange(3), 3: torch.arange(3)})
    with pytest.raises(ValueError, match=r"of blocks \[0\]"):
        with_narrower_mlp(model, {0: torch.arange(3)})
    model.add_conditions([Condition("pose", "channels", 4, branch=1)])
    with pytest.raises(ValueError, match="condition pose: its branch has copies of blocks as they are"):
        with_narrower_mlp(model, {number: torch.arange(3) for number in range(4)})
