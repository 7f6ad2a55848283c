"""What must not pass in silence: changed words, changed averages, options that contradict each other."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import mixed, run
from transformers import T5Config, T5EncoderModel

from videodit.commands import train_vae as vae_tool
from videodit.config import Run
from videodit.geometry import ClipSize, Strides
from videodit.training import checkpoint, loop, precision
from videodit.training.batches import batch_sizes
from videodit.training.optimizer import orthogonalize
from videodit.training.trainer import Trainer


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"train": {"steps": 200, "decay_steps": 100}}, "decay_steps=100: the rate is zero before steps=200"),
        ({"vae": {"stages": [{"steps": 9, "decay_steps": 5}]}}, "decay_steps=5: the rate is zero before steps=9"),
        ({"train": {"lora": {}}}, "lora adapts a trained model: name it in start_from"),
        ({"train": {"lora": {}, "start_from": "a", "weights": ["time"]}}, "lora trains adapters and no weights"),
        ({"train": {"lora": {}, "start_from": "a", "ema_sigma_rels": [0.1]}}, "ema_sigma_rels are of whole models"),
        ({"train": {"keep_best": 1}, "data": {"validation": 0}}, "set data.validation above 0"),
        ({"objective": {"given_frames": {"first": 0.7, "any": 0.7}}}, "given_frames add up to more than 1"),
    ],
)
def test_options_that_contradict_each_other_are_refused(sections: dict[str, Any], message: str) -> None:
    sections = {"train": {"checkpoint_every": 4, "validate_every": 4}} | sections
    if "keep_best" in sections["train"]:
        sections["train"] |= {"checkpoint_every": 4, "validate_every": 4}
    with pytest.raises(ValueError, match=message):
        Run.model_validate({"output": "x", **sections})


@pytest.mark.slow
def test_a_text_encoder_of_other_words_is_not_gone_on_with(tmp_path: Path) -> None:
    trainer = Trainer(run(tmp_path))
    saved = checkpoint.save(tmp_path / "kept", 1, trainer.state(), keep=1)
    step, state = checkpoint.load(saved, trainer.state())
    assert step == 1
    trainer.load_state(state)
    with pytest.raises(ValueError, match="captions have other words now than its checkpoint's text encoder knows"):
        trainer.load_state(state | {"words": "others"})


@pytest.mark.slow
def test_averages_of_another_length_are_not_taken_for_these(tmp_path: Path) -> None:
    train = {"ema_sigma_rels": [0.1]}
    saved = checkpoint.save(tmp_path / "kept", 1, Trainer(run(tmp_path, train=train)).state(), keep=1)
    with pytest.raises(ValueError, match=r"powers/0\.2"):
        checkpoint.load(saved, Trainer(run(tmp_path, train={"ema_sigma_rels": [0.2]})).state())


@pytest.mark.slow
def test_a_spike_leaves_no_average_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "SPIKE_AFTER", 4)
    config = mixed(tmp_path, steps=7, spike_factor=10.0, validate_every=7, sample_every=7)
    trainer = Trainer(config)
    step = trainer.step

    taken = count()

    def spiky(number: int, pieces: Any) -> dict[str, float]:
        assert next(taken) < 20  # one that is not passed over would be gone back from for ever
        values = step(number, pieces)
        if number == 5:  # the step of a checkpoint
            values[next(iter(values))] *= 100
        return values

    trainer.step = spiky
    trainer.train()
    for folder in ("checkpoints", "averages"):
        names = [f.name for f in checkpoint.list_checkpoints(tmp_path / folder)]
        assert "step_00000006" not in names
        assert names[-1] == "step_00000007"


@pytest.mark.slow
def test_dropout_of_a_text_encoder_is_off(tmp_path: Path) -> None:
    """It would draw from a generator that runs on, and a run that goes on would not be the same."""
    base = run(tmp_path / "base")
    folder = Trainer(base).train()
    config = T5Config.from_pretrained(folder / "text_encoder")
    config.dropout_rate = 0.5
    T5EncoderModel(config).save_pretrained(folder / "text_encoder")
    trainer = Trainer(run(tmp_path / "next", train={"start_from": str(folder)}))
    trainer._usable = lambda *_: False
    batch = trainer.batches[0]
    assert trainer.step(0, batch) == trainer.step(0, batch)


def test_a_bucket_of_pictures_has_its_own_batch(tmp_path: Path) -> None:
    strides = Strides(4, 8, 4)
    for order in (1, -1):
        buckets = [{"num_frames": 17, "batch_size": 8}, {"num_frames": 1, "batch_size": 128}][::order]
        sizes = batch_sizes(Run.model_validate({"output": "x", "data": {"buckets": buckets}}), strides, (1, 2, 2))
        assert sizes == {ClipSize(17, 64, 64, 8.0): 8, ClipSize(1, 64, 64, 8.0): 128}


@pytest.mark.slow
def test_adapters_that_images_skip_are_refused(tmp_path: Path) -> None:
    folder = Trainer(run(tmp_path / "base")).train()
    train = {"start_from": str(folder), "lora": {"targets": ["blocks.1.attn1.to_q"]}}
    with pytest.raises(ValueError, match="images skip the time blocks"):
        Trainer(run(tmp_path / "lora", train=train))


def test_a_vae_that_no_clip_is_long_enough_for_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(
        f"output: {tmp_path}/run\ndata: {{clips: 4, num_frames: 1, height: 32, width: 32, validation: 0}}\n"
        f"vae: {{channels: 4, encoder_dim: 4, decoder_dim: 4, precision: 'no', image_share: 0.0}}\n"
    )
    monkeypatch.setattr("sys.argv", ["train_vae.py", "--config", str(file)])
    assert vae_tool.main() == 2
    assert "vae.stages[0]: num_frames=5, but clips have data.num_frames=1" in capsys.readouterr().err


def test_bfloat16_on_a_cpu_without_it_is_told(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for has in (True, False):
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda has=has: has)
        assert precision.lacks_bfloat16(torch.device("cpu")) is not has
        assert not precision.lacks_bfloat16(torch.device("cuda"))
        precision.tell_of_bfloat16("train.precision", "bf16", torch.device("cpu"))
        precision.tell_of_bfloat16("train.precision", "no", torch.device("cpu"))
        precision.tell_of_bfloat16("train.precision", "bf16", torch.device("cuda"))
    assert caplog.text.count("train.precision=no is faster here") == 1


def test_muons_products_are_the_same_where_bfloat16_is_emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = torch.randn(6, 9).bfloat16()
    found = []
    for has in (True, False):
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda has=has: has)
        found.append(orthogonalize(matrix))
    assert found[0].dtype == found[1].dtype == torch.bfloat16
    torch.testing.assert_close(found[0], found[1], rtol=2e-2, atol=2e-2)
