"""What a run will do, before it does anything heavy: `tools/train.py --dry-run`.

Files are measured, none is decoded; the transformer is built without memory (torch's meta device), and its activations
are counted by asking autograd what it would keep.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import PartialState
from torch import Tensor

from videodit.codec import VideoCodec
from videodit.conditions import Told, asked
from videodit.config import Run
from videodit.data.manifest import Skip
from videodit.data.sampler import Sampler
from videodit.geometry import ClipSize, Strides
from videodit.models.transformer import VideoDiT
from videodit.pipeline import named_folder
from videodit.text import TextEncoder
from videodit.training import inputs
from videodit.training.batches import batch_sizes
from videodit.training.model import add_lora, fresh_shape

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
    """A run in numbers. `memory` is GB a process, by what takes it."""

    config: Run
    rows: list[Row]
    held_out: int
    left_out: list[Skip]
    steps_per_epoch: int
    parameters: int
    memory: dict[str, float]

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
        yield f"memory of a process, about {sum(self.memory.values()):.2f} GB: {parts}"


def plans(run: Run) -> Iterator[Plan]:
    """Of each leg of a run. Legs after the first start from what is not there yet, of the first's shape."""
    for leg in run.legs():
        train = leg.train.model_copy(update={"start_from": run.train.start_from})
        yield plan(leg.model_copy(update={"train": train, "output": run.output, "codec": run.codec}))


def plan(config: Run) -> Plan:
    """What `Trainer(config).train()` would do.

    Raises:
        ValueError: as the trainer would, of the data.
    """
    found, strides = inputs.survey(config), strides_of(config)
    model, trained = _transformer(config, strides)
    sizes = batch_sizes(config, strides, model.patch_size)
    spans = [span.size for size in found.train.spans.values() for span in size]
    data = config.data
    sampler = Sampler(spans, sizes, image_share=data.image_share, repeat=data.repeat, seed=config.seed)
    clips = Counter(spans)
    rows = [
        Row(size, clips[size], shown, sizes[size], sampler.batches[size], size.tokens(strides, model.patch_size))
        for size, shown in sampler.counts.items()
    ]
    return Plan(
        config,
        rows,
        len(found.validation),
        inputs.left_out(found),
        sampler.steps_per_epoch,
        sum(p.numel() for p in model.parameters()),
        _memory(config, model, trained, rows, strides),
    )


def strides_of(config: Run) -> Strides:
    """Of the run's VAE; where it is not trained yet, of the one that `vae:` describes."""
    if config.codec or (Path(config.output) / "vae").is_dir():
        return inputs.load_codec(config).strides
    if config.vae.start_from:
        with inputs.named(config.vae.start_from, "VAE"):
            return VideoCodec.from_pretrained(named_folder(config.vae.start_from)).strides
    return Strides(4, config.vae.patch_size * 2 ** (len(config.vae.dim_mult) - 1), config.vae.channels)


def _transformer(config: Run, strides: Strides) -> tuple[VideoDiT, int]:
    """It, without memory, and how many of its weights are trained."""
    with torch.device("meta"):
        if config.train.start_from:
            with inputs.named(config.train.start_from, "transformer"):
                folder = named_folder(config.train.start_from)
                model = VideoDiT.from_config(VideoDiT.load_config(folder, subfolder="transformer"))
        else:
            model = VideoDiT.sized(**fresh_shape(config, strides, _text_width(config)))
        if config.train.lora:
            add_lora(model, config.train.lora)
    model.checkpoint_units(int(config.model.gradient_checkpointing))
    return model, sum(p.numel() for p in model.parameters() if p.requires_grad)


def _text_width(config: Run) -> int:
    """Of the states that the text encoder gives, without loading it."""
    if not config.text.source:
        return config.text.width
    with inputs.named(config.text.source, "text encoder"):
        return TextEncoder.width_of(named_folder(config.text.source))


def _memory(config: Run, model: VideoDiT, trained: int, rows: list[Row], strides: Strides) -> dict[str, float]:
    """GB of the transformer's part in a process."""
    train, processes = config.train, PartialState().num_processes
    split = processes if train.sharding == "fsdp" else 1
    moments = 1 if train.optimizer == "muon" else 2  # the blocks' matrices are most of the weights
    averages = 1 + len(train.ema_sigma_rels)
    floats = {
        "weights": sum(p.numel() for p in model.parameters()),
        "gradients": trained,
        "optimizer": trained * moments,
        "averages": trained * averages,
    }
    share = -(-processes // train.sequence_parallel) * train.gradient_accumulation_steps
    largest = max(rows, key=lambda row: row.tokens * -(-row.batch // share))
    kept = _activation_bytes(model, largest.size, -(-largest.batch // share), strides, train.precision)
    return {name: 4 * count / split / GB for name, count in floats.items()} | {
        "activations": kept / train.sequence_parallel / GB
    }


def _activation_bytes(model: VideoDiT, size: ClipSize, batch: int, strides: Strides, precision: str) -> int:
    """What autograd keeps of a forward pass, without the weights."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
    torch.nn.Module.to(model, dtype).train()  # diffusers' own warns, of what matters to numbers alone
    weights = {p.untyped_storage()._cdata for p in model.parameters()}
    kept: dict[int, Tensor] = {}  # by storage; held, so that none is reused and counted as another

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage()._cdata not in weights:
            kept.setdefault(tensor.untyped_storage()._cdata, tensor)
        return tensor

    reads = asked(model, "text")
    text = torch.empty(batch, 64, reads or 0, device="meta", dtype=dtype)
    told = Told({"prompt_embeds": text, "size": torch.empty(batch, 2, device="meta")})
    latent = torch.empty(batch, *size.latent(strides, model.patch_size), device="meta", dtype=dtype)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(latent, torch.empty(batch, device="meta"), **told.kwargs(model))
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
