"""`FamilyText`: what decides its states is saved and told by its fingerprint, and what it cannot do is named."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import AutoModel
from families import tiny_image_model
from family_pipelines import gemma_pipeline, hunyuan_pipeline, sd3_pipeline, stable_pipeline, z_image_pipeline
from standin import LEFT_EMPTY

from videodit import VideoDiTPipeline, extend_in_time
from videodit.text import FamilyText, load_text

PROMPT = "a red circle moving left"


@pytest.mark.slow
@pytest.mark.cpu(LEFT_EMPTY)
def test_a_length_is_saved_with_the_pipeline(tmp_path: Path) -> None:
    parts = extend_in_time(sd3_pipeline(), num_frames=2).components  # type: ignore[union-attr]
    saved = VideoDiTPipeline(**parts, text_pipeline="StableDiffusion3Pipeline", text_max_length=5)
    saved.save_pretrained(tmp_path / "pipe")
    pipe = VideoDiTPipeline.from_pretrained(tmp_path / "pipe")
    wanted = sd3_pipeline().encode_prompt(PROMPT, None, None, do_classifier_free_guidance=False, max_sequence_length=5)
    for text in (pipe.text, load_text(tmp_path / "pipe"), load_text(tmp_path / "pipe", tmp_path / "pipe")):
        assert isinstance(text, FamilyText)
        assert text.given_length == 5
        torch.testing.assert_close(text([PROMPT]).states, wanted[0], atol=1e-5, rtol=0)
    assert load_text(tmp_path / "pipe", max_length=7).max_length == 7
    longer = pipe.encode_prompt(PROMPT, max_sequence_length=7)[0]
    assert longer is not None
    assert longer.shape[1] == wanted[0].shape[1] + 2


def test_a_length_is_refused_where_a_family_takes_none() -> None:
    pipe: Any = extend_in_time(stable_pipeline(), num_frames=2)
    with pytest.raises(ValueError, match="StableDiffusionPipeline reads what its tokenizer says"):
        pipe.encode_prompt(PROMPT, max_sequence_length=5)
    assert pipe.encode_prompt(PROMPT)[0].shape[1] == 12


def test_an_encoder_that_a_family_does_not_do_without_is_named() -> None:
    theirs = hunyuan_pipeline()
    theirs.register_modules(text_encoder_2=None, tokenizer_2=None)
    pipe: Any = extend_in_time(theirs, num_frames=2)
    with pytest.raises(ValueError, match="HunyuanDiTPipeline encodes by text_encoder_2 and tokenizer_2 too"):
        pipe.encode_prompt(PROMPT)


def test_a_fingerprint_tells_all_that_a_tokenizer_does() -> None:
    pipe = z_image_pipeline()
    parts = {"text_encoder": pipe.text_encoder, "tokenizer": pipe.tokenizer}

    def of(**changes: Any) -> str:
        tokenizer = copy.deepcopy(pipe.tokenizer)
        for key, value in changes.items():
            setattr(tokenizer, key, value)
        return FamilyText("ZImagePipeline", {**parts, "tokenizer": tokenizer}, 12).fingerprint()

    changes = ({"chat_template": "{{ messages }}"}, {"pad_token": "</s>"}, {"padding_side": "left"})
    found = {of(), of(model_max_length=7), *(of(**change) for change in changes)}
    assert len(found) == 5
    assert of() in found


def test_a_fingerprint_is_the_same_after_it_encoded() -> None:
    for name in ("Sana", "Lumina2"):
        pipe = gemma_pipeline(name)
        pipe.tokenizer.padding_side = "left"
        text = FamilyText(f"{name}Pipeline", {"text_encoder": pipe.text_encoder, "tokenizer": pipe.tokenizer})
        before = text.fingerprint()
        text([PROMPT, ""])
        assert text.fingerprint() == before


@pytest.mark.slow
@pytest.mark.cpu(LEFT_EMPTY)
def test_a_family_without_its_largest_encoder_is_extended_and_encodes_from_its_folder(tmp_path: Path) -> None:
    theirs = sd3_pipeline()
    theirs.register_modules(text_encoder_3=None, tokenizer_3=None)
    theirs.save_pretrained(tmp_path / "sd3")
    pipe: Any = extend_in_time(tmp_path / "sd3", num_frames=2)
    pipe.save_pretrained(tmp_path / "ours")
    wanted, _, pooled, _ = theirs.encode_prompt(PROMPT, None, None, do_classifier_free_guidance=False)
    torch.testing.assert_close(pipe.text([PROMPT]).states, wanted, atol=1e-5, rtol=0)
    apart = VideoDiTPipeline.from_pretrained(tmp_path / "ours", transformer=None, vae=None)
    with pytest.raises(ValueError, match="without text_encoder_3 encodes to the width that its transformer reads"):
        apart.encode_prompt(PROMPT)
    for folder in ("ours", "sd3"):
        found = load_text(tmp_path / folder, tmp_path / "ours")([PROMPT])
        torch.testing.assert_close(found.states, wanted, atol=1e-5, rtol=0)
        torch.testing.assert_close(found.pooled, pooled, atol=1e-5, rtol=0)


def test_a_folder_without_text_encoders_is_extended(tmp_path: Path) -> None:
    theirs = z_image_pipeline()
    theirs.register_modules(text_encoder=None, tokenizer=None)
    theirs.save_pretrained(tmp_path / "bare")
    pipe: Any = extend_in_time(tmp_path / "bare", num_frames=2)
    with pytest.raises(ValueError, match="no text encoder is loaded"):
        pipe.encode_prompt(PROMPT)


def test_another_pipeline_of_a_family_has_the_text_of_its_family() -> None:
    theirs = sd3_pipeline()
    other = diffusers.StableDiffusion3Img2ImgPipeline(**theirs.components)
    pipe: Any = extend_in_time(other, num_frames=2)
    assert pipe.config.text_pipeline == "StableDiffusion3Pipeline"
    wanted = theirs.encode_prompt(PROMPT, None, None, do_classifier_free_guidance=False)[0]
    torch.testing.assert_close(pipe.encode_prompt(PROMPT)[0], wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("key", "value", "more"),
    [
        (
            "addition_embed_type",
            "text_time",
            {"projection_class_embeddings_input_dim": 64, "addition_time_embed_dim": 8},
        ),
        ("class_embed_type", "timestep", {}),
        ("num_class_embeds", 5, {}),
        ("encoder_hid_dim_type", "text_proj", {"encoder_hid_dim": 16}),
        ("time_cond_proj_dim", 8, {}),
    ],
)
def test_a_unet_that_is_told_more_than_a_text_is_refused(key: str, value: Any, more: dict[str, Any]) -> None:
    own = {name: one for name, one in tiny_image_model("UNet").config.items() if not name.startswith("_")}
    config = own | {key: value} | more
    with pytest.raises(ValueError, match=f"a UNet2DConditionModel with {key}="):
        extend_in_time(diffusers.UNet2DConditionModel.from_config(config))


@pytest.mark.cpu(LEFT_EMPTY)
def test_a_folder_is_read_alike_whatever_was_loaded_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers' AutoModel keeps on its class which file it last looked for."""
    sd3_pipeline().save_pretrained(tmp_path)
    monkeypatch.setattr(AutoModel, "config_name", "model_index.json")
    text = FamilyText.from_pretrained(tmp_path, "StableDiffusion3Pipeline")
    assert text(["a red circle"]).states.shape[-1] == 32
