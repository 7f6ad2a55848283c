"""Tiny random networks of evaluation, saved as their users save them: built by transformers' own classes."""

import string
from pathlib import Path
from typing import Any

import torch
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTokenizer,
    Dinov2Config,
    Dinov2Model,
    VideoMAEConfig,
    VideoMAEImageProcessorPil,
    VideoMAEModel,
    ViTConfig,
    ViTImageProcessorPil,
    ViTModel,
    VJEPA2Config,
    VJEPA2ForVideoClassification,
    VJEPA2Model,
)

SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
LOUD = {"initializer_range": 0.3}  # so that pictures matter to the features


def save_clip(folder: Path, side: int = 32, seed: int = 0) -> CLIPModel:
    """CLIP with 10 text positions, its processor and tokenizer."""
    letters = [*string.ascii_lowercase, *(letter + "</w>" for letter in string.ascii_lowercase)]
    vocabulary = [*letters, "re", "red</w>", "<|startoftext|>", "<|endoftext|>"]
    words = {"vocab_size": 56, "bos_token_id": 54, "eos_token_id": 55, "pad_token_id": 55}
    torch.manual_seed(seed)
    model = CLIPModel(
        CLIPConfig(
            text_config={**SIZES, **LOUD, **words, "max_position_embeddings": 10},
            vision_config={**SIZES, **LOUD, "image_size": side, "patch_size": side // 4},
            projection_dim=12,
        )
    ).eval()
    torch.nn.init.normal_(model.vision_model.embeddings.patch_embedding.weight, std=0.1)
    model.save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side}).save_pretrained(
        folder
    )
    CLIPTokenizer(
        vocab={piece: number for number, piece in enumerate(vocabulary)}, merges=[("r", "e"), ("re", "d</w>")]
    ).save_pretrained(folder)
    return model


def save_dino(folder: Path, side: int = 32, seed: int = 0) -> ViTModel:
    """A ViT with a pooler that nobody trained, as DINO's repositories have it; its processor makes 32 x 48."""
    torch.manual_seed(seed)
    model = ViTModel(ViTConfig(**SIZES, **LOUD, image_size=side, patch_size=side // 4)).eval()
    torch.nn.init.normal_(model.embeddings.patch_embeddings.projection.weight, std=0.1)
    model.save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 48}).save_pretrained(folder)
    return model


def save_dinov2(folder: Path) -> Dinov2Model:
    torch.manual_seed(0)
    sizes = {key: value for key, value in SIZES.items() if key != "intermediate_size"}
    model = Dinov2Model(Dinov2Config(**sizes, **LOUD, image_size=32, patch_size=8)).eval()
    model.save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 48}).save_pretrained(folder)
    return model


def save_videomae(folder: Path) -> VideoMAEModel:
    torch.manual_seed(0)
    model = VideoMAEModel(VideoMAEConfig(**SIZES, **LOUD, image_size=32, patch_size=16)).eval()
    model.save_pretrained(folder)
    VideoMAEImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return model


def save_vjepa(folder: Path, *, probed: bool = False) -> Any:
    """V-JEPA 2 of 32 x 32, and its probe where it has one."""
    sizes = {"num_hidden_layers": 2, "pred_hidden_size": 12, "pred_num_hidden_layers": 1, "pred_num_attention_heads": 1}
    config = VJEPA2Config(
        **sizes,
        hidden_size=24,
        num_attention_heads=2,
        crop_size=32,
        frames_per_clip=16,
        num_pooler_layers=1,
        num_labels=3,
    )
    torch.manual_seed(0)
    model = (VJEPA2ForVideoClassification if probed else VJEPA2Model)(config).eval()
    model.save_pretrained(folder)
    return model


class CallsLikeI3D(torch.nn.Module):
    """Channel means of a clip, if it is called as StyleGAN-V's I3D is for FVD."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(
        self, x: torch.Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False
    ) -> torch.Tensor:
        if not (rescale and resize and return_features):
            raise RuntimeError("not called for features of raw frames")
        if x.dim() != 5 or x.shape[1] != 3:
            raise RuntimeError("not b c t h w")
        return self.scale * x.flatten(3).mean(dim=3).flatten(1)


def save_i3d(file: Path) -> None:
    torch.jit.script(CallsLikeI3D()).save(str(file))
