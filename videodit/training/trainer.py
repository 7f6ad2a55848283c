"""Training a `VideoDiT` on encoded clips and images.

A step reads like the paper: draw clips and captions, draw times and noise, mix, predict, weigh the error, step. All
randomness is drawn from keys (seed, stream, step, sample), so a run that stops and goes on, or that runs on another
number of processes, sees the same data, noise, times and dropped captions.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from videodit.config import Run
from videodit.diffusion import objectives
from videodit.diffusion.times import index_from_time, shift_time, times_from_uniform
from videodit.pipeline import VideoDiTPipeline
from videodit.shapes import rng_for
from videodit.training import inputs
from videodit.training.loop import Loop
from videodit.training.model import Model, build_text, build_transformer, choose_weights
from videodit.training.optimizer import build_optimizers
from videodit.video.writer import contact_sheet, write_video

log = logging.getLogger(__name__)

# streams of the counter-based randomness, see `rng_for`
ORDER, KIND, CAPTION, NOISE, DROPOUT, VALIDATION = 21, 22, 23, 24, 25, 26


@dataclass(frozen=True)
class Batch:
    """Samples of one kind (all clips or all images): latents b c f h w, one wording each ("" where dropped), names."""

    latents: Tensor
    captions: list[str]
    names: list[str]


class Trainer:
    """Everything that a run trains with, built from its configuration. `train()` runs it to the end.

    Raises:
        ValueError: the configuration asks for what does not fit together, or data or weights are missing.
    """

    def __init__(self, config: Run):
        self.config, self.folder = config, Path(config.output)
        self.accelerator = Accelerator(
            mixed_precision=config.train.precision,
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],  # images skip `time` blocks
        )
        self.codec = inputs.load_codec(config)
        self.train_clips, self.validation_clips = inputs.encode_clips_of(config, self.codec)
        self.path, self.scheduler = inputs.build_path(config)
        torch.manual_seed(config.seed)
        captions = inputs.captions_of(self.train_clips, self.validation_clips)
        text = inputs.load_text(config) or build_text(config, captions)
        encoded = inputs.encode_text_of(config, text, captions) if config.text.source else None
        model = Model(build_transformer(config, self.codec.strides, text), text, encoded, self.codec.strides.space)
        model.to(self.accelerator.device)
        choose_weights(model, config, self.train_clips)
        weights = [p for p in model.parameters() if p.requires_grad]
        train = config.train
        blocks = model.transformer.blocks
        inner: list[nn.Parameter] = []
        if train.optimizer == "muon":
            inner = [m.get_parameter("weight") for m in blocks.modules() if isinstance(m, nn.Linear)]
        if train.muon_learning_rate and not inner:
            raise ValueError("train.muon_learning_rate is read with optimizer: muon only; leave it out, or choose muon")
        self.raw_optimizers = build_optimizers(
            weights, inner, train.learning_rate, train.betas, train.weight_decay, train.muon_learning_rate
        )
        self.schedules = [
            get_scheduler(
                "cosine" if train.schedule == "cosine" else "constant_with_warmup",
                optimizer,
                num_warmup_steps=train.warmup_steps,
                num_training_steps=train.decay_steps or train.steps,
            )
            for optimizer in self.raw_optimizers
        ]
        self.weights = weights
        self.ema = EMAModel(
            weights, decay=train.ema_decay, use_ema_warmup=True, inv_gamma=1.0, power=0.75, foreach=True
        )
        self.ema.to(self.accelerator.device)
        self.raw_model = model
        self.model, *self.optimizers = self.accelerator.prepare(model, *self.raw_optimizers)
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, dtype=np.int64))

    @property
    def latent_fps(self) -> float:
        """Latent frames a second."""
        return self.config.data.fps / self.codec.strides.time

    # --- one step ----------------------------------------------------------------------------------------------------

    def train(self) -> Path:
        """Trains to the last step, or goes on from the last checkpoint; returns `<output>/pipeline`."""
        train = self.config.train
        loop = Loop(
            self.folder,
            self.config,
            steps=train.steps,
            checkpoint_every=train.checkpoint_every,
            keep=train.keep,
            log_every=train.log_every,
        )
        loop.resume(self.load_state)
        for step in loop.remaining():
            loop.record(step, **self.step(step), lr=self.schedules[0].get_last_lr()[0])
            if loop.due(step, train.validate_every):
                loop.write(step, self.validate())
            if loop.due(step, train.sample_every):
                self.sample(step)
            loop.checkpoint(step, self.state, self.save_pipeline)
        if self.accelerator.is_main_process:
            scratch = self.folder / ".pipeline"
            shutil.rmtree(scratch, ignore_errors=True)
            self.save_pipeline(scratch)
            shutil.rmtree(self.folder / "pipeline", ignore_errors=True)
            scratch.rename(self.folder / "pipeline")
        self.accelerator.wait_for_everyone()  # a leg that goes on from it may begin at once
        return self.folder / "pipeline"

    def step(self, step: int) -> dict[str, Tensor]:
        """One optimizer step on this process's share of global batch `step`."""
        drawn = self.config.train.steps_before + step
        batch = self.batch(drawn)
        noise, times = self.draw(batch.latents, drawn)
        noisy = self.path.add_noise(batch.latents, noise, times)
        self.raw_model.train()
        with self.accelerator.autocast():
            prediction = self.model(noisy, self.path.model_time(times), batch.captions, self.latent_fps)
        loss = self.loss(prediction.float(), batch.latents, noise, noisy, times).mean()
        self.accelerator.backward(loss)
        norm = self.accelerator.clip_grad_norm_(self.weights, self.config.train.max_grad_norm)
        if not torch.isfinite(norm):
            raise FloatingPointError(f"step {step}: the gradient is not finite; samples: {', '.join(batch.names)}")
        for optimizer, schedule in zip(self.optimizers, self.schedules, strict=True):
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        self.ema.step(self.weights)
        kind = "loss_image" if batch.latents.shape[2] == 1 else "loss_clip"
        return {kind: loss.detach(), "grad_norm": norm.detach()}

    def batch(self, step: int) -> Batch:
        """This process's share of global batch `step`: every sample once an epoch, in an order of the epoch's own."""
        config, clips = self.config, self.train_clips
        images = rng_for(config.seed, KIND, step).random() < config.data.image_share
        size, processes = config.train.batch_size, self.accelerator.num_processes
        share = range(
            self.accelerator.process_index * size // processes, (self.accelerator.process_index + 1) * size // processes
        )
        indices = [self._index(step * size + place) for place in share]
        images = images or not all(clips.has_clip(i) for i in indices)
        latents, captions = [], []
        for place, index in zip(share, indices, strict=True):
            entry = clips.entries[index]
            words = entry.image_captions if images else entry.captions
            dropped = rng_for(config.seed, DROPOUT, step, place).random() < config.train.caption_dropout
            chosen = int(rng_for(config.seed, CAPTION, step, place).integers(len(words)))
            captions.append("" if dropped else words[chosen])
            latents.append(clips.latent(index, images))
        names = [clips.entries[i].name for i in indices]
        return Batch(torch.stack(latents).to(self.accelerator.device), captions, names)

    def _index(self, position: int) -> int:
        """The clip at an endless position: each epoch is its own permutation."""
        epoch, place = divmod(position, len(self.train_clips))
        if self._order[0] != epoch:
            self._order = (epoch, rng_for(self.config.seed, ORDER, epoch).permutation(len(self.train_clips)))
        return int(self._order[1][place])

    def draw(self, latents: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Noise like the latents and times b, each sample's from its own key."""
        first = self.accelerator.process_index * self.config.train.batch_size // self.accelerator.num_processes
        rngs = [rng_for(self.config.seed, NOISE, step, first + place) for place in range(len(latents))]
        return self._draws(rngs, latents, [float(rng.random()) for rng in rngs])

    def _draws(
        self, rngs: Sequence[np.random.Generator], latents: Tensor, uniform: Sequence[float]
    ) -> tuple[Tensor, Tensor]:
        noise = np.stack([rng.standard_normal(latents.shape[1:], dtype=np.float32) for rng in rngs])
        objective = self.config.objective
        t = times_from_uniform(
            torch.tensor(uniform, dtype=torch.float64), objective.times, objective.logit_mean, objective.logit_std
        )
        t = shift_time(t, objective.shift).float().to(latents.device)
        if isinstance(self.path, objectives.DiffusionPath):
            t = index_from_time(t, len(self.path.alphas_cumprod))
        return torch.from_numpy(noise).to(latents.device), t

    def loss(self, prediction: Tensor, x0: Tensor, noise: Tensor, noisy: Tensor, t: Tensor) -> Tensor:
        """The objective's error of each sample: b."""
        objective, path = self.config.objective, self.path
        vlb: Tensor | float = 0.0
        if objective.learned_range and isinstance(path, objectives.DiffusionPath):
            prediction, v = objectives.split_learned_range(prediction)
            steps = len(path.alphas_cumprod)
            vlb = steps / 1000 * objectives.vlb_loss(path, objective.prediction_type, prediction, v, x0, noisy, t)
        weight = None
        if objective.min_snr_gamma is not None:
            weight = objectives.min_snr_weight(path, objective.prediction_type, t, objective.min_snr_gamma)
        target = objectives.target(path, objective.prediction_type, x0, noise, t)
        return objectives.loss(prediction, target, weight) + vlb

    # --- measuring ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Loss of the averaged weights on the clips kept out of training, at fixed noise and evenly spread times.

        Where none of them is a clip, on the images; where nothing was kept out, none.
        """
        clips, size, errors = self.validation_clips, self.config.train.batch_size, []
        if not len(clips):
            return {}
        usable = [i for i in range(len(clips)) if clips.has_clip(i)]
        images = not usable
        usable = usable or list(range(len(clips)))
        self.ema.store(self.weights)
        self.ema.copy_to(self.weights)
        self.raw_model.eval()
        for first in range(0, len(usable), size):
            part = usable[first : first + size]
            latents = torch.stack([clips.latent(i, images) for i in part]).to(self.accelerator.device)
            rngs = [rng_for(self.config.seed, VALIDATION, i) for i in part]
            noise, t = self._draws(rngs, latents, [(i + 0.5) / len(clips) for i in part])
            noisy = self.path.add_noise(latents, noise, t)
            entries = [clips.entries[i] for i in part]
            captions = [(entry.image_captions if images else entry.captions)[0] for entry in entries]
            with self.accelerator.autocast():
                prediction = self.raw_model(noisy, self.path.model_time(t), captions, self.latent_fps)
            errors.append(self.loss(prediction.float(), latents, noise, noisy, t))
        self.ema.restore(self.weights)
        return {"validation_loss": float(torch.cat(errors).mean())}

    def sample(self, step: int) -> None:
        """Clips of the configured prompts (or of held-out captions) and a contact sheet, into `<output>/samples`."""
        if not self.accelerator.is_main_process:
            return
        train, data = self.config.train, self.config.data
        entries = self.validation_clips.entries or self.train_clips.entries
        prompts = list(train.prompts) or [entry.captions[0] for entry in entries[:8]]
        self.ema.store(self.weights)
        self.ema.copy_to(self.weights)
        pipe: Any = self.pipeline()
        pipe.set_progress_bar_config(disable=True)
        with self.accelerator.autocast():
            frames = pipe(
                prompts,
                num_inference_steps=train.num_inference_steps,
                guidance_scale=train.guidance_scale,
                generator=[torch.Generator().manual_seed(i) for i in range(len(prompts))],
                output_type="np",
            ).frames
        self.ema.restore(self.weights)
        clips = [np.rint(clip * 255).astype(np.uint8) for clip in frames]
        folder = self.folder / "samples" / f"step_{step + 1:08d}"
        folder.mkdir(parents=True, exist_ok=True)
        for i, clip in enumerate(clips):
            write_video(folder / f"{i:02d}.mp4", clip, data.fps, metadata={"prompt": prompts[i]})
        contact_sheet(clips, folder.with_suffix(".png"), labels=prompts)

    # --- saving ------------------------------------------------------------------------------------------------------

    def pipeline(self) -> VideoDiTPipeline:
        """A pipeline around the live modules."""
        data, model = self.config.data, self.raw_model
        model.eval()
        return VideoDiTPipeline(
            self.codec.vae,
            model.text.text_encoder,
            model.text.tokenizer,
            model.transformer,
            self.scheduler,
            default_num_frames=data.num_frames,
            default_height=data.height,
            default_width=data.width,
            default_fps=data.fps,
        )

    def save_pipeline(self, folder: Path) -> None:
        """A pipeline folder with the averaged weights."""
        self.ema.store(self.weights)
        self.ema.copy_to(self.weights)
        self.pipeline().save_pretrained(folder)
        self.ema.restore(self.weights)

    def state(self) -> dict[str, Any]:
        """All that the next step depends on."""
        return {
            "model": self.raw_model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.raw_optimizers],
            "schedules": [schedule.state_dict() for schedule in self.schedules],
            "ema": self.ema.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """The inverse of `state`; ValueError where a checkpoint is of another architecture."""
        ours, theirs = self.raw_model.state_dict(), state["model"]
        wrong = [k for k in ours if k not in theirs or theirs[k].shape != ours[k].shape] + [
            k for k in theirs if k not in ours
        ]
        if wrong:
            raise ValueError(
                f"{self.folder}: its checkpoint is of another architecture ({wrong[0]} and {len(wrong) - 1} more "
                f"differ); choose another output, or the configuration it was made with"
            )
        self.raw_model.load_state_dict(theirs)
        parts = [*self.raw_optimizers, *self.schedules]
        for part, saved in zip(parts, [*state["optimizers"], *state["schedules"]], strict=True):
            part.load_state_dict(saved)
        self.ema.load_state_dict(state["ema"])
