"""A stand-in for an accelerator: a device, "sham", that computes on the CPU and refuses what a real one would refuse.

`install()` makes it known to torch, once a process. A tensor there (`Away`) keeps its numbers in a CPU tensor, and says
of itself that it is elsewhere. Each operation is run on the CPU tensors, so that results equal the CPU's; where a CPU
tensor takes part too it raises, as with CUDA. Only numbers (no dimensions), copies, and indices into a tensor that is
away may come from the CPU. `.numpy()` raises too. Random numbers are the CPU's, as from a CPU generator.

Not there: streams that run by themselves, memory, kernels of their own, half precision as hardware has it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import torch
from accelerate import PartialState
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "sham"
CPU = torch.device("cpu")
COPIES = ("aten::copy_", "aten::_to_copy", "aten::_copy_from", "aten::_copy_from_and_resize", "aten::_foreach_copy_")
INDEXED = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_")  # by indices from anywhere

# why a test is of the CPU alone
LEFT_EMPTY = "transformers leaves empty what no file holds, where torch has a device that it does not know"
TORCHSCRIPT = "modules of TorchScript hold no tensors of the stand-in"


class Away(torch.Tensor):
    """A tensor on the stand-in device; `here` is the CPU tensor with its numbers."""

    here: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, here: torch.Tensor) -> Away:
        options = {"dtype": here.dtype, "device": torch.device(NAME, 0), "requires_grad": here.requires_grad}
        away = torch.Tensor._make_wrapper_subclass(
            cls, here.shape, strides=here.stride(), storage_offset=here.storage_offset(), **options
        )
        away.here = here.detach()
        return away

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        whole = func.decompose(*args, **kwargs or {})  # inference mode sends what is made of other operations whole
        return computed(func, args, kwargs or {}) if whole is NotImplemented else whole

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError(f"can't convert {NAME}:0 device type tensor to numpy: use Tensor.cpu() first")

    __array__ = numpy

    def tolist(self) -> Any:
        return self.here.tolist()

    def untyped_storage(self) -> Any:
        return self.here.untyped_storage()

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        copied = Away(self.here.clone()).requires_grad_(self.requires_grad)
        memo[id(self)] = torch.nn.Parameter(copied, self.requires_grad) if _is_parameter(self) else copied
        return memo[id(self)]

    def __getitem__(self, index: Any) -> Any:
        parts = index if isinstance(index, tuple) else (index,)
        parts = tuple(torch.tensor(part) if isinstance(part, list) else part for part in parts)
        return super().__getitem__(parts if isinstance(index, tuple) else parts[0])

    def __repr__(self, **_: Any) -> str:
        return f"{self.here!r} on {NAME}:0"


def _is_parameter(tensor: torch.Tensor) -> bool:
    return isinstance(tensor, torch.nn.Parameter)


def is_away(device: Any) -> bool:
    return device is not None and torch.device(device).type == NAME


def computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """An operation on tensors that are away, or one that makes such a tensor."""
    away: dict[int, Away] = {}
    leaves: list[Any] = []

    def brought(value: Any) -> Any:
        leaves.append(value)
        if isinstance(value, Away):
            away[id(value.here)] = value
            return value.here
        return CPU if isinstance(value, torch.device) and value.type == NAME else value

    name, wanted = func._schema.name, kwargs.get("device")
    args, kwargs = _mapped(brought, args), _mapped(brought, kwargs)
    if away:
        _refuse_mixing(name, leaves)
    with torch.inference_mode(False):  # wrappers have no place in it
        result = func(*args, **kwargs)
        leaves_device = name == "aten::_to_copy" and wanted is not None and not is_away(wanted)
        stays_here = name == "aten::copy_" and id(args[0]) not in away  # from there into a tensor of the CPU
        if leaves_device or stays_here:
            return result
        return _mapped(lambda one: away[id(one)] if id(one) in away else _sent(one), result)


def _mapped(function: Callable[[Any], Any], value: Any) -> Any:
    """Of each leaf of an operation's arguments or results: torch's own `tree_map` takes as long as all the rest."""
    if isinstance(value, tuple | list):
        return type(value)(_mapped(function, one) for one in value)
    if isinstance(value, dict):
        return {key: _mapped(function, one) for key, one in value.items()}
    return function(value)


def _sent(value: Any) -> Any:
    return Away(value) if isinstance(value, torch.Tensor) and not isinstance(value, Away) else value


def _refuse_mixing(name: str, leaves: list[Any]) -> None:
    if name in COPIES or (name in INDEXED and isinstance(leaves[0], Away)):
        return
    for leaf in leaves:
        if isinstance(leaf, torch.Tensor) and not isinstance(leaf, Away) and leaf.dim() > 0:
            raise RuntimeError(f"{name}: expected all tensors on {NAME}:0, but found one on {leaf.device}")


_library: Any = None


def install() -> torch.device:
    """The device, known to torch from here on."""
    global _library
    if _library is None:
        _setup_privateuseone_for_python_backend(NAME)
        _library = torch.library.Library("_", "IMPL")
        _library.fallback(lambda func, *args, **kwargs: computed(func, args, kwargs), "PrivateUse1")
        backend = getattr(torch, NAME)
        backend.get_amp_supported_dtype = lambda: [torch.bfloat16, torch.float16]
        stream = SimpleNamespace(synchronize=lambda: None)
        backend.current_stream = lambda *_: stream
        backend.stream = lambda *_: nullcontext()
        torch.__future__.set_swap_module_params_on_conversion(True)  # or weights that are tied would come apart
        for name in ("tensor", "as_tensor", "arange"):
            setattr(torch, name, _sending(getattr(torch, name)))
        torch.empty_like = torch.zeros_like  # so that what transformers leaves empty is the same each time
    return torch.device(NAME, 0)


def choose() -> torch.device:
    """The device, as the accelerator of this machine: torch and accelerate choose it where nothing else is said."""
    away = install()
    PartialState.default_device = property(lambda state: away)
    return away


def _sending(make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """torch reads Python's numbers past all dispatch, and counts into a tensor that it makes longer: both are sent
    afterwards."""

    def made(*args: Any, device: Any = None, **kwargs: Any) -> torch.Tensor:
        if not is_away(device):
            return make(*args, device=device, **kwargs)
        return make(*args, **kwargs).to(device)

    return made
