"""What a run trains: a transformer, fresh or from saved weights, and the text encoder with it."""

from __future__ import annotations

from fnmatch import fnmatchcase

import torch
from diffusers.models.attention import AttentionModuleMixin
from torch import Tensor, nn

from videodit.config import Run
from videodit.data.cache import LatentCache, TextCache
from videodit.geometry import Strides
from videodit.models.transformer import VideoDiT
from videodit.pipeline import named_folder, size_conditions
from videodit.shapes import vocabulary_captions
from videodit.text import TextEncoder
from videodit.training import inputs


class Model(nn.Module):
    """Transformer and, where it is trained along, the text encoder: what the optimizer sees and EMA follows."""

    def __init__(self, transformer: VideoDiT, text: TextEncoder, encoded: TextCache | None, pixels: int):
        super().__init__()
        self.transformer = transformer
        self.text = text
        self.encoded = encoded
        self.pixels = pixels  # a latent's side
        text.requires_grad_(encoded is None)

    def forward(self, noisy: Tensor, timestep: Tensor, captions: list[str], fps: float) -> Tensor:
        states, mask = (self.encoded or self.text)(captions)
        states, mask = states.to(noisy.device), mask.to(noisy.device)
        added = None
        if self.transformer.config.use_additional_conditions:
            height, width = (side * self.pixels for side in noisy.shape[-2:])
            added = size_conditions(height, width, len(noisy), noisy.device)
        kwargs = {"added_cond_kwargs": added, "fps": fps, "return_dict": False}
        return self.transformer(noisy, timestep, states, mask, **kwargs)[0]


def build_text(config: Run, captions: list[str]) -> TextEncoder:
    """A small encoder of its own, for the words of these captions, to be trained along."""
    text, world = config.text, config.data.source == "shapes"
    return TextEncoder.from_captions(
        [*captions, *(vocabulary_captions() if world else ())],
        width=text.width,
        depth=text.depth,
        max_length=text.max_length,
        seed=config.seed,
    )


def build_transformer(config: Run, strides: Strides, text: TextEncoder) -> VideoDiT:
    """A fresh transformer, or that of `train.start_from`, as the configuration wants it run.

    Raises:
        ValueError: it does not go with the VAE, the text encoder or the objective; says which, and the fix.
    """
    channels = strides.channels
    if config.train.start_from:
        with inputs.named(config.train.start_from, "transformer, as training and tools/inflate.py leave it"):
            transformer = VideoDiT.from_pretrained(named_folder(config.train.start_from), subfolder="transformer")
    else:
        model = config.model
        shape = {} if model.num_layers is None else {"num_layers": model.num_layers}
        transformer = VideoDiT.sized(
            model.size,
            in_channels=channels,
            out_channels=channels * (2 if config.objective.learned_range else 1),
            axes=model.axes,
            patch_size=model.patch_size,
            caption_channels=text.width,
            mlp_ratio=model.mlp_ratio,
            qk_norm=model.qk_norm,
            time_positions=model.time_positions,
            sample_size=max(config.data.height, config.data.width) // strides.space // model.patch_size[1],
            sample_fps=config.data.fps / strides.time,
            **shape,
        )
    if transformer.config.in_channels != channels:
        raise ValueError(
            f"{config.train.start_from}: a transformer of {transformer.config.in_channels} latent channels, but "
            f"the VAE has {channels}; set codec: to the VAE it was trained with"
        )
    if transformer.config.num_classes is not None:
        raise ValueError(
            f"{config.train.start_from}: a transformer that is told a class; grow it with tools/inflate.py "
            f"--text-encoder ... --drop-classes"
        )
    if transformer.config.caption_channels != text.width:
        raise ValueError(
            f"{config.train.start_from}: a transformer that reads states of {transformer.config.caption_channels}, "
            f"but the text encoder gives {text.width}; set text.source to the one it was trained or grown with"
        )
    halves = transformer.out_channels // channels
    if halves != (2 if config.objective.learned_range else 1):
        raise ValueError(
            f"{config.train.start_from}: a transformer with {halves} outputs a channel; set "
            f"objective.learned_range: {'true' if halves == 2 else 'false'}"
        )
    if config.model.gradient_checkpointing:
        transformer.enable_gradient_checkpointing()
    if config.model.attention_backend:
        for module in transformer.modules():  # not the model's own method, which sets a default of the process too
            if isinstance(module, AttentionModuleMixin):
                module.set_attention_backend(config.model.attention_backend)
    if config.model.compile:
        torch._dynamo.config.recompile_limit = 64  # clips and images, with and without gradients, texts of any length
        transformer.compile_repeated_blocks()
    return transformer


def choose_weights(model: Model, config: Run, clips: LatentCache) -> None:
    """Freezes all but `train.weights`, where it names any.

    Raises:
        ValueError: it names nothing of this model, or only what some of the clips would skip.
    """
    patterns = config.train.weights
    if not patterns:
        return
    axes = {f"transformer.blocks.{i}.": str(block.axis) for i, block in enumerate(model.transformer.blocks)}
    names = {
        name: next((a for block, a in axes.items() if name.startswith(block)), "")
        for name, _ in model.named_parameters()
    }
    for pattern in patterns:
        if not any(pattern == axis or fnmatchcase(name, pattern) for name, axis in names.items()):
            raise ValueError(f"train.weights: {pattern!r} is neither an axis of this model nor the name of a weight")
    for name, weight in model.named_parameters():
        weight.requires_grad_(any(p == names[name] or fnmatchcase(name, p) for p in patterns))
    trained = {axis for name, axis in names.items() if model.get_parameter(name).requires_grad}
    if trained != {"time"}:
        return
    images = sum(not clips.has_clip(i) for i in range(len(clips)))
    if config.data.image_share > 0 or images:
        raise ValueError(
            f"images skip the time blocks, and train.weights trains nothing else: set data.image_share: 0, and "
            f"leave the {images} images out of {config.data.source}"
        )
