"""Training a `VideoDiT` on encoded clips and images.

A step reads like the paper: draw clips and captions, draw times and noise, mix, predict, weigh the error, step. All
randomness is drawn from keys (seed, stream, step, place), so a run that stops and goes on, or that runs on another
number of processes, sees the same data, noise, times and dropped captions (`training.batches`).
"""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from videodit.config import Run
from videodit.data.cache import Latents
from videodit.diffusion import objectives, paths
from videodit.diffusion.conditioning import with_given
from videodit.diffusion.flow_map import tamed
from videodit.geometry import ClipSize
from videodit.pipeline import VideoDiTPipeline
from videodit.text import PARTS
from videodit.training import checkpoint, inputs, measure, parallel
from videodit.training.assembled import Assembled
from videodit.training.batches import Batch
from videodit.training.loop import SKIPS, Loop
from videodit.training.scores import NEAREST, Scores, true_clips
from videodit.video.index import VideoError

log = logging.getLogger(__name__)


class Trainer(Assembled):
    """A run of steps over all that its configuration names. `train()` runs it to the end.

    Raises:
        ValueError: the configuration asks for what does not fit together, or data or weights are missing.
    """

    def __init__(self, config: Run, *, allow_changed_data: bool = False):
        super().__init__(config, allow_changed_data=allow_changed_data)
        self._skipped = 0
        if NEAREST in config.train.measures and all(sample.is_image for sample in self.train_clips.samples):
            raise ValueError(f"train.measures: {NEAREST} compares clips, and all that is trained on are images")
        shown = partial(true_clips, self.train_clips, self.codec, self.accelerator.device)
        self.scores = Scores(config.train.measures, shown) if config.train.measures else None
        self.bad: dict[str, str] = {}  # clips that had to be replaced, and why

    # --- one step ----------------------------------------------------------------------------------------------------

    def train(self) -> Path:
        """Trains to the last step, or goes on from the last checkpoint; returns `<output>/pipeline`.

        Raises:
            Interrupted: SIGTERM or SIGINT; a checkpoint is saved.
            FloatingPointError: a loss or gradient is no number; names the step and the samples.
        """
        train = self.config.train
        loop = Loop(
            self.folder,
            self.config,
            self.accelerator,
            steps=train.steps,
            checkpoint_every=train.checkpoint_every,
            keep=train.keep,
            keep_best=train.keep_best,
            log_every=train.log_every,
            trackers=train.trackers,
        )
        loop.resume(self.state, self.load_state, train.resume, self.accept)
        if self.accelerator.is_main_process:
            for later in checkpoint.list_checkpoints(self.folder / "averages"):
                if checkpoint.describe(later)["step"] > loop.at:  # of steps that will be taken anew
                    shutil.rmtree(later)
        for step, batch in loop.run(self.loader):
            values = self.step(step, batch)
            loop.record(step, **values, lr=self.schedules[0].get_last_lr()[0])
            loop.watch(step, next(iter(values.values())), train.spike_factor)
            if loop.due(step, train.validate_every):
                found = self.validate()
                loop.write(step, found)
                loop.metric = found.get("validation_loss")
            shows = loop.due(step, train.sample_every)
            scores = train.evaluate_every is not None and loop.due(step, train.evaluate_every)
            if shows or scores:
                found = self.sample(step, shows=shows, scores=scores)
                if scores:
                    loop.write(step, found)
            if self.powers and loop.due(step, train.checkpoint_every) and not loop.goes_back:
                self.save_powers(step + 1)
            loop.checkpoint(step, self.save_checkpoint)
        scratch, final = self.folder / ".pipeline", self.folder / "pipeline"
        if self.accelerator.is_main_process:
            shutil.rmtree(scratch, ignore_errors=True)
        self.save_pipeline(scratch)
        if self.accelerator.is_main_process:
            shutil.rmtree(final, ignore_errors=True)
            scratch.rename(final)
        self.accelerator.wait_for_everyone()  # a leg that goes on from it may begin at once
        return final

    def loader(self, steps: Sequence[int]) -> Iterable[list[Batch]]:
        """The batches of these steps, read ahead; those of a group by its first process, for all of it."""
        if self.group is None:
            return self.batches.loader(steps)
        read = self.batches.loader(steps) if self.group.rank() == 0 else ([] for _ in steps)
        return (parallel.of_first(pieces, self.group) for pieces in read)

    def step(self, step: int, pieces: list[Batch] | None = None) -> dict[str, float]:
        """One optimizer step on this process's share of global batch `step`: the loss of the whole batch."""
        pieces = self.batches[step] if pieces is None else pieces
        self._note(bad for piece in pieces for bad in piece.bad.items())
        self.raw_model.train()
        self.raw_model.text.eval()  # dropout, where an encoder has some, would draw from a generator that runs on
        each = []
        for number, piece in enumerate(pieces):
            with self._gradients_stay_here(number + 1 < len(pieces)):
                errors = torch.where(piece.counts.to(self.accelerator.device) > 0, self.errors(piece), 0.0)
                self.accelerator.backward(errors.sum() * self.process[1] / piece.total)
            each.append(errors.detach())
        total = pieces[0].total * self.config.train.sequence_parallel  # each of a group has the whole group's errors
        loss = float(parallel.sum_over_processes(torch.cat(each).double().sum().cpu())) / total
        norm = self._clip()
        names = [name for piece in pieces for name in piece.names]
        if self._usable(step, loss, norm, names, torch.cat(each)):
            for optimizer in self.optimizers:
                optimizer.step()
            for average in (self.average, *self.powers):
                average.update()
        for optimizer, schedule in zip(self.optimizers, self.schedules, strict=True):
            optimizer.zero_grad()
            schedule.step()
        kind = "loss_image" if pieces[0].size.num_frames == 1 else "loss_clip"
        return {kind: loss, "grad_norm": norm}

    def _note(self, bad: Iterable[tuple[str, str]]) -> None:
        """Counts and names clips that could not be read and were replaced. VideoError: too many."""
        share, count = self.config.data.max_bad_share, len({sample.name for sample in self.train_clips.samples})
        for name, why in bad:
            if name not in self.bad:
                self.bad[name] = why
                log.warning("replaced %s by the next of its bucket: %s", name, why)
                if len(self.bad) > share * count:
                    raise VideoError(
                        f"{len(self.bad)} of {count} clips cannot be read, more than data.max_bad_share={share} "
                        f"allows; the last: {why}"
                    )

    def errors(self, batch: Batch) -> Tensor:
        """The objective's error of each sample: b."""
        batch = batch.to(self.accelerator.device)
        x0 = batch.shown if batch.is_encoded else inputs.encode(self.config, self.codec, batch.shown)
        noise, t, given = batch.noise, batch.times, batch.given
        noisy = self.path.add_noise(x0, noise, t)
        if given is not None:
            noisy = with_given(noisy, x0, given)
        fps = batch.size.fps / self.codec.strides.time
        counted = None if given is None else ~given
        if self.teacher is not None and batch.until is not None:
            told = {"until": self.path.model_time(batch.until), "guidance": batch.guidance, "own": batch.own}
            with self.accelerator.autocast():
                wanted = self.teacher.target(self.model, noisy, batch, fps)
                prediction = self.model(noisy, self.path.model_time(t), batch.captions, fps, given, **told)
            return tamed(objectives.loss(prediction.float(), wanted, None, counted))
        with self.accelerator.autocast():
            prediction = self.model(
                noisy, self.path.model_time(t), batch.captions, fps, given, batch.routed, own=batch.own
            )
        return self.loss(prediction.float(), x0, noise, noisy, t, counted)

    def loss(
        self, prediction: Tensor, x0: Tensor, noise: Tensor, noisy: Tensor, t: Tensor, counted: Tensor | None = None
    ) -> Tensor:
        """The objective's error of each sample, b, on the frames that count (b f; None: all)."""
        objective, path = self.config.objective, self.path
        vlb: Tensor | float = 0.0
        if objective.learned_range and isinstance(path, paths.DiffusionPath):
            prediction, v = objectives.split_learned_range(prediction)
            steps = len(path.alphas_cumprod)
            terms = (prediction, v, x0, noisy, t, counted)
            vlb = steps / 1000 * objectives.vlb_loss(path, objective.prediction_type, *terms)
        weight = None
        if objective.min_snr_gamma is not None:
            weight = objectives.min_snr_weight(path, objective.prediction_type, t, objective.min_snr_gamma)
        target = objectives.target(path, objective.prediction_type, x0, noise, t)
        return objectives.loss(prediction, target, weight, counted) + vlb

    def _gradients_stay_here(self, more: bool) -> AbstractContextManager:
        """While more pieces follow, DDP need not average yet."""
        return self.accelerator.no_sync(self.model) if more and not self.sharded else nullcontext()

    def _clip(self) -> float:
        if self.stepped:  # and let go of each gradient
            return self.stepped.norm()
        if self.config.train.precision == "fp16":
            self.accelerator.unscale_gradients()
        return float(parallel.total_norm_clip(self.weights, self.config.train.max_grad_norm or math.inf))

    def _usable(self, step: int, loss: float, norm: float, names: list[str], errors: Tensor) -> bool:
        """Whether the step may be taken, on all processes alike: each knows the loss and the gradient of the whole.

        Under fp16 a gradient that is no number is the scaler's business, which lowers its scale and skips the step.
        """
        finite = torch.isfinite(torch.tensor([loss, norm]))
        if finite.all() or (finite[0] and self.config.train.precision == "fp16"):
            self._skipped = 0
            return True
        bad = [name for name, error in zip(names, errors.tolist(), strict=True) if not abs(error) < float("inf")]
        guilty = parallel.gather_strings(bad) or parallel.gather_strings(names)
        message = f"step {step}: loss {loss:g}, gradient norm {norm:g}; samples: {', '.join(sorted(set(guilty)))}"
        self._skipped += 1
        if self.config.train.on_nonfinite == "stop" or self._skipped >= SKIPS:
            raise FloatingPointError(message)
        log.warning("%s; passed over", message)
        return False

    # --- measuring ---------------------------------------------------------------------------------------------------

    def validate(self) -> dict[str, float]:
        """Losses on the clips kept out of training, of the averaged weights and (`_raw`) of those as they are.

        At fixed noise and at times spread evenly over [0, 1], whatever times are trained; `_t0` to `_t3` by quarters of
        time, the last the noisiest. Nothing where nothing was kept out.
        """
        if not len(self.validation_clips):
            return {}
        self.raw_model.eval()

        def losses() -> dict[str, float]:
            batches = measure.held_out_batches(
                self.validation_clips, self.batch_sizes, self.path, self.config.seed, self.process
            )
            return measure.losses(self.errors, batches, self.path)

        found = {f"_raw{_tail(name)}": value for name, value in losses().items()}
        with self.average.applied():
            found |= {_tail(name): value for name, value in losses().items()}
        return {f"validation_loss{name}": value for name, value in found.items()}

    def sample(self, step: int, *, shows: bool = True, scores: bool = False) -> dict[str, float]:
        """Clips of the configured prompts, or of held-out captions: with `shows` into `<output>/samples`, with a
        contact sheet; with `scores` what is measured of them, on the main process. What fails there fails on all."""
        train = self.config.train
        samples = self.validation_clips.samples or self.train_clips.samples
        prompts = list(train.prompts) or [s.captions[0] for s in samples[:8]]
        found: dict[str, float] = {}
        with parallel.all_or_none(f"step {step}: sampling"), self.averaged_pipeline(to_save=False) as pipe:
            if pipe is not None:
                with self.accelerator.autocast():
                    told = self._told(pipe, prompts)
                    if pipe.transformer is not self.raw_model.transformer:  # which lies where it should
                        pipe.transformer.to(self.accelerator.device)
                    pipe.vae.to(self.accelerator.device)
                    own, fps = self._own(pipe.default_size, len(prompts)), pipe.default_size.fps
                    if own is None:
                        return {}
                    clips = measure.sample_clips(pipe, prompts, told, own)
                    if shows:
                        measure.write_samples(clips, prompts, self.folder / "samples" / f"step_{step + 1:08d}", fps)
                    if scores and self.scores:
                        found = self.scores(clips, prompts, fps)
                pipe.vae.to("cpu")
        return found

    def _own(self, size: ClipSize, count: int) -> dict[str, Any] | None:
        """What clips of this size that were kept out (or else: that are trained on) are told besides, in turn, a row a
        prompt; where there is none of this size nothing, or None: the model cannot do without."""
        if not (conditions := self.config.model.conditions):
            return {}
        for clips in (one for one in (self.validation_clips, self.train_clips) if isinstance(one, Latents)):
            if some := [number for number, sample in enumerate(clips.samples) if sample.size == size]:
                break
        else:
            without = all(one.dropout for one in conditions.values())
            log.warning(
                "no clip is of the size of samples (%d frames of %dx%d), so they are %s what model.conditions names",
                *(
                    size.num_frames,
                    size.height,
                    size.width,
                    "made without" if without else "left out: none can do without",
                ),
            )
            return {} if without else None
        told = [clips.told(some[place % len(some)], False) for place in range(count)]
        found: dict[str, Any] = {}
        for name, first in told[0].items():
            values = [one[name] for one in told]
            found[name] = [value[0] for value in values] if first.ndim == 3 else torch.stack(values)
        return found

    def _told(self, pipe: VideoDiTPipeline, prompts: list[str]) -> list[dict[str, Any]] | None:
        """What prompts say to an encoder that is not trained, which is on the device for that alone; None: it is."""
        encoders = [part for name in PARTS if isinstance(part := getattr(pipe, name), torch.nn.Module)]
        for encoder in encoders:
            encoder.to(self.accelerator.device)
        if self.raw_model.encoded is None:
            return None
        names = [f"{sign}prompt_{what}" for sign in ("", "negative_") for what in ("embeds", "attention_mask")]
        names += ["pooled_prompt_embeds", "negative_pooled_prompt_embeds"]
        with torch.no_grad():
            told = [pipe.encode_prompt(prompt, device=self.accelerator.device) for prompt in prompts]
        for encoder in encoders:
            encoder.to("cpu")
        return [{name: x for name, x in zip(names, one, strict=False) if x is not None} for one in told]


def _tail(name: str) -> str:
    return "" if name == "all" else f"_{name}"
