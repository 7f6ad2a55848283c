"""One step's prediction, of a model that says plain numbers: what the passes of guidance make of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler

from videodit.conditions import Told
from videodit.given import Given
from videodit.models import Condition
from videodit.pipeline.passes import guided_prediction, passes_of

TEXT, FRAMES, RANGE = 1.0, 10.0, 100.0  # what the prompt and given frames add to a prediction; its second half


class Says(torch.nn.Module):
    """Of each row the sum of what it is told, and, of a learned range, the second half of channels that follows."""

    is_cache_enabled = False
    conditions = (Condition("text", "text", 1),)

    def __init__(self, learned_range: bool) -> None:
        super().__init__()
        self.learned_range = learned_range

    def forward(
        self,
        latents: torch.Tensor,
        times: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        frame_mask: torch.Tensor | None = None,
        **rest: Any,
    ) -> tuple[torch.Tensor]:
        frames = 0.0 if frame_mask is None else frame_mask.any(dim=1).float()
        said = (TEXT * encoder_hidden_states.flatten() + FRAMES * frames).reshape(-1, 1, 1, 1, 1).expand_as(latents)
        return (torch.cat([said, RANGE + said], dim=1) if self.learned_range else said,)


def predicted(
    guidance: tuple[float, float, float], scheduler: Any, *, learned_range: bool = False, shown: bool = True
) -> torch.Tensor:
    """Of two clips, the second of which has a text that counts twice."""
    latents = torch.zeros(2, 3, 4, 2, 2)
    texts = torch.tensor([1.0, 2.0, 0.0, 0.0])  # with the prompt, then without
    mask = torch.tensor([[True, False, False, False]] * 2)
    return guided_prediction(
        Says(learned_range),
        scheduler,
        latents,
        torch.tensor(500.0 if isinstance(scheduler, FlowMatchEulerDiscreteScheduler) else 500),
        lambda rows: Told({"prompt_embeds": texts[list(rows)].reshape(-1, 1, 1)}),
        guidance,
        Given(latents, mask) if shown else None,
        torch.zeros_like(latents),
        {},
    )


@pytest.mark.parametrize(("scale", "image_scale"), [(3.0, 1.5), (1.0, 1.5), (2.5, 2.5), (4.0, 1.0), (1.0, 1.0)])
@pytest.mark.parametrize("learned_range", [False, True])
def test_each_scale_multiplies_what_it_is_the_scale_of(scale: float, image_scale: float, learned_range: bool) -> None:
    """Predictions add up, so guidance is `scale` times what the text adds and `image_scale` times what frames add."""
    found = predicted((scale, image_scale, 0.0), FlowMatchEulerDiscreteScheduler(), learned_range=learned_range)
    assert found.shape == (2, 3, 4, 2, 2)
    for clip, text in ((0, 1.0), (1, 2.0)):
        expected = scale * TEXT * text + image_scale * FRAMES
        torch.testing.assert_close(found[clip], torch.full((3, 4, 2, 2), expected))


def test_without_given_frames_there_is_the_text_alone() -> None:
    found = predicted((3.0, 1.0, 0.0), FlowMatchEulerDiscreteScheduler(), shown=False)
    assert found[:, 0, 0, 0, 0].tolist() == [3 * TEXT, 6 * TEXT]


@pytest.mark.parametrize("variance", ["learned", "learned_range"])
def test_the_half_of_a_learned_range_goes_on_to_a_scheduler_that_takes_it(variance: str) -> None:
    taken = predicted((3.0, 1.0, 0.0), DDPMScheduler(variance_type=variance), learned_range=True, shown=False)
    assert taken.shape[1] == 6
    assert taken[:, 0, 0, 0, 0].tolist() == [3 * TEXT, 6 * TEXT]
    assert taken[:, 3, 0, 0, 0].tolist() == [RANGE + 3 * TEXT, RANGE + 6 * TEXT]
    left = predicted((3.0, 1.0, 0.0), DDPMScheduler(), learned_range=True, shown=False)
    torch.testing.assert_close(left, taken[:, :3])


@pytest.mark.parametrize(
    ("scales", "passes"),
    [
        ((1.0, 1.0), [True]),
        ((3.0, 1.0), [True, True]),
        ((3.0, 3.0), [True, False]),
        ((1.0, 3.0), [True, True, False]),
        ((3.0, 2.0), [True, True, False]),
    ],
)
def test_passes_are_those_that_count(scales: tuple[float, float], passes: list[bool]) -> None:
    assert passes_of(*scales) == passes
