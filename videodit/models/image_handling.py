"""A `TimeExtended` in the hands of others: copied, checkpointed, cached, compiled, offloaded with its image model."""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from diffusers.hooks import (
    FirstBlockCacheConfig,
    TaylorSeerCacheConfig,
    apply_first_block_cache,
    apply_taylorseer_cache,
)
from torch import nn
from torch.utils.checkpoint import checkpoint

from videodit.models import Condition, Schedule
from videodit.models.adapters import check_no_adapters
from videodit.models.checks import checked_cache
from videodit.models.families import Family
from videodit.models.handling import Handling
from videodit.models.time_hooks import HOOK, detach, hook_again, registry

CACHES: dict[type, tuple[str, Any]] = {
    FirstBlockCacheConfig: ("first-block", apply_first_block_cache),
    TaylorSeerCacheConfig: ("taylorseer", apply_taylorseer_cache),
}


class ImageHandling(Handling):
    """All of a `TimeExtended` but what it is made of and what it computes."""

    _group_offload_block_modules: ClassVar[list[str]] = ["image"]  # where more lists of blocks are

    if TYPE_CHECKING:
        image: Any
        hosts: list[Any]
        host_names: tuple[str, ...]
        family: Family
        call: Any
        channels: int
        gradient_checkpointing: bool
        making_again: bool
        is_cache_enabled: bool
        _cache_config: Any

        def _told(self, call: Any) -> AbstractContextManager[None]: ...

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        made = memo[id(self)] = type(self).__new__(type(self))
        made.__dict__.update(copy.deepcopy(self.__dict__, memo))
        hook_again(made)
        if made.gradient_checkpointing:  # by functions that are of this model
            made.enable_gradient_checkpointing(made.checkpointing)
        return made

    def detach(self) -> Any:
        """The image model without time blocks behind its own, as it was given; this model is then it on each frame."""
        for host in self.hosts:
            detach(host)
        return self.image

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """As `Handling` does. ValueError: there are adapters on the image model too."""
        if not self._adapters():  # which it tells of itself
            check_no_adapters(self.image, type(self.image).__name__)
        super().save_pretrained(save_directory, **kwargs)

    @property
    def in_channels(self) -> int:
        return self.channels

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """All that a call needs to be told."""
        return self.family.told(self.image.config)

    @property
    def units(self) -> nn.ModuleList:
        """Time blocks, and the image model's own."""
        return nn.ModuleList([*self.blocks, *self.hosts])

    @property
    def gathered(self) -> list[nn.Module]:
        """What of a block the image model calls itself, and all units."""
        return [*map(self.image.get_submodule, self.family.reached), *self.units]

    def axis_of(self, name: str) -> str:
        """ "time" of a weight that looks along it, "space" of one in the image model's blocks; "" of the others."""
        if name.startswith(("blocks.", "time_embeds.")):
            return "time"
        return "space" if name.startswith(self.host_names) else ""

    def schedule(self, steps: int, frames: int, places: int) -> Schedule:
        """As its own pipeline has it, which sees a frame at once."""
        sigmas, mu = self.family.sigmas, self.family.mu
        return Schedule(places, sigmas and sigmas(steps), mu and mu(places, steps))

    def text_memory(self, *text: Any, **options: Any) -> None:
        """None: what the image model makes of a text differs from block to block."""

    def enable_gradient_checkpointing(self, gradient_checkpointing_func: Any = None) -> None:
        """Blocks of the image model, each with the time block behind it, are made again in the backward pass: what
        they were told of the call goes with them. Where diffusers makes none again (HunyuanDiT, the attention of a
        U-Net) it is those that a time block is behind.

        Args:
            gradient_checkpointing_func: of (block, states, *others), as diffusers takes it; None: torch's checkpoint.
        """
        self.checkpointing = gradient_checkpointing_func or partial(checkpoint, use_reentrant=False)
        self.gradient_checkpointing = True

        def remade(block: Any, *args: Any, **kwargs: Any) -> Any:
            return self.remade(block, *args, **kwargs) if self.makes_again(block) else block(*args, **kwargs)

        if self.image._supports_gradient_checkpointing:
            self.image.enable_gradient_checkpointing(remade)

    def host_of(self, number: int) -> Any:
        """The block that a time block stands behind."""
        return self.hosts[(number + 1) * self.config.every - 1]

    def makes_again(self, block: Any) -> bool:
        """Whether a block of the image model is made again in the backward pass, and is not within one that is."""
        if not self.gradient_checkpointing or self.making_again or not torch.is_grad_enabled():
            return False
        number = next((number for number, host in enumerate(self.hosts) if host is block), 0)
        return number % self.checkpoint_every == 0

    def remade(self, block: Any, *args: Any, **kwargs: Any) -> Any:
        """What a block gives, made again in the backward pass."""
        call = self.call

        def again(*args: Any) -> Any:
            self.making_again = True
            try:
                with self._told(call):
                    return block(*args, **kwargs)
            finally:
                self.making_again = False

        return self.checkpointing(again, *args)

    def disable_gradient_checkpointing(self) -> None:
        self.gradient_checkpointing = False
        if self.image._supports_gradient_checkpointing:
            self.image.disable_gradient_checkpointing()

    def enable_cache(self, config: Any) -> None:
        """A feature cache of diffusers on the image model; what its blocks skip, the time blocks behind them skip too.

        Raises:
            ValueError: another than those that its family says fit (`Family.caches`).
        """
        own, (name, apply) = type(self.image).__name__, CACHES.get(type(config), ("", None))
        if name not in self.family.caches:
            fit = f"take {' or '.join(self.family.caches)}, or no cache" if self.family.caches else "take no cache"
            raise ValueError(f"{type(config).__name__} does not fit {own} on clips: {fit}")
        if self.is_cache_enabled:
            raise ValueError(f"{type(self._cache_config).__name__} is enabled already: disable_cache() first")
        with checked_cache(self, config):
            apply(self.image, config)
            registry(self).invalidate_child_registries_cache()  # type: ignore[arg-type]
            self._cache_config = config

    def enable_group_offload(self, *args: Any, **kwargs: Any) -> None:
        """diffusers' own, of the image model's blocks too. ValueError where diffusers has it that these cannot."""
        if not self.image._supports_group_offloading:
            raise ValueError(f"{type(self.image).__name__} cannot be offloaded in groups: take --offload model")
        super().enable_group_offload(*args, **kwargs)  # type: ignore[misc]

    def compile_repeated_blocks(self, *args: Any, **kwargs: Any) -> None:
        """Blocks of the image model inside of their hooks, one graph for all of a class, and time blocks."""
        torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
        for host in self.hosts:
            hook: Any = registry(host).get_hook(HOOK)
            if hook is None:
                host.compile(*args, **kwargs)
            else:
                hook.fn_ref.forward = torch.compile(hook.fn_ref.forward, *args, **kwargs)
        for block in self.blocks:
            block.compile(*args, **kwargs)
