"""`compile_repeated_blocks`: one graph a kind of block, whatever the number of frames and the size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tiny import tiny_dit
from torch._dynamo.testing import CompileCounter

# b f h w; in the first no two lengths are equal, or torch would take them for one
SIZES = [(3, 7, 4, 20), (3, 4, 8, 8), (2, 5, 12, 8)]


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def inputs(size: tuple[int, int, int, int]) -> dict[str, Any]:
    b, f, h, w = size
    g = torch.Generator().manual_seed(f)
    return {
        "hidden_states": torch.randn(b, 4, f, h, w, generator=g),
        "timestep": torch.rand(b, generator=g) * 1000,
        "encoder_hidden_states": torch.randn(b, 6, 24, generator=g),
        "encoder_attention_mask": torch.ones(b, 6, dtype=torch.bool),
    }


@pytest.mark.slow
@pytest.mark.parametrize("call", ["text", "memory", "training"])
def test_no_new_graph_for_a_new_size(call: str) -> None:
    """Nor a break in one."""
    plain, compiled, counter = tiny_dit(), tiny_dit(), CompileCounter()
    compiled.compile_repeated_blocks(backend=counter, dynamic=True, fullgraph=True)
    with torch.set_grad_enabled(call == "training"):
        for size in SIZES:
            x = inputs(size)
            expected = plain(**x).sample
            if call == "memory":
                x["text_memory"] = compiled.text_memory(x.pop("encoder_hidden_states"), x.pop("encoder_attention_mask"))
            torch.testing.assert_close(compiled(**x).sample, expected, rtol=1e-5, atol=1e-5)
            assert counter.frame_count == 2, size  # of 4 blocks: along space, along time


@pytest.mark.slow
@torch.no_grad()
def test_sizes_that_were_not_announced_cost_a_second_graph_and_no_third() -> None:
    compiled, counter, graphs = tiny_dit(), CompileCounter(), []
    compiled.compile_repeated_blocks(backend=counter)
    for size in [(2, 7, 4, 20), (2, 4, 8, 8), (2, 5, 12, 8)]:
        compiled(**inputs(size))
        graphs.append(counter.frame_count)
    assert graphs == [2, 4, 4]
