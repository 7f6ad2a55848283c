"""Tiles of a large picture: blended without a seam; a second stage that makes clips larger."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import awaken, tiny_pipeline
from torch import Tensor
from torch.nn.functional import interpolate

from videodit.caching import set_cache
from videodit.clipset.upscaling import SecondStage
from videodit.codec.maps import blurred, enlarged, map_of
from videodit.commands import sample
from videodit.data.transforms import to_frames, to_pixels
from videodit.models import Condition
from videodit.pipeline import VideoDiTPipeline
from videodit.pipeline.tiles import Side, Tiles
from videodit.pipeline.upsampling import upsampled
from videodit.video import read_clip

FAST: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 2.0, "output_type": "latent", "num_frames": 5}


@pytest.fixture
def pipe(tiny_pipe: VideoDiTPipeline) -> VideoDiTPipeline:
    pipe = tiny_pipeline().to(tiny_pipe.device)
    pipe.transformer.add_conditions([Condition("low", "channels", 4, True, of="small", factor=2)])
    awaken(pipe.transformer, seed=5)
    return pipe


def frames(seed: int, count: int = 5, side: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def made(pipe: VideoDiTPipeline, **options: Any) -> Tensor:
    return pipe("a red circle", generator=torch.Generator().manual_seed(0), **FAST | options).frames


@pytest.mark.parametrize(
    ("length", "side", "overlap", "patch"), [(24, 8, 2, 1), (9, 8, 2, 1), (20, 8, 2, 2), (8, 8, 2, 2)]
)
def test_tiles_cover_a_side_and_share_enough(length: int, side: int, overlap: int, patch: int) -> None:
    starts = Side(side, overlap, patch).starts(length)
    assert (starts[0], starts[-1] + side) == (0, length)
    assert all(start % patch == 0 for start in starts)
    shared = [before + side - after for before, after in pairwise(starts)]
    assert all(overlap <= one + patch - 1 for one in shared)
    assert len(starts) == max(1, -(-(length - overlap) // (side - overlap)))


def test_what_looks_at_each_place_alone_gives_what_it_gives_of_the_whole() -> None:
    """Each place with its latent, its map and its clip's time; and no two tiles of a place are told apart."""
    latents, low = torch.randn(2, 3, 4, 11, 21), torch.randn(2, 3, 4, 11, 21)
    pose = torch.tensor([2.0, 3.0])

    def model(x: Tensor, times: Tensor, conditions: dict[str, Tensor], **_: Any) -> tuple[Tensor]:
        assert max(x.shape[-2:]) <= 8
        return (x * conditions["pose"].reshape(-1, 1, 1, 1, 1) + conditions["low"] * times.reshape(-1, 1, 1, 1, 1),)

    told = {"conditions": {"low": low, "pose": pose}}
    times = torch.tensor([0.5, 0.25])
    whole = latents * pose.reshape(-1, 1, 1, 1, 1) + low * times.reshape(-1, 1, 1, 1, 1)
    torch.testing.assert_close(Tiles(Side(8, 3), Side(8, 3), (8, 8)).over(model)(latents, times, **told)[0], whole)


def test_between_two_tiles_the_one_gives_way_to_the_other_bit_by_bit() -> None:
    """Of tiles that say 0, 1, 2 ... along a row what is made is level, then a ramp, then level."""
    numbers = iter(range(10))

    def model(x: Tensor, times: Tensor) -> tuple[Tensor]:
        return (torch.full_like(x, next(numbers)),)

    row = Tiles(Side(8, 4), Side(8, 4), (8, 8)).over(model)(torch.zeros(1, 1, 1, 8, 12), torch.zeros(1))[0][0, 0, 0, 3]
    torch.testing.assert_close(row, torch.tensor([0.0] * 4 + [1 / 5, 2 / 5, 3 / 5, 4 / 5] + [1.0] * 4))


def test_tiles_as_large_as_the_clip_change_nothing_and_smaller_ones_do(pipe: VideoDiTPipeline) -> None:
    size = {"height": 48, "width": 32}
    whole = made(pipe, **size)
    assert torch.equal(made(pipe, **size, tile_size=48), whole)
    tiled = made(pipe, **size, tile_size=32, tile_overlap_factor=0.5)
    assert tiled.isfinite().all()
    assert (tiled - whole).abs().max() > 1e-3


def test_rows_and_columns_of_tiles_may_differ_and_the_model_is_told_of_what_it_sees(
    pipe: VideoDiTPipeline, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[tuple[int, ...]] = []
    pipe.transformer.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[-2:]))
    made(pipe, height=64, width=96, tile_size=(32, 64))
    assert set(seen) == {(4, 8)}
    assert len(seen) == 2 * 3 * 2
    caplog.clear()
    made(pipe, height=64, width=64, tile_size=32)
    assert "64" not in caplog.text  # no word of a size that it never sees
    seen.clear()
    pipe.register_to_config(default_height=32, default_width=64)
    pipe.upsample(frames(1), "a red circle", height=32, width=64, num_inference_steps=1, output_type="latent")
    assert set(seen) == {(4, 8)}  # no larger than its own


def test_a_second_stage_is_told_what_it_was_told_in_training(pipe: VideoDiTPipeline) -> None:
    """A small picture, scaled up once: what is left of a large one that is taken down and up again."""
    large = to_pixels(frames(1, side=32))[None]
    trained = map_of(pipe.codec, large, "small", 2)
    small = interpolate(large[0].transpose(0, 1), scale_factor=0.5, mode="bicubic", antialias=True)
    clip = to_frames(small.transpose(0, 1)[None])[0]
    told = []
    pipe.transformer.register_forward_pre_hook(
        lambda _, args, kwargs: told.append(kwargs["conditions"]["low"]), with_kwargs=True
    )
    options = {k: v for k, v in FAST.items() if k != "num_frames"} | {"generator": torch.Generator().manual_seed(0)}
    ours = pipe.upsample(clip, "a red circle", **options).frames
    assert ours.shape[-2:] == (4, 4)
    torch.testing.assert_close(told[0][:1].cpu(), trained.cpu(), atol=0.02, rtol=0)  # of rounding to 256 levels
    assert (
        map_of(pipe.codec, enlarged(small[None].transpose(1, 2), 2), "small", 2).cpu() - trained.cpu()
    ).abs().max() > 0.05
    assert torch.equal(ours, made(pipe, height=32, width=32, conditions={"low": clip}))  # which may be given small
    generator = torch.Generator().manual_seed(0)
    wide = pipe.upsample([frames(1), frames(2)], ["a red circle"] * 2, height=64, **options | {"generator": generator})
    assert wide.frames.shape == (2, 4, 2, 8, 8)
    assert blurred(torch.zeros(1, 3, 1, 32, 32), 2).shape[-1] == 32


def test_a_clip_of_another_shape_is_cut_and_one_of_detail_that_is_not_told_is_said(
    pipe: VideoDiTPipeline, caplog: pytest.LogCaptureFixture
) -> None:
    def asked(shape: tuple[int, int], height: int | None = None, width: int | None = None) -> dict[str, Any]:
        return upsampled(pipe, np.zeros((3, *shape, 3), np.uint8), height, width, {})

    pipe.register_to_config(default_height=32, default_width=64, trained_sizes=[[5, 64, 32, 8.0]])
    for shape, height, sides, tile in [
        ((16, 32), None, (32, 64), None),
        ((32, 16), None, (64, 32), None),  # one of those that it was trained at
        ((64, 32), None, (128, 64), (64, 32)),
        ((32, 64), None, (64, 128), (32, 64)),
        ((30, 17), 64, (64, 32), None),
    ]:
        call = asked(shape, height)
        assert (call["height"], call["width"], call["tile_size"]) == (*sides, tile)
        assert {one.shape[:2] for one in call["conditions"]["low"]} == {(sides[0] // 2, sides[1] // 2)}
    assert caplog.text == ""
    asked((64, 64), 64)
    assert "video: 64x64 is scaled to 32x32, for the model makes clips 2 times as large" in caplog.text
    thirds = [one | {"factor": 3} for one in pipe.transformer.config.own_conditions]
    pipe.transformer.register_to_config(own_conditions=thirds)
    assert asked((24, 24))["height"] == 96  # of whole patches, 16, and three times something
    with pytest.raises(ValueError, match="height=64 is not a multiple of 48; nearest: 48 or 96"):
        asked((24, 24), 64)


@pytest.mark.parametrize(
    ("change", "settings", "why"),
    [
        ({}, {"loop": True}, "upscale: loop: what is given would be made anew"),
        ({}, {"image": "first.png"}, "upscale: image: what is given would be made anew"),
        ({"default_num_frames": 1}, {}, "upscale: num_frames=9: the model learned pictures alone; ask for 1 or fewer"),
        ({}, {"num_frames": 17, "height": 17}, "upscale: height=40 is not a multiple of 16"),
    ],
)
def test_what_a_second_stage_cannot_make_is_said_before_anything_is_made(
    pipe: VideoDiTPipeline, change: dict[str, Any], settings: dict[str, Any], why: str
) -> None:
    pipe.register_to_config(**change)
    stage = SecondStage(pipe, "second", 40 if "height" in settings else None)
    with pytest.raises(ValueError, match=why):
        stage.check({"num_frames": 9, "height": 16, "width": 16, "fps": 8.0} | settings)


def test_how_it_was_made_larger_is_among_the_settings_and_memory_is_counted(
    pipe: VideoDiTPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe.register_to_config(default_num_inference_steps=7, default_guidance_scale=3.0)
    settings = SecondStage(pipe, "second").settings
    assert (settings["upscale_steps"], settings["upscale_guidance_scale"]) == (7, 3.0)
    monkeypatch.setattr("videodit.memory.free_bytes", lambda device: 1)
    with pytest.raises(ValueError, match=r"upscale: decoding .* GB of memory"):
        SecondStage(pipe, "second").check({"num_frames": 9, "height": 16, "width": 16, "fps": 8.0})
    pipe.transformer.add_conditions([Condition("pose", "vectors", 2, False, of="numbers")])
    with pytest.raises(ValueError, match="upscale: second was not trained to do without 'pose'"):
        SecondStage(pipe, "second")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"tile_size": 20}, "tile_size=20 is not a multiple of 16; nearest: 16 or 32"),
        ({"tile_size": 32, "tile_overlap_factor": 1.0}, "tile_overlap_factor=1.0 must be above 0 and below 1"),
        ({"tile_size": 16}, "tile_size=16: a tile of one patch shares all"),
    ],
)
def test_tiles_that_cannot_be_are_named(pipe: VideoDiTPipeline, options: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        made(pipe, **options)


def test_what_does_not_go_together_is_named(tiny_pipe: VideoDiTPipeline, pipe: VideoDiTPipeline) -> None:
    with pytest.raises(ValueError, match="one condition that is `of: small`; none of this one's"):
        tiny_pipe.upsample(frames(1), "a red circle")
    set_cache(pipe, "taylorseer")
    with pytest.raises(ValueError, match="tile_size does not go with a feature cache"):
        made(pipe, tile_size=32)


@pytest.mark.slow
def test_the_command_makes_larger_what_it_made_with_a_model_or_its_own_second_stage(
    pipe: VideoDiTPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    first = tiny_pipeline()
    first.register_to_config(default_num_inference_steps=2)
    first.save_pretrained("model")
    pipe.register_to_config(default_num_inference_steps=2)
    pipe.save_pretrained("second")

    def run(out: str, *said: str) -> int:
        monkeypatch.setattr(
            "sys.argv", ["sample", "--model", "model", "--prompt", "a red circle", "--seed", "3", "--out", out, *said]
        )
        return sample.main()

    assert run("none.mkv", "--upscale") == 2
    assert "model has no second stage of its own (model/upsampler); name one" in capsys.readouterr().err
    assert run("none.mkv", "--upscale-height", "64") == 2
    assert "--upscale-height is of --upscale" in capsys.readouterr().err
    assert run("none.mkv", "--upscale", "model") == 2
    assert "none of this one's" in capsys.readouterr().err
    assert run("none.mkv", "--upscale", "second", "--upscale-height", "100") == 2
    assert "upscale: height=100 is not a multiple of" in capsys.readouterr().err
    assert run("none.mkv", "--attention-maps", "--tile-size", "32") == 2
    assert "attention maps are of whole pictures" in capsys.readouterr().err
    assert run("small.mkv") == run("large.mkv", "--upscale", "second") == 0
    assert json.loads(Path("large.json").read_text())["upscale"] == "second"
    small, large = read_clip("small.mkv", 9, 8.0), read_clip("large.mkv", 9, 8.0)
    assert small.shape == (9, 32, 32, 3)
    made = VideoDiTPipeline.from_pretrained("second").upsample(
        small, "a red circle", fps=8.0, generator=[torch.Generator().manual_seed(3)]
    )
    assert made.frames[0].shape == large.shape == (9, 64, 64, 3)
    np.testing.assert_allclose(large, made.frames[0] * 255, atol=1)

    Path("second").rename("model/upsampler")
    Path("small.mkv").unlink()
    assert run("own.mkv", "--upscale", "--upscale-height", "96", "--num-frames", "17", "--tile-size", "32") == 0
    assert read_clip("own.mkv", 17, 8.0).shape == (17, 96, 96, 3)  # window after window
