"""A prompt becomes a clip: `VideoDiTPipeline`, a diffusers pipeline of VAE, text encoder, tokenizer, model, scheduler.

    text states of prompt and negative prompt -> seeded noise -> scheduler steps with guidance -> decoded frames

Each clip's noise comes from its own generator, so that the same prompt and seed give the same clip alone or among
others. A folder written by `save_pretrained` loads with `VideoDiTPipeline.from_pretrained(folder)`, or with diffusers'
own `DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=...)` through the small
`pipeline.py` in it, which does nothing but import this class.
"""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import DiffusionPipeline, SchedulerMixin
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from videodit.caching import check_cache, forget, rows_of
from videodit.codec import VideoCodec
from videodit.conditions import (
    by_name,
    check_class,
    class_conditions,
    of_call,
    replaced,
    size_conditions,
)
from videodit.diffusion.guidance import scales_of_steps
from videodit.diffusion.schedulers import clean_estimate, shift_of_size
from videodit.disk import writing
from videodit.geometry import ClipSize
from videodit.given import given_frames, noised_video
from videodit.memory import check_decode
from videodit.models.transformer import VideoDiT
from videodit.pipeline.ends import VideoDiTPipelineOutput, check_call, each_of, noise_of, present
from videodit.pipeline.folders import SHIPPED, STUB, write_pipeline_sums
from videodit.pipeline.passes import guided_prediction, passes_of, with_text_memory
from videodit.text import TextEncoder
from videodit.weights import check_finite, loading

log = logging.getLogger(__name__)


class VideoDiTPipeline(DiffusionPipeline):
    """Text to video with a `VideoDiT`.

    Args:
        vae: one of the VAEs that `VideoCodec` knows.
        text_encoder, tokenizer: any transformers text encoder and its fast tokenizer; None for a model that is told a
            class, or given `prompt_embeds` that were made before.
        transformer: the model.
        scheduler: any diffusers scheduler that fits the model's training (flow: `FlowMatchEulerDiscreteScheduler`,
            and UniPC or DPM++ with flow sigmas; epsilon and v: DDIM, DDPM, DPM++, UniPC).
        default_num_frames, default_height, default_width, default_fps: what a call takes unless told otherwise: the
            size that the model was trained at.
        id2label: names of the classes of a model that is told one, by number.
    """

    model_cpu_offload_seq = "text_encoder->transformer->vae"
    _optional_components: ClassVar[list[str]] = ["text_encoder", "tokenizer"]
    _current_timestep: Tensor | None = None

    def __init__(
        self,
        vae: torch.nn.Module,
        text_encoder: PreTrainedModel | None,
        tokenizer: PreTrainedTokenizerBase | None,
        transformer: VideoDiT,
        scheduler: SchedulerMixin,
        default_num_frames: int = 17,
        default_height: int = 64,
        default_width: int = 64,
        default_fps: float = 8.0,
        id2label: dict[int, str] | None = None,
    ):
        super().__init__()
        self.register_modules(
            vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, transformer=transformer, scheduler=scheduler
        )
        self.register_to_config(
            default_num_frames=default_num_frames,
            default_height=default_height,
            default_width=default_width,
            default_fps=default_fps,
            id2label=id2label,
        )

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> VideoDiTPipeline:
        """Loads a pipeline folder or hub name as diffusers does, in float32 unless `torch_dtype` says otherwise.

        Raises:
            WeightsError: a file of weights is damaged, or holds what is no finite number; names it.
        """
        if not {"dtype", "torch_dtype"} & kwargs.keys():
            kwargs["torch_dtype"] = torch.float32
        with loading(pretrained_model_name_or_path):
            pipe = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        for name, part in pipe.components.items():
            if isinstance(part, torch.nn.Module) and not isinstance(part, VideoDiT):  # which has looked itself
                check_finite(part, Path(pretrained_model_name_or_path, name))
        return pipe

    @classmethod
    def shipped(cls, **kwargs: Any) -> VideoDiTPipeline:
        """The model in the package: moving shapes, 17 frames of 64x64 at 8 frames a second; works offline.

        Raises:
            ValueError: the package holds none.
        """
        if not (SHIPPED / "model_index.json").is_file():
            raise ValueError(f"{SHIPPED}: no packaged model here; install videodit anew, or name a model folder")
        return cls.from_pretrained(str(SHIPPED), **kwargs)

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Writes a pipeline folder as diffusers does, with the `pipeline.py` that lets diffusers find this class, and
        checksums of its files. DiskError where there is no room."""
        folder = Path(save_directory)
        with writing(folder):
            super().save_pretrained(folder, **kwargs)
            (folder / "pipeline.py").write_text(STUB)
            write_pipeline_sums(folder)

    @property
    def codec(self) -> VideoCodec:
        """The VAE as a codec of clips."""
        return VideoCodec(self.vae)

    @property
    def text(self) -> TextEncoder:
        """Text encoder and tokenizer as one. ValueError where there are none."""
        if self.transformer.config.num_classes is not None:
            raise ValueError("this model reads no text, it is told a class: give class_labels, not a prompt")
        if self.text_encoder is None or self.tokenizer is None:
            raise ValueError(
                "no text encoder is loaded: give prompt_embeds, negative_prompt_embeds and their masks, as "
                "encode_prompt makes them where there is one"
            )
        return TextEncoder(self.text_encoder, self.tokenizer)

    @property
    def current_timestep(self) -> Tensor | None:
        """Of the scheduler, in the step that is being made, or was last."""
        return self._current_timestep

    @property
    def default_size(self) -> ClipSize:
        c = self.config
        return ClipSize(c.default_num_frames, c.default_height, c.default_width, c.default_fps)

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
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Prompts in the form in which a call takes them too, with diffusers' names and in PixArt's order.

        Args:
            prompt: one or several. negative_prompt: as in a call.
            do_classifier_free_guidance: whether the negative prompt is encoded too.
            device: where the tensors are put; None: where the pipeline works.

        Returns:
            prompt_embeds (b m e), prompt_attention_mask (b m, bool), and the same of the negative prompt, or None.

        Raises:
            ValueError: there is no text encoder, or the numbers of prompts differ.
        """
        prompts = [prompt] if isinstance(prompt, str) else prompt
        width, guided = self.text.width, do_classifier_free_guidance
        text = of_call(lambda: self.text, width, prompts, negative_prompt, guided=guided)
        rows = {name: t.to(device or self._execution_device) for name, t in by_name(text, len(prompts)).items()}
        told = rows["prompt_embeds"], rows["prompt_attention_mask"]
        return *told, rows.get("negative_prompt_embeds"), rows.get("negative_prompt_attention_mask")

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        negative_prompt: str | list[str] | None = None,
        class_labels: list[int] | None = None,
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        fps: float | None = None,
        num_inference_steps: int = 30,
        guidance_scale: float | Sequence[float] = 4.0,
        guidance_rescale: float = 0.0,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        image_guidance_scale: float | Sequence[float] = 1.0,
        image: Any = None,
        last_image: Any = None,
        video: Any = None,
        last_video: Any = None,
        strength: float | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        prompt_attention_mask: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        negative_prompt_attention_mask: Tensor | None = None,
        output_type: str = "pt",
        return_dict: bool = True,
        use_text_mask: bool = True,
        callback_on_step_end: Callable[[Any, int, Any, dict[str, Tensor]], dict[str, Tensor]] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> VideoDiTPipelineOutput | tuple[Any]:
        """Makes one clip a prompt, or one a class.

        Args:
            prompt: one or several; never empty. None for a model that is told a class, and with `prompt_embeds`.
            negative_prompt: what to stay away from, one for all or one each; None: the empty prompt, with which the
                model was trained for guidance.
            class_labels: for a model that is told a class, in place of prompts: integers below its `num_classes`.
            num_frames, height, width, fps: of the clip; None: the model's own. One frame is an image.
            num_inference_steps: scheduler steps, at least 1.
            guidance_scale: 1 is none; above, the prompt counts more. A list has one a step.
            guidance_rescale: in [0, 1], against the glare of large scales (Lin et al. 2023, arXiv 2305.08891).
            guidance_interval: from which to which share of the steps there is guidance (Kynkäänniemi et al. 2024, arXiv
                2404.07724); outside, the pass without the prompt is not run.
            image_guidance_scale: as `guidance_scale`, of the given frames (Brooks et al. 2023, arXiv 2211.09800): above
                1, a third pass, without them, is gone away from.
            image: the clip's first frame, which stays as it is (`given.pixels_of` says in which forms).
            video: the clip's first frames, as many as the VAE takes by themselves (4k + 1), to go on from; or, with
                `strength`, a whole clip to remake.
            last_image, last_video: what the clip ends with: one frame, which is held for as long as the VAE's step in
                time, or frames, a multiple of that step.
            strength: in (0, 1]: how much noise the video gets before it is made anew; 1 leaves nothing of it.
            generator: a list (one a prompt) makes each clip independent of its neighbours; a single one serves all.
            latents: the starting noise, b c f h w, unit variance, instead of a drawn one.
            prompt_embeds, prompt_attention_mask: b m e and b m, in place of prompts, as `encode_prompt` gives them.
            negative_prompt_embeds, negative_prompt_attention_mask: in place of negative prompts: one for all, or one
                each.
            output_type: "pt", "np", "pil" or "latent".
            use_text_mask: False lets the model attend to padding, as diffusers' `LattePipeline` does, for its numbers:
                clips then depend on the other prompts.
            callback_on_step_end: called as in diffusers with (pipe, step, timestep, tensors); those of latents, embeds
                and masks that it returns take the place of the old ones.
            callback_on_step_end_tensor_inputs: names of the tensors: "latents", "pred_original_sample" (the clean
                latents that the step's prediction implies), and embeds and masks by their names above.

        Raises:
            ValueError: an empty prompt, embeds that do not fit, an illegal size (names the nearest legal ones), lists
                of unequal length, given frames that are too many or cannot be given, options out of range; or a decode
                for which there is not memory enough, before anything is made (`memory.check_decode`).
        """
        prompts = [] if prompt is None else [prompt] if isinstance(prompt, str) else list(prompt)
        count = len(next(one for one in (class_labels, prompt_embeds, prompts) if one is not None))
        default = self.default_size
        size = ClipSize(
            num_frames if num_frames is not None else default.num_frames,
            height if height is not None else default.height,
            width if width is not None else default.width,
            fps if fps is not None else default.fps,
        )
        codec = self.codec
        shape = (count, *size.latent(codec.strides, self.transformer.patch_size))
        embeds = (prompt_embeds, prompt_attention_mask, negative_prompt_embeds, negative_prompt_attention_mask)
        check_class(
            self.transformer.config.num_classes, class_labels, bool(prompts) or any(e is not None for e in embeds)
        )
        check_call(generator, latents, shape, num_inference_steps, output_type)
        check_cache(self.transformer, shape[2])
        if output_type != "latent":
            check_decode(codec, shape)
        scales = scales_of_steps(guidance_scale, guidance_interval, num_inference_steps)
        image_scales = scales_of_steps(
            image_guidance_scale, guidance_interval, num_inference_steps, "image_guidance_scale"
        )
        if far := size.far_from(default):
            log.warning("far from what the model was trained at, so the clip may fall apart: %s", far)
        guided = any(scale != 1 for scale in scales + image_scales)
        if class_labels is None:
            width, masked = self.transformer.config.caption_channels, use_text_mask
            text = of_call(lambda: self.text, width, prompts, negative_prompt, embeds, guided=guided, masked=masked)
            conditions = {name: rows.to(self._execution_device) for name, rows in text.items()}
        else:
            none = self.transformer.config.num_classes
            conditions = class_conditions(class_labels, none, guided, self._execution_device)
        watched = getattr(callback_on_step_end, "tensor_inputs", callback_on_step_end_tensor_inputs)
        known = ("latents", "pred_original_sample", *by_name(conditions, count))
        if unknown := [name for name in watched if name not in known]:
            raise ValueError(f"callback_on_step_end_tensor_inputs: {unknown[0]!r} is none of {', '.join(known)}")
        if self.transformer.config.use_additional_conditions:
            rows = (1 + guided) * count
            conditions["added_cond_kwargs"] = size_conditions(size.height, size.width, rows, self._execution_device)

        device, dtype = self._execution_device, torch.float32
        tokens = math.prod(-(-n // p) for n, p in zip(shape[2:], self.transformer.patch_size, strict=True))
        self.scheduler.set_timesteps(num_inference_steps, device=device, **shift_of_size(self.scheduler, tokens))
        timesteps = self.scheduler.timesteps
        if latents is None:
            latents = torch.cat([noise_of(shape[1:], g) for g in each_of(generator, count)])
        latents = latents.to(device, dtype)
        given, noise = None, latents
        begin, end = {"image": image, "video": video}, {"last_image": last_image, "last_video": last_video}
        if strength is not None:
            if image is not None or last_image is not None or last_video is not None:
                raise ValueError("strength remakes a whole video: give no first or last frames beside it")
            latents, timesteps = noised_video(codec, self.scheduler, video, latents, strength, size)
        else:
            given = given_frames(codec, count, size, self.transformer.patch_size, **begin, **end)
            latents = latents * getattr(self.scheduler, "init_noise_sigma", 1.0)
        if given is None and any(scale != 1 for scale in image_scales):
            raise ValueError(
                f"image_guidance_scale={image_guidance_scale} is of given frames: give an image or a video"
            )
        step_kwargs = (
            {"generator": generator} if "generator" in inspect.signature(self.scheduler.step).parameters else {}
        )

        @cache  # the text goes through the model's projections once, not once a step
        def conditions_of(rows: tuple[int, ...]) -> dict[str, Any]:
            return with_text_memory(self.transformer, rows_of(conditions, list(rows)))

        skipped, latent_fps = len(self.scheduler.timesteps) - len(timesteps), size.fps / codec.strides.time
        passes: list[bool] = []
        times_in_all = self.scheduler.config.num_train_timesteps
        with self.progress_bar(total=len(timesteps)) as bar:
            for index, t in enumerate(timesteps):
                # some schedulers take two steps for one
                step = (index + skipped) * len(scales) // (len(timesteps) + skipped)
                three = (scales[step], image_scales[step], guidance_rescale)
                before, passes = passes, passes_of(*three[:2])
                if passes != before:
                    forget(self.transformer)
                self._current_timestep = t
                where = {"step_index": index, "num_inference_steps": len(timesteps), "sigma": float(t) / times_in_all}
                prediction = guided_prediction(
                    self.transformer, self.scheduler, latents, t, conditions_of, three, latent_fps, given, noise, where
                )
                clean = latents
                if "pred_original_sample" in watched:
                    clean = clean_estimate(self.scheduler, prediction, latents, t)
                latents = self.scheduler.step(prediction, t, latents, **step_kwargs, return_dict=False)[0]
                clean, latents = (given.put_into(one) if given else one for one in (clean, latents))
                if callback_on_step_end is not None:
                    tensors = {"latents": latents, "pred_original_sample": clean, **by_name(conditions, count)}
                    changed = callback_on_step_end(self, index, t, {name: tensors[name] for name in watched})
                    latents = changed.get("latents", latents)
                    if (retold := replaced(conditions, count, changed)) is not conditions:
                        conditions = retold
                        conditions_of.cache_clear()
                bar.update()
        if output_type == "latent":
            frames = latents
        else:
            pixels = codec.decode(latents)
            frames = present(given.close(pixels) if given else pixels, output_type)
        self.maybe_free_model_hooks()
        return VideoDiTPipelineOutput(frames=frames) if return_dict else (frames,)
