"""Feature caches: they reuse, they forget, and no clip decides for another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from tiny import tiny_dit, tiny_pipeline

from videodit.caching import named_cache, set_cache
from videodit.pipeline import VideoDiTPipeline

LENIENT = ("first-block=1.5", "pyramid-attention", "taylorseer", "sea=0.5")  # random weights leap from step to step
PROMPTS = ["a red circle", "two blue stars", "a red circle moving left"]


@pytest.fixture
def pipe(tiny_pipe: VideoDiTPipeline) -> Iterator[VideoDiTPipeline]:
    yield tiny_pipe
    set_cache(tiny_pipe, None)


def clips(pipe: VideoDiTPipeline, prompts: list[str] = PROMPTS[:1], first: int = 0, **options: Any) -> torch.Tensor:
    generator = [torch.Generator().manual_seed(first + i) for i in range(len(prompts))]
    options = {"num_inference_steps": 12, "guidance_scale": 2.0, **options}
    return pipe(prompts, generator=generator, output_type="latent", **options).frames


@contextmanager
def runs(pipe: VideoDiTPipeline, cache: str) -> Iterator[list[int]]:
    """Rows of each run of a part that the cache may leave out."""
    seen: list[int] = []
    part = "blocks.1.attn1.to_q" if cache.startswith("pyramid") else "blocks.1.ff"
    hook = pipe.transformer.get_submodule(part).register_forward_hook(lambda _, args, out: seen.append(len(out)))
    yield seen
    hook.remove()


@pytest.mark.parametrize("cache", LENIENT)
def test_a_cache_runs_less_of_the_model(pipe: VideoDiTPipeline, cache: str) -> None:
    with runs(pipe, cache) as seen:
        plain = clips(pipe)
        assert len(seen) == 12
        set_cache(pipe, cache)
        cached = clips(pipe)
    assert 12 < len(seen) < 24
    assert not torch.equal(cached, plain)


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["first-block=0", "sea=0"])
def test_without_tolerance_a_cache_changes_nothing(pipe: VideoDiTPipeline, cache: str) -> None:
    plain = clips(pipe, PROMPTS[:2])
    set_cache(pipe, cache)
    torch.testing.assert_close(clips(pipe, PROMPTS[:2]), plain, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("cache", LENIENT)
def test_nothing_of_a_call_stays_for_the_next(pipe: VideoDiTPipeline, cache: str) -> None:
    plain = clips(pipe)
    set_cache(pipe, cache)
    first = clips(pipe)
    clips(pipe, PROMPTS[1:2], 5, num_inference_steps=7, num_frames=13)

    def stop(*args: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        clips(pipe, PROMPTS[1:2], 5, callback_on_step_end=stop)
    assert torch.equal(clips(pipe), first)
    set_cache(pipe, None)
    assert torch.equal(clips(pipe), plain)


@pytest.mark.slow
@pytest.mark.parametrize("cache", LENIENT)
@pytest.mark.parametrize("interval", [(0.0, 1.0), (0.25, 0.75)])
def test_batch_law_under_a_cache_and_where_a_pass_is_left_out(
    pipe: VideoDiTPipeline, cache: str, interval: tuple[float, float]
) -> None:
    set_cache(pipe, cache)
    together = clips(pipe, PROMPTS, guidance_interval=interval)
    for i, prompt in enumerate(PROMPTS):
        alone = clips(pipe, [prompt], i, guidance_interval=interval)
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("cache", LENIENT)
def test_where_guidance_begins_or_ends_nothing_is_reused(pipe: VideoDiTPipeline, cache: str) -> None:
    """Scales that differ so little as to change nothing but whether the second pass is run."""
    set_cache(pipe, cache)
    with runs(pipe, cache) as seen:
        clips(pipe, guidance_scale=[1.0] * 4 + [2.0] * 4 + [1.0] * 4)
    assert set(seen) == {1, 2}  # rows: each kind of step has run the model itself
    assert seen[0] == 1


def test_an_image_is_refused_where_its_last_block_is_skipped(pipe: VideoDiTPipeline) -> None:
    set_cache(pipe, "first-block")
    with pytest.raises(ValueError, match="which an image skips: take taylorseer"):
        clips(pipe, num_frames=1)
    set_cache(pipe, "taylorseer")
    assert clips(pipe, num_frames=1).shape[2] == 1


def test_an_image_is_refused_where_its_first_block_is_skipped() -> None:
    pipe = tiny_pipeline()
    pipe.register_modules(transformer=tiny_dit(axes=("time", "space")))
    set_cache(pipe, "first-block")
    with pytest.raises(ValueError, match="watches the first block, which an image skips: take taylorseer"):
        clips(pipe, num_frames=1)


def test_both_experts_are_under_a_cache_and_then_under_none() -> None:
    pipe = VideoDiTPipeline(**tiny_pipeline().components | {"transformer_2": tiny_dit()}, boundary_ratio=0.5)
    for cache, on in (("taylorseer", True), (None, False)):
        set_cache(pipe, cache)
        assert [pipe.transformer.is_cache_enabled, pipe.transformer_2.is_cache_enabled] == [on, on]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("faster-cache", "none of first-block, pyramid-attention, taylorseer, sea"),
        ("taylorseer=1", "a whole number of steps, 2 or more"),
        ("taylorseer=2.5", "a whole number"),
        ("first-block=little", "little must be a number, 0 or more"),
        ("sea=-1", "0 or more"),
        ("sea=inf", "0 or more"),
        ("taylorseer=inf", "2 or more"),
    ],
)
def test_what_is_no_cache_is_named(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        named_cache(text)


def test_a_number_that_is_not_given_is_the_default() -> None:
    assert named_cache("taylorseer") == ("taylorseer", 3)
    assert named_cache("first-block=0.05") == ("first-block", 0.05)


def test_sea_is_refused_by_a_model_of_another_path(pipe: VideoDiTPipeline) -> None:
    own, pipe.scheduler = pipe.scheduler, DDIMScheduler()
    try:
        with pytest.raises(ValueError, match="for flow models, not for DDIMScheduler"):
            set_cache(pipe, "sea")
    finally:
        pipe.scheduler = own
    assert not pipe.transformer.is_cache_enabled
