"""The packaged models: small enough, whole, offline, and as good as the README says where that is quick to measure."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from videodit import VideoDiTPipeline
from videodit.data.transforms import to_frames, to_pixels
from videodit.evaluation.judge.emoji import nearest_ground
from videodit.evaluation.measure.pixels import psnr
from videodit.geometry import ClipSize
from videodit.packaged import PACKAGED
from videodit.shapes import ShapesWorld, vocabulary_captions


@pytest.fixture(scope="module")
def pipe() -> VideoDiTPipeline:
    pipe = VideoDiTPipeline.shipped("shapes")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def emoji() -> VideoDiTPipeline:
    pipe = VideoDiTPipeline.shipped("emoji")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_weights_are_safetensors_under_64_mb_and_what_a_brought_text_encoder_takes_under_48() -> None:
    sizes = {"brought": 0, "own": 0}
    brought = {PACKAGED["emoji"] / part for part in ("text_encoder", "tokenizer", "learned")}
    for file in (file for folder in PACKAGED.values() for file in folder.rglob("*") if file.is_file()):
        assert file.suffix in (".json", ".safetensors", ".py") or file.name in ("NOTICE.txt", "SHA256SUMS"), file
        sizes["brought" if file.parent in brought else "own"] += file.stat().st_size
    assert sizes["own"] < 64e6
    assert sizes["brought"] < 48e6


def test_it_runs_in_float32_and_knows_every_word_of_its_world(pipe: VideoDiTPipeline) -> None:
    for part in (pipe.vae, pipe.text_encoder, pipe.transformer):
        assert {p.dtype for p in part.parameters()} == {torch.float32}
    assert [w for caption in vocabulary_captions() for w in pipe.unknown_words(caption)] == []
    assert pipe.unknown_words("a red zebra moving left") == ["zebra"]
    assert pipe.default_size == ClipSize(17, 64, 64, 8.0)


def test_the_emoji_model_runs_in_float32_and_tells_what_is_new_to_it_or_far_from_all_that_it_was_shown(
    emoji: VideoDiTPipeline, caplog: pytest.LogCaptureFixture
) -> None:
    for part in (emoji.vae, emoji.text_encoder, emoji.transformer):
        assert {p.dtype for p in part.parameters()} == {torch.float32}
    assert emoji.default_size == ClipSize(25, 64, 64, 8.0)
    emoji.encode_prompt(["cat on a blue background", "rocket", "a smiling cat with tears of joy"])
    assert caplog.text == ""
    told, mask, *_ = emoji.encode_prompt(["kitten on a blue background", "cat on a blue background"])
    assert torch.equal(told[0], told[1])
    assert torch.equal(mask[0], mask[1])
    assert "'kitten' as 'cat'" in caplog.text
    assert "far from" not in caplog.text
    emoji.encode_prompt(["quarterly revenue forecast"])
    assert "far from" in caplog.text


@pytest.mark.slow
def test_an_emoji_stands_before_the_ground_that_is_asked_and_moves(emoji: VideoDiTPipeline) -> None:
    grounds = {"blue": (0, 0, 255), "yellow": (255, 255, 0), "white": (255, 255, 255)}
    clips = emoji(
        [f"cat with tears of joy on a {ground} background" for ground in grounds],
        num_inference_steps=10,
        generator=[torch.Generator().manual_seed(seed) for seed in range(3)],
        output_type="np",
    ).frames
    assert clips.shape == (3, 25, 64, 64, 3)
    for clip, ground in zip(clips, grounds, strict=True):
        corners = clip[:, [0, 0, -1, -1], [0, -1, 0, -1]]
        assert nearest_ground(corners.mean((0, 1)), corners.mean((0, 1))) == ground
        middle = clip[:, 24:40, 24:40]
        assert np.abs(middle.mean((0, 1, 2)) - corners.mean((0, 1))).max() > 0.1  # there is something
        assert np.abs(np.diff(clip, axis=0)).mean() > 0.003  # and it moves


@pytest.mark.slow
@torch.no_grad()
def test_its_vae_keeps_32_db_on_clips_that_it_never_saw(pipe: VideoDiTPipeline) -> None:
    world = ShapesWorld(ClipSize(17, 64, 64, 8), seed=1234)
    values = []
    for index in range(3):
        frames = world[index].frames
        again = to_frames(pipe.codec.decode(pipe.codec.encode(to_pixels(frames)[None])))[0]
        values.append(psnr(frames, again))
    assert np.mean(values) >= 32


@pytest.mark.slow
def test_a_prompt_becomes_a_clip_of_its_colour_and_an_image_too(pipe: VideoDiTPipeline) -> None:
    for frames in (17, 1):
        clip = pipe(
            "a large red square moving right on a black background",
            num_frames=frames,
            num_inference_steps=10,
            generator=torch.Generator().manual_seed(0),
            output_type="pt",
        ).frames
        assert clip.shape == (1, frames, 3, 64, 64)
        red, green, blue = clip[0].permute(1, 0, 2, 3).flatten(1)
        colored = (red - torch.maximum(green, blue)) > 0.3
        assert 0.01 < colored.float().mean() < 0.5
        assert not ((torch.maximum(green, blue) - red) > 0.3).any()
