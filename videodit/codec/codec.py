"""Pixels <-> latents over any of diffusers' video VAEs: one class, one set of rules.

`VideoCodec` knows, for each VAE class, how it compresses (`strides`), which frame counts are legal, how its latents are
brought to unit variance per channel, and how to decode chunk by chunk. Latents are *raw* as the VAE gives them and
*normalized* (unit variance, what the DiT sees) everywhere else:

    normalized = (raw - mean - shift) * scale / std         (whichever of the four the VAE's config holds)

Pixels are float b c f h w in [-1, 1]. An image is a clip of one frame.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    AutoencoderKLHunyuanVideo,
    AutoencoderKLHunyuanVideo15,
    AutoencoderKLLTXVideo,
    AutoencoderKLWan,
)
from diffusers.models.autoencoders.autoencoder_kl_wan import patchify, unpatchify
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from einops import rearrange
from torch import Tensor

from videodit.codec.inflated_vae import AutoencoderKLInflated
from videodit.codec.patch_vae import AutoencoderKLPatch, Patched
from videodit.codec.pictures import PICTURES, row_of
from videodit.geometry import Strides
from videodit.weights import check_finite, loading

FRAMEWISE = tuple(PICTURES)
VIDEO = (
    AutoencoderKLWan,
    AutoencoderKLPatch,
    AutoencoderKLInflated,
    AutoencoderKLCogVideoX,
    AutoencoderKLLTXVideo,
    AutoencoderKLHunyuanVideo,
    AutoencoderKLHunyuanVideo15,
)


DECODER = ("decoder.", "post_quant_conv.")  # how the names of weights that encode nothing begin


class VideoCodec:
    """A diffusers VAE as a codec of clips. Holds no state between calls.

    | VAE | legal frames | one frame equals a clip's first | streams |
    |---|---|---|---|
    | `AutoencoderKL`, `...KLFlux2`, `...KLQwenImage`, `...DC` | any | yes | frame by frame, exact |
    | `AutoencoderKLTemporalDecoder` | any | encode yes, decode no | whole |
    | `AutoencoderKLWan` | 4k + 1 | yes, bit for bit | latent frame by latent frame, exact |
    | `AutoencoderKLPatch`, `...Inflated` (ours) | (time stride) k + 1 | yes | latent frame by latent frame, exact |
    | `AutoencoderKLCogVideoX` | 8k + 1 | no | whole |
    | `AutoencoderKLLTXVideo` | (time stride) k + 1 | with `decoder_causal` | whole |
    | `AutoencoderKLHunyuanVideo`, `...15` | 4k + 1 | 1.0 no, 1.5 yes | whole |

    Args:
        vae: an instance of one of the classes above; its dtype and device are the codec's.
        frames_at_once: frames decoded or encoded in one call by the frame-by-frame VAEs (memory against speed).

    Raises:
        ValueError: another class, or a configuration the class itself cannot run.
    """

    def __init__(self, vae: torch.nn.Module, *, frames_at_once: int = 8):
        if not isinstance(vae, FRAMEWISE + VIDEO):
            names = ", ".join(c.__name__ for c in FRAMEWISE + VIDEO)
            raise ValueError(f"{type(vae).__name__} is no VAE that VideoCodec knows; it takes {names}")
        if frames_at_once < 1:
            raise ValueError(f"frames_at_once={frames_at_once} must be at least 1")
        self.vae: Any = vae
        if isinstance(vae, AutoencoderKLHunyuanVideo15):
            vae.use_slicing = True  # its attention mask fits a batch of one only
        self.frames_at_once = frames_at_once
        self.strides = _strides(vae)
        self.mean, self.std = _statistics(vae, self.strides.channels)

    @classmethod
    def from_pretrained(cls, name_or_folder: str | Path, **kwargs: Any) -> VideoCodec:
        """Loads a VAE saved by diffusers: its own folder, a pipeline folder with `vae/`, or a hub name.

        The class is read from `config.json` (`_class_name`). Keyword arguments go to the class's `from_pretrained`;
        `dtype` is float32 unless given. WeightsError where its weights are damaged or not finite.
        """
        if not {"dtype", "torch_dtype"} & kwargs.keys():
            kwargs["dtype"] = torch.float32
        kind, name, _ = cls._named(name_or_folder)
        with loading(name):
            vae = kind.from_pretrained(name, **kwargs).eval()
        check_finite(vae, name)
        return cls(vae)

    @classmethod
    def strides_of(cls, name_or_folder: str | Path) -> Strides:
        """Those of the VAE that `from_pretrained` would load, of which its configuration alone is read."""
        kind, _, config = cls._named(name_or_folder)
        with torch.device("meta"):
            return _strides(kind.from_config(config))

    @staticmethod
    def _named(name_or_folder: str | Path) -> tuple[Any, str, dict[str, Any]]:
        """The class of a saved VAE, where it is, and its configuration."""
        folder = Path(name_or_folder)
        if (folder / "vae" / "config.json").is_file():
            folder = folder / "vae"
        if folder.exists() and not (folder / "config.json").is_file():
            raise ValueError(f"{folder}: no config.json here; give the folder of a saved VAE or of a pipeline")
        name = str(folder) if folder.exists() else str(name_or_folder)
        config = AutoencoderKLWan.load_config(name)  # of any class
        class_name = config.get("_class_name", "")
        known = {c.__name__: c for c in FRAMEWISE + VIDEO}
        if class_name not in known:
            raise ValueError(f"{name}: VAE class {class_name!r} is none of {', '.join(known)}")
        return known[class_name], name, config

    @property
    def dtype(self) -> torch.dtype:
        return next(self.vae.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where it works: of its weights or, where these come and go (offloading), of the hooks that bring them."""
        hooks = (getattr(module, "_hf_hook", None) for module in self.vae.modules())
        devices = (getattr(hook, "execution_device", None) for hook in hooks)
        return torch.device(next((d for d in devices if d is not None), next(self.vae.parameters()).device))

    @property
    def streams(self) -> bool:
        """Whether a clip is decoded piece by piece, so that a longer one takes no more memory."""
        row = row_of(self.vae)
        if isinstance(self.vae, AutoencoderKLWan):
            return not self.vae.use_tiling
        return isinstance(self.vae, Patched) or (row is not None and row.decode is not None)

    # --- raw and normalized ------------------------------------------------------------------------------------------

    def normalize(self, raw: Tensor) -> Tensor:
        """Raw latents b c f h w -> unit variance per channel, float32."""
        return (raw.float() - self.mean.to(raw.device)) / self.std.to(raw.device)

    def denormalize(self, latents: Tensor) -> Tensor:
        """The inverse of `normalize`."""
        return latents.float() * self.std.to(latents.device) + self.mean.to(latents.device)

    # --- pixels -> latents -------------------------------------------------------------------------------------------

    def posterior(self, pixels: Tensor) -> DiagonalGaussianDistribution:
        """The VAE's distribution of raw latents for pixels b c f h w in [-1, 1]; its tensors are b c f h w.

        Raises:
            ValueError: a frame count or picture size that the VAE would silently cut; names the nearest legal ones.
        """
        b, _, f, h, w = pixels.shape
        self.strides.latent_frames(f)
        self.strides.latent_side(h, "height")
        self.strides.latent_side(w, "width")
        _onload(self.vae)
        pixels = pixels.to(self.device, self.dtype)
        if isinstance(self.vae, AutoencoderKLWan) and torch.is_grad_enabled() and not self.vae.use_tiling:
            return DiagonalGaussianDistribution(_wan_moments(self.vae, pixels))
        row = row_of(self.vae)
        if row is None:
            return self.vae.encode(pixels).latent_dist
        frames = rearrange(pixels, "b c f h w -> (b f) c h w")
        parts = [row.moments(self.vae, part) for part in frames.split(self.frames_at_once)]
        return DiagonalGaussianDistribution(rearrange(torch.cat(parts), "(b f) c h w -> b c f h w", b=b))

    def encode(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Pixels b c f h w in [-1, 1] -> normalized latents b c' f' h' w', float32.

        The posterior's mode, or a sample from it where a generator is given.
        """
        posterior = self.posterior(pixels)
        return self.normalize(posterior.mode() if generator is None else posterior.sample(generator))

    # --- latents -> pixels -------------------------------------------------------------------------------------------

    def decode(self, latents: Tensor) -> Tensor:
        """Normalized latents b c' f' h' w' -> pixels b c f h w, float32, clamped to [-1, 1]."""
        return torch.cat(list(self.decode_chunks(latents)), dim=2)

    def decode_chunks(self, latents: Tensor, shared: int = 0, carry: list[Any] | None = None) -> Iterator[Tensor]:
        """The frames of `decode(latents)` piece by piece, in order: float32 b c f h w in [-1, 1].

        The pieces joined equal the whole decode exactly. A VAE that must see the whole clip gives it as one piece.

        Args:
            latents: of a clip, or of a window of a longer one, whose first `shared` frames (a number that can stand by
                itself, or 0) the window before has shown: they are left out.
            carry: for windows, an empty list at the first, then the same for each: it keeps what a causal decoder holds
                of the frames before, so that they join as if decoded at once. A VAE that does not stream decodes each
                by itself.
        """
        if shared and not self.streams:
            yield self.decode(latents)[:, :, shared:]
            return
        new = latents[:, :, self.strides.latent_frames(shared) if shared else 0 :]
        for chunk in self.decode_raw(self.denormalize(new), carry):
            if self.dtype == torch.float16 and not chunk.isfinite().all():
                raise ValueError(
                    f"{type(self.vae).__name__}: what it decodes is beyond float16's numbers: take bfloat16 or float32 "
                    f"(--dtype, or pipe.vae.float())"
                )
            yield chunk.float().clamp(-1, 1)

    def decode_raw(self, raw: Tensor, carry: list[Any] | None = None) -> Iterator[Tensor]:
        """Raw latents -> unclamped pixels, piece by piece: the differentiable path that training takes; `carry` as in
        `decode_chunks`."""
        _onload(self.vae)
        raw = raw.to(self.device, self.dtype)
        vae, row = self.vae, row_of(self.vae)
        if row is not None and row.decode is not None:
            for part in raw.split(max(1, self.frames_at_once // raw.shape[0]), dim=2):
                frames = row.decode(vae, rearrange(part, "b c f h w -> (b f) c h w"))
                yield rearrange(frames, "(b f) c h w -> b c f h w", b=raw.shape[0])
        elif row is not None:
            frames = rearrange(raw, "b c f h w -> (b f) c h w")
            frames = vae.decode(frames, num_frames=raw.shape[2]).sample
            yield rearrange(frames, "(b f) c h w -> b c f h w", b=raw.shape[0])
        elif isinstance(vae, AutoencoderKLWan) and not vae.use_tiling:
            yield from _wan_chunks(vae, raw, [] if carry is None else carry)
        elif isinstance(vae, Patched):
            carry = [] if carry is None else carry
            at_once = raw.shape[2] if torch.is_grad_enabled() else 1
            for part in raw.split(at_once, dim=2):
                yield vae.decode(part, return_dict=False, carry=carry)[0]
        elif isinstance(vae, AutoencoderKLLTXVideo) and vae.config.timestep_conditioning:
            yield vae.decode(raw, torch.zeros(raw.shape[0], device=raw.device, dtype=raw.dtype)).sample
        else:
            yield vae.decode(raw).sample

    # --- identity ----------------------------------------------------------------------------------------------------

    def fingerprint(self) -> str:
        """sha256 over class, configuration and weights, but the decoder's: the cache key of what this codec encodes."""
        digest = hashlib.sha256(type(self.vae).__name__.encode())
        # mend_dim is the decoder's alone, and may come to a VAE whose latents are stored already
        config = {k: v for k, v in self.vae.config.items() if not k.startswith("_") and k != "mend_dim"}
        digest.update(json.dumps(config, sort_keys=True, default=str).encode())
        for name, tensor in sorted(self.vae.state_dict().items()):
            if name.startswith(DECODER):
                continue
            digest.update(name.encode())
            digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


def _onload(vae: Any) -> None:
    """Brings an offloaded VAE (`enable_model_cpu_offload`) to where it works, before it is asked where it is."""
    if (hook := getattr(vae, "_hf_hook", None)) is not None:
        hook.pre_forward(vae)


def _strides(vae: Any) -> Strides:
    config = vae.config
    if (row := row_of(vae)) is not None:
        return row.strides(config)
    if isinstance(vae, Patched):
        return vae.strides
    if isinstance(vae, AutoencoderKLWan):
        time = 2 ** sum(config.temperal_downsample)
        if time != 4:
            raise ValueError(f"AutoencoderKLWan walks 4 frames a latent; temperal_downsample gives {time}")
        return Strides(4, (config.patch_size or 1) * 2 ** (len(config.dim_mult) - 1), config.z_dim)
    if isinstance(vae, AutoencoderKLCogVideoX):  # an even number of latent frames decodes to another clip length
        time = int(config.temporal_compression_ratio)
        return Strides(time, 2 ** (len(config.block_out_channels) - 1), config.latent_channels, frame_step=2 * time)
    return Strides(vae.temporal_compression_ratio, vae.spatial_compression_ratio, config.latent_channels)


def _statistics(vae: Any, channels: int) -> tuple[Tensor, Tensor]:
    """(mean, std), each c 1 1 1, such that normalized = (raw - mean) / std."""
    buffers = dict(vae.named_buffers())
    if (norm := buffers.get("bn.running_var")) is not None:  # Flux2
        variance = norm.float().cpu() + vae.config.batch_norm_eps
        return rearrange(buffers["bn.running_mean"].float().cpu(), "c -> c 1 1 1"), rearrange(
            variance.sqrt(), "c -> c 1 1 1"
        )

    def channelwise(name: str, default: float) -> Tensor:
        values = buffers.get(name, vae.config.get(name))
        values = torch.full((channels,), default) if values is None else torch.as_tensor(values).float().cpu()
        if values.shape != (channels,):
            raise ValueError(f"{type(vae).__name__}: {name} has {values.numel()} values for {channels} latent channels")
        return rearrange(values, "c -> c 1 1 1")

    mean = channelwise("latents_mean", 0.0) + (vae.config.get("shift_factor") or 0.0)
    std = channelwise("latents_std", 1.0) / (vae.config.get("scaling_factor") or 1.0)
    return mean, std


def keep_statistics(vae: Any, mean: Tensor, std: Tensor) -> None:
    """Has a VAE say, where `_statistics` looks, that these (c each, of raw latents) are what is normalized away.

    Raises:
        ValueError: its class has no place for them.
    """
    buffers, takes = dict(vae.named_buffers()), inspect.signature(type(vae).__init__).parameters
    if "bn.running_var" in buffers:
        buffers["bn.running_mean"].copy_(mean)
        buffers["bn.running_var"].copy_(std.square() - vae.config.batch_norm_eps)
        return
    told: dict[str, Any] = {"scaling_factor": 1.0, "shift_factor": 0.0}
    if "latents_mean" in buffers:
        buffers["latents_mean"].copy_(mean)
        buffers["latents_std"].copy_(std)
    elif "latents_mean" in takes:
        told |= {"latents_mean": mean.tolist(), "latents_std": std.tolist()}
    elif "scaling_factor" in takes:  # one number for all channels
        shift = float(mean.mean()) if "shift_factor" in takes else 0.0
        spread = (std.square() + (mean - shift).square()).mean().sqrt()
        told = {"scaling_factor": 1 / float(spread), "shift_factor": shift}
    else:
        raise ValueError(f"{type(vae).__name__} has no place for its latents' mean and deviation")
    vae.register_to_config(**{name: value for name, value in told.items() if name in takes})


def _wan_moments(vae: AutoencoderKLWan, pixels: Tensor) -> Tensor:
    """What `AutoencoderKLWan.encode` gives, in two passes instead of one each four frames."""
    patch, carry = vae.config.patch_size, [None] * vae._cached_conv_counts["encoder"]
    pixels = pixels if patch is None else patchify(pixels, patch)
    parts = [vae.encoder(part, feat_cache=carry, feat_idx=[0]) for part in _first_and_others(pixels)]
    return vae.quant_conv(torch.cat(parts, dim=2))


def _first_and_others(frames: Tensor) -> list[Tensor]:
    """A causal VAE's first frame, which stands alone, and all after it: b c f h w each."""
    return [part for part in frames.tensor_split([1], dim=2) if part.shape[2]]


def _wan_chunks(vae: AutoencoderKLWan, raw: Tensor, carry: list[Any]) -> Iterator[Tensor]:
    """`AutoencoderKLWan.decode` as a generator, without its clamp: each causal convolution's last frames are carried
    in `carry` (empty: none came before), so a latent frame is decoded once, with exactly what the whole decode gives
    it. With gradients, which keep everything in memory anyway, all after the first are one piece."""
    latents = vae.post_quant_conv(raw)
    for latent in _first_and_others(latents) if torch.is_grad_enabled() and not carry else latents.split(1, dim=2):
        first = not carry
        if first:
            carry += [None] * vae._cached_conv_counts["decoder"]
        frames = vae.decoder(latent, feat_cache=carry, feat_idx=[0], first_chunk=first)
        yield unpatchify(frames, vae.config.patch_size) if vae.config.patch_size is not None else frames
