"""Image transformers of diffusers: one row a family says how it is called, and where its states are an image.

A row is what `TimeExtended` needs to fold frames into a model's batch and to act behind its blocks; it is said in the
family's own terms once, and nowhere else. Predictions are what the family's *scheduler* steps by: their sign and the
direction of time are turned here where a family counts the other way.

| family | behind a block | its call | mind |
|---|---|---|---|
| SD3 | image | as it is | reads its text's padding |
| Flux, Flux2 | image; Flux2's last blocks text, image | packed, places, t / 1000, guidance | reads its text's padding |
| Sana | image | time scaled | |
| Qwen-Image | image | packed, t / 1000 | |
| Z-Image | image, padding, text | a list of images, 1 - t, negated | |
| Lumina2 | text of its own length, image | 1 - t, negated | |
| PixArt, DiT | image | as it is | a `VideoDiT` computes them too (`videodit.grow`) |
| HunyuanDiT | image | as it is, with places of a grid of 512 pixels | two texts in one; reads their padding |
| UNet2D | a map a level, each of its own width | as it is | |

Axes: `n` images (clips times frames), `m` text tokens, `s` image tokens, `d` width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import diffusers
import torch
from diffusers.models.embeddings import get_2d_rotary_pos_embed
from einops import rearrange
from torch import Tensor, nn

from videodit.models import Condition


@dataclass(frozen=True)
class Frames:
    """One call of an image model: latents n c h w, times n (1000 t), and what it is told, a row an image."""

    latents: Tensor
    times: Tensor
    text: Tensor | None = None  # n m e
    mask: Tensor | None = None  # n m, True = attend
    pooled: Tensor | None = None  # n e'
    guidance: Tensor | None = None  # n, of models that are told the scale
    labels: Tensor | None = None  # n
    added: dict[str, Tensor | None] | None = None  # resolution n 2, aspect_ratio n 1

    def places(self, side: int, numbers: int) -> Tensor:
        """Of each token of `side` x `side` latent places its (0, row, column, 0 ...), s `numbers`."""
        height, width = (length // side for length in self.latents.shape[-2:])
        rows = torch.cartesian_prod(torch.arange(height), torch.arange(width))
        return torch.nn.functional.pad(rows, (1, numbers - 3)).float().to(self.latents.device)

    def tokens_of_text(self, numbers: int) -> Tensor:
        """Of each text token its place, m `numbers`: zeros, and where there are four the last one counts."""
        assert self.text is not None
        places = torch.zeros(self.text.shape[1], numbers, device=self.text.device)
        if numbers == 4:
            places[:, 3] = torch.arange(len(places))
        return places


class Host(NamedTuple):
    """A block behind which a time block may act, and what its states are made of."""

    block: nn.Module
    dim: int
    heads: int


@dataclass(frozen=True)
class Family:
    """What there is to know of an image model.

    call: (model, frames) -> the prediction n c' h w, as its scheduler takes it.
    hosts: the blocks in their order, with width and heads.
    channels: of its configuration, the latent channels in and out.
    told: of its configuration, what a call needs beside latents and times.
    patch: latent places a side of a token, of its configuration.
    start: where the image's tokens begin in a block's states that hold others too, a number or n of them, of (frames,
        how many others).
    sigmas: those of so many steps, in its own pipeline; None: its scheduler's own. mu: likewise, by how much times are
        shifted, of (tokens, steps); None: as the scheduler says.
    text: the pipeline of diffusers whose `encode_prompt` makes its text; None: it is told none.
    scale_above: by how much the scale of guidance here is above what its pipeline calls so.
    square: whether it makes square pictures alone.
    caches: the feature caches of diffusers that work on its blocks (`first-block`, `taylorseer`).
    reached: names of what lies in a block, and is called from outside of it.
    cls: its class, with `from_config` and `from_pretrained`; None: diffusers' of that name.
    """

    call: Callable[[Any, Frames], Tensor]
    hosts: Callable[[Any], list[Host]]
    channels: Callable[[Any], tuple[int, int]]
    told: Callable[[Any], tuple[Condition, ...]]
    patch: Callable[[Any], int] = lambda config: config.patch_size
    start: Callable[[Frames, int], Any] = lambda frames, others: 0
    sigmas: Callable[[int], list[float]] | None = None
    mu: Callable[[int, int], float] | None = None
    text: str | None = None
    scale_above: float = 0.0
    square: bool = False
    caches: tuple[str, ...] = ()
    reached: tuple[str, ...] = ()
    cls: Any = None


def stacks(*names: str, dim: str = "num_attention_heads*attention_head_dim", heads: str = "num_attention_heads") -> Any:
    """Hosts: all blocks of these lists, alike; `dim` and `heads` are keys of the configuration, or a product of two."""

    def hosts(model: Any) -> list[Host]:
        width = 1
        for key in dim.split("*"):
            width *= model.config[key]
        return [Host(block, width, model.config[heads]) for name in names for block in getattr(model, name)]

    return hosts


def levels(model: Any) -> list[Host]:
    """Hosts of a U-Net: the attention of each level, or its residual blocks where it has none; maps, not tokens."""
    found = []
    for level in (*model.down_blocks, *([model.mid_block] if model.mid_block is not None else []), *model.up_blocks):
        for block in getattr(level, "attentions", None) or level.resnets:
            dim = block.in_channels if hasattr(block, "proj_in") else block.out_channels
            found.append(Host(block, dim, max(1, dim // 64)))
    return found


def text_of(
    width: str, pooled: str = "", guidance: str = "", reads_padding: bool = False
) -> Callable[[Any], tuple[Condition, ...]]:
    """Told a text, perhaps its pooled states, and the scale of guidance: the keys of their widths, and of whether; and
    whether padding is read like words."""

    def told(config: Any) -> tuple[Condition, ...]:
        found = [Condition("text", "text", config[width], reads_padding=reads_padding)]
        if pooled:
            found.append(Condition("pooled", "pooled", config[pooled]))
        if guidance and config[guidance]:
            found.append(Condition("guidance", "guidance", 1))
        return tuple(found)

    return told


def _told_unet(config: Any) -> tuple[Condition, ...]:
    more = ("addition_embed_type", "class_embed_type", "num_class_embeds", "encoder_hid_dim_type", "time_cond_proj_dim")
    if wants := [f"{key}={value!r}" for key in more if (value := getattr(config, key, None)) is not None]:
        raise ValueError(
            f"a UNet2DConditionModel with {wants[0]} is told more than a text (as SDXL's, or by an IP-Adapter): only "
            "those without it make clips, as of Stable Diffusion 1 and 2"
        )
    return text_of("cross_attention_dim")(config)


def plain(config: Any) -> tuple[int, int]:
    return config.in_channels, config.get("out_channels") or config.in_channels


def packed(frames: Frames, side: int, call: Callable[[Tensor], Tensor]) -> Tensor:
    """The latents as tokens of `side` x `side` places, called, and laid out again."""
    tokens = rearrange(frames.latents, "n c (h p) (w q) -> n (h w) (c p q)", p=side, q=side)
    rows = frames.latents.shape[-2] // side
    return rearrange(call(tokens), "n (h w) (c p q) -> n c (h p) (w q)", p=side, q=side, h=rows)


def falling(steps: int) -> list[float]:
    """1 to 1 / steps, evenly: what pipelines of schedulers that shift by size begin with."""
    return torch.linspace(1, 1 / steps, steps, dtype=torch.float64).tolist()


def evenly_before_zero(steps: int) -> list[float]:
    """1 down towards 0, which is left out (Z-Image)."""
    return torch.linspace(1, 0, steps + 1, dtype=torch.float64)[:-1].tolist()


def _flux(model: Any, x: Frames) -> Tensor:
    places = x.tokens_of_text(3), x.places(2, 3)

    def call(tokens: Tensor) -> Tensor:
        return model(
            tokens, x.text, x.pooled, x.times / 1000, places[1], places[0], guidance=x.guidance, return_dict=False
        )[0]

    return packed(x, 2, call)


def _flux2(model: Any, x: Frames) -> Tensor:
    places = x.tokens_of_text(4), x.places(1, 4)

    def call(tokens: Tensor) -> Tensor:
        return model(tokens, x.text, x.times / 1000, places[1], places[0], x.guidance, return_dict=False)[0]

    return packed(x, 1, call)


def _flux2_mu(tokens: int, steps: int) -> float:
    from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu  # which loads its text encoder's code

    return compute_empirical_mu(tokens, steps)


def _qwen(model: Any, x: Frames) -> Tensor:
    height, width = (length // 2 for length in x.latents.shape[-2:])
    shapes = [[(1, height, width)]] * len(x.latents)
    return packed(x, 2, lambda tokens: model(tokens, x.text, x.mask, x.times / 1000, shapes, return_dict=False)[0])


def _z_image(model: Any, x: Frames) -> Tensor:
    assert x.text is not None
    texts = list(x.text) if x.mask is None else [text[seen] for text, seen in zip(x.text, x.mask, strict=True)]
    images = list(rearrange(x.latents, "n c h w -> n c 1 h w"))
    return -torch.stack(model(images, 1 - x.times / 1000, texts, return_dict=False)[0]).squeeze(2)


def _hunyuan(model: Any, x: Frames) -> Tensor:
    """Its text is CLIP's and T5's tokens one behind the other, and a last number a token: 0 of padding, which T5's
    pooling reads (`text.family`)."""
    from diffusers.pipelines.hunyuandit.pipeline_hunyuandit import get_resize_crop_region_for_grid

    assert x.text is not None
    config, lengths = model.config, [model.config.text_len, model.config.text_len_t5]
    (clip, words), (t5, words_t5) = ((one[..., :-1], one[..., -1]) for one in x.text.split(lengths, dim=1))
    grid = tuple(side // config.patch_size for side in x.latents.shape[-2:])
    region = get_resize_crop_region_for_grid(grid, 64 // config.patch_size)
    places = get_2d_rotary_pos_embed(config.attention_head_dim, region, grid, device=x.latents.device, output_type="pt")
    size: Any = x.added and x.added["resolution"]
    return model(
        x.latents,
        x.times.to(x.latents.dtype),
        clip[..., : config.cross_attention_dim],
        words,
        t5[..., : config.cross_attention_dim_t5].contiguous(),
        words_t5,
        # taken of 1024 x 1024, made at its size, and not cropped
        image_meta_size=None if size is None else torch.cat([0 * size + 1024, size, 0 * size], dim=1),
        style=x.times.new_zeros(len(x.times), dtype=torch.long),
        image_rotary_emb=places,
        return_dict=False,
    )[0]


def _told_hunyuan(config: Any) -> tuple[Condition, ...]:
    width = max(config.cross_attention_dim, config.cross_attention_dim_t5) + 1
    text = Condition("text", "text", width, reads_padding=True, tokens=config.text_len + config.text_len_t5)
    told = text, Condition("size", "size", 2)
    return told if config.use_style_cond_and_image_meta_size else told[:1]


def _told_size(config: Any) -> bool:
    """As PixArt itself has it where its configuration says nothing."""
    said = config.use_additional_conditions
    return config.sample_size == 128 if said is None else said


FAMILIES: dict[str, Family] = {
    "SD3Transformer2DModel": Family(
        call=lambda model, x: model(x.latents, x.text, x.pooled, x.times, return_dict=False)[0],
        hosts=stacks("transformer_blocks"),
        channels=plain,
        told=text_of("joint_attention_dim", pooled="pooled_projection_dim", reads_padding=True),
        text="StableDiffusion3Pipeline",
    ),
    "FluxTransformer2DModel": Family(
        call=_flux,
        hosts=stacks("transformer_blocks", "single_transformer_blocks"),
        channels=lambda config: (config.in_channels // 4, (config.out_channels or config.in_channels) // 4),
        told=text_of("joint_attention_dim", "pooled_projection_dim", "guidance_embeds", reads_padding=True),
        patch=lambda config: 2,
        sigmas=falling,
        text="FluxPipeline",
        caches=("first-block", "taylorseer"),
    ),
    "Flux2Transformer2DModel": Family(
        call=_flux2,
        hosts=stacks("transformer_blocks", "single_transformer_blocks"),
        channels=plain,
        told=text_of("joint_attention_dim", guidance="guidance_embeds", reads_padding=True),
        start=lambda frames, others: others,
        sigmas=falling,
        mu=_flux2_mu,
        text="Flux2Pipeline",
        caches=("taylorseer",),
    ),
    "SanaTransformer2DModel": Family(
        call=lambda model, x: model(
            x.latents,
            x.text,
            x.times * model.config.timestep_scale,
            None if x.guidance is None else x.guidance * model.config.guidance_embeds_scale,
            x.mask,
            return_dict=False,
        )[0],
        hosts=stacks("transformer_blocks"),
        channels=plain,
        told=text_of("caption_channels", guidance="guidance_embeds"),
        text="SanaPipeline",
        caches=("taylorseer",),
    ),
    "QwenImageTransformer2DModel": Family(
        call=_qwen,
        hosts=stacks("transformer_blocks"),
        channels=lambda config: (config.in_channels // 4, config.out_channels),
        told=text_of("joint_attention_dim"),
        sigmas=falling,
        text="QwenImagePipeline",
        caches=("first-block", "taylorseer"),
    ),
    "ZImageTransformer2DModel": Family(
        call=_z_image,
        hosts=stacks("layers", dim="dim", heads="n_heads"),
        channels=plain,
        told=text_of("cap_feat_dim"),
        patch=lambda config: config.all_patch_size[0],
        sigmas=evenly_before_zero,
        text="ZImagePipeline",
        scale_above=1.0,  # it adds so many differences to the told pass itself
    ),
    "Lumina2Transformer2DModel": Family(
        call=lambda model, x: -model(x.latents, 1 - x.times / 1000, x.text, x.mask, return_dict=False)[0],
        hosts=stacks("layers", dim="hidden_size"),
        channels=plain,
        told=text_of("cap_feat_dim"),
        start=lambda frames, others: others if frames.mask is None else frames.mask.sum(1),
        sigmas=falling,
        text="Lumina2Pipeline",
    ),
    "PixArtTransformer2DModel": Family(
        call=lambda model, x: model(
            x.latents,
            x.text,
            x.times,
            x.added or {"resolution": None, "aspect_ratio": None},
            encoder_attention_mask=x.mask,
            return_dict=False,
        )[0],
        hosts=stacks("transformer_blocks"),
        channels=plain,
        told=lambda config: (
            Condition("text", "text", config.caption_channels),
            *([Condition("size", "size", 2)] if _told_size(config) else ()),
        ),
        text="PixArtSigmaPipeline",
        caches=("first-block", "taylorseer"),
    ),
    "DiTTransformer2DModel": Family(
        call=lambda model, x: model(x.latents, x.times, x.labels, return_dict=False)[0],
        hosts=stacks("transformer_blocks"),
        channels=plain,
        told=lambda config: (Condition("class", "class", config.num_embeds_ada_norm),),
        square=True,
        caches=("first-block", "taylorseer"),
        reached=("transformer_blocks.0.norm1.emb",),
    ),
    "HunyuanDiT2DModel": Family(
        call=_hunyuan,
        hosts=stacks("blocks"),
        channels=lambda config: (config.in_channels, config.in_channels * (2 if config.learn_sigma else 1)),
        told=_told_hunyuan,
        text="HunyuanDiTPipeline",
    ),
    "UNet2DConditionModel": Family(
        call=lambda model, x: model(x.latents, x.times, x.text, encoder_attention_mask=x.mask, return_dict=False)[0],
        hosts=levels,
        channels=plain,
        told=_told_unet,
        patch=lambda config: 2 ** (len(config.block_out_channels) - 1),
        text="StableDiffusionPipeline",
    ),
}


def family_of(model: Any) -> Family:
    """The row of an image model's class. ValueError where there is none; says why, or what one needs."""
    name = model if isinstance(model, str) else type(model).__name__
    if name == "TimeExtended":
        raise ValueError(f"{name} is extended already: train it, or take the image model in it (`.image`, detach())")
    if name == "VideoDiT" or "3D" in name or "Motion" in name:
        raise ValueError(f"{name} is no image model but a video model, which has its own blocks along time")
    if name not in FAMILIES:
        raise ValueError(
            f"{name} is no image transformer that is known here ({', '.join(FAMILIES)}); a row for it is "
            f"videodit.models.families.FAMILIES[{name!r}] = Family(call=..., hosts=..., channels=..., told=...)"
        )
    return FAMILIES[name]


def class_of(name: str) -> Any:
    """The class of that name, of a known family. ValueError as `family_of`."""
    return family_of(name).cls or getattr(diffusers, name)


def name_of(config: Any) -> str:
    """The class that a configuration names, in the place of the one that older folders of PixArt and DiT name."""
    older = {"ada_norm_single": "PixArtTransformer2DModel", "ada_norm_zero": "DiTTransformer2DModel"}
    name = str(config.get("_class_name", "a model of no class"))
    return older.get(config.get("norm_type"), name) if name == "Transformer2DModel" else name
