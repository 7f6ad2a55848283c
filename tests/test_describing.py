"""What a model is made of: weights are all of its weights, compute is that of its products, and the picture says so."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from families import dit, hunyuan, lumina2, pixart, sd3, unet
from tiny import tiny_dit, tiny_pipeline
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from videodit import TimeExtended
from videodit.commands import describe as describe_command
from videodit.describing import Description, Part, describe, described, picture
from videodit.drawing import short

MODELS = {"dit": tiny_dit, "sd3": lambda: TimeExtended(sd3()), "pixart": lambda: TimeExtended(pixart(), every=2)}
MODELS |= {"unet": lambda: TimeExtended(unet()), "hunyuan": lambda: TimeExtended(hunyuan(text_len=2, text_len_t5=3))}
TEXT = 5


def made(name: str) -> Any:
    with torch.device("meta"):
        return MODELS[name]()


def latent_of(model: Any) -> tuple[int, int, int, int]:
    return model.in_channels, 3, 8, 8


def products(module: torch.nn.Module, *args: Any, **kwargs: Any) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        module(*args, **kwargs)
    return counter.get_total_flops()


@pytest.mark.slow
@pytest.mark.parametrize("name", list(MODELS))
def test_parts_are_all_of_a_model(name: str) -> None:
    model = made(name)
    found = described(model, latent_of(model), TEXT)
    assert found.weights == sum(weight.numel() for weight in model.parameters())
    told = {"encoder_hidden_states": torch.empty(1, TEXT, model.conditions[0].width, device="meta")}
    if name == "sd3":
        told["pooled_projections"] = torch.empty(1, model.conditions[1].width, device="meta")
    whole = products(model, torch.empty(1, *latent_of(model), device="meta"), torch.empty(1, device="meta"), **told)
    assert found.flops == whole
    along_time = [part for part in found.parts if part.axis == "time"]
    assert len(along_time) == (len(model.blocks) // 2 if name == "dit" else len(model.blocks))
    assert all(part.flops > 0 for part in found.parts if part.axis)


def test_a_block_costs_what_its_products_cost() -> None:
    f, s, d, m, hidden = 3, 16, 32, TEXT, 128
    n = f * s
    linear = (
        2 * n * d * d * (4 + 2) + 2 * m * d * d * 2 + 2 * n * d * hidden * 2
    )  # self, cross: q and out, k and v, MLP
    across = 2 * 2 * n * m * d  # scores and sums: cross-attention
    within = {"space": 2 * 2 * f * s * s * d, "time": 2 * 2 * s * f * f * d, "joint": 2 * 2 * n * n * d}
    with torch.device("meta"):
        model = tiny_dit(axes=("space", "time", "joint"), num_layers=1)
    found = described(model, (4, f, 8, 8), m)
    assert found.tokens == n
    blocks = {part.axis: part for part in found.parts if part.dim}
    assert {axis: part.flops for axis, part in blocks.items()} == {a: linear + across + w for a, w in within.items()}
    assert all((part.dim, part.heads, part.text) == (d, 2, "cross") for part in blocks.values())


@pytest.mark.slow
def test_an_image_model_keeps_its_cost_and_its_time_blocks_have_their_own() -> None:
    alone, model = made("sd3").image, made("sd3")
    found = described(model, latent_of(model), TEXT)
    own = {"hidden_states": torch.empty(3, *latent_of(model)[:1], 8, 8, device="meta")}
    own["encoder_hidden_states"] = torch.empty(3, TEXT, model.conditions[0].width, device="meta")
    own["pooled_projections"] = torch.empty(3, model.conditions[1].width, device="meta")
    of_frames = products(alone, timestep=torch.empty(3, device="meta"), **own)
    assert sum(part.flops for part in found.parts if part.axis != "time" and part.name != "time_embeds") == of_frames
    assert [part.axis for part in found.parts if part.dim] == ["space", "time"] * len(model.blocks)
    assert {part.text for part in found.parts if part.axis == "space"} == {"joint"}


def test_a_class_is_told_and_what_needs_real_tokens_is_refused() -> None:
    with torch.device("meta"):
        classes, counting = TimeExtended(dit()), TimeExtended(lumina2())
    found = described(classes, (4, 2, 8, 8))
    assert {part.text for part in found.parts} == {""}
    assert found.flops > 0
    with pytest.raises(ValueError, match="Lumina2Transformer2DModel counts"):
        described(counting, (4, 2, 8, 8))


def test_patterns_that_repeat_are_told_once() -> None:
    def parts(axes: str) -> tuple[Part, ...]:
        return tuple(
            Part(str(i), {"s": "space", "t": "time", "j": "joint", "-": ""}[axis]) for i, axis in enumerate(axes)
        )

    def runs(axes: str) -> list[tuple[int, str]]:
        found = Description("", (1, 1, 1, 1), 1, 0, parts(axes))
        return [(times, "".join(part.axis[:1] or "-" for part in group)) for times, group in found.runs]

    assert runs("-stststs-") == [(1, "-"), (3, "st"), (1, "s"), (1, "-")]
    assert runs("ssttt") == [(2, "s"), (3, "t")]
    assert runs("jtstst") == [(1, "j"), (1, "t"), (2, "st")]  # a time block is of what is before it
    assert runs("sst" * 4) == [(4, "sst")]
    assert runs("ststjtjts") == [(2, "st"), (2, "jt"), (1, "s")]
    assert runs("--s") == [(1, "-"), (1, "-"), (1, "s")]


@pytest.mark.slow
@pytest.mark.parametrize("name", list(MODELS))
def test_the_picture_is_an_svg_in_which_nothing_leaves_the_page(name: str) -> None:
    model = made(name)
    root = ElementTree.fromstring(picture(described(model, latent_of(model), TEXT)))
    width, height = (float(root.attrib[side]) for side in ("width", "height"))
    space = "{http://www.w3.org/2000/svg}"
    boxes = [one.attrib for one in root.iter(f"{space}rect") if "x" in one.attrib]
    assert all(float(b["x"]) >= 0 and float(b["x"]) + float(b["width"]) <= width for b in boxes)
    assert all(float(b["y"]) >= 0 and float(b["y"]) + float(b["height"]) <= height for b in boxes)
    words = " ".join(one.text or "" for one in root.iter(f"{space}text"))
    assert {"space block", "time block"} <= {name for name in ("space block", "time block") if name in words}


def run(monkeypatch: pytest.MonkeyPatch, *args: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["videodit describe", *map(str, args)])
    try:
        return describe_command.main()
    except SystemExit as end:
        return int(end.code or 0)


@pytest.mark.slow
def test_the_command_describes_a_folder_without_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe = tiny_pipeline()
    pipe.save_pretrained(tmp_path / "model")
    for file in (tmp_path / "model").rglob("*.safetensors"):
        file.unlink()
    weights = sum(weight.numel() for weight in pipe.transformer.parameters())
    assert run(monkeypatch, tmp_path / "model", "--svg", tmp_path / "a.svg") == 0
    said = capsys.readouterr().out
    assert f"VideoDiT, {short(weights)} weights; 9x32x32 at 8 fps: latent 4 x 3 x 4 x 4, 12 tokens" in said
    assert ElementTree.parse(tmp_path / "a.svg").getroot().tag.endswith("svg")
    assert run(monkeypatch, tmp_path / "model", "--num-frames", "17", "--height", "64") == 0
    assert "17x64x32 at 8 fps: latent 4 x 5 x 8 x 4, 40 tokens" in capsys.readouterr().out
    assert describe(tmp_path / "model/transformer").tokens == 5 * 4 * 4
    wrong = [("--num-frames", "16"), ("--svg", "a.png"), ("--height", "0")]
    for words in wrong:
        assert run(monkeypatch, tmp_path / "model", *words) == 2
    assert run(monkeypatch, tmp_path / "model/transformer", "--height", "64") == 2
    assert run(monkeypatch, tmp_path / "none") == 2
