"""What a step of VAE training weighs and what its end measures: closed forms, with parts that say plain numbers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from runs import SMALL_VAE, TINY, VAE_RUN
from tiny import tiny_wan
from torch import Tensor

from videodit.codec import VideoCodec
from videodit.config import Run
from videodit.training import vae as training
from videodit.training.vae import evaluate_vae, reconstruct, store_statistics, train_vae

PERCEPTUAL, ADVERSARIAL, KL = 0.3, 0.6, 1e-2
STAGE: dict[str, Any] = {"batch_size": 1, "num_frames": 1, "crop": 8}


@pytest.fixture
def terms(monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """The terms of the loss, as weights of their own: the gradient of each is what multiplies it, summed over steps."""
    values = {"l1": 0.5, "mse": 0.04, "kl": 3.0, "perceptual": 2.0, "adversarial": 5.0}
    leaves = {name: torch.tensor(value, requires_grad=True) for name, value in values.items()}

    class Critic:
        def __init__(self, *_: Any) -> None:
            pass

        def step(self, *_: Tensor) -> Tensor:
            return torch.tensor(2.0)

        def term(self, *_: Tensor) -> Tensor:
            return leaves["adversarial"]

        def state_dict(self) -> dict:
            return {}

    monkeypatch.setattr(
        training, "reconstruct", lambda codec, pixels, *_: (pixels, {k: leaves[k] for k in ("l1", "mse", "kl")})
    )
    monkeypatch.setattr(training, "load_perception", lambda *_: lambda *_: leaves["perceptual"])
    monkeypatch.setattr(training, "Adversary", Critic)
    monkeypatch.setattr(training, "store_statistics", lambda *_: None)
    monkeypatch.setattr(training, "evaluate_vae", lambda *_: {"psnr": 0.0, "clips": 0})
    return leaves


def run(folder: Path, **vae: Any) -> Run:
    return Run.model_validate({**TINY, "output": str(folder), "vae": SMALL_VAE | vae})


def test_each_term_of_the_loss_has_its_weight_and_the_critic_speaks_after_its_first_steps(
    tmp_path: Path, terms: dict[str, Tensor]
) -> None:
    stages = [
        STAGE | {"steps": 2, "perceptual": PERCEPTUAL},
        STAGE | {"steps": 3, "adversarial": ADVERSARIAL, "critic_first": 1},
    ]
    train_vae(run(tmp_path, stages=stages, kl_weight=KL, perceptual="features"))
    expected = {"l1": 5.0, "mse": 5.0, "kl": 5 * KL, "perceptual": 2 * PERCEPTUAL, "adversarial": 2 * ADVERSARIAL}
    assert {name: float(leaf.grad) for name, leaf in terms.items()} == pytest.approx(expected)
    lines = [json.loads(line) for line in (tmp_path / "vae_training" / "losses.jsonl").read_text().splitlines()]
    assert [line["psnr"] for line in lines] == pytest.approx([20.0] * 5)  # of an error of 0.2 of 2, a tenth of the peak


def test_a_launchers_precision_that_would_be_ignored_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    with pytest.raises(ValueError, match=r"--mixed_precision fp16: vae\.precision is no, and holds"):
        train_vae(run(tmp_path, stages=[STAGE | {"steps": 1}]))


@pytest.mark.parametrize(
    ("data", "stage", "why"),
    [
        ({"height": 36}, {}, "data: height=36 is not a multiple of 8"),
        ({"num_frames": 8}, {}, "data: num_frames=8"),
        ({}, {"crop": 20}, r"vae.stages\[1\]: crop=20 is not a multiple of 8"),
        ({}, {"num_frames": 13}, r"vae.stages\[1\]: num_frames=13, but clips have data.num_frames=5"),
        ({}, {"crop": 40}, r"vae.stages\[1\]: crop=40, but clips are 32x32"),
    ],
)
def test_what_the_vae_cannot_take_is_told_before_the_first_step(
    data: dict[str, Any], stage: dict[str, Any], why: str, tmp_path: Path
) -> None:
    config = run(tmp_path, stages=[STAGE | {"steps": 1}, STAGE | {"steps": 1} | stage])
    config = config.model_copy(update={"data": config.data.model_copy(update=data)})
    with pytest.raises(ValueError, match=why):
        train_vae(config)
    assert not (tmp_path / "vae").exists()


class Read:
    """Clips of noise, each its own; and which of them were read."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.indices: list[int] = []

    def __len__(self) -> int:
        return self.count

    def read(self, index: int, draw: int) -> np.ndarray:
        self.indices.append(index)
        return np.random.default_rng(index).integers(0, 256, (5, 16, 16, 3), np.uint8)


@pytest.mark.parametrize(
    ("clips", "count", "indices"), [(3, 256, [0, 1, 2]), (7, 3, [0, 2, 4]), (4, 4, [0, 1, 2, 3]), (5, 4, [0, 1, 2, 3])]
)
def test_statistics_are_those_of_latents_of_clips_from_all_over(clips: int, count: int, indices: list[int]) -> None:
    """Mean, and deviation with the posterior's own noise: var x = E[mean^2 + var] - E[mean]^2."""
    vae, source = tiny_wan(), Read(clips)
    config: Any = None
    store_statistics(vae, source, config, count)  # type: ignore[arg-type]
    assert source.indices == indices
    means, variances = [], []
    with torch.no_grad():
        for index in indices:
            pixels = torch.from_numpy(source.read(index, 0)).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
            posterior = VideoCodec(vae).posterior(pixels)
            means.append(posterior.mean.double().transpose(0, 1).flatten(1))
            variances.append(posterior.var.double().transpose(0, 1).flatten(1))
    mean, variance = torch.cat(means, dim=1), torch.cat(variances, dim=1)
    assert vae.config.latents_mean == pytest.approx(mean.mean(dim=1).tolist())
    deviation = (mean.var(dim=1, unbiased=False) + variance.mean(dim=1)).sqrt()
    assert vae.config.latents_std == pytest.approx(deviation.tolist(), rel=1e-5)


class Off:
    """A codec that gives back what it was given, brighter by so many of 255, for each clip in turn."""

    def __init__(self, *errors: float) -> None:
        self.errors = iter(errors)

    def encode(self, pixels: Tensor) -> Tensor:
        return pixels

    def decode(self, latents: Tensor) -> Tensor:
        return latents + next(self.errors) / 127.5


def test_the_ratio_of_peak_to_noise_is_that_of_eight_bits() -> None:
    codec, clips = Off(1, 10, 2), Read(3)
    decibels = [20 * math.log10(255 / error) for error in (1, 10, 2)]
    found = evaluate_vae(codec, clips)  # type: ignore[arg-type]
    assert found.pop("ssim") < 1
    assert found == pytest.approx({"psnr": np.mean(decibels), "psnr_worst": min(decibels), "clips": 3}, rel=1e-4)


def test_likeness_and_distance_of_features_are_told_beside_it() -> None:
    """A clip that comes back darker by 40: as Wang et al.'s formula has it, of flat luma; and as a network sees it."""

    class Large(Read):
        def read(self, index: int, visit: int) -> np.ndarray:
            return np.full((3, 12, 16, 3), 100, np.uint8)

    def distance(ours: Tensor, theirs: Tensor) -> Tensor:
        return (ours - theirs).abs().max()

    found = evaluate_vae(Off(-40, -40), Large(2), distance)  # type: ignore[arg-type]
    a, b, c1 = 100 / 255, 60 / 255, 0.01**2
    assert found["ssim"] == pytest.approx((2 * a * b + c1) / (a * a + b * b + c1), abs=1e-6)
    assert found["perceptual"] == pytest.approx(40 / 127.5, rel=1e-5)


class Spoken(torch.nn.Module):
    """A codec whose decoder gives the latents that it is given, of modes and deviations that are known."""

    std = torch.tensor([1.0, 10.0]).view(2, 1, 1, 1)

    def posterior(self, pixels: Tensor) -> Any:
        mode = torch.zeros(len(pixels), 2, 4, 16, 16)
        return DiagonalGaussianDistribution(torch.cat([mode + 3, mode - 4], dim=1))

    def decode_raw(self, raw: Tensor) -> list[Tensor]:
        return [raw]


def test_a_decoder_sees_modes_with_noise_in_units_of_each_channel_and_of_another_size_a_clip() -> None:
    pixels = torch.zeros(400, 2, 4, 16, 16)

    def seen(spread: float | None) -> Tensor:
        return reconstruct(Spoken(), pixels, torch.Generator().manual_seed(0), spread)[0]  # type: ignore[arg-type]

    assert torch.equal(seen(0.0), torch.full_like(pixels, 3.0))
    assert float((seen(None) - 3).std()) == pytest.approx(math.exp(-2), rel=0.01)  # the posterior's own
    sizes = (seen(0.2) - 3).std(dim=(2, 3, 4))
    assert sizes[:, 1] / sizes[:, 0] == pytest.approx(10, rel=0.3)
    assert float(sizes[:, 0].square().mean().sqrt()) == pytest.approx(0.2, rel=0.1)  # the deviation of |n| * .2
    assert float(sizes[:, 0].min()) < 0.002  # some clips have next to none
    assert torch.equal(seen(0.2), seen(0.2))


def test_noise_on_latents_is_of_a_decoder_alone() -> None:
    stages = [STAGE | {"steps": 1, "decoder_only": True, "latent_noise": 0.1}, STAGE | {"steps": 1}]
    with pytest.raises(ValueError, match=r"latent_noise: .* let each stage be decoder_only"):
        Run.model_validate({**TINY, "output": "x", "vae": VAE_RUN | {"stages": stages, "start_from": "somewhere"}})
