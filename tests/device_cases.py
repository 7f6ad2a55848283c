"""What the device law is checked on: each case gives tensors, on the CPU and on the stand-in device.

To be run in a process that does nothing else, since torch cannot forget a device again. What few cases need is
imported there.
"""

from __future__ import annotations

import contextlib
import copy
import json
import traceback
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState, GradientState
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from footage import pan
from runs import SMALL_VAE, TINY, losses, mixed, run
from standin import install
from tiny import awaken, tiny_dit, tiny_pipeline

from videodit.caching import CACHES, set_cache
from videodit.clipset import Request, Sampling, make_clips
from videodit.codec import VideoCodec
from videodit.config import Run
from videodit.diffusion.schedulers import DIFFUSION, FLOW, FLOW_SIGMAS, scheduler_named
from videodit.long import long_clip
from videodit.models.transformer import VideoDiT
from videodit.pipeline import VideoDiTPipeline
from videodit.training.trainer import Trainer
from videodit.training.vae import train_vae
from videodit.video import read_frames

PROMPTS = ["a red circle moving left", "two blue stars"]
Case = Callable[[torch.device, Path], Any]
CASES: dict[str, Case] = {}


def made(pipe: Any, prompts: Any = "a red circle", **options: Any) -> Any:
    options = {
        "num_inference_steps": 2,
        "num_frames": 5,
        "guidance_scale": 2.0,
        "generator": torch.Generator().manual_seed(0),
        **options,
    }
    return pipe(prompts, **options).frames


made_once = cache(tiny_pipeline)


def pipeline(device: torch.device, **parts: Any) -> VideoDiTPipeline:
    pipe = made_once()
    sizes = {name: pipe.config[name] for name in ("default_num_frames", "default_height", "default_width")}
    kept = pipe.components | parts
    own = {name: copy.deepcopy(part) if isinstance(part, torch.nn.Module) else part for name, part in kept.items()}
    own["scheduler"] = copy.copy(kept["scheduler"])
    pipe = VideoDiTPipeline(**own, **sizes).to(device)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def call(**options: Any) -> Case:
    return lambda device, folder: made(pipeline(device), **{k: v() if callable(v) else v for k, v in options.items()})


WAYS: dict[str, dict[str, Any]] = {
    "prompts": {"prompts": PROMPTS, "negative_prompt": "blue"},
    "tensors": {"output_type": "pt"},
    "pictures": {"output_type": "pil"},
    "latents": {"output_type": "latent", "latents": lambda: torch.ones(1, 4, 2, 4, 4)},
    "one frame": {"num_frames": 1},
    "no guidance": {"guidance_scale": 1.0},
    "guidance of each step": {"num_inference_steps": 3, "guidance_scale": [3.0, 1.0, 2.0], "guidance_rescale": 0.7},
    "guidance in an interval": {"guidance_interval": (0.3, 1.0)},
    "an image": {"image": lambda: pan(0, 1)},
    "frames at both ends": {"video": lambda: pan(0, 5), "last_video": lambda: pan(3, 4), "num_frames": 13},
    "a last picture": {"last_image": lambda: PIL.Image.fromarray(pan(0, 1)[0])},
    "a scale for frames": {"image": lambda: pan(0, 1), "image_guidance_scale": 2.0},
    "a video made anew": {"video": lambda: pan(0, 5), "strength": 0.6},
    "states": {
        "prompts": None,
        "prompt_embeds": lambda: torch.linspace(-1, 1, 2 * 5 * 24).view(2, 5, 24),
        "negative_prompt_embeds": lambda: torch.zeros(1, 3, 24),
    },
    "no text mask": {"prompts": PROMPTS, "use_text_mask": False},
    "several a prompt": {"prompts": PROMPTS, "num_videos_per_prompt": 2, "image": lambda: pan(0, 1)},
    "sigmas": {"num_inference_steps": None, "sigmas": [1.0, 0.7, 0.2]},
    "tokens": {"max_sequence_length": 3},
}
CASES |= {f"pipeline: {name}": call(**options) for name, options in WAYS.items()}


def told_a_class(device: torch.device, folder: Path) -> Any:
    told = {"caption_channels": None, "num_classes": 3, "norm_type": "ada_norm_zero"}
    pipe = pipeline(device, text_encoder=None, tokenizer=None, transformer=tiny_dit(**told))
    return made(pipe, None, class_labels=[0, 2])


def told_a_size(device: torch.device, folder: Path) -> Any:
    return made(pipeline(device, transformer=tiny_dit(use_additional_conditions=True, attention_head_dim=24)))


def watched(device: torch.device, folder: Path) -> Any:
    pipe, seen = pipeline(device), []

    def look(pipe: Any, step: int, t: Any, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        seen.extend(tensor.clone() for tensor in tensors.values())
        return {"prompt_embeds": tensors["prompt_embeds"] * 0.9}

    names = pipe._callback_tensor_inputs
    return [made(pipe, callback_on_step_end=look, callback_on_step_end_tensor_inputs=names), *map(cpu, seen)]


def previewed(device: torch.device, folder: Path) -> Any:
    options = {"sampling": Sampling(2, 2.0), "model": "tiny", "preview": 1}
    list(make_clips(pipeline(device), [Request("a red circle", seed=3)], [folder / "a.mkv"], **options))
    return [read_frames(folder / "a.mkv", [0.0, 0.5]), read_frames(folder / "a.preview.png", [0.0])]


def windowed(**options: Any) -> Case:
    def case(device: torch.device, folder: Path) -> Any:
        asked = {"overlap": 5, "num_inference_steps": 2, "guidance_scale": 2.0, **options}
        return np.stack(list(long_clip(pipeline(device), "a red circle", **asked)))

    return case


CASES |= {
    "pipeline: a class": told_a_class,
    "pipeline: a size": told_a_size,
    "pipeline: a callback": watched,
    "clips: preview": previewed,
    "long: windows": windowed(num_frames=13),
    "long: a loop": windowed(num_frames=25, window=13, loop=True),
    "long: an end": windowed(num_frames=21, window=13, last_video=pan(1, 4)[:, :32, :32], image=pan(0, 1)[0, :32, :32]),
}


def walked(name: str, flow: bool) -> Case:
    def case(device: torch.device, folder: Path) -> Any:
        scheduler = FlowMatchEulerDiscreteScheduler() if flow else DDIMScheduler(clip_sample=False)
        pipe = pipeline(device, transformer=tiny_dit(num_layers=1), scheduler=scheduler)
        pipe.scheduler = scheduler_named(name, pipe.scheduler)
        options = {"num_inference_steps": 4, "guidance_scale": 1.0, "num_frames": 5, "output_type": "latent"}
        return [made(pipe, **options), made(pipe, video=pan(0, 5), strength=0.5, **options)]

    return case


CASES |= {f"scheduler: {name}": walked(name, True) for name in FLOW + FLOW_SIGMAS}
CASES |= {f"scheduler: {name}, no flow": walked(name, False) for name in DIFFUSION}


def cached(name: str) -> Case:
    def case(device: torch.device, folder: Path) -> Any:
        pipe = pipeline(device)
        set_cache(pipe, name)
        return made(pipe, PROMPTS, num_inference_steps=8, num_frames=5, output_type="latent")

    return case


CASES |= {f"cache: {name}": cached(name) for name in CACHES}


# --- training --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def accelerated(device: torch.device) -> Iterator[None]:
    """accelerate works on this device, of which it does not know."""
    for state in (AcceleratorState, PartialState, GradientState):
        state._reset_state() if state is not AcceleratorState else state._reset_state(True)
    PartialState(cpu=True).device = device
    yield


def shown(folder: Path) -> Any:
    """What a trained pipeline makes. Its weights say less: Adam takes whole steps along what is noise about zero, as in
    biases of keys, which change no output."""
    pipe = VideoDiTPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return made(pipe, output_type="latent")


SLOW = {"decay_steps": 6, "learning_rate": 2e-4, "muon_learning_rate": 2e-4}  # else bfloat16, in Muon, is what is seen


def trained(device: torch.device, folder: Path) -> Any:
    """With images and clips, given frames, Muon, averages; stopped in the midst and gone on."""
    with accelerated(device):
        Trainer(mixed(folder, steps=2, **SLOW)).train()
        last = Trainer(mixed(folder, steps=4, **SLOW)).train()
    assert list((folder / "averages").rglob("*.safetensors"))
    return [shown(last), np.array(list(losses(folder).values()))]


FEW = {"clips": 8, "validation": 2}


def started_from(folder: Path) -> Path:
    """A pipeline whose weights are all awake, made on the CPU and once for both devices."""
    base = folder / "base" / "pipeline"
    if not base.exists():
        once = {"steps": 1, "sample_every": 9, "validate_every": 9}
        with accelerated(torch.device("cpu")):
            Trainer(run(folder / "base", data=FEW, train=once)).train()
        model = awaken(VideoDiT.from_pretrained(base, subfolder="transformer"), scale=0.05)
        model.save_pretrained(base / "transformer")
    return base


def adapted(device: torch.device, folder: Path) -> Any:
    base = started_from(folder.parent)
    lora = {"start_from": str(base), "lora": {"rank": 2}, "learning_rate": 2e-5, "steps": 2, "log_every": 1}
    with accelerated(device):
        last = Trainer(run(folder / "adapted", data=FEW, train=lora)).train()
    x, t, text = torch.ones(1, 4, 2, 4, 4), torch.tensor([300.0]), torch.ones(1, 5, 24)
    outputs = []
    for where in (device, torch.device("cpu")):  # these adapters, there and here
        model = VideoDiT.from_pretrained(base, subfolder="transformer").to(where)
        model.load_lora_adapter(last / "lora", prefix=None, weight_name="pytorch_lora_weights.safetensors")
        with torch.no_grad():
            outputs.append(cpu(model(x.to(where), t.to(where), text.to(where)).sample))
    return [outputs[0] - outputs[1], np.array(list(losses(folder / "adapted").values()))]


def waiting(device: torch.device, folder: Path) -> Any:
    """Adapters, with what a block is given, and the blocks themselves, in the machine's memory until they work."""
    base = started_from(folder.parent)
    lora = {"start_from": str(base), "lora": {"rank": 2}, "learning_rate": 2e-5, "steps": 2, "log_every": 1}
    shape = {"num_layers": 1, "mlp_ratio": 0.5, "gradient_checkpointing": True}
    offload = () if device.type == "cpu" else ("activations", "blocks")
    with accelerated(device):
        config = run(folder / "waiting", data=FEW, model={**shape, "offload": offload}, train=lora)
        trainer = Trainer(config)
        blocks = trainer.raw_model.transformer.blocks
        weights = [block.ff.net[2].weight for block in blocks]
        assert {weight.device.type for weight in weights} == {"cpu"}
        trainer.train()
        there = [block.ff.net[2].weight.device.type for block in blocks]
        assert there.count(device.type) == (len(there) if device.type == "cpu" else 1)
    return np.array(list(losses(folder / "waiting").values()))


def vae_trained(device: torch.device, folder: Path) -> Any:
    def config(steps: int) -> Run:
        stages = [{"steps": steps, "decay_steps": 4, "batch_size": 2, "learning_rate": 1e-4}]
        vae = SMALL_VAE | {"stages": stages, "checkpoint_every": 2, "optimizer": "adamw"}
        return Run.model_validate({"output": str(folder), **TINY, "data": TINY["data"] | FEW, "vae": vae})

    with accelerated(device):
        train_vae(config(2))
        (folder / "vae").rename(folder / "first")
        last = train_vae(config(4))  # goes on from its last checkpoint
    return list(VideoCodec.from_pretrained(last).vae.state_dict().values())


CASES |= {"training: transformer": trained, "training: LoRA": adapted, "training: VAE": vae_trained}
CASES["training: waiting"] = waiting


# --- networks that measure -------------------------------------------------------------------------------------------


def seen_by_clip(device: torch.device, folder: Path) -> Any:
    from networks import save_clip

    from videodit.evaluation.measure.features import load_clip

    save_clip(folder / "clip")
    clip = load_clip(folder / "clip", device=device)
    for part in clip._model.modules():  # which transformers leaves empty where torch knows a device that it does not
        if hasattr(part, "position_ids"):
            part.position_ids.copy_(torch.arange(part.position_ids.shape[-1], device=device)[None])
    return [clip(frames()), clip.text(["red", "re red"])]


def seen_by_dino(device: torch.device, folder: Path) -> Any:
    from networks import save_dino

    from videodit.evaluation.measure.features import load_dino

    save_dino(folder / "dino")
    return load_dino(folder / "dino", device=device)(frames())


def seen_by_videomae(device: torch.device, folder: Path) -> Any:
    from networks import save_videomae

    from videodit.evaluation.measure.clip_features import load_videomae

    save_videomae(folder / "videomae")
    return load_videomae(folder / "videomae", device=device)(np.concatenate([frames()] * 4)[:16])


def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 40, 60, 3), dtype=np.uint8)


CASES |= {"network: CLIP": seen_by_clip, "network: DINO": seen_by_dino, "network: VideoMAE": seen_by_videomae}


# --- both sides ------------------------------------------------------------------------------------------------------


def cpu(value: Any) -> np.ndarray:
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().double().numpy()
    if isinstance(value, list) and value and isinstance(value[0], PIL.Image.Image):
        return np.stack([np.asarray(picture) for picture in value])
    return np.asarray(value)


def results(case: Case, device: torch.device, folder: Path) -> list[np.ndarray]:
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    found = case(device, folder)
    return [cpu(one) for one in (found if isinstance(found, list) else [found])]


def apart(ours: list[np.ndarray], theirs: list[np.ndarray]) -> float:
    """The largest difference of two arrays, over the largest number of the first or 1."""
    assert len(ours) == len(theirs) > 0
    shapes = [(a.shape, b.shape) for a, b in zip(ours, theirs, strict=True)]
    assert all(a == b for a, b in shapes), shapes
    return max(_apart(a, b) for a, b in zip(ours, theirs, strict=True))


def _apart(a: np.ndarray, b: np.ndarray) -> float:
    difference = np.abs(a.astype(float) - b.astype(float))
    if a.dtype == np.uint8:  # a number halfway may be rounded to either side, here and there
        seldom = (difference > 0).mean() < 1e-3
        return float(difference.max() > 1 or not seldom)
    return float(difference.max(initial=0) / max(1.0, np.abs(a).max(initial=0)))


def tell(folder: Path, names: list[str]) -> None:
    """Writes what became of each case into `told.json`: how far apart the two are, or the error."""
    torch.set_num_threads(1)
    away, said = install(), {}
    for name in names:
        try:
            sides = [results(CASES[name], where, folder / name / where.type) for where in (torch.device("cpu"), away)]
            said[name] = apart(*sides)
        except Exception:
            said[name] = traceback.format_exc()
    (folder / "told.json").write_text(json.dumps(said))
