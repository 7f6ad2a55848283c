"""The packaged model: small enough, whole, offline, and as good as the README says where that is quick to measure."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from videodit import VideoDiTPipeline
from videodit.data.transforms import to_frames, to_pixels
from videodit.evaluation.measure.pixels import psnr
from videodit.geometry import ClipSize
from videodit.packaged import PACKAGED
from videodit.shapes import ShapesWorld, vocabulary_captions


@pytest.fixture(scope="module")
def pipe() -> VideoDiTPipeline:
    pipe = VideoDiTPipeline.shipped("shapes")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_its_weights_are_safetensors_under_25_mb() -> None:
    files = [file for file in PACKAGED["shapes"].rglob("*") if file.is_file()]
    assert {file.suffix for file in files} <= {".json", ".safetensors", ".py"}
    assert sum(file.stat().st_size for file in files) < 25e6


def test_it_runs_in_float32_and_knows_every_word_of_its_world(pipe: VideoDiTPipeline) -> None:
    for part in (pipe.vae, pipe.text_encoder, pipe.transformer):
        assert {p.dtype for p in part.parameters()} == {torch.float32}
    assert [w for caption in vocabulary_captions() for w in pipe.unknown_words(caption)] == []
    assert pipe.unknown_words("a red zebra moving left") == ["zebra"]
    assert pipe.default_size == ClipSize(17, 64, 64, 8.0)


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
