"""Training a small causal video VAE from scratch: reconstruction + KL (Kingma & Welling 2014), on clips and images.

The VAE is diffusers' `AutoencoderKLWan` with residual shortcuts across its changes of resolution (Wan 2.2, DC-AE):
4 frames x 8 x 8 pixels a latent step, causal, so that an image is exactly a clip's first frame. Or it is one of
patches, `codec.AutoencoderKLPatch`, whose linear maps are fitted to clips before the first step; or an image VAE that
is inflated, `codec.AutoencoderKLInflated`, whose maps in time are fitted. Training goes in stages, small detailed crops
first, whole clips last. At the end the mean and deviation of each latent channel are measured on the training clips and
stored in the VAE's own configuration, where every diffusers user looks for them.

    loss = |x - y| + (x - y)^2 + kl_weight * KL(q(z|x) || N(0, 1))      means over pixels, latent elements
           + perceptual * d(x, y) - adversarial * D(y)                 where a stage has them, see `critics`

In a stage with `decoder_only` the encoder stays as it is, and the decoder learns from the posterior's mode, which is
what models are trained on; with `latent_noise` on it, as what a model samples is not quite right either (Zheng et al.
2025, RAE, arXiv 2510.11690). Where all stages are such, the statistics stay too: a trained model's clips become
sharper, and it need not be trained anew.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL, AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanResidualBlock, WanRMS_norm
from torch import Tensor
from tqdm import tqdm

from videodit.codec import DECODER, AutoencoderKLInflated, AutoencoderKLPatch, VideoCodec, keep_statistics
from videodit.codec.patch_vae import PatchBlock, Patched
from videodit.config import Run, Vae, VaeStage
from videodit.data.clips import Clips, open_data
from videodit.data.transforms import detailed_crop, to_frames, to_pixels
from videodit.disk import writing
from videodit.evaluation.measure.pixels import SSIM_WINDOW, luma, ssim
from videodit.packaged import named_folder
from videodit.shapes import rng_for
from videodit.training.critics import Adversary, Perception, load_perception
from videodit.training.inputs import latents_folder, named
from videodit.training.loop import Loop
from videodit.training.optimizer import build_optimizers
from videodit.training.parallel import check_launcher
from videodit.training.precision import tell_of_bfloat16

log = logging.getLogger(__name__)
COMPILED = (WanResidualBlock, WanRMS_norm, PatchBlock)
FITTED_TO, MEASURED = 512, 1024  # clips at most
STREAM = 11  # of the counter-based randomness, see `rng_for`


def build_vae(config: Vae) -> AutoencoderKLWan | AutoencoderKLPatch:
    """A fresh VAE as configured, latent statistics 0 and 1."""
    if config.patches:
        return AutoencoderKLPatch(latent_channels=config.channels, **config.patches.model_dump())
    pixels = 3 * config.patch_size**2
    levels = len(config.dim_mult)
    shape: dict[str, Any] = {
        "base_dim": config.encoder_dim,
        "decoder_base_dim": config.decoder_dim,
        "z_dim": config.channels,
        "dim_mult": list(config.dim_mult),
        "num_res_blocks": config.res_blocks,
        "temperal_downsample": [False] * (levels - 3) + [True, True],
        "patch_size": config.patch_size,
        "in_channels": pixels,
        "out_channels": pixels,
        "is_residual": True,
        "latents_mean": [0.0] * config.channels,
        "latents_std": [1.0] * config.channels,
        "scale_factor_temporal": 4,
        "scale_factor_spatial": config.patch_size * 2 ** (levels - 1),
    }
    try:
        return AutoencoderKLWan(**shape)
    except ValueError as error:
        raise ValueError(
            f"vae.dim_mult={list(config.dim_mult)}: such levels cannot follow each other: {error}"
        ) from error


def quicken(vae: torch.nn.Module) -> None:
    """Compiles blocks and norms, and lays kernels channels last, as AMX and tensor cores want them.

    Raises:
        ValueError: a VAE that has no such blocks.
    """
    parts = [module for module in vae.modules() if isinstance(module, COMPILED)]
    if not parts:
        raise ValueError(f"vae.compile: {type(vae).__name__} has no blocks that are known to compile; leave it out")
    # a graph a shape: stages times places in the network, more than torch allows by itself
    torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = 64 * len(parts)
    for part in parts:
        part.compile(dynamic=False)
    for module in vae.modules():
        if isinstance(module, torch.nn.Conv3d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last_3d)


def train_vae(config: Run) -> Path:
    """Trains (or goes on training) the VAE of a run; returns the folder `<output>/vae` that diffusers loads."""
    vae_config, folder = config.vae, Path(config.output)
    check_launcher(("vae.precision", vae_config.precision))
    data = open_data(config.data, config.seed, latents_folder(config) / "files.json")
    data.tell()
    torch.manual_seed(config.seed)
    vae: Any = _start(vae_config) if vae_config.start_from else build_vae(vae_config)
    walk = [(stage, number) for stage in vae_config.stages for number in range(stage.steps)]
    accelerator = Accelerator(mixed_precision=vae_config.precision, cpu=not torch.accelerator.is_available())
    tell_of_bfloat16("vae.precision", vae_config.precision, accelerator.device)
    if accelerator.num_processes > 1:
        raise ValueError("the VAE is trained by one process: start videodit train-vae without a launcher")
    rates = learning_rates(vae_config)
    vae.to(accelerator.device).train()
    if vae_config.compile:
        quicken(vae)
    codec = VideoCodec(vae)
    check_sizes(config, codec)
    decodes = "decoder.mend" if vae_config.mend_dim else DECODER
    stays = [weight for name, weight in vae.named_parameters() if not name.startswith(decodes)]
    perception = load_perception(vae_config.perceptual, accelerator.device) if vae_config.perceptual else None
    adversary = None
    if any(stage.adversarial for stage in vae_config.stages):
        adversary = Adversary(
            vae_config.critic_width, vae_config.critic_learning_rate, vae_config.critic_r1, accelerator.device
        )
    inner = vae.parameters() if vae_config.optimizer == "muon" else []
    optimizers = build_optimizers(vae.parameters(), inner, rates[0], betas=(0.9, 0.99), weight_decay=1e-4)

    def state() -> dict[str, Any]:
        state = {"vae": vae.state_dict(), "optimizers": [optimizer.state_dict() for optimizer in optimizers]}
        return state | ({"adversary": adversary.state_dict()} if adversary else {})

    def load_state(state: dict[str, Any]) -> None:
        vae.load_state_dict(state["vae"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        if adversary and "adversary" in state:  # else: a stage with a critic was added to a run without one
            adversary.load_state_dict(state["adversary"])

    loop = Loop(
        folder / "vae_training",
        config,
        accelerator,
        steps=len(walk),
        checkpoint_every=vae_config.checkpoint_every,
        keep=2,
        log_every=vae_config.log_every,
        trackers=config.train.trackers,
    )
    loop.resume(state, load_state)
    if (vae_config.patches or vae_config.inflate) and not loop.at:
        vae.fit(to_pixels(frames)[None] for frames in _some(data.train, FITTED_TO))
    for step, batch in loop.run(lambda steps: _ahead(_batch(data.train, config, walk[s][0], s) for s in steps)):
        pixels, (stage, number) = batch.to(accelerator.device), walk[step]
        alone = stage.decoder_only
        for weight in stays:
            weight.requires_grad_(not alone)
        noise = torch.Generator().manual_seed((config.seed * 1_000_003 + step) % 2**64)
        with accelerator.autocast():
            ours, terms = reconstruct(codec, pixels, noise, stage.latent_noise if alone else None)
        loss = terms["l1"] + terms["mse"] + vae_config.kl_weight * terms["kl"]
        if perception and stage.perceptual:
            terms["perceptual"] = perception(ours, pixels)
            loss = loss + stage.perceptual * terms["perceptual"]
        if adversary and stage.adversarial:
            terms["critic"] = adversary.step(ours, pixels)
            if number >= stage.critic_first:
                loss = loss + stage.adversarial * adversary.term(ours, loss, last_layers(vae))
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(vae.parameters(), vae_config.max_grad_norm)
        if not math.isfinite(norm):
            raise FloatingPointError(f"step {step}: the gradient is not finite; lower the stage's learning_rate")
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rates[step]
            optimizer.step()
            optimizer.zero_grad()
        means = {name: term.item() for name, term in terms.items()}
        psnr = 10 * math.log10(4 / max(means["mse"], 1e-12))
        loop.record(step, **means, psnr=psnr, lr=rates[step])
        loop.checkpoint(step)
    for skip in (*data.skips, *data.train.skips.values()):
        log.warning("left out %s: %s", skip.where, skip.why)
    vae.eval()
    if vae_config.patches or vae_config.inflate or not all(stage.decoder_only for stage in vae_config.stages):
        store_statistics(vae, data.train, config)
    held_out = len(data.validation) > 0
    report = evaluate_vae(VideoCodec(vae), data.validation if held_out else data.train, perception)
    report["held_out"] = held_out
    scratch = folder / ".vae"
    shutil.rmtree(scratch, ignore_errors=True)  # of a run that was killed here
    try:
        with writing(folder / "vae"):
            vae.save_pretrained(scratch / "vae")
            (scratch / "vae" / "report.json").write_text(json.dumps(report, indent=1))
            if (folder / "vae").exists():
                (folder / "vae").rename(scratch / "before")
            (scratch / "vae").rename(folder / "vae")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    for skip in data.validation.skips.values():
        log.warning("left out %s, and another measured in its place: %s", skip.where, skip.why)
    named_numbers = [f"{name} {report[name]:.4g}" for name in ("ssim", "perceptual") if name in report]
    what = "held-out PSNR %.2f dB over %d clips%s" if held_out else "PSNR %.2f dB over %d of the training clips%s"
    log.info(what, report["psnr"], report["clips"], ", ".join(["", *named_numbers]))
    return folder / "vae"


def _start(config: Vae) -> torch.nn.Module:
    """The VAE that it starts from, inflated where that is asked for."""
    place = config.start_from or ""
    with named(place, "VAE"):
        vae = VideoCodec.from_pretrained(named_folder(place)).vae
        if config.mend_dim is not None:
            if not isinstance(vae, AutoencoderKLPatch):
                raise ValueError(f"vae.mend_dim is of a VAE of patches, and this is an {type(vae).__name__}")
            vae.add_mend(config.mend_dim)
        if config.inflate is None:
            return vae
        if not isinstance(vae, AutoencoderKL):
            raise ValueError(f"vae.inflate is of an image VAE, AutoencoderKL, and this is an {type(vae).__name__}")
    return AutoencoderKLInflated.from_image(
        vae, latent_channels=config.inflated_channels, **config.inflate.model_dump()
    )


def learning_rates(config: Vae) -> list[float]:
    """The rate of every step: each stage warms up, then follows its cosine."""
    rates = []
    for stage in config.stages:
        for step in range(stage.steps):
            warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
            rates.append(
                warm * stage.learning_rate * (1 + math.cos(math.pi * step / (stage.decay_steps or stage.steps))) / 2
            )
    return rates


def _batch(clips: Clips, config: Run, stage: VaeStage, step: int) -> Tensor:
    """Detailed crops of the stage's size, all images or all clips, drawn from the key (seed, step): b c f h w."""
    rng, tries = rng_for(config.seed, STREAM, step), 0
    num_frames = 1 if rng.random() < config.vae.image_share else stage.num_frames
    crops: list[np.ndarray] = []
    while len(crops) < stage.batch_size:
        if (tries := tries + 1) > 100 * stage.batch_size:
            raise ValueError(f"vae.stages: hardly a clip of {config.data.source} has {num_frames} frames; take fewer")
        frames = clips.read(int(rng.integers(len(clips))), step)
        if len(frames) >= num_frames:  # images serve image batches only
            crops.append(detailed_crop(frames, stage.crop, num_frames, rng, config.vae.detail))
    return torch.stack([to_pixels(crop) for crop in crops])


def _some(clips: Clips, count: int) -> Iterator[np.ndarray]:
    """So many clips, or all there are, at even distances."""
    for index in tqdm(range(min(count, len(clips))), desc="looking at clips", dynamic_ncols=True):
        yield clips.read(index * max(1, len(clips) // count), 0)


def _ahead(batches: Iterator[Tensor]) -> Iterator[Tensor]:
    """The same batches, the next of which is read while one is trained on."""
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(next, batches, None)
        while (batch := waiting.result()) is not None:
            waiting = pool.submit(next, batches, None)
            yield batch


def check_sizes(config: Run, codec: VideoCodec) -> None:
    """ValueError where the VAE cannot take what it is to be trained or measured on."""
    data, shapes = config.data, []
    shapes += [("data", data.num_frames, name, getattr(data, name)) for name in ("height", "width")]
    for number, stage in enumerate(config.vae.stages):
        where = f"vae.stages[{number}]"
        shapes += [(where, stage.num_frames, "crop", stage.crop)] if stage.crop else []
        if stage.num_frames > data.num_frames:
            raise ValueError(
                f"{where}: num_frames={stage.num_frames}, but clips have data.num_frames={data.num_frames}"
            )
        if (stage.crop or 0) > min(data.height, data.width):
            raise ValueError(f"{where}: crop={stage.crop}, but clips are {data.height}x{data.width} (data)")
    for where, frames, name, side in shapes:
        try:
            codec.strides.latent_frames(frames)
            codec.strides.latent_side(side, name)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None


def last_layers(vae: torch.nn.Module) -> Sequence[Tensor]:
    """The weights that make the decoder's pixels: of its last convolution, or of its maps to patches, the first frame's
    and the others'."""
    if isinstance(vae, AutoencoderKLPatch) and vae.decoder.mend is None:
        return [vae.decoder.first.weight, vae.decoder.others.weight]
    return [weight for name, weight in vae.named_parameters() if name.startswith("decoder.") and weight.ndim > 1][-1:]


def reconstruct(
    codec: VideoCodec, pixels: Tensor, generator: torch.Generator, spread: float | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Reconstructions b c f h w, not clamped, and the loss's terms.

    Args:
        spread: None: of a draw from the posterior. Else of its mode, and noise of |n| * `spread` of each channel's
            deviation, n normal, another for each clip.
    """
    posterior = codec.posterior(pixels)
    raw, deviation = posterior.mean, posterior.std
    if spread is not None:
        share = torch.randn(len(raw), 1, 1, 1, 1, generator=generator).abs() * spread
        deviation = share.to(raw.device) * codec.std.to(raw.device)
    if spread != 0:
        raw = raw + deviation * torch.randn(raw.shape, generator=generator).to(pixels.device)
    ours = torch.cat(list(codec.decode_raw(raw)), dim=2).float()
    error = ours - pixels
    kl = 0.5 * (posterior.mean.float() ** 2 + posterior.var.float() - 1 - posterior.logvar.float()).mean()
    return ours, {"l1": error.abs().mean(), "mse": error.square().mean(), "kl": kl}


@torch.no_grad()
def store_statistics(vae: Any, clips: Clips, config: Run, count: int = 256) -> None:
    """Measures mean and deviation of each raw latent channel over training clips, and has the VAE keep them.

    The deviation counts the posterior's own noise, so that a channel the VAE leaves unused has unit variance too
    (its mode then stays near zero instead of being blown up). A VAE of patches, whose channels deviate by how much they
    show, keeps that: its deviation is one, of all channels together.
    """
    codec = VideoCodec(vae)
    first = second = torch.zeros(codec.strides.channels, dtype=torch.float64)
    seen = 0
    for frames in _some(clips, count):
        posterior = codec.posterior(to_pixels(frames)[None])
        mean, var = posterior.mean.double().cpu(), posterior.var.double().cpu()
        first = first + mean.sum(dim=(0, 2, 3, 4))
        second = second + (mean**2 + var).sum(dim=(0, 2, 3, 4))
        seen += mean[:, 0].numel()
    mean = first / seen
    variance = second / seen - mean**2
    std = (variance.mean().expand_as(variance) if isinstance(vae, Patched) else variance).sqrt()
    keep_statistics(vae, mean, std)


@torch.no_grad()
def evaluate_vae(codec: VideoCodec, clips: Clips, perception: Perception | None = None) -> dict[str, float]:
    """Means over `MEASURED` clips at most of what is left of each, from the posterior's mode, in float32.

    PSNR in dB (peak 255), with the worst clip's; SSIM of luma over frames, where they are as large as its window; the
    distance of a network's features, where there is one.
    """
    found: dict[str, list[float]] = {"psnr": [], "ssim": [], "perceptual": []}
    for frames in _some(clips, MEASURED):
        pixels = to_pixels(frames)[None]
        made = codec.decode(codec.encode(pixels))
        ours = made.cpu()
        found["psnr"].append(10 * math.log10(4 / max(float((ours - pixels).square().mean()), 1e-12)))
        if min(frames.shape[1:3]) >= SSIM_WINDOW:
            pairs = zip(luma(frames), luma(to_frames(ours[0])), strict=True)
            found["ssim"].append(float(np.mean([ssim(*pair) for pair in pairs])))
        if perception is not None:
            found["perceptual"].append(float(perception(made, pixels.to(made.device))))
    means = {name: float(np.mean(values)) for name, values in found.items() if values}
    return means | {"psnr_worst": float(np.min(found["psnr"])), "clips": len(found["psnr"])}
