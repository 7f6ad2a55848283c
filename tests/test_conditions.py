"""What the model is told: states in place of prompts give the same clip, and a callback sees and changes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler
from tiny import tiny_dit

from videodit.pipeline import VideoDiTPipeline

NAMES = ("prompt_embeds", "prompt_attention_mask", "negative_prompt_embeds", "negative_prompt_attention_mask")
PROMPTS = ["a red circle", "two blue stars moving left"]


def clips(pipe: VideoDiTPipeline, prompts: Any = None, count: int = 2, **options: Any) -> torch.Tensor:
    generator = [torch.Generator().manual_seed(i) for i in range(count)]
    options = {"num_inference_steps": 3, "guidance_scale": 2.0, "output_type": "latent", **options}
    return pipe(prompts, generator=generator, **options).frames


def states(pipe: VideoDiTPipeline, prompts: Any = PROMPTS, negative: Any = None) -> dict[str, Any]:
    return dict(zip(NAMES, pipe.encode_prompt(prompts, negative_prompt=negative), strict=True))


@pytest.fixture
def without(tiny_pipe: VideoDiTPipeline) -> VideoDiTPipeline:
    """The same pipeline, with no text encoder."""
    parts = tiny_pipe.components | {"text_encoder": None, "tokenizer": None}
    pipe = VideoDiTPipeline(**parts, default_num_frames=9, default_height=32, default_width=32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


# --- embeds ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("negative", [None, "blue", ["blue", "a red circle moving left"]])
@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_states_of_prompts_give_the_clips_of_the_prompts(
    tiny_pipe: VideoDiTPipeline, without: VideoDiTPipeline, negative: Any, scale: float
) -> None:
    wanted = clips(tiny_pipe, PROMPTS, negative_prompt=negative, guidance_scale=scale)
    embeds = states(tiny_pipe, negative=negative)
    assert torch.equal(clips(tiny_pipe, guidance_scale=scale, **embeds), wanted)
    assert torch.equal(clips(without, guidance_scale=scale, **embeds), wanted)


def test_states_are_in_pixarts_order_and_of_one_length(tiny_pipe: VideoDiTPipeline) -> None:
    told, mask, untold, untold_mask = tiny_pipe.encode_prompt(PROMPTS, True, "")
    assert told.shape == untold.shape == (2, 6, 24)
    assert mask.sum(1).tolist() == [4, 6]  # words and the end token
    assert untold_mask.sum(1).tolist() == [1, 1]
    assert tiny_pipe.encode_prompt("a red circle", do_classifier_free_guidance=False)[2:] == (None, None)


def test_what_a_mask_hides_does_not_matter_and_one_negative_prompt_serves_all(without: VideoDiTPipeline) -> None:
    told, seen = torch.randn(2, 5, 24), torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    untold, one = torch.randn(1, 3, 24), torch.ones(1, 3)
    first = clips(without, **dict(zip(NAMES, (told, seen, untold, one), strict=True)))
    told[0, 3:] = torch.nan
    longer = torch.nn.functional.pad(seen, (0, 2)).bool(), torch.nn.functional.pad(told, (0, 0, 0, 2), value=9.0)
    each = untold.expand(2, -1, -1), one.expand(2, -1)
    again = clips(without, **dict(zip(NAMES, (longer[1], longer[0], *each), strict=True)))
    torch.testing.assert_close(again, first, rtol=1e-4, atol=1e-4)


def test_negative_states_beside_a_prompt_and_a_negative_prompt_beside_states(tiny_pipe: VideoDiTPipeline) -> None:
    wanted, embeds = clips(tiny_pipe, PROMPTS, negative_prompt="blue"), states(tiny_pipe, negative="blue")
    told, untold = ({name: embeds[name] for name in part} for part in (NAMES[:2], NAMES[2:]))
    torch.testing.assert_close(clips(tiny_pipe, PROMPTS, **untold), wanted)
    torch.testing.assert_close(clips(tiny_pipe, negative_prompt="blue", **told), wanted)


@pytest.mark.slow
def test_a_pipeline_is_loaded_without_its_text_encoder(tiny_pipe: VideoDiTPipeline, tmp_path: Path) -> None:
    tiny_pipe.save_pretrained(tmp_path)
    pipe = VideoDiTPipeline.from_pretrained(tmp_path, text_encoder=None, tokenizer=None)
    pipe.set_progress_bar_config(disable=True)
    assert torch.equal(clips(pipe, **states(tiny_pipe)), clips(tiny_pipe, PROMPTS))
    with pytest.raises(ValueError, match="no text encoder is loaded: give prompt_embeds"):
        clips(pipe, PROMPTS)
    with pytest.raises(ValueError, match="no text encoder is loaded"):
        pipe.encode_prompt(PROMPTS)


E, M = torch.zeros(2, 4, 24), torch.ones(2, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt_attention_mask": M, "prompts": PROMPTS}, "prompt_attention_mask without prompt_embeds"),
        ({"prompts": PROMPTS, "negative_prompt_attention_mask": M}, "without negative_prompt_embeds"),
        ({"prompt_embeds": E[..., :8], "prompt_attention_mask": M}, r"shape \(2, 4, 8\); this model reads .* 24\)"),
        ({"prompt_embeds": E[0], "prompt_attention_mask": M, "count": 4}, r"prompt_embeds has shape \(4, 24\)"),
        ({"prompt_embeds": E, "prompt_attention_mask": M[:, :3]}, r"mask has shape \(2, 3\).* needs \(2, 4\)"),
        ({"prompt_embeds": E, "prompt_attention_mask": M * 0}, "a row masks all its tokens"),
        ({"prompts": PROMPTS, "prompt_embeds": E, "prompt_attention_mask": M}, "give one of them"),
        (dict(zip(NAMES, (E, M, E, M), strict=True), negative_prompt=""), "give one of them"),
        ({"prompt_embeds": E, "prompt_attention_mask": M, "use_text_mask": False}, "use_text_mask=False"),
        (dict(zip(NAMES, (E, M, torch.zeros(3, 4, 24), torch.ones(3, 4)), strict=True)), "3 negative prompts for 2"),
        ({"prompts": PROMPTS, "negative_prompt": ["", "", ""]}, "3 negative prompts for 2 prompts; give one"),
        ({"count": 0}, "the prompt is empty"),
    ],
)
def test_embeds_that_do_not_fit_are_named(tiny_pipe: VideoDiTPipeline, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        clips(tiny_pipe, **options)


def test_a_model_that_is_told_a_class_takes_neither_prompt_nor_embeds(tiny_pipe: VideoDiTPipeline) -> None:
    told = {"caption_channels": None, "num_classes": 3, "norm_type": "ada_norm_zero"}
    parts = {"text_encoder": None, "tokenizer": None, "transformer": tiny_dit(**told)}
    pipe = VideoDiTPipeline(**tiny_pipe.components | parts)
    for options in ({"prompt": PROMPTS}, {"prompt_embeds": E, "prompt_attention_mask": M}):
        with pytest.raises(ValueError, match=r"told a class: give class_labels \(0 to 2\), not a prompt"):
            pipe(**options)
        with pytest.raises(ValueError, match="in place of a prompt"):
            pipe(class_labels=[0, 1], **options)


# --- callbacks -------------------------------------------------------------------------------------------------------


SMALL = {"default_num_frames": 9, "default_height": 32, "default_width": 32}


def watch(pipe: VideoDiTPipeline, *names: str, **options: Any) -> list[dict[str, torch.Tensor]]:
    seen: list[dict[str, torch.Tensor]] = []

    def look(pipe: Any, step: int, t: Any, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        seen.append({name: tensor.clone() for name, tensor in tensors.items()})
        return tensors

    clips(pipe, PROMPTS, callback_on_step_end=look, callback_on_step_end_tensor_inputs=names, **options)
    return seen


def test_a_callback_is_given_what_it_asks_for(tiny_pipe: VideoDiTPipeline) -> None:
    (first, *_) = seen = watch(tiny_pipe, "latents", *NAMES)
    assert len(seen) == 3
    assert list(first) == ["latents", *NAMES]
    embeds = states(tiny_pipe)
    assert all(torch.equal(first[name], embeds[name]) for name in NAMES)
    with pytest.raises(ValueError, match="'image' is none of latents, pred_original_sample, prompt_embeds"):
        watch(tiny_pipe, "latents", "image")
    with pytest.raises(ValueError, match="'negative_prompt_embeds' is none of"):
        watch(tiny_pipe, "negative_prompt_embeds", guidance_scale=1.0)


@pytest.mark.slow
def test_what_a_callback_gives_back_takes_the_place_of_what_was(tiny_pipe: VideoDiTPipeline) -> None:
    plain, other = clips(tiny_pipe, PROMPTS), states(tiny_pipe, PROMPTS[::-1])

    def made(**changes: torch.Tensor) -> torch.Tensor:
        return clips(tiny_pipe, PROMPTS, callback_on_step_end=lambda *_: changes)

    assert torch.equal(made(), plain)
    assert torch.equal(made(**states(tiny_pipe)), plain)
    swapped = made(**{name: other[name] for name in NAMES[:2]})
    assert (swapped - plain).abs().max() > 1e-3
    assert (made(**{name: other[name] for name in NAMES[:1]}) - swapped).abs().max() > 1e-3
    assert torch.equal(made(latents=torch.zeros_like(plain)), torch.zeros_like(plain))


@pytest.mark.parametrize(
    "scheduler",
    [
        FlowMatchEulerDiscreteScheduler(shift=3.0),
        DDIMScheduler(clip_sample=False),
        DDIMScheduler(clip_sample=False, prediction_type="v_prediction"),
        EulerDiscreteScheduler(timestep_spacing="leading"),
    ],
)
def test_the_clean_latents_of_a_step_are_those_that_the_scheduler_goes_to(
    tiny_pipe: VideoDiTPipeline, scheduler: Any
) -> None:
    """At the last step to themselves; DDIM says of every step what they are."""
    scheduled, said = VideoDiTPipeline(**tiny_pipe.components | {"scheduler": scheduler}, **SMALL), []
    scheduled.set_progress_bar_config(disable=True)
    if isinstance(scheduler, DDIMScheduler):
        step = scheduler.step

        def spied(*args: Any, **options: Any) -> Any:
            said.append(step(*args).pred_original_sample)
            return step(*args, **options)

        scheduler.step = spied  # type: ignore[method-assign]
    seen = watch(scheduled, "latents", "pred_original_sample")
    assert (seen[0]["latents"] - seen[0]["pred_original_sample"]).abs().max() > 1e-2
    torch.testing.assert_close(seen[-1]["pred_original_sample"], seen[-1]["latents"], rtol=1e-3, atol=1e-3)
    for one, reference in zip(seen, said, strict=False):
        torch.testing.assert_close(one["pred_original_sample"], reference, rtol=1e-3, atol=1e-3)
