"""What a model is told of sounds and pictures: rows against closed forms, states against transformers' own classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    ResNetConfig,
    ResNetModel,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
)
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from videodit.codec.sounds import ROWS, rows_at, sound_rows
from videodit.codec.states import StatesEncoder
from videodit.geometry import SOUND_RATE

from .video.test_sound import tone

VIT = {
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "image_size": 16,
    "patch_size": 8,
}


def test_a_tone_is_as_loud_as_its_mean_square_says_and_silence_is_nothing() -> None:
    samples = np.concatenate([np.zeros(SOUND_RATE, np.float32), tone(1.0, loud=0.5), tone(1.0, loud=1e-5)])
    rows = sound_rows(samples, "loudness")[:, 0]
    assert len(rows) == 3 * ROWS + 1
    np.testing.assert_allclose(rows[ROWS + 2 : 2 * ROWS - 2], 1 + 20 * np.log10(0.5 / np.sqrt(2)) / 60, atol=1e-2)
    assert not rows[: ROWS - 1].any()
    assert not rows[2 * ROWS + 2 :].any()  # 100 dB below


def test_bands_are_those_of_transformers_own_spectrogram() -> None:
    samples = np.random.default_rng(0).standard_normal(SOUND_RATE).astype(np.float32) * 0.1
    theirs = spectrogram(
        samples,
        window_function(1024, "hann"),
        1024,
        SOUND_RATE // ROWS,
        power=2.0,
        pad_mode="constant",
        mel_filters=mel_filter_bank(513, 12, 0.0, SOUND_RATE / 2, SOUND_RATE, norm="slaney", mel_scale="slaney"),
        log_mel="log10",
        mel_floor=1e-10,
    )
    np.testing.assert_allclose(sound_rows(samples, "mel", 12), (theirs.T + 4) / 4, atol=1e-4)


def test_between_rows_lie_lines_and_behind_the_last_is_silence() -> None:
    rows = np.array([[0.0], [1.0], [0.5]], np.float32)
    np.testing.assert_allclose(
        rows_at(rows, np.array([0.0, 0.5, 1.25, 2.5, 9.0]) / ROWS, "loudness")[:, 0], [0, 0.5, 0.875, 0.25, 0]
    )
    assert rows_at(rows, np.array([9.0]), "mel").tolist() == [[-1.5]]


def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


@torch.no_grad()
def test_states_are_those_of_the_encoders_own_class(tmp_path: Path) -> None:
    torch.manual_seed(0)
    size = {"size": {"height": 16, "width": 16}}
    vit, see = ViTModel(ViTConfig(**VIT), add_pooling_layer=False).eval(), ViTImageProcessor(**size)
    for part in (vit, see):
        part.save_pretrained(tmp_path / "vit")
    wanted = vit(**see(Image.fromarray(picture()), return_tensors="pt")).last_hidden_state[0]
    encoder = StatesEncoder.from_pretrained(str(tmp_path / "vit"))
    assert wanted.shape == (5, 8)
    torch.testing.assert_close(encoder(picture()), wanted)
    assert encoder.fingerprint() == StatesEncoder.from_pretrained(str(tmp_path / "vit")).fingerprint()

    clip = CLIPModel(CLIPConfig(vision_config=VIT, text_config={**VIT, "vocab_size": 10, "eos_token_id": 1})).eval()
    clip.save_pretrained(tmp_path / "clip")
    CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}).save_pretrained(
        tmp_path / "clip"
    )
    encoder = StatesEncoder.from_pretrained(str(tmp_path / "clip"))
    pixels = encoder.prepare(picture(), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(encoder(picture()), clip.vision_model(pixel_values=pixels).last_hidden_state[0])

    net = ResNetModel(ResNetConfig(embedding_size=4, hidden_sizes=[4, 6], depths=[1, 1], layer_type="basic")).eval()
    for part in (net, see):
        part.save_pretrained(tmp_path / "net")
    encoder = StatesEncoder.from_pretrained(str(tmp_path / "net"))
    maps = net(**see(Image.fromarray(picture()), return_tensors="pt")).last_hidden_state[0]
    torch.testing.assert_close(encoder(picture()), maps.permute(1, 2, 0).reshape(-1, 6))


@torch.no_grad()
def test_an_encoder_of_sounds_hears_them_at_its_rate(tmp_path: Path) -> None:
    torch.manual_seed(0)
    shape = {"conv_dim": (4, 4), "conv_stride": (20, 16), "conv_kernel": (20, 16), "num_feat_extract_layers": 2}
    kind = {k: v for k, v in VIT.items() if "image" not in k and "patch" not in k}
    groups = {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "feat_extract_norm": "layer"}
    model, hear = (
        Wav2Vec2Model(Wav2Vec2Config(**kind, **shape, **groups)).eval(),
        Wav2Vec2FeatureExtractor(sampling_rate=8000),
    )
    for part in (model, hear):
        part.save_pretrained(tmp_path)
    encoder = StatesEncoder.from_pretrained(str(tmp_path))
    assert encoder.rate == 8000
    wanted = model(**hear(tone(1.0, 8000), sampling_rate=8000, return_tensors="pt")).last_hidden_state[0]
    assert wanted.shape == (25, 8)
    torch.testing.assert_close(encoder(tone(1.0, 8000)), wanted)
    encoder.seconds = 0.5  # as Whisper has thirty, and leaves out the rest
    with pytest.raises(ValueError, match=r"a sound of 1.0 s, and .* hears 0.5 s: cut it"):
        encoder(tone(1.0, 8000))
    assert encoder(tone(0.5, 8000)).shape[1] == 8


def test_what_is_no_encoder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no encoder of pictures or sounds"):
        StatesEncoder.from_pretrained(str(tmp_path))
    model = ViTModel(ViTConfig(**VIT))
    state = {name: weight for name, weight in model.state_dict().items() if "mlp" not in name}
    model.save_pretrained(tmp_path, state_dict=state)
    ViTImageProcessor().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"the weights of .*mlp.* are not there"):
        StatesEncoder.from_pretrained(str(tmp_path))
