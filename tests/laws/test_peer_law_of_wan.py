"""Peer law: Wan as diffusers computes it, in and out by its names and by those of the project's own files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import save_file
from tiny import awaken
from torch import Tensor

from videodit.models.formats.files import from_checkpoint, from_diffusers, to_checkpoint, to_diffusers
from videodit.models.formats.table import ConversionError
from videodit.models.growth import grow
from videodit.models.transformer import VideoDiT

State = dict[str, Tensor]


WAN: dict[str, Any] = {
    "num_attention_heads": 2,
    "attention_head_dim": 20,  # of which 8 turn with frames, 6 with rows, 6 with columns
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 12,
    "freq_dim": 64,
    "ffn_dim": 76,
    "num_layers": 2,
}
WANS = {
    "2.1": {},
    "2.2 TI2V": {"in_channels": 6, "out_channels": 6, "freq_dim": 256},
    "without a norm before the text": {"cross_attn_norm": False},
    "of more channels in than out": {"in_channels": 9},
    "of pairs of frames": {"patch_size": (2, 2, 2)},
}
TOKENS = 512  # of every text


def tiny_wan(**options: Any) -> WanTransformer3DModel:
    torch.manual_seed(0)
    return awaken(WanTransformer3DModel(**WAN | options), scale=0.1)


def wan_call(theirs: Any, ours: VideoDiT, dtype: torch.dtype, times: bool = False) -> tuple[Tensor, ...]:
    """(their output, ours, their input, ours); `times`: one a frame, as TI2V has them for a clean first frame."""
    g = torch.Generator().manual_seed(1)
    x = torch.randn(2, theirs.config.in_channels, 4, 6, 8, generator=g, dtype=torch.float64).to(dtype)
    text = torch.randn(2, 5, theirs.config.text_dim, generator=g, dtype=torch.float64).to(dtype)
    mask = torch.arange(5) < torch.tensor([[5], [2]])
    padded = torch.zeros(2, TOKENS, theirs.config.text_dim, dtype=dtype)
    padded[:, :5] = text * mask[..., None]
    t = torch.tensor([17.0, 803.0])
    x_theirs, x_ours = x.clone().requires_grad_(), x.clone().requires_grad_()
    if not times:
        return theirs(x_theirs, t, padded).sample, ours(x_ours, t, text, mask).sample, x_theirs, x_ours
    given = torch.tensor([[True, False, False, False], [False, False, False, True]])
    of_frames = torch.where(given, 0.0, t[:, None])
    expected = theirs(x_theirs, of_frames.repeat_interleave(3 * 4, 1), padded).sample
    torch.testing.assert_close(
        ours(x_ours, of_frames, text, mask).sample, ours(x, t, text, mask, frame_mask=given).sample
    )
    return expected, ours(x_ours, t, text, mask, frame_mask=given).sample, x_theirs, x_ours


@pytest.mark.parametrize("name", WANS)
def test_wan_in_float32_outputs_and_gradients_agree(name: str) -> None:
    theirs = tiny_wan(**WANS[name])
    ours, report = from_diffusers(theirs)
    assert len(report.copied) == len(theirs.state_dict())
    for times in (False, True) if ours.patch_size[0] == 1 else (False,):
        expected, actual, x_theirs, x_ours = wan_call(theirs, ours, torch.float32, times)
        assert (actual - expected).norm() < 1e-5 * expected.norm()
        expected.square().mean().backward()
        actual.square().mean().backward()
        assert (x_ours.grad - x_theirs.grad).norm() < 1e-5 * x_theirs.grad.norm()


def test_wan_in_bfloat16_within_the_references_own_noise() -> None:
    exact = wan_call(tiny_wan(), from_diffusers(tiny_wan())[0], torch.float32)[0]
    expected, actual, *_ = wan_call(
        tiny_wan().to(torch.bfloat16), from_diffusers(tiny_wan())[0].to(torch.bfloat16), torch.bfloat16
    )
    assert (actual.float() - exact).norm() < 1.5 * (expected.float() - exact).norm()


@pytest.mark.parametrize("name", WANS)
def test_wan_gets_every_tensor_back_bit_for_bit(name: str) -> None:
    theirs = tiny_wan(**WANS[name])
    back = to_diffusers(from_diffusers(theirs)[0], "wan")
    before, after = theirs.state_dict(), back.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[key], after[key]) for key in before)
    keys = [key for key in theirs.config if not key.startswith("_")]
    assert {key: back.config[key] for key in keys} == {key: theirs.config[key] for key in keys}


def wan_by_its_own_names(theirs: WanTransformer3DModel) -> State:
    """As Wan-Video/Wan2.1 names them."""
    renames = [
        ("condition_embedder.time_embedder.linear_1", "time_embedding.0"),
        ("condition_embedder.time_embedder.linear_2", "time_embedding.2"),
        ("condition_embedder.time_proj", "time_projection.1"),
        ("condition_embedder.text_embedder.linear_1", "text_embedding.0"),
        ("condition_embedder.text_embedder.linear_2", "text_embedding.2"),
        ("attn1.", "self_attn."),
        ("attn2.", "cross_attn."),
        (".to_q.", ".q."),
        (".to_k.", ".k."),
        (".to_v.", ".v."),
        (".to_out.0.", ".o."),
        (".norm2.", ".norm3."),
        (".ffn.net.0.proj.", ".ffn.0."),
        (".ffn.net.2.", ".ffn.2."),
        ("proj_out.", "head.head."),
    ]
    state = {}
    for name, tensor in theirs.state_dict().items():
        for before, after in renames:
            name = name.replace(before, after)
        name = "head.modulation" if name == "scale_shift_table" else name.replace("scale_shift_table", "modulation")
        state[name] = tensor
    return state


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."], ids=["its own", "for ComfyUI"])
def test_files_of_wan_go_in_and_come_out_by_its_own_names(tmp_path: Path, prefix: str) -> None:
    theirs = tiny_wan()
    state = wan_by_its_own_names(theirs)
    save_file({prefix + name: tensor.contiguous() for name, tensor in state.items()}, tmp_path / "wan.safetensors")
    with pytest.raises(ConversionError, match=r"wan\.safetensors: width 40 .* give num_attention_heads"):
        from_checkpoint(tmp_path / "wan.safetensors")
    ours, _ = from_checkpoint(tmp_path / "wan.safetensors", num_attention_heads=2)
    same = from_diffusers(theirs)[0]
    assert {k: v for k, v in ours.config.items() if k[0] != "_"} == {
        k: v for k, v in same.config.items() if k[0] != "_"
    }
    assert all(torch.equal(tensor, ours.state_dict()[name]) for name, tensor in same.state_dict().items())
    back = to_checkpoint(ours, "wan")
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in state.items())


def test_a_folder_of_wan_says_how_many_heads_it_has(tmp_path: Path) -> None:
    state = {name: tensor.contiguous() for name, tensor in wan_by_its_own_names(tiny_wan()).items()}
    names = sorted(state)
    save_file(
        {name: state[name] for name in names[:9]}, tmp_path / "diffusion_pytorch_model-00001-of-00002.safetensors"
    )
    save_file(
        {name: state[name] for name in names[9:]}, tmp_path / "diffusion_pytorch_model-00002-of-00002.safetensors"
    )
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "WanModel", "num_heads": 2, "dim": 40}))
    assert from_checkpoint(tmp_path)[0].config.num_attention_heads == 2


def test_weights_of_eight_bits_are_multiplied_by_the_scale_beside_them(tmp_path: Path) -> None:
    state = {name: tensor.contiguous() for name, tensor in wan_by_its_own_names(tiny_wan()).items()}
    wide = state["blocks.0.ffn.0.weight"]
    scale = wide.abs().max() / 448
    narrow = (wide / scale).to(torch.float8_e4m3fn)
    scaled = {"blocks.0.ffn.0.weight": narrow, "blocks.0.ffn.0.scale_weight": scale[None], "scaled_fp8": torch.zeros(2)}
    save_file(state | scaled, tmp_path / "wan.safetensors")
    ours, _ = from_checkpoint(tmp_path / "wan.safetensors", num_attention_heads=2)
    got = ours.blocks[0].ff.net[0].proj.weight
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.float(), narrow.float() * scale, rtol=2**-8, atol=0)
    assert (got.float() - wide).abs().max() < 0.07 * wide.abs().max()


def test_what_a_videodit_has_not_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="image_dim=8: a VideoDiT of it has None only"):
        from_diffusers(WanTransformer3DModel(**WAN, image_dim=8, added_kv_proj_dim=40))
    state = {name: tensor.contiguous() for name, tensor in wan_by_its_own_names(tiny_wan()).items()}
    for change, words in (
        ({"img_emb.proj.0.weight": torch.ones(3)}, "img_emb.proj.0.weight: an image branch"),
        (
            {"blocks.0.self_attn.q.lora": torch.ones(3)},
            "1 tensors have no place in a VideoDiT: blocks.0.self_attn.q.lora",
        ),
        ({"blocks.1.self_attn.v.bias": None}, "lack blocks.1.self_attn.v.bias"),
        ({"condition_embedder.time_proj.weight": torch.ones(3)}, "a Wan by diffusers' names"),
    ):
        save_file({k: v for k, v in (state | change).items() if v is not None}, tmp_path / "wan.safetensors")
        with pytest.raises(ConversionError, match=words):
            from_checkpoint(tmp_path / "wan.safetensors", num_attention_heads=2)
    partly = {k: v for k, v in state.items() if k != "blocks.1.self_attn.v.bias"} | {"more.weight": torch.ones(3)}
    save_file(partly, tmp_path / "wan.safetensors")
    model, report = from_checkpoint(tmp_path / "wan.safetensors", num_attention_heads=2, partial=True)
    assert report.fresh == {"blocks.1.attn1.to_v.bias": "blocks.1.self_attn.v.bias is not there"}
    assert report.dropped == {"more.weight": "no place in a VideoDiT"}
    assert torch.equal(model.blocks[1].attn1.to_v.bias, torch.zeros(40))


def test_a_text_is_as_long_as_the_model_wants_it() -> None:
    model = from_diffusers(tiny_wan())[0]
    x, t = torch.randn(1, 4, 1, 4, 4), torch.tensor([5.0])
    with pytest.raises(ValueError, match=r"513 tokens, this model reads 512 .* max_sequence_length=512"):
        model(x, t, torch.zeros(1, 513, 12))
    memory = model.text_memory(torch.ones(1, 3, 12), torch.tensor([[True, True, False]]))
    torch.testing.assert_close(model(x, t, text_memory=memory).sample, model(x, t, torch.ones(1, 2, 12)).sample)


def test_a_wan_grows_further_and_is_itself_until_it_is_trained() -> None:
    wan = from_diffusers(tiny_wan())[0]
    grown, report = grow(wan, axes=("joint", "time"))
    assert len(grown.blocks) == 4
    x, t, text = torch.randn(1, 4, 3, 4, 6), torch.tensor([300.0]), torch.randn(1, 5, 12)
    torch.testing.assert_close(grown(x, t, text).sample, wan(x, t, text).sample, rtol=1e-5, atol=1e-5)
    assert all(name.startswith("blocks.") for name in report.fresh)
    with pytest.raises(ConversionError, match="sample_size=9: the places of this model are of no size"):
        grow(wan, axes=("joint", "time"), sample_size=9)
