"""How a time block is reached: by a hook of diffusers (`ModelHook`) on the block of the image model before it."""

from __future__ import annotations

import copy
import functools
from typing import Any

from diffusers.hooks import HookRegistry, ModelHook
from diffusers.hooks._helpers import TransformerBlockRegistry
from torch import Tensor, nn

HOOK = "videodit_time"


class TimeHook(ModelHook):
    """Lets a time block act on what a block of the image model gives: `place`, of the image in a tuple of states.

    A copy acts for the copy of its model; where the image model is copied alone, for none.
    """

    def __init__(self, model: Any, number: int, place: int):
        super().__init__()
        self.model, self.number, self.place = model, number, place

    def around(self, *args: Any, **kwargs: Any) -> Any:
        """The block, and what stands behind it; under checkpointing both are made again in the backward pass, where
        diffusers has not seen to it."""
        if self.model is not None and self.model.makes_again(host := self.model.host_of(self.number)):
            return self.model.remade(host, *args, **kwargs)
        return self.post_forward(None, self.fn_ref.forward(*args, **kwargs))

    def post_forward(self, module: Any, output: Any) -> Any:
        if self.model is None:
            return output
        if isinstance(output, Tensor):
            return self.model.along_time(self.number, output)
        if not isinstance(output, tuple):  # of a transformer within a U-Net, asked for a named one
            output.sample = self.model.along_time(self.number, output.sample)
            return output
        image = self.model.along_time(self.number, output[self.place])
        return *output[: self.place], image, *output[self.place + 1 :]

    def __deepcopy__(self, memo: dict[int, Any]) -> TimeHook:
        made = memo[id(self)] = TimeHook(memo.get(id(self.model)), self.number, self.place)
        made.fn_ref = copy.deepcopy(self.fn_ref, memo)
        return made


def attach(model: Any, number: int, block: nn.Module) -> None:
    """Puts time block `number` of a model behind a block of its image model; a hook that acts for none makes way."""
    detach(block)
    hook, forward = TimeHook(model, number, _place_of_image(block)), block.forward
    registry(block).register_hook(hook, HOOK)
    # diffusers' own closure would be the first block's in each copy of it; a method's copy is the copy's
    block.forward = functools.update_wrapper(functools.partial(hook.around), forward)  # type: ignore[method-assign]


def detach(block: nn.Module) -> None:
    registry(block).remove_hook(HOOK, recurse=False)


def stands_behind(block: nn.Module) -> bool:
    hook: Any = registry(block).get_hook(HOOK)
    return hook is not None and hook.model is not None


def hook_again(model: nn.Module) -> None:
    """Gives the blocks of a copied model the hooks that they have, in their order: what diffusers has wrapped around a
    block calls the one that it was copied from."""
    for part in model.modules():
        if (copied := vars(part).pop("_diffusers_hook", None)) is not None:
            vars(part).pop("forward", None)
            for name in copied._hook_order:
                hook = copied.hooks[name]
                if name == HOOK:
                    attach(hook.model, hook.number, part)
                else:
                    registry(part).register_hook(hook, name)


def registry(block: nn.Module) -> HookRegistry:
    return HookRegistry.check_if_exists_or_initialize(block)


def _place_of_image(block: nn.Module) -> int:
    """In a tuple that a block returns, as diffusers says for its caches. Sharding gives a block another class, so it is
    asked before."""
    TransformerBlockRegistry._register()
    known = TransformerBlockRegistry._registry.get(type(block))
    return known.return_hidden_states_index or 0 if known else 0
