"""Low-rank adapters, and averages of other lengths after training."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from runs import run
from tiny import awaken, tiny_dit, tiny_pipeline

from videodit import VideoDiT, VideoDiTPipeline
from videodit.commands import average as tool
from videodit.text import TextEncoder
from videodit.training import checkpoint
from videodit.training.ema import PowerAverage
from videodit.training.posthoc import mean_of
from videodit.training.trainer import Trainer


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    Trainer(run(folder, train={"optimizer": "muon", "steps": 4})).train()
    return folder


def adapted(base: Path, folder: Path, **train: object) -> Trainer:
    for part in ("vae", "latents"):
        shutil.copytree(base / part, folder / part)
    lora = {"rank": 3, "alpha": 6, "targets": ["attn1.to_q", "to_out.0"]}
    start = {"start_from": str(base / "pipeline"), "lora": lora, "learning_rate": 0.05, "ema_decay": 0.0}
    return Trainer(run(folder, train=start | train))


def inputs(model: VideoDiT) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    return torch.randn(2, model.config.in_channels, 2, 4, 4), torch.tensor([300.0, 900.0]), torch.randn(2, 5, 24)


@pytest.mark.slow
def test_adapters_are_read_by_diffusers_and_give_the_same_output(base: Path, tmp_path: Path) -> None:
    trainer = adapted(base, tmp_path)
    folder = trainer.train()
    plain = VideoDiT.from_pretrained(base / "pipeline", subfolder="transformer")
    x = inputs(plain)
    with torch.no_grad():
        before = plain(*x).sample
        merged = VideoDiT.from_pretrained(folder, subfolder="transformer")(*x).sample
        live = trainer.raw_model.transformer.eval().to("cpu")(*x).sample
        plain.load_lora_adapter(folder / "lora", prefix=None, weight_name="pytorch_lora_weights.safetensors")
        loaded = plain(*x).sample
        plain.fuse_lora()
        fused = plain(*x).sample
    assert (live - before).abs().max() > 1e-3
    assert torch.equal(loaded, live)
    torch.testing.assert_close(merged, live, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(fused, live, rtol=1e-5, atol=1e-5)
    pipe = VideoDiTPipeline.from_pretrained(folder).to(trainer.accelerator.device)
    assert pipe("red", num_inference_steps=2).frames.shape == (1, 5, 32, 32, 3)


@pytest.mark.slow
def test_only_adapters_are_trained_and_they_resume(base: Path, tmp_path: Path) -> None:
    trainer = adapted(base, tmp_path / "a")
    frozen = {n: p.clone() for n, p in trainer.raw_model.named_parameters() if not p.requires_grad}
    trained = {n for n, p in trainer.raw_model.named_parameters() if p.requires_grad}
    assert trained
    assert all(".lora_" in name for name in trained)
    assert {n.split(".lora_")[0].split(".", 3)[3] for n in trained} == {
        "attn1.to_q",
        "attn1.to_out.0",
        "attn2.to_out.0",
    }
    trainer.train()
    now = dict(trainer.raw_model.named_parameters())
    assert all(torch.equal(value, now[name]) for name, value in frozen.items())
    (tmp_path / "b").mkdir()
    again = adapted(base, tmp_path / "b", resume=str(tmp_path / "a" / "checkpoints" / "step_00000002"))
    again.train()
    ours, theirs = (checkpoint.load(tmp_path / f / "checkpoints" / "step_00000004")[1]["model"] for f in ("a", "b"))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_what_adapters_cannot_be_put_on_is_named(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"train\.lora\.targets: no linear layer's name ends in 'to_qq'"):
        adapted(base, tmp_path, lora={"targets": ["to_qq"]})


@pytest.mark.slow
def test_an_average_of_another_length_is_made_after_training(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Against the average itself, tracked along; and one of those that are stored, exactly."""
    for part in ("vae", "latents"):
        shutil.copytree(base / part, tmp_path / part)
    train = {"steps": 24, "checkpoint_every": 3, "validate_every": 24, "sample_every": 24, "learning_rate": 0.01}
    train |= {"batch_size": 1, "trackers": []}
    trainer = Trainer(run(tmp_path, train=train | {"ema_sigma_rels": [0.1, 0.2], "schedule": "constant"}))
    tracked = PowerAverage(trainer.weights, 0.15)
    step = trainer.step

    def tracking(*args: object) -> dict[str, float]:
        values = step(*args)
        tracked.update()
        return values

    trainer.step = tracking
    trainer.train()
    names = [name for name, _ in trainer.raw_model.named_parameters()]
    truth = dict(zip(names, tracked.averages, strict=True))
    stored = dict(zip(names, trainer.powers[0].averages, strict=True))

    def averaged(sigma_rel: str, to: str, *more: str) -> tuple[int, dict[str, torch.Tensor]]:
        monkeypatch.setattr(
            "sys.argv",
            ["average.py", "--from", str(tmp_path), "--sigma-rel", sigma_rel, "--to", str(tmp_path / to), *more],
        )
        if code := tool.main():
            return code, {}
        pipe = VideoDiTPipeline.from_pretrained(tmp_path / to)
        parts = {"transformer": pipe.transformer, "text_encoder": pipe.text_encoder}
        return 0, {n: parts[n.partition(".")[0]].get_parameter(n.partition(".")[2]) for n in names}

    def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
        return float(sum((a[n] - b[n]).detach().double().square().sum() for n in names) ** 0.5)

    _, found = averaged("0.15", "between")
    _, same = averaged("0.1", "same")
    assert distance(same, stored) < 1e-4 * distance(stored, truth)
    assert distance(found, truth) < 0.2 * distance(stored, truth)
    assert "coefficients sum to 1.0000" in capsys.readouterr().out
    assert averaged("0.1", "same")[0] == 2
    assert "exists; choose another --to" in capsys.readouterr().err
    assert averaged("0.1", "other", "--step", "5")[0] == 2
    assert "no averages of step 5; there are those of 3, 6, 9" in capsys.readouterr().err


def soup(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr("sys.argv", ["average.py", "--from", *map(str, words)])
    return tool.main()


@pytest.mark.slow
def test_the_mean_of_models_that_come_of_one_is_that_of_their_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pipes = [tiny_pipeline() for _ in range(3)]
    for number, pipe in enumerate(pipes):
        awaken(pipe.transformer, seed=number)
        pipe.save_pretrained(tmp_path / str(number))
    places = [tmp_path / str(number) for number in range(3)]
    for weights, shares in (((), (1 / 3, 1 / 3, 1 / 3)), (("--weights", 1, 2, 5), (1 / 8, 2 / 8, 5 / 8))):
        to = tmp_path / f"mean{len(weights)}"
        assert soup(monkeypatch, *places, *weights, "--to", to) == 0
        found = VideoDiTPipeline.from_pretrained(to)
        states = [pipe.transformer.state_dict() for pipe in pipes]
        for name, value in found.transformer.state_dict().items():
            mean = sum(share * state[name].double() for share, state in zip(shares, states, strict=True))
            torch.testing.assert_close(value.double(), mean, rtol=1e-5, atol=1e-6)
        assert all(torch.equal(a, b) for a, b in zip(found.vae.parameters(), pipes[0].vae.parameters(), strict=True))
    capsys.readouterr()
    assert soup(monkeypatch, *places, "--weights", 1, 2, "--to", tmp_path / "x") == 2
    assert "2 weights for 3 models; give one each" in capsys.readouterr().err
    assert soup(monkeypatch, *places, "--sigma-rel", 0.1, "--to", tmp_path / "x") == 2
    assert "--sigma-rel and --step are of one run" in capsys.readouterr().err
    assert soup(monkeypatch, places[0], "--to", tmp_path / "x") == 2
    assert "give --sigma-rel" in capsys.readouterr().err


def test_models_that_do_not_come_of_one_have_no_mean(tmp_path: Path) -> None:
    one, wide, other_vae = (tiny_pipeline() for _ in range(3))
    wide.transformer = tiny_dit(num_layers=1)
    text = TextEncoder.from_captions(["a green heart", "two stars that move left"], width=24, depth=1, heads=2)
    with torch.no_grad():
        next(other_vae.vae.encoder.parameters()).add_(1)
    for name, pipe in {"one": one, "wide": wide, "other_vae": other_vae}.items():
        pipe.save_pretrained(tmp_path / name)
    parts = one.components | {"text_encoder": text.text_encoder, "tokenizer": text.tokenizer}
    VideoDiTPipeline(**parts).save_pretrained(tmp_path / "words")
    one.register_to_config(prediction_type="epsilon")
    one.save_pretrained(tmp_path / "noise")
    for name, why in {
        "wide": "wide: is another kind of model than .*one: transformer.num_layers is 1, and 2 there",
        "words": "its text encoder has other words|another kind of model than .*one: of text_encoder",
        "other_vae": "is of another VAE than",
        "noise": "prediction_type is epsilon",
    }.items():
        with pytest.raises(ValueError, match=why):
            mean_of([str(tmp_path / "one"), str(tmp_path / name)])
