"""A model that keeps `models.VideoModel`, and is no `VideoDiT`, is sampled and trained on like one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from tiny import tiny_dit, tiny_pipeline
from torch import Tensor, nn

from videodit.models import Condition, Schedule, VideoModel
from videodit.pipeline import VideoDiTPipeline
from videodit.training.model import Model, choose_weights


class Says(ModelMixin, ConfigMixin):
    """Predicts its latents, times a weight, and the mean of the text's states: no cache, no memory of the text."""

    patch_size = (1, 1, 1)
    is_cache_enabled = False

    @register_to_config
    def __init__(self, channels: int = 4, text: int = 24) -> None:
        super().__init__()
        self.in_channels = self.out_channels = channels
        self.conditions = (Condition("text", "text", text), Condition("size", "size", 2))
        self.parts = nn.ModuleList([nn.Linear(text, channels)])
        self.weight = nn.Parameter(torch.tensor(0.5))

    @property
    def units(self) -> nn.ModuleList:
        return self.parts

    @property
    def gathered(self) -> list[nn.Module]:
        return [*self.parts]

    def axis_of(self, name: str) -> str:
        return "joint" if name.startswith("parts.") else ""

    def checkpoint_units(self, every: int) -> None: ...

    def schedule(self, steps: int, frames: int, places: int) -> Schedule:
        return Schedule(frames * places)

    def set_sequence_group(self, group: Any) -> None: ...

    def text_memory(self, states: Tensor, mask: Tensor | None = None, attention_kwargs: Any = None) -> None: ...

    def forward(self, hidden_states: Tensor, timestep: Tensor, **told: Any) -> tuple[Tensor]:
        assert told["added_cond_kwargs"]["resolution"].shape == (len(hidden_states), 2)
        mask = told["encoder_attention_mask"][..., None].float()
        said = self.parts[0]((told["encoder_hidden_states"] * mask).sum(1) / mask.sum(1))
        return (self.weight * hidden_states + said[:, :, None, None, None],)


def test_a_videodit_and_another_keep_the_contract() -> None:
    for model in (tiny_dit(), Says()):
        kept: VideoModel = model  # type: ignore[assignment]
        for name in VideoModel.__annotations__:
            assert getattr(kept, name) is not None
        assert {condition.kind for condition in kept.conditions} >= {"text"}
        assert len(kept.units) > 0


def test_another_model_is_sampled() -> None:
    pipe = tiny_pipeline()
    other = VideoDiTPipeline(**pipe.components | {"transformer": Says()})
    other.set_progress_bar_config(disable=True)
    size: dict[str, Any] = {"num_frames": 5, "height": 16, "width": 16, "output_type": "latent"}
    latents = torch.randn(2, *other.default_size.latent(other.strides)[:1], 2, 2, 2)
    found = other(
        ["a red circle", "two blue stars"], latents=latents, num_inference_steps=1, guidance_scale=1.0, **size
    ).frames
    states, mask, _ = pipe.text(["a red circle", "two blue stars"])
    model, weights = other.transformer, mask[..., None].float()
    with torch.no_grad():
        said = model.parts[0]((states * weights).sum(1) / weights.sum(1))[:, :, None, None, None]
        expected = latents - (1.0 - 0.0) * (0.5 * latents + said)  # one step of Euler from noise to data
    assert (found - expected).abs().max() < 2e-3 * expected.abs().max()  # the last time is .001, not 0


def test_another_model_is_trained_on_and_its_weights_are_chosen_by_axis() -> None:
    text = tiny_pipeline().text
    model = Model(Says(), text, None, 8)  # type: ignore[arg-type]
    found = model(torch.randn(2, 4, 3, 2, 2), torch.tensor([3.0, 900.0]), ["a red circle", ""], 8.0)
    found.square().mean().backward()
    assert model.transformer.weight.grad is not None

    class Run:
        class train:
            weights, lora = ("joint",), None

    choose_weights(model, Run, None)  # type: ignore[arg-type]
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert trained == {"transformer.parts.0.weight", "transformer.parts.0.bias"}
    Run.train.weights = ("time",)
    with pytest.raises(ValueError, match="'time' is neither an axis"):
        choose_weights(model, Run, None)  # type: ignore[arg-type]
