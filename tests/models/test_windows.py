"""Attention in windows: against attention with a mask, in float64, and against attention of all to all."""

from __future__ import annotations

from itertools import pairwise, product
from typing import Any

import pytest
import torch
from torch import Tensor

from videodit.models.attention import Attention, AttentionShape
from videodit.models.checks import check_route
from videodit.models.formats.table import ConversionError
from videodit.models.growth import grow
from videodit.models.transformer import VideoDiT
from videodit.models.windows import Windows, cut

SIZE: dict[str, Any] = {"in_channels": 4, "num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 12}


def model(axes: tuple[str, ...] = ("window",), **config: Any) -> VideoDiT:
    """All of whose weights matter."""
    torch.manual_seed(0)
    made = VideoDiT(**SIZE | {"axes": axes, "patch_size": (1, 1, 1)} | config)
    for weight in made.parameters():
        torch.nn.init.normal_(weight, std=0.15)
    return made.eval()


def call(made: VideoDiT, frames: int = 5, rows: int = 6, columns: int = 7) -> Tensor:
    draw = torch.Generator().manual_seed(frames)
    latents = torch.randn(2, 4, frames, rows, columns, generator=draw)
    return made(latents, torch.tensor([300.0, 700.0]), return_dict=False)[0]


def number_of(place: int, side: int, size: int, shifted: bool) -> int:
    """Of the window that a token lies in: they begin at half a window where they are laid anew."""
    return 0 if size >= side else (place - (size // 2 if shifted else 0)) // size


@pytest.mark.parametrize("shifted", [False, True])
def test_windows_cut_a_side_into_runs_of_one_length_and_lose_nothing(shifted: bool) -> None:
    for side, size in product(range(1, 14), repeat=2):
        runs = cut(side, size, shifted)
        spans = [(at + i * length, length) for at, count, length in runs for i in range(count)]
        assert [place for at, length in spans for place in range(at, at + length)] == list(range(side))
        numbers = [number for number, (_, length) in enumerate(spans) for _ in range(length)]
        expected = [number_of(place, side, size, shifted) for place in range(side)]
        assert [a == b for a, b in pairwise(numbers)] == [a == b for a, b in pairwise(expected)]
        assert len(runs) <= 3


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("size", [(2, 3, 2), (4, 4, 4), (1, 1, 7), (5, 2, 3), (9, 9, 9)])
def test_a_window_sees_what_a_mask_would_let_it_see(size: tuple[int, int, int], shifted: bool) -> None:
    """Softmax over all tokens in float64, of which those of other windows weigh nothing."""
    sides = (5, 6, 7)
    attention = Attention(24, AttentionShape(2, qk_norm="rms_norm"), "window").double()
    x = torch.randn(2, sides[0], sides[1] * sides[2], 24, dtype=torch.float64)
    seen = attention(x, layout=Windows(size, shifted, sides[2]))
    places = list(product(*map(range, sides)))
    windows = [tuple(number_of(*one, shifted) for one in zip(place, sides, size, strict=True)) for place in places]
    together = torch.tensor([[a == b for b in windows] for a in windows])
    flat = x.flatten(1, 2)
    query, key, value = (to(flat).unflatten(-1, (2, 12)) for to in (attention.to_q, attention.to_k, attention.to_v))
    scores = torch.einsum("bnhe,bmhe->bhnm", attention.norm_q(query), attention.norm_k(key)) / 12**0.5
    weights = scores.masked_fill(~together, -torch.inf).softmax(dim=-1)
    wanted = attention.to_out[0](torch.einsum("bhnm,bmhe->bnhe", weights, value).flatten(-2))
    torch.testing.assert_close(seen.flatten(1, 2), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("positions", ["both", "rotary", "frames", "grid"])
def test_windows_as_large_as_the_clip_are_attention_of_all_to_all_bit_for_bit(positions: str) -> None:
    joint, window = (
        model((axis,), time_positions=positions, **more)
        for axis, more in (("joint", {}), ("window", {"window": (5, 8, 7)}))
    )
    for frames in (5, 3, 1):
        assert torch.equal(call(window, frames), call(joint, frames))
    assert not torch.equal(call(window, 6), call(joint, 6))  # two windows, then


def test_what_one_block_parts_the_next_joins() -> None:
    """A token reaches its window in one block, and in two that of which a half lies in it: how far, in closed form."""
    for layers, reach in ((1, range(4)), (2, range(6))):
        made = model(num_layers=layers, window=(4, 1, 1), time_positions="rotary")
        latents = torch.randn(1, 4, 12, 1, 1)
        other = latents.clone()
        other[:, :, 1] += 1  # which the first window sees, of 0 to 3; laid anew they are of 0 and 1, and of 2 to 5
        moved = made(latents, torch.tensor([500.0])).sample - made(other, torch.tensor([500.0])).sample
        assert [frame for frame in range(12) if moved[:, :, frame].abs().max() > 0] == list(reach)


@pytest.mark.slow
def test_checkpointed_and_traced_blocks_compute_the_same() -> None:
    made = model(window=(2, 4, 4), axes=("space", "window"))
    wanted = call(made)
    wanted.square().mean().backward()
    gradients = [weight.grad.clone() for weight in made.parameters() if weight.grad is not None]
    made.zero_grad()
    made.checkpoint_units(1)
    call(made.train()).square().mean().backward()
    for a, b in zip(gradients, (weight.grad for weight in made.parameters() if weight.grad is not None), strict=True):
        torch.testing.assert_close(a, b)
    made.checkpoint_units(0)
    torch._dynamo.reset()
    made.compile_repeated_blocks(backend="eager", fullgraph=True)  # a break of the graph is an error
    torch.testing.assert_close(call(made), wanted)
    torch._dynamo.reset()


def test_what_is_saved_comes_back(tmp_path: Any) -> None:
    made = model(window=(2, 4, 4))
    made.save_pretrained(tmp_path)
    assert torch.equal(call(VideoDiT.from_pretrained(tmp_path)), call(made))


@pytest.mark.parametrize("positions", ["both", "grid"])
def test_attention_of_all_to_all_is_grown_into_windows(positions: str) -> None:
    joint = model(("space", "joint"), qk_norm=("joint",), time_positions=positions)
    large, report = grow(joint, axes=("space", "window"), window=(9, 9, 9))
    assert torch.equal(call(large), call(joint))
    assert "no longer seen" in report.grown["axes"]
    small, _ = grow(joint, axes=("space", "window"), window=(2, 4, 4))
    assert not torch.equal(call(small), call(joint))
    with pytest.raises(ConversionError, match="laid otherwise"):  # the second layer would be the third
        grow(small, axes=("space", "window"), num_layers=3)
    again, report = grow(small, axes=("space", "window"), num_layers=4)
    assert again.config.window == small.config.window
    assert "axes" not in report.grown
    assert torch.equal(call(again), call(small))


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"axes": ("window",)}, r"window=None: window blocks need tokens .* as window=\(4, 8, 8\)"),
        ({"axes": ("window",), "window": (2, 0, 4)}, r"window=\(2, 0, 4\): window blocks need"),
        ({"axes": ("window",), "window": (2, 4)}, r"window=\(2, 4\): window blocks need"),
        ({"axes": ("joint",), "window": (2, 4, 4)}, "window=.*: no block would read it: it is of window blocks"),
    ],
)
def test_windows_are_said_where_blocks_have_them(config: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        VideoDiT(**SIZE, **config)


def test_places_do_not_pass_windows_by() -> None:
    with pytest.raises(ValueError, match="leaves no window of a clip whole"):
        check_route(model(window=(2, 4, 4), num_layers=4))
