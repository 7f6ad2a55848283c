"""Adapters in the styles in which they are passed on: read from each, written in each, and read by diffusers itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanPipeline, WanTransformer3DModel
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from tiny import awaken, tiny_dit, tiny_pipeline
from torch import Tensor

from videodit.models.adapters import adapter_pairs
from videodit.models.formats.files import from_diffusers
from videodit.models.transformer import VideoDiT
from videodit.weights import WeightsError

SHAPE: dict[str, Any] = {"num_attention_heads": 2, "attention_head_dim": 20, "in_channels": 4, "out_channels": 4}
SHAPE |= {"text_dim": 12, "freq_dim": 32, "ffn_dim": 60, "num_layers": 2}
TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2"]
FILE = "pytorch_lora_weights.safetensors"


def wan() -> WanTransformer3DModel:
    torch.manual_seed(0)
    return awaken(WanTransformer3DModel(**SHAPE), scale=0.1)


def adapted(theirs: Any, targets: list[str], **options: Any) -> Any:
    """With an adapter of random halves."""
    theirs.add_adapter(LoraConfig(**{"r": 3, "lora_alpha": 5, "target_modules": targets, **options}))
    g = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, weight in theirs.named_parameters():
            if ".lora_" in name:
                weight.copy_(0.2 * torch.randn(weight.shape, generator=g))
    return theirs


def call(model: Any) -> Tensor:
    g = torch.Generator().manual_seed(1)
    x = torch.randn(2, 4, 3, 4, 6, generator=g)
    text = torch.zeros(2, 512, 12)
    text[:, :5] = torch.randn(2, 5, 12, generator=g)
    with torch.no_grad():
        return model(x, torch.tensor([17.0, 803.0]), text).sample


def halves(theirs: Any) -> dict[str, tuple[Tensor, Tensor]]:
    return {name: (pair.down, pair.up) for name, pair in adapter_pairs(theirs, "default").items()}


def own_name(layer: str) -> str:
    """Of a layer of Wan, in the project's own code."""
    for before, after in (("attn1.", "self_attn."), ("attn2.", "cross_attn."), ("to_out.0", "o"), ("to_", "")):
        layer = layer.replace(before, after)
    return layer.replace("ffn.net.0.proj", "ffn.0").replace("ffn.net.2", "ffn.2")


def as_file(theirs: Any, style: str, folder: Path) -> Path:
    """An adapter of diffusers' Wan in the style of its pipeline, of finetrainers, of ComfyUI or of musubi-tuner."""
    if style == "WanPipeline":
        layers = {f"{k}.lora_A.weight": down for k, (down, _) in halves(theirs).items()}
        layers |= {f"{k}.lora_B.weight": up for k, (_, up) in halves(theirs).items()}
        config = {
            key: list(v) if isinstance(v, set) else v for key, v in theirs.peft_config["default"].to_dict().items()
        }
        WanPipeline.save_lora_weights(folder, layers, transformer_lora_adapter_metadata=config)
        return folder / FILE
    state = {}
    for layer, (down, up) in halves(theirs).items():
        if style == "finetrainers":  # no metadata: alpha is the rank
            state |= {f"transformer.{layer}.lora_A.weight": down, f"transformer.{layer}.lora_B.weight": up * 5 / 3}
            continue
        own = own_name(layer)
        name = f"diffusion_model.{own}" if style == "ComfyUI" else f"lora_unet_{own.replace('.', '_')}"
        state |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": torch.tensor(5.0)}
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / FILE)
    return folder / FILE


@pytest.mark.parametrize("style", ["WanPipeline", "finetrainers", "ComfyUI", "musubi-tuner"])
def test_an_adapter_made_elsewhere_does_here_what_it_does_there(tmp_path: Path, style: str) -> None:
    theirs = adapted(wan(), TARGETS)
    ours = from_diffusers(wan())[0]
    before = call(ours)
    ours.load_lora_adapter(as_file(theirs, style, tmp_path).parent)
    expected = call(theirs)
    assert (call(ours) - expected).norm() < 1e-5 * expected.norm()
    assert (before - expected).norm() > 1e-2 * expected.norm()


@pytest.mark.slow
@pytest.mark.parametrize("style", ["diffusers", "original", "kohya"])
def test_an_adapter_of_ours_does_in_diffusers_what_it_does_here(tmp_path: Path, style: str) -> None:
    ours = adapted(from_diffusers(wan())[0], ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2"])
    ours.save_lora_adapter(tmp_path, style=style)
    theirs = wan()
    state, metadata = WanPipeline.lora_state_dict(tmp_path, return_lora_metadata=True)
    theirs.load_lora_adapter(state, metadata=metadata)
    expected = call(ours)
    assert (call(theirs) - expected).norm() < 1e-5 * expected.norm()
    again = from_diffusers(wan())[0]
    again.load_lora_adapter(tmp_path)
    assert torch.equal(call(again), expected)
    for layer, pair in adapter_pairs(ours, "default").items():
        other = adapter_pairs(again, next(iter(again.peft_config)))[layer]
        assert torch.equal(pair.down, other.down)
        assert torch.equal(pair.up, other.up)
        assert pair.scale == pytest.approx(other.scale)


def open_sora() -> VideoDiT:
    """Whose own files keep queries, keys and values as one layer."""
    config: dict[str, Any] = {"time_positions": "frames", "images_skip_time": False, "sample_size": None}
    config |= {"fps_embedding": 4.0, "sample_fps": 6.0, "null_caption_length": 7, "interpolation_scale": 1 / 32}
    shape: dict[str, Any] = {"num_attention_heads": 2, "attention_head_dim": 12, "num_layers": 1, "in_channels": 4}
    torch.manual_seed(0)
    return awaken(VideoDiT(**shape, caption_channels=10, **config))


@pytest.mark.parametrize("targets", [["to_q", "to_k", "to_v"], ["to_q", "to_v"], ["to_k"]], ids=" ".join)
def test_layers_that_are_one_elsewhere_are_joined_without_loss_and_cut_again(
    tmp_path: Path, targets: list[str]
) -> None:
    ours = adapted(open_sora(), targets)
    ours.save_lora_adapter(tmp_path, style="original")
    state = load_file(tmp_path / FILE)
    joined = "diffusion_model.temporal_blocks.0.attn.qkv"
    assert state[f"{joined}.lora_A.weight"].shape == (3 * len(targets), 24)
    assert state[f"{joined}.lora_B.weight"].shape == (72, 3 * len(targets))
    again = open_sora()
    again.load_lora_adapter(tmp_path)
    x, t, text = torch.randn(1, 4, 3, 4, 4), torch.tensor([300.0]), torch.randn(1, 5, 10)
    torch.testing.assert_close(again(x, t, text).sample, ours(x, t, text).sample, rtol=1e-5, atol=1e-6)


def test_what_looks_at_the_same_directions_stays_of_its_rank(tmp_path: Path) -> None:
    """As an adapter trained on the fused layer: cut for us, and whole again."""
    g = torch.Generator().manual_seed(0)
    name = "diffusion_model.spatial_blocks.0.attn.qkv"
    state = {f"{name}.lora_A.weight": torch.randn(4, 24, generator=g), f"{name}.alpha": torch.tensor(8.0)}
    state[f"{name}.lora_B.weight"] = torch.randn(72, 4, generator=g)
    save_file(state, tmp_path / FILE)
    ours = open_sora()
    ours.load_lora_adapter(tmp_path, adapter_name="it")
    assert len(adapter_pairs(ours, "it")) == 3
    ours.save_lora_adapter(tmp_path / "back", "it", style="original")
    back = load_file(tmp_path / "back" / FILE)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], tensor) for key, tensor in state.items())


def test_ranks_may_differ_from_layer_to_layer(tmp_path: Path) -> None:
    theirs = adapted(wan(), TARGETS, rank_pattern={"attn1.to_q": 2}, alpha_pattern={"attn2.to_v": 9})
    ours = from_diffusers(wan())[0]
    ours.load_lora_adapter(as_file(theirs, "WanPipeline", tmp_path).parent)
    expected = call(theirs)
    assert (call(ours) - expected).norm() < 1e-5 * expected.norm()


def test_layers_that_this_model_has_not_are_refused_or_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = as_file(adapted(wan(), TARGETS), "musubi-tuner", tmp_path)
    state = load_file(file)
    strange = {"lora_unet_blocks_9_ffn_0.lora_down.weight": torch.ones(3, 40)}
    save_file(state | strange, file)
    ours = from_diffusers(wan())[0]
    with pytest.raises(WeightsError, match=r"1 of its 61 tensors have no place .*lora_unet_blocks_9.*strict=False"):
        ours.load_lora_adapter(tmp_path)
    assert not getattr(ours, "peft_config", {})
    with pytest.raises(WeightsError, match=r"network_alphas: put each alpha beside"):
        ours.load_lora_adapter(tmp_path, network_alphas={"transformer.blocks.0.attn1.to_q": 2.0})
    ours.load_lora_adapter(tmp_path, strict=False)
    assert "1 of 61 tensors have no place in this model and are left out" in caplog.text
    wide = from_diffusers(awaken(WanTransformer3DModel(**SHAPE | {"ffn_dim": 64})))[0]
    save_file(state, file)
    with pytest.raises(WeightsError, match=r"blocks_0_ffn_0: .* does not fit .*\(64, 40\): of another base"):
        wide.load_lora_adapter(tmp_path)


def test_an_adapter_beside_its_base_is_read_by_its_own_names(tmp_path: Path) -> None:
    ours = adapted(tiny_dit(), ["to_q"])
    ours.save_lora_adapter(tmp_path)
    assert all(name.startswith("transformer.blocks.") for name in load_file(tmp_path / FILE))
    again = tiny_dit()
    again.load_lora_adapter(tmp_path)
    pairs = adapter_pairs(again, next(iter(again.peft_config)))
    assert all(torch.equal(pair.up, pairs[layer].up) for layer, pair in adapter_pairs(ours, "default").items())


@pytest.mark.slow
def test_a_pipeline_takes_several_weighs_fuses_and_unloads_them(tmp_path: Path) -> None:
    pipe = tiny_pipeline()
    pipe.set_progress_bar_config(disable=True)
    for seed, name in enumerate(("one", "two")):
        model = adapted(VideoDiT.from_config(pipe.transformer.config), ["to_q", "to_v"])
        with torch.no_grad():
            for weight_name, weight in model.named_parameters():
                if ".lora_" in weight_name:
                    weight.add_(0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed)))
        model.save_lora_adapter(tmp_path / name)

    def clip(**options: Any) -> Tensor:
        generator = [torch.Generator().manual_seed(0)]
        return pipe("a red circle", generator=generator, num_inference_steps=2, output_type="latent", **options).frames

    plain = clip()
    pipe.load_lora_weights(tmp_path / "one", adapter_name="one")
    first = clip()
    assert not torch.allclose(first, plain, atol=1e-4)
    torch.testing.assert_close(clip(attention_kwargs={"scale": 0.0}), plain)
    pipe.load_lora_weights(tmp_path / "two" / FILE, adapter_name="two")
    pipe.set_adapters(["one", "two"], [0.5, 0.25])
    both = clip()
    assert pipe.get_list_adapters() == {"transformer": ["one", "two"]}
    pipe.fuse_lora(adapter_names=["one", "two"])
    torch.testing.assert_close(clip(), both, rtol=1e-4, atol=1e-4)
    pipe.unfuse_lora()
    pipe.set_adapters("one")
    torch.testing.assert_close(clip(), first, rtol=1e-4, atol=1e-4)
    pipe.save_lora_weights(tmp_path / "saved")
    saved, own = load_file(tmp_path / "saved" / FILE), load_file(tmp_path / "one" / FILE)
    assert all(torch.equal(saved[name], tensor) for name, tensor in own.items())
    pipe.delete_adapters("two")
    assert pipe.get_list_adapters() == {"transformer": ["one"]}
    pipe.unload_lora_weights()
    torch.testing.assert_close(clip(), plain, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="no such transformer"):
        pipe.load_lora_weights(tmp_path / "one", load_into_transformer_2=True)


def test_biases_of_comfyui_are_read_as_diffusers_reads_them_and_written_again(tmp_path: Path) -> None:
    theirs = wan()
    state = {}
    g = torch.Generator().manual_seed(3)
    for layer, (down, up) in halves(adapted(wan(), TARGETS)).items():
        name = f"diffusion_model.{own_name(layer)}"
        state |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
        state |= {f"{name}.alpha": torch.tensor(5.0), f"{name}.diff_b": torch.randn(len(up), generator=g) * 0.3}
    state["diffusion_model.blocks.0.norm3.diff"] = torch.zeros(40)  # of norms they are always zero
    state["diffusion_model.blocks.1.self_attn.norm_q.diff"] = torch.zeros(40)
    save_file(state, tmp_path / FILE)
    ours = from_diffusers(wan())[0]
    before = call(ours)
    ours.load_lora_adapter(tmp_path, adapter_name="it")
    with torch.no_grad():
        for layer in halves(adapted(wan(), TARGETS)):
            name = f"diffusion_model.{own_name(layer)}"
            module = theirs.get_submodule(layer)
            module.weight += 5 / 3 * state[f"{name}.lora_up.weight"] @ state[f"{name}.lora_down.weight"]
            module.bias += state[f"{name}.diff_b"]
    expected = call(theirs)
    assert (call(ours) - expected).norm() < 1e-5 * expected.norm()
    assert (before - expected).norm() > 1e-2 * expected.norm()
    for style in ("original", "diffusers"):
        ours.save_lora_adapter(tmp_path / style, "it", style=style)
        again = from_diffusers(wan())[0]
        again.load_lora_adapter(tmp_path / style)
        torch.testing.assert_close(call(again), call(ours))
    back = load_file(tmp_path / "original" / FILE)
    torch.testing.assert_close(
        back["diffusion_model.blocks.0.ffn.0.diff_b"], state["diffusion_model.blocks.0.ffn.0.diff_b"]
    )
    loaded, metadata = WanPipeline.lora_state_dict(tmp_path / "diffusers", return_lora_metadata=True)
    other = wan()
    other.load_lora_adapter(loaded, metadata=metadata)
    assert (call(other) - expected).norm() < 1e-5 * expected.norm()
    ours.fuse_lora()
    ours.unload_lora()
    assert (call(ours) - expected).norm() < 1e-5 * expected.norm()


def test_a_bias_alone_and_those_of_a_layer_that_is_three_of_ours(tmp_path: Path) -> None:
    name, bias = (
        "diffusion_model.spatial_blocks.0.attn.qkv",
        torch.randn(72, generator=torch.Generator().manual_seed(0)),
    )
    save_file({f"{name}.diff_b": bias}, tmp_path / FILE)
    ours = open_sora()
    with torch.no_grad():
        other = open_sora()
        for part, own in zip("qkv", bias.chunk(3), strict=True):
            other.blocks[0].attn1.get_submodule(f"to_{part}").bias += own
    ours.load_lora_adapter(tmp_path, adapter_name="it")
    x, t, text = torch.randn(1, 4, 3, 4, 4), torch.tensor([300.0]), torch.randn(1, 5, 10)
    torch.testing.assert_close(ours(x, t, text).sample, other(x, t, text).sample, rtol=1e-5, atol=1e-6)
    ours.save_lora_adapter(tmp_path / "back", "it", style="original")
    torch.testing.assert_close(load_file(tmp_path / "back" / FILE)[f"{name}.diff_b"], bias)


HALF = "diffusion_model.blocks.0.self_attn.q"
DOWN, UP = torch.ones(3, 40), torch.ones(40, 3)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, "holds no tensors"),
        ({"lora_A": DOWN[:0], "lora_B": UP[:, :0]}, "no pair of floating-point matrices"),
        ({"lora_A": DOWN.to(torch.int8), "lora_B": UP.to(torch.int8)}, r"torch\.int8 .* no pair of floating-point"),
        ({"lora_A": DOWN[..., None, None], "lora_B": UP[..., None, None]}, "no pair of floating-point matrices"),
        ({"lora_A": DOWN, "lora_B": UP[:, :2]}, r"\(40, 2\) @ \(3, 40\) does not fit"),
        ({"lora_A": DOWN, "lora_B": UP[:30]}, r"\(30, 3\) @ \(3, 40\) does not fit .*\(40, 40\): of another base"),
        ({"lora_A": DOWN}, "half an adapter"),
        ({"lora_A": DOWN, "lora_B": UP, "alpha": torch.ones(2)}, "its alpha is no number"),
        (
            {"lora_A": DOWN, "lora_B": UP, "dora_scale": torch.ones(40, 1)},
            r"1 of its 3 tensors have no place .*dora_scale",
        ),
        ({"lora_A": DOWN, "lora_B": UP, "diff": torch.ones(40)}, r"1 of its 3 tensors have no place .*diff"),
        ({"lora_A": DOWN, "lora_B": UP, "diff_b": torch.ones(4)}, r"a bias of torch\.float32 \(4,\) for 40 outputs"),
        ({"lora_A": DOWN, "diff_b": torch.ones(40)}, "half an adapter"),
        ({"lora_A": DOWN, "lora_B": UP, "lora_down": DOWN}, r"lora_down\.weight: its layer has such a half already"),
        ({"hada_w1_a": torch.ones(40, 3)}, r"1 of its 1 tensors have no place .*hada_w1_a"),
    ],
)
def test_what_is_no_adapter_is_named_and_leaves_none(state: dict[str, Tensor], message: str) -> None:
    ours = from_diffusers(wan())[0]
    plain = call(ours)
    named = {f"{HALF}.{k}.weight" if k.startswith("lora") else f"{HALF}.{k}": tensor for k, tensor in state.items()}
    with pytest.raises(WeightsError, match=rf"the adapter: .*{message}"):
        ours.load_lora_adapter(named)
    assert not getattr(ours, "peft_config", {})
    assert torch.equal(call(ours), plain)


def test_an_adapter_that_is_not_there_is_named(tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere.safetensors"
    with pytest.raises(WeightsError, match=r"nowhere\.safetensors: there is no such file"):
        from_diffusers(wan())[0].load_lora_adapter(nowhere)
    for place in (nowhere, str(nowhere)):
        with pytest.raises(FileNotFoundError, match=r"nowhere\.safetensors: there is no such file"):
            tiny_pipeline().load_lora_weights(place)
    pair = {f"{HALF}.lora_A.weight": DOWN, f"{HALF}.lora_B.weight": UP}
    with pytest.raises(WeightsError, match=r"self_attn\.q: its alpha is no number: many"):
        from_diffusers(wan())[0].load_lora_adapter(pair, metadata={"lora_alpha": "many"})
