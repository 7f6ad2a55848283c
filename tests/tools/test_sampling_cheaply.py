"""The sampling command with a model that is changed or eased: adapters, compiled blocks, 8 bits, states from a file."""

from __future__ import annotations

import json
import shutil
from functools import partialmethod
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.utils import is_torchao_available
from peft import LoraConfig
from sampling import run
from standin import LEFT_EMPTY
from torch._dynamo.testing import CompileCounter

from videodit import TextEncoder, VideoDiTPipeline
from videodit.models.transformer import VideoDiT
from videodit.video.reader import read_clip


@pytest.mark.slow
def test_adapters_are_put_on_the_model_each_with_its_weight(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: str, tiny_pipe: VideoDiTPipeline
) -> None:
    adapted = VideoDiT.from_config(tiny_pipe.transformer.config)
    adapted.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    adapted.save_lora_adapter(tmp_path / "one")
    common = ("--prompt", "a red circle", "--model", model, "--steps", "2", "--num-frames", "9")
    clips = {}
    for weights in ([], ["0"], ["1"], ["0.5", "0.5"]):
        name, words = "_".join(["x", *weights]), [w for x in weights for w in ("--lora", f"{tmp_path / 'one'}={x}")]
        assert run(monkeypatch, *common, *words, "--out", tmp_path / f"{name}.mkv") == 0
        clips[name] = read_clip(tmp_path / f"{name}.mkv", 9, 8.0).astype(int)
    assert json.loads((tmp_path / "x_0.5_0.5.json").read_text())["lora"] == [f"{tmp_path / 'one'}=0.5"] * 2
    assert np.abs(clips["x_0"] - clips["x"]).max() <= 1
    assert np.abs(clips["x_1"] - clips["x"]).max() > 1
    assert np.abs(clips["x_0.5_0.5"] - clips["x_1"]).max() <= 2


@pytest.mark.slow
def test_tiles_and_no_offload_make_the_same_small_clip(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: str
) -> None:
    common = ("--prompt", "a red circle", "--model", model, "--steps", "2")
    assert run(monkeypatch, *common, "--out", tmp_path / "plain.mkv") == 0
    assert run(monkeypatch, *common, "--vae-tiling", "--offload", "none", "--out", tmp_path / "tiles.mkv") == 0
    assert json.loads((tmp_path / "tiles.json").read_text())["vae_tiling"] is True
    plain, tiles = (read_clip(tmp_path / f"{name}.mkv", 9, 8.0).astype(int) for name in ("plain", "tiles"))
    assert np.abs(plain - tiles).max() <= 1  # one tile holds it


@pytest.mark.slow
@pytest.mark.parametrize(("cache", "most"), [((), 2), (("--cache", "taylorseer"), 4)])
def test_compiled_blocks_make_the_same_clip(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: str, cache: tuple[str, ...], most: int
) -> None:
    common = ("--prompt", "a red circle", "two blue stars", "--model", model, "--steps", "4", *cache)
    assert run(monkeypatch, *common, "--out", tmp_path / "plain.mkv") == 0
    counter, compile_blocks = CompileCounter(), VideoDiT.compile_repeated_blocks
    monkeypatch.setattr(VideoDiT, "compile_repeated_blocks", partialmethod(compile_blocks, backend=counter))
    torch.compiler.reset()
    assert run(monkeypatch, *common, "--compile", "--out", tmp_path / "compiled.mkv") == 0
    torch.compiler.reset()
    assert 2 <= counter.frame_count <= most  # of 4 blocks, for two clips: along space, along time
    for number in range(2):
        names = [tmp_path / f"{name}_{number:04d}" for name in ("plain", "compiled")]
        plain, compiled = (read_clip(name.with_suffix(".mkv"), 9, 8.0).astype(int) for name in names)
        assert np.abs(plain - compiled).max() <= 1
        assert json.loads(names[1].with_suffix(".json").read_text())["compile"] is True


@pytest.mark.slow
@pytest.mark.cpu(LEFT_EMPTY)
def test_states_from_a_file_make_the_same_clips_and_no_text_encoder_is_needed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, model: str
) -> None:
    (tmp_path / "p.csv").write_text("prompt,negative_prompt\na red circle,blue\ntwo blue stars moving left,\n")
    common = ("--prompts-file", tmp_path / "p.csv", "--steps", "2", "--model")
    states = tmp_path / "new" / "states.safetensors"
    assert run(monkeypatch, *common, model, "--encode-text", states) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(states)
    assert [path.name for path in states.parent.iterdir()] == ["states.safetensors"]
    assert run(monkeypatch, *common, model, "--out", tmp_path / "own.mkv") == 0
    bare = tmp_path / "bare"
    shutil.copytree(model, bare)
    for part in ("text_encoder", "tokenizer"):
        shutil.rmtree(bare / part)
    assert run(monkeypatch, *common, bare, "--text-states", states, "--out", tmp_path / "file.mkv") == 0
    for number in range(2):
        own, file = (tmp_path / f"{name}_{number:04d}" for name in ("own", "file"))
        assert np.array_equal(*(read_clip(one.with_suffix(".mkv"), 9, 8.0) for one in (own, file)))
        settings = json.loads(file.with_suffix(".json").read_text())
        assert settings["text_states"] == TextEncoder.from_pretrained(model).fingerprint()[:12]


def test_states_that_do_not_fit_are_refused_with_the_fix(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, model: str
) -> None:
    own, other, none = (tmp_path / f"{name}.safetensors" for name in ("own", "other", "none"))
    assert run(monkeypatch, "--prompt", "red", "--model", model, "--encode-text", own) == 0
    TextEncoder.from_captions(["red"], width=8, depth=1, heads=2).save_pretrained(tmp_path / "other")
    assert run(monkeypatch, "--prompt", "red", "--model", tmp_path / "other", "--encode-text", other) == 0
    for prompt, states, message in (
        ("blue", own, "own.safetensors: 1 prompts are not in it, first 'blue'; write it with --encode-text"),
        ("red", other, "other.safetensors: its states are 8 wide, of another encoder: this model reads 24; write it"),
        ("red", none, "none.safetensors: cannot be read as text states"),
    ):
        words = ("--prompt", prompt, "--model", model, "--text-states", states, "--out", tmp_path / "x.mkv")
        assert run(monkeypatch, *words) == 2
        assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "x.mkv").exists()


@pytest.mark.slow
def test_weights_in_8_bits_make_nearly_the_same_clip(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, model: str
) -> None:
    common = ("--prompt", "a red circle", "--model", model, "--steps", "2")
    if not is_torchao_available():
        assert run(monkeypatch, *common, "--quantize", "int8", "--out", tmp_path / "eighth.mkv") == 2
        assert "--quantize int8 needs torchao: pip install 'videodit[quantize]'" in capsys.readouterr().err
        return
    assert run(monkeypatch, *common, "--out", tmp_path / "plain.mkv") == 0
    assert run(monkeypatch, *common, "--quantize", "int8", "--out", tmp_path / "eighth.mkv") == 0
    plain, eighth = (read_clip(tmp_path / f"{name}.mkv", 9, 8.0).astype(int) for name in ("plain", "eighth"))
    assert 0 < np.abs(plain - eighth).mean() < 3
    settings = [json.loads((tmp_path / f"{name}.json").read_text()) for name in ("plain", "eighth")]
    assert settings[1]["quantize"] == "int8"
    assert settings[0]["model_digest"] != settings[1]["model_digest"]
