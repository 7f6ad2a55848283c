"""Batch law: a sample's output depends on nothing else in its batch."""

from __future__ import annotations

import torch
from tiny import tiny_dit

from videodit.pipeline import VideoDiTPipeline


def test_batch_law_text_padding_and_neighbours_do_not_matter() -> None:
    """In float64, so that what is left over is no rounding."""
    model = tiny_dit().double()
    x, text = torch.randn(3, 4, 3, 8, 8, dtype=torch.float64), torch.randn(3, 7, 24, dtype=torch.float64)
    t = torch.tensor([10.0, 700.0, 20.0])
    mask = torch.arange(7)[None] < torch.tensor([[7], [3], [5]])
    together = model(x, t, text, mask).sample
    for i, length in enumerate((7, 3, 5)):
        alone = model(x[i : i + 1], t[i : i + 1], text[i : i + 1, :length]).sample
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-6, atol=1e-6)


def test_batch_law_a_prompt_and_seed_give_one_clip_alone_or_among_others(tiny_pipe: VideoDiTPipeline) -> None:
    prompts, seeds = ["a red circle", "two blue stars moving left", "red"], [5, 6, 5]

    def clips(which: list[int]) -> torch.Tensor:
        generators = [torch.Generator().manual_seed(seeds[i]) for i in which]
        return tiny_pipe([prompts[i] for i in which], num_inference_steps=3, generator=generators).frames

    together = clips([0, 1, 2])
    assert torch.equal(together, clips([0, 1, 2]))
    for i in range(3):
        torch.testing.assert_close(together[i : i + 1], clips([i]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(together, clips([2, 0, 1])[[1, 2, 0]], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(together[0], together[2], atol=1e-2)
