"""Skip-layer guidance: a further pass without some blocks, which the prediction goes away from."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from PIL import Image
from tiny import awaken, tiny_dit
from torch import Tensor

from videodit import VideoDiTPipeline
from videodit.caching import set_cache
from videodit.clipset import Request, Sampling, make_clips
from videodit.commands import sample
from videodit.conditions import Told
from videodit.models import Condition
from videodit.pipeline.passes import guided_prediction


@torch.no_grad()
@pytest.mark.parametrize("positions", ["rotary", "both", "sincos"])
@pytest.mark.parametrize("layers", [[0], [1], [1, 2]])
def test_a_block_that_is_left_out_is_a_silent_one(layers: list[int], positions: str) -> None:
    """Places in time, which are added before the first block along it, are there for the others all the same."""
    model = awaken(tiny_dit(num_layers=2, time_positions=positions)).eval()
    silent, draw = copy.deepcopy(model), torch.Generator().manual_seed(0)
    for layer in layers:
        silent.blocks[layer].silence()
    x, text = torch.randn(2, 4, 3, 8, 8, generator=draw), torch.randn(2, 5, 24, generator=draw)
    times = torch.tensor([100.0, 900.0])
    without = model(x, times, text, skip_layers=layers).sample
    torch.testing.assert_close(without, silent(x, times, text).sample)
    assert not torch.allclose(without, model(x, times, text).sample)


class Says(torch.nn.Module):
    """A prompt's number, 8 more where no block is left out; of a second half of channels 50 more."""

    is_cache_enabled = False
    conditions = (Condition("text", "text", 1),)

    def __init__(self, learned_range: bool) -> None:
        super().__init__()
        self.learned_range, self.rows = learned_range, []

    def forward(
        self, x: Tensor, times: Tensor, encoder_hidden_states: Tensor, skip_layers: Any = (), **_: Any
    ) -> tuple[Tensor]:
        self.rows.append((len(x), list(skip_layers)))
        said = encoder_hidden_states.reshape(-1, 1, 1, 1, 1).expand_as(x) + (0.0 if skip_layers else 8.0)
        return (torch.cat([said, 50 + said], dim=1) if self.learned_range else said,)


@pytest.mark.parametrize("learned_range", [False, True])
def test_the_prediction_goes_away_from_that_of_the_prompt_without_the_blocks(learned_range: bool) -> None:
    model, x = Says(learned_range), torch.zeros(2, 3, 4, 2, 2)
    scheduler = DDPMScheduler() if learned_range else FlowMatchEulerDiscreteScheduler()
    texts = torch.tensor([1.0, 2.0, 0.0, 0.0])  # with the prompt, then without
    found = guided_prediction(
        model,
        scheduler,
        x,
        torch.tensor(500),
        lambda rows: Told({"prompt_embeds": texts[list(rows)].reshape(-1, 1, 1)}),
        (3.0, 1.0, 0.0),
        None,
        x,
        {},
        ([4], 0.5),
    )
    guided = torch.tensor([8 + 3 * 1.0, 8 + 3 * 2.0])  # free + 3 (told - free)
    torch.testing.assert_close(found, (guided + 0.5 * 8).reshape(2, 1, 1, 1, 1).expand_as(x))
    assert model.rows == [(4, []), (2, [4])]


def test_the_pass_is_run_between_its_shares_of_the_steps_alone(tiny_pipe: VideoDiTPipeline) -> None:
    seen: list[Any] = []
    hook = tiny_pipe.transformer.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs.get("skip_layers")), with_kwargs=True
    )
    how: dict[str, Any] = {"num_inference_steps": 10, "guidance_scale": 1.0, "output_type": "latent"}
    tiny_pipe("a red circle", **how, generator=torch.Generator().manual_seed(0), skip_guidance_layers=[1])
    assert seen == [None, None, [1], *[None] * 8]  # the second step: beyond .01, before .2 of ten
    seen.clear()
    shares = {"skip_layer_guidance_start": 0.3, "skip_layer_guidance_stop": 0.61}
    tiny_pipe("a red circle", **how, **shares, skip_guidance_layers=[1])
    assert [number for number, layers in enumerate(seen) if layers] == [
        5,
        7,
        9,
    ]  # steps 4, 5 and 6, each behind its own
    hook.remove()


def test_clips_are_made_so_and_their_settings_say_it(tiny_pipe: VideoDiTPipeline, tmp_path: Path) -> None:
    made = {}
    for name, sampling in {
        "plain": Sampling(steps=4),
        "none": Sampling(
            steps=4, skip_guidance_layers=[0], skip_layer_guidance_scale=0.0, skip_layer_guidance_stop=1.0
        ),
        "away": Sampling(
            steps=4, skip_guidance_layers=[0], skip_layer_guidance_scale=3.0, skip_layer_guidance_stop=1.0
        ),
    }.items():
        [path] = make_clips(
            tiny_pipe, [Request("a red circle", num_frames=1)], [tmp_path / f"{name}.png"], sampling, model="m"
        )
        made[name] = Image.open(path).tobytes()
    assert made["plain"] == made["none"] != made["away"]
    told = {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in made}
    assert "skip_guidance_layers" not in told["plain"]
    assert told["away"]["skip_guidance_layers"] == [0]
    assert told["away"]["skip_layer_guidance_stop"] == 1.0


def test_the_command_says_it_as_the_pipeline_does(
    monkeypatch: pytest.MonkeyPatch, tiny_pipe: VideoDiTPipeline, tmp_path: Path
) -> None:
    seen: list[dict[str, Any]] = []

    def call(self: VideoDiTPipeline, *args: Any, **kwargs: Any) -> Any:
        seen.append({name: value for name, value in kwargs.items() if name.startswith("skip")})
        return pipeline_call(self, *args, **kwargs)

    pipeline_call = VideoDiTPipeline.__call__
    monkeypatch.setattr(VideoDiTPipeline, "__call__", call)
    tiny_pipe.save_pretrained(tmp_path / "model")
    out = tmp_path / "clip.png"
    words = ["--prompt", "a red circle", "--model", tmp_path / "model", "--num-frames", 1, "--steps", 2, "--out", out]
    words += ["--skip-guidance-layers", 0, 1, "--skip-layer-guidance-scale", 1.5]
    words += ["--skip-layer-guidance-start", 0.1, "--skip-layer-guidance-stop", 0.9]
    monkeypatch.setattr("sys.argv", ["sample_video.py", *map(str, words)])
    assert sample.main() == 0
    said = {"skip_guidance_layers": [0, 1], "skip_layer_guidance_scale": 1.5}
    assert seen == [said | {"skip_layer_guidance_start": 0.1, "skip_layer_guidance_stop": 0.9}]


def test_what_cannot_be_is_named(tiny_pipe: VideoDiTPipeline) -> None:
    last = len(tiny_pipe.transformer.blocks) - 1
    with pytest.raises(ValueError, match=f"{last + 1} is no block of this model: 0 to {last}"):
        tiny_pipe("a red circle", skip_guidance_layers=[last + 1])
    with pytest.raises(ValueError, match="no step lies between"):
        tiny_pipe("a red circle", num_inference_steps=4, skip_guidance_layers=[1])
    set_cache(tiny_pipe, "taylorseer")
    with pytest.raises(ValueError, match="does not go with a feature cache"):
        tiny_pipe("a red circle", skip_guidance_layers=[1])
    set_cache(tiny_pipe, None)
    with pytest.raises(ValueError, match="skip_layer_guidance_stop is of skip_guidance_layers"):
        Sampling(skip_layer_guidance_stop=0.5)
