"""Peer law: with the same weights, what comes out equals diffusers' classes, and so do the gradients.

In float64 the two agree to rounding; in float32 to 1e-5 of the output's size.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiTTransformer2DModel, LatteTransformer3DModel, ModelMixin, PixArtTransformer2DModel
from safetensors.torch import load_file, save_file
from tiny import PEER, awaken

from videodit.models.formats.files import from_diffusers, to_diffusers
from videodit.models.formats.table import ConversionError
from videodit.models.transformer import VideoDiT

TEXT: dict[str, Any] = {"cross_attention_dim": 48, "caption_channels": 20}
LATTE: dict[str, Any] = TEXT | {
    "norm_type": "ada_norm_single",
    "norm_elementwise_affine": False,
    "norm_eps": 1e-6,
    "attention_bias": True,
    "video_length": 4,
}


def tiny_peer(family: str, **options: Any) -> ModelMixin:
    torch.manual_seed(0)
    if family == "dit":
        theirs: ModelMixin = DiTTransformer2DModel(**PEER | {"num_embeds_ada_norm": 5} | options)
    elif family == "pixart":
        theirs = PixArtTransformer2DModel(**PEER | TEXT | {"use_additional_conditions": False} | options)
    else:
        theirs = LatteTransformer3DModel(**PEER | LATTE | options)
    return awaken(theirs, scale=0.05)


PEERS = {
    "dit": ("dit", {}),
    "dit without attention bias": ("dit", {"attention_bias": False}),
    "dit with affine norms, coarser eps": ("dit", {"norm_elementwise_affine": True, "norm_eps": 1e-4}),
    "dit of one output a channel": ("dit", {"out_channels": None}),
    "dit with geglu": ("dit", {"activation_fn": "geglu"}),
    "pixart alpha": ("pixart", {}),
    "pixart alpha 1024": ("pixart", {"use_additional_conditions": True, "interpolation_scale": 2}),
    "pixart sigma 256": ("pixart", {"interpolation_scale": 0.5}),
    "pixart with affine norms, no bias": ("pixart", {"norm_elementwise_affine": True, "attention_bias": False}),
    "latte": ("latte", {}),
    "latte of 128 latents a side": ("latte", {"sample_size": 128}),
    "latte with affine norms": ("latte", {"norm_elementwise_affine": True}),
}


def call(theirs: Any, ours: VideoDiT, dtype: torch.dtype, frames: int) -> tuple[torch.Tensor, ...]:
    """(their output, ours, their input, ours) on the same input."""
    g = torch.Generator().manual_seed(1)
    latte = isinstance(theirs, LatteTransformer3DModel)
    side = 8
    x = torch.randn(2, 4, frames, side, side, generator=g, dtype=torch.float64).to(dtype)
    x_theirs = (x if latte else x[:, :, 0]).clone().requires_grad_()
    x_ours = x.clone().requires_grad_()
    t = torch.tensor([17, 803])
    kwargs: dict[str, Any] = {}
    if isinstance(theirs, DiTTransformer2DModel):
        labels = torch.tensor([3, 5])  # 5 is "none"
        expected = theirs(x_theirs, t, labels).sample
        kwargs["class_labels"] = labels
    else:
        text = torch.randn(2, 6, 20, generator=g, dtype=torch.float64).to(dtype)
        kwargs["encoder_hidden_states"] = text
        if latte:  # diffusers' Latte has no use for a mask
            expected = theirs(x_theirs, t, text, enable_temporal_attentions=frames > 1).sample
        else:
            mask = torch.arange(6)[None] < torch.tensor([[6], [2]])
            kwargs["encoder_attention_mask"] = mask
            added = {"resolution": None, "aspect_ratio": None}
            if theirs.use_additional_conditions:
                added = {
                    "resolution": torch.tensor([[512.0, 768.0], [854.0, 480.0]]),
                    "aspect_ratio": torch.tensor([[0.667], [1.78]]),
                }
                kwargs["added_cond_kwargs"] = added
            expected = theirs(x_theirs, text, t, added, encoder_attention_mask=mask).sample
    actual = ours(x_ours, t, **kwargs).sample
    return (expected if latte else expected.unsqueeze(2)), actual, x_theirs, x_ours


def frames_of(family: str) -> list[int]:
    return [1, 4] if family == "latte" else [1]


@pytest.mark.parametrize("name", PEERS)
def test_peer_law_in_float64_outputs_and_gradients_agree(name: str) -> None:
    family, options = PEERS[name]
    theirs = tiny_peer(family, **options)
    ours, _ = from_diffusers(theirs)
    theirs, ours = theirs.double(), ours.double()
    for frames in frames_of(family):
        expected, actual, x_theirs, x_ours = call(theirs, ours, torch.float64, frames)
        torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6)
        expected.square().sum().backward()
        actual.square().sum().backward()
        gradient = x_theirs.grad.reshape(x_ours.grad.shape)
        assert (x_ours.grad - gradient).norm() < 1e-6 * gradient.norm()


@pytest.mark.slow
@pytest.mark.parametrize("name", PEERS)
def test_peer_law_in_float32(name: str) -> None:
    family, options = PEERS[name]
    theirs = tiny_peer(family, **options)
    ours, _ = from_diffusers(theirs)
    for frames in frames_of(family):
        expected, actual, x_theirs, x_ours = call(theirs, ours, torch.float32, frames)
        assert (actual - expected).norm() < 1e-5 * expected.norm()
        expected.square().mean().backward()
        actual.square().mean().backward()
        gradient = x_theirs.grad.reshape(x_ours.grad.shape)
        assert (x_ours.grad - gradient).norm() < 1e-5 * gradient.norm()


@pytest.mark.parametrize("family", ["dit", "pixart", "latte"])
def test_peer_law_in_bfloat16_within_the_references_own_noise(family: str) -> None:
    """Ours is no farther from their float32 than theirs in bfloat16 is."""
    frames = frames_of(family)[-1]
    exact = call(tiny_peer(family), from_diffusers(tiny_peer(family))[0], torch.float32, frames)[0]
    theirs = tiny_peer(family).to(torch.bfloat16)
    ours, _ = from_diffusers(tiny_peer(family))
    expected, actual, *_ = call(theirs, ours.to(torch.bfloat16), torch.bfloat16, frames)
    noise = (expected.float() - exact).norm()
    assert (actual.float() - exact).norm() < 1.5 * noise


@pytest.mark.parametrize("name", PEERS)
def test_round_trip_law_diffusers_gets_every_tensor_back_bit_for_bit(name: str) -> None:
    family, options = PEERS[name]
    theirs = tiny_peer(family, **options)
    back = to_diffusers(from_diffusers(theirs)[0], family, num_frames=4)
    assert type(back) is type(theirs)
    before, after = theirs.state_dict(), back.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[key], after[key]) for key in before)
    ignored = {"num_embeds_ada_norm", "norm_num_groups", "interpolation_scale", "out_channels"}
    keys = [key for key in theirs.config if not key.startswith("_") and key not in ignored]
    assert {key: back.config[key] for key in keys} == {key: theirs.config[key] for key in keys}


def test_round_trip_law_one_embedder_is_shared_where_all_blocks_have_the_same() -> None:
    theirs: Any = tiny_peer("dit")
    separate, _ = from_diffusers(theirs)
    theirs.transformer_blocks[1].norm1.emb.load_state_dict(theirs.transformer_blocks[0].norm1.emb.state_dict())
    shared, report = from_diffusers(theirs)
    assert (len(separate.embedders), len(shared.embedders)) == (2, 1)
    assert any("and 1 equal" in where for where in report.copied.values())
    expected, actual, *_ = call(theirs, shared, torch.float32, 1)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    back = to_diffusers(shared, "dit").state_dict()
    assert all(torch.equal(tensor, back[key]) for key, tensor in theirs.state_dict().items())


@pytest.mark.parametrize("name", ["dit", "pixart alpha 1024"])
def test_the_first_releases_are_called_transformer_2d(tmp_path: Path, name: str) -> None:
    """On the hub DiT and PixArt-alpha carry the name of a class that diffusers has split since."""
    family, options = PEERS[name]
    theirs = tiny_peer(family, **options)
    theirs.save_pretrained(tmp_path / "transformer")
    file = tmp_path / "transformer" / "config.json"
    extra = {"_class_name": "Transformer2DModel", "double_self_attention": False, "num_vector_embeds": None}
    file.write_text(json.dumps(json.loads(file.read_text()) | extra))
    live, loaded = from_diffusers(theirs)[0], from_diffusers(tmp_path, subfolder="transformer")[0]
    weights = live.state_dict()
    assert all(torch.equal(tensor, weights[key]) for key, tensor in loaded.state_dict().items())
    file.write_text(json.dumps(json.loads(file.read_text()) | {"norm_type": "layer_norm"}))
    with pytest.raises(ConversionError, match=r"holds a Transformer2DModel; .* can be made from DiT"):
        from_diffusers(tmp_path, subfolder="transformer")
    with pytest.raises(ConversionError, match="elsewhere: no diffusers model here"):
        from_diffusers(tmp_path, subfolder="elsewhere")


def test_a_folder_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    """diffusers would leave a missing weight unset and drop one that it does not know."""
    tiny_peer("pixart").save_pretrained(tmp_path / "theirs")
    VideoDiT(in_channels=4, num_layers=1, num_attention_heads=1).save_pretrained(tmp_path / "ours")
    for folder, load, some in (
        ("theirs", from_diffusers, "transformer_blocks.0.attn1.to_q.weight"),
        ("ours", VideoDiT.from_pretrained, "blocks.0.attn1.to_q.weight"),
    ):
        file = tmp_path / folder / "diffusion_pytorch_model.safetensors"
        state = load_file(file)
        for change, words in (({"x.weight": torch.zeros(2)}, "1 unexpected"), ({some: None}, "missing|lack|meta")):
            save_file({k: v for k, v in (state | change).items() if v is not None}, file, metadata={"format": "pt"})
            with pytest.raises(ValueError, match=words):
                load(tmp_path / folder)
        save_file(state, file, metadata={"format": "pt"})
        load(tmp_path / folder)


FULL = {
    "dit": {"sample_size": 32, "num_embeds_ada_norm": 1000},
    "pixart": {"sample_size": 128, "use_additional_conditions": True, "interpolation_scale": 2},
    "latte": {"sample_size": 64, "video_length": 16},
}


@pytest.mark.slow
@pytest.mark.parametrize("family", FULL)
def test_at_full_size_no_tensor_is_missing_and_none_is_left_over(family: str) -> None:
    """XL/2 and Latte-1, on the meta device: shapes only."""
    shape = {"num_attention_heads": 16, "attention_head_dim": 72, "num_layers": 28}
    text = {} if family == "dit" else {"cross_attention_dim": 1152, "caption_channels": 4096}
    base = PEER | (LATTE if family == "latte" else {}) | text | shape | FULL[family]
    classes = {"dit": DiTTransformer2DModel, "pixart": PixArtTransformer2DModel, "latte": LatteTransformer3DModel}
    with torch.device("meta"):
        theirs = classes[family](**base)
    ours, report = from_diffusers(theirs)
    numbers = sum(p.numel() for p in ours.parameters())
    assert len(report.copied) == len(ours.state_dict())
    assert not report.fresh
    assert set(report.dropped) <= {"pos_embed.pos_embed"}
    assert {"dit": 675e6, "pixart": 611e6, "latte": 1058e6}[family] == pytest.approx(numbers, rel=0.15)
