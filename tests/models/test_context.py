"""Text and time in context: tokens among a frame's own, against plain sums a sample at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import gelu, layer_norm

from videodit.models.positions import grid
from videodit.models.transformer import VideoDiT

from ..tiny import tiny_dit

LENGTHS = (5, 2)  # tokens of the two texts
ALL = {"caption_in": "context", "norm_type": "layer_norm"}
MODELS: dict[str, dict[str, Any]] = {
    "text": {"caption_in": "context"},
    "time": {"norm_type": "layer_norm"},
    "text and time": ALL,
    "all tokens at once": ALL | {"axes": ("joint",)},
    "under adaLN-zero": {"caption_in": "context", "norm_type": "ada_norm_zero"},
    "with long skips": ALL | {"skips": "long"},
}


def given(frames: int = 3, width: int = 7, **how: Any) -> dict[str, Any]:
    """Two samples, the second of a shorter text, padded with noise."""
    draw = torch.Generator().manual_seed(1)
    text = torch.randn(2, 5, 24, generator=draw)
    padded = torch.cat([text, torch.randn(2, width - 5, 24, generator=torch.Generator().manual_seed(width))], dim=1)
    return {
        "hidden_states": torch.randn(2, 4, frames, 4, 6, generator=draw),
        "timestep": torch.tensor([300.0, 700.0]),
        "encoder_hidden_states": padded,
        "encoder_attention_mask": torch.arange(width) < torch.tensor(LENGTHS)[:, None],
    } | how


def rows(values: dict[str, Any], row: int) -> dict[str, Any]:
    return {name: value[row : row + 1] for name, value in values.items()}


def reference(model: VideoDiT, call: dict[str, Any], length: int) -> Tensor:
    """One sample, of whose text the first tokens count: every frame is a list of tokens and places, no mask anywhere.

    Of a model of `layer_norm`, whose norms and gates are its tables, with time and text in context, `sincos` in time.
    """
    x = model.patch_embed(call["hidden_states"])
    at = grid(x, 2, 1, 2.0)
    places, later = (x + model.places(at))[0], model.frames(at)[0]
    time = model.embedders[0](call["timestep"], None)[0]
    text = model.caption_projection(call["encoder_hidden_states"])[0, :length]
    own = torch.cat([time[None], text])
    x = torch.stack([torch.cat([own, frame]) for frame in places])
    for number, block in enumerate(model.blocks):
        if number == 1:  # the first that looks along time
            x = x + later
        table = block.scale_shift_table
        x = x + table[2] * along(block, layer_norm(x, (32,), eps=1e-6) * (1 + table[1]) + table[0])
        hidden = layer_norm(x, (32,), eps=1e-6) * (1 + table[4]) + table[3]
        up, down = block.ff.net[0].proj, block.ff.net[2]
        x = x + table[5] * down(gelu(up(hidden), approximate="tanh"))
    shift, scale = model.scale_shift_table
    out = model.proj_out(layer_norm(x, (32,), eps=1e-6) * (1 + scale) + shift)[:, len(own) :]
    return rearrange(out, "f (h w) (p q c) -> 1 c f (h p) (w q)", h=2, p=2, q=2)


def along(block: Any, x: Tensor) -> Tensor:
    """Self-attention of f n d along the block's axis, a group at a time."""
    attn, states = block.attn1, torch.empty_like(x)
    q, k, v = (rearrange(to(x), "f n (h e) -> h f n e", h=2) for to in (attn.to_q, attn.to_k, attn.to_v))
    q, k = attn.norm_q(q), attn.norm_k(k)
    groups = range(x.shape[0]) if block.axis == "space" else range(x.shape[1])
    for group in groups:
        where = (slice(None), group) if block.axis == "space" else (slice(None), slice(None), group)
        weights = torch.softmax(q[where] @ k[where].transpose(1, 2) / 4, dim=-1)
        states[where[1:]] = rearrange(weights @ v[where], "h n e -> n (h e)")
    return attn.to_out[0](states)


def doubled(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value.double() if value.is_floating_point() else value for name, value in values.items()}


def test_it_is_what_plain_sums_give() -> None:
    model = tiny_dit(**ALL, time_positions="sincos").double()
    call = doubled(given())
    found = model(**call).sample
    for row, length in enumerate(LENGTHS):
        wanted = reference(model, rows(call, row), length)
        torch.testing.assert_close(found[row : row + 1], wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", MODELS)
def test_what_is_padded_and_who_else_is_there_is_nowhere(name: str) -> None:
    model = tiny_dit(**MODELS[name]).double()
    calls = [doubled(given(width=width)) for width in (5, 7, 11)]
    wanted = torch.cat([model(**rows(calls[0], 0)).sample, model(**rows(calls[0], 1)).sample])
    short = rows(calls[0], 1)
    short |= {key: short[key][:, :2] for key in ("encoder_hidden_states", "encoder_attention_mask")}
    del short["encoder_attention_mask"]
    torch.testing.assert_close(model(**short).sample, wanted[1:])
    for call in calls:
        torch.testing.assert_close(model(**call).sample, wanted)
    untold = [call | {"encoder_attention_mask": torch.zeros_like(call["encoder_attention_mask"])} for call in calls]
    none = [model(**call).sample for call in untold]
    torch.testing.assert_close(none[1], none[0])
    torch.testing.assert_close(none[2], none[0])
    assert (none[0] - wanted).abs().max() > 1e-3


@pytest.mark.parametrize("name", MODELS)
def test_a_memory_of_the_text_says_the_same_of_all_rows_and_of_some(name: str) -> None:
    model, call = tiny_dit(**MODELS[name]), given()
    wanted = model(**call).sample
    text, mask = call.pop("encoder_hidden_states"), call.pop("encoder_attention_mask")
    memory = model.text_memory(text, mask)
    torch.testing.assert_close(model(**call, text_memory=memory).sample, wanted)
    torch.testing.assert_close(model(**rows(call, 1), text_memory=memory[1:]).sample, wanted[1:])


def test_each_frame_has_its_own_time_and_an_image_is_a_clip_of_one_frame() -> None:
    """Blocks along space alone: a clip is its frames, one by one, each told its own time."""
    model = tiny_dit(**ALL, axes=("space",))
    times = torch.tensor([[100.0, 400.0, 900.0], [20.0, 0.0, 500.0]])
    call = given(timestep=times)
    clip = model(**call).sample
    for frame in range(3):
        alone = call | {"hidden_states": call["hidden_states"][:, :, frame : frame + 1], "timestep": times[:, frame]}
        torch.testing.assert_close(model(**alone).sample, clip[:, :, frame : frame + 1])
    still = model(**call | {"frame_mask": times == 400.0}).sample
    told = model(**call | {"timestep": torch.where(times == 400.0, 0.0, times)}).sample
    torch.testing.assert_close(still, told)


@pytest.mark.parametrize("name", ["text", "text and time", "all tokens at once"])
def test_tokens_in_context_stay_where_places_are_routed(name: str) -> None:
    """All places, in another order, are all; and of some the text still moves what stays."""
    model, call = tiny_dit(**MODELS[name], num_layers=4), given()
    order = torch.stack([torch.randperm(6, generator=torch.Generator().manual_seed(row)) for row in range(2)])
    torch.testing.assert_close(model(**call, routed=order).sample, model(**call).sample)
    some = model(**call, routed=order[:, :2]).sample
    other = call | {"encoder_hidden_states": call["encoder_hidden_states"].flip(0)}
    assert (model(**other, routed=order[:, :2]).sample - some).abs().max() > 1e-3


@pytest.mark.parametrize("name", MODELS)
def test_recomputed_blocks_have_the_same_gradients_and_a_saved_model_is_the_same(name: str, tmp_path: Path) -> None:
    model = tiny_dit(**MODELS[name])
    found = []
    for every in (0, 1):
        model.checkpoint_units(every)
        model.zero_grad()
        model.train()(**given()).sample.square().mean().backward()
        found.append({key: weight.grad for key, weight in model.named_parameters()})
    for key, gradient in found[0].items():
        assert gradient is not None, f"nothing reads {key}"
        torch.testing.assert_close(found[1][key], gradient)
    model.checkpoint_units(0)
    model.save_pretrained(tmp_path)
    again = VideoDiT.from_pretrained(tmp_path)
    assert torch.equal(again(**given()).sample, model.eval()(**given()).sample)


def test_a_class_is_told_with_the_time() -> None:
    model = tiny_dit(norm_type="layer_norm", caption_channels=None, num_classes=3)
    call = {key: value for key, value in given().items() if key in ("hidden_states", "timestep")}
    clips = [model(**call, class_labels=torch.tensor([label, label])).sample for label in (0, 3)]
    assert (clips[0] - clips[1]).abs().max() > 1e-3


def test_a_fresh_model_has_open_gates_and_silent_time_blocks() -> None:
    torch.manual_seed(0)
    shape = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 16, "caption_channels": 24}
    model = VideoDiT(4, sample_size=4, **shape, **ALL)
    assert not model(**given()).sample.any()
    model.proj_out.weight.data.normal_()
    one = given(frames=1)
    clip = given(hidden_states=one["hidden_states"].expand(-1, -1, 3, -1, -1))
    torch.testing.assert_close(model(**clip).sample, model(**one).sample.expand(-1, -1, 3, -1, -1))
    assert [block.scale_shift_table[:, 0].tolist() for block in model.blocks] == [[0, 0, 1, 0, 0, 1]] * 4


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"caption_in": "beside"}, "caption_in='beside' must be one of cross, context"),
        ({"caption_in": "context", "caption_channels": None}, "is of a text, and caption_channels=None"),
        ({"caption_in": "context", "cross_attention_norm": True}, "caption_in='context' has none"),
        (ALL | {"axes": ("linear",)}, "have no place in linear blocks"),
        ({"norm_type": "layer_norm", "axes": ("window",), "window": (1, 2, 2)}, "norm_type='layer_norm': tokens"),
        (ALL | {"time_positions": "grid"}, "no row and column"),
        ({"norm_type": "layer_norm", "guidance_embeds": True}, "needs norm_type='ada_norm_single'"),
        ({"norm_type": "layer_norm", "shared_embedder": False}, "needs norm_type='ada_norm_zero'"),
    ],
)
def test_what_no_such_model_can_be_says_why(config: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        tiny_dit(**config)
