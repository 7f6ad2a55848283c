"""Maps beside a latent: frames of a depth, an edge, a mask or another video, brought to where the latent is."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import interpolate, pad

from videodit.codec.codec import VideoCodec
from videodit.geometry import Strides

LUMA = (0.299, 0.587, 0.114)


def map_width(of: str, strides: Strides) -> int:
    """Channels of a map: of what the VAE keeps the latent's, of brightness the pixels of a place."""
    return strides.channels if of in ("vae", "small") else strides.space**2


def map_of(codec: VideoCodec, pixels: Tensor, of: str, factor: int = 1, *, small: bool = False) -> Tensor:
    """Pixels b 3 f h w in [-1, 1] -> a map b c f' h' w' as large as their latent, float32.

    small: of "small", the pixels are those of such pictures, and are enlarged; the latent is that of large ones.

    of: "vae", what the VAE keeps of them; "small", what it keeps of them with all taken out that pictures with sides of
    a `factor`th cannot hold; "luma", their brightness in [-1, 1], exact to the pixel: of as many frames as the latent
    has, from the first to the last at even distances, each place's pixels one channel each; or "edges", likewise how
    fast that brightness changes from pixel to pixel (Sobel): 0 where it does not, 1 from black to white at once.
    """
    if of in ("vae", "small"):
        how = (enlarged if small else blurred) if of == "small" else lambda pixels, _: pixels
        return codec.encode(how(pixels, factor))
    strides, frames = codec.strides, pixels.shape[2]
    count = strides.latent_frames(frames)
    shown = torch.linspace(0, frames - 1, count).round().long()
    weights = torch.tensor(LUMA, device=pixels.device).reshape(1, 3, 1, 1, 1)
    luma = (pixels[:, :, shown].float() * weights).sum(dim=1)
    if of == "edges":
        luma = steepness(luma)
    p = strides.space
    return rearrange(luma, "b f (h p) (w q) -> b (p q) f h w", p=p, q=p).contiguous()


def steepness(luma: Tensor) -> Tensor:
    """The length of Sobel's gradient of b f h w in [-1, 1], from 0 to 1; at the edge of the picture it goes on."""
    around = pad(luma, (1, 1, 1, 1), mode="replicate")
    across = around[..., 2:] - around[..., :-2]
    down = around[..., 2:, :] - around[..., :-2, :]
    across = across[..., :-2, :] + 2 * across[..., 1:-1, :] + across[..., 2:, :]
    down = down[..., :-2] + 2 * down[..., 1:-1] + down[..., 2:]
    return (across.square() + down.square()).sqrt().div(8).clamp(max=1)


def blurred(pixels: Tensor, factor: int) -> Tensor:
    """Pixels b c f h w in [-1, 1], each picture scaled down to a `factor`th and up again (bicubic, antialiased).

    ValueError: a side that the factor does not divide.
    """
    b, (h, w) = len(pixels), pixels.shape[-2:]
    if h % factor or w % factor:
        raise ValueError(f"pictures of {h} x {w} have no {factor}th: sides must be multiples of {factor}")
    pictures = rearrange(pixels.float(), "b c f h w -> (b f) c h w")
    small = interpolate(pictures, (h // factor, w // factor), mode="bicubic", antialias=True)
    return enlarged(rearrange(small, "(b f) c h w -> b c f h w", b=b), factor)


def enlarged(pixels: Tensor, factor: int) -> Tensor:
    """Pixels b c f h w in [-1, 1], each picture scaled up (bicubic)."""
    pictures = rearrange(pixels.float(), "b c f h w -> (b f) c h w")
    large = interpolate(pictures, scale_factor=factor, mode="bicubic").clamp(-1, 1)
    return rearrange(large, "(b f) c h w -> b c f h w", b=len(pixels))
