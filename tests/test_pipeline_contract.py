"""The pipeline keeps diffusers' contract: what its users' habits and its own callbacks count on."""

from __future__ import annotations

import inspect
import logging
import threading
import warnings
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from diffusers import (
    AutoModel,
    DDIMScheduler,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    FasterCacheConfig,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchLCMScheduler,
    PyramidAttentionBroadcastConfig,
    TaylorSeerCacheConfig,
    TextKVCacheConfig,
    UniPCMultistepScheduler,
)
from diffusers.callbacks import MultiPipelineCallbacks, SDCFGCutoffCallback
from diffusers.utils import export_to_video
from footage import pan
from tiny import tiny_pipeline

from videodit.config import Data
from videodit.models.transformer import VideoDiT
from videodit.pipeline import VideoDiTPipeline
from videodit.pipeline.folders import own_class
from videodit.video import read_frames

PROMPTS = ["a red circle moving left", "two blue stars"]


@pytest.fixture
def pipe() -> VideoDiTPipeline:
    """One of its own: what is set on it stays."""
    return tiny_pipeline()


def latents(pipe: VideoDiTPipeline, prompts: Any = "a red circle", **options: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    options = {"num_inference_steps": 4, "guidance_scale": 3.0, "output_type": "latent", **options}
    return pipe(prompts, generator=generator, **options).frames


# --- what comes out --------------------------------------------------------------------------------------------------


def test_frames_are_what_export_to_video_takes(pipe: VideoDiTPipeline, tmp_path: Path) -> None:
    frames = pipe("a red circle", num_inference_steps=1).frames[0]
    assert isinstance(frames, np.ndarray)
    assert frames.shape == (9, 32, 32, 3)
    export_to_video(frames, str(tmp_path / "clip.mp4"), fps=8)
    assert read_frames(tmp_path / "clip.mp4", [0.0]).shape == (1, 32, 32, 3)


# --- how a folder is sampled -----------------------------------------------------------------------------------------


def test_a_call_takes_the_steps_and_guidance_of_its_folder(pipe: VideoDiTPipeline, tmp_path: Path) -> None:
    own = {"default_num_inference_steps": 3, "default_guidance_scale": 2.0}
    sizes = {name: pipe.config[name] for name in ("default_num_frames", "default_height", "default_width")}
    VideoDiTPipeline(**pipe.components, **sizes, **own).save_pretrained(tmp_path)
    loaded = VideoDiTPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    asked = {"num_inference_steps": 3, "guidance_scale": 2.0}
    assert torch.equal(latents(loaded, num_inference_steps=None, guidance_scale=None), latents(loaded, **asked))
    assert loaded.num_timesteps == 3


def test_a_pipeline_that_is_told_no_size_makes_clips_of_the_size_that_a_run_trains_at() -> None:
    own, run = inspect.signature(VideoDiTPipeline.__init__).parameters, Data()
    for name in ("num_frames", "height", "width", "fps"):
        assert own[f"default_{name}"].default == getattr(run, name)


# --- where parts are missing -----------------------------------------------------------------------------------------


def test_prompts_are_encoded_without_a_transformer_and_made_to_latents_without_a_vae(
    pipe: VideoDiTPipeline, tmp_path: Path
) -> None:
    pipe.save_pretrained(tmp_path)
    load = partial(VideoDiTPipeline.from_pretrained, tmp_path)
    encodes = load(transformer=None, vae=None)
    embeds = encodes.encode_prompt(PROMPTS, negative_prompt="blue")
    for one, same in zip(embeds, pipe.encode_prompt(PROMPTS, negative_prompt="blue"), strict=True):
        assert torch.equal(one, same)
    with pytest.raises(ValueError, match="no transformer is loaded"):
        encodes("a red circle")
    makes = load(vae=None, text_encoder=None, tokenizer=None)
    makes.set_progress_bar_config(disable=True)
    names = ("prompt_embeds", "prompt_attention_mask", "negative_prompt_embeds", "negative_prompt_attention_mask")
    made = latents(makes, None, **dict(zip(names, embeds, strict=True)))
    assert torch.equal(made, latents(pipe, PROMPTS, negative_prompt="blue"))
    for options in ({"output_type": "np"}, {"image": pan(0, 1)}):
        with pytest.raises(ValueError, match="no VAE is loaded: ask for output_type='latent', and give no frames"):
            latents(makes, None, prompt_embeds=embeds[0], guidance_scale=1.0, **options)


def test_from_pipe_keeps_every_part_and_the_folders_own_numbers(pipe: VideoDiTPipeline) -> None:
    other = VideoDiTPipeline.from_pipe(pipe, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0))
    for name in ("vae", "text_encoder", "tokenizer", "transformer"):
        assert getattr(other, name) is getattr(pipe, name)
    assert other.default_size == pipe.default_size
    assert other.scheduler.config.shift == 3.0


@pytest.mark.slow
def test_diffusers_finds_the_class_by_the_folder_alone(pipe: VideoDiTPipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path)
    theirs = DiffusionPipeline.from_pretrained(tmp_path, **{"trust_remote_code": True})
    assert isinstance(theirs, VideoDiTPipeline)
    theirs.set_progress_bar_config(disable=True)
    assert torch.equal(latents(theirs), latents(pipe))
    assert isinstance(AutoModel.from_pretrained(str(tmp_path), subfolder="transformer"), VideoDiT)
    (tmp_path / "pipeline.py").write_text("raise SystemExit('ran')")  # ours runs no code of a folder
    assert isinstance(VideoDiTPipeline.from_pretrained(tmp_path), VideoDiTPipeline)
    with pytest.raises(ValueError, match="trust_remote_code"):
        DiffusionPipeline.from_pretrained(tmp_path)


@pytest.mark.parametrize("known", [["pipeline", "Other"], "VideoDiTPipeline", "LattePipeline", None])
def test_an_index_that_names_no_file_of_ours_is_read_as_it_stands(known: Any) -> None:
    assert own_class({"_class_name": known, "vae": 1}, "Own") == {"_class_name": known, "vae": 1}
    ours = {"_class_name": ["pipeline", "VideoDiTPipeline"], "vae": 1}
    assert own_class(ours, "Own") == {"_class_name": "Own", "vae": 1}


def test_loading_and_sampling_warn_of_nothing(
    pipe: VideoDiTPipeline, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pipe.register_to_config(id2label={0: "a carp"})
    pipe.save_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        latents(VideoDiTPipeline.from_pretrained(tmp_path), num_inference_steps=1)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_the_vae_is_told_to_tile_and_slice_through_the_pipeline(pipe: VideoDiTPipeline) -> None:
    pipe.enable_vae_tiling()
    pipe.enable_vae_slicing()
    assert (pipe.vae.use_tiling, pipe.vae.use_slicing) == (True, True)
    pipe.disable_vae_tiling()
    pipe.disable_vae_slicing()
    assert (pipe.vae.use_tiling, pipe.vae.use_slicing) == (False, False)


# --- what a call is asked for ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_several_videos_a_prompt_are_those_of_the_prompt_so_many_times(pipe: VideoDiTPipeline) -> None:
    image = np.stack([pan(seed, 1) for seed in (1, 2)])
    for given in ({}, {"image": image}, {"negative_prompt": ["blue", "red"]}):
        twice = {name: [v for v in value for _ in range(2)] for name, value in given.items()}
        noise = torch.randn(4, 4, 3, 4, 4, generator=torch.Generator().manual_seed(1))
        several = latents(pipe, PROMPTS, num_videos_per_prompt=2, latents=noise, **given)
        each = latents(pipe, [PROMPTS[0]] * 2 + [PROMPTS[1]] * 2, latents=noise, **twice)
        assert torch.equal(several, each)
    embeds = pipe.encode_prompt(PROMPTS)
    options = {"prompt_embeds": embeds[0], "prompt_attention_mask": embeds[1], "latents": noise}
    torch.testing.assert_close(
        latents(pipe, None, num_videos_per_prompt=2, **options),
        latents(pipe, PROMPTS, num_videos_per_prompt=2, latents=noise),
    )
    with pytest.raises(ValueError, match="num_videos_per_prompt=0"):
        latents(pipe, num_videos_per_prompt=0)


@pytest.mark.slow
def test_sigmas_and_timesteps_are_those_of_the_steps(pipe: VideoDiTPipeline) -> None:
    plain = latents(pipe, num_inference_steps=4)
    sigmas = pipe.scheduler.sigmas[:-1].tolist()
    timesteps = pipe.scheduler.timesteps.tolist()
    torch.testing.assert_close(latents(pipe, num_inference_steps=None, sigmas=sigmas), plain)
    torch.testing.assert_close(latents(pipe, num_inference_steps=None, timesteps=timesteps), plain)
    assert (latents(pipe, num_inference_steps=None, sigmas=[1.0, 0.9, 0.2, 0.1]) - plain).abs().max() > 1e-3
    latents(pipe, num_inference_steps=None, sigmas=[1.0, 0.5], guidance_scale=[3.0, 2.0])
    assert pipe.num_timesteps == 2
    with pytest.raises(ValueError, match="timesteps and sigmas"):
        latents(pipe, num_inference_steps=None, sigmas=sigmas, timesteps=timesteps)
    with pytest.raises(ValueError, match="num_inference_steps=4, but 2 sigmas"):
        latents(pipe, num_inference_steps=4, sigmas=[1.0, 0.5])
    pipe.scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True)
    with pytest.raises(ValueError, match="timesteps: UniPCMultistepScheduler takes no timesteps"):
        latents(pipe, num_inference_steps=None, timesteps=timesteps)


def test_max_sequence_length_cuts_this_calls_prompts_alone(pipe: VideoDiTPipeline) -> None:
    own = pipe.tokenizer.model_max_length
    with pytest.warns(UserWarning, match="cut"):
        short = pipe.encode_prompt("a red circle moving left", max_sequence_length=3)
    assert short[0].shape[1] == 3
    assert pipe.tokenizer.model_max_length == own
    with pytest.warns(UserWarning, match="cut"):
        cut = latents(pipe, "a red circle moving left", max_sequence_length=3)
    assert torch.equal(cut, latents(pipe, "a red"))
    assert latents(pipe, "a red circle moving left").shape == cut.shape


def test_embeds_alone_are_seen_whole(pipe: VideoDiTPipeline) -> None:
    told, untold = torch.randn(2, 5, 24), torch.randn(1, 3, 24)
    masks = {"prompt_attention_mask": torch.ones(2, 5), "negative_prompt_attention_mask": torch.ones(1, 3)}
    embeds = {"prompt_embeds": told, "negative_prompt_embeds": untold}
    assert torch.equal(latents(pipe, None, **embeds), latents(pipe, None, **embeds, **masks))


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """The address of a folder."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_an_image_is_a_picture_its_file_or_its_address(
    pipe: VideoDiTPipeline, tmp_path: Path, served: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = PIL.Image.fromarray(pan(1, 1)[0, :32, :32])
    picture.save(tmp_path / "first.png")
    wanted = latents(pipe, image=picture)
    for source in (str(tmp_path / "first.png"), tmp_path / "first.png", f"{served}/first.png"):
        assert torch.equal(latents(pipe, image=source), wanted)
    (tmp_path / "text.png").write_text("no picture")
    for name, why in (("none.png", "cannot be fetched.*404"), ("text.png", "no picture")):
        with pytest.raises(ValueError, match=f"last_image: {served}/{name} .*{why}"):
            latents(pipe, last_image=f"{served}/{name}")
    monkeypatch.setattr("videodit.given.LARGEST", 4)
    with pytest.raises(ValueError, match=r"first.png is larger than"):
        latents(pipe, image=f"{served}/first.png")


# --- callbacks -------------------------------------------------------------------------------------------------------


def rows_under(pipe: VideoDiTPipeline, callback: Any, **options: Any) -> list[int]:
    """How many rows each call of the model has under a callback."""
    seen: list[int] = []
    hook = pipe.transformer.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    latents(pipe, callback_on_step_end=callback, **options)
    hook.remove()
    return seen


def test_a_callback_that_sets_the_guidance_scale_is_heard(pipe: VideoDiTPipeline) -> None:
    def end(pipe: Any, step: int, t: Any, tensors: Any) -> None:
        assert pipe.guidance_scale == (3.0 if step < 2 else 0.0)
        assert pipe.do_classifier_free_guidance == (step < 2)
        assert pipe.num_timesteps == 4
        if step == 1:
            pipe._guidance_scale = 0.0

    assert rows_under(pipe, end) == [2, 2, 1, 1]
    assert rows_under(pipe, lambda *_: None) == [2] * 4  # the next call begins anew
    assert rows_under(pipe, SDCFGCutoffCallback(cutoff_step_ratio=0.5)) == [2, 2, 2, 1]
    both = MultiPipelineCallbacks([SDCFGCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=0)])
    assert rows_under(pipe, both) == [2, 1, 1, 1]


def test_no_guidance_is_the_pass_with_the_prompt_alone(pipe: VideoDiTPipeline) -> None:
    """As in diffusers' pipelines, where 0 is what turns guidance off."""
    assert torch.equal(latents(pipe, guidance_scale=0.0), latents(pipe, guidance_scale=1.0))


@pytest.mark.parametrize(("scale", "guided"), [(1.0, False), (1.01, True), ([1.0, 3.0], True), ([1.0, 0.5], False)])
def test_there_is_guidance_where_some_step_has_a_scale_above_one(
    pipe: VideoDiTPipeline, scale: Any, guided: bool
) -> None:
    pipe._guidance_scale = scale
    assert pipe.do_classifier_free_guidance == guided


def test_guidance_does_not_begin_where_no_negative_prompt_was_encoded(pipe: VideoDiTPipeline) -> None:
    def begin(pipe: Any, *_: Any) -> None:
        pipe._guidance_scale = 4.0

    with pytest.raises(ValueError, match="guidance cannot begin within a call that had none"):
        latents(pipe, guidance_scale=1.0, callback_on_step_end=begin)


def test_an_interrupted_call_gives_what_it_has(pipe: VideoDiTPipeline) -> None:
    seen: list[torch.Tensor] = []

    def stop(pipe: Any, step: int, t: Any, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        seen.append(tensors["latents"])
        pipe._interrupt = step == 1
        return {}

    assert torch.equal(latents(pipe, callback_on_step_end=stop), seen[1])
    assert len(seen) == 2
    assert len(rows_under(pipe, None)) == 4


def test_what_a_callback_gives_back_in_another_shape_is_refused(pipe: VideoDiTPipeline) -> None:
    with pytest.raises(ValueError, match=r"gave back prompt_embeds of shape \(1, .* in place of \(2,"):
        latents(pipe, PROMPTS, callback_on_step_end=SDCFGCutoffCallback(cutoff_step_ratio=0.5))


def test_every_tensor_that_the_class_promises_is_given(pipe: VideoDiTPipeline) -> None:
    names: list[str] = []

    def look(pipe: Any, step: int, t: Any, tensors: dict[str, torch.Tensor]) -> None:
        names[:] = tensors

    latents(pipe, callback_on_step_end=look, callback_on_step_end_tensor_inputs=pipe._callback_tensor_inputs)
    assert names == pipe._callback_tensor_inputs


# --- what does not fit -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "scheduler",
    [
        DDIMScheduler(),
        EulerDiscreteScheduler(),
        UniPCMultistepScheduler(use_flow_sigmas=True),
        UniPCMultistepScheduler(prediction_type="flow_prediction"),
        DDIMScheduler.from_config(FlowMatchEulerDiscreteScheduler().config),
    ],
    ids=lambda s: type(s).__name__,
)
def test_a_flow_model_refuses_schedulers_of_other_paths(pipe: VideoDiTPipeline, scheduler: Any) -> None:
    pipe.scheduler = scheduler
    with pytest.raises(ValueError, match=f"{type(scheduler).__name__} takes .* this model predicts 'flow': take Flow"):
        latents(pipe)


@pytest.mark.slow
def test_a_folder_remembers_what_its_model_predicts(pipe: VideoDiTPipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path / "flow")
    with pytest.raises(ValueError, match="this model predicts 'flow'"):
        latents(VideoDiTPipeline.from_pretrained(tmp_path / "flow", scheduler=DDIMScheduler()))
    VideoDiTPipeline(**pipe.components | {"scheduler": DDIMScheduler()}).save_pretrained(tmp_path / "epsilon")
    other = VideoDiTPipeline.from_pretrained(tmp_path / "epsilon", scheduler=FlowMatchEulerDiscreteScheduler())
    with pytest.raises(ValueError, match="for 'flow', but this model predicts 'epsilon'"):
        latents(other)
    other.scheduler = DDIMScheduler(prediction_type="v_prediction")
    with pytest.raises(ValueError, match="for 'v_prediction', but this model predicts 'epsilon'"):
        latents(other)


def test_other_schedulers_of_flow_are_taken(pipe: VideoDiTPipeline) -> None:
    class Own(FlowMatchEulerDiscreteScheduler):
        pass

    plain = latents(pipe)
    pipe.scheduler = Own()
    assert torch.equal(latents(pipe), plain)
    pipe.scheduler = FlowMatchLCMScheduler()
    assert latents(pipe).isfinite().all()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (FasterCacheConfig(), "FasterCacheConfig does not fit"),
        (TextKVCacheConfig(), "TextKVCacheConfig does not fit"),
        (TaylorSeerCacheConfig(), "TaylorSeerCacheConfig finds nothing to work on in VideoDiT"),
        (TaylorSeerCacheConfig(cache_identifiers=["layers"]), "TaylorSeerCacheConfig finds nothing"),
        (
            PyramidAttentionBroadcastConfig(
                spatial_attention_block_skip_range=2,
                spatial_attention_block_identifiers=("layers",),
                current_timestep_callback=lambda: 500,
            ),
            "PyramidAttentionBroadcastConfig finds nothing",
        ),
    ],
)
def test_a_cache_that_would_do_nothing_or_harm_is_refused(pipe: VideoDiTPipeline, config: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pipe.transformer.enable_cache(config)
    assert not pipe.transformer.is_cache_enabled
    pipe.transformer.enable_cache(TaylorSeerCacheConfig(use_lite_mode=True))
    assert latents(pipe).isfinite().all()
