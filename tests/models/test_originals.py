"""The projects' own checkpoints: names and layouts, and what is refused."""

from __future__ import annotations

import argparse
import math
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import LatteTransformer3DModel, PixArtTransformer2DModel
from diffusers.models.embeddings import get_1d_sincos_pos_embed_from_grid, get_2d_sincos_pos_embed
from safetensors.torch import save_file
from torch.nn.functional import gelu, layer_norm, linear, scaled_dot_product_attention, silu

from videodit.models.formats.files import from_checkpoint, to_checkpoint
from videodit.models.formats.table import ConversionError
from videodit.models.transformer import VideoDiT

DIM, HEADS, DEPTH, CLASSES, SIDE = 48, 2, 2, 5, 4  # SIDE: tokens a side
State = dict[str, torch.Tensor]


def random_state(shapes: dict[str, tuple[int, ...]]) -> State:
    g = torch.Generator().manual_seed(0)
    return {name: 0.1 * torch.randn(shape, generator=g) for name, shape in shapes.items()}


def with_biases(weights: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {f"{k}.weight": v for k, v in weights.items()} | {f"{k}.bias": v[:1] for k, v in weights.items()}


def places(scale: float = 1.0) -> torch.Tensor:
    return get_2d_sincos_pos_embed(DIM, SIDE, base_size=SIDE, interpolation_scale=scale, output_type="pt").float()[None]


def dit_state(temporal: bool = False) -> State:
    """As facebookresearch/DiT (or Latte's class model) names it."""
    weights: dict[str, tuple[int, ...]] = {
        "x_embedder.proj": (DIM, 4, 2, 2),
        "t_embedder.mlp.0": (DIM, 256),
        "t_embedder.mlp.2": (DIM, DIM),
        "final_layer.linear": (4 * 8, DIM),
        "final_layer.adaLN_modulation.1": (2 * DIM, DIM),
    }
    for i in range(DEPTH * (1 + temporal)):
        weights |= {
            f"blocks.{i}.attn.qkv": (3 * DIM, DIM),
            f"blocks.{i}.attn.proj": (DIM, DIM),
            f"blocks.{i}.mlp.fc1": (4 * DIM, DIM),
            f"blocks.{i}.mlp.fc2": (DIM, 4 * DIM),
            f"blocks.{i}.adaLN_modulation.1": (6 * DIM, DIM),
        }
    state = random_state(with_biases(weights) | {"y_embedder.embedding_table.weight": (CLASSES + 1, DIM)})
    state["pos_embed"] = places()
    if temporal:
        state["temp_embed"] = get_1d_sincos_pos_embed_from_grid(DIM, torch.arange(3), output_type="pt").float()[None]
    return state


def dit_forward(s: State, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The published model in plain functions, b c f h w; blocks take turns in space and time if it has `temp_embed`."""
    s = {k: v.double() for k, v in s.items()}

    def lin(name: str, v: torch.Tensor) -> torch.Tensor:
        return linear(v, s[f"{name}.weight"], s[f"{name}.bias"])

    b, _, f, h, w = x.shape
    half = torch.exp(-math.log(10000) * torch.arange(128, dtype=torch.float64) / 128)
    angles = t.double()[:, None] * half
    c = lin("t_embedder.mlp.2", silu(lin("t_embedder.mlp.0", torch.cat([angles.cos(), angles.sin()], 1))))
    c = c + s["y_embedder.embedding_table.weight"][y]
    frames = x.double().permute(0, 2, 1, 3, 4).reshape(b * f, -1, h, w)
    z = torch.nn.functional.conv2d(frames, s["x_embedder.proj.weight"], s["x_embedder.proj.bias"], stride=2)
    z = z.flatten(2).transpose(1, 2) + s["pos_embed"]

    def block(i: int, z: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        parts = lin(f"blocks.{i}.adaLN_modulation.1", silu(c)).chunk(6, 1)
        s1, k1, g1, s2, k2, g2 = (p[:, None] for p in parts)
        n = layer_norm(z, (DIM,), eps=1e-6) * (1 + k1) + s1
        q, k, v = lin(f"blocks.{i}.attn.qkv", n).reshape(*n.shape[:2], 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        z = z + g1 * lin(f"blocks.{i}.attn.proj", scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        n = layer_norm(z, (DIM,), eps=1e-6) * (1 + k2) + s2
        return z + g2 * lin(f"blocks.{i}.mlp.fc2", gelu(lin(f"blocks.{i}.mlp.fc1", n), approximate="tanh"))

    per_frame = c.repeat_interleave(f, 0)
    tokens = z.shape[1]
    if "temp_embed" in s:
        for i in range(0, 2 * DEPTH, 2):
            z = block(i, z, per_frame)
            z = z.reshape(b, f, tokens, DIM).transpose(1, 2).reshape(b * tokens, f, DIM)
            z = z + s["temp_embed"] if i == 0 else z
            z = block(i + 1, z, c.repeat_interleave(tokens, 0))
            z = z.reshape(b, tokens, f, DIM).transpose(1, 2).reshape(b * f, tokens, DIM)
    else:
        for i in range(DEPTH):
            z = block(i, z, per_frame)
    shift, scale = lin("final_layer.adaLN_modulation.1", silu(per_frame))[:, None].chunk(2, 2)
    z = lin("final_layer.linear", layer_norm(z, (DIM,), eps=1e-6) * (1 + scale) + shift)
    z = z.reshape(b, f, h // 2, w // 2, 2, 2, 8).permute(0, 6, 1, 2, 4, 3, 5)
    return z.reshape(b, 8, f, h, w)


@pytest.mark.parametrize("temporal", [False, True], ids=["dit", "latte"])
def test_class_models_compute_what_their_papers_code_computes(tmp_path: Path, temporal: bool) -> None:
    state = dit_state(temporal)
    file = tmp_path / "model.pt"
    torch.save({"ema": state, "opt": {}} if temporal else state, file)
    model, report = from_checkpoint(file, num_attention_heads=HEADS)
    save_file(state, tmp_path / "model.safetensors")
    same = from_checkpoint(tmp_path / "model.safetensors", num_attention_heads=HEADS)[0].state_dict()
    assert all(torch.equal(tensor, same[name]) for name, tensor in model.state_dict().items())
    x = torch.randn(2, 4, 3 if temporal else 1, 2 * SIDE, 2 * SIDE)
    t, y = torch.tensor([3.0, 910.0]), torch.tensor([2, CLASSES])
    actual = model.double()(x.double(), t, class_labels=y).sample
    torch.testing.assert_close(actual, dit_forward(state, x, t, y), rtol=1e-4, atol=1e-5)
    assert report.dropped.keys() == {"pos_embed"} | ({"temp_embed"} if temporal else set())
    back = to_checkpoint(from_checkpoint(file, num_attention_heads=HEADS)[0], "latte" if temporal else "dit")
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in state.items() if name not in report.dropped)


def test_a_file_without_positions_needs_its_size_said(tmp_path: Path) -> None:
    state = dit_state()
    table = state.pop("pos_embed")
    torch.save(state, tmp_path / "m.pt")
    with pytest.raises(ConversionError, match="give sample_size"):
        from_checkpoint(tmp_path / "m.pt", num_attention_heads=HEADS)
    model, _ = from_checkpoint(tmp_path / "m.pt", num_attention_heads=HEADS, sample_size=SIDE)
    assert model.config.sample_size == SIDE
    torch.save(state | {"pos_embed": table[:, :-1]}, tmp_path / "m.pt")
    with pytest.raises(ConversionError, match="no square table"):
        from_checkpoint(tmp_path / "m.pt", num_attention_heads=HEADS)
    half = {name: tensor.bfloat16() for name, tensor in (state | {"pos_embed": table}).items()}
    torch.save(half | {"final_layer.linear.bias": state["final_layer.linear.bias"]}, tmp_path / "m.pt")
    mixed, _ = from_checkpoint(tmp_path / "m.pt", num_attention_heads=HEADS)
    assert {p.dtype for p in mixed.parameters()} == {torch.bfloat16, torch.float32}  # each as it was


def test_a_training_checkpoint_keeps_its_arguments_beside_its_weights(tmp_path: Path) -> None:
    """As DiT's own training saves them: averaged weights are taken, an argparse.Namespace is harmless."""
    torch.save({"model": {}, "ema": dit_state(), "args": argparse.Namespace(lr=1e-4)}, tmp_path / "m.pt")
    from_checkpoint(tmp_path / "m.pt", num_attention_heads=HEADS)


def published_names(theirs: PixArtTransformer2DModel, null_tokens: int) -> State:
    """A diffusers PixArt's weights, under the names of the PixArt projects' own code."""
    s, state = theirs.state_dict(), {}
    rename = {
        "pos_embed.proj": "x_embedder.proj",
        "adaln_single.emb.timestep_embedder.linear_1": "t_embedder.mlp.0",
        "adaln_single.emb.timestep_embedder.linear_2": "t_embedder.mlp.2",
        "adaln_single.emb.resolution_embedder.linear_1": "csize_embedder.mlp.0",
        "adaln_single.emb.resolution_embedder.linear_2": "csize_embedder.mlp.2",
        "adaln_single.emb.aspect_ratio_embedder.linear_1": "ar_embedder.mlp.0",
        "adaln_single.emb.aspect_ratio_embedder.linear_2": "ar_embedder.mlp.2",
        "adaln_single.linear": "t_block.1",
        "caption_projection.linear_1": "y_embedder.y_proj.fc1",
        "caption_projection.linear_2": "y_embedder.y_proj.fc2",
        "proj_out": "final_layer.linear",
    }
    for leaf in ("weight", "bias"):
        for ours, own in rename.items():
            if f"{ours}.{leaf}" in s:
                state[f"{own}.{leaf}"] = s[f"{ours}.{leaf}"]
        for i in range(DEPTH):
            old, new = f"transformer_blocks.{i}", f"blocks.{i}"
            qkv = [s[f"{old}.attn1.to_{x}.{leaf}"] for x in "qkv"]
            state[f"{new}.attn.qkv.{leaf}"] = torch.cat(qkv)
            state[f"{new}.attn.proj.{leaf}"] = s[f"{old}.attn1.to_out.0.{leaf}"]
            state[f"{new}.cross_attn.q_linear.{leaf}"] = s[f"{old}.attn2.to_q.{leaf}"]
            state[f"{new}.cross_attn.kv_linear.{leaf}"] = torch.cat([s[f"{old}.attn2.to_{x}.{leaf}"] for x in "kv"])
            state[f"{new}.cross_attn.proj.{leaf}"] = s[f"{old}.attn2.to_out.0.{leaf}"]
            state[f"{new}.mlp.fc1.{leaf}"] = s[f"{old}.ff.net.0.proj.{leaf}"]
            state[f"{new}.mlp.fc2.{leaf}"] = s[f"{old}.ff.net.2.{leaf}"]
    for i in range(DEPTH):
        state[f"blocks.{i}.scale_shift_table"] = s[f"transformer_blocks.{i}.scale_shift_table"]
    state["final_layer.scale_shift_table"] = s["scale_shift_table"]
    state["y_embedder.y_embedding"] = torch.randn(null_tokens, 20)
    return state


def tiny_pixart(**options: Any) -> PixArtTransformer2DModel:
    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "num_attention_heads": HEADS,
        "attention_head_dim": DIM // HEADS,
        "num_layers": DEPTH,
        "cross_attention_dim": DIM,
        "caption_channels": 20,
        "sample_size": 64,
        "use_additional_conditions": False,
    }
    return PixArtTransformer2DModel(**shape | options).eval()


@pytest.mark.parametrize(
    ("options", "null_tokens", "scale"),
    [
        ({"interpolation_scale": 1}, 120, 1.0),
        ({"interpolation_scale": 2, "sample_size": 128, "use_additional_conditions": True}, 120, 2.0),
        ({"interpolation_scale": 0.5, "sample_size": 32}, 300, 0.5),
        ({"interpolation_scale": 1, "sample_size": 32}, 120, 1.0),
    ],
    ids=["alpha 512", "alpha 1024", "sigma 256", "alpha 256"],
)
def test_pixart_computes_what_diffusers_computes(tmp_path: Path, options: dict, null_tokens: int, scale: float) -> None:
    theirs = tiny_pixart(**options)
    state = published_names(theirs, null_tokens)
    side = theirs.config.sample_size // 2
    table = get_2d_sincos_pos_embed(DIM, side, base_size=side, interpolation_scale=scale, output_type="pt")
    file = tmp_path / "PixArt.pth"
    torch.save({"state_dict": state | {"pos_embed": table.float()[None]}}, file)
    model, report = from_checkpoint(file, num_attention_heads=HEADS)
    assert (model.config.interpolation_scale, model.config.sample_size) == (scale, side)
    assert "null caption" in report.dropped["y_embedder.y_embedding"]
    x, text, t = torch.randn(2, 4, 1, 16, 16), torch.randn(2, 6, 20), torch.tensor([3, 910])
    added: dict[str, Any] = {"resolution": None, "aspect_ratio": None}
    kwargs: dict[str, Any] = {}
    if options.get("use_additional_conditions"):
        added = {"resolution": torch.tensor([[512.0, 768.0]] * 2), "aspect_ratio": torch.tensor([[0.67]] * 2)}
        kwargs = {"added_cond_kwargs": added}
    expected = theirs(x[:, :, 0], text, t, added).sample
    torch.testing.assert_close(model(x, t, text, **kwargs).sample[:, :, 0], expected, rtol=1e-4, atol=1e-5)


def test_latte_text_to_video_keeps_diffusers_names(tmp_path: Path) -> None:
    theirs = LatteTransformer3DModel(
        num_attention_heads=HEADS,
        attention_head_dim=DIM // HEADS,
        in_channels=4,
        out_channels=8,
        num_layers=DEPTH,
        cross_attention_dim=DIM,
        caption_channels=20,
        attention_bias=True,
        sample_size=8,
        patch_size=2,
        activation_fn="gelu-approximate",
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
        video_length=3,
    ).eval()
    state = {f"module.{k}": v for k, v in theirs.state_dict().items()}
    state["module.caption_projection.y_embedding"] = torch.randn(120, 20)
    state["module.pos_embed.pos_embed"] = places()
    state["module.temp_pos_embed"] = theirs.temp_pos_embed
    torch.save({"model": state}, tmp_path / "t2v.pt")
    model, _ = from_checkpoint(tmp_path / "t2v.pt", num_attention_heads=HEADS)
    x, text, t = torch.randn(2, 4, 3, 8, 8), torch.randn(2, 6, 20), torch.tensor([3, 910])
    torch.testing.assert_close(model(x, t, text).sample, theirs(x, t, text).sample, rtol=1e-4, atol=1e-5)
    back = to_checkpoint(model, "latte")
    assert back.keys() == {name.removeprefix("module.") for name in state} - {"caption_projection.y_embedding"}
    assert all(torch.equal(tensor, back[name]) for name, tensor in theirs.state_dict().items() if "pos" not in name)


def test_a_dit_of_diffusers_counts_time_otherwise_than_its_project() -> None:
    """Its sinusoids are shifted by one: the same weights compute another thing there, and are not given out as such."""
    model = VideoDiT(
        4, 8, axes=("space",), norm_type="ada_norm_zero", num_classes=5, qk_norm=False, timestep_freq_shift=1
    )
    with pytest.raises(ConversionError, match="DiT needs timestep_freq_shift=0, but this model has 1"):
        to_checkpoint(model, "dit")


class Bomb:
    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.file),)


def test_code_in_a_pickle_does_not_run(tmp_path: Path) -> None:
    torch.save({"state_dict": {"x": Bomb(tmp_path / "ran")}}, tmp_path / "bad.pt")
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    for name in ("bad.pt", "raw.pth"):
        with pytest.raises(ConversionError, match=f"{name}: .*none of it ran"):
            from_checkpoint(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    whole = tmp_path / "whole.pt"
    torch.save(dit_state(), whole)
    cut = tmp_path / "cut.pt"
    cut.write_bytes(whole.read_bytes()[:-2000])
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    (tmp_path / "empty.pt").write_bytes(b"")
    for name in ("cut.pt", "cut.safetensors", "empty.pt"):
        with pytest.raises(ConversionError, match=f"{name}: cannot be read"):
            from_checkpoint(tmp_path / name)
    with pytest.raises(ConversionError, match=r"none\.pt: no such file"):
        from_checkpoint(tmp_path / "none.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"only": {"conv1.weight": torch.zeros(3, 3)}},
            "neither DiT, PixArt, Latte, Open-Sora nor Wan: another architecture",
        ),
        ({"only": {"state_dict": {"a": 3}}}, "no state dict of tensors"),
        ({"without": "blocks.1.mlp.fc2.bias"}, r"lack blocks\.1\.mlp\.fc2\.bias"),
        ({"with": {"blocks.0.extra.weight": torch.zeros(3)}}, r"1 tensors have no place .*blocks\.0\.extra"),
        ({"with": {"blocks.0.attn.proj.weight": torch.zeros(3, 3)}}, "another model"),
        (
            {"with": {"patch_embedding.weight": torch.zeros(3), "time_projection.1.weight": torch.zeros(3)}},
            r"a mix of .*DiT.* and .*Wan \(patch_embedding\.weight\)|a mix of .*Wan.* and .*DiT",
        ),
        ({"with": {"pos_embed": torch.zeros(1, 16, DIM)}}, "not the positions that this model computes"),
        ({"with": {"blocks.0.attn.sr.weight": torch.zeros(3)}}, "compressed .* not supported"),
        ({"heads": None}, "width 48 is no published one; give num_attention_heads"),
    ],
)
def test_another_architecture_is_named(tmp_path: Path, change: dict, message: str) -> None:
    state: Any = change.get("only", dit_state() | change.get("with", {}))
    state.pop(change.get("without"), None)
    torch.save(state, tmp_path / "m.pt")
    with pytest.raises(ConversionError, match=message):
        from_checkpoint(tmp_path / "m.pt", num_attention_heads=change.get("heads", HEADS))
