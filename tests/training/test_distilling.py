"""A flow map learned from a teacher: what it begins as, what it is told, and that its runs keep the laws of all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FlowMapEulerDiscreteScheduler, UniPCMultistepScheduler
from processes import launch
from runs import MIXED, losses, run
from standin import LEFT_EMPTY
from tiny import awaken, tiny_pipeline
from torch import Tensor

from videodit import VideoDiT, VideoDiTPipeline
from videodit.diffusion.flow_map import HALF
from videodit.models import Condition
from videodit.models.growth import flow_map_of
from videodit.training import checkpoint
from videodit.training.plan import plan, plans
from videodit.training.trainer import Trainer


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    tiny_pipeline().save_pretrained(folder / "pipeline")
    return folder / "pipeline"


def distilled(folder: Path, teacher: Path, *, config: dict[str, Any] | None = None, **train: Any) -> Any:
    distill = {"teacher": str(teacher), "guidance_scale": [1.0, 5.0]}
    values = {"train": {"distill": distill, "num_inference_steps": None, "guidance_scale": None} | train}
    values |= {key: value for key, value in (config or {}).items() if key != "train"}
    shape = {"model": {"num_layers": None, "mlp_ratio": 4.0}}
    return run(folder, **(values | shape)).model_copy(update={"codec": str(teacher)})


# ----------------------------------------------------------------------------------------------------------- the model


def told(model: VideoDiT, rows: int = 2, frames: int = 3) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(0)
    width = model.config.caption_channels
    return {
        "hidden_states": torch.randn(rows, model.in_channels, frames, 4, 4, generator=g),
        "timestep": torch.tensor([300.0, 900.0]),
        "encoder_hidden_states": torch.randn(rows, 5, width, generator=g),
    }


@pytest.mark.slow
def test_a_map_begins_as_its_teacher_to_any_time_and_at_any_scale_of_guidance(teacher: Path) -> None:
    model = VideoDiT.from_pretrained(teacher, subfolder="transformer")
    student, call = flow_map_of(model), told(model)
    expected = model(**call).sample
    for scale in (1.0, 7.5):
        scales = torch.full((2,), scale)
        for until in (None, call["timestep"], torch.zeros(2), torch.rand(2, 3) * 300):
            found = student(**call, guidance=scales, r_timestep=until).sample
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-5)
    student(**call, guidance=scales, r_timestep=torch.zeros(2)).sample.square().mean().backward()
    for new in (student.delta_embedder, student.guidance_embedder.timestep_embedder):  # silent, and not dead
        assert float(new.linear_2.weight.grad.abs().sum()) > 0


def test_two_times_are_summed_as_anyflow_sums_them(teacher: Path) -> None:
    """(1 - g) of the time's embedding and g of the other's, of diffusers' own class."""
    from diffusers.models.transformers.transformer_anyflow import AnyFlowDualTimestepTextImageEmbedding

    gate = 0.25
    student = awaken(flow_map_of(VideoDiT.from_pretrained(teacher, subfolder="transformer"), gate))
    dim = student.config.num_attention_heads * student.config.attention_head_dim
    theirs = AnyFlowDualTimestepTextImageEmbedding(
        dim=dim, time_freq_dim=256, time_proj_dim=6 * dim, text_embed_dim=8, gate_value=gate, deltatime_type="r"
    )
    own = student.adaln_single
    theirs.time_embedder.load_state_dict(own.emb.timestep_embedder.state_dict())
    theirs.delta_embedder.load_state_dict(student.delta_embedder.state_dict())
    theirs.time_proj.load_state_dict(own.linear.state_dict())
    t, r = torch.tensor([700.0, 20.0]), torch.tensor([300.0, 0.0])
    _, projected = theirs.forward_timestep(t[:, None], r[:, None], torch.zeros(2, 3, 8), 1)
    zeros = student.guidance_embedder.timestep_embedder.linear_2
    torch.nn.init.zeros_(zeros.weight)
    torch.nn.init.zeros_(zeros.bias)
    modulations, *_ = student._times(t, r, None, None, None, 2.0, torch.ones(2))
    torch.testing.assert_close(modulations[0].flatten(), projected.flatten(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"r_timestep": torch.zeros(2)}, "no flow map"),
        ({"guidance": torch.ones(2)}, "takes no guidance"),
    ],
)
def test_what_is_of_a_map_is_refused_elsewhere(teacher: Path, change: dict[str, Tensor], why: str) -> None:
    model = VideoDiT.from_pretrained(teacher, subfolder="transformer")
    with pytest.raises(ValueError, match=why):
        model(**told(model), **change)
    student = flow_map_of(model)
    with pytest.raises(ValueError, match="needs guidance"):
        student(**told(model))
    with pytest.raises(ValueError, match="r_timestep has shape"):
        student(**told(model), guidance=torch.ones(2), r_timestep=torch.zeros(3))
    with pytest.raises(ValueError, match="already"):
        flow_map_of(student)
    with pytest.raises(ValueError, match=r"flow_map_gate=1\.5"):
        VideoDiT(flow_map_gate=1.5)
    with pytest.raises(ValueError, match="flow_map_gate"):
        VideoDiT(norm_type="ada_norm_zero", num_classes=3, flow_map_gate=0.25)


# ------------------------------------------------------------------------------------------------------------ training


@pytest.mark.slow
@pytest.mark.cpu(LEFT_EMPTY)
def test_a_step_moves_the_student_towards_what_its_teacher_implies(teacher: Path, tmp_path: Path) -> None:
    """The target again, by hand from the two models: guided velocity, less the slope of the student along it."""
    trainer = Trainer(distilled(tmp_path, teacher, config={"objective": {"given_frames": {"first": 1.0}}}))
    batch = next(b for step in range(9) for b in trainer.batches[step] if b.size.num_frames > 1)
    assert bool((batch.until <= batch.times).all())
    assert bool(((batch.guidance >= 1) & (batch.guidance <= 5)).all())
    for silent in (trainer.raw_model.transformer.delta_embedder, trainer.raw_model.transformer.guidance_embedder):
        awaken(silent)
    raw, plain = trainer.raw_model, VideoDiT.from_pretrained(teacher, subfolder="transformer")
    text = raw.encoded([*batch.captions, *[""] * len(batch.captions)])
    given, fps = batch.given, batch.size.fps / trainer.codec.strides.time
    t, r = (one[:, None, None, None, None] for one in (batch.times, batch.until))
    noisy = torch.where(given[:, None, :, None, None], batch.shown, (1 - t) * batch.shown + t * batch.noise)
    twice = {"encoder_hidden_states": text.states, "encoder_attention_mask": text.mask, "fps": fps}
    with torch.no_grad():
        both = plain(
            torch.cat([noisy] * 2), torch.cat([batch.times] * 2) * 1000, **twice, frame_mask=torch.cat([given] * 2)
        ).sample
        mine, without = both.chunk(2)
        v = without + batch.guidance[:, None, None, None, None] * (mine - without)
        v = torch.where(given[:, None, :, None, None], 0.0, v)
        rows = len(batch.captions)

        def u(x: Tensor, at: Tensor) -> Tensor:
            return raw.transformer(
                x,
                at * 1000,
                text.states[:rows],
                text.mask[:rows],
                fps=fps,
                frame_mask=given,
                r_timestep=batch.until * 1000,
                guidance=batch.guidance,
            ).sample

        early = torch.maximum(batch.times - HALF, batch.until)
        back = (batch.times - early)[:, None, None, None, None]
        slope = (u(noisy + HALF * v, batch.times + HALF) - u(noisy - back * v, early)) / (HALF + back)
        error = (u(noisy, batch.times) - (v - (t - r) * slope)) ** 2
        counted = ~given[:, None, :, None, None].expand_as(error)
        expected = (error * counted).flatten(1).sum(1) / counted.flatten(1).sum(1)
        torch.testing.assert_close(trainer.errors(batch), expected, rtol=2e-3, atol=1e-5)


@pytest.mark.slow
def test_a_run_ends_in_a_pipeline_of_few_steps(teacher: Path, tmp_path: Path) -> None:
    trainer = Trainer(distilled(tmp_path, teacher))
    before = {name: weight.clone() for name, weight in trainer.teacher.model.state_dict().items()}
    text = {name: weight.clone() for name, weight in trainer.raw_model.text.parts["text_encoder"].state_dict().items()}
    pipe = VideoDiTPipeline.from_pretrained(trainer.train())
    after = trainer.teacher.model.state_dict()
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())
    kept = pipe.text_encoder.state_dict()
    assert all(torch.equal(weight, kept[name]) for name, weight in text.items())
    assert isinstance(pipe.scheduler, FlowMapEulerDiscreteScheduler)
    assert pipe.config.default_num_inference_steps == 4
    assert pipe.config.default_guidance_scale == 4.0  # the teacher's own, within what it learned
    assert {"until", "guidance"} <= {condition.name for condition in pipe.transformer.conditions}
    assert set(losses(tmp_path)) == {1, 2, 3, 4} or losses(tmp_path)


def test_a_scale_that_it_did_not_learn_is_told(teacher: Path, caplog: pytest.LogCaptureFixture) -> None:
    pipe = VideoDiTPipeline.from_pretrained(teacher, scheduler=FlowMapEulerDiscreteScheduler())
    pipe.transformer = flow_map_of(pipe.transformer)
    pipe.register_to_config(trained_guidance=[1.0, 5.0])
    for scale, told in ((5.0, False), (5.5, True), (0.5, True)):
        caplog.clear()
        pipe("a red circle", num_inference_steps=1, guidance_scale=scale, output_type="latent")
        assert ("this model learned 1 to 5" in caplog.text) is told


@pytest.mark.slow
def test_it_is_told_where_each_step_ends_and_runs_once_a_step(teacher: Path) -> None:
    """The pipeline's walk is the map's, step by step: x_r = x_t - (t - r) u."""
    pipe = VideoDiTPipeline.from_pretrained(teacher)
    pipe.transformer = awaken(flow_map_of(pipe.transformer))
    pipe.scheduler = FlowMapEulerDiscreteScheduler(shift=3.0)
    pipe.set_progress_bar_config(disable=True)
    calls: list[dict[str, Any]] = []
    pipe.transformer.register_forward_pre_hook(lambda _, a, k: calls.append(k | {"args": a}), with_kwargs=True)
    size = {"num_frames": 5, "height": 32, "width": 32, "output_type": "latent"}
    start = torch.randn(1, 4, 2, 4, 4)
    made = pipe("a red circle", num_inference_steps=3, guidance_scale=2.5, latents=start, **size).frames
    assert len(calls) == 3
    sigmas = [1.0, 3 * (2 / 3) / (1 + 2 * (2 / 3)), 3 * (1 / 3) / (1 + 2 * (1 / 3)), 0.0]
    x = start
    for call, t, r in zip(list(calls), sigmas[:-1], sigmas[1:], strict=True):
        assert call["guidance"].tolist() == [2.5]
        assert call["r_timestep"].tolist() == pytest.approx([1000 * r], abs=1e-3)
        assert call["args"][1].tolist() == pytest.approx([1000 * t], abs=1e-3)
        told = {k: v for k, v in call.items() if k not in ("args", "return_dict")}
        with torch.no_grad():
            x = x - (t - r) * pipe.transformer(x, call["args"][1], **told).sample
    torch.testing.assert_close(made, x, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="flow map, has its guidance in itself"):
        pipe("a red circle", true_cfg_scale=2.0, **size)
    with pytest.raises(ValueError, match=r"no effect on a flow map, .*: leave it out"):
        pipe("a red circle", negative_prompt="blue", **size)
    for useless in ({"guidance_interval": (0.2, 0.4)}, {"guidance_rescale": 0.7}):
        with pytest.raises(ValueError, match="which is told guidance_scale itself, makes none: leave them out"):
            pipe("a red circle", **useless, **size)
    pipe.scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True)
    with pytest.raises(ValueError, match="UniPCMultistepScheduler makes other steps"):
        pipe("a red circle", **size)


LORA = {"rank": 2, "alpha": 4}
ADAPTERS = [
    pytest.param(None, id="weights"),
    *(pytest.param(LORA | {"base": b}, id=b) for b in ("float32", "bfloat16")),
]


@pytest.mark.slow
@pytest.mark.cpu(LEFT_EMPTY)
@pytest.mark.parametrize("base", ["float32", "bfloat16"])
def test_adapters_and_what_tells_the_second_time_are_all_that_is_trained(
    teacher: Path, tmp_path: Path, base: str
) -> None:
    """What comes out is a map, whole, whose other weights are the teacher's in that precision."""
    trainer = Trainer(distilled(tmp_path, teacher, lora=LORA | {"base": base}, learning_rate=0.05, ema_decay=0.0))
    start = VideoDiT.from_pretrained(teacher, subfolder="transformer")
    kept = flow_map_of(start).state_dict()
    pipe = VideoDiTPipeline.from_pretrained(trainer.train())
    assert not (tmp_path / "pipeline" / "lora").exists()
    found = pipe.transformer.state_dict()
    moved = {name for name in kept if not torch.allclose(found[name].float(), kept[name], rtol=0.01, atol=1e-3)}
    parts = ("to_q", "to_k", "to_v", "to_out", "delta_embedder", "guidance_embedder")
    assert moved
    assert all(any(part in name for part in parts) for name in moved)
    assert {part for part in parts if any(part in name for name in moved)} == {*parts}
    call = told(pipe.transformer) | {"guidance": torch.full((2,), 3.0), "r_timestep": torch.zeros(2)}
    with torch.no_grad():
        live = trainer.raw_model.transformer.eval()(**call).sample
        saved = pipe.transformer(**call).sample
    assert float((saved - live).norm() / live.norm()) < (1e-5 if base == "float32" else 0.05)


@pytest.mark.slow
@pytest.mark.cpu(LEFT_EMPTY)
@pytest.mark.parametrize("lora", ADAPTERS)
def test_resume_law_of_a_distillation(teacher: Path, tmp_path: Path, lora: dict[str, Any] | None) -> None:
    """Two and two steps are four, with clips of several sizes, images, given frames and times of their own."""
    config = {key: value for key, value in MIXED.items() if key != "train"}
    few = {"steps": 4, "checkpoint_every": 2, "log_every": 1, "ema_decay": 0.5, "lora": lora}
    whole = distilled(tmp_path / "whole", teacher, config=config, **few)
    Trainer(whole).train()
    Trainer(distilled(tmp_path / "parts", teacher, config=config, **few | {"steps": 2, "decay_steps": 4})).train()
    Trainer(distilled(tmp_path / "parts", teacher, config=config, **few)).train()
    ends = [checkpoint.load(tmp_path / name / "checkpoints" / "step_00000004")[1] for name in ("whole", "parts")]
    for part in ("model", "average"):
        first, second = (torch.nn.utils.parameters_to_vector(_tensors(end[part])) for end in ends)
        assert torch.equal(first, second)
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")


def _tensors(state: Any) -> list[Tensor]:
    if isinstance(state, Tensor):
        return [state.float()]
    values = state.values() if isinstance(state, dict) else state if isinstance(state, list | tuple) else ()
    return [tensor for value in values for tensor in _tensors(value)]


def train_in_parts(folder: str, teacher: str, config: str, sharding: str) -> str:
    how = {"log_every": 1, "sharding": sharding}
    Trainer(distilled(Path(folder), Path(teacher), config=json.loads(config), **how)).train()
    return ""


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["none", "fsdp"])
def test_world_law_of_a_distillation(teacher: Path, tmp_path: Path, sharding: str) -> None:
    """Weights that are split are gathered for each call, which all processes make, whatever times they draw."""
    config = {"objective": MIXED["objective"]}
    Trainer(distilled(tmp_path / "one", teacher, config=config, log_every=1)).train()
    launch(train_in_parts, tmp_path / "two", teacher, json.dumps(config), sharding, timeout=60)
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert list(one) == list(two)
    assert [two[step] for step in one] == pytest.approx(list(one.values()), rel=1e-4)


@pytest.mark.slow
def test_it_is_planned_as_the_map_that_it_becomes(teacher: Path, tmp_path: Path) -> None:
    made = flow_map_of(VideoDiT.from_pretrained(teacher, subfolder="transformer"))
    found = plan(distilled(tmp_path, teacher))
    assert found.parameters == sum(weight.numel() for weight in made.parameters())
    plain = VideoDiT.from_pretrained(teacher, subfolder="transformer")
    held = 4e-9 * sum(weight.numel() for weight in plain.parameters())
    assert found.memory["teacher"] == pytest.approx(held)  # beside the student, and in the sum of all
    assert found.peak > held + found.memory["weights"] + found.memory["optimizer"]


@pytest.mark.slow
def test_a_run_that_trains_its_teacher_first_is_planned_before_that_is_there(tmp_path: Path) -> None:
    teacher = f"{tmp_path}/run/stage_1/pipeline"
    stages = [{"train": {"steps": 2}}, {"train": {"steps": 2, "distill": {"teacher": teacher}}}]
    plain = {"num_inference_steps": None, "guidance_scale": None}
    first, second = plans(run(tmp_path / "run", stages=stages, train=plain))
    assert second.parameters > first.parameters  # what tells it a second time and a scale
    assert second.memory["teacher"] == pytest.approx(4 * second.parameters / 1e9)


@pytest.mark.parametrize(
    ("train", "config", "why"),
    [
        ({"routing": 0.5}, {}, "take routing out"),
        ({"weights": ["*.attn1.*"]}, {}, "take weights out"),
        ({"lora": {"base": "int8"}}, {}, "a flow map of whole weights, and not of lora.base=int8"),
        ({"distill": {"teacher": "x", "guidance_scale": [4.0, 2.0]}}, {}, "two rising scales"),
        ({}, {"objective": {"prediction_type": "epsilon"}}, "train.distill is of flow"),
    ],
)
def test_what_does_not_go_together_is_named(
    teacher: Path, tmp_path: Path, train: dict[str, Any], config: dict[str, Any], why: str
) -> None:
    with pytest.raises(ValueError, match=why):
        Trainer(distilled(tmp_path, teacher, config=config, **train))


@pytest.mark.slow
def test_a_teacher_may_lie_by_itself_and_is_not_written_over(teacher: Path, tmp_path: Path) -> None:
    VideoDiT.from_pretrained(teacher, subfolder="transformer").save_pretrained(tmp_path / "alone")
    told = {"distill": {"teacher": str(tmp_path / "alone")}, "start_from": str(teacher)}
    assert Trainer(distilled(tmp_path / "run", teacher, **told)).teacher is not None
    own = {"distill": {"teacher": str(tmp_path / "own" / "pipeline")}, "start_from": str(teacher)}
    with pytest.raises(ValueError, match="is what this run writes"):
        distilled(tmp_path / "own", teacher, **own)


@pytest.mark.slow
def test_teacher_and_student_read_the_same_text(teacher: Path, tmp_path: Path) -> None:
    pipe = tiny_pipeline()
    awaken(pipe.text_encoder, seed=5)
    pipe.save_pretrained(tmp_path / "other")
    told = {"start_from": str(tmp_path / "other"), "distill": {"teacher": str(teacher)}}
    with pytest.raises(ValueError, match=r"reads another text encoder than .*other"):
        Trainer(distilled(tmp_path / "run", teacher, **told))
    again = distilled(tmp_path / "again", teacher, config={"text": {"source": str(teacher)}}, **told)
    assert Trainer(again).teacher is not None


@pytest.mark.slow
def test_a_map_is_no_teacher(teacher: Path, tmp_path: Path) -> None:
    pipe = VideoDiTPipeline.from_pretrained(teacher)
    pipe.transformer = flow_map_of(pipe.transformer)
    pipe.save_pretrained(tmp_path / "map")
    with pytest.raises(ValueError, match="is a flow map itself"):
        Trainer(distilled(tmp_path / "run", tmp_path / "map"))
    with pytest.raises(ValueError, match="a flow map, which would lose what it learned in a plain training"):
        Trainer(distilled(tmp_path / "plain", teacher, distill=None, start_from=str(tmp_path / "map")))


@pytest.mark.slow
def test_a_teacher_says_a_velocity_and_is_told_what_its_student_is(teacher: Path, tmp_path: Path) -> None:
    pipe = VideoDiTPipeline.from_pretrained(teacher)
    pipe.register_to_config(prediction_type="epsilon")
    pipe.save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="is a model of epsilon; name one that says a flow's velocity"):
        Trainer(distilled(tmp_path / "run", tmp_path / "other", start_from=str(teacher)))
    pipe = VideoDiTPipeline.from_pretrained(teacher)
    pipe.transformer.add_conditions([Condition("mask", "channels", 64, of="luma")])
    pipe.save_pretrained(tmp_path / "told")
    with pytest.raises(ValueError, match=r"is told \['mask'\], and its student nothing besides by model.conditions"):
        Trainer(distilled(tmp_path / "run2", tmp_path / "told", start_from=str(teacher)))
