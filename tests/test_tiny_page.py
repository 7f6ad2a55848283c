"""`docs/tiny.py`: the one page has the library's block and loss, and makes clips."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch
from einops import rearrange
from tiny import awaken

from videodit.models.attention import AttentionShape, CrossShape
from videodit.models.block import DiTBlock
from videodit.shapes import vocabulary_captions

PAGE = Path(__file__).parents[1] / "docs" / "tiny.py"
NAMES = {  # of the library, by the page's
    "table": "scale_shift_table",
    "look.q": "attn1.to_q",
    "look.k": "attn1.to_k",
    "look.v": "attn1.to_v",
    "look.out": "attn1.to_out.0",
    "read.q": "attn2.to_q",
    "read.k": "attn2.to_k",
    "read.v": "attn2.to_v",
    "read.out": "attn2.to_out.0",
    "mlp.0": "ff.net.0.proj",
    "mlp.2": "ff.net.2",
}


@pytest.fixture(scope="module")
def page() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tiny_page", PAGE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("axis", ["space", "time"])
def test_its_block_is_the_librarys(page: ModuleType, axis: str) -> None:
    ours = awaken(DiTBlock(32, axis, AttentionShape(2), CrossShape(2, dim=32), ffn_dim=128))  # type: ignore[arg-type]
    theirs = page.Block(32, 2, axis).eval()
    weights = ours.state_dict()
    theirs.load_state_dict({name: weights[name.replace(*_renamed(name))] for name in theirs.state_dict()})
    assert len(theirs.state_dict()) == len(weights)
    x, told, text = torch.randn(2, 3, 4, 32), torch.randn(2, 6 * 32), torch.randn(2, 5, 32)
    mask = torch.tensor([[True] * 5, [True] * 2 + [False] * 3])
    with torch.no_grad():
        expected = ours(x, rearrange(told, "b d -> b 1 d"), text, rearrange(mask, "b m -> b 1 1 m"))
        torch.testing.assert_close(theirs(x, told, text, mask), expected, atol=1e-5, rtol=1e-5)
        swapped = theirs(x.flip(1), told, text, mask).flip(1)  # no block tells frames apart by itself
    torch.testing.assert_close(swapped, expected, atol=1e-5, rtol=1e-5)


def _renamed(name: str) -> tuple[str, str]:
    return next((page, ours) for page, ours in NAMES.items() if name == page or name.startswith(page + "."))


def test_it_knows_every_word_of_its_world(page: ModuleType) -> None:
    for caption in vocabulary_captions():
        numbers, mask = page.tokenize([caption, ""], length=64)
        assert [page.WORDS[number] for number in numbers[0][mask[0]]] == ["<start>", *caption.split()]
        assert mask[1].sum() == 1


def test_tokens_are_turned_back_into_the_clip(page: ModuleType) -> None:
    clip = torch.randn(1, 3, page.FRAMES, page.SIDE, page.SIDE)
    tokens = rearrange(clip, page.CUT, **page.PATCH)
    back = " -> ".join(reversed(page.CUT.split(" -> ")))
    torch.testing.assert_close(rearrange(tokens, back, h=page.SIDE // page.PATCH["ph"], **page.PATCH), clip)


def test_a_model_that_knows_the_clip_comes_back_to_it_and_has_no_loss(page: ModuleType) -> None:
    """Along straight lines Euler's steps are exact, whatever their number and the guidance."""
    clip = torch.rand(2, 3, page.FRAMES, page.SIDE, page.SIDE) * 2 - 1

    class Knows(torch.nn.Module):
        def forward(self, *_: object) -> torch.Tensor:
            return clip

    torch.testing.assert_close(page.sample(Knows(), ["a", "a"], steps=3), clip, atol=1e-5, rtol=0)
    assert page.loss(Knows(), clip, ["a", "a"]) < 1e-9


@pytest.mark.slow
def test_it_trains_and_samples(page: ModuleType) -> None:
    model = page.train(steps=3, scenes=16, batch=2)
    assert model.head.weight.abs().max() > 0
    made = page.sample(model, ["a red circle rises"], steps=2)
    assert made.shape == (1, 3, page.FRAMES, page.SIDE, page.SIDE)
    assert made.isfinite().all()


def test_it_is_one_page() -> None:
    assert len(PAGE.read_text(encoding="utf-8").splitlines()) <= 150
