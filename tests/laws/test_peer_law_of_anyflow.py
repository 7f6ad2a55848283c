"""Peer law: AnyFlow, a flow map of Wan, as diffusers computes it, and as its pipeline samples in few steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AnyFlowPipeline, AnyFlowTransformer3DModel, FlowMapEulerDiscreteScheduler
from peers import PROMPTS, tiny_wan_pipeline
from tiny import awaken

from videodit.exchange import open_model, pipeline_from_diffusers, pipeline_to_diffusers
from videodit.models.adapters import adapter_pairs
from videodit.models.formats.files import from_diffusers, to_diffusers
from videodit.models.formats.table import ConversionError

SHAPE: dict[str, Any] = {"num_attention_heads": 2, "attention_head_dim": 20, "in_channels": 4, "out_channels": 4}
SHAPE |= {"freq_dim": 32, "ffn_dim": 60, "num_layers": 2, "text_dim": 20}


def tiny_anyflow(**options: Any) -> AnyFlowTransformer3DModel:
    torch.manual_seed(0)
    return awaken(AnyFlowTransformer3DModel(**SHAPE | options), scale=0.1)


@pytest.mark.parametrize("options", [{}, {"cross_attn_norm": False, "gate_value": 0.5}])
def test_peer_law_anyflow_outputs_and_gradients_agree(options: dict[str, Any]) -> None:
    theirs = tiny_anyflow(**options)
    ours, report = from_diffusers(theirs)
    assert len(report.copied) == len(theirs.state_dict())
    g = torch.Generator().manual_seed(1)
    x, text = torch.randn(2, 4, 3, 4, 6, generator=g), torch.randn(2, 512, 20, generator=g)
    late, early = torch.tensor([803.0, 500.0]), torch.tensor([300.0, 0.0])
    theirs_x, ours_x = (x.clone().requires_grad_() for _ in range(2))
    of_frames = [one[:, None].expand(-1, 3) for one in (late, early)]
    expected = theirs(theirs_x.transpose(1, 2), *of_frames, text).sample.transpose(1, 2)
    actual = ours(ours_x, late, text, r_timestep=early).sample
    assert (actual - expected).norm() < 1e-5 * expected.norm()
    grads = [torch.autograd.grad(out.square().mean(), [at])[0] for out, at in ((expected, theirs_x), (actual, ours_x))]
    assert (grads[0] - grads[1]).norm() < 1e-4 * grads[0].norm()
    back = to_diffusers(ours, "anyflow")
    assert all(torch.equal(weight, back.state_dict()[name]) for name, weight in theirs.state_dict().items())
    assert back.config.gate_value == theirs.config.gate_value
    with pytest.raises(ConversionError, match="flow_map_gate"):
        to_diffusers(ours, "wan")


def test_adapters_name_its_layers_as_diffusers_and_wans_own_files_do() -> None:
    ours = from_diffusers(tiny_anyflow())[0]
    down, up = torch.ones(2, 40), torch.ones(60, 2)
    for name in ("transformer.blocks.0.ffn.net.0.proj", "diffusion_model.blocks.0.ffn.0"):
        ours.load_lora_adapter({f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}, adapter_name="it")
        assert list(adapter_pairs(ours, "it")) == ["blocks.0.ff.net.0.proj"]
        ours.delete_adapters("it")


def test_what_of_it_a_videodit_has_not_is_named() -> None:
    with pytest.raises(ConversionError, match="deltatime_type='t-r': a VideoDiT of it has 'r' only"):
        from_diffusers(tiny_anyflow(deltatime_type="t-r"))
    with pytest.raises(ConversionError, match="image_dim"):
        from_diffusers(tiny_anyflow(image_dim=8))


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 4])
def test_peer_law_anyflow_from_prompt_to_pixels(steps: int, tmp_path: Path) -> None:
    wan = tiny_wan_pipeline()
    scheduler = FlowMapEulerDiscreteScheduler(shift=5.0)
    theirs = AnyFlowPipeline(wan.tokenizer, wan.text_encoder, tiny_anyflow(), wan.vae, scheduler)
    theirs.set_progress_bar_config(disable=True)
    how = {"num_frames": 5, "height": 32, "width": 64, "output_type": "pt", "num_inference_steps": steps}
    latents = torch.randn(2, 4, 2, 4, 8)
    expected = theirs(PROMPTS, latents=latents.clone(), **how).frames
    theirs.save_pretrained(tmp_path)
    for ours in (pipeline_from_diffusers(theirs)[0], open_model(tmp_path)[0]):
        ours.set_progress_bar_config(disable=True)  # type: ignore[union-attr]
        actual = ours(PROMPTS, latents=latents.clone(), **how).frames  # type: ignore[operator]
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
        assert (ours.config.default_num_inference_steps, ours.config.default_guidance_scale) == (4, 1.0)
    back = pipeline_to_diffusers(ours, "anyflow")  # type: ignore[arg-type]
    back.set_progress_bar_config(disable=True)
    torch.testing.assert_close(back(PROMPTS, latents=latents.clone(), **how).frames, expected)
