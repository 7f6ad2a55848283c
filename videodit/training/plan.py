"""What a run will do, before it does anything heavy: `videodit train --dry-run`.

Files are measured, none is decoded; the transformer is built without memory (torch's meta device), and a step is taken
without numbers (`training.footprint`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import PartialState

from videodit.codec import VideoCodec
from videodit.config import Run
from videodit.data.manifest import Skip
from videodit.data.sampler import Sampler
from videodit.geometry import ClipSize, Strides
from videodit.models.extended import TimeExtended
from videodit.models.loading import shape_of
from videodit.models.transformer import VideoDiT
from videodit.packaged import named_folder
from videodit.text import TextEncoder, numbers_of_text
from videodit.training import inputs
from videodit.training.batches import batch_sizes
from videodit.training.footprint import footprint
from videodit.training.model import add_lora, as_map, fresh_transformer, is_chosen, place_of, place_of_base

GB = 1e9
SHOWN = 10  # files left out that are named


@dataclass(frozen=True)
class Row:
    """What an epoch shows at one size: `clips` of that bucket, `shown` of them in `batches` of at most `batch`."""

    size: ClipSize
    clips: int
    shown: int
    batch: int
    batches: int
    tokens: int


@dataclass(frozen=True)
class Plan:
    """A run in numbers. `memory` is GB a process, by what takes it; `peak` the most of it at once,
    and `text` what an encoder that is not trained takes before, 0 where there is none."""

    config: Run
    rows: list[Row]
    held_out: int
    left_out: list[Skip]
    steps_per_epoch: int
    parameters: int
    memory: dict[str, float]
    peak: float
    text: float

    def __str__(self) -> str:
        return "\n".join([*self._table(), "", *self._losses(), *self._costs()])

    def _table(self) -> Iterable[str]:
        yield f"{'size':<26}{'samples':>9}{'an epoch':>10}{'a batch':>9}{'batches':>9}{'tokens':>8}{'a batch':>10}"
        for row in self.rows:
            counts = f"{row.clips:>9}{row.shown:>10}{row.batch:>9}{row.batches:>9}"
            yield f"{row.size!s:<26}{counts}{row.tokens:>8}{row.tokens * row.batch:>10}"
            if row.shown < row.batch:
                yield f"  fewer than a batch: raise data.repeat ({self.config.data.repeat}), or take a smaller batch"

    def _losses(self) -> Iterable[str]:
        yield f"{self.held_out} samples kept out of training, to measure on; {len(self.left_out)} left out"
        for why, count in Counter(skip.why for skip in self.left_out).most_common(SHOWN):
            where = ", ".join(Path(skip.where).name for skip in self.left_out if skip.why == why)
            yield f"  {count} x {why}: {where if len(where) < 80 else where[:77] + '...'}"

    def _costs(self) -> Iterable[str]:
        train = self.config.train
        yield f"{self.steps_per_epoch} steps an epoch; {train.steps} steps are {train.steps / self.steps_per_epoch:.1f}"
        yield f"transformer: {self.parameters / 1e6:.1f} M weights"
        parts = ", ".join(f"{name} {size:.2f}" for name, size in self.memory.items())
        yield f"memory of a process, at most {self.peak:.2f} GB at once: {parts}"
        if how := self._cuts():
            yield f"  with {', '.join(how)}"
        if self.text:
            yield f"before it, alone: the text encoder, {self.text:.2f} GB, while captions are encoded"

    def _cuts(self) -> list[str]:
        """What of the configuration makes the memory smaller, in its own words."""
        train, model = self.config.train, self.config.model
        said = {
            f"train.lora.base: {train.lora.base}" if train.lora else "": train.lora and train.lora.base != "float32",
            f"train.optimizer: {train.optimizer}": train.optimizer in ("adamw8bit", "adafactor"),
            "train.fused_backward": train.fused_backward,
            "model.gradient_checkpointing": model.gradient_checkpointing,
            f"model.offload: {', '.join(model.offload)}": model.offload,
        }
        return [words for words, holds in said.items() if holds]


def plans(run: Run) -> Iterator[Plan]:
    """Of each leg of a run. Legs after the first start from what is not there yet, of the first's shape."""
    for leg in inputs.legs_ahead(run):
        yield plan(leg.model_copy(update={"output": run.output, "codec": run.codec}))


def plan(config: Run) -> Plan:
    """What `Trainer(config).train()` would do.

    Raises:
        ValueError: as the trainer would, of the data.
    """
    found, strides = inputs.survey(config), strides_of(config)
    model = _transformer(config, strides)
    sizes = batch_sizes(config, strides, model.patch_size)
    spans = [span.size for size in found.train.spans.values() for span in size]
    data = config.data
    sampler = Sampler(spans, sizes, image_share=data.image_share, repeat=data.repeat, seed=config.seed)
    clips = Counter(spans)
    rows = [
        Row(size, clips[size], shown, sizes[size], sampler.batches[size], size.tokens(strides, model.patch_size))
        for size, shown in sampler.counts.items()
    ]
    parameters = sum(p.numel() for p in model.parameters())
    return Plan(
        config,
        rows,
        len(found.validation),
        inputs.left_out(found),
        sampler.steps_per_epoch,
        parameters,
        *_memory(config, model, rows, strides),
        _text_size(config),
    )


def strides_of(config: Run) -> Strides:
    """Of the run's VAE; where it is not trained yet, of the one that `vae:` describes."""
    if config.codec or (Path(config.output) / "vae").is_dir():
        return inputs.strides_of_codec(config)
    if config.vae.start_from:
        with inputs.named(config.vae.start_from, "VAE"):
            own = VideoCodec.strides_of(named_folder(config.vae.start_from))
        if config.vae.inflate is None:
            return own
        time = config.vae.inflate.time_stride
        return Strides(time, own.space, config.vae.inflated_channels or time * own.channels)
    if config.vae.patches:
        return Strides(*config.vae.patches.patch_size[:2], config.vae.channels)
    return Strides(4, config.vae.patch_size * 2 ** (len(config.vae.dim_mult) - 1), config.vae.channels)


def _transformer(config: Run, strides: Strides) -> VideoDiT | TimeExtended:
    """It, without memory; what is trained requires gradients."""
    with torch.device("meta"):
        if config.train.start_from:
            with inputs.named(config.train.start_from, "transformer"):
                model = shape_of(**place_of_base(config))
        else:
            model = fresh_transformer(config, strides, _text_width(config))
        model = as_map(model, config) if config.train.distill else model
        inputs.tell(model, config, strides)
        if config.train.lora:
            add_lora(model, config.train.lora, config.train.precision)
    for name, weight in model.named_parameters() if config.train.weights else ():
        weight.requires_grad_(is_chosen(f"transformer.{name}", model.axis_of(name), config.train.weights))
    model.checkpoint_units(int(config.model.gradient_checkpointing))
    return model


def _text_width(config: Run) -> int:
    """Of the states that the text encoder gives, without loading it."""
    if not config.text.source:
        return config.text.width
    with inputs.named(config.text.source, "text encoder"):
        return TextEncoder.width_of(named_folder(config.text.source))


def _text_size(config: Run) -> float:
    """GB of the weights of a text encoder that is not trained."""
    folder = config.text.source or config.train.start_from
    if not inputs.is_frozen(config) or not folder:
        return 0.0
    with inputs.named(folder, "text encoder"):
        return (2 if config.text.precision == "bf16" else 4) * numbers_of_text(named_folder(folder)) / GB


def _memory(config: Run, model: VideoDiT, rows: list[Row], strides: Strides) -> tuple[dict[str, float], float]:
    """GB of the transformer's part in a process by what takes them, and the most at once.

    Where processes share weights or tokens no step is taken apart: the most is then the sum, which is more than that.
    """
    train, processes = config.train, PartialState().num_processes
    split = processes if train.sharding == "fsdp" else 1
    share = -(-processes // train.sequence_parallel) * train.gradient_accumulation_steps
    pieces = {row.size: -(-min(row.batch, row.shown) // share) for row in rows}
    largest = max(rows, key=lambda row: row.tokens * pieces[row.size])
    found = footprint(config, model, largest.size, pieces[largest.size], strides)
    memory = {name: getattr(found, name) / split / GB for name in ("weights", "gradients", "optimizer", "averages")}
    memory["activations"] = found.activations / train.sequence_parallel / GB
    together = split > 1 or train.sequence_parallel > 1
    peak = sum(memory.values()) if together else found.peak / GB
    if train.distill:
        teacher: torch.nn.Module = model
        if train.distill.teacher:
            with torch.device("meta"), inputs.named(train.distill.teacher, "transformer"):
                teacher = shape_of(**place_of(train.distill.teacher))
        memory["teacher"] = 4 * sum(p.numel() for p in teacher.parameters()) / GB
        peak += memory["teacher"]
    return memory, peak
