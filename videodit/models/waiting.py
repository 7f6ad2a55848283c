"""What waits in the machine's memory while the accelerator works on something else, in training.

Of a checkpointed block its input, from its forward to its backward; of frozen blocks their weights, of which one
block's at a time is on the device. diffusers' group offloading takes a block's weights away after its forward, and so
from under its backward: it is for sampling (`memory.place`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.utils.checkpoint import checkpoint


def checkpoint_waiting(block: nn.Module, x: Tensor, *inputs: Any, where: saved_tensors_hooks | None = None) -> Any:
    """A checkpoint, for `enable_gradient_checkpointing`: `x` waits for its backward in the machine's memory.

    What else a block is given, all blocks are given: it is kept once, where it is.

    Args:
        where: takes it away and brings it back; None: torch's own.
    """
    held, there = x.untyped_storage()._cdata, where or save_on_cpu(pin_memory=x.is_cuda)

    def pack(tensor: Tensor) -> Any:
        return there.pack_hook(tensor) if tensor.untyped_storage()._cdata == held else tensor

    def unpack(kept: Any) -> Tensor:
        return kept if isinstance(kept, Tensor) else there.unpack_hook(kept)

    with saved_tensors_hooks(pack, unpack):
        return checkpoint(block, x, *inputs, use_reentrant=False)


class BlocksWait:
    """Keeps the frozen weights of blocks in the machine's memory, and has those of the block that works on a device.

    A block stays until another one works, so all of its backward must run before: each is checkpointed, and then it
    runs again there.
    """

    def __init__(self, model: nn.Module, units: nn.ModuleList, device: torch.device):
        self._device, self._here = device, -1
        self._held = [[(module, name, self._still(weight)) for module, name, weight in _frozen(unit)] for unit in units]
        for module, name, _ in (one for held in self._held for one in held):
            module._parameters[name] = None
        model.to(device)
        for number, unit in enumerate(units):
            self._place(number, None)
            unit.register_forward_pre_hook(lambda module, inputs, number=number: self._bring(number))

    def _still(self, weight: nn.Parameter) -> nn.Parameter:
        plain = type(weight) is nn.Parameter and self._device.type == "cuda"
        return nn.Parameter(weight.detach().pin_memory(), requires_grad=False) if plain else weight

    def _bring(self, number: int) -> None:
        if number != self._here:
            if self._here >= 0:
                self._place(self._here, None)
            self._place(number, self._device)
            self._here = number

    def _place(self, number: int, device: torch.device | None) -> None:
        for module, name, held in self._held[number]:
            there = held if device is None else held.detach().to(device, non_blocking=True)
            module._parameters[name] = nn.Parameter(there, requires_grad=False) if device else held


def _frozen(unit: nn.Module) -> list[tuple[nn.Module, str, nn.Parameter]]:
    return [
        (module, name, weight)
        for module in unit.modules()
        for name, weight in module._parameters.items()
        if weight is not None and not weight.requires_grad
    ]
