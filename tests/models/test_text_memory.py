"""Text memory: a text's keys and values, made once, give what the text itself gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import FirstBlockCacheConfig
from peft import LoraConfig
from tiny import awaken, tiny_dit
from torch import Tensor

from videodit.models.attention import TextMemory
from videodit.models.transformer import VideoDiT

MODELS: dict[str, dict[str, Any]] = {
    "factorized": {},
    "text in space alone": {"cross_attention_axes": ("space",)},
    "all tokens at once": {"axes": ("joint",), "norm_type": "ada_norm_zero"},
}


def inputs(frames: int = 3) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(latents and times, text): of three samples, one with a shorter text and one with none."""
    g = torch.Generator().manual_seed(0)
    x = {"hidden_states": torch.randn(3, 4, frames, 8, 8, generator=g), "timestep": torch.tensor([5.0, 300.0, 900.0])}
    mask = torch.arange(6) < torch.tensor([[6], [2], [0]])
    return x, {"encoder_hidden_states": torch.randn(3, 6, 24, generator=g), "encoder_attention_mask": mask}


def agree(model: VideoDiT, memory: TextMemory, x: dict[str, Any], text: dict[str, Tensor], **kwargs: Any) -> None:
    torch.testing.assert_close(
        model(**x, text_memory=memory, **kwargs).sample, model(**x, **text, **kwargs).sample, rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_a_memory_is_the_text(name: str, frames: int) -> None:
    model, (x, text) = tiny_dit(**MODELS[name]), inputs(frames)
    memory = model.text_memory(**text)
    agree(model, memory, x, text)
    agree(model, model.text_memory(text["encoder_hidden_states"]), x, text | {"encoder_attention_mask": None})
    rows = [2, 0]
    agree(model, memory[rows], {k: v[rows] for k, v in x.items()}, {k: v[rows] for k, v in text.items()})


@torch.no_grad()
def test_a_memory_is_of_one_text_and_leaves_nothing_behind() -> None:
    model, (x, text) = tiny_dit(), inputs()
    first, other = model.text_memory(**text), text | {"encoder_hidden_states": text["encoder_hidden_states"].flip(0)}
    second = model.text_memory(**other)
    agree(model, first, x, text)
    agree(model, second, x, other)
    agree(model, first, x, text)
    assert not torch.allclose(model(**x, text_memory=first).sample, model(**x, text_memory=second).sample)


@torch.no_grad()
def test_a_memory_needs_no_projection_of_the_text() -> None:
    model, (x, text) = tiny_dit(), inputs()
    memory = model.text_memory(**text)

    def fail(*_: object) -> None:
        raise AssertionError("the text was projected again")

    model.caption_projection.register_forward_pre_hook(fail)
    for block in model.blocks:
        block.attn2.to_k.register_forward_pre_hook(fail)
        block.attn2.to_v.register_forward_pre_hook(fail)
    model(**x, text_memory=memory)
    with pytest.raises(AssertionError, match="again"):
        model(**x, **text)


@torch.no_grad()
def test_a_memory_with_adapters_at_a_scale() -> None:
    model, (x, text) = tiny_dit(), inputs()
    model.add_adapter(LoraConfig(r=2, target_modules=["to_k", "to_v", "to_q"], init_lora_weights=False))
    half = {"scale": 0.5}
    memory = model.text_memory(**text, attention_kwargs=half)
    agree(model, memory, x, text, attention_kwargs=half)
    assert not torch.allclose(model.text_memory(**text).blocks[0][0], memory.blocks[0][0])


@torch.no_grad()
def test_a_memory_under_a_cache_and_with_cast_weights() -> None:
    model, (x, text) = tiny_dit(), inputs()
    model.enable_layerwise_casting(storage_dtype=torch.bfloat16, compute_dtype=torch.float32)
    agree(model, model.text_memory(**text), x, text)
    model.enable_cache(FirstBlockCacheConfig(threshold=0.0))  # never skips
    plain = []
    for given in (text, {"text_memory": model.text_memory(**text)}):
        with model.cache_context("clips"):
            plain.append(model(**x, **given).sample)
    torch.testing.assert_close(*plain, rtol=1e-6, atol=1e-6)


def test_gradients_reach_the_text_through_a_memory() -> None:
    model, (x, text) = tiny_dit(), inputs()
    states = text["encoder_hidden_states"].requires_grad_()
    model(**x, text_memory=model.text_memory(**text)).sample.square().sum().backward()
    through_memory, states.grad = states.grad, None
    model(**x, **text).sample.square().sum().backward()
    torch.testing.assert_close(through_memory, states.grad)


def test_a_memory_where_there_is_a_text_or_none_is_taken() -> None:
    model, (x, text) = tiny_dit(), inputs()
    memory = model.text_memory(**text)
    with pytest.raises(ValueError, match="one or the other"):
        model(**x, **text, text_memory=memory)
    untold = awaken(tiny_dit(caption_channels=None))
    with pytest.raises(ValueError, match="takes no encoder_hidden_states"):
        untold.text_memory(**text)
    with pytest.raises(ValueError, match="takes no encoder_hidden_states"):
        untold(**x, text_memory=memory)
