"""What a pipeline consists of: its parts, how they are loaded and saved, and what they tell of themselves."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Union

import torch
from diffusers import DiffusionPipeline, SchedulerMixin
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from videodit.codec import FRAMEWISE, VIDEO, VideoCodec
from videodit.conditions import TEXT, Encoder, asked, of_call
from videodit.diffusion.schedulers import prediction_of
from videodit.disk import writing
from videodit.geometry import ClipSize, Strides
from videodit.models import VideoModel
from videodit.models.extended import TimeExtended
from videodit.models.handling import Handling
from videodit.models.transformer import VideoDiT
from videodit.packaged import DEFAULT, PACKAGED
from videodit.pipeline.folders import check_is_pipeline, findable, own_class, write_pipeline_sums
from videodit.pipeline.lora import Adapters
from videodit.text import PARTS, FamilyText, TextEncoder
from videodit.text.learned import LearnedCaptions
from videodit.weights import check_finite, loading

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from typing import Self

    VAE = torch.nn.Module
    Model = Any
else:  # `DiffusionPipeline.from_pipe` takes over what the types name
    VAE = Union[FRAMEWISE + VIDEO]  # noqa: UP007
    Model = Union[VideoDiT, TimeExtended]  # noqa: UP007


class Parts(DiffusionPipeline, Adapters):
    """The parts of a pipeline.

    Args:
        vae: one of the VAEs that `VideoCodec` knows; None where latents are all that is asked for.
        text_encoder, tokenizer: any transformers text encoder and its fast tokenizer; None for a model that is told a
            class, or given `prompt_embeds` that were made before.
        text_encoder_2, tokenizer_2, text_encoder_3, tokenizer_3: of an image model's family that has more of them.
        text_pipeline: the diffusers pipeline whose `encode_prompt` encodes prompts (`text.family`); None: they are the
            text encoder's last states. text_max_length: the tokens of a prompt that it reads; None: its own number.
        learned: captions that the model was shown; None: prompts that are far from all of them are not told.
        transformer: the model; None where prompts are encoded and no more.
        scheduler: any diffusers scheduler that fits the model's training (flow: `FlowMatchEulerDiscreteScheduler`,
            and UniPC or DPM++ with flow sigmas; epsilon and v: DDIM, DDPM, DPM++, UniPC).
        default_num_frames, default_height, default_width, default_fps: what a call takes unless told otherwise: the
            size that the model was trained at.
        trained_sizes: (frames, rows, columns, fps) of all that it was trained at, where that was not one alone.
        default_num_inference_steps, default_guidance_scale: likewise: what this model is best sampled with.
        trained_guidance: (low, high): the scales that a model which is told its guidance has learned; None: any.
        default_skipped_blocks: (low, high, numbers of blocks): what a call leaves out at noise levels above `low`,
            up to `high`, from 0, data, to 1, as `videodit prune --save` finds them; None: all are run.
        transformer_2, boundary_ratio: a second expert (Wan 2.2 A14B), for times below this share of them; `transformer`
            then has the noisier ones.
        id2label: names of the classes of a model that is told one, by number.
        prediction_type: what the model predicts: "flow", "epsilon", "v_prediction" or "sample"; None: as the scheduler
            has it. A call refuses a scheduler that takes the prediction for another.
        vae_strides: how the VAE compresses (`geometry.Strides`), for calls without it; None: as it says.
    """

    _size_is_told = False
    model_cpu_offload_seq = "text_encoder->text_encoder_2->text_encoder_3->transformer->transformer_2->vae"
    _exclude_from_cpu_offload: ClassVar[list[str]] = ["learned"]
    _optional_components: ClassVar[list[str]] = [*PARTS, "transformer_2", "learned"]

    def __init__(
        self,
        vae: VAE,
        text_encoder: PreTrainedModel | None,
        tokenizer: PreTrainedTokenizerBase | None,
        transformer: Model,
        scheduler: SchedulerMixin,
        transformer_2: Model | None = None,
        text_encoder_2: PreTrainedModel | None = None,
        tokenizer_2: PreTrainedTokenizerBase | None = None,
        text_encoder_3: PreTrainedModel | None = None,
        tokenizer_3: PreTrainedTokenizerBase | None = None,
        learned: LearnedCaptions | None = None,
        default_num_frames: int = 17,
        default_height: int = 64,
        default_width: int = 64,
        default_fps: float = 8.0,
        default_num_inference_steps: int = 30,
        default_guidance_scale: float = 4.0,
        boundary_ratio: float | None = None,
        id2label: dict | None = None,
        prediction_type: str | None = None,
        vae_strides: list | None = None,
        text_pipeline: str | None = None,
        text_max_length: int | None = None,
        trained_sizes: list | None = None,
        default_skipped_blocks: list | None = None,
        trained_guidance: list | None = None,
    ):
        super().__init__()
        self.register_modules(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            transformer=transformer,
            scheduler=scheduler,
            transformer_2=transformer_2,
            text_encoder_2=text_encoder_2,
            tokenizer_2=tokenizer_2,
            text_encoder_3=text_encoder_3,
            tokenizer_3=tokenizer_3,
            learned=learned,
        )
        if (transformer_2 is None) != (boundary_ratio is None):
            raise ValueError("transformer_2 and boundary_ratio: two experts need both, one needs neither")
        self.register_to_config(
            default_num_frames=default_num_frames,
            default_height=default_height,
            default_width=default_width,
            default_fps=default_fps,
            default_num_inference_steps=default_num_inference_steps,
            default_guidance_scale=default_guidance_scale,
            boundary_ratio=boundary_ratio,
            id2label=id2label,
            prediction_type=prediction_type or prediction_of(scheduler),
            text_pipeline=text_pipeline,
            text_max_length=text_max_length,
            trained_sizes=trained_sizes,
            default_skipped_blocks=default_skipped_blocks,
            trained_guidance=trained_guidance,
            vae_strides=vae_strides if vae is None else list(astuple(self.codec.strides)),
        )

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> Self:
        """Loads a pipeline folder or hub name as diffusers does, in float32 unless `dtype` says otherwise.

        Raises:
            OSError: a folder of something else. WeightsError: a file of weights is damaged, or holds what is no finite
                number; names it.
        """
        check_is_pipeline(Path(pretrained_model_name_or_path))
        if not {"dtype", "torch_dtype"} & kwargs.keys():
            kwargs["dtype"] = torch.float32
        with loading(pretrained_model_name_or_path):
            pipe = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        for name, part in pipe.components.items():
            if isinstance(part, torch.nn.Module) and not isinstance(part, Handling):  # which has looked itself
                check_finite(part, Path(pretrained_model_name_or_path, name))
        return pipe

    @classmethod
    def _dict_from_json_file(cls, json_file: Any, **kwargs: Any) -> dict[str, Any]:
        """A folder's index, in which this class is meant: no code of the folder is run to find it."""
        return own_class(super()._dict_from_json_file(json_file, **kwargs), cls.__name__)

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **kwargs: Any) -> Self:
        """A pipeline of the same parts, as diffusers makes it. ValueError: their transformer is another class's."""
        model = kwargs.get("transformer", pipeline.components.get("transformer"))
        if not isinstance(model, VideoDiT | TimeExtended | None):
            raise ValueError(
                f"the transformer is a {type(model).__name__}: videodit.exchange.pipeline_from_diffusers(pipeline) "
                f"makes a {cls.__name__} of it, where that can be"
            )
        return super().from_pipe(pipeline, **kwargs)

    @classmethod
    def shipped(cls, name: str = DEFAULT, **kwargs: Any) -> Self:
        """A model in the package, which works offline.

        Args:
            name: `shapes`: moving shapes, 17 frames of 64x64 at 8 frames a second.

        Raises:
            ValueError: the package holds none of this name, or it is not there.
        """
        if name not in PACKAGED:
            raise ValueError(f"{name}: no such packaged model; those that are: {', '.join(PACKAGED)}")
        folder = PACKAGED[name]
        if not (folder / "model_index.json").is_file():
            raise ValueError(f"{folder}: no packaged model here; install videodit anew, or name a model folder")
        return cls.from_pretrained(str(folder), **kwargs)

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Writes a pipeline folder as diffusers does, with the `pipeline.py` that lets diffusers find this class, and
        checksums of its files. DiskError where there is no room."""
        folder = Path(save_directory)
        with writing(folder):
            super().save_pretrained(folder, **kwargs)
            findable(folder)
            write_pipeline_sums(folder)

    def expert(self, t: Any) -> VideoModel:
        """The transformer for timestep `t`: the second below the boundary, where there are two."""
        boundary = self.config.boundary_ratio
        second = boundary is not None and t < boundary * self.scheduler.config.num_train_timesteps
        return self.transformer_2 if second else self.transformer

    @property
    def codec(self) -> VideoCodec:
        """The VAE as a codec of clips. ValueError where there is none."""
        if self.vae is None:
            raise ValueError("no VAE is loaded: ask for output_type='latent', and give no frames")
        return VideoCodec(self.vae)

    @property
    def strides(self) -> Strides:
        """How the VAE compresses, also where it is not loaded."""
        if self.vae is None and self.config.vae_strides is None:
            raise ValueError("no VAE is loaded, and the folder does not say how it compresses: give vae_strides")
        return Strides(*self.config.vae_strides) if self.vae is None else self.codec.strides

    @property
    def text(self) -> Encoder:
        """Text encoder and tokenizer as one. ValueError where there are none."""
        return self._text_encoder()

    def _text_encoder(self, max_sequence_length: int | None = None) -> Encoder:
        """Text encoders and tokenizers as one, which reads so many tokens at most (None: its own number)."""
        if self.transformer is not None and asked(self.transformer, "class") is not None:
            raise ValueError("this model reads no text, it is told a class: give class_labels, not a prompt")
        if self.config.text_pipeline is not None:
            image = getattr(self.transformer, "image", None)
            length = max_sequence_length or self.config.text_max_length
            return FamilyText(self.config.text_pipeline, self.components | {"transformer": image}, length)
        if self.text_encoder is None or self.tokenizer is None:
            raise ValueError(
                "no text encoder is loaded: give prompt_embeds, negative_prompt_embeds and their masks, as "
                "encode_prompt makes them where there is one"
            )
        own = self.tokenizer.model_max_length
        learned = None if self._adapted() else self.learned  # an adapter may know any word
        encoder = TextEncoder(self.text_encoder, self.tokenizer, max_sequence_length, learned)
        if max_sequence_length is not None:
            self.tokenizer.model_max_length = own  # it is this call's length alone
        return encoder

    def enable_vae_slicing(self) -> None:
        """The VAE works on a clip at a time. ValueError where it cannot."""
        self._of_vae("enable_slicing")

    def disable_vae_slicing(self) -> None:
        self._of_vae("disable_slicing")

    def enable_vae_tiling(self) -> None:
        """The VAE works on tiles of large pictures. ValueError where it cannot."""
        self._of_vae("enable_tiling")

    def disable_vae_tiling(self) -> None:
        self._of_vae("disable_tiling")

    def _of_vae(self, method: str) -> None:
        if not hasattr(self.codec.vae, method):
            raise ValueError(f"{type(self.vae).__name__} has no {method}")
        getattr(self.vae, method)()

    @property
    def default_size(self) -> ClipSize:
        c = self.config
        return ClipSize(c.default_num_frames, c.default_height, c.default_width, c.default_fps)

    def tell_of_size(self, size: ClipSize) -> None:
        """Warns where a size is far from all that the model was trained at; not within `size_is_told`."""
        trained = [self.default_size, *(ClipSize(*one) for one in self.config.trained_sizes or ())]
        far = min((size.far_from(one) for one in trained), key=len)
        if far and not self._size_is_told:
            log.warning("far from what the model was trained at, so the clip may fall apart: %s", far)

    @contextmanager
    def size_is_told(self) -> Iterator[None]:
        """Within, calls warn of no size: whoever makes a clip by several calls has told once of the one asked for."""
        self._size_is_told = True
        try:
            yield
        finally:
            self._size_is_told = False

    def unknown_words(self, prompt: str) -> list[str]:
        """Words of the prompt that the tokenizer does not know, so that the model cannot show them."""
        return self.text.unknown_words(prompt)

    @torch.no_grad()
    def encode_prompt(
        self,
        prompt: str | list[str],
        do_classifier_free_guidance: bool = True,
        negative_prompt: str | list[str] | None = None,
        device: torch.device | None = None,
        max_sequence_length: int | None = None,
    ) -> tuple[Tensor | None, ...]:
        """Prompts in the form in which a call takes them too, with diffusers' names and in PixArt's order.

        Neither VAE nor transformer need be loaded for it.

        Args:
            prompt: one or several. negative_prompt: as in a call.
            do_classifier_free_guidance: whether the negative prompt is encoded too.
            device: where the tensors are put; None: where the pipeline works.
            max_sequence_length: as in a call.

        Returns:
            prompt_embeds (b m e), prompt_attention_mask (b m, bool), and the same of the negative prompt, or None; of
            families with pooled states behind them pooled_prompt_embeds (b e') and negative_pooled_prompt_embeds.

        Raises:
            ValueError: there is no text encoder, or the numbers of prompts differ.
        """
        prompts, encoder = [prompt] if isinstance(prompt, str) else prompt, self._text_encoder(max_sequence_length)
        text = of_call(lambda: encoder, (0, None), prompts, negative_prompt, guided=do_classifier_free_guidance)
        rows = {name: t.to(device or self._execution_device) for name, t in text.texts(len(prompts)).items()}
        pooled = ("pooled_prompt_embeds", "negative_pooled_prompt_embeds") if "pooled_prompt_embeds" in rows else ()
        signs = ("", "negative_")
        return tuple(rows.get(f"{sign}{name}") for sign in signs for name in TEXT[:2]) + tuple(map(rows.get, pooled))
