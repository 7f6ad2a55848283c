"""What a fresh `VideoDiT` begins with, all in one place."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def initialize(model: Any) -> None:
    """Sets every weight of a fresh model.

    Linear layers xavier, biases zero; timestep MLP, label table and shared modulation N(0, 0.02), adaLN-zero
    projections zero (DiT). Cross-attention and head start at zero (PixArt-alpha), what is added for a frame rate, a
    second time or a scale of guidance too, long skips pass on nothing, and `time` blocks are silent (Open-Sora; under
    adaLN-zero all blocks are, by their gates): a fresh model predicts zero, and a fresh video model on top of image
    weights is the image model.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in (model.adaln_single if hasattr(model, "adaln_single") else model.embedders).modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
    for embedder in (model.fps_embedder, model.guidance_embedder):
        if embedder is not None:
            nn.init.zeros_(embedder.timestep_embedder.linear_2.weight)
    if model.delta_embedder is not None:
        nn.init.zeros_(model.delta_embedder.linear_2.weight)
    for block in model.blocks:
        if block.attn2 is not None:
            nn.init.zeros_(block.attn2.get_parameter("to_out.0.weight"))
        if block.modulation is not None:  # its gates; zeros behind them too would stop all gradients
            nn.init.zeros_(block.modulation.weight)
        elif block.axis == "time":
            block.silence()
        if model.config.norm_type == "layer_norm":  # norms with weights of one, and open gates
            nn.init.zeros_(block.scale_shift_table)
            nn.init.ones_(block.scale_shift_table[2::3])
    if model.config.norm_type == "ada_norm_zero":
        nn.init.zeros_(model.modulation_out.weight)
    if model.config.norm_type == "layer_norm":
        nn.init.zeros_(model.scale_shift_table)
    for linear in model.skip_projections.values():  # passes on what is before it, and nothing from far
        nn.init.zeros_(linear.weight)
        with torch.no_grad():
            linear.weight[:, : linear.out_features].fill_diagonal_(1.0)
    nn.init.zeros_(model.proj_out.weight)
    nn.init.zeros_(model.proj_out.bias)


def initialize_time(time_embeds: nn.ModuleDict, blocks: nn.ModuleList) -> None:
    """Sets every weight of the time blocks of a model of images: linear layers xavier, the embeddings of the time and
    its modulation N(0, 0.02), and each block silent, so that the model is the image model on every frame."""
    for module in (*time_embeds.modules(), *blocks.modules()):
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    for module in time_embeds.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
    for block in blocks:
        block.silence()  # type: ignore[operator]
