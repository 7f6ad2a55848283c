"""A causal video VAE of patches: a linear map of each, its principal axes at first, and what blocks add to it.

    pixels -> patches (the first frame's p x p; then t x p x p) -> axes + blocks -> latents -> axes + blocks -> pixels

Convolutions at full resolution are what a VAE costs, and here are hardly any: all is computed on the latent's places,
as products of matrices (as ViTok does, Hansen-Estruch et al. 2025, arXiv 2501.09755, with attention; here each place
sees its neighbours, so that pictures of any size are taken). The linear maps are fitted and then stay, so that training
starts where principal components are, and gains from there. A few narrow convolutions of each frame's pixels may
follow (`Mend`), since latents that a model samples are each a little other than their neighbours, which shows as edges.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any, ClassVar

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import gelu, linear, silu

from videodit.geometry import Strides

FIRST_LOGVAR = -9.0  # of the posterior before training: hardly any noise


class Axes(nn.Module):
    """A linear map that is fitted and then stays: ... inward -> ... outward."""

    weight: Tensor
    bias: Tensor

    def __init__(self, inward: int, outward: int):
        super().__init__()
        self.register_buffer("weight", torch.eye(outward, inward))
        self.register_buffer("bias", torch.zeros(outward))

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


class PatchBlock(nn.Module):
    """x + what a place makes of its neighbours; x + MLP(x): b f h w d -> the same. Silent before training.

    A place sees 3 x 3 places of its frame and of the two before; before the first frame there is that frame again.
    """

    def __init__(self, dim: int, mlp_ratio: float):
        super().__init__()
        inner, hidden = dim // 4, round(dim * mlp_ratio)
        self.norm1, self.squeeze = nn.RMSNorm(dim), nn.Linear(dim, inner)
        self.mix, self.widen = nn.Conv3d(inner, inner, 3, padding=(0, 1, 1)), nn.Linear(inner, dim)
        self.norm2, self.up, self.down = nn.RMSNorm(dim), nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        for last in (self.widen, self.down):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, x: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor]:
        """past: b 2 h w d/4, what it gave for the frames before; None: there are none. It is the second result too."""
        narrow = self.squeeze(self.norm1(x))
        narrow = torch.cat([narrow[:, :1].expand(-1, 2, -1, -1, -1) if past is None else past, narrow], dim=1)
        mixed = rearrange(self.mix(rearrange(narrow, "b f h w c -> b c f h w")), "b c f h w -> b f h w c")
        x = x + self.widen(gelu(mixed, approximate="tanh"))
        return x + self.down(gelu(self.up(self.norm2(x)), approximate="tanh")), narrow[:, -2:]


class Side(nn.Module):
    """What encoder and decoder share: blocks on the latent's places."""

    def __init__(self, dim: int, num_layers: int, mlp_ratio: float):
        super().__init__()
        self.blocks = nn.ModuleList(PatchBlock(dim, mlp_ratio) for _ in range(num_layers))
        self.norm = nn.RMSNorm(dim)

    def walk(self, x: Tensor, carry: list[Tensor] | None = None) -> Tensor:
        """carry: of each block what is kept for the frames that follow; empty: x begins a clip."""
        pasts: list[Any] = carry or [None] * len(self.blocks)
        kept = []
        for block, past in zip(self.blocks, pasts, strict=True):
            x, last = block(x, past)
            kept.append(last)
        if carry is not None:
            carry[:] = kept
        return self.norm(x)


class PatchEncoder(Side):
    """Patches of the first frame b 1 h w p, of the others b f h w p' -> moments b f+1 h w 2c."""

    def __init__(self, first: int, others: int, channels: int, dim: int, num_layers: int, mlp_ratio: float):
        super().__init__(dim, num_layers, mlp_ratio)
        self.first, self.others = nn.Linear(first, dim), nn.Linear(others, dim)
        self.axes_first, self.axes_others = Axes(first, channels), Axes(others, channels)
        self.out = nn.Linear(dim, 2 * channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        nn.init.constant_(self.out.bias[channels:], FIRST_LOGVAR)

    def forward(self, first: Tensor, others: Tensor) -> Tensor:
        x = self.walk(torch.cat([self.first(first), self.others(others)], dim=1))
        mean, logvar = self.out(x).chunk(2, dim=-1)
        return torch.cat([mean + torch.cat([self.axes_first(first), self.axes_others(others)], dim=1), logvar], dim=-1)


class PatchDecoder(Side):
    """Latents b f h w c -> patches of the first frame (none where `carry` holds what came before) and of the others."""

    def __init__(self, first: int, others: int, channels: int, dim: int, num_layers: int, mlp_ratio: float):
        super().__init__(dim, num_layers, mlp_ratio)
        self.enter = nn.Linear(channels, dim)
        self.first, self.others = nn.Linear(dim, first), nn.Linear(dim, others)
        self.axes_first, self.axes_others = Axes(channels, first), Axes(channels, others)
        self.mend: Mend | None = None  # of the pixels
        for last in (self.first, self.others):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, latents: Tensor, carry: list[Tensor] | None = None) -> tuple[Tensor, Tensor]:
        alone = 0 if carry else 1  # frames that begin a clip
        x = self.walk(self.enter(latents), carry)
        first = self.first(x[:, :alone]) + self.axes_first(latents[:, :alone])
        return first, self.others(x[:, alone:]) + self.axes_others(latents[:, alone:])


class Mend(nn.Module):
    """Pixels b c f h w + what convolutions of 5 x 5 make of their neighbours in the frame. Silent before training."""

    def __init__(self, channels: int, dim: int):
        super().__init__()
        widths = [channels, dim, dim, dim, channels]
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 5, padding=2) for a, b in pairwise(widths))
        last: Any = self.layers[-1]
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, pixels: Tensor) -> Tensor:
        frames = x = rearrange(pixels, "b c f h w -> (b f) c h w").contiguous(memory_format=torch.channels_last)
        for number, layer in enumerate(self.layers):
            x = layer(silu(x) if number else x)
        return rearrange(frames + x, "(b f) c h w -> b c f h w", b=len(pixels))


class Patched(ModelMixin, ConfigMixin):
    """A causal video VAE of patches of what it sees; which that is, pixels or not, a class says."""

    _no_split_modules: ClassVar[list[str]] = ["PatchBlock"]

    def _build(
        self, seen: int, patch: tuple[int, int], side: int, channels: int, rest: tuple[int, int, int, float]
    ) -> None:
        """
        Args:
            seen: channels of what it sees. patch: frames, and places a side. side: pixels of a latent's.
            channels: of latents. rest: width, layers of encoder and decoder, MLP ratio.
        """
        (time, p), (dim, encoder_layers, decoder_layers, mlp_ratio) = patch, rest
        first = seen * p * p
        sides = (first, first * time, channels, dim)
        self.encoder = PatchEncoder(*sides, encoder_layers, mlp_ratio)
        self.decoder = PatchDecoder(*sides, decoder_layers, mlp_ratio)
        self.patch = patch
        self.temporal_compression_ratio, self.spatial_compression_ratio = time, side
        self.strides = Strides(time, side, channels)

    def look(self, pixels: Tensor) -> Tensor:
        """Pixels b 3 f h w -> what patches are made of, b c f h w."""
        return pixels

    def show(self, seen: Tensor, carry: list[Any] | None) -> Tensor:
        """The inverse of `look`; `carry` as in `decode`."""
        return seen

    def patches(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels b c f h w -> patches of the first frame, b 1 h w (c p p), and of the others, b f h w (c t p p).

        ValueError: frames or sides that are not whole patches; names the nearest that are.
        """
        self.strides.latent_frames(pixels.shape[2])
        self.strides.latent_side(pixels.shape[3], "height")
        self.strides.latent_side(pixels.shape[4], "width")
        (t, p), seen = self.patch, self.look(pixels)
        first, others = seen[:, :, :1], seen[:, :, 1:]
        return (
            rearrange(first, "b c f (h p) (w q) -> b f h w (c p q)", p=p, q=p),
            rearrange(others, "b c (f t) (h p) (w q) -> b f h w (c t p q)", t=t, p=p, q=p),
        )

    def encode(self, x: Tensor, return_dict: bool = True) -> AutoencoderKLOutput | tuple[DiagonalGaussianDistribution]:
        """Pixels b 3 f h w in [-1, 1] -> the distribution of latents b c f' h' w', of which 1 + (f - 1) / t frames."""
        moments = rearrange(self.encoder(*self.patches(x)), "b f h w c -> b c f h w")
        posterior = DiagonalGaussianDistribution(moments)
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    def decode(
        self, z: Tensor, return_dict: bool = True, carry: list[Any] | None = None
    ) -> DecoderOutput | tuple[Tensor]:
        """Latents b c f h w -> pixels b 3 f' h' w'.

        carry: an empty list with a clip's first frames, then the same with those that follow: joined, what comes is
        what the whole decodes to.
        """
        (t, p), count = self.patch, len(self.decoder.blocks)
        own, rest = (None, None) if carry is None else (carry[:count], carry[count:])
        first, others = self.decoder(rearrange(z, "b c f h w -> b f h w c"), own)
        frames = [
            rearrange(first, "b f h w (c p q) -> b c f (h p) (w q)", p=p, q=p),
            rearrange(others, "b f h w (c t p q) -> b c (f t) (h p) (w q)", t=t, p=p, q=p),
        ]
        sample = self.show(torch.cat(frames, dim=2), rest)
        if carry is not None:
            carry[:] = [*(own or ()), *(rest or ())]
        return DecoderOutput(sample=sample) if return_dict else (sample,)

    def forward(self, sample: Tensor, sample_posterior: bool = False, generator: torch.Generator | None = None) -> Any:
        posterior: Any = self.encode(sample, return_dict=False)[0]
        return self.decode(posterior.sample(generator) if sample_posterior else posterior.mode())

    @torch.no_grad()
    def fit(self, clips: Iterable[Tensor]) -> None:
        """Sets the linear maps to the principal axes of these clips' patches.

        Latents then deviate along each as the square root of what pixels do, 1 in the mean of squares: half way between
        all alike, where noise hides what is coarse no sooner than what is fine, and pixels, where all is coarse.

        Args:
            clips: pixels b c f h w in [-1, 1], of any sizes that it takes.
        """
        sums: list[Any] = [0, 0]  # of rows 1 x: their number, their sum and their products
        like = next(self.parameters())
        for pixels in clips:
            for kind, patches in enumerate(self.patches(pixels.to(like))):
                rows = nn.functional.pad(patches.flatten(0, -2).cpu().double(), (1, 0), value=1.0)
                sums[kind] = sums[kind] + rows.T @ rows
        for name, products in zip(("axes_first", "axes_others"), sums, strict=True):
            if not products[0, 0]:  # of pictures alone there are no others
                continue
            mean, axes, spread = principal_axes(products, self.strides.channels)
            scale = (spread * spread.mean()).rsqrt()
            inwards, outwards = getattr(self.encoder, name), getattr(self.decoder, name)
            inwards.weight.copy_(axes * scale[:, None])
            inwards.bias.copy_(-(axes @ mean) * scale)
            outwards.weight.copy_(axes.T / scale)
            outwards.bias.copy_(mean)


class AutoencoderKLPatch(Patched):
    """A causal video VAE of patches of `patch_size` frames, rows and columns; an image is a clip's first frame.

    Args:
        latent_channels: numbers of a place. dim, mlp_ratio: width of the blocks, and of their MLPs over it.
        encoder_layers, decoder_layers: of blocks. mend_dim: width of what joins patches in pixels; 0: nothing does.
        latents_mean, latents_std: of each channel over training clips; None: 0 and 1.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 3,
        latent_channels: int = 96,
        patch_size: tuple[int, int, int] = (4, 8, 8),
        dim: int = 256,
        encoder_layers: int = 4,
        decoder_layers: int = 6,
        mlp_ratio: float = 3.0,
        mend_dim: int = 0,
        latents_mean: list[float] | None = None,
        latents_std: list[float] | None = None,
    ):
        super().__init__()
        time, rows, columns = patch_size
        if rows != columns:
            raise ValueError(f"patch_size={tuple(patch_size)}: patches have as many rows as columns")
        rest = (dim, encoder_layers, decoder_layers, mlp_ratio)
        self._build(in_channels, (time, rows), rows, latent_channels, rest)
        if mend_dim:
            self.decoder.mend = Mend(in_channels, mend_dim)

    def add_mend(self, dim: int) -> None:
        """Convolutions of this width, silent until they are trained, behind a decoder that has none (ValueError)."""
        if self.decoder.mend is not None:
            raise ValueError(
                f"mend_dim: this VAE has convolutions that join patches already, {self.config.mend_dim} wide"
            )
        weight = self.decoder.enter.weight
        self.decoder.mend = Mend(self.config.in_channels, dim).to(weight.device, weight.dtype)
        unsaid = [key for key in self.config.get("_use_default_values", ()) if key != "mend_dim"]
        self.register_to_config(mend_dim=dim, _use_default_values=unsaid)

    def show(self, seen: Tensor, carry: list[Any] | None) -> Tensor:
        return seen if self.decoder.mend is None else self.decoder.mend(seen)


def principal_axes(products: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The mean of rows x, d; the `count` axes along which they vary most, m d; their deviation along each, m.

    Axes that rows of fewer numbers do not have are zero, of a deviation of 1e-4.

    Args:
        products: of rows 1 x, summed: 1 + d by 1 + d, float64.
    """
    seen = products / products[0, 0]
    mean = seen[0, 1:]
    variances, axes = torch.linalg.eigh(seen[1:, 1:] - torch.outer(mean, mean))
    axes, variances = axes.flip(1).T[:count], variances.flip(0)[:count]
    missing = count - len(axes)
    axes = torch.cat([axes, axes.new_zeros(missing, axes.shape[1])])
    spread = torch.cat([variances.clamp(min=1e-8).sqrt(), variances.new_full((missing,), 1e-4)])
    return mean.float(), axes.float(), spread.float()
