"""Training a `VideoDiT` on encoded clips and images.

A step reads like the paper: draw clips and captions, draw times and noise, mix, predict, weigh the error, step. All
randomness is drawn from keys (seed, stream, step, place), so a run that stops and goes on, or that runs on another
number of processes, sees the same data, noise, times and dropped captions (`training.batches`).
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, DistributedType, InitProcessGroupKwargs
from diffusers.optimization import get_scheduler
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from videodit.config import Run
from videodit.data.sampler import Sampler
from videodit.diffusion import objectives, paths
from videodit.diffusion.conditioning import with_given
from videodit.pipeline import VideoDiTPipeline
from videodit.training import checkpoint, inputs, measure, parallel
from videodit.training.batches import Batch, Batches, batch_sizes
from videodit.training.ema import PowerAverage, WeightAverage
from videodit.training.loop import SKIPS, Loop
from videodit.training.model import Model, build_text, build_transformer, choose_weights, merged, save_lora
from videodit.training.optimizer import build_optimizers
from videodit.training.precision import tell_of_bfloat16
from videodit.video.index import VideoError

log = logging.getLogger(__name__)


class Trainer:
    """Everything that a run trains with, built from its configuration. `train()` runs it to the end.

    Raises:
        ValueError: the configuration asks for what does not fit together, or data or weights are missing.
    """

    def __init__(self, config: Run):
        self.config, self.folder, train = config, Path(config.output), config.train
        self.accelerator = Accelerator(
            mixed_precision=train.precision,
            cpu=not torch.accelerator.is_available(),
            kwargs_handlers=[
                DistributedDataParallelKwargs(find_unused_parameters=True),  # images skip `time` blocks
                InitProcessGroupKwargs(timeout=parallel.TIMEOUT),
            ],
        )
        tell_of_bfloat16("train.precision", train.precision, self.accelerator.device)
        rank, processes, together = (
            self.accelerator.process_index,
            self.accelerator.num_processes,
            train.sequence_parallel,
        )
        self.group = parallel.sequence_group(together, self.accelerator.device.type)
        self.process = rank // together, processes // together  # a group acts as one
        asked = train.sharding == "fsdp" or self.accelerator.distributed_type == DistributedType.FSDP
        self.sharded = asked and processes > 1
        if train.precision == "fp16" and (self.sharded or train.optimizer == "muon"):
            raise ValueError(
                "train.precision: fp16 scales gradients for AdamW on one piece; with fsdp or muon take bf16"
            )
        self.path, self.scheduler = inputs.build_path(config)
        self.codec = inputs.load_codec(config)
        if not train.start_from:
            batch_sizes(config, self.codec.strides, config.model.patch_size)  # says what does not fit before encoding
        self.train_clips, self.validation_clips = inputs.open_clips(config, self.codec)
        self._build_model()
        self._build_optimizers()
        patch = self.raw_model.transformer.patch_size
        self.batch_sizes = batch_sizes(config, self.codec.strides, patch)
        sampler = Sampler(
            [sample.size for sample in self.train_clips.samples],
            self.batch_sizes,
            image_share=config.data.image_share,
            repeat=config.data.repeat,
            seed=config.seed,
        )
        self.batches = Batches(config, self.train_clips, sampler, self.path, self.codec.strides, patch, self.process)
        self._skipped = 0
        self.bad: dict[str, str] = {}  # clips that had to be replaced, and why

    def _build_model(self) -> None:
        config = self.config
        torch.manual_seed(config.seed)
        captions = inputs.captions_of(self.train_clips, self.validation_clips)
        text = inputs.load_text(config) or build_text(config, captions)
        encoded = inputs.encode_text_of(config, text, captions) if inputs.is_frozen(config) else None
        self.raw_model = Model(
            build_transformer(config, self.codec.strides, text), text, encoded, self.codec.strides.space
        )
        self.raw_model.to(self.accelerator.device)
        self.raw_model.transformer.set_sequence_group(self.group)
        choose_weights(self.raw_model, config, self.train_clips)
        if self.sharded:
            parallel.shard(self.raw_model, self.raw_model.transformer.blocks, self.accelerator.device.type)

    def _build_optimizers(self) -> None:
        train, model = self.config.train, self.raw_model
        self.weights = [p for p in model.parameters() if p.requires_grad]
        inner: list[nn.Parameter] = []
        if train.optimizer == "muon":
            linear = (m for m in model.transformer.blocks.modules() if isinstance(m, nn.Linear))
            inner = [weight for m in linear if (weight := m.get_parameter("weight")).requires_grad]
        self.raw_optimizers = build_optimizers(
            self.weights, inner, train.learning_rate, train.betas, train.weight_decay, train.muon_learning_rate
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
        self.average = WeightAverage(self.weights, train.ema_decay)
        self.powers = [PowerAverage(self.weights, sigma_rel) for sigma_rel in train.ema_sigma_rels]
        self.model: Any = model
        self.optimizers: list[Any] = list(self.raw_optimizers)
        if not self.sharded:
            self.model, *self.optimizers = self.accelerator.prepare(model, *self.raw_optimizers)

    # --- one step ----------------------------------------------------------------------------------------------------

    def train(self) -> Path:
        """Trains to the last step, or goes on from the last checkpoint; returns `<output>/pipeline`.

        Raises:
            Interrupted: SIGTERM; a checkpoint is saved.
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
        loop.resume(self.state, self.load_state, train.resume)
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
            if loop.due(step, train.sample_every):
                self.sample(step)
            if self.powers and loop.due(step, train.checkpoint_every) and not loop.goes_back:
                self.save_powers(step + 1)
            loop.checkpoint(step, self.save_pipeline)
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
        with self.accelerator.autocast():
            prediction = self.model(noisy, self.path.model_time(t), batch.captions, fps, given)
        counted = None if given is None else ~given
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
        if self.config.train.precision == "fp16":
            self.accelerator.unscale_gradients()
        return float(parallel.total_norm_clip(self.weights, self.config.train.max_grad_norm))

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

    def sample(self, step: int) -> None:
        """Clips of the configured prompts (or of held-out captions) and a contact sheet, into `<output>/samples`."""
        train = self.config.train
        samples = self.validation_clips.samples or self.train_clips.samples
        prompts = list(train.prompts) or [s.captions[0] for s in samples[:8]]
        with self.averaged_pipeline() as pipe:
            if pipe is not None:
                with self.accelerator.autocast():
                    measure.sample_clips(
                        pipe.to(self.accelerator.device),
                        prompts,
                        self.folder / "samples" / f"step_{step + 1:08d}",
                        num_inference_steps=train.num_inference_steps,
                        guidance_scale=train.guidance_scale,
                    )
                pipe.vae.to("cpu")
                if self.raw_model.encoded is not None:
                    self.raw_model.text.to("cpu")
        self.accelerator.wait_for_everyone()

    # --- saving ------------------------------------------------------------------------------------------------------

    @contextmanager
    def averaged_pipeline(self) -> Iterator[VideoDiTPipeline | None]:
        """A pipeline with the averaged weights, adapters merged into them, on the main process; elsewhere None.

        Called by all processes: where weights are sharded, they are gathered.
        """
        model, main = self.raw_model, self.accelerator.is_main_process
        model.eval()
        if not self.sharded and not self.config.train.lora:
            with self.average.applied() if main else nullcontext():
                model.transformer.set_sequence_group(None)  # the main process is on its own
                try:
                    yield self._pipeline(model.transformer, model.text.text_encoder) if main else None
                finally:
                    model.transformer.set_sequence_group(self.group)
            return
        transformer, text = self._averaged_states()
        if not main:
            yield None
            return
        encoder = model.text.text_encoder
        if text:
            encoder = type(encoder)(encoder.config)
            encoder.load_state_dict(text)
        yield self._pipeline(merged(model.transformer, transformer), encoder)

    def _averaged_states(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The averaged weights of transformer and text encoder by name, whole and on the CPU of the main process."""
        with self.average.applied():
            options = StateDictOptions(full_state_dict=True, cpu_offload=True)
            state: dict[str, Any] = dict(get_model_state_dict(self.raw_model, options=options))
        found = [
            {name.removeprefix(part): value.clone() for name, value in state.items() if name.startswith(part)}
            for part in ("transformer.", "text_encoder.")
        ]
        return found[0], found[1]

    def _pipeline(self, transformer: Any, text_encoder: Any) -> VideoDiTPipeline:
        data = self.config.data
        return VideoDiTPipeline(
            self.codec.vae,
            text_encoder,
            self.raw_model.text.tokenizer,
            transformer,
            self.scheduler,
            default_num_frames=data.num_frames,
            default_height=data.height,
            default_width=data.width,
            default_fps=data.fps,
        )

    def save_pipeline(self, folder: Path) -> None:
        """A pipeline folder with the averaged weights; of a run that trains adapters these apart too, in `lora/`."""
        with self.averaged_pipeline() as pipe:
            if pipe is not None:
                pipe.save_pretrained(folder)
        if self.config.train.lora:
            state, _ = self._averaged_states()
            if self.accelerator.is_main_process:
                save_lora(self.raw_model.transformer, self.config.train.lora, state, folder / "lora")

    def save_powers(self, steps: int) -> None:
        """The power-function averages, by the names of the weights, for averages of other lengths later."""
        names = [name for name, weight in self.raw_model.named_parameters() if weight.requires_grad]
        averages = {
            name: dict(zip(names, power.averages, strict=True))
            for name, power in zip(self._power_names(), self.powers, strict=True)
        }
        state = {"updates": self.powers[0].updates, "averages": averages}
        checkpoint.save(self.folder / "averages", steps, state, keep=self.config.train.steps)

    def state(self) -> dict[str, Any]:
        """All that the next step depends on."""
        return {
            "model": self.raw_model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.raw_optimizers],
            "schedules": [schedule.state_dict() for schedule in self.schedules],
            "average": self.average.state_dict(),
            "powers": {name: power.state_dict() for name, power in zip(self._power_names(), self.powers, strict=True)},
            "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler is not None else {},
            "words": self._words(),
            "samples": self._samples(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """The inverse of `state`. Rates, betas and weight decay stay as the configuration has them.

        Raises:
            ValueError: a checkpoint of other words: captions have changed, and an encoder of its own learned others.
        """
        if state["words"] != self._words():
            raise ValueError(
                f"{self.folder}: captions have other words now than its checkpoint's text encoder knows; choose "
                f"another output, and train.start_from: {self.folder}/pipeline to go on with the words it knows"
            )
        if state["samples"] != self._samples():
            log.warning("goes on with other samples than before: the order of an epoch is another")
        self.raw_model.load_state_dict(state["model"])
        saved = zip(self.raw_optimizers, self.schedules, state["optimizers"], state["schedules"], strict=True)
        for optimizer, schedule, theirs, steps in saved:
            groups = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
            rates = schedule.base_lrs
            optimizer.load_state_dict(theirs)
            schedule.load_state_dict(steps | {"base_lrs": rates})
            for group, ours, rate, share in zip(
                optimizer.param_groups, groups, rates, schedule.lr_lambdas, strict=True
            ):
                group.update(ours | {"lr": rate * share(schedule.last_epoch)})
        self.average.load_state_dict(state["average"])
        for name, power in zip(self._power_names(), self.powers, strict=True):
            power.load_state_dict(state["powers"][name])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])

    def _power_names(self) -> list[str]:
        return [f"{sigma_rel:g}" for sigma_rel in self.config.train.ema_sigma_rels]

    def _words(self) -> str:
        """The vocabulary of an encoder that is trained along, as one word; of a frozen one, none."""
        if self.raw_model.encoded is not None:
            return ""
        return _digest(sorted(self.raw_model.text.tokenizer.get_vocab().items()))

    def _samples(self) -> str:
        return _digest([(sample.latent, str(sample.size)) for sample in self.train_clips.samples])


def _digest(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _tail(name: str) -> str:
    return "" if name == "all" else f"_{name}"
