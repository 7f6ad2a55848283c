"""An image model of any family, extended in time, is trained like any other model."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import PNDMScheduler
from families import flux2
from family_pipelines import PIPELINES, sd3_pipeline, stable_pipeline
from runs import equal, losses, run
from standin import LEFT_EMPTY

from videodit import TimeExtended, VideoDiTPipeline, extend_in_time
from videodit.config.model import Model, Objective, Text
from videodit.models.loading import fresh_extended
from videodit.text import TextEncoder
from videodit.training import checkpoint
from videodit.training.plan import plan
from videodit.training.trainer import Trainer

SHORT = 16  # tokens
LORA = {"rank": 2, "alpha": 2, "targets": ["to_q", "to_k", "to_v"]}
HOW: dict[str, dict[str, Any]] = {  # what is trained, of which family
    "SD3": {"weights": ["time"]},
    "Flux": {"lora": LORA},
    "Z-Image": {},
}


@pytest.fixture(scope="module", params=HOW)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp("family") / "pipeline"
    pipe: Any = extend_in_time(PIPELINES[request.param](), num_frames=5)
    pipe.save_pretrained(folder)
    return request.param, folder


def extended_run(folder: Path, base: Path, how: dict[str, Any], length: int | None = None, **train: Any) -> Any:
    """`length`: tokens of a text, in place of the 256 or 512 of a family that has a T5."""
    start = {"start_from": str(base), "learning_rate": 0.01, "ema_decay": 0.0, "log_every": 1, "schedule": "constant"}
    values = run(
        folder,
        data={"image_share": 0.0 if "weights" in how else 0.4, "height": 16, "width": 16},
        model={"num_layers": None, "mlp_ratio": 4.0, "gradient_checkpointing": True},
        text={"max_length": length},
        objective={"given_frames": {"first": 0.3}},
        train=start | how | train,
    )
    return values.model_copy(update={"codec": str(base)})


@pytest.mark.slow
@pytest.mark.cpu(LEFT_EMPTY)
def test_it_is_trained_goes_on_exactly_and_images_stay(base: tuple[str, Path], tmp_path: Path) -> None:
    name, started = base
    how = HOW[name]
    folder = Trainer(extended_run(tmp_path / "one", started, how, SHORT, steps=4)).train()
    Trainer(extended_run(tmp_path / "two", started, how, SHORT, steps=2)).train()
    Trainer(extended_run(tmp_path / "two", started, how, SHORT, steps=4)).train()
    ends = [checkpoint.load(checkpoint.list_checkpoints(tmp_path / run / "checkpoints")[-1]) for run in ("one", "two")]
    assert equal(*ends)
    assert losses(tmp_path / "one") == losses(tmp_path / "two")

    before, after = (VideoDiTPipeline.from_pretrained(where) for where in (started, folder))
    assert isinstance(after.transformer, TimeExtended)
    assert after.config.text_pipeline == before.config.text_pipeline
    assert after.scheduler.config.shift == before.scheduler.config.shift
    trained = after.transformer.state_dict()
    changed = {key for key, weight in before.transformer.state_dict().items() if not torch.equal(weight, trained[key])}
    if "weights" in how:
        assert changed
        assert all(key.startswith(("blocks.", "time_embeds.")) for key in changed)
    elif "lora" in how:
        assert changed
        assert all(key.endswith("weight") and any(f".{part}." in key for part in LORA["targets"]) for key in changed)
    else:
        assert any(key.startswith("image.") for key in changed)
    for pipe in (before, after):
        pipe.set_progress_bar_config(disable=True)
    size: dict[str, Any] = {"height": 16, "width": 16, "output_type": "latent", "max_sequence_length": SHORT}
    call = size | {"num_inference_steps": 2, "guidance_scale": 2.0}
    clip, still = torch.randn(1, 4, 5, 8, 8), torch.randn(1, 4, 1, 8, 8)
    clips = [pipe("a red circle", latents=clip, num_frames=5, **call).frames for pipe in (before, after)]
    stills = [pipe("a red circle", latents=still, num_frames=1, **call).frames for pipe in (before, after)]
    assert not torch.equal(*clips)
    assert torch.equal(*stills) is ("weights" in how)  # image law
    if "lora" in how:
        before.transformer.load_lora_adapter(folder / "lora")
        found = before("a red circle", latents=clip, num_frames=5, **call).frames
        torch.testing.assert_close(found, clips[1], atol=1e-5, rtol=1e-5)
        theirs = PIPELINES[name]()  # what its own pipeline reads of it makes its stills
        theirs.set_progress_bar_config(disable=True)
        theirs.load_lora_weights(folder / "lora")
        theirs.fuse_lora()
        for key, weight in theirs.transformer.named_parameters():
            if key.endswith("attn.to_q.base_layer.weight"):
                mine = after.transformer.get_parameter(f"image.{key.replace('.base_layer', '')}")
                torch.testing.assert_close(weight, mine, atol=1e-6, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.cpu(LEFT_EMPTY)
def test_another_objective_than_its_scheduler_is_named(base: tuple[str, Path], tmp_path: Path) -> None:
    config = extended_run(tmp_path, base[1], {}, SHORT, steps=1)
    config = config.model_copy(update={"objective": Objective(prediction_type="epsilon")})
    with pytest.raises(ValueError, match=r"objective\.prediction_type: .* predicts 'epsilon'"):
        Trainer(config)


@pytest.mark.slow
def test_a_run_of_it_is_planned(base: tuple[str, Path], tmp_path: Path) -> None:
    name, started = base
    found = plan(extended_run(tmp_path, started, HOW[name], SHORT, steps=4))
    pipe = VideoDiTPipeline.from_pretrained(started)
    whole = sum(p.numel() for p in pipe.transformer.parameters())
    assert found.parameters > whole if "lora" in HOW[name] else found.parameters == whole
    assert found.peak > 0
    assert str(found)


IMAGES: dict[str, dict[str, Any]] = {
    "UNet": {
        "_class_name": "UNet2DConditionModel",
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": [16, 32],
        "layers_per_block": 1,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
        "cross_attention_dim": 24,
        "attention_head_dim": 8,
        "norm_num_groups": 8,
    },
    "Sana": {
        "_class_name": "SanaTransformer2DModel",
        "in_channels": 4,
        "out_channels": 4,
        "num_attention_heads": 4,
        "attention_head_dim": 16,
        "num_layers": 2,
        "num_cross_attention_heads": 4,
        "cross_attention_head_dim": 16,
        "cross_attention_dim": 64,
        "caption_channels": 24,
        "sample_size": 8,
    },
}


def from_nothing(folder: Path, image: dict[str, Any], **train: Any) -> Any:
    shape = {"num_layers": None, "mlp_ratio": 4.0, "image": image}
    return run(folder, model=shape, train={"log_every": 1, "learning_rate": 0.01} | train)


@pytest.mark.slow
@pytest.mark.parametrize("name", IMAGES)
def test_an_image_model_is_trained_from_nothing(name: str, tmp_path: Path) -> None:
    folder = Trainer(from_nothing(tmp_path, IMAGES[name], steps=3)).train()
    pipe = VideoDiTPipeline.from_pretrained(folder)
    assert type(pipe.transformer.image).__name__ == IMAGES[name]["_class_name"]
    assert pipe.transformer.config.sample_fps == 2.0  # 8 a second, through a VAE of four frames
    assert list(losses(tmp_path)) == [1, 2, 3]


@pytest.mark.slow
def test_an_image_model_learns_pictures_then_its_time_blocks_clips_and_pictures_stay(tmp_path: Path) -> None:
    """Two stages that both say what the image model is; one that says something else than the first made is named."""
    stages: Any = [
        {"data": {"num_frames": 1}, "train": {"steps": 2}},
        {"data": {"num_frames": 5}, "train": {"steps": 2, "weights": ["time"]}},
    ]
    shape = {"num_layers": None, "mlp_ratio": 4.0, "image": IMAGES["Sana"]}
    config = run(tmp_path, data={"image_share": 0.0}, model=shape, stages=stages, train={"learning_rate": 0.01})
    first, second = (VideoDiTPipeline.from_pretrained(Trainer(leg).train()).transformer for leg in config.legs())
    for name, weight in first.image.state_dict().items():
        assert torch.equal(weight, second.image.state_dict()[name])
    assert any(
        not torch.equal(a, b) for a, b in zip(first.blocks.parameters(), second.blocks.parameters(), strict=True)
    )
    leg = config.legs()[1]
    for change, why in (
        ({"image": IMAGES["Sana"] | {"num_layers": 1}}, "a transformer of image.num_layers 2, but the configuration"),
        (
            {"image": IMAGES["Sana"] | {"_class_name": "DiTTransformer2DModel"}},
            "a transformer of image._class_name Sana",
        ),
        ({"time_every": 2}, "a transformer of time_every 1, but the configuration wants 2"),
    ):
        other = leg.model_copy(
            update={
                "model": leg.model.model_copy(update=change),
                "output": str(tmp_path / "other"),
                "codec": str(tmp_path / "vae"),
            }
        )
        with pytest.raises(ValueError, match=re.escape(why)):
            Trainer(other)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("image", "why"),
    [
        ({"_class_name": "Latte"}, "model.image: Latte is no image transformer that is known here"),
        (IMAGES["Sana"] | {"layers": 3}, "model.image: SanaTransformer2DModel has no 'layers'; it has in_channels"),
        (IMAGES["Sana"] | {"in_channels": 8}, "model.image: a transformer of 8 latent channels, but the VAE has 4"),
        (IMAGES["Sana"] | {"caption_channels": 32}, "model.image: a transformer that reads states of 32"),
    ],
)
def test_an_image_model_that_does_not_fit_is_named(image: dict[str, Any], why: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(why)):
        Trainer(from_nothing(tmp_path, image, steps=1))


def test_an_image_model_has_a_shape_of_its_own() -> None:
    with pytest.raises(ValueError, match="size is of a VideoDiT"):
        Model(size="S", image=IMAGES["Sana"])
    with pytest.raises(ValueError, match="time_every is of an image model"):
        Model(time_every=2)


@pytest.mark.slow
@pytest.mark.cpu(LEFT_EMPTY)
def test_it_is_noised_along_the_path_that_its_own_scheduler_walks_back(tmp_path: Path) -> None:
    """A U-Net as Stable Diffusion 1 has it: betas of .00085 to .012, whose roots are even."""
    scheduler = PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
    )
    ours: Any = extend_in_time(stable_pipeline(scheduler), num_frames=5)
    ours.save_pretrained(tmp_path / "base")
    config = extended_run(tmp_path / "run", tmp_path / "base", {}, steps=1)
    trainer = Trainer(config.model_copy(update={"objective": Objective(prediction_type="epsilon")}))
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    wanted = torch.cumprod(1 - betas, dim=0)
    torch.testing.assert_close(trainer.path.alphas_cumprod.double(), wanted, atol=1e-5, rtol=1e-4)  # type: ignore[attr-defined]
    folder = trainer.train()
    again = VideoDiTPipeline.from_pretrained(folder)
    assert again.scheduler.config.beta_schedule == "scaled_linear"
    assert again.config.default_guidance_scale == 2.5  # what the run says


@pytest.mark.slow
@pytest.mark.cpu(LEFT_EMPTY)
def test_what_a_run_does_not_say_is_taken_from_where_it_starts(base: tuple[str, Path], tmp_path: Path) -> None:
    config = extended_run(tmp_path, base[1], {}, SHORT, steps=1)
    config = config.model_copy(
        update={"train": config.train.model_copy(update={"num_inference_steps": None, "guidance_scale": None})}
    )
    started = VideoDiTPipeline.load_config(base[1])
    with Trainer(config).averaged_pipeline(to_save=True) as pipe:
        assert pipe is not None
        for name in ("default_num_inference_steps", "default_guidance_scale"):
            assert pipe.config[name] == started[name]


@pytest.mark.slow
@pytest.mark.cpu(LEFT_EMPTY)
def test_a_family_that_does_without_its_largest_encoder_is_trained_without_it(tmp_path: Path) -> None:
    """SD3 without T5, which takes most of what it weighs."""
    theirs = sd3_pipeline()
    theirs.register_modules(text_encoder_3=None, tokenizer_3=None)
    ours: Any = extend_in_time(theirs, num_frames=5)
    ours.save_pretrained(tmp_path / "base")
    config = extended_run(tmp_path / "run", tmp_path / "base", {"weights": ["time"]}, steps=1)
    assert plan(config).text > 0
    again = VideoDiTPipeline.from_pretrained(Trainer(config).train())
    assert again.text_encoder_3 is None
    wanted = theirs.encode_prompt("a red circle", None, None, do_classifier_free_guidance=False)[0]
    torch.testing.assert_close(again.encode_prompt("a red circle")[0], wanted, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_a_model_that_was_saved_without_a_pipeline_is_gone_on_from(tmp_path: Path) -> None:
    """With the text encoder, VAE and objective that the run names; in a folder of its own, or as its `transformer`."""
    model = fresh_extended(IMAGES["Sana"], 1, 2.0)
    model.save_pretrained(tmp_path / "alone")
    model.save_pretrained(tmp_path / "pipe" / "transformer")
    TextEncoder.from_captions(["a red circle"], width=24, depth=1, max_length=12, seed=0).save_pretrained(tmp_path)

    def started(start: str, text: dict[str, Any]) -> Any:
        train = {"start_from": str(tmp_path / start), "learning_rate": 0.01, "steps": 1, "weights": ["time"]}
        shape = {"num_layers": None, "mlp_ratio": 4.0}
        config = run(tmp_path / "run", data={"image_share": 0.0}, model=shape, text=text, train=train)
        return config.model_copy(update={"objective": Objective(shift=3.0), "text": Text(**text)})

    for start in ("alone", "pipe"):
        found = plan(started(start, {"source": str(tmp_path)}))
        assert found.parameters == sum(p.numel() for p in model.parameters())
    again = VideoDiTPipeline.from_pretrained(Trainer(started("alone", {"source": str(tmp_path)})).train())
    assert again.scheduler.config.shift == 3.0
    for key, weight in model.image.state_dict().items():
        assert torch.equal(again.transformer.image.state_dict()[key], weight)
    with pytest.raises(ValueError, match="alone: no text encoder"):
        Trainer(started("alone", {}))


@pytest.mark.slow
def test_a_family_that_attends_to_padding_is_not_trained_on_one_encoder(tmp_path: Path) -> None:
    image = {key: value for key, value in flux2().config.items() if not key.startswith("_")}
    shape = {"_class_name": "Flux2Transformer2DModel", **image, "in_channels": 4, "joint_attention_dim": 24}
    with pytest.raises(ValueError, match=r"model\.image: a transformer that attends to padding"):
        Trainer(from_nothing(tmp_path, shape, steps=1))
