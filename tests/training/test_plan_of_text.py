"""A dry run takes every text encoder that training takes."""

from __future__ import annotations

from pathlib import Path

import pytest
from runs import run
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel

from videodit.text import TextEncoder
from videodit.training.plan import plan

CAPTIONS = ["a red circle moving left", "two blue stars"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pipeline", "plain", "clip", "clip text"])
def test_the_width_of_an_encoder_is_known_without_loading_it(tmp_path: Path, kind: str) -> None:
    encoder, folder = TextEncoder.from_captions(CAPTIONS, width=24, depth=1, heads=2), tmp_path / "encoder"
    if kind == "pipeline":
        encoder.save_pretrained(folder)
    else:
        encoder.tokenizer.save_pretrained(folder)
        text = {"hidden_size": 24, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
        small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        model = {
            "plain": lambda: encoder.text_encoder,
            "clip": lambda: CLIPModel(CLIPConfig(text_config=text, vision_config=small, projection_dim=8)),
            "clip text": lambda: CLIPTextModel(CLIPTextConfig(**text)),
        }[kind]()
        model.save_pretrained(folder)
    assert TextEncoder.from_pretrained(folder).width == TextEncoder.width_of(folder) == 24
    planned = plan(run(tmp_path, text={"source": str(folder)})).parameters
    assert planned == plan(run(tmp_path, text={"width": 24})).parameters > 0  # as with an encoder of its own, as wide
