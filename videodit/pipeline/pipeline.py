"""A prompt becomes a clip: `VideoDiTPipeline`, a diffusers pipeline of VAE, text encoder, tokenizer, model, scheduler.

    text states of prompt and negative prompt -> seeded noise -> scheduler steps with guidance -> decoded frames

Each clip's noise comes from its own generator, so that the same prompt and seed give the same clip alone or among
others. A folder written by `save_pretrained` loads with `VideoDiTPipeline.from_pretrained(folder)`, or with diffusers'
own `DiffusionPipeline.from_pretrained(folder, trust_remote_code=...)` through the small `pipeline.py` in it, which does
nothing but import this class.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from videodit.caching import check_cache, forget
from videodit.conditions import (
    Told,
    asked,
    check_class,
    has_null,
    of_call,
    of_classes,
    of_size,
    own_of,
    reads_padding,
)
from videodit.controls import controls_of, told_rows
from videodit.diffusion.guidance import scales_of_steps
from videodit.diffusion.schedulers import check_flow_map, check_scheduler, clean_estimate, set_times, steps_of_call
from videodit.geometry import ClipSize
from videodit.given import given_frames, noised_video, repeated_clips
from videodit.memory import check_decode
from videodit.models.linear import remembers
from videodit.pipeline.ends import VideoDiTPipelineOutput, check_call, each_of, noise_of, present
from videodit.pipeline.passes import (
    check_left_out,
    check_skipped,
    guided_prediction,
    passes_of,
    remember,
    with_text_memory,
)
from videodit.pipeline.state import State
from videodit.pipeline.tiles import Tiles
from videodit.pipeline.upsampling import upsampled


class VideoDiTPipeline(State):
    """Text to video with a `VideoDiT`; the parts are those of `Parts`."""

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
        num_inference_steps: int | None = None,
        guidance_scale: float | Sequence[float] | None = None,
        guidance_scale_2: float | None = None,
        true_cfg_scale: float | Sequence[float] = 1.0,
        guidance_rescale: float = 0.0,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        image_guidance_scale: float | Sequence[float] = 1.0,
        skip_guidance_layers: Sequence[int] | None = None,
        skip_layer_guidance_scale: float = 2.8,
        skip_layer_guidance_start: float = 0.01,
        skip_layer_guidance_stop: float = 0.2,
        skipped_blocks: Sequence[tuple[float, float, Sequence[int]]] | None = None,
        conditions: Mapping[str, Any] | None = None,
        condition_scale: Mapping[str, float] | None = None,
        guidance_conditions: Sequence[str] = (),
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        num_videos_per_prompt: int = 1,
        tile_size: int | tuple[int, int] | None = None,
        tile_overlap_factor: float = 0.25,
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
        pooled_prompt_embeds: Tensor | None = None,
        negative_pooled_prompt_embeds: Tensor | None = None,
        output_type: str = "np",
        return_dict: bool = True,
        use_text_mask: bool = True,
        max_sequence_length: int | None = None,
        attention_kwargs: dict[str, Any] | None = None,
        callback_on_step_end: Callable[[Any, int, Any, dict[str, Tensor]], dict[str, Tensor] | None] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> VideoDiTPipelineOutput | tuple[Any]:
        """Makes one clip a prompt, or one a class.

        Args:
            prompt: one or several; never empty. None for a model that is told a class, and with `prompt_embeds`.
            negative_prompt: what to stay away from, one for all or one each; None: the empty prompt, with which the
                model was trained for guidance.
            class_labels: for a model that is told a class, in place of prompts: integers below its `num_classes`.
            num_frames, height, width, fps: of the clip; None: the model's own. One frame is an image.
            num_inference_steps: scheduler steps, at least 1; None: the model's own.
            guidance_scale: 1 or less is none; above, the prompt counts more. A list has one a step. None: the model's
                own.
            guidance_scale_2: of the second of two experts; None: as of the first.
            true_cfg_scale: of a model that is itself told `guidance_scale`, which is then no scale between two passes
                (Flux): that scale, as diffusers' FluxPipeline has it. At 1 a negative prompt is an error.
            guidance_rescale: in [0, 1], against the glare of large scales (Lin et al. 2023, arXiv 2305.08891).
            guidance_interval: from which to which share of the steps there is guidance (Kynkäänniemi et al. 2024, arXiv
                2404.07724); outside, the pass without the prompt is not run.
            image_guidance_scale: as `guidance_scale`, of the given frames (Brooks et al. 2023, arXiv 2211.09800): above
                1, a third pass, without them, is gone away from.
            skip_guidance_layers: numbers of blocks; in some steps there is a further pass, with the prompt but without
                them, and the prediction goes away from it (skip-layer guidance, as diffusers' StableDiffusion3Pipeline
                has it; with blocks along time or space alone: Hyung et al. 2024, arXiv 2411.18664). None: no such pass.
            skip_layer_guidance_scale: how far. skip_layer_guidance_start, skip_layer_guidance_stop: between which
                shares of the steps, neither of them included.
            skipped_blocks: (low, high, numbers): blocks that are left out at noise levels above `low` up to `high`,
                from 0 to 1, for the time that they take. (): none; None: the model's own.
            conditions: by name, what it is told besides (`models.Condition`): as many frames as the clip has, in the
                forms that `image` takes, or numbers; for all clips, or one each.
            condition_scale: by name, of those that a branch reads, by how much of what it adds; None: 1.
            guidance_conditions: names of those that the pass without the prompt is not told either.
            tile_size: side in pixels, or height and width, for sizes far above the model's own: each step is predicted
                tile by tile, and the tiles blended (MultiDiffusion, Bar-Tal et al. 2023, arXiv 2302.08113). None: all
                at once.
            tile_overlap_factor: how much of a tile's side it shares with the next, above 0 and below 1.
            timesteps, sigmas: those of the steps, in place of their number, where the scheduler takes them.
            num_videos_per_prompt: clips a prompt (or class), beside each other in the batch.
            image: the clip's first frame, which stays as it is (`given.pixels_of` says in which forms).
            video: the clip's first frames, as many as the VAE takes by themselves (4k + 1), to go on from; or, with
                `strength`, a whole clip to remake.
            last_image, last_video: what the clip ends with: one frame, which is held for as long as the VAE's step in
                time, or frames, a multiple of that step.
            strength: in (0, 1]: how much noise the video gets before it is made anew; 1 leaves nothing of it.
            generator: a list (one a clip) makes each clip independent of its neighbours; a single one serves all.
            latents: the starting noise, b c f h w, unit variance, instead of a drawn one.
            prompt_embeds, prompt_attention_mask: b m e and b m, in place of prompts, as `encode_prompt` gives them;
                without a mask all tokens count.
            negative_prompt_embeds, negative_prompt_attention_mask: in place of negative prompts: one for all, or one
                each.
            pooled_prompt_embeds, negative_pooled_prompt_embeds: b e', beside them, of families that read some.
            output_type: "np" (what diffusers' `export_to_video` takes), "pt", "pil" or "latent".
            use_text_mask: False lets the model attend to padding, as diffusers' `LattePipeline` does, for its numbers:
                clips then depend on the other prompts.
            max_sequence_length: tokens of a prompt that are read, the special ones among them; None: the tokenizer's.
            attention_kwargs: `{"scale": ...}` for LoRA, as in diffusers.
            callback_on_step_end: called as in diffusers with (pipe, step, timestep, tensors); those of latents, embeds
                and masks that it returns take the place of the old ones. It may set `pipe._guidance_scale`, for the
                steps to come, and `pipe._interrupt`, to leave them out.
            callback_on_step_end_tensor_inputs: names of the tensors: "latents", "pred_original_sample" (the clean
                latents that the step's prediction implies), and embeds and masks by their names above.

        Raises:
            ValueError: an empty prompt, embeds that do not fit, an illegal size (names the nearest legal ones), lists
                of unequal length, given frames that are too many or cannot be given, options out of range, a scheduler
                for other models; or a decode for which there is not memory enough, before anything is made
                (`memory.check_decode`).
        """
        if self.transformer is None:
            raise ValueError("no transformer is loaded: this pipeline encodes prompts, and makes no clips")
        config, model = self.config, self.transformer
        scale = config.default_guidance_scale if guidance_scale is None else guidance_scale
        self._set_scales(scale, true_cfg_scale, bool("".join(negative_prompt or "")))
        self._interrupt = False
        steps = steps_of_call(
            self.scheduler, num_inference_steps, timesteps, sigmas, config.default_num_inference_steps
        )
        prompts = [] if prompt is None else [prompt] if isinstance(prompt, str) else list(prompt)
        wanted = len(next(one for one in (class_labels, prompt_embeds, prompts) if one is not None))
        default, count = self.default_size, wanted * num_videos_per_prompt
        size = ClipSize(
            num_frames if num_frames is not None else default.num_frames,
            height if height is not None else default.height,
            width if width is not None else default.width,
            fps if fps is not None else default.fps,
        )
        shape = (count, *size.latent(self.strides, model.patch_size))
        embeds = (
            *(prompt_embeds, prompt_attention_mask, pooled_prompt_embeds),
            *(negative_prompt_embeds, negative_prompt_attention_mask, negative_pooled_prompt_embeds),
        )
        classes, reads = asked(model, "class"), asked(model, "text")
        check_class(classes, class_labels, bool(prompts) or any(e is not None for e in embeds))
        check_call(generator, latents, shape, num_videos_per_prompt, output_type)
        check_scheduler(self.scheduler, config.prediction_type)
        if asked(model, "until") is not None:
            check_flow_map(self.scheduler)
        check_cache(model, shape[2])
        tiles = None if tile_size is None else Tiles.of_call(self, tile_size, tile_overlap_factor)
        first, last = skip_layer_guidance_start * steps, skip_layer_guidance_stop * steps
        skipping = [step for step in range(steps) if first < step < last]
        skipped = config.default_skipped_blocks or () if skipped_blocks is None else skipped_blocks
        for expert in filter(None, (model, self.transformer_2)):
            if skip_guidance_layers:
                check_skipped(expert, skip_guidance_layers, skipping)
            check_left_out(expert, skipped)
        if output_type != "latent":
            check_decode(self.codec, shape)
        scales = scales_of_steps(self._between, guidance_interval, steps)
        image_scales = scales_of_steps(image_guidance_scale, guidance_interval, steps, "image_guidance_scale")
        seen = tiles.seen(size) if tiles else size
        self.tell_of_size(seen)
        if guidance_scale_2 is not None:
            if self.transformer_2 is None:
                raise ValueError("guidance_scale_2 is of a second expert, and this model has one alone: leave it out")
            scales = scales + scales_of_steps(guidance_scale_2, guidance_interval, steps, "guidance_scale_2")
        guided = any(one != 1 for one in scales + image_scales)
        if self._true_cfg_scale == 1 and (guidance_rescale or tuple(guidance_interval) != (0, 1)):
            raise ValueError(
                "guidance_interval and guidance_rescale are of a pass without the prompt, and this model, which is "
                "told guidance_scale itself, makes none: leave them out"
            )
        if class_labels is None:
            told = of_call(
                lambda: self._text_encoder(max_sequence_length),
                (reads or 0, asked(model, "pooled")),
                prompts,
                negative_prompt,
                embeds,
                guided=guided,
                masked=use_text_mask,
                null=has_null(model),
                whole=reads_padding(model),
            )
        else:
            told = of_classes(class_labels, classes or 0, guided)
        told = told.to(self._execution_device).repeated(num_videos_per_prompt)
        told = replace(told, fps=size.fps / self.strides.time, attention_kwargs=attention_kwargs)
        rows, where = (1 + guided) * count, self._execution_device
        told = told.also(
            size=of_size(seen.height, seen.width, rows, where),
            guidance=self._shown_scale(rows),
        )
        if conditions or own_of(model):
            if never := [one.name for one in own_of(model) if one.name in guidance_conditions and not one.null]:
                raise ValueError(
                    f"guidance_conditions: this model was not trained to do without {never[0]!r}: leave it out of them"
                )
            own = controls_of(self.codec, model, conditions, count, num_videos_per_prompt, size, condition_scale)
            told = told.also(**told_rows(own, guided, guidance_conditions, where))
        watched = getattr(callback_on_step_end, "tensor_inputs", callback_on_step_end_tensor_inputs)
        known = ("latents", "pred_original_sample", *told.texts(count))
        if unknown := [name for name in watched if name not in known]:
            raise ValueError(f"callback_on_step_end_tensor_inputs: {unknown[0]!r} is none of {', '.join(known)}")

        device, dtype = self._execution_device, torch.float32
        frames = -(-shape[2] // model.patch_size[0])
        usual = model.schedule(steps, frames, seen.tokens(self.strides, model.patch_size) // frames)
        set_times(self.scheduler, steps, timesteps, sigmas, device, *usual)
        times = self.scheduler.timesteps
        if latents is None:
            latents = torch.cat([noise_of(shape[1:], g) for g in each_of(generator, count)])
        latents = latents.to(device, dtype)
        given, noise = None, latents
        ends = {"image": image, "video": video, "last_image": last_image, "last_video": last_video}
        ends = {name: repeated_clips(one, num_videos_per_prompt, name) for name, one in ends.items()}
        if strength is not None:
            if image is not None or last_image is not None or last_video is not None:
                raise ValueError("strength remakes a whole video: give no first or last frames beside it")
            latents, times = noised_video(self.codec, self.scheduler, ends["video"], latents, strength, size)
        else:
            late = [name for name, one in ends.items() if "last" in name and one is not None]
            if late and remembers(model):
                raise ValueError(f"{late[0]}: no frame of this model sees a later one, and an end changes none")
            if any(one is not None for one in ends.values()):
                given = given_frames(self.codec, count, size, model.patch_size, **ends)
            latents = latents * getattr(self.scheduler, "init_noise_sigma", 1.0)
        if given is None and any(one != 1 for one in image_scales):
            raise ValueError(
                f"image_guidance_scale={image_guidance_scale} is of given frames: give an image or a video"
            )
        step_kwargs = (
            {"generator": generator} if "generator" in inspect.signature(self.scheduler.step).parameters else {}
        )

        @cache  # the text goes through the model's projections once, not once a step
        def told_of(rows: tuple[int, ...]) -> Told:
            return with_text_memory(model, told.rows(list(rows)))

        passed = len(self.scheduler.timesteps) - len(times)
        passes: list[bool] = []
        times_in_all, self._num_timesteps = self.scheduler.config.num_train_timesteps, len(times)
        with self.progress_bar(total=len(times)) as bar:
            for index, t in enumerate(times):
                if self.interrupt:
                    break
                # some schedulers take two steps for one
                step = (index + passed) * steps // (len(times) + passed)
                if (expert := self.expert(t)) is not model:
                    model, passes = expert, []
                    told_of.cache_clear()
                scale = self._between  # a callback may have set it
                if guidance_scale_2 is not None and model is self.transformer_2:
                    scale = guidance_scale_2
                scales = scales_of_steps(scale, guidance_interval, steps)
                three = (scales[step], image_scales[step], guidance_rescale)
                before, passes = passes, passes_of(*three[:2])
                if len(passes) > 1 and not guided:
                    raise ValueError("_guidance_scale: guidance cannot begin within a call that had none at its start")
                if passes != before:
                    forget(model)
                self._current_timestep = t
                where = {
                    "step_index": index,
                    "num_inference_steps": len(times),
                    "sigma": float(t.float()) / times_in_all,
                }
                skip = (skip_guidance_layers or (), skip_layer_guidance_scale * (step in skipping))
                until = times[index + 1] if index + 1 < len(times) else 0.0
                left_out = [one for low, high, out in skipped if low < where["sigma"] <= high for one in out]
                prediction = guided_prediction(
                    tiles.over(model) if tiles else model,
                    self.scheduler,
                    latents,
                    t,
                    told_of,
                    three,
                    given,
                    noise,
                    where,
                    skip,
                    until,
                    left_out,
                )
                clean = latents
                if "pred_original_sample" in watched:
                    clean = clean_estimate(self.scheduler, prediction, latents, t)
                latents = self.scheduler.step(prediction, t, latents, **step_kwargs, return_dict=False)[0]
                clean, latents = (given.put_into(one) if given else one for one in (clean, latents))
                if callback_on_step_end is not None:
                    tensors = {"latents": latents, "pred_original_sample": clean, **told.texts(count)}
                    before_it = self._guidance_scale
                    changed = callback_on_step_end(self, index, t, {name: tensors[name] for name in watched}) or {}
                    if self._guidance_scale != before_it and self._true_cfg_scale is not None:
                        told = told.also(guidance=self._shown_scale(rows))
                        told_of.cache_clear()
                    latents = changed.get("latents", latents)
                    if (retold := told.retold(count, changed)) is not told:
                        told = retold
                        told_of.cache_clear()
                bar.update()
        remember(model, latents, told_of, guided)
        if output_type == "latent":
            made: Any = latents
        else:
            pixels = self.codec.decode(latents)
            made = present(given.close(pixels) if given else pixels, output_type)
        self.maybe_free_model_hooks()
        return VideoDiTPipelineOutput(frames=made) if return_dict else (made,)

    def upsample(
        self,
        video: Any,
        prompt: str | list[str] | None = None,
        *,
        height: int | None = None,
        width: int | None = None,
        **options: Any,
    ) -> VideoDiTPipelineOutput | tuple[Any]:
        """Makes a clip larger, with a model that learned to (a condition that is `of: small`, a second stage).

        Args:
            video: in the forms that `conditions` take; one, or one a prompt.
            prompt: what it shows, as it was made of.
            height, width: of the large clip; None: the clip's own, times the model's factor.
            options: of a call; `tile_size` is, where the large clip is larger than the model's own, that size.

        Raises:
            ValueError: the model did not learn it; or as a call.
        """
        return self(prompt, **upsampled(self, video, height, width, options))
