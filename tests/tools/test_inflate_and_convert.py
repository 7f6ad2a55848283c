"""From PixArt to a video model by the commands of the README, on tiny random weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    DPMSolverMultistepScheduler,
    PixArtAlphaPipeline,
    PixArtTransformer2DModel,
)
from readme import tool
from safetensors.torch import load_file
from tiny import awaken, tiny_dit

from videodit import VideoDiT, VideoDiTPipeline
from videodit.exchange import open_model
from videodit.text import TextEncoder
from videodit.video.writer import write_video

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def pixart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    blocks: dict[str, Any] = {
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
    }
    text = TextEncoder.from_captions(["a red ball rolls", "a blue ball rests"], width=20, depth=1, heads=2)
    model = PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=24,
        num_layers=2,
        cross_attention_dim=48,
        caption_channels=20,
        sample_size=8,
    )
    pipe = PixArtAlphaPipeline(
        tokenizer=text.tokenizer,
        text_encoder=text.text_encoder,
        vae=AutoencoderKL(block_out_channels=[8, 8], norm_num_groups=4, latent_channels=4, **blocks),
        transformer=awaken(model, scale=0.05),
        scheduler=DPMSolverMultistepScheduler(),
    )
    folder = tmp_path_factory.mktemp("pixart") / "PixArt"
    pipe.save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_from_pixart_to_a_video_model_of_ones_own(
    pixart: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """inflate, train in the two stages of configs/pixart_to_video.yaml, sample; the text encoder stays what it was."""
    grown, clips = tmp_path / "grown", tmp_path / "clips"
    assert tool("inflate", "--from", pixart, "--to", grown, "--num-frames", 5, "--fps", 8) == 0
    assert "fresh" in capsys.readouterr().out
    notes = (grown / "growth.txt").read_text()
    assert "blocks.1.attn1.to_q.weight" in notes
    assert "transformer_blocks.1.attn1.to_q.weight" in notes  # the conversion before it
    image_model: Any = open_model(pixart)[0]
    x, t, text = torch.randn(1, 4, 3, 8, 8), torch.tensor([500.0]), torch.randn(1, 4, 20)
    video_model: Any = open_model(grown)[0]
    for frame in range(3):
        still = image_model.transformer(x[:, :, frame : frame + 1], t, text).sample
        clip = video_model.transformer(x, t, text).sample[:, :, frame : frame + 1]
        torch.testing.assert_close(clip, still, rtol=1e-4, atol=1e-5)

    clips.mkdir()
    lines = []
    for i in range(6):
        frames = np.zeros((5, 16, 16, 3), dtype=np.uint8)
        for f in range(5):
            frames[f, 4:10, 2 * f : 2 * f + 5, i % 3] = 220
        write_video(clips / f"{i}.mp4", frames, 8)
        lines.append(json.dumps({"file": f"{i}.mp4", "caption": "a red ball rolls"}))
    (clips / "clips.jsonl").write_text("\n".join(lines))
    small = ["data.num_frames=5", "data.height=16", "data.width=16", "data.validation=2", "train.batch_size=2"]
    small += ["train.warmup_steps=1", "train.num_inference_steps=2", "train.precision=no", "train.ema_decay=0.5"]
    stages = "stages=[{data: {image_share: 0}, train: {weights: [time], steps: 3}}, {train: {steps: 2}}]"
    places = [f"{key}={grown}" for key in ("codec", "text.source", "train.start_from")]
    config = ["--config", ROOT / "configs" / "pixart_to_video.yaml", f"output={tmp_path / 'run'}"]
    assert tool("train", *config, f"data.source={clips / 'clips.jsonl'}", *places, *small, stages) == 0
    first: Any = open_model(tmp_path / "run" / "stage_1" / "pipeline")[0]
    still = image_model.transformer(x[:, :, :1], t, text).sample
    before, after = (dict(pipe.transformer.state_dict()) for pipe in (video_model, first))
    assert {k.split(".")[1] for k in before if not torch.equal(before[k], after[k])} == {"1", "3"}
    still = video_model.transformer(x[:, :, :1], t, text).sample
    assert torch.equal(first.transformer(x[:, :, :1], t, text).sample, still)
    assert not torch.allclose(first.transformer(x, t, text).sample, video_model.transformer(x, t, text).sample)
    out = tmp_path / "clip.mp4"
    model = ["--model", tmp_path / "run" / "pipeline"]
    assert tool("sample", "--prompt", "a red ball rolls", *model, "--steps", 2, "--out", out) == 0
    assert out.stat().st_size > 0
    final: Any = open_model(tmp_path / "run" / "pipeline")[0]
    theirs = image_model.text_encoder.state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in final.text_encoder.state_dict().items())


@pytest.mark.slow
def test_convert_takes_pipelines_and_transformers_both_ways(pixart: Path, tmp_path: Path) -> None:
    assert tool("convert", "--from", pixart, "--to", tmp_path / "ours") == 0
    assert isinstance(open_model(tmp_path / "ours")[0], VideoDiTPipeline)
    assert tool("convert", "--from", tmp_path / "ours", "--to", tmp_path / "back", "--format", "pixart") == 0
    back: Any = PixArtAlphaPipeline.from_pretrained(str(tmp_path / "back"))
    before: Any = PixArtAlphaPipeline.from_pretrained(str(pixart))
    weights = before.transformer.state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in back.transformer.state_dict().items())
    assert tool("convert", "--from", pixart / "transformer", "--to", tmp_path / "model") == 0
    assert isinstance(open_model(tmp_path / "model")[0], VideoDiT)
    written = {file: file.read_text() for file in tmp_path.rglob("*.json")}
    assert len(written) > 10
    for name in ("_name_or_path", str(pixart), str(tmp_path)):
        assert not [file for file, text in written.items() if name in text], name


@pytest.mark.slow
def test_a_transformer_grows_alone_and_to_another_vae(pixart: Path, tmp_path: Path) -> None:
    tiny_dit(axes=("space",), qk_norm=False).save_pretrained(tmp_path / "image")
    options = ["--patch-frames", 2, "--latent-channels", 8, "--time-blocks", "copied", "--qk-norm", "time"]
    assert tool("inflate", "--from", tmp_path / "image", "--to", tmp_path / "video", *options) == 0
    model: Any = open_model(tmp_path / "video")[0]
    assert (model.config.in_channels, model.patch_size) == (8, (2, 2, 2))
    from tiny import tiny_wan

    tiny_wan().save_pretrained(tmp_path / "vae")  # 4x8x8, four channels
    assert (
        tool("inflate", "--from", pixart, "--to", tmp_path / "wan", "--vae", tmp_path / "vae", "--num-frames", 5) == 0
    )
    pipe: Any = open_model(tmp_path / "wan")[0]
    pipe.set_progress_bar_config(disable=True)
    assert pipe.transformer.config.sample_fps == 2.0
    assert pipe("a red ball", num_inference_steps=1, height=32, width=32).frames.shape == (1, 5, 32, 32, 3)


def test_a_model_that_looks_along_time_grows_in_depth(tmp_path: Path) -> None:
    model = awaken(VideoDiT(in_channels=4, num_layers=2, num_attention_heads=2, attention_head_dim=12))
    model.save_pretrained(tmp_path / "old")
    to = ("--to", tmp_path / "deep", "--num-layers", 4)
    assert tool("inflate", "--from", tmp_path / "old", *to) == 0
    deep, x, t = VideoDiT.from_pretrained(tmp_path / "deep"), torch.randn(2, 4, 3, 4, 4), torch.tensor([9.0, 600.0])
    assert deep.config.num_layers == 4
    torch.testing.assert_close(deep(x, t).sample, model.eval()(x, t).sample, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_dit_is_told_a_text(pixart: Path, tmp_path: Path) -> None:
    """A class-conditional DiT pipeline, a text encoder, and no classes any more: trained and sampled by prompts."""
    theirs: Any = PixArtAlphaPipeline.from_pretrained(str(pixart))
    shape = {"num_attention_heads": 2, "attention_head_dim": 24, "num_layers": 1, "sample_size": 8, "out_channels": 8}
    dit = DiTPipeline(DiTTransformer2DModel(**shape), theirs.vae, DDIMScheduler())
    dit.save_pretrained(tmp_path / "dit")
    to = ["--to", tmp_path / "grown", "--num-frames", 3]
    assert tool("inflate", "--from", tmp_path / "dit", *to, "--text-encoder", pixart, "--drop-classes") == 0
    pipe: Any = open_model(tmp_path / "grown")[0]
    pipe.set_progress_bar_config(disable=True)
    assert pipe("a red ball", num_inference_steps=1).frames.shape == (1, 3, 16, 16, 3)


@pytest.mark.parametrize("name", ["inflate", "convert"])
def test_what_a_user_can_mend_is_one_line(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_dit().save_pretrained(tmp_path / "model")
    (tmp_path / "cut.pt").write_bytes(b"PK\x03\x04")
    out = ["--to", tmp_path / "out"]
    wrong: list[tuple[list, str]] = [
        (["--from", tmp_path / "nothing", *out], "nothing"),
        (["--from", tmp_path / "cut.pt", *out], "cannot be read"),
        (["--from", tmp_path / "model", "--to", tmp_path], "exists"),
    ]
    if name == "convert":
        wrong.append((["--from", tmp_path / "model", *out, "--format", "pixart"], "needs axes=['space']"))
    else:
        wrong.append((["--from", tmp_path / "model", *out, "--axes", "space"], "does not lie in it"))
    for args, message in wrong:
        assert tool(name, *args) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.startswith(f"videodit {name}: ")
        assert error.count("\n") == 1
        assert not (tmp_path / "out").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"model", "cut.pt"}  # no scratch either


@pytest.mark.slow
def test_options_without_effect_are_refused(pixart: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for source, options, message in [
        (pixart, ["--drop-classes"], "told no class"),
        (pixart / "transformer", ["--num-frames", 9], "a pipeline's"),
        (pixart, ["--vae", tmp_path / "none"], "none"),
        (pixart, ["--latent-channels", 8], "the VAE has 4"),
        (pixart, ["--latent-channels", 0], "--latent-channels 0 must be greater than 0"),
        (pixart, ["--num-frames", -3], "--num-frames -3 must be greater than 0"),
        (pixart, ["--fps", 0], "--fps 0 must be greater than or equal to 0.001"),
    ]:
        assert tool("inflate", "--from", source, "--to", tmp_path / "out", *options) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("videodit inflate: ")
        assert message in error
    assert not (tmp_path / "out").exists()


def test_broken_folders_are_named(pixart: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for part in ("transformer/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"):
        folder = tmp_path / part.split("/")[0]
        shutil.copytree(pixart, folder)
        (folder / part).write_bytes((folder / part).read_bytes()[:-100])
        assert tool("convert", "--from", folder, "--to", tmp_path / "out") == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith(f"videodit convert: {folder}")
    index = pixart / "model_index.json"
    shutil.copytree(pixart, tmp_path / "odd")
    (tmp_path / "odd" / index.name).write_text(index.read_text().replace("PixArtAlphaPipeline", "NoPipeline"))
    assert tool("convert", "--from", tmp_path / "odd", "--to", tmp_path / "out") == 2
    assert "NoPipeline cannot be converted" in capsys.readouterr().err


def test_a_model_converted_to_float16_is_float16_in_all_its_files(tmp_path: Path) -> None:
    """What is computed in float32 whatever the model's type is too: the file is of half the size, and loads as ever."""
    model = awaken(tiny_dit())
    model.save_pretrained(tmp_path / "model")
    assert tool("convert", "--from", tmp_path / "model", "--to", tmp_path / "half", "--dtype", "float16") == 0
    state = load_file(tmp_path / "half" / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in state.values()} == {torch.float16}
    again: Any = open_model(tmp_path / "half")[0]
    for name, weight in model.named_parameters():
        assert again.get_parameter(name).dtype == torch.float32
        assert torch.equal(again.get_parameter(name).half(), weight.half()), name
