"""What judges reconstructions beside pixels: features of a network, and a critic that learns along."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from runs import SMALL_VAE, TINY, equal
from tiny import awaken
from transformers import ResNetConfig, ResNetModel, ViTConfig, ViTImageProcessor, ViTModel

from videodit.codec import AutoencoderKLPatch
from videodit.config import ConfigError, Run, load_config
from videodit.training.critics import Adversary, Critic, load_perception
from videodit.training.inputs import load_codec
from videodit.training.vae import last_layers, train_vae

CPU = torch.device("cpu")


@pytest.fixture
def resnet(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    ResNetModel(config).save_pretrained(tmp_path / "resnet")
    return tmp_path / "resnet"


def test_the_perceptual_distance_is_that_of_features_scaled_to_unit_length(resnet: Path) -> None:
    ours, theirs = (torch.rand(2, 3, 3, 32, 32, generator=torch.Generator().manual_seed(n)) * 2 - 1 for n in (1, 2))
    found = float(load_perception(str(resnet), CPU)(ours, theirs))
    network = ResNetModel.from_pretrained(resnet).eval()
    mean, std = (np.array(v, np.float32)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    states = []
    for clips in (ours, theirs):
        frames = np.concatenate(list(np.moveaxis(clips.numpy(), 2, 1)))
        with torch.no_grad():
            given = network(torch.from_numpy(((frames + 1) / 2 - mean) / std), output_hidden_states=True)
        states.append([state.double().numpy() for state in given.hidden_states])
    depths = []
    for a, b in zip(*states, strict=True):
        a, b = (x / np.sqrt((x**2).sum(axis=1, keepdims=True)) for x in (a, b))
        depths.append(((a - b) ** 2).sum(axis=1).mean())
    assert found == pytest.approx(np.mean(depths), rel=1e-5)


def test_a_vision_transformer_serves_too_and_its_weights_stay(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = ViTConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, image_size=32)
    ViTModel(config, add_pooling_layer=False).save_pretrained(tmp_path)
    perception = load_perception(str(tmp_path), CPU)
    clip = (torch.rand(1, 3, 1, 32, 32) * 2 - 1).requires_grad_(True)
    distance = perception(clip, torch.zeros_like(clip))
    distance.backward()
    assert clip.grad.abs().sum() > 0
    assert perception(clip, clip) == 0


class Lite(torch.nn.Module):
    """Built as EfficientNet-Lite0 is, of two channels; half of its blocks halve the picture."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = torch.nn.Conv2d(3, 2, 3, 2, 1)
        self._bn0, self._swish = torch.nn.BatchNorm2d(2), torch.nn.ReLU6()
        self._blocks = torch.nn.ModuleList(torch.nn.Conv2d(2, 2, 3, stride, 1) for stride in (1, 2, 2, 1, 2, 1, 1))


def test_of_a_file_of_weights_the_last_features_at_each_resolution_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    network = Lite().eval()
    torch.save(network.state_dict(), tmp_path / "lite.pth")
    package: Any = ModuleType("efficientnet_lite_pytorch")
    package.EfficientNet = SimpleNamespace(from_name=lambda name: {"efficientnet-lite0": Lite()}[name])
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", package)
    ours, theirs = torch.rand(2, 1, 3, 2, 32, 32) * 2 - 1
    found = float(load_perception(str(tmp_path / "lite.pth"), CPU)(ours, theirs))
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    apart = []
    with torch.no_grad():
        a, b = (((clips[0].transpose(0, 1) + 1) / 2 - mean) / std for clips in (ours, theirs))
        a, b = (network._swish(network._bn0(network._conv_stem(x))) for x in (a, b))
        for number, block in enumerate(network._blocks):
            if number in (1, 2, 4):  # which halves it: what came before is the last at its resolution
                apart.append((a, b))
            a, b = block(a), block(b)
    scaled = [[x / x.norm(dim=1, keepdim=True) for x in pair] for pair in (*apart, (a, b))]
    expected = [float((x - y).square().sum(dim=1).mean()) for x, y in scaled]
    assert found == pytest.approx(np.mean(expected), rel=1e-4)


def test_a_network_that_cannot_be_had_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"vae.perceptual: .*nothing: no image model"):
        load_perception(str(tmp_path / "nothing"), CPU)
    (tmp_path / "lite.pth").write_bytes(b"no weights")
    with pytest.raises(ValueError, match=r"vae.perceptual: .*lite.pth: "):
        load_perception(str(tmp_path / "lite.pth"), CPU)


class Linear(torch.nn.Module):
    """A critic whose slope is its weight."""

    def __init__(self, weight: torch.Tensor):
        super().__init__()
        self.weight = torch.nn.Parameter(weight)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        return (clips * self.weight).sum(dim=(1, 2, 3, 4))[:, None, None, None]


def test_frames_of_another_size_than_the_network_had_are_scaled_as_its_folder_says(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=64)
    model = ViTModel(config, add_pooling_layer=False).eval()
    model.save_pretrained(tmp_path)
    ViTImageProcessor(image_mean=[0.5, 0.4, 0.3], image_std=[0.2, 0.3, 0.4]).save_pretrained(tmp_path)
    clip, other = (torch.rand(1, 3, 1, 32, 48, generator=torch.Generator().manual_seed(n)) * 2 - 1 for n in (1, 2))
    found = load_perception(str(tmp_path), CPU)(clip, other)
    scaled = [
        ((one[:, :, 0] + 1) / 2 - torch.tensor([0.5, 0.4, 0.3])[:, None, None])
        / torch.tensor([0.2, 0.3, 0.4])[:, None, None]
        for one in (clip, other)
    ]
    with torch.no_grad():
        ours, theirs = (
            model(one, output_hidden_states=True, interpolate_pos_encoding=True).hidden_states for one in scaled
        )
    unit = torch.nn.functional.normalize
    each = [(unit(a, dim=-1) - unit(b, dim=-1)).square().sum(-1).mean() for a, b in zip(ours, theirs, strict=True)]
    assert float(found) == pytest.approx(float(torch.stack(each).mean()), rel=1e-5)


def test_the_critic_follows_the_hinge_loss_and_the_penalty_on_true_clips() -> None:
    adversary = Adversary(4, 1e-3, 3.0, CPU)
    weight = torch.randn(3, 1, 2, 2, generator=torch.Generator().manual_seed(0)) / 4
    adversary.critic = Linear(weight.clone())
    adversary.optimizer = torch.optim.SGD(adversary.critic.parameters(), lr=1.0)
    theirs, ours = (torch.randn(5, 3, 1, 2, 2, generator=torch.Generator().manual_seed(n)) for n in (1, 2))
    loss = adversary.step(ours, theirs)
    true, made = ((x * weight).sum(dim=(1, 2, 3, 4)) for x in (theirs, ours))
    assert float(loss) == pytest.approx(float((1 - true).clamp(min=0).mean() + (1 + made).clamp(min=0).mean()))
    slope = (
        -(theirs * (true < 1)[:, None, None, None, None]).mean(0)
        + (ours * (made > -1)[:, None, None, None, None]).mean(0)
        + 3.0 * weight  # of 3 / 2 |weight|^2
    )
    assert torch.allclose(adversary.critic.weight.detach(), weight - slope, atol=1e-6)


def test_the_vae_is_pulled_by_the_critic_as_strongly_as_by_all_else() -> None:
    adversary = Adversary(8, 1e-3, 0.0, CPU)
    last = torch.nn.Conv3d(2, 3, 1)
    hidden = torch.randn(1, 2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    ours = last(hidden)
    others = ours.square().mean()
    term = adversary.term(ours, others, [last.weight])
    pulls = [torch.autograd.grad(of, last.weight, retain_graph=True)[0] for of in (others, term)]
    score = torch.autograd.grad(adversary.critic(last(hidden)).mean(), last.weight)[0]
    assert float(pulls[1].norm()) == pytest.approx(float(pulls[0].norm()), rel=1e-3)
    assert torch.allclose(pulls[1] / pulls[1].norm(), -score / score.norm(), atol=1e-5)
    assert all(weight.grad is None for weight in adversary.critic.parameters())


@pytest.mark.parametrize("frames", [1, 5])
def test_the_critic_pulls_at_images_too_of_a_vae_of_patches(frames: int) -> None:
    """Whose first frame and others come out of maps of their own."""
    vae = AutoencoderKLPatch(latent_channels=4, dim=16, encoder_layers=1, decoder_layers=1)
    adversary, last = Adversary(8, 1e-3, 0.0, CPU), last_layers(awaken(vae))
    ours = vae.decode(torch.randn(1, 4, 1 + (frames - 1) // 4, 2, 2)).sample
    others = ours.square().mean()
    pulls = []
    for of in (others, adversary.term(ours, others, last)):
        parts = torch.autograd.grad(of, last, retain_graph=True, allow_unused=True)
        pulls.append(torch.cat([part.flatten() for part in parts if part is not None]).norm())
    assert float(pulls[0]) > 0
    assert float(pulls[1]) == pytest.approx(float(pulls[0]), rel=1e-2)


@pytest.mark.parametrize(("frames", "judged"), [(1, 1), (2, 1), (5, 4)])
def test_a_critic_says_one_number_of_each_patch_of_two_neighbouring_frames(frames: int, judged: int) -> None:
    """Of every fourth place; what it says hangs on those two frames alone, of an image on that one, twice."""
    critic = Critic(8).eval()
    clips = torch.randn(2, 3, frames, 32, 32)
    with torch.no_grad():
        said = critic(clips)
        assert said.shape == (2 * judged, 1, 8, 8)
        for clip in range(2):
            for place in range(judged):
                pair = clips[clip : clip + 1, :, place : place + 2]
                torch.testing.assert_close(said[clip * judged + place : clip * judged + place + 1], critic(pair))
        if frames == 1:
            torch.testing.assert_close(critic(clips.repeat(1, 1, 2, 1, 1)), said)


@pytest.mark.slow
def test_a_critic_learns_to_tell_flicker() -> None:
    """Frames that are true each by itself, and change too much: what it sees are neighbours."""
    torch.manual_seed(0)
    adversary, generator = Adversary(8, 2e-3, 0.1, CPU), torch.Generator().manual_seed(0)
    losses = []
    for _ in range(60):
        frame = torch.rand(8, 3, 1, 16, 16, generator=generator) * 2 - 1
        other = torch.rand(8, 3, 1, 16, 16, generator=generator) * 2 - 1
        losses.append(float(adversary.step(torch.cat([frame, other], dim=2), frame.repeat(1, 1, 2, 1, 1))))
    assert losses[0] > 1.5
    assert np.mean(losses[-5:]) < 0.5


@pytest.mark.slow
def test_training_with_features_and_a_critic_goes_on_bit_for_bit(tmp_path: Path, resnet: Path) -> None:
    vae = SMALL_VAE | {
        "perceptual": str(resnet),
        "stages": [
            {"steps": 4, "batch_size": 2, "num_frames": 5, "crop": 16, "perceptual": 0.1},
            {"steps": 8, "batch_size": 2, "num_frames": 5, "crop": 16, "adversarial": 0.5, "critic_first": 2},
        ],
        "critic_width": 8,
        "checkpoint_every": 8,
    }
    folders = [tmp_path / "whole", tmp_path / "stopped"]
    configs = [Run.model_validate({**TINY, "output": str(f), "vae": vae}) for f in folders]
    train_vae(configs[0])
    lines = [json.loads(line) for line in (folders[0] / "vae_training" / "losses.jsonl").read_text().splitlines()]
    assert [("perceptual" in line, "critic" in line) for line in lines] == [(True, False)] * 4 + [(False, True)] * 8
    kept = "vae_training/checkpoints/step_00000008"
    shutil.copytree(folders[0] / kept, folders[1] / kept)
    train_vae(configs[1])
    assert equal(*(load_codec(config).vae.state_dict() for config in configs))


def test_a_weight_without_a_network_and_a_network_without_a_weight_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("output: runs/a\nvae:\n  stages: [{steps: 1, perceptual: 1}]\n")
    with pytest.raises(ConfigError, match=r"name the network in vae.perceptual"):
        load_config(file)
    file.write_text("output: runs/a\nvae:\n  perceptual: somewhere\n  stages: [{steps: 1}]\n")
    with pytest.raises(ConfigError, match=r"read by no stage"):
        load_config(file)
