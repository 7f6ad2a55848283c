"""What a user gives for a model's own conditions, through the pipeline and the command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import awaken, tiny_pipeline
from torch import Tensor

from videodit.codec.maps import blurred, map_of
from videodit.commands import sample
from videodit.controls import over_windows
from videodit.data.transforms import to_pixels
from videodit.geometry import ClipSize
from videodit.long import long_clip
from videodit.models import Condition
from videodit.pipeline import VideoDiTPipeline
from videodit.video.writer import write_video

PROMPTS = ["a red circle", "two blue stars"]
FAST: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 2.0, "output_type": "latent"}


def frames(seed: int, count: int = 9) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def states(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 6)).astype(np.float32)


@pytest.fixture
def pipe(tiny_pipe: VideoDiTPipeline) -> VideoDiTPipeline:
    pipe = tiny_pipeline().to(tiny_pipe.device)
    pipe.transformer.add_conditions(
        [
            Condition("depth", "channels", 4, True, of="vae"),
            Condition("mask", "channels", 64, True, of="luma"),
            Condition("loud", "vectors", 1, True, per="frame", of="numbers"),
            Condition("camera", "vectors", 2, True, of="numbers"),
            Condition("picture", "tokens", 6, True, of="states"),
        ]
    )
    awaken(pipe.transformer, seed=5)
    return pipe


def made(pipe: VideoDiTPipeline, prompts: list[str] = PROMPTS, first: int = 0, **options: Any) -> Tensor:
    generators = [torch.Generator().manual_seed(first + number) for number in range(len(prompts))]
    return pipe(prompts, generator=generators, **FAST | options).frames


def test_each_clip_is_told_its_own_alone_or_among_others(pipe: VideoDiTPipeline) -> None:
    told = {"depth": [frames(1), frames(2)], "mask": frames(3), "loud": [[0.0, 0.5, 1.0], [1.0, 0.5, 0.0]]}
    told |= {"camera": [[1.0, 2.0], [3.0, 4.0]], "picture": [states(1, 7), states(2, 3)]}
    both = made(pipe, conditions=told)
    alone = {"depth": frames(2), "mask": frames(3), "loud": [1.0, 0.5, 0.0], "camera": [3.0, 4.0]}
    alone["picture"] = states(2, 3)
    torch.testing.assert_close(made(pipe, PROMPTS[1:], 1, conditions=alone), both[1:], rtol=1e-3, atol=1e-3)
    twice = pipe(
        PROMPTS[1],
        generator=[torch.Generator().manual_seed(1)] * 2,
        num_videos_per_prompt=2,
        conditions=alone | {"depth": [frames(2)]},
        **FAST,
    ).frames
    torch.testing.assert_close(twice[:1], both[1:], rtol=1e-3, atol=1e-3)
    for name in told:
        assert (made(pipe, conditions={k: v for k, v in told.items() if k != name}) - both).abs().max() > 1e-3


def test_maps_are_what_the_vae_keeps_and_brightness_to_the_pixel(pipe: VideoDiTPipeline) -> None:
    pixels = to_pixels(frames(1))[None]
    assert torch.equal(map_of(pipe.codec, pixels, "vae"), pipe.codec.encode(pixels))
    luma = map_of(pipe.codec, pixels, "luma")
    assert luma.shape == (1, 64, 3, 4, 4)
    for frame, row, column in ((0, 0, 0), (1, 13, 30), (2, 31, 7)):  # the clip's frames 0, 4 and 8
        wanted = frames(1)[4 * frame, row, column] @ np.array([0.299, 0.587, 0.114]) / 127.5 - 1
        found = luma[0, row % 8 * 8 + column % 8, frame, row // 8, column // 8]
        assert float(found) == pytest.approx(wanted, abs=1e-5)
    across = np.zeros((9, 32, 32, 3), np.uint8)
    across[:, :, 16:] = 255
    steep = map_of(pipe.codec, to_pixels(across)[None], "edges").reshape(8, 8, 3, 4, 4)[:, :, 1]
    steep = steep.permute(2, 0, 3, 1).reshape(32, 32)  # rows and columns of pixels
    assert steep[:, [14, 15, 16, 17]].unique(dim=0).tolist() == [[0.0, 1.0, 1.0, 0.0]]
    flat = torch.rand(1, 3, 1, 4, 4).repeat_interleave(8, dim=-1).repeat_interleave(8, dim=-2) * 2 - 1
    assert (blurred(flat, 2) - flat).abs().mean() < 0.1  # of squares of eight, which a half can hold
    torch.testing.assert_close(blurred(torch.ones(1, 3, 1, 32, 32), 4), torch.ones(1, 3, 1, 32, 32))
    with pytest.raises(ValueError, match="multiples of 5"):
        blurred(flat, 5)
    maps = {"depth": pipe.codec.encode(pixels), "mask": luma}
    torch.testing.assert_close(made(pipe, conditions=maps), made(pipe, conditions=dict.fromkeys(maps, frames(1))))


def test_the_pass_without_the_prompt_can_be_told_less(pipe: VideoDiTPipeline) -> None:
    forward, seen = pipe.transformer.forward, []

    def see(*args: Any, **told: Any) -> Any:
        seen.append({name: rows.tolist() for name, rows in told["conditions_told"].items()})
        return forward(*args, **told)

    pipe.transformer.forward = see
    told = {"mask": frames(1), "camera": [1.0, 2.0]}
    made(pipe, conditions=told, guidance_conditions=["mask"])
    made(pipe, conditions=told, guidance_scale=1.0, guidance_conditions=["mask"])
    assert seen[0] == {"mask": [True, True, False, False], "camera": [True] * 4}
    assert seen[2] == {"mask": [True, True], "camera": [True, True]}


def test_a_condition_that_was_never_left_out_must_be_given(pipe: VideoDiTPipeline) -> None:
    pipe.transformer.add_conditions([Condition("pose", "vectors", 1, of="numbers")])
    with pytest.raises(ValueError, match="not trained to do without 'pose': give it"):
        made(pipe)
    assert made(pipe, conditions={"pose": 0.5}).isfinite().all()


@pytest.mark.parametrize(
    ("told", "why"),
    [
        (
            {"edge": frames(0)},
            r"conditions: 'edge' is none of what this model is told \(depth, mask, loud, camera, picture\)",
        ),
        ({"mask": frames(0, 5)}, r"conditions\['mask'\]: 5 frames for a clip of 9; give as many"),
        ({"mask": [frames(0)] * 3}, r"conditions\['mask'\]: 3 given for 2 prompts"),
        ({"loud": [0.1, 0.2]}, r"conditions\['loud'\]: numbers of shape \(1, 2, 1\); give \(3, 1\) finite ones"),
        ({"camera": [1.0, float("nan")]}, r"conditions\['camera'\]: numbers of shape"),
        ({"picture": np.zeros((3, 5))}, r"conditions\['picture'\]: states of shape \(3, 5\); give m x 6"),
        ({"picture": [states(0, 2)] * 3}, "3 given for 2 prompts"),
        ({"camera": [[1.0, 2.0]] * 3}, "3 given for 2 prompts"),
    ],
)
def test_what_is_given_wrongly_is_named(pipe: VideoDiTPipeline, told: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        made(pipe, conditions=told)


def test_what_takes_none_says_so(pipe: VideoDiTPipeline) -> None:
    pipe.transformer.add_conditions([replace(pipe.transformer.own_conditions[1], null=False)])
    with pytest.raises(ValueError, match="guidance_conditions: this model was not trained to do without 'mask'"):
        made(pipe, conditions={"mask": frames(1)}, guidance_conditions=["mask"])
    pipe.transformer.add_conditions([replace(pipe.transformer.own_conditions[1], null=True)])
    with pytest.raises(ValueError, match="guidance_conditions: 'mask' is not given"):
        made(pipe, conditions={"camera": [1.0, 2.0]}, guidance_conditions=["mask"])
    with pytest.raises(ValueError, match=r"'mask'\]: 9 frames for a clip of 33; give as many"):
        long_clip(pipe, "a red circle", 33, conditions={"mask": frames(0)})
    with pytest.raises(ValueError, match=r"'loud'\]: numbers of shape \(1, 3, 1\); give \(9, 1\)"):
        long_clip(pipe, "a red circle", 33, conditions={"loud": [0.0, 0.5, 1.0]})
    with pytest.raises(ValueError, match=r"'masks' is none of what this model is told"):
        long_clip(pipe, "a red circle", 33, conditions={"masks": frames(0)})
    with pytest.raises(ValueError, match=r"'mask' is none of what this model is told \(none\)"):
        made(tiny_pipeline().to(pipe.device), conditions={"mask": frames(0)})


def test_each_window_of_a_long_clip_is_told_what_is_of_its_frames(
    pipe: VideoDiTPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {"mask": frames(3, 15), "loud": [0.1, 0.2, 0.3, 0.4, 0.5], "camera": [1.0, 2.0], "picture": states(0, 3)}
    seen: list[dict[str, Any]] = []
    call = VideoDiTPipeline.__call__

    def see(self: VideoDiTPipeline, *args: Any, **options: Any) -> Any:
        seen.append(options["conditions"])
        return call(self, *args, **options)

    monkeypatch.setattr(VideoDiTPipeline, "__call__", see)
    how: dict[str, Any] = {"overlap": 5, "num_inference_steps": 1, "guidance_scale": 1.0}
    made = list(long_clip(pipe, "a red circle", 15, conditions=told, **how))
    assert len(made) == 15
    spans = [range(9), range(4, 13), [*range(8, 15), 14, 14]]  # windows of nine, four new; the last frame stays
    for number, (span, one) in enumerate(zip(spans, seen, strict=True)):
        np.testing.assert_array_equal(one["mask"], told["mask"][list(span)])
        assert one["loud"].flatten().tolist() == pytest.approx(told["loud"][number : number + 3])
        assert one["camera"] == told["camera"]
        assert one["picture"] is told["picture"]
    seen.clear()
    rounds = list(
        long_clip(pipe, "a red circle", 13, loop=True, conditions={"mask": frames(3, 13)}, **how | {"overlap": 1})
    )
    assert len(rounds) == 13
    first = [int(np.abs(frames(3, 13).astype(int) - one["mask"][0]).sum(axis=(1, 2, 3)).argmin()) for one in seen]
    for start, one in zip(first, seen, strict=True):  # goes on from the last frame to the first
        turned = [n % 13 for n in range(start, start + len(one["mask"]))]
        np.testing.assert_array_equal(one["mask"], frames(3, 13)[turned])
    assert first[-1] + len(seen[-1]["mask"]) == 13 + 4


def test_windows_that_go_on_from_all_before_are_told_parts_of_one_map(pipe: VideoDiTPipeline) -> None:
    size = ClipSize(15, 32, 32, 8.0)
    told = {"depth": frames(1, 15), "loud": [0.1, 0.2, 0.3, 0.4, 0.5]}
    part = over_windows(pipe.codec, pipe.transformer, told, size, joined=True)
    padded = np.concatenate([told["depth"], told["depth"][-1:], told["depth"][-1:]])
    whole = pipe.codec.encode(to_pixels(padded)[None])
    torch.testing.assert_close(part(0, 9)["depth"], whole[:, :, :3])
    torch.testing.assert_close(part(3, 9)["depth"], whole[:, :, [3, 4, 4]])
    assert part(3, 9)["loud"].flatten().tolist() == pytest.approx([0.4, 0.5, 0.5])
    latents = over_windows(pipe.codec, pipe.transformer, {"depth": whole}, size)
    assert torch.equal(latents(2, 9)["depth"], whole[:, :, 2:5])


@pytest.mark.slow
def test_the_command_tells_files_and_numbers(
    pipe: VideoDiTPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe.register_to_config(default_num_inference_steps=2)
    pipe.save_pretrained(tmp_path / "model")
    write_video(tmp_path / "mask.mkv", frames(1), 8.0)
    monkeypatch.chdir(tmp_path)

    def run(out: str, *said: str) -> int:
        told = [option for one in said for option in ("--condition", one)]
        line = ["sample", "--model", "model", "--prompt", "a red circle", "--out", out, *told]
        monkeypatch.setattr("sys.argv", line)
        return sample.main()

    np.save("picture.npy", states(1, 4))
    assert run("told.mkv", "mask=mask.mkv", "camera=[1, 2]", "picture=picture.npy") == 0
    assert run("plain.mkv") == 0
    assert json.loads(Path("told.json").read_text())["conditions"] == [
        "mask=mask.mkv",
        "camera=[1, 2]",
        "picture=picture.npy",
    ]
    assert Path("told.mkv").read_bytes() != Path("plain.mkv").read_bytes()
    digests = json.loads(Path("told.json").read_text())["conditions_digest"]
    assert digests[1] is None
    write_video(Path("mask.mkv"), frames(7), 8)
    assert run("again.mkv", "mask=mask.mkv", "camera=[1, 2]", "picture=picture.npy") == 0
    other = json.loads(Path("again.json").read_text())["conditions_digest"]  # so that a set makes it once more
    assert other[0] != digests[0]
    assert other[1:] == digests[1:]
    capsys.readouterr()
    for out, said, why in (
        ("x.mkv", ("edge=mask.mkv",), "condition 'edge' is none of what this model is told"),
        ("x.mkv", ("mask",), "condition 'mask': say each once, as name=file"),
        ("x.mkv", ("camera=left",), "holds no numbers"),
        ("mask.mkv", ("mask=mask.mkv",), "mask.mkv: is read, and making"),
    ):
        assert run(out, *said) == 2
        assert why in capsys.readouterr().err
