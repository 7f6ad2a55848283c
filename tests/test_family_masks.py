"""Masks of given states, with image models: what they leave out has no effect, or is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from families import MASKED, tiny_image_model, told

from videodit import TimeExtended, VideoDiTPipeline

READS_PADDING = ("SD3", "Flux", "Flux2")


def given(name: str) -> tuple[Any, dict[str, Any]]:
    """A pipeline that is told states, and five tokens of them."""
    pipe: Any = VideoDiTPipeline(
        vae=None,
        text_encoder=None,
        tokenizer=None,
        transformer=TimeExtended(tiny_image_model(name)),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae_strides=[1, 2, 16 if name == "Flux2" else 4],
        default_num_frames=2,
    )
    pipe.set_progress_bar_config(disable=True)
    made = told(name, pipe.transformer.image, clips=1, tokens=5)
    text = {"prompt_embeds": made["encoder_hidden_states"]}
    if "pooled_projections" in made:
        text["pooled_prompt_embeds"] = made["pooled_projections"]
    return pipe, text


def clip(pipe: Any, scale: float = 1.0, **text: Any) -> torch.Tensor:
    latents = torch.randn(1, pipe.transformer.in_channels, 2, 8, 8, generator=torch.Generator().manual_seed(3))
    size = {"height": 16, "width": 16, "num_inference_steps": 2, "output_type": "latent"}
    return pipe(latents=latents, guidance_scale=scale, **text, **size).frames


@pytest.mark.parametrize("name", [name for name in MASKED if name != "PixArt"])
def test_a_mask_with_holes_is_the_tokens_that_it_leaves_alone(name: str) -> None:
    pipe, text = given(name)
    states = text["prompt_embeds"]
    wanted = clip(pipe, prompt_embeds=states)
    for places in ([0, 1, 2, 3, 4], [2, 3, 4, 5, 6], [0, 2, 3, 5, 6]):
        mask, wide = torch.zeros(1, 7), torch.randn(1, 7, 32)
        mask[:, places], wide[:, places] = 1, states
        found = clip(pipe, prompt_embeds=wide, prompt_attention_mask=mask)
        torch.testing.assert_close(found, wanted, atol=1e-5 * float(wanted.abs().max()), rtol=0)


@pytest.mark.parametrize("name", READS_PADDING)
def test_families_that_attend_to_padding_refuse_what_would_pad(name: str) -> None:
    pipe, text = given(name)
    whole, part = torch.ones(1, 5), torch.tensor([[1, 1, 1, 0, 0]])
    assert torch.equal(clip(pipe, **text, prompt_attention_mask=whole), clip(pipe, **text))
    with pytest.raises(ValueError, match="prompt_attention_mask leaves tokens out, but this model attends to padding"):
        clip(pipe, **text, prompt_attention_mask=part)
    against = {f"negative_{key}": value for key, value in text.items()}
    against["negative_prompt_embeds"] = against["negative_prompt_embeds"][:, :3]
    true = {} if name == "SD3" else {"true_cfg_scale": 2.0}
    with pytest.raises(ValueError, match="prompt_embeds has 5 tokens and negative_prompt_embeds 3; this model attends"):
        clip(pipe, 2.0, **text, **against, **true)
