"""Peer law: prompts, negative ones too, are encoded as the family's own pipeline encodes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from family_pipelines import gemma_pipeline
from safetensors import safe_open

from videodit import extend_in_time
from videodit.clipset import Request, prompts_of, read_texts, write_texts

PROMPT, AGAINST = "a red circle moving left", "two blue stars"
FRAMES = 2
SIZE: dict[str, Any] = {"height": 32, "width": 32, "num_inference_steps": 3, "output_type": "latent"}
HOW: dict[str, dict[str, Any]] = {"Sana": {"use_resolution_binning": False}, "Lumina2": {"cfg_normalization": False}}


def silent(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.slow
@pytest.mark.parametrize("name", HOW)
def test_a_silent_clip_of_prompts_is_its_own_pipeline_on_every_frame(name: str, tmp_path: Path) -> None:
    pipe, ours = silent(gemma_pipeline(name)), silent(extend_in_time(gemma_pipeline(name), num_frames=FRAMES))
    latents = torch.randn(1, 4, FRAMES, 16, 16, generator=torch.Generator().manual_seed(3))
    for against in (AGAINST, PROMPT):
        how = {"negative_prompt": against, "guidance_scale": 4.0, **SIZE}
        found = ours(PROMPT, latents=latents, **how).frames
        wanted = pipe(PROMPT, latents=latents[:, :, 1], **HOW[name], **how)[0]
        torch.testing.assert_close(found[:, :, 1], wanted, atol=1e-5 * float(wanted.abs().max()), rtol=0)

    # kept in a file, a prompt and a negative prompt of the same words are two things
    asked = prompts_of([Request(PROMPT, negative_prompt=PROMPT)])
    file = write_texts(tmp_path / "t.safetensors", ours.text, *asked)
    texts, _ = read_texts(file, *asked, width=32)
    told, _, untold, _ = ours.encode_prompt(PROMPT, True, PROMPT)
    assert torch.equal(texts.told[PROMPT].states, told[0, : len(texts.told[PROMPT].states)])
    assert torch.equal(texts.untold[PROMPT].states, untold[0, : len(texts.untold[PROMPT].states)])
    assert not torch.equal(texts.told[PROMPT].states, texts.untold[PROMPT].states)
    with safe_open(file, "pt") as tensors:
        assert sorted(key.partition("/")[2] for key in tensors.keys()) == ["", f"against {PROMPT}"]  # noqa: SIM118
    with pytest.raises(ValueError, match=r"1 prompts are not in it, first 'two blue stars'"):
        read_texts(file, [PROMPT], [AGAINST], width=32)
    with pytest.raises(ValueError, match="holds states of 1 other prompts"):
        write_texts(file, ours.text, [PROMPT])
