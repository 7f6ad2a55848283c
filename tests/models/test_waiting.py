"""What waits in the machine's memory changes no number; on a stand-in device: `tests/laws/test_device_law.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.hooks.group_offloading import _is_group_offload_enabled
from peft import LoraConfig
from runs import run
from tiny import tiny_dit, tiny_pipeline

from videodit.config import ConfigError, load_config
from videodit.memory import group_offload
from videodit.models.transformer import VideoDiT
from videodit.models.waiting import BlocksWait, checkpoint_waiting
from videodit.training.trainer import Trainer

CPU = torch.device("cpu")


def adapted(seed: int = 0) -> VideoDiT:
    model = tiny_dit(num_layers=2)
    model.requires_grad_(False)
    torch.manual_seed(seed)
    model.add_adapter(LoraConfig(r=2, target_modules=["to_q", "ff.net.2"], init_lora_weights=False))
    return model


def gradients(model: VideoDiT) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    x = torch.randn(2, 4, 2, 4, 4), torch.tensor([300.0, 900.0]), torch.randn(2, 5, 24)
    model(*x).sample.square().mean().backward()
    return {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


def test_gradients_are_the_same_bit_for_bit_and_one_block_at_a_time_is_there() -> None:
    plain, waiting = adapted(), adapted()
    plain.enable_gradient_checkpointing()
    waiting.enable_gradient_checkpointing(checkpoint_waiting)
    held = [block.ff.net[0].proj.weight for block in waiting.blocks]
    BlocksWait(waiting, waiting.blocks, CPU)
    seen: list[list[bool]] = []

    def look(module: Any, *_: Any) -> None:
        seen.append([block.ff.net[0].proj.weight is not own for block, own in zip(waiting.blocks, held, strict=True)])

    for block in waiting.blocks:
        block.register_forward_pre_hook(look)
    expected, found = gradients(plain), gradients(waiting)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    order = [*range(4), *reversed(range(4))]  # forward, and again in backward
    assert [row.index(True) for row in seen] == order
    assert all(sum(row) == 1 for row in seen)


def test_of_a_block_its_input_alone_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the text, the modulation or the rotary angles, which are one for all blocks."""
    sent: list[tuple[int, ...]] = []

    class Watched(torch.autograd.graph.save_on_cpu):
        def __init__(self, pin_memory: bool):
            super().__init__(pin_memory)
            pack = self.pack_hook
            self.pack_hook = lambda tensor: (sent.append(tuple(tensor.shape)), pack(tensor))[1]

    monkeypatch.setattr("videodit.models.waiting.save_on_cpu", Watched)
    model = adapted()
    model.enable_gradient_checkpointing(checkpoint_waiting)
    gradients(model)
    assert sent == [(2, 2, 4, 32)] * 4  # b f s d


@pytest.mark.cpu("the group's device is said")
def test_blocks_in_groups_make_the_same_clip() -> None:
    plain, grouped = tiny_pipeline(), tiny_pipeline()
    group_offload(grouped, CPU)
    assert _is_group_offload_enabled(grouped.transformer)
    clips = [
        pipe("a red circle", num_inference_steps=2, generator=torch.Generator().manual_seed(0)).frames
        for pipe in (plain, grouped)
    ]
    assert abs(clips[0] - clips[1]).max() < 1e-5


@pytest.mark.slow
@pytest.mark.cpu("there is no accelerator")
def test_where_there_is_no_accelerator_nothing_waits(tmp_path: Path) -> None:
    model = {"num_layers": 1, "mlp_ratio": 0.5, "gradient_checkpointing": True, "offload": ["activations"]}
    with pytest.raises(ValueError, match=r"model\.offload: \['activations'\] needs an accelerator \(a GPU\)"):
        Trainer(run(tmp_path, model=model))


@pytest.mark.parametrize(
    ("model", "train", "said"),
    [
        ("offload: [activations]", "{}", "set gradient_checkpointing: true"),
        ("offload: [blocks], gradient_checkpointing: 2", "{}", "all run again: set gradient_checkpointing: true"),
        ("offload: [blocks], gradient_checkpointing: true", "{}", "model.offload: .blocks. is of frozen weights"),
        ("offload: [blocks], gradient_checkpointing: true, compile: true", "{}", "take compile out"),
        (
            "offload: [blocks], gradient_checkpointing: true",
            "{lora: {}, start_from: x, sharding: fsdp}",
            "not split by",
        ),
        ("offload: [weights]", "{}", "must be 'activations' or 'blocks'"),
    ],
)
def test_what_does_not_go_together_is_named(tmp_path: Path, model: str, train: str, said: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(f"output: {tmp_path / 'run'}\nmodel: {{{model}}}\ntrain: {train}\n")
    with pytest.raises(ConfigError, match=said):
        load_config(file)
