"""Training from the configuration to the pipeline folder, on a tiny run of the shapes world."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from diffusers.models.autoencoders.autoencoder_kl_wan import WanResidualBlock, WanRMS_norm
from readme import tool
from runs import SMALL_VAE, TINY, VAE_RUN, equal, run
from safetensors.torch import load_file
from tiny import tiny_dit, tiny_wan

from videodit import TextEncoder, VideoDiTPipeline
from videodit.codec import VideoCodec
from videodit.config import Run
from videodit.data.clips import open_data
from videodit.training import checkpoint
from videodit.training.inputs import load_codec
from videodit.training.trainer import Trainer
from videodit.training.vae import evaluate_vae, learning_rates, quicken, train_vae
from videodit.video.writer import write_video


def names_of(trainer: Trainer, step: int) -> list[str]:
    return [name for piece in trainer.batches[step] for name in piece.names]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    (folder / ".pipeline").mkdir()
    (folder / ".pipeline" / "left.txt").write_text("by a run that was killed")
    return Trainer(run(folder)).train()


@pytest.mark.slow
def test_a_run_leaves_losses_samples_checkpoints_and_a_pipeline(trained: Path) -> None:
    folder = trained.parent
    lines = [json.loads(line) for line in (folder / "losses.jsonl").read_text().splitlines()]
    assert any("validation_loss" in line for line in lines)
    assert any("loss_clip" in line for line in lines)
    assert list(folder.glob("trackers/videodit/events*"))
    assert (folder / "samples" / "step_00000004.png").stat().st_size > 0
    assert (folder / "samples" / "step_00000004" / "00.mp4").stat().st_size > 0
    last = checkpoint.list_checkpoints(folder / "checkpoints")[-1]
    generator = torch.Generator().manual_seed(0)
    clips = [
        VideoDiTPipeline.from_pretrained(f)("red", num_inference_steps=2, generator=generator.manual_seed(0)).frames
        for f in (trained, last)
    ]
    assert clips[0].shape == (1, 5, 32, 32, 3)
    own = VideoDiTPipeline.load_config(trained)
    assert (own["default_num_inference_steps"], own["default_guidance_scale"]) == (2, 2.5)
    assert np.array_equal(*clips)
    assert not (trained / "left.txt").exists()


@pytest.mark.slow
def test_muon_and_adamw_together_step_every_weight(tmp_path: Path) -> None:
    trainer = Trainer(run(tmp_path, train={"optimizer": "muon", "steps": 16}))
    before = {k: v.clone() for k, v in trainer.raw_model.state_dict().items()}
    for step in range(8):  # `time` blocks are silent at first: what is behind their outputs comes later
        trainer.step(step)
    after = trainer.raw_model.state_dict()
    assert all(not torch.equal(before[name], after[name]) for name, _ in trainer.raw_model.named_parameters())


@pytest.mark.slow
def test_muons_own_rate_moves_its_matrices_so_much_further(tmp_path: Path) -> None:
    """The first step's length is the rate's: Muon's update is orthogonal, whatever the gradient."""
    steps = {}
    for rate in (1e-3, 4e-3):
        train = {"optimizer": "muon", "learning_rate": 1e-3, "muon_learning_rate": rate, "weight_decay": 0.0}
        trainer = Trainer(run(tmp_path, train=train | {"warmup_steps": 0, "schedule": "constant"}))
        weights = trainer.raw_model.transformer.blocks[0].attn1.to_q.weight, trainer.raw_model.transformer.proj_out.bias
        before = [w.detach().clone() for w in weights]
        for step in range(2):  # the head starts at zero: in the first step nothing behind it has a gradient
            trainer.step(step)
        steps[rate] = [float((w.detach() - b).norm()) for w, b in zip(weights, before, strict=True)]
    assert steps[4e-3][0] == pytest.approx(4 * steps[1e-3][0], rel=0.05)
    assert steps[4e-3][1] == pytest.approx(steps[1e-3][1], rel=0.2)
    with pytest.raises(ValueError, match="muon_learning_rate is read with optimizer: muon only"):
        run(tmp_path, train={"muon_learning_rate": 1e-3})


@pytest.mark.slow
def test_images_first_then_clips(tmp_path: Path) -> None:
    """A run of images alone validates on images and leaves `time` blocks silent; a run of clips goes on from it."""
    images = run(tmp_path / "images", data={"num_frames": 1})
    pipe = VideoDiTPipeline.from_pretrained(Trainer(images).train())
    losses = (tmp_path / "images" / "losses.jsonl").read_text()
    assert "loss_image" in losses
    assert "validation_loss" in losses
    assert "loss_clip" not in losses
    silent = pipe.transformer.blocks[1]
    assert silent.axis == "time"
    assert not silent.attn1.to_out[0].weight.any()
    clips = Trainer(run(tmp_path / "clips", train={"start_from": str(tmp_path / "images" / "pipeline")}))
    pipe.to(clips.accelerator.device)
    ours = clips.raw_model.transformer.state_dict()
    assert equal(dict(pipe.transformer.state_dict()), dict(ours))
    assert equal(dict(pipe.text_encoder.state_dict()), dict(clips.raw_model.text.text_encoder.state_dict()))
    assert any("loss_clip" in clips.step(step) for step in range(4))


@pytest.mark.slow
@pytest.mark.parametrize("prediction_type", ["flow", "epsilon", "v_prediction", "sample"])
def test_every_objective_learns(prediction_type: str, tmp_path: Path) -> None:
    """On one batch seen again and again the loss falls."""
    extra = {} if prediction_type == "flow" else {"learned_range": True, "min_snr_gamma": 5.0}
    trainer = Trainer(run(tmp_path, objective={"prediction_type": prediction_type, **extra}, data={"image_share": 0.0}))
    losses = []
    for _ in range(12):
        losses.append(trainer.step(0)["loss_clip"])
        trainer.schedules[0].last_epoch = 0
    assert losses[-1] < losses[0]


@pytest.mark.slow
def test_every_clip_is_seen_once_an_epoch_in_another_order_each(tmp_path: Path) -> None:
    trainer = Trainer(run(tmp_path))
    steps = trainer.batches.sampler.steps_per_epoch
    epochs = [[name for i in range(steps) for name in names_of(trainer, e * steps + i)] for e in range(2)]
    names = sorted(sample.name for sample in trainer.train_clips.samples)
    assert sorted(epochs[0]) == sorted(epochs[1]) == names
    assert epochs[0] != epochs[1]
    assert {s.name for s in trainer.validation_clips.samples}.isdisjoint(names)


@pytest.mark.slow
def test_captions_are_dropped_at_the_stated_rate_and_worded_differently(tmp_path: Path) -> None:
    trainer = Trainer(run(tmp_path, train={"caption_dropout": 0.3}))
    captions = [c for step in range(200) for piece in trainer.batches[step] for c in piece.captions]
    assert captions.count("") / len(captions) == pytest.approx(0.3, abs=0.06)
    assert len(set(captions)) > 24  # twelve clips, several wordings each, as clips and as images


@pytest.mark.slow
def test_a_checkpoint_of_another_architecture_is_refused(trained: Path, tmp_path: Path) -> None:
    config = run(tmp_path, model={"num_layers": 2}, train={"resume": str(trained.parent / "checkpoints/step_00000004")})
    with pytest.raises(ValueError, match="of another model or optimizer"):
        Trainer(config).train()


def test_what_does_not_fit_together_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"objective\.min_snr_gamma is not defined for flow"):
        Trainer(run(tmp_path, objective={"min_snr_gamma": 5.0}))
    with pytest.raises(ValueError, match=r"no VAE; run videodit train-vae"):
        load_codec(Run(output=str(tmp_path / "elsewhere")))
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be written"):
        train_vae(Run.model_validate({"output": str(tmp_path / "file"), **TINY, "vae": {"precision": "no"}}))


@pytest.mark.slow
def test_stages_are_legs_that_go_on_from_each_other(tmp_path: Path) -> None:
    """First images, every weight; then clips, the `time` blocks alone."""
    stages = [
        {"data": {"num_frames": 1}, "train": {"steps": 2}},
        {"data": {"image_share": 0.0}, "train": {"weights": ["time"]}},
    ]
    first, second = Run.model_validate(run(tmp_path).model_dump() | {"stages": stages}).legs()
    assert (first.train.steps, second.train.steps) == (2, 4)
    assert (first.output, second.output) == (f"{tmp_path}/stage_1", str(tmp_path))
    image_model = VideoDiTPipeline.from_pretrained(Trainer(first).train())
    video_model = VideoDiTPipeline.from_pretrained(Trainer(second).train())
    before, after = image_model.transformer.state_dict(), video_model.transformer.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith("blocks.1.") for name in changed)
    text = [dict(pipe.text_encoder.state_dict()) for pipe in (image_model, video_model)]
    assert equal(*text)
    x, t = torch.randn(1, 4, 1, 4, 4), torch.tensor([300.0])
    states = torch.randn(1, 3, 24)
    assert torch.equal(image_model.transformer(x, t, states).sample, video_model.transformer(x, t, states).sample)


@pytest.mark.slow
def test_all_legs_are_encoded_before_any_has_been_trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By `videodit encode`, with an encoder of one's own that is trained along: legs to come have no pipeline yet."""
    stages = [{"data": {"num_frames": 1}}, {"data": {"num_frames": 9}}]
    values = run(tmp_path).model_dump(exclude_unset=True) | {"stages": stages}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(json.loads(Run.model_validate(values).model_dump_json())))
    assert tool("encode", "--config", tmp_path / "run.yaml") == 0
    for line in capsys.readouterr().out.splitlines():
        assert line.startswith("12 clips to train on, 4 to measure on")
    shapes = [{tuple(tensor.shape) for tensor in load_file(file).values()} for file in tmp_path.glob("latents/vae-*/*")]
    assert set.union(*shapes) == {(4, 1, 4, 4), (4, 3, 4, 4)}


@pytest.mark.slow
def test_a_later_stage_goes_on_in_the_data_and_sees_other_noise(tmp_path: Path) -> None:
    """Step 0 after 3 steps of an earlier stage draws what step 3 of one long stage would have drawn."""
    first, later, staged = (
        Trainer(run(tmp_path, train={"steps_before": before})).batches[step][0]
        for before, step in ((0, 0), (0, 3), (3, 0))
    )
    assert staged.names == later.names != first.names
    assert torch.equal(staged.noise, later.noise)
    assert torch.equal(staged.times, later.times)
    assert not torch.equal(staged.times, first.times)


@pytest.mark.slow
def test_time_blocks_cannot_be_trained_on_images(tmp_path: Path) -> None:
    """An image skips them: a manifest that holds one is refused before training, not in the middle of it."""
    clips = tmp_path / "clips"
    clips.mkdir()
    for i in range(3):
        frames = np.full((5 if i else 1, 32, 32, 3), 40 * i, dtype=np.uint8)
        write_video(clips / (f"{i}.mp4" if i else "0.png"), frames, 8)
        (clips / f"{i}.txt").write_text("a red circle")
    data = {"source": str(clips), "clips": None, "validation": 0, "image_share": 0.0}
    with pytest.raises(ValueError, match="leave the 1 images out of"):
        Trainer(run(tmp_path / "run", data=data, train={"weights": ["time"]}))


@pytest.mark.slow
def test_a_model_that_is_told_the_picture_size_is_trained_with_it(tmp_path: Path) -> None:
    """PixArt-alpha 1024: resolution and aspect ratio come from the clips."""
    text = TextEncoder.from_captions(["a red circle moving"], width=24, depth=1, heads=2)
    tiny_dit(use_additional_conditions=True, attention_head_dim=24).save_pretrained(tmp_path / "from" / "transformer")
    text.save_pretrained(tmp_path / "from")
    trainer = Trainer(
        run(tmp_path, train={"start_from": str(tmp_path / "from")}, model={"num_layers": None, "mlp_ratio": 4.0})
    )
    seen = {}
    trainer.raw_model.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: seen.update(kwargs["added_cond_kwargs"]), with_kwargs=True
    )
    trainer.step(0)
    assert {tuple(row) for row in seen["resolution"].tolist()} == {(32.0, 32.0)}
    assert {tuple(row) for row in seen["aspect_ratio"].tolist()} == {(1.0,)}


@pytest.mark.slow
def test_weights_that_do_not_fit_the_run_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    text = TextEncoder.from_captions(["a red circle moving"], width=16, depth=1, heads=2)
    text.save_pretrained(tmp_path / "narrow")
    tiny_dit().save_pretrained(tmp_path / "narrow" / "transformer")
    tiny_dit(caption_channels=None, norm_type="ada_norm_zero", num_classes=3).save_pretrained(
        tmp_path / "told" / "transformer"
    )
    text.save_pretrained(tmp_path / "told")
    for changes, message in [
        ({"train": {"start_from": str(tmp_path / "empty")}}, "empty: no text encoder"),
        ({"train": {"start_from": str(tmp_path / "narrow")}}, "reads states of 24, but the text encoder gives 16"),
        ({"train": {"start_from": str(tmp_path / "told")}}, r"told a class; grow it with .*--drop-classes"),
    ]:
        with pytest.raises(ValueError, match=message):
            Trainer(run(tmp_path, **changes, model={"num_layers": None, "mlp_ratio": 4.0}))
    with pytest.raises(ValueError, match=r"narrow: a transformer of num_layers 2, but the configuration wants 1"):
        Trainer(run(tmp_path, train={"start_from": str(tmp_path / "narrow")}, model={"mlp_ratio": 4.0}))
    with pytest.raises(ValueError, match=r"nowhere: no VAE; name a saved one in codec:"):
        load_codec(run(tmp_path).model_copy(update={"codec": str(tmp_path / "nowhere")}))


@pytest.mark.slow
def test_weights_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"train\.weights: 'tmie' is neither an axis"):
        Trainer(run(tmp_path, train={"weights": ["tmie"]}))
    with pytest.raises(ValueError, match=r"set data\.image_share: 0"):
        Trainer(run(tmp_path, train={"weights": ["time"]}))
    trainer = Trainer(run(tmp_path, train={"weights": ["joint", "*.attn2.*"]}, model={"axes": ["space", "joint"]}))
    names = {name for name, weight in trainer.raw_model.named_parameters() if weight.requires_grad}
    assert names == {n for n, _ in trainer.raw_model.named_parameters() if ".blocks.1." in n or ".attn2." in n}


@pytest.mark.slow
def test_a_frozen_text_encoder_is_run_once_a_caption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    TextEncoder.from_captions(["a red circle moving"], width=16, depth=1, heads=2).save_pretrained(tmp_path / "text")
    config = run(tmp_path / "run", text={"source": str(tmp_path / "text")})
    trainer = Trainer(config)
    samples = trainer.train_clips.samples
    prompts = [samples[0].captions[0], "", samples[5].captions[1]]
    for cached, direct in zip(trainer.raw_model.encoded(prompts), trainer.raw_model.text(prompts), strict=True):
        torch.testing.assert_close(cached, direct, rtol=1e-5, atol=1e-6)
    assert not any(p.requires_grad for p in trainer.raw_model.text.parameters())
    assert not any(name.startswith("text") for name in trainer.state()["model"])  # nor is it saved again and again

    def never(self: TextEncoder, prompts: list[str]) -> None:
        raise AssertionError("encoded again")

    monkeypatch.setattr(TextEncoder, "forward", never)
    again = Trainer(config)
    again.step(0)
    assert torch.equal(again.raw_model.encoded(prompts).states, trainer.raw_model.encoded(prompts).states)


@pytest.mark.slow
def test_a_decoder_trained_alone_leaves_all_that_is_encoded_as_it_is(tmp_path: Path) -> None:
    """Latents, their cache and models trained on them stay valid, and what is decoded comes closer to the clips."""
    torch.manual_seed(0)
    before = VideoCodec(tiny_wan())
    before.vae.save_pretrained(tmp_path / "before")
    stage = {"steps": 20, "batch_size": 2, "num_frames": 5, "crop": 16, "decoder_only": True}
    vae = VAE_RUN | {"start_from": str(tmp_path / "before"), "stages": [stage]}
    config = Run.model_validate({**TINY, "output": str(tmp_path / "run"), "vae": vae})
    after = VideoCodec.from_pretrained(train_vae(config))
    assert after.fingerprint() == VideoCodec.from_pretrained(tmp_path / "before").fingerprint()
    old, new = before.vae.state_dict(), after.vae.state_dict()
    moved = {name.split(".")[0] for name in old if not torch.equal(old[name], new[name])}
    assert moved == {"decoder", "post_quant_conv"}
    clips = open_data(config.data, config.seed).validation
    assert evaluate_vae(after, clips)["psnr"] > evaluate_vae(before, clips)["psnr"] + 0.5


@pytest.mark.slow
def test_train_vae_learns_stores_statistics_and_resumes(tmp_path: Path) -> None:
    vae = SMALL_VAE | {
        "stages": [
            {"steps": 16, "batch_size": 2, "num_frames": 5, "crop": 16},
            {"steps": 4, "batch_size": 1, "num_frames": 5, "crop": None, "learning_rate": 1e-4, "decoder_only": True},
        ],
    }
    folders = [tmp_path / "whole", tmp_path / "stopped"]
    configs = [Run.model_validate({**TINY, "output": str(f), "vae": vae}) for f in folders]
    whole = train_vae(configs[0])
    lines = [json.loads(line) for line in (folders[0] / "vae_training" / "losses.jsonl").read_text().splitlines()]
    assert sum(line["mse"] for line in lines[12:16]) < sum(line["mse"] for line in lines[:4])

    kept = folders[1] / "vae_training" / "checkpoints" / "step_00000010"
    source = folders[0] / "vae_training" / "checkpoints" / "step_00000010"
    shutil.copytree(source, kept)
    stopped = train_vae(configs[1])
    codecs = [load_codec(c) for c in configs]
    assert equal(codecs[0].vae.state_dict(), codecs[1].vae.state_dict())
    assert json.loads((whole / "report.json").read_text()) == json.loads((stopped / "report.json").read_text())

    clips = open_data(configs[0].data, configs[0].seed).train
    with torch.no_grad():
        pixels = torch.stack([torch.from_numpy(clips.read(i, 0)).permute(3, 0, 1, 2) for i in range(12)]) / 127.5 - 1
        posterior = codecs[0].posterior(pixels)
        raw = posterior.sample(torch.Generator().manual_seed(0))
    normalized = codecs[0].normalize(raw)
    assert normalized.mean(dim=(0, 2, 3, 4)).abs().max() < 0.15
    assert (normalized.std(dim=(0, 2, 3, 4)) - 1).abs().max() < 0.15


def test_each_stage_warms_up_and_falls_along_its_cosine() -> None:
    stages = [{"steps": 100, "learning_rate": 1e-3, "decay_steps": 200}, {"steps": 50, "learning_rate": 1e-4}]
    rates = learning_rates(Run.model_validate({"output": "a", "vae": {"stages": stages, "warmup_steps": 10}}).vae)
    assert len(rates) == 150
    assert rates[99] == pytest.approx(0.5e-3, rel=0.02)  # half way down a cosine of 200 steps
    assert max(rates[100:]) < 1e-4
    assert rates[149] < 1e-6
    assert rates[0] == pytest.approx(1e-4)
    assert rates[100] == pytest.approx(1e-5)


@pytest.mark.slow
def test_a_run_whose_text_and_time_are_in_context_makes_clips_and_goes_on(tmp_path: Path) -> None:
    """U-ViT's design, from configuration to a clip with guidance; places routed past its blocks in training."""
    model = {"caption_in": "context", "norm_type": "layer_norm", "num_layers": 3}
    config = run(tmp_path, model=model, train={"steps": 2, "routing": 0.5})
    folder = Trainer(config).train()
    pipe = VideoDiTPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    assert (pipe.transformer.config.caption_in, pipe.transformer.config.norm_type) == ("context", "layer_norm")
    made = [
        pipe(prompts, num_inference_steps=2, guidance_scale=3.0, generator=generators(len(prompts))).frames
        for prompts in (["a red circle moving"], ["a red circle moving", "a circle"])
    ]
    np.testing.assert_allclose(made[1][:1], made[0], atol=1e-5)
    wrong = {"start_from": str(folder)}
    with pytest.raises(ValueError, match="a transformer of norm_type layer_norm"):
        Trainer(run(tmp_path / "other", train=wrong, model={"norm_type": "ada_norm_zero", "num_layers": 3}))


@pytest.mark.slow
def test_what_is_compiled_of_a_vae_computes_and_learns_the_same() -> None:
    torch.manual_seed(0)
    norm, block = WanRMS_norm(4, images=False), WanResidualBlock(4, 8)
    states, found = torch.randn(2, 4, 3, 6, 6), []
    for ready in (lambda _: None, quicken):
        ready(norm)
        norm.zero_grad()
        ours = norm(states)
        ours.sin().sum().backward()
        found.append((ours.detach(), norm.gamma.grad))
    torch.testing.assert_close(found[1], found[0])
    quicken(torch.nn.Sequential(norm, block))
    assert all(part._compiled_call_impl is not None for part in (norm, block))
    assert block.conv1.weight.is_contiguous(memory_format=torch.channels_last_3d)
    with pytest.raises(ValueError, match=r"vae\.compile: Linear has no blocks that are known to compile"):
        quicken(torch.nn.Linear(2, 2))


def generators(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(number) for number in range(count)]
