"""What is trained, and to predict what: text encoder, transformer, objective, adapters."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from videodit.config.kinds import Amount, Backend, Place, Positive, Share
from videodit.config.section import Section


class Text(Section):
    """The text encoder."""

    source: Place | None = Field(
        None, description="folder or hub name of an encoder; null: a small own one, trained along"
    )
    precision: Annotated[Literal["no", "bf16"], BeforeValidator(lambda value: "no" if value is False else value)] = (
        Field("no", description="bf16: keep a source that is not trained in half the memory")
    )
    width: Positive = Field(192, description="of the own encoder")
    depth: Positive = 2
    max_length: Positive | None = Field(
        None, description="tokens of a caption that are kept: words, or signs (Chinese, Thai ...); null: its own, or 48"
    )


class Told(Section):
    """A condition of one's own: what a row of the manifest says of a clip in a column of its name."""

    kind: Literal["channels", "vectors", "tokens"] = Field(
        description="channels: a file of frames, laid beside the latent; vectors: numbers, beside the time; tokens: a "
        "file of states, which are read beside the text"
    )
    of: Literal["vae", "small", "luma", "edges", "numbers", "loudness", "mel", "states", "past"] | None = Field(
        None,
        description="of channels: frames as the VAE has them (vae, if nothing is said); small: as it has them with no "
        "more detail than sides of a `factor`th hold; their brightness to the pixel (masks, scribbles); or how fast "
        "that changes. Of vectors: numbers (if nothing is said), or a file's sound: how loud it is (loudness), or how "
        "loud `width` bands of pitch are (mel). Of tokens: states (if nothing is said), or the clip's own frames "
        "before those that are shown (past), for long clips",
    )
    factor: Annotated[int, Field(ge=2, le=16)] = Field(4, description="of small")
    frames: Positive = Field(65, description="of past: at most so many")
    noise: Share = Field(0.0, description="of channels: at most so much noise is laid on them, at random, in training")
    from_clip: bool = Field(
        False, description="of channels and sounds: of the clip's own frames or sound, so that no column is needed"
    )
    encoder: Place | None = Field(
        None,
        description="of tokens: folder or hub name of a model of transformers that makes them of pictures or sounds",
    )
    branch: Positive | None = Field(
        None,
        description="of channels: so many of the first blocks get a copy that reads them, in place of laying them "
        "beside the latent (ControlNet); train it alone by train.weights: [transformer.condition_embedders*]",
    )
    width: Positive = Field(1, description="of vectors and tokens: how many numbers each has")
    per: Literal["clip", "frame"] = Field("clip", description="of vectors: once, or a row for each of many frames")
    dropout: Share = Field(0.1, description="share of samples that are not told it, so that clips can be made without")

    @model_validator(mode="after")
    def _of_its_kind(self) -> Told:
        others = {"channels": ("width", "per", "encoder"), "vectors": ("noise", "encoder", "branch")}
        for key in others.get(self.kind, ("from_clip", "noise", "per", "branch")):
            if getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"{key} is not of {self.kind}; take it out")
        made = {"channels": ("vae", "small", "luma", "edges"), "vectors": ("numbers", "loudness", "mel")}
        made["tokens"] = ("states", "past")
        if self.of is not None and self.of not in made[self.kind]:
            raise ValueError(f"of: {self.kind} are made of {', '.join(made[self.kind])}, and not of {self.of}")
        if self.kind == "vectors" and not self.is_sound and self.from_clip:
            raise ValueError("from_clip is of channels, and of vectors that are of a sound; take it out")
        if self.is_sound and self.per != "frame":
            raise ValueError(f"of: {self.of} is per frame; say `per: frame`")
        for key in ("width", "encoder") if self.of == "past" else ("frames",):
            if getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"{key} is not of {'past' if self.of == 'past' else 'what is no past'}; take it out")
        if self.of == "past" and not self.dropout:
            raise ValueError("dropout: a clip's first frames have no past, so it is not always told; above 0")
        if self.of == "loudness" and self.width != 1:
            raise ValueError("of: loudness is one number; leave width out, or take `of: mel`")
        if self.of != "small" and self.factor != type(self).model_fields["factor"].default:
            raise ValueError("factor is of `of: small`; take it out")
        return self

    @property
    def is_sound(self) -> bool:
        return self.of in ("loudness", "mel")


class Model(Section):
    """The transformer, as `VideoDiT` takes it."""

    size: Literal["tiny", "S", "B", "L", "XL"] = "tiny"
    num_layers: Positive | None = Field(None, description="instead of the named size's")
    axes: tuple[Literal["space", "time", "joint", "window", "linear"], ...] = Field(
        ("space", "time"), strict=False, min_length=1
    )
    window: tuple[Positive, Positive, Positive] | None = Field(
        None, strict=False, description="of window blocks: frames, rows and columns of tokens that see each other"
    )
    skips: Literal["long"] | None = Field(None, description="long: blocks of the second half see states of the first")
    patch_size: tuple[Positive, Positive, Positive] = Field((1, 2, 2), strict=False)
    mlp_ratio: Annotated[float, Field(ge=0.1, le=64)] = 4.0
    qk_norm: bool = True
    norm_type: Literal["ada_norm_single", "ada_norm_zero", "layer_norm"] = Field(
        "ada_norm_single",
        description="how blocks are told the time: by one modulation for all, by one each, or as a token of each frame",
    )
    caption_in: Literal["cross", "context"] = Field(
        "cross", description="how they are told the text: they look at it, or it lies among each frame's tokens"
    )
    time_positions: Literal["rotary", "sincos", "both"] = Field(
        "both", description="both: sin-cos ones, which say which frame is the first, beside rotary ones"
    )
    conditions: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=40)], Told] = Field(
        {}, description="what it is told besides the text, by the columns that say it: {depth: {kind: channels}}"
    )
    gradient_checkpointing: bool | Positive = Field(False, description="of all blocks, or of every n-th")
    offload: tuple[Literal["activations", "blocks"], ...] = Field(
        (),
        strict=False,
        description="what waits in the machine's memory while a GPU works on something else: inputs of checkpointed "
        "blocks; weights of blocks, under adapters",
    )
    compile: bool = Field(False, description="torch.compile each block")
    attention_backend: Backend | None = Field(
        None, description="of diffusers, for training: native, _native_math, flash ..."
    )
    image: dict[str, Any] | None = Field(
        None, description="instead: an image model of docs/image_models.md, its _class_name and configuration"
    )
    time_every: Positive = Field(1, description="of image: a time block behind each so many of its blocks")

    @model_validator(mode="after")
    def _one_of_two(self) -> Model:
        """An image model has a shape of its own."""
        fields = type(self).model_fields
        if self.image is not None and self.conditions:
            raise ValueError("conditions are of a VideoDiT, and image says what to train; take one of them out")
        if self.image is None and self.time_every != 1:
            raise ValueError("time_every is of an image model (image), and there is none; take it out")
        if self.image is not None:
            for name in OF_VIDEODIT:
                if getattr(self, name) != fields[name].default:
                    raise ValueError(f"{name} is of a VideoDiT, and image says what to train; take one of them out")
        return self

    @model_validator(mode="after")
    def _windows_are_said(self) -> Model:
        if "window" in self.axes and self.window is None:
            raise ValueError("axes has window blocks: say how many tokens see each other, as window: [4, 8, 8]")
        if "window" not in self.axes and self.window is not None:
            raise ValueError("window is of window blocks, and axes has none; take it out")
        return self

    @model_validator(mode="after")
    def _offload_fits(self) -> Model:
        if self.offload and not self.gradient_checkpointing:
            raise ValueError("offload is of blocks that run again in backward: set gradient_checkpointing: true")
        if "blocks" in self.offload and self.gradient_checkpointing > 1:
            raise ValueError("offload: [blocks] is of blocks that all run again: set gradient_checkpointing: true")
        if "blocks" in self.offload and self.compile:
            raise ValueError("offload: [blocks] cuts compiled blocks apart: take compile out")
        return self


OF_VIDEODIT = (
    *("size", "num_layers", "axes", "window", "skips", "patch_size", "mlp_ratio", "qk_norm", "norm_type", "caption_in"),
    "time_positions",
)


class Objective(Section):
    """What the model learns to predict."""

    prediction_type: Literal["flow", "epsilon", "v_prediction", "sample"] = "flow"
    times: Literal["logit_normal", "uniform", "mode"] = "logit_normal"
    logit_mean: Annotated[float, Field(ge=-20, le=20)] = 0.0
    logit_std: Annotated[float, Field(ge=1e-3, le=20)] = 1.0
    shift: Annotated[float, Field(ge=1e-3, le=1e3)] = Field(1.0, description="of times towards noise, above 1")
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
    min_snr_gamma: Amount | None = Field(None, description="not for flow")


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
    base: Literal["float32", "bfloat16", "int8", "fp8", "nf4"] = Field(
        "float32", description="how the weights that they are on are kept: below float32 in less memory (QLoRA)"
    )
