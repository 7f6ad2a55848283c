"""An image VAE that became a causal video VAE: kernels that see two frames back, and latents joined in time.

    pixels -> the image VAE's encoder, inflated -> its latents, t frames a patch -> axes + blocks -> latents, and back

Each 3 x 3 kernel is the newest slice of a 3 x 3 x 3 one whose other two are zero (inflation: Carreira & Zisserman 2017,
arXiv 1705.07750; causal as in MAGVIT-v2, Yu et al. 2023, arXiv 2310.05737); what is normalized or attends does so in
each frame. What joins frames is a VAE of patches, `patch_vae`, on the image VAE's latents. So before training it gives
what the image VAE gives on every frame, where its latents have room for it, and an image stays a clip's first frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from diffusers import AutoencoderKL
from diffusers.configuration_utils import register_to_config
from einops import rearrange
from torch import Tensor, nn

from videodit.codec.patch_vae import Patched

AT_ONCE = 8  # frames that are encoded together where nothing is learned


class CausalConv(nn.Conv3d):
    """A convolution of pictures, frames (b f) c h w, that sees the two frames before too: the clip's first again where
    there are none.

    frames: f. past: b c 2 h w, what came before; None: nothing. After a call it is what the next goes on from.
    """

    frames: int = 1
    past: Tensor | None = None

    @classmethod
    def of(cls, flat: nn.Conv2d) -> CausalConv:
        """Of the same numbers, the older frames unseen."""
        flat_padding: Any = flat.padding
        size, stride, padding = (
            (inner, *outer) for inner, outer in ((3, flat.kernel_size), (1, flat.stride), (0, flat_padding))
        )
        conv = cls(
            flat.in_channels,
            flat.out_channels,
            size,
            stride=stride,
            padding=padding,
            bias=flat.bias is not None,
            device=flat.weight.device,
            dtype=flat.weight.dtype,
        )
        with torch.no_grad():
            conv.weight.zero_()
            conv.weight[:, :, -1] = flat.weight
            if flat.bias is not None:
                conv.bias.copy_(flat.bias)  # type: ignore[union-attr]
        return conv

    def forward(self, x: Tensor) -> Tensor:
        clip = rearrange(x, "(b f) c h w -> b c f h w", f=self.frames)
        past = clip[:, :, :1].expand(-1, -1, 2, -1, -1) if self.past is None else self.past
        clip = torch.cat([past, clip], dim=2)
        self.past = clip[:, :, -2:] if torch.is_grad_enabled() else clip[:, :, -2:].clone()  # not to hold all of it
        return rearrange(super().forward(clip), "b c f h w -> (b f) c h w")


def inflate(part: nn.Module) -> nn.Module:
    """Its kernels of more than one pixel, in their places."""
    for name, child in part.named_children():
        if isinstance(child, nn.Conv2d) and child.kernel_size != (1, 1):
            setattr(part, name, CausalConv.of(child))
        else:
            inflate(child)
    return part


def inflated_sides(vae: AutoencoderKL) -> tuple[nn.Module, nn.Module]:
    """Its encoder and its decoder, which are changed where they are."""
    inner, outer = (part or nn.Identity() for part in (vae.quant_conv, vae.post_quant_conv))
    return nn.Sequential(inflate(vae.encoder), inner), nn.Sequential(outer, inflate(vae.decoder))


class AutoencoderKLInflated(Patched):
    """A causal video VAE around an image VAE; an image is a clip's first frame.

    Args:
        image: the configuration of the `AutoencoderKL` that it was. time_stride: frames a latent's.
        latent_channels: numbers of a place; None: `time_stride` times the image VAE's, which loses nothing.
        dim, mlp_ratio, encoder_layers, decoder_layers: of the blocks that join frames.
        latents_mean, latents_std: of each channel over training clips; None: 0 and 1.
    """

    @register_to_config
    def __init__(
        self,
        *,  # a positional one diffusers takes for a default
        image: Mapping[str, Any],
        time_stride: int = 4,
        latent_channels: int | None = None,
        dim: int = 128,
        encoder_layers: int = 2,
        decoder_layers: int = 2,
        mlp_ratio: float = 3.0,
        latents_mean: list[float] | None = None,
        latents_std: list[float] | None = None,
    ):
        super().__init__()
        vae: Any = AutoencoderKL.from_config(dict(image))
        seen, side = vae.config.latent_channels, 2 ** (len(vae.config.block_out_channels) - 1)
        channels = latent_channels or seen * time_stride
        self._build(seen, (time_stride, 1), side, channels, (dim, encoder_layers, decoder_layers, mlp_ratio))
        self.scale, self.shift = vae.config.scaling_factor or 1.0, vae.config.shift_factor or 0.0
        self.encoder.image, self.decoder.image = inflated_sides(vae)

    @classmethod
    def from_image(cls, vae: AutoencoderKL, **options: Any) -> AutoencoderKLInflated:
        """Of an image VAE's numbers; options: those above."""
        config = {name: value for name, value in vae.config.items() if not name.startswith("_")}
        video = cls(image=config, **options)
        video.encoder.image, video.decoder.image = inflated_sides(deepcopy(vae))
        video.to(vae.device)
        return video if vae.dtype == torch.float32 else video.to(vae.dtype)

    def look(self, pixels: Tensor) -> Tensor:
        at_once = pixels.shape[2] if torch.is_grad_enabled() else AT_ONCE
        carry: list[Any] = []
        moments = [self._through(self.encoder.image, part, carry) for part in pixels.split(at_once, dim=2)]
        return (torch.cat(moments, dim=2).chunk(2, dim=1)[0] - self.shift) * self.scale

    def show(self, seen: Tensor, carry: list[Any] | None) -> Tensor:
        return self._through(self.decoder.image, seen / self.scale + self.shift, carry)

    @staticmethod
    def _through(part: Any, clip: Tensor, carry: list[Any] | None) -> Tensor:
        """b c f h w -> of other channels and sides; `carry`: what each kernel saw last, in order; empty: nothing."""
        kernels = [module for module in part.modules() if isinstance(module, CausalConv)]
        for kernel, past in zip(kernels, carry or [None] * len(kernels), strict=True):
            kernel.frames, kernel.past = clip.shape[2], past
        made = part(rearrange(clip, "b c f h w -> (b f) c h w"))
        if carry is not None:
            carry[:] = [kernel.past for kernel in kernels]
        for kernel in kernels:
            kernel.past = None
        return rearrange(made, "(b f) c h w -> b c f h w", b=len(clip))
