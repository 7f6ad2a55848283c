"""Weights that cannot be used are refused by name, wherever they are loaded; a folder can be looked at without."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import PixArtTransformer2DModel
from safetensors.torch import load_file, save_file
from tiny import PEER, tiny_dit

from videodit import TextEncoder, VideoCodec, VideoDiT, VideoDiTPipeline
from videodit.commands import convert
from videodit.models.formats.files import from_checkpoint, from_diffusers
from videodit.models.formats.table import ConversionError
from videodit.weights import WeightsError, is_finite, verify

PARTS: dict[str, Callable[[Path], Any]] = {
    "vae": VideoCodec.from_pretrained,
    "text_encoder": TextEncoder.from_pretrained,
    "transformer": lambda folder: VideoDiT.from_pretrained(folder, subfolder="transformer"),
}


@pytest.fixture
def folder(tmp_path: Path, tiny_pipe: VideoDiTPipeline) -> Path:
    tiny_pipe.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def weights_of(folder: Path, part: str) -> Path:
    return next((folder / part).glob("*.safetensors"))


def set_one(file: Path, value: float) -> str:
    """Puts a value into the middle of the last matrix of a file; its name."""
    state = load_file(file)
    name = max(name for name, tensor in state.items() if tensor.ndim > 1)
    state[name].view(-1)[state[name].numel() // 2] = value
    save_file(state, file, {"format": "pt"})
    return name


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_single_weight_that_is_no_finite_number_is_refused(folder: Path, part: str, value: float) -> None:
    file = weights_of(folder, part)
    name = set_one(file, value)
    for load in (PARTS[part], VideoDiTPipeline.from_pretrained):
        with pytest.raises(WeightsError) as refused:
            load(folder)
        assert f"{file}: {name} is not finite" in str(refused.value)
        assert "\n" not in str(refused.value)


DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "pointer": (lambda _: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
    "cut": (lambda whole: whole[: len(whole) // 2], "is no whole safetensors file"),
    "cut in its header": (lambda whole: whole[:40], "is no whole safetensors file"),
    "empty": (lambda _: b"", "is empty"),
    "a web page": (lambda _: b"<!doctype html><html>Sign in</html>", "is a web page"),
}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_file_that_is_no_whole_one_is_named_with_what_it_is(folder: Path, part: str, damage: str) -> None:
    file, (change, words) = weights_of(folder, part), DAMAGE[damage]
    file.write_bytes(change(file.read_bytes()))
    for load in (PARTS[part], VideoDiTPipeline.from_pretrained):
        with pytest.raises(WeightsError) as refused:
            load(folder)
        assert str(refused.value).startswith(f"{file}: ")
        assert words in str(refused.value)
        assert "\n" not in str(refused.value)


def test_another_error_stays_what_it_is_beside_a_pointer_that_nothing_reads(folder: Path) -> None:
    (folder / "vae" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(DAMAGE["pointer"][0](b""))
    VideoDiTPipeline.from_pretrained(folder)


def test_weights_of_other_projects_are_looked_at_too(tmp_path: Path) -> None:
    theirs: Any = PixArtTransformer2DModel(**PEER, cross_attention_dim=48, caption_channels=32)
    with torch.no_grad():
        theirs.proj_out.weight[0, 0] = float("nan")
    theirs.save_pretrained(tmp_path / "theirs")
    with pytest.raises(ConversionError, match=r"proj_out\.weight is not finite"):
        from_diffusers(tmp_path / "theirs")
    torch.save({"x_embedder.proj.weight": torch.full((2, 2), float("inf"))}, tmp_path / "a.pt")
    with pytest.raises(ConversionError, match=r"a\.pt: x_embedder\.proj\.weight is not finite"):
        from_checkpoint(tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(DAMAGE["pointer"][0](b""))
    with pytest.raises(ConversionError, match=r"b\.pt: cannot be read, it is a git-lfs pointer"):
        from_checkpoint(tmp_path / "b.pt")


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.complex64]
)
def test_every_type_of_number_is_looked_at(dtype: torch.dtype) -> None:
    for at in range(3):
        values = torch.tensor([-3.0, 0.0, 2.0])
        assert is_finite(values.to(dtype))
        values[at] = float("nan")
        assert not is_finite(values.to(dtype))
    assert is_finite(torch.tensor([1, 2]))
    assert is_finite(torch.empty(0))
    assert is_finite(torch.empty(3, device="meta"))


# --- adapters --------------------------------------------------------------------------------------------------------


def adapter(model: VideoDiT, tmp_path: Path) -> dict[str, torch.Tensor]:
    """The tensors of an adapter that fits, which is in the folder too."""
    from peft import LoraConfig

    model.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    model.save_lora_adapter(tmp_path)
    return load_file(tmp_path / "pytorch_lora_weights.safetensors")


def load_adapter(model: VideoDiT, folder: Path, prefix: str | None = None) -> None:
    model.load_lora_adapter(folder, prefix=prefix, weight_name="pytorch_lora_weights.safetensors")


@pytest.mark.slow
def test_an_adapter_is_taken_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "pytorch_lora_weights.safetensors"
    state = adapter(tiny_dit(), tmp_path)
    load_adapter(tiny_dit(), tmp_path)
    tiny_dit().load_lora_adapter(state, prefix=None)
    half = {
        "names of another model": {k.replace("blocks.0", "blocs.0"): v for k, v in state.items()},
        "blocks that are not there": {k.replace("blocks.3", "blocks.9"): v for k, v in state.items()},
        "one matrix of the two": {k: v for k, v in state.items() if k != max(state)},
    }
    for why, tensors in half.items():
        save_file(tensors, file)
        model = tiny_dit()
        before = {name: weight.clone() for name, weight in model.state_dict().items()}
        with pytest.raises(WeightsError, match=r"weights\.safetensors: half an adapter: \d+ of its \d+ tensors"):
            load_adapter(model, tmp_path)
        assert not getattr(model, "peft_config", {}), why
        after = {name.replace(".base_layer", ""): weight for name, weight in model.state_dict().items()}
        assert all(torch.equal(after[name], weight) for name, weight in before.items())


def test_an_adapter_of_another_prefix_is_refused(tmp_path: Path) -> None:
    adapter(tiny_dit(), tmp_path)
    with pytest.raises(WeightsError, match=r"0 of its .* prefix='unet'"):
        load_adapter(tiny_dit(), tmp_path, prefix="unet")


def test_an_adapter_that_is_damaged_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "pytorch_lora_weights.safetensors"
    adapter(tiny_dit(), tmp_path)
    whole = file.read_bytes()
    name = set_one(file, float("nan"))
    with pytest.raises(WeightsError, match=f"{name} is not finite"):
        load_adapter(tiny_dit(), tmp_path)
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match="is no whole safetensors file"):
        load_adapter(tiny_dit(), tmp_path)


# --- looked at without loading ---------------------------------------------------------------------------------------


def test_a_saved_pipeline_is_verified_to_the_last_bit_of_every_file(folder: Path) -> None:
    files, tensors = verify(folder)
    assert files == 3
    assert tensors == sum(len(load_file(weights_of(folder, part))) for part in PARTS)
    for file in [*folder.glob("*/*"), folder / "model_index.json", folder / "pipeline.py"]:
        whole = bytearray(file.read_bytes())
        changed = bytearray(whole)
        changed[len(whole) // 2] ^= 1
        file.write_bytes(changed)
        with pytest.raises(ValueError, match=f"{file}: damaged"):
            verify(folder)
        file.write_bytes(whole)
    verify(folder)


def test_a_folder_without_checksums_is_read_all_the_same(folder: Path) -> None:
    (folder / "SHA256SUMS").unlink()
    verify(folder)
    name = set_one(weights_of(folder, "vae"), float("nan"))
    with pytest.raises(WeightsError, match=f"{name} is not finite"):
        verify(folder)


def test_the_tool_verifies(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*args: str | Path) -> int:
        monkeypatch.setattr(sys, "argv", ["convert.py", *map(str, args)])
        return convert.main()

    assert run("--verify", folder) == 0
    assert "3 files are whole and finite, and its files are those that were saved" in capsys.readouterr().out
    assert run("--from", folder, "--to", tmp_path / "copy") == 0
    assert run("--verify", tmp_path / "copy") == 0
    shutil.rmtree(tmp_path / "copy" / "vae")
    assert run("--verify", tmp_path / "copy") == 2
    assert "missing, though SHA256SUMS names it" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        run("--verify", folder, "--from", folder, "--to", tmp_path / "other")
    with pytest.raises(SystemExit, match="2"):
        run("--from", folder)
