"""What a run trains with, put together from its configuration: clips, model, optimizers, averages.

All of it has one state, which a checkpoint holds; its averaged weights make a pipeline.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import astuple
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, DistributedType, InitProcessGroupKwargs
from diffusers.optimization import get_scheduler
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from videodit.config import Run
from videodit.data.buckets import sizes_of
from videodit.data.cache import Sample
from videodit.data.sampler import Sampler
from videodit.models.extended import TimeExtended
from videodit.models.quantized import plain_parts
from videodit.models.time_blocks import save_time_blocks
from videodit.models.waiting import BlocksWait
from videodit.pipeline import VideoDiTPipeline
from videodit.training import checkpoint, inputs, parallel, samples
from videodit.training.batches import Batches, batch_sizes
from videodit.training.ema import PowerAverage, WeightAverage
from videodit.training.model import (
    Model,
    build_text,
    build_transformer,
    choose_weights,
    is_thin,
    load_base,
    merged,
    save_lora,
)
from videodit.training.optimizer import SteppedInBackward, build_optimizers
from videodit.training.precision import tell_of_bfloat16
from videodit.training.teacher import Teacher
from videodit.weights import state_hash

FEW_STEPS = 4  # by which a flow map is sampled where nothing else is said

log = logging.getLogger(__name__)


class Assembled:
    """Everything that a run trains with, built from its configuration.

    Args:
        allow_changed_data: goes on from a checkpoint of other samples or captions.

    Raises:
        ValueError: the configuration asks for what does not fit together, or data or weights are missing.
    """

    def __init__(self, config: Run, *, allow_changed_data: bool = False):
        self.config, self.folder, train = config, Path(config.output), config.train
        self.allow_changed_data = allow_changed_data
        parallel.check_launcher(
            ("train.precision", train.precision),
            ("train.gradient_accumulation_steps", train.gradient_accumulation_steps),
        )
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
        if train.precision == "fp16" and (self.sharded or train.optimizer != "adamw"):
            raise ValueError(
                f"train.precision: fp16 scales gradients for AdamW on one piece; with fsdp or {train.optimizer} take "
                f"bf16"
            )
        if self.sharded and train.unsplit:
            raise ValueError(f"train.{train.unsplit} is not split by FSDP; leave one of them out")
        if train.fused_backward and processes > 1:
            raise ValueError("train.fused_backward steps before gradients are averaged over processes: start one")
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

    def _build_model(self) -> None:
        config = self.config
        torch.manual_seed(config.seed)
        captions = inputs.captions_of(self.train_clips, self.validation_clips)
        text = inputs.load_text(config) or build_text(config, captions)
        encoded = inputs.encode_text_of(config, text, captions) if inputs.is_frozen(config) else None
        self.learned = inputs.learned_of(config, text, encoded, self.train_clips)
        self.raw_model = Model(
            build_transformer(config, self.codec.strides, text), text, encoded, self.codec.strides.space
        )
        if config.train.start_from and isinstance(self.raw_model.transformer, TimeExtended):
            self.scheduler = inputs.own_scheduler(config) or self.scheduler
            self.path = inputs.path_of(self.scheduler)
        self._to_device()
        about = (config, self.raw_model, self.path, self.accelerator.device)
        self.teacher = Teacher(*about) if config.train.distill else None
        for one in (self.raw_model, self.teacher.model) if self.teacher else (self.raw_model,):
            one.transformer.set_sequence_group(self.group)
        choose_weights(self.raw_model, config, self.train_clips)
        frozen = {name: p for name, p in self.raw_model.named_parameters() if not p.requires_grad}
        self.thin_base = ""  # what adapters are on, where it is no part of the state
        if is_thin(config):
            self.thin_base = state_hash({n: x for name, p in frozen.items() for n, x in plain_parts(name, p.detach())})
            self.raw_model._ddp_params_and_buffers_to_ignore = list(frozen)  # type: ignore[assignment]
            log.info(
                "adapters are trained on %s in %s, and merged into them as they are there",
                config.train.start_from,
                config.train.lora and config.train.lora.base,
            )
        if self.sharded:
            parallel.shard(self.raw_model, self.raw_model.transformer.gathered, self.accelerator.device.type)

    def _to_device(self) -> None:
        offload, device = self.config.model.offload, self.accelerator.device
        if offload and device.type == "cpu":
            raise ValueError(
                f"model.offload: {list(offload)} needs an accelerator (a GPU); there is none here, so all is in the "
                f"machine's memory anyway: take it out"
            )
        if "blocks" in offload:
            BlocksWait(self.raw_model, self.raw_model.transformer.units, device)
        else:
            self.raw_model.to(device)

    def _build_optimizers(self) -> None:
        train, model = self.config.train, self.raw_model
        self.weights = [p for p in model.parameters() if p.requires_grad]
        inner: list[nn.Parameter] = []
        if train.optimizer == "muon":
            linear = (m for m in model.transformer.units.modules() if isinstance(m, nn.Linear))
            inner = [weight for m in linear if (weight := m.get_parameter("weight")).requires_grad]
        self.raw_optimizers = build_optimizers(
            self.weights,
            inner,
            train.learning_rate,
            train.betas,
            train.weight_decay,
            train.muon_learning_rate,
            train.optimizer,
        )
        self.stepped = SteppedInBackward(self.raw_optimizers) if train.fused_backward else None
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
            lies = [False] * (1 + len(self.optimizers))  # where it should, all of it
            self.model, *self.optimizers = self.accelerator.prepare(model, *self.raw_optimizers, device_placement=lies)

    # --- its state ---------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """All that the next step depends on."""
        return {
            **({"base": self.thin_base} if is_thin(self.config) else {}),
            "model": self._trained() if is_thin(self.config) else self.raw_model.state_dict(),
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
        self._check_words(state)
        self.raw_model.load_state_dict(state["model"], strict=not is_thin(self.config))
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

    def accept(self, saved: Path, state: dict[str, Any]) -> None:
        """Raises where a checkpoint is not of this data, before its tensors are compared; says what differs.

        Raises:
            ValueError: of other words, as `load_state`, or its adapters are on other weights.
            ChangedDataError: of other samples or captions, and `allow_changed_data` was not said.
        """
        self._check_words(state)
        if state.get("base", "") != self.thin_base:
            raise ValueError(
                f"{saved}: its adapters are on other weights, or on these in another train.lora.base; name those in "
                f"train.start_from, or choose another output"
            )
        changed = samples.check_unchanged(saved, self._prints(), self.config.data.source)
        if changed is None and state["samples"] != self._samples():
            changed = f"{self.config.data.source}: other samples than those that {saved} was trained on"
        if changed and not self.allow_changed_data:
            raise samples.ChangedDataError(
                f"{changed}; --allow-changed-data goes on with them, in another order of an epoch; or choose another "
                f"output"
            )
        if changed:
            log.warning("%s: it goes on with them, and the order of an epoch is another", changed)
            model = self.raw_model
            self.learned = inputs.learned_of(self.config, model.text, model.encoded, self.train_clips, saved)

    def _trained(self) -> dict[str, Tensor]:
        return {name: weight for name, weight in self.raw_model.named_parameters() if weight.requires_grad}

    def _check_words(self, state: dict[str, Any]) -> None:
        if state["words"] != self._words():
            raise ValueError(
                f"{self.folder}: captions have other words now than its checkpoint's text encoder knows; choose "
                f"another output, and train.start_from: {self.folder}/pipeline to go on with the words it knows"
            )

    def _power_names(self) -> list[str]:
        return [f"{sigma_rel:g}" for sigma_rel in self.config.train.ema_sigma_rels]

    def _words(self) -> str:
        """The vocabulary of an encoder that is trained along, as one word; of a frozen one, none."""
        if self.raw_model.encoded is not None:
            return ""
        return _digest(sorted(self.raw_model.text.parts["tokenizer"].get_vocab().items()))

    def _samples(self) -> str:
        return _digest([(sample.latent, str(sample.size), *sample.besides) for sample in self.train_clips.samples])

    def _prints(self) -> Tensor:
        def one(sample: Sample) -> tuple[str, str]:
            return " ".join([sample.latent, str(sample.size), *sample.besides]), json.dumps(
                [sample.captions, sample.image_captions]
            )

        return samples.prints(map(one, self.train_clips.samples))

    # --- what is saved of its weights --------------------------------------------------------------------------------

    @contextmanager
    def averaged_pipeline(self, *, to_save: bool = True) -> Iterator[VideoDiTPipeline | None]:
        """A pipeline with the averaged weights, on the main process; elsewhere None.

        Called by all processes: where weights are sharded, they are gathered.

        Args:
            to_save: with adapters merged into the weights; else, to sample from, they may act beside them.
        """
        model, main = self.raw_model, self.accelerator.is_main_process
        model.eval()
        if not self.sharded and not (self.config.train.lora and to_save):
            with self.average.applied() if main else nullcontext():
                model.transformer.set_sequence_group(None)  # the main process is on its own
                try:
                    yield self._pipeline(model.transformer, model.text.parts) if main else None
                finally:
                    model.transformer.set_sequence_group(self.group)
            return
        transformer, text = self._averaged_states()
        if not main:
            yield None
            return
        parts = dict(model.text.parts)
        if text:
            encoder = parts["text_encoder"]
            parts["text_encoder"] = type(encoder)(encoder.config)
            parts["text_encoder"].load_state_dict(text)
        base = load_base(self.config).state_dict() if self.thin_base else None
        yield self._pipeline(merged(model.transformer, transformer, base), parts)

    def _averaged_states(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The averaged weights of transformer and text encoder by name, whole and on the CPU of the main process; of
        adapters on a thin base these alone."""
        with self.average.applied():
            options = StateDictOptions(
                full_state_dict=True, cpu_offload=True, ignore_frozen_params=bool(self.thin_base)
            )
            state: dict[str, Any] = dict(get_model_state_dict(self.raw_model, options=options))
        found = [
            {name.removeprefix(part): value.clone() for name, value in state.items() if name.startswith(part)}
            for part in ("transformer.", "text_encoder.")
        ]
        return found[0], found[1]

    def _pipeline(self, transformer: Any, text: dict[str, Any]) -> VideoDiTPipeline:
        data, train = self.config.data, self.config.train
        asked = {"num_inference_steps": train.num_inference_steps, "guidance_scale": train.guidance_scale}
        own: dict[str, Any] = inputs.defaults_of(train.start_from)
        if train.distill:
            low, high = train.distill.guidance_scale
            scale = min(max(own.get("default_guidance_scale", high), low), high)
            own |= {"default_num_inference_steps": FEW_STEPS, "default_guidance_scale": scale}
            own |= {"trained_guidance": [low, high]}
        own |= {f"default_{name}": value for name, value in asked.items() if value is not None}
        return VideoDiTPipeline(
            vae=self.codec.vae,
            transformer=transformer,
            scheduler=self.scheduler,
            **text,
            learned=self.learned,
            text_pipeline=getattr(self.raw_model.text, "pipeline", None),
            text_max_length=getattr(self.raw_model.text, "given_length", None),
            default_num_frames=data.num_frames,
            default_height=data.height,
            default_width=data.width,
            default_fps=data.fps,
            trained_sizes=[list(astuple(size)) for size in dict.fromkeys(sizes_of(data))] if data.buckets else None,
            **own,
        )

    def save_pipeline(self, folder: Path) -> None:
        """A pipeline folder with the averaged weights; of a run that trains adapters alone these apart too, in `lora/`
        (not of a flow map, which is more than they), and of one that trains an image model's time blocks alone these,
        `time_blocks.safetensors`."""
        with self.averaged_pipeline(to_save=True) as pipe:
            if pipe is not None:
                pipe.save_pretrained(folder)
                if isinstance(pipe.transformer, TimeExtended) and not self.config.train.lora and self._trains_time():
                    save_time_blocks(pipe.transformer, folder)
        if self.config.train.lora and not self.config.train.distill:
            state, _ = self._averaged_states()
            if self.accelerator.is_main_process:
                save_lora(self.raw_model.transformer, self.config.train.lora, state, folder / "lora")

    def _trains_time(self) -> bool:
        model = self.raw_model.transformer
        return all(model.axis_of(name) == "time" for name, w in model.named_parameters() if w.requires_grad)

    def save_checkpoint(self, folder: Path) -> None:
        """What a checkpoint holds beside the state: a pipeline, and what was trained on."""
        self.save_pipeline(folder)
        if self.accelerator.is_main_process:
            samples.save_prints(self._prints(), folder)

    def save_powers(self, steps: int) -> None:
        """The power-function averages, by the names of the weights, for averages of other lengths later."""
        names = [name for name, weight in self.raw_model.named_parameters() if weight.requires_grad]
        averages = {
            name: dict(zip(names, power.averages, strict=True))
            for name, power in zip(self._power_names(), self.powers, strict=True)
        }
        state = {"updates": self.powers[0].updates, "averages": averages}
        checkpoint.save(self.folder / "averages", steps, state, keep=self.config.train.steps)


def _digest(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
