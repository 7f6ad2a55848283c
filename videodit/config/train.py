"""How the transformer is trained: steps, optimizer, averages, checkpoints, and what is looked at on the way."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from videodit.config.kinds import (
    Amount,
    Count,
    Guidance,
    LearningRate,
    Place,
    Positive,
    Precision,
    Prompt,
    Share,
    SigmaRel,
    Steps,
    Weight,
)
from videodit.config.model import Lora
from videodit.config.section import Section

Beta = Annotated[float, Field(ge=0, lt=1)]  # of a running average


class Distill(Section):
    """A flow map, for clips in few steps, learned from a model that takes many (`diffusion.flow_map`)."""

    teacher: Place = Field(description="a pipeline folder, whose guided velocity is learned, and started from")
    guidance_scale: tuple[Guidance, Guidance] = Field(
        (1.0, 6.0), strict=False, description="from which to which scale of guidance it shall be able to be told"
    )
    same_time: Share = Field(0.25, description="share of samples at which it learns the velocity itself")

    @model_validator(mode="after")
    def _rises(self) -> Distill:
        if self.guidance_scale[0] > self.guidance_scale[1]:
            raise ValueError(f"guidance_scale={list(self.guidance_scale)} must be two rising scales")
        return self


class Train(Section):
    """How the transformer is trained."""

    steps: Positive = 10000
    steps_before: Count = Field(
        0, description="of earlier stages: data order and noise go on from there (stages set it)"
    )
    batch_size: Positive = Field(64, description="over all processes and accumulation steps")
    batch_tokens: Positive | None = Field(None, description="instead: as many as have so many tokens together")
    gradient_accumulation_steps: Positive = Field(1, description="pieces in which a process takes its share of a batch")
    workers: Count = Field(0, description="processes beside each that read batches ahead")
    optimizer: Literal["adamw", "muon", "adamw8bit", "adafactor"] = Field(
        "adamw", description="muon: for the blocks' matrices, AdamW for the rest; the last two have small states"
    )
    fused_backward: bool = Field(
        False, description="step each weight as soon as its gradient is there, so that all are never held at once"
    )
    learning_rate: LearningRate = 1e-3
    muon_learning_rate: LearningRate | None = Field(None, description="of what muon steps (null: learning_rate)")
    warmup_steps: Count = 200
    schedule: Literal["constant", "cosine"] = "cosine"
    decay_steps: Positive | None = Field(None, description="steps over which the cosine falls to zero (null: steps)")
    betas: tuple[Beta, Beta] = Field((0.9, 0.99), strict=False, description="not of adafactor, which has none")
    weight_decay: Weight = 0.01
    max_grad_norm: Amount | None = Field(1.0, description="of all gradients together; null: they stay as they are")
    ema_decay: Beta = Field(0.999, description="of the average that is sampled and saved")
    ema_sigma_rels: tuple[SigmaRel, ...] = Field(
        (), strict=False, description="power-function averages stored with each checkpoint, for videodit average"
    )
    caption_dropout: Share = 0.1
    routing: Share = Field(
        0.0, description="share of a sample's places that pass the blocks between first and last by (TREAD)"
    )
    precision: Precision = "bf16"
    sharding: Literal["none", "fsdp"] = Field("none", description="fsdp: weights and their states split over processes")
    sequence_parallel: Positive = Field(
        1, description="processes that share the tokens of each batch; divides the number of all processes"
    )
    on_nonfinite: Literal["stop", "skip"] = Field("stop", description="what a loss or gradient that is no number does")
    spike_factor: Annotated[float, Field(gt=1, le=1e9)] | None = Field(
        None, description="a loss so many times the median of the last 100 steps goes back to the last checkpoint"
    )
    start_from: Place | None = Field(
        None, description="a pipeline folder whose transformer and text encoder to start from"
    )
    distill: Distill | None = Field(None, description="learn a flow map from a teacher: clips in few steps")
    weights: tuple[str, ...] = Field(
        (), strict=False, description="what is trained: axes (time), names with * (*.attn1.*); none: everything"
    )
    lora: Lora | None = Field(None, description="train low-rank adapters instead of the weights")
    resume: Place | None = Field("latest", description="a checkpoint folder; null: start anew, in an empty output")
    checkpoint_every: Positive = 1000
    keep: Positive = Field(2, description="so many last checkpoints")
    keep_best: Count = Field(0, description="and so many with the lowest validation loss")
    validate_every: Positive = 500
    sample_every: Positive = 1000
    evaluate_every: Positive | None = Field(None, description="steps between measures of sampled clips; null: none")
    measures: tuple[str, ...] = Field(
        (),
        strict=False,
        description="of `prompts` then: what videodit evaluate takes without weights, and nearest: to training clips",
    )
    prompts: tuple[Prompt, ...] = Field(
        (), strict=False, description="sampled while training; none: validation captions"
    )
    num_inference_steps: Steps | None = Field(None, description="of samples, and the pipeline's own; none: its")
    guidance_scale: Guidance | None = Field(None, description="likewise")
    log_every: Positive = 10
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = Field(
        ("tensorboard",), strict=False, description="beside losses.jsonl"
    )

    @model_validator(mode="before")
    @classmethod
    def _starts_from_its_teacher(cls, values: Any) -> Any:
        distill = values.get("distill") if isinstance(values, dict) else None
        teacher = distill.get("teacher") if isinstance(distill, dict) else None
        return values | {"start_from": teacher} if teacher and not values.get("start_from") else values

    @model_validator(mode="after")
    def _options_fit(self) -> Train:
        if self.distill and self.routing:
            raise ValueError("distill compares calls that see all places: take routing out")
        if self.distill and self.lora and self.lora.base not in ("float32", "bfloat16"):
            raise ValueError(f"distill makes a flow map of whole weights, and not of lora.base={self.lora.base}")
        if self.distill and self.weights:
            raise ValueError("distill trains what tells the model a second time and a scale too: take weights out")
        if self.keep_best and self.checkpoint_every % self.validate_every:
            raise ValueError(
                f"keep_best needs a validation at each checkpoint: checkpoint_every={self.checkpoint_every} must be a "
                f"multiple of validate_every={self.validate_every}"
            )
        if bool(self.evaluate_every) != bool(self.measures):
            raise ValueError(
                f"evaluate_every={self.evaluate_every} and measures={list(self.measures)} go together: give both or "
                "none"
            )
        if self.muon_learning_rate and self.optimizer != "muon":
            raise ValueError("muon_learning_rate is read with optimizer: muon only; leave it out, or choose muon")
        if self.schedule == "cosine" and (self.decay_steps or self.steps) < self.steps:
            raise ValueError(f"decay_steps={self.decay_steps}: the rate is zero before steps={self.steps} are taken")
        if self.lora and self.weights:
            raise ValueError("lora trains adapters and no weights: take weights out")
        if self.lora and not self.start_from:
            raise ValueError("lora adapts a trained model: name it in start_from")
        if self.sharding == "fsdp" and self.unsplit:
            raise ValueError(f"{self.unsplit} is not split by sharding: fsdp; leave one of them out")
        if self.fused_backward:
            self._check_fused()
        if self.lora and self.ema_sigma_rels:
            raise ValueError("ema_sigma_rels are of whole models, not of adapters: take them out")
        return self

    @property
    def unsplit(self) -> str:
        """What of this is of whole weights alone, and not of parts that processes hold."""
        if self.lora and self.lora.base != "float32":
            return f"lora.base: {self.lora.base}"
        if self.optimizer in ("adamw8bit", "adafactor"):
            return f"optimizer: {self.optimizer}"
        return "fused_backward" if self.fused_backward else ""

    def _check_fused(self) -> None:
        """ValueError where a step needs all gradients: then none can be taken before the last is there."""
        against = {
            f"gradient_accumulation_steps={self.gradient_accumulation_steps}; set it to 1": (
                self.gradient_accumulation_steps > 1
            ),
            f"max_grad_norm={self.max_grad_norm}; set it to null": self.max_grad_norm is not None,
            "on_nonfinite=skip; set it to stop": self.on_nonfinite == "skip",
            "precision=fp16; set it to bf16": self.precision == "fp16",
        }
        for what, asked in against.items():
            if asked:
                raise ValueError(f"fused_backward steps before all gradients are there, against {what}")
