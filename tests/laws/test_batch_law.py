"""Batch law: a sample's output depends on nothing else in its batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from footage import pan
from tiny import tiny_dit

from videodit.caching import set_cache
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


@pytest.mark.slow
def test_batch_law_a_prompt_and_seed_give_one_clip_alone_or_among_others(tiny_pipe: VideoDiTPipeline) -> None:
    prompts, seeds = ["a red circle", "two blue stars moving left", "red"], [5, 6, 5]

    def clips(which: list[int]) -> torch.Tensor:
        generators = [torch.Generator().manual_seed(seeds[i]) for i in which]
        return tiny_pipe(
            [prompts[i] for i in which], num_inference_steps=3, generator=generators, output_type="pt"
        ).frames

    together = clips([0, 1, 2])
    assert torch.equal(together, clips([0, 1, 2]))
    for i in range(3):
        torch.testing.assert_close(together[i : i + 1], clips([i]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(together, clips([2, 0, 1])[[1, 2, 0]], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(together[0], together[2], atol=1e-2)


FRAMES = ("image", "last_image", "video", "last_video")
MODES: dict[str, dict[str, Any]] = {  # of FRAMES how many are given
    "prompt": {},
    "image": {"image": 1},
    "last image": {"last_image": 1},
    "both": {"image": 1, "last_image": 1, "num_frames": 13},
    "video": {"video": 5},
    "last video": {"last_video": 4},
    "strength": {"video": 9, "strength": 0.7},
    "image guidance": {"image": 1, "last_video": 4, "num_frames": 13, "image_guidance_scale": 2.0},
    "interval": {"guidance_interval": (0.0, 0.5)},
    "scales": {"guidance_scale": [3.0, 1.0, 2.0, 2.0], "guidance_rescale": 0.7},
}
CACHES = ("first-block=1.5", "pyramid-attention", "taylorseer=2", "sea=0.5")


@pytest.fixture
def pipe(tiny_pipe: VideoDiTPipeline) -> Iterator[VideoDiTPipeline]:
    yield tiny_pipe
    set_cache(tiny_pipe, None)


def made(pipe: VideoDiTPipeline, mode: str, which: list[int], output_type: str) -> torch.Tensor:
    """Clips by their numbers, each of a prompt, a seed and frames of its own."""
    prompts = ["a red circle", "two blue stars moving left"]
    given = {
        name: [pan(10 * i + len(name), value)[:, :32, :32] for i in which] if name in FRAMES else value
        for name, value in MODES[mode].items()
    }
    options = {"num_inference_steps": 4, "guidance_scale": 2.0, "output_type": output_type, **given}
    generator = [torch.Generator().manual_seed(i) for i in which]
    return pipe([prompts[i] for i in which], generator=generator, **options).frames


@pytest.mark.slow
@pytest.mark.parametrize("cache", [None, *CACHES])
def test_batch_law_in_every_mode_and_nothing_of_a_call_stays_for_the_next(
    pipe: VideoDiTPipeline, cache: str | None
) -> None:
    """Each mode follows others, three times, in two orders."""
    output = "pt" if cache is None else "latent"  # a cache has no part in decoding
    plain = made(pipe, "prompt", [0], output)
    set_cache(pipe, cache)
    together = {mode: made(pipe, mode, [0, 1], output) for mode in MODES}
    for mode in reversed(MODES):
        for i in range(2):
            alone, among = made(pipe, mode, [i], output), together[mode][i : i + 1]
            torch.testing.assert_close(alone, among, rtol=1e-3, atol=1e-3, msg=lambda why, mode=mode: f"{mode}: {why}")
    for mode, found in together.items():
        assert torch.equal(made(pipe, mode, [0, 1], output), found), mode
        if MODES[mode]:
            assert found[0].shape != plain[0].shape or (found[0] - plain[0]).abs().max() > 1e-3, mode
    set_cache(pipe, None)
    assert torch.equal(made(pipe, "prompt", [0], output), plain)
