"""Adapters and models keep diffusers' contract where diffusers itself passes over what went wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoModel, FlowMatchEulerDiscreteScheduler
from peers import tiny_wan_pipeline
from peft import LoraConfig
from safetensors.torch import load_file
from tiny import tiny_dit, tiny_pipeline
from torch import Tensor

from videodit.models.growth import grow
from videodit.models.transformer import VideoDiT
from videodit.pipeline import VideoDiTPipeline

FILE = "pytorch_lora_weights.safetensors"


def adapted(model: Any, *names: str) -> None:
    """With adapters of random halves, the last of them active."""
    for seed, name in enumerate(names):
        model.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_v"]), name)
        for key, weight in model.named_parameters():
            if f".{name}." in key:
                weight.data = 0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed))


def clip(pipe: VideoDiTPipeline, **options: Any) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return pipe("a red circle", num_inference_steps=1, generator=generator, output_type="latent", **options).frames


def two_experts() -> VideoDiTPipeline:
    parts = tiny_pipeline().components | {"transformer_2": tiny_dit(), "scheduler": FlowMatchEulerDiscreteScheduler()}
    return VideoDiTPipeline(**parts, boundary_ratio=0.5)


@pytest.mark.slow
def test_a_scale_of_fusing_is_gone_when_it_is_undone() -> None:
    pipe = tiny_pipeline()
    adapted(pipe.transformer, "one")
    whole, half = clip(pipe), clip(pipe, attention_kwargs={"scale": 0.5})
    pipe.fuse_lora(lora_scale=0.5)
    torch.testing.assert_close(clip(pipe), half, rtol=1e-4, atol=1e-4)
    pipe.unfuse_lora()
    torch.testing.assert_close(clip(pipe), whole, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(whole, half, atol=1e-2)


def test_an_adapter_that_is_not_there_is_not_deleted_in_silence() -> None:
    pipe = two_experts()
    adapted(pipe.transformer, "one")
    adapted(pipe.transformer_2, "two")
    with pytest.raises(ValueError, match="no adapter 'three' on this model, but one"):
        pipe.delete_adapters(["two", "three"])
    assert pipe.get_list_adapters() == {"transformer": ["one"]}
    pipe.delete_adapters("one")
    assert not pipe.get_list_adapters()
    with pytest.raises(ValueError, match="no adapter 'one' on this model, but none"):
        pipe.transformer.delete_adapters(["one"])


@pytest.mark.slow
def test_the_adapter_of_a_second_expert_is_saved_by_its_own_option(tmp_path: Path) -> None:
    pipe = two_experts()
    adapted(pipe.transformer, "one")
    adapted(pipe.transformer_2, "other", "one")
    pipe.save_lora_weights(tmp_path / "first")
    pipe.save_lora_weights(tmp_path / "second", "one", save_from_transformer_2=True)
    first, second = (load_file(tmp_path / name / FILE) for name in ("first", "second"))
    assert first.keys() == second.keys()
    assert not any(torch.equal(tensor, second[key]) for key, tensor in first.items())
    again = two_experts()
    again.load_lora_weights(tmp_path / "second", adapter_name="one", load_into_transformer_2=True)
    assert again.get_list_adapters() == {"transformer_2": ["one"]}
    with pytest.raises(ValueError, match="no such transformer; load it first, or leave out save_from_transformer_2"):
        tiny_pipeline().save_lora_weights(tmp_path, save_from_transformer_2=True)


def test_of_several_active_adapters_one_is_to_be_named(tmp_path: Path) -> None:
    pipe = tiny_pipeline()
    adapted(pipe.transformer, "one", "two")
    pipe.set_adapters(["one", "two"])
    with pytest.raises(ValueError, match=r"several adapters are active \(one, two\).* give adapter_name"):
        pipe.save_lora_weights(tmp_path)
    pipe.save_lora_weights(tmp_path, "two")
    pipe.set_adapters("two")
    pipe.save_lora_weights(tmp_path / "again")
    one, other = load_file(tmp_path / FILE), load_file(tmp_path / "again" / FILE)
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.slow
def test_a_model_with_adapters_on_it_is_not_saved_under_names_that_nothing_reads(tmp_path: Path) -> None:
    pipe = tiny_pipeline()
    plain = clip(pipe)
    adapted(pipe.transformer, "one", "two")
    with pytest.raises(ValueError, match=r"adapters \(one, two\) are no weights of the model"):
        pipe.save_pretrained(tmp_path / "pipe")
    with pytest.raises(ValueError, match=r"adapters \(one, two\) are no weights of the model"):
        pipe.transformer.save_pretrained(tmp_path / "model")
    pipe.unload_lora_weights()
    pipe.save_pretrained(tmp_path / "pipe")
    torch.testing.assert_close(clip(VideoDiTPipeline.from_pretrained(tmp_path / "pipe")), plain)


@pytest.mark.parametrize("options", [{"use_rslora": True}, {"rank_pattern": {"attn1.to_q": 1}, "use_rslora": True}])
def test_an_adapter_scaled_by_the_root_of_its_rank_comes_back_as_it_was(tmp_path: Path, options: dict) -> None:
    pipe = tiny_pipeline()
    pipe.transformer.add_adapter(LoraConfig(r=4, lora_alpha=6, target_modules=["to_q"], **options), "one")
    for name, weight in pipe.transformer.named_parameters():
        if ".lora_B." in name:
            weight.data = 0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    expected = clip(pipe)
    pipe.save_lora_weights(tmp_path)
    again = tiny_pipeline()
    again.load_lora_weights(tmp_path)
    torch.testing.assert_close(clip(again), expected, rtol=1e-4, atol=1e-4)


def test_an_adapter_of_more_than_matrices_and_biases_is_not_saved_without_the_rest(tmp_path: Path) -> None:
    pipe, lost = tiny_pipeline(), r"lora_magnitude_vector\.one\.weight"
    pipe.transformer.add_adapter(LoraConfig(r=2, target_modules=["to_q"], use_dora=True), "one")
    with pytest.raises(ValueError, match=rf"adapter 'one': blocks\.0\.attn1\.to_q\.{lost} would be lost"):
        pipe.save_lora_weights(tmp_path)
    assert not (tmp_path / FILE).exists()


@pytest.mark.slow
@pytest.mark.parametrize("target_rank", [None, 6])
def test_an_adapter_that_took_anothers_place_is_weighed_and_saved_at_its_own_strength(
    tmp_path: Path, target_rank: int | None
) -> None:
    pipe, other = tiny_pipeline(), tiny_pipeline()
    adapted(pipe.transformer, "one")
    pipe.save_lora_weights(tmp_path / "one")
    other.transformer.add_adapter(LoraConfig(r=4, lora_alpha=20, target_modules=["to_q", "to_v"]), "other")
    for name, weight in other.transformer.named_parameters():
        if ".lora_B." in name:
            weight.data = 0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    other.save_lora_weights(tmp_path / "other")
    whole = clip(other)
    other.set_adapters("other", 0.5)
    half = clip(other)
    swapped = tiny_pipeline()
    if target_rank is not None:
        swapped.transformer.enable_lora_hotswap(target_rank=target_rank)
    swapped.load_lora_weights(tmp_path / "one", adapter_name="it")
    swapped.load_lora_weights(tmp_path / "other", adapter_name="it", hotswap=True)
    torch.testing.assert_close(clip(swapped), whole, rtol=1e-4, atol=1e-4)
    swapped.save_lora_weights(tmp_path / "swapped")
    swapped.set_adapters("it", 0.5)
    torch.testing.assert_close(clip(swapped), half, rtol=1e-4, atol=1e-4)
    again = tiny_pipeline()
    again.load_lora_weights(tmp_path / "swapped")
    torch.testing.assert_close(clip(again), whole, rtol=1e-4, atol=1e-4)


def test_an_adapter_is_saved_in_its_own_precision_or_in_float32_and_no_option_is_passed_over(tmp_path: Path) -> None:
    model = tiny_dit()
    adapted(model, "one")
    model.to(torch.bfloat16)
    for upcast, dtype in ((False, torch.bfloat16), (True, torch.float32)):
        model.save_lora_adapter(tmp_path, "one", upcast_before_saving=upcast)
        assert {tensor.dtype for tensor in load_file(tmp_path / FILE).values()} == {dtype}
    with pytest.raises(TypeError, match="styel"):
        model.save_lora_adapter(tmp_path, "one", **{"styel": "kohya"})


def test_the_name_of_an_adapter_has_no_dot(tmp_path: Path) -> None:
    pipe = tiny_pipeline()
    adapted(pipe.transformer, "one")
    pipe.save_lora_weights(tmp_path)
    with pytest.raises(ValueError, match=r"adapter_name='v1\.5': the name of an adapter has no dot"):
        tiny_pipeline().load_lora_weights(tmp_path, adapter_name="v1.5")


def test_a_pipeline_of_another_model_is_not_taken_over_in_part() -> None:
    with pytest.raises(ValueError, match=r"a WanTransformer3DModel: videodit\.exchange\.pipeline_from_diffusers"):
        VideoDiTPipeline.from_pipe(tiny_wan_pipeline())


@pytest.mark.slow
def test_auto_model_finds_the_class_of_a_bare_folder_where_its_stub_may_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny_dit()
    model.save_pretrained(tmp_path)
    theirs: Any = AutoModel.from_pretrained(str(tmp_path), **{"trust_remote_code": True})
    assert type(theirs) is VideoDiT
    bare: Any = AutoModel.from_config(str(tmp_path), **{"trust_remote_code": True})
    assert bare.state_dict().keys() == model.state_dict().keys()
    assert "auto_map" not in bare.config
    assert not any("auto_map" in record.getMessage() for record in caplog.records)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in theirs.state_dict().items())
    with pytest.raises(ValueError, match="trust_remote_code"):
        AutoModel.from_pretrained(str(tmp_path))
    (tmp_path / "transformer.py").write_text("raise SystemExit('ran')")  # ours runs no code of a folder
    again = VideoDiT.from_pretrained(tmp_path)
    assert "auto_map" not in again.config
    grow(again, axes=("space", "time", "joint"))
    again.save_pretrained(tmp_path / "again")
    saved = [json.loads((folder / "config.json").read_text()) for folder in (tmp_path, tmp_path / "again")]
    assert saved[0]["auto_map"] == saved[1]["auto_map"] == {"AutoModel": "transformer.VideoDiT"}
