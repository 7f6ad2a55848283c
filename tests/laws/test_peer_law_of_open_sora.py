"""Peer law: STDiT3 (Open-Sora 1.2), as its paper and configuration say."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from safetensors.torch import save_file
from tiny import tiny_wan
from torch import Tensor
from torch.nn.functional import conv3d, gelu, layer_norm, linear, silu, softmax

from videodit.models.formats.files import from_checkpoint, to_checkpoint
from videodit.models.formats.table import ConversionError
from videodit.pipeline import VideoDiTPipeline
from videodit.text import TextEncoder
from videodit.training.model import Model

State = dict[str, Tensor]

DIM, HEADS, DEPTH, CAPTION, LENGTH = 24, 2, 2, 10, 7


def stdit3_state(qk_norm: bool = True) -> State:
    """As hpcaitech/Open-Sora names it, with random numbers."""
    shapes: dict[str, tuple[int, ...]] = {
        "x_embedder.proj": (DIM, 4, 1, 2, 2),
        "t_embedder.mlp.0": (DIM, 256),
        "t_embedder.mlp.2": (DIM, DIM),
        "fps_embedder.mlp.0": (DIM, 256),
        "fps_embedder.mlp.2": (DIM, DIM),
        "t_block.1": (6 * DIM, DIM),
        "y_embedder.y_proj.fc1": (DIM, CAPTION),
        "y_embedder.y_proj.fc2": (DIM, DIM),
        "final_layer.linear": (4 * 8, DIM),
    }
    tables = {"final_layer.scale_shift_table": (2, DIM), "y_embedder.y_embedding": (LENGTH, CAPTION)}
    norms = []
    for i in range(DEPTH):
        for kind in ("spatial", "temporal"):
            at = f"{kind}_blocks.{i}"
            shapes |= {
                f"{at}.attn.qkv": (3 * DIM, DIM),
                f"{at}.attn.proj": (DIM, DIM),
                f"{at}.cross_attn.q_linear": (DIM, DIM),
                f"{at}.cross_attn.kv_linear": (2 * DIM, DIM),
                f"{at}.cross_attn.proj": (DIM, DIM),
                f"{at}.mlp.fc1": (4 * DIM, DIM),
                f"{at}.mlp.fc2": (DIM, 4 * DIM),
            }
            tables[f"{at}.scale_shift_table"] = (6, DIM)
            norms += [f"{at}.attn.{x}_norm.weight" for x in "qk" if qk_norm]
    g = torch.Generator().manual_seed(0)
    state = {f"{name}.weight": 0.2 * torch.randn(shape, generator=g) for name, shape in shapes.items()}
    state |= {f"{name}.bias": 0.2 * torch.randn(shape[:1], generator=g) for name, shape in shapes.items()}
    state |= {name: torch.randn(shape, generator=g) for name, shape in tables.items()}
    state |= {name: 1 + 0.2 * torch.randn(DIM // HEADS, generator=g) for name in norms}
    state["rope.freqs"] = 1 / 10000 ** (torch.arange(0, DIM // HEADS, 2).float() / (DIM // HEADS))
    return state


def stdit3(s: State, x: Tensor, t: Tensor, y: Tensor, mask: Tensor, fps: Tensor, moves: Tensor | None = None) -> Tensor:
    """The published model for one size, in plain functions: latents b c f h w -> velocities data - noise, and halves.

    mask: b m, True = read. fps: of the clip, b. moves: b f, False = the frame is given, and its time 0.
    """
    s = {name: tensor.double() for name, tensor in s.items()}

    def lin(name: str, v: Tensor) -> Tensor:
        return linear(v, s[f"{name}.weight"], s[f"{name}.bias"])

    def sinusoids(v: Tensor) -> Tensor:
        angles = v.double()[..., None] * torch.exp(-math.log(10000) * torch.arange(128, dtype=torch.float64) / 128)
        return torch.cat([angles.cos(), angles.sin()], -1)

    def turn(v: Tensor) -> Tensor:  # ... f e, pairs beside each other
        z = torch.view_as_complex(v.unflatten(-1, (-1, 2)).contiguous())
        angles = torch.arange(v.shape[-2], dtype=torch.float64)[:, None] * s["rope.freqs"]
        return torch.view_as_real(z * torch.polar(torch.ones_like(angles), angles)).flatten(-2)

    b, _, f, h, w = x.shape
    rows, columns = h // 2, w // 2
    z = conv3d(x.double(), s["x_embedder.proj.weight"], s["x_embedder.proj.bias"], stride=(1, 2, 2))
    z = z.flatten(3).permute(0, 2, 3, 1)  # b f s d
    base, scale = round(math.sqrt(rows * columns)), math.sqrt(8 * h * 8 * w) / 512
    turns = 10000 ** (-torch.arange(0, DIM // 2, 2, dtype=torch.float64) / (DIM // 2))
    sides = [torch.arange(n, dtype=torch.float64) / scale * base / n for n in (rows, columns)]
    parts = [torch.cat([(side[:, None] * turns).sin(), (side[:, None] * turns).cos()], -1) for side in sides]
    place = torch.cat([parts[1].expand(rows, -1, -1), parts[0][:, None].expand(-1, columns, -1)], -1)
    z = z + place.flatten(0, 1)

    moves = torch.ones(b, f, dtype=torch.bool) if moves is None else moves
    times = torch.where(moves, t[:, None].double(), 0.0)
    time = lin("t_embedder.mlp.2", silu(lin("t_embedder.mlp.0", sinusoids(times))))
    time = time + lin("fps_embedder.mlp.2", silu(lin("fps_embedder.mlp.0", sinusoids(fps))))[:, None]
    shared = lin("t_block.1", silu(time)).unflatten(-1, (6, DIM))
    text = lin("y_embedder.y_proj.fc2", gelu(lin("y_embedder.y_proj.fc1", y.double()), approximate="tanh"))

    def attend(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None = None) -> Tensor:
        q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(-2, -3) if part.ndim < 5 else part for part in (q, k, v))
        weights = q @ k.transpose(-1, -2) / math.sqrt(DIM // HEADS)
        weights = weights if seen is None else weights.masked_fill(~seen[:, None, None, None], -torch.inf)
        return (softmax(weights, -1) @ v).transpose(-2, -3).flatten(-2)

    def block(kind: str, i: int, z: Tensor) -> Tensor:
        at = f"{kind}_blocks.{i}"
        table = (s[f"{at}.scale_shift_table"] + shared)[:, :, None]  # b f 1 6 d
        m = layer_norm(z, (DIM,), eps=1e-6) * (1 + table[..., 1, :]) + table[..., 0, :]
        m = m.transpose(1, 2) if kind == "temporal" else m
        q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(-2, -3) for part in lin(f"{at}.attn.qkv", m).chunk(3, -1))
        if f"{at}.attn.q_norm.weight" in s:
            q, k = (
                part * (part.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * s[f"{at}.attn.{name}_norm.weight"]
                for part, name in ((q, "q"), (k, "k"))
            )
        if kind == "temporal":
            q, k = turn(q), turn(k)
        m = lin(f"{at}.attn.proj", attend(q, k, v))
        m = m.transpose(1, 2) if kind == "temporal" else m
        z = z + table[..., 2, :] * m
        k, v = lin(f"{at}.cross_attn.kv_linear", text)[:, None].chunk(2, -1)
        z = z + lin(f"{at}.cross_attn.proj", attend(lin(f"{at}.cross_attn.q_linear", z), k, v, mask))
        m = layer_norm(z, (DIM,), eps=1e-6) * (1 + table[..., 4, :]) + table[..., 3, :]
        m = lin(f"{at}.mlp.fc2", gelu(lin(f"{at}.mlp.fc1", m), approximate="tanh"))
        return z + table[..., 5, :] * m

    for i in range(DEPTH):
        z = block("temporal", i, block("spatial", i, z))
    table = (s["final_layer.scale_shift_table"] + time[:, :, None])[:, :, None]
    z = lin("final_layer.linear", layer_norm(z, (DIM,), eps=1e-6) * (1 + table[..., 1, :]) + table[..., 0, :])
    z = z.reshape(b, f, rows, columns, 2, 2, 8).permute(0, 6, 1, 2, 4, 3, 5)
    return z.reshape(b, 8, f, h, w)


def stdit3_file(folder: Path, state: State) -> Path:
    torch.save(state, folder / "model.pth")
    return folder / "model.pth"


@pytest.mark.parametrize("qk_norm", [True, False])
@pytest.mark.parametrize("frames", [1, 4])
def test_open_sora_computes_what_its_paper_says(tmp_path: Path, qk_norm: bool, frames: int) -> None:
    state = stdit3_state(qk_norm)
    ours, report = from_checkpoint(stdit3_file(tmp_path, state), num_attention_heads=HEADS)
    assert report.dropped == {"rope.freqs": "computed, not stored"}
    ours.double()
    x, y = torch.randn(2, 4, frames, 6, 10).double(), torch.randn(2, 5, CAPTION).double()
    t, mask, fps = torch.tensor([17.0, 803.0]), torch.arange(5) < torch.tensor([[5], [3]]), torch.tensor([24.0, 8.0])
    given = torch.arange(frames) < torch.tensor([[0], [frames // 2]])
    expected = stdit3(state, x, t, y, mask, fps, ~given)
    actual = ours(x, t, y, mask, fps=fps / 4, frame_mask=given).sample
    assert (actual + expected).norm() < 1e-5 * expected.norm()  # their velocity points the other way
    null = state["y_embedder.y_embedding"][None].expand(2, -1, -1)
    expected = stdit3(state, x, t, null, torch.ones(2, LENGTH, dtype=torch.bool), fps)
    actual = ours(x, t, y, torch.zeros_like(mask), fps=fps / 4).sample
    assert (actual + expected).norm() < 1e-5 * expected.norm()


def test_open_sora_gets_every_tensor_back_bit_for_bit(tmp_path: Path) -> None:
    state = stdit3_state()
    ours, _ = from_checkpoint(stdit3_file(tmp_path, state), num_attention_heads=HEADS)
    back = to_checkpoint(ours, "stdit3")
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in state.items())


def test_a_folder_of_open_sora_is_read_by_its_configuration(tmp_path: Path) -> None:
    state = stdit3_state()
    save_file(state, tmp_path / "model.safetensors")
    config = {
        "architectures": ["STDiT3"],
        "model_type": "STDiT3",
        "hidden_size": DIM,
        "num_heads": HEADS,
        "depth": DEPTH,
        "mlp_ratio": 4.0,
        "in_channels": 4,
        "patch_size": [1, 2, 2],
        "caption_channels": CAPTION,
        "model_max_length": LENGTH,
        "pred_sigma": True,
        "qk_norm": True,
        "input_sq_size": 512,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    by_config, by_file = (
        from_checkpoint(tmp_path)[0],
        from_checkpoint(stdit3_file(tmp_path, state), num_attention_heads=2)[0],
    )
    left_out = ("_", "out_channels")
    assert {k: v for k, v in by_config.config.items() if not k.startswith(left_out)} == {
        k: v for k, v in by_file.config.items() if not k.startswith(left_out)
    }
    (tmp_path / "config.json").write_text(json.dumps(config | {"kernel_size": [8, 8, -1]}))
    with pytest.raises(ConversionError, match=r"STDiT3: kernel_size=\[8, 8, -1\]"):
        from_checkpoint(tmp_path)


def test_the_windows_and_channels_of_open_sora_1_3_are_named(tmp_path: Path) -> None:
    state = stdit3_state() | {"x_embedder_cond.proj.weight": torch.ones(DIM, 4, 1, 2, 2)}
    with pytest.raises(ConversionError, match=r"x_embedder_cond\.proj\.weight: of given frames"):
        from_checkpoint(stdit3_file(tmp_path, state), num_attention_heads=HEADS)


@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
def test_open_sora_from_prompt_to_latents(tmp_path: Path, guidance_scale: float) -> None:
    """Its rectified flow by hand: Euler from noise, v = null + scale (v - null), the null caption whole."""
    state = stdit3_state()
    ours, _ = from_checkpoint(stdit3_file(tmp_path, state), num_attention_heads=HEADS)
    prompts = ["a red circle", "two blue stars moving left"]
    text = TextEncoder.from_captions(prompts, width=CAPTION, depth=1, heads=1)
    pipe = VideoDiTPipeline(tiny_wan(), text.text_encoder, text.tokenizer, ours, FlowMatchEulerDiscreteScheduler())
    pipe.set_progress_bar_config(disable=True)
    z = torch.randn(2, 4, 3, 4, 6)
    size = {"num_frames": 9, "height": 32, "width": 48, "fps": 24.0}
    times = [1.0, 2 / 3, 1 / 3, 0.0]
    actual = pipe(
        prompts, latents=z, sigmas=times[:3], guidance_scale=guidance_scale, output_type="latent", **size
    ).frames
    states, mask, _ = text(prompts)
    null = state["y_embedder.y_embedding"][None].expand(2, -1, -1)
    fps = torch.full((2,), 24.0)
    z = z.double()
    for now, after in pairwise(times):
        t = torch.full((2,), 1000 * now)
        v = stdit3(state, z, t, states.double(), mask, fps)[:, :4]
        if guidance_scale > 1:
            none = stdit3(state, z, t, null, torch.ones(2, LENGTH, dtype=torch.bool), fps)[:, :4]
            v = none + guidance_scale * (v - none)
        z = z + v * (now - after)
    assert (actual - z).norm() < 1e-4 * z.norm()


def test_open_sora_in_bfloat16_is_near_its_float64(tmp_path: Path) -> None:
    """Within 2 % of the output's size: 3 digits a weight, 4 blocks."""
    state = stdit3_state()
    ours, _ = from_checkpoint(stdit3_file(tmp_path, state), num_attention_heads=HEADS)
    x, y = torch.randn(2, 4, 3, 6, 10).bfloat16(), torch.randn(2, 5, CAPTION).bfloat16()
    t, mask, fps = torch.tensor([17.0, 803.0]), torch.ones(2, 5, dtype=torch.bool), torch.tensor([24.0, 8.0])
    rounded = {name: tensor.bfloat16() for name, tensor in state.items() if name != "rope.freqs"}
    expected = stdit3(rounded | {"rope.freqs": state["rope.freqs"]}, x, t, y, mask, fps)
    actual = ours.to(torch.bfloat16)(x, t, y, mask, fps=fps / 4).sample
    assert (actual + expected).norm() < 0.02 * expected.norm()


def test_a_caption_that_is_dropped_is_the_learned_null(tmp_path: Path) -> None:
    state = stdit3_state()
    ours, _ = from_checkpoint(stdit3_file(tmp_path, state), num_attention_heads=HEADS)
    text = TextEncoder.from_captions(["a red circle"], width=CAPTION, depth=1, heads=1)
    model = Model(ours, text, None, 8)
    x, t = torch.randn(2, 4, 2, 4, 4), torch.tensor([300.0, 600.0])
    null = state["y_embedder.y_embedding"][None].expand(2, -1, -1)
    actual = model(x, t, ["a red circle", ""], 6.0)
    torch.testing.assert_close(actual[1], ours(x, t, null, fps=6.0).sample[1])
    assert not torch.allclose(actual[0], ours(x, t, null, fps=6.0).sample[0])
