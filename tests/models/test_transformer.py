"""The model against independent references: diffusers' PixArt class, and the definitions of the axes."""

from __future__ import annotations

import pytest
import torch
from diffusers import PixArtTransformer2DModel
from diffusers.models.attention import FeedForward
from einops import rearrange
from tiny import awaken, tiny_dit
from torch.nn.functional import gelu

from videodit.memory import Alive
from videodit.models.attention import Attention, AttentionShape, Axis, CrossShape, grouping
from videodit.models.block import MLP, DiTBlock, sigmoid_gelu, sigmoid_gelu_
from videodit.models.embeddings import PatchEmbed, unpatchify
from videodit.models.positions import Grid, SecondsRotary
from videodit.models.transformer import SIZES, VideoDiT


def inputs(b: int = 2, f: int = 3, m: int = 5) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    return {
        "hidden_states": torch.randn(b, 4, f, 8, 8, generator=g),
        "timestep": torch.rand(b, generator=g) * 1000,
        "encoder_hidden_states": torch.randn(b, m, 24, generator=g),
        "encoder_attention_mask": torch.ones(b, m, dtype=torch.bool),
    }


@pytest.mark.parametrize(("height", "width"), [(8, 8), (12, 4)])
@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-5), (torch.float64, 1e-7)])
def test_space_blocks_without_qk_norm_are_pixart(height: int, width: int, dtype: torch.dtype, error: float) -> None:
    theirs = PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        cross_attention_dim=32,
        caption_channels=24,
        sample_size=8,
        patch_size=2,
        use_additional_conditions=False,
    )
    awaken(theirs)
    ours = VideoDiT(
        in_channels=4,
        out_channels=8,
        num_layers=2,
        num_attention_heads=2,
        attention_head_dim=16,
        axes=("space",),
        caption_channels=24,
        qk_norm=False,
        sample_size=4,
    ).eval()
    weights = {k.replace("transformer_blocks", "blocks"): v for k, v in theirs.state_dict().items()}
    weights["patch_embed.proj.weight"] = rearrange(weights.pop("pos_embed.proj.weight"), "d c h w -> d (c h w)")
    weights["patch_embed.proj.bias"] = weights.pop("pos_embed.proj.bias")
    weights.pop("pos_embed.pos_embed", None)
    ours.load_state_dict(weights)
    ours, theirs = ours.to(dtype), theirs.to(dtype)
    x = inputs(f=1)
    x["encoder_hidden_states"] = x["encoder_hidden_states"].to(dtype)
    x["hidden_states"] = torch.randn(2, 4, 1, height, width, dtype=dtype)
    x["encoder_attention_mask"][1, 3:] = False
    image = x["hidden_states"][:, :, 0].requires_grad_()
    expected = theirs(
        image,
        x["encoder_hidden_states"],
        x["timestep"],
        {"resolution": None, "aspect_ratio": None},
        encoder_attention_mask=x["encoder_attention_mask"],
    ).sample
    x["hidden_states"] = image.detach().unsqueeze(2).requires_grad_()
    actual = ours(**x).sample
    torch.testing.assert_close(actual[:, :, 0], expected, rtol=error, atol=error)
    if dtype == torch.float64:  # gradients of so wild weights carry the rounding of float32
        expected.square().sum().backward()
        actual.square().sum().backward()
        assert (x["hidden_states"].grad[:, :, 0] - image.grad).norm() < error * image.grad.norm()


@pytest.mark.parametrize("axis", ["space", "time", "joint"])
def test_an_axis_says_which_tokens_see_each_other(axis: str) -> None:
    """By gradients: the output at frame 1, place 2 depends on its group's inputs and on no others."""
    attention = Attention(16, AttentionShape(2), axis)
    x = torch.randn(1, 3, 4, 16, requires_grad=True)
    attention(x)[0, 1, 2].sum().backward()
    sees = x.grad[0].abs().sum(-1) > 0
    expected = torch.zeros(3, 4, dtype=torch.bool)
    expected[1 if axis == "space" else slice(None), 2 if axis == "time" else slice(None)] = True
    assert torch.equal(sees, expected)


def test_attention_equals_the_formula_in_float64() -> None:
    attention = awaken(Attention(16, AttentionShape(2, qk_norm="rms_norm"), "time")).double()
    x = torch.randn(2, 5, 3, 16, dtype=torch.float64)
    angles = torch.arange(5.0, dtype=torch.float64)[:, None] * torch.tensor([1.0, 0.5, 0.2, 0.1], dtype=torch.float64)
    rotary = (angles.cos()[None, :, None, None], angles.sin()[None, :, None, None])
    turn = torch.polar(torch.ones_like(angles), angles)  # rotation as multiplication of complex numbers

    def head(linear: torch.nn.Linear, norm: torch.nn.RMSNorm | None, place: int, h: int) -> torch.Tensor:
        y = linear(x[:, :, place])[..., 8 * h : 8 * h + 8]
        if norm is None:
            return y
        y = y / (y.square().mean(-1, keepdim=True) + norm.eps).sqrt() * norm.weight
        z = torch.complex(y[..., :4], y[..., 4:]) * turn
        return torch.cat([z.real, z.imag], -1)

    expected = torch.empty(2, 5, 3, 16, dtype=torch.float64)
    for place in range(3):
        for h in range(2):
            q, k = head(attention.to_q, attention.norm_q, place, h), head(attention.to_k, attention.norm_k, place, h)
            weights = (q @ k.transpose(1, 2) / 8**0.5).softmax(-1)
            expected[:, :, place, 8 * h : 8 * h + 8] = weights @ head(attention.to_v, None, place, h)
    torch.testing.assert_close(attention(x, rotary=rotary), attention.to_out[0](expected), rtol=1e-6, atol=1e-6)


def test_more_heads_than_a_kernel_takes_are_put_beside_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, t = awaken(tiny_dit()), torch.randn(2, 4, 5, 8, 8), torch.tensor([300.0, 700.0])
    text = torch.randn(2, 6, 24)
    with torch.no_grad():
        expected = model(x, t, text).sample
        monkeypatch.setattr("videodit.models.attention.MOST_HEADS", 8)
        assert grouping("time", 9) == "(b s) f h e"
        torch.testing.assert_close(model(x, t, text).sample, expected, rtol=1e-5, atol=1e-5)


def test_rotary_positions_depend_on_seconds_not_on_frame_numbers() -> None:
    """Frames 0 .. 2 at 2 a second are frames 0, 2, 4 at 4 a second."""
    rotary = SecondsRotary(8, (0.5, 8.0))
    slow = rotary(Grid(3, 1, 1, torch.arange(3)[None] / 2.0))["time"]
    fast = rotary(Grid(5, 1, 1, torch.arange(5)[None] / 4.0))["time"]
    for a, b in zip(slow, fast, strict=True):
        torch.testing.assert_close(a, b[:, ::2])
    model, x = tiny_dit(), inputs()
    by_number = model(**x, fps=4.0).sample
    assert not torch.allclose(model(**x, fps=2.0).sample, by_number)
    torch.testing.assert_close(model(**x, fps=torch.tensor([4.0, 2.0])).sample[0], by_number[0], rtol=1e-5, atol=1e-5)


def test_rotary_positions_alone_cannot_tell_the_first_frame_from_the_last() -> None:
    """A clip of equal frames stays one through rotary attention in time; positions that are added tell them apart."""
    x = inputs()
    x["hidden_states"] = x["hidden_states"][:, :, :1].expand(-1, -1, 4, -1, -1)
    apart = {}
    for positions in ("rotary", "sincos", "both"):
        frames = tiny_dit(time_positions=positions)(**x).sample.detach()
        apart[positions] = float((frames - frames[:, :, :1]).abs().max() / frames.abs().max())
    assert apart["rotary"] < 1e-5
    assert apart["sincos"] > 1e-3
    assert apart["both"] > 1e-3


def test_added_positions_are_in_seconds_and_start_silent() -> None:
    model, x = tiny_dit(time_positions="both"), inputs()
    rotary = tiny_dit()
    rotary.load_state_dict({k: v for k, v in model.state_dict().items() if k != "time_scale"})
    assert not torch.allclose(model(**x).sample, rotary(**x).sample)
    assert not torch.allclose(model(**x, fps=4.0).sample, model(**x, fps=2.0).sample)
    torch.nn.init.zeros_(model.time_scale)
    assert torch.equal(model(**x).sample, rotary(**x).sample)
    x["hidden_states"] = x["hidden_states"][:, :, :1]
    torch.nn.init.ones_(model.time_scale)
    assert torch.equal(model(**x).sample, rotary(**x).sample)  # an image has no time


def test_every_patch_size_is_undone() -> None:
    """Through a projection that copies, tokens come back as the latent; leading padding is dropped."""
    for patch in [(1, 2, 2), (2, 1, 2), (2, 2, 2), (4, 2, 1)]:
        size = 3 * patch[0] * patch[1] * patch[2]
        embed = PatchEmbed(patch, 3, size)
        with torch.no_grad():
            embed.proj.weight.copy_(torch.eye(size))
            embed.proj.bias.zero_()
        x = torch.randn(2, 3, 5, 4, 6)
        pt, ph, pw = patch
        tokens = rearrange(embed(x), "b f s (c pt ph pw) -> b f s (pt ph pw c)", pt=pt, ph=ph, pw=pw)
        assert torch.equal(unpatchify(tokens, patch, 5, 4), x)


def test_an_image_sits_in_the_last_tap_of_its_patch() -> None:
    embed = PatchEmbed((2, 1, 1), 1, 1)
    with torch.no_grad():
        embed.proj.weight.copy_(torch.tensor([[10.0, 1.0]]))
        embed.proj.bias.zero_()
    assert embed(torch.full((1, 1, 1, 1, 1), 3.0)).item() == 3.0


def test_a_time_a_frame_equals_a_time_a_sample_where_all_are_alike() -> None:
    model, x = tiny_dit().double(), inputs()
    whole = model(**x).sample
    x["timestep"] = x["timestep"][:, None].expand(2, 3)
    torch.testing.assert_close(model(**x).sample, whole, rtol=1e-7, atol=1e-7)


def test_given_frames_are_at_time_zero() -> None:
    model, x = tiny_dit(), inputs()
    mask = torch.tensor([[True, False, False], [False, True, True]])
    masked = model(**x, frame_mask=mask).sample
    x["timestep"] = torch.where(mask, 0.0, x["timestep"][:, None])
    torch.testing.assert_close(masked, model(**x).sample)
    assert not torch.allclose(masked, model(**inputs()).sample)


def test_times_a_bfloat16_apart_are_told_apart() -> None:
    """1000 t is fp32 inside: in bf16 900 and 901 would be one."""
    model = tiny_dit().to(torch.bfloat16)
    model.adaln_single.float()
    tables = [model._times(*[torch.tensor([t, t])] * 2, None, None, None, 8.0, None)[0][0] for t in (900.0, 901.0)]
    assert not torch.equal(*tables)


def test_a_text_row_without_tokens_gives_numbers_and_ignores_its_states() -> None:
    model, x = tiny_dit(), inputs()
    x["encoder_attention_mask"][0] = False
    out = model(**x).sample
    assert out.isfinite().all()
    x["encoder_hidden_states"] = x["encoder_hidden_states"].clone()
    x["encoder_hidden_states"][0] += 5
    torch.testing.assert_close(model(**x).sample, out)


def test_gradient_checkpointing_changes_memory_only() -> None:
    model, x = tiny_dit(), inputs()
    grads = []
    for checkpointing in (False, True):
        model.enable_gradient_checkpointing() if checkpointing else model.disable_gradient_checkpointing()
        model.train().zero_grad()
        model(**x).sample.square().mean().backward()
        grads.append({k: p.grad.clone() for k, p in model.named_parameters()})
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad)


@pytest.mark.slow
def test_attention_backends_agree() -> None:
    model, x = tiny_dit(), inputs()
    x["encoder_attention_mask"][1, 2:] = False
    default = model(**x).sample
    for module in model.modules():
        if isinstance(module, Attention):
            module.set_attention_backend("_native_math")
    torch.testing.assert_close(model(**x).sample, default, rtol=1e-5, atol=1e-5)


def test_a_feature_cache_of_diffusers_runs_on_the_blocks() -> None:
    from diffusers import FirstBlockCacheConfig

    model, x = tiny_dit(), inputs()
    plain = model(**x).sample
    model.enable_cache(FirstBlockCacheConfig(threshold=0.0))  # never skips
    with model.cache_context("cond"), torch.no_grad():
        torch.testing.assert_close(model(**x).sample, plain)


@pytest.mark.parametrize(("name", "width"), [("S", 384), ("B", 768), ("L", 1024), ("XL", 1152)])
def test_named_sizes_have_the_widths_of_dit(name: str, width: int) -> None:
    with torch.device("meta"):
        model = VideoDiT.sized(name, caption_channels=32)
    assert model.blocks[0].attn1.to_q.in_features == width
    assert len(model.blocks) == 2 * SIZES[name][0]
    assert model.config.num_attention_heads * model.config.attention_head_dim == width


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_states": torch.zeros(2, 5, 3, 8, 8)}, "5 channels"),
        ({"hidden_states": torch.zeros(2, 4, 3, 7, 8)}, "7 x 8"),
        ({"timestep": torch.zeros(3)}, "timestep has shape"),
        ({"frame_mask": torch.zeros(2, 4, dtype=torch.bool)}, "frame_mask has shape"),
        ({"encoder_hidden_states": None}, "needs encoder_hidden_states"),
    ],
)
def test_wrong_shapes_are_named(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_dit()(**(inputs() | change))


def test_wrong_configurations_are_named() -> None:
    with pytest.raises(ValueError, match="axes"):
        VideoDiT(axes=("depth",))
    with pytest.raises(ValueError, match="attention_head_dim"):
        VideoDiT(attention_head_dim=15)
    with pytest.raises(ValueError, match="one frame"):
        tiny_dit(patch_size=(2, 2, 2))(**(inputs() | {"timestep": torch.zeros(2, 3)}))


def test_a_silent_block_passes_its_input_on() -> None:
    block = awaken(DiTBlock(16, "time", AttentionShape(2), CrossShape(2, dim=16), ffn_dim=32))
    x, modulation, text = torch.randn(2, 3, 4, 16), torch.randn(2, 1, 96), torch.randn(2, 5, 16)
    assert not torch.allclose(block(x, modulation, text), x)
    block.silence()
    assert torch.equal(block(x, modulation, text), x)


@pytest.mark.parametrize("axis", ["space", "time", "joint"])
@pytest.mark.parametrize("text", [True, False])
def test_a_block_gives_the_same_with_and_without_gradients_and_leaves_its_input_alone(axis: Axis, text: bool) -> None:
    block = awaken(DiTBlock(16, axis, AttentionShape(2), CrossShape(2, dim=16) if text else None, ffn_dim=32))
    given = [torch.randn(2, 3, 4, 16), torch.randn(2, 1, 96), torch.randn(2, 5, 16) if text else None]
    kept = [x if x is None else x.clone() for x in given]
    expected = block(*given)
    with torch.no_grad():
        torch.testing.assert_close(block(*given), expected.detach(), rtol=0, atol=1e-5)
    assert all(x is None or torch.equal(x, y) for x, y in zip(given, kept, strict=True))


def test_fusing_projections_is_left_undone() -> None:
    model = awaken(tiny_dit())
    before, expected = set(model.state_dict()), model(**inputs()).sample
    model.fuse_qkv_projections()
    assert set(model.state_dict()) == before
    assert torch.equal(model(**inputs()).sample, expected)


@pytest.mark.parametrize("activation", ["gelu-approximate", "gelu", "geglu"])
def test_the_mlp_is_diffusers_own_with_and_without_gradients_and_leaves_its_input_alone(activation: str) -> None:
    ours = MLP(8, activation_fn=activation, inner_dim=32)
    theirs = FeedForward(8, activation_fn=activation, inner_dim=32)
    theirs.load_state_dict(ours.state_dict())
    states = torch.randn(2, 5, 8)
    kept = states.clone()
    with torch.no_grad():
        off = 1e-6 if activation == "gelu-approximate" else 0  # a sigmoid in place of the tanh
        torch.testing.assert_close(ours(states), theirs(states), rtol=0, atol=off)
    first, second = states.clone().requires_grad_(), states.clone().requires_grad_()
    assert torch.equal(ours(first), theirs(second))
    for model, given in ((ours, first), (theirs, second)):
        model(given).square().sum().backward()
    assert torch.equal(first.grad, second.grad)
    assert torch.equal(states, kept)


@torch.no_grad()
@pytest.mark.parametrize("part", ["ff.net.0", "ff.net.0.proj"])
def test_what_a_hook_keeps_of_the_mlp_stays_as_it_was(part: str) -> None:
    block, kept = DiTBlock(8, "space", AttentionShape(2), ffn_dim=32), []
    block.get_submodule(part).register_forward_hook(
        lambda module, inputs, output: kept.append((output, output.clone()))
    )
    block(torch.randn(1, 2, 3, 8), torch.randn(1, 1, 48))
    ((output, before),) = kept
    assert torch.equal(output, before)


def test_the_gelu_of_compiled_blocks_is_the_one_with_tanh() -> None:
    x = torch.linspace(-12, 12, 4001, dtype=torch.float64, requires_grad=True)
    expected = gelu(x, approximate="tanh")
    torch.testing.assert_close(sigmoid_gelu(x), expected, rtol=0, atol=1e-14)
    (slope,), (right,) = (torch.autograd.grad(y.sum(), x) for y in (sigmoid_gelu(x), expected))
    torch.testing.assert_close(slope, right, rtol=0, atol=1e-13)
    half = torch.tensor([-400.0, -41.0, 41.0, 400.0], dtype=torch.float16, requires_grad=True)
    (slope,) = torch.autograd.grad(sigmoid_gelu(half).sum(), half)
    assert slope.tolist() == [0, 0, 1, 1]


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_the_gelu_in_place_is_the_one_with_tanh_as_near_as_torch_has_it(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("videodit.models.block.PIECE", 1000)
    x = torch.cat([torch.linspace(-12, 12, 4001), torch.tensor([-6e4, -400.0, -41.0, 41.0, 400.0, 6e4])]).to(dtype)
    exact = gelu(x.double(), approximate="tanh")
    off = (gelu(x, approximate="tanh").double() - exact).abs() + 4 * torch.finfo(dtype).eps * x.double().abs()
    ours = x.clone()
    assert sigmoid_gelu_(ours) is ours
    assert ((ours.double() - exact).abs() <= off + torch.finfo(dtype).tiny).all()


def test_without_gradients_the_mlp_holds_its_hidden_states_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("videodit.models.block.PIECE", 64)
    mlp, states = MLP(8, activation_fn="gelu-approximate", inner_dim=32), torch.randn(64, 8)
    with torch.no_grad(), Alive() as alive:
        mlp(states)
    assert alive.peak < 4 * 64 * 2 * 32  # bytes of two of them; the output, and weights that are looked at, besides
