"""A `VideoDiT` in the hands of others: how it is loaded, adapted, cached, compiled, checkpointed, spread and told.

What diffusers asks of a model comes from its mixins; what the trainer and the pipeline ask is `models.VideoModel`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from diffusers.models.attention import AttentionMixin
from diffusers.models.cache_utils import CacheMixin
from torch import nn

from videodit.models import Condition, Schedule
from videodit.models.adapters import WholeAdapters
from videodit.models.checks import check_loaded, checked_cache
from videodit.weights import WeightsError, check_finite, loading

STUB = '''"""Lets diffusers' `AutoModel` find the class of this folder; videodit must be installed."""

from {module} import {name}  # noqa: F401
'''


class Handling(AttentionMixin, CacheMixin, WholeAdapters):
    """All of a diffusers model of `blocks` but what it is made of and what it computes."""

    config: Any
    enable_gradient_checkpointing: Any
    disable_gradient_checkpointing: Any

    _auto_class = "AutoModel"
    _supports_gradient_checkpointing = True
    _no_split_modules: ClassVar[list[str]] = ["DiTBlock"]
    _repeated_blocks: ClassVar[list[str]] = ["DiTBlock"]
    _skip_layerwise_casting_patterns: ClassVar[list[str]] = [
        "patch_embed",
        "adaln_single",
        "embedders",
        "caption_projection",
        "condition_embedders",
        "fps_embedder",
        "delta_embedder",
        "guidance_embedder",
        "modulation",
        "norm",
        "scale_shift_table",
    ]
    _keep_in_fp32_modules: ClassVar[list[str]] = [
        *("adaln_single", "embedders", "fps_embedder", "delta_embedder", "guidance_embedder", "scale_shift_table")
    ]

    blocks: nn.ModuleList
    sequence_group: dist.ProcessGroup | None
    checkpoint_every: int  # of the blocks, with `enable_gradient_checkpointing`

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> Any:
        """Loads a folder or hub name as diffusers does; ValueError where weights are missing, left over or damaged."""
        wanted, folder = kwargs.pop("output_loading_info", False), kwargs.get("subfolder") or ""
        with loading(Path(pretrained_model_name_or_path, folder)):
            model, info = super().from_pretrained(pretrained_model_name_or_path, output_loading_info=True, **kwargs)
        check_loaded(info, f"{pretrained_model_name_or_path}", cls.__name__)
        try:
            check_finite(model, Path(pretrained_model_name_or_path, folder))
        except WeightsError as error:
            if kwargs.get("quantization_config") is None:
                raise
            raise WeightsError(f"{error}; or it has a row of zeros, which fp8 turns into NaN: take int8") from error
        return (model, info) if wanted else model

    @classmethod
    def extract_init_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As diffusers reads a configuration, without what is for its `AutoModel`."""
        config = {key: value for key, value in config_dict.items() if key != "auto_map"}
        return super().extract_init_dict(config, **kwargs)  # type: ignore[misc]

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Saves a folder as diffusers does, with the stub by which its `AutoModel` finds this class there.

        Raises:
            ValueError: there are adapters on the model, beside whose weights its own have other names.
        """
        if adapters := ", ".join(self._adapters()):
            raise ValueError(
                f"adapters ({adapters}) are no weights of the model: save_lora_weights (of a model save_lora_adapter) "
                "saves them, unload_lora_weights (unload_lora) takes them off; after fuse_lora they are part of it"
            )
        super().save_pretrained(save_directory, **kwargs)  # type: ignore[misc]
        module, name = type(self).__module__, type(self).__name__
        stub = f"{module.rpartition('.')[2]}.py"  # where diffusers' `auto_map` says that the class is
        (Path(save_directory) / stub).write_text(STUB.format(module=module, name=name))

    @property
    def in_channels(self) -> int:
        """Latent channels c that a call takes."""
        return self.config.in_channels

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """All that a call needs to be told."""
        config, told = self.config, []
        if config.caption_channels is not None:
            null = config.null_caption_length is not None
            told.append(Condition("text", "text", config.caption_channels, null))
        if config.num_classes is not None:
            told.append(Condition("class", "class", config.num_classes))
        if config.use_additional_conditions:
            told.append(Condition("size", "size", 2))
        if config.flow_map_gate is not None:
            told.append(Condition("until", "until", 1))
        if config.guidance_embeds:
            told.append(Condition("guidance", "guidance", 1))
        return (*told, *getattr(self, "own_conditions", ()))

    @property
    def units(self) -> nn.ModuleList:
        """Its blocks, which are sharded, compiled and checkpointed one by one."""
        return self.blocks

    @property
    def gathered(self) -> list[nn.Module]:
        """Its units."""
        return [*self.units]

    def axis_of(self, name: str) -> str:
        """Along which axis the block looks that a weight of this name is in; "" where it is in none."""
        first, _, rest = name.partition(".")
        return str(self.blocks[int(rest.split(".")[0])].axis) if first == "blocks" else ""

    def schedule(self, steps: int, frames: int, places: int) -> Schedule:
        """Its scheduler's own sigmas, shifted by all tokens."""
        return Schedule(frames * places)

    def checkpoint_units(self, every: int) -> None:
        """Recomputes every n-th block in the backward pass; 0: none."""
        self.checkpoint_every = max(1, every)
        (self.enable_gradient_checkpointing if every else self.disable_gradient_checkpointing)()

    def compile_repeated_blocks(self, *args: Any, **kwargs: Any) -> None:
        """diffusers' own, with room for as many graphs as calls differ: images and clips, one and several at once, with
        and without gradients, at one size and at any."""
        torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
        super().compile_repeated_blocks(*args, **kwargs)

    def enable_cache(self, config: Any) -> None:
        """diffusers' own. ValueError for a cache that does not fit this model, or finds nothing in it to work on."""
        with checked_cache(self, config):
            super().enable_cache(config)

    def set_sequence_group(self, group: dist.ProcessGroup | None) -> None:
        """Spreads the tokens of each call over the processes of a group (`models.sequence`); None: over none.

        From here on they call the model together, with equal inputs and equal weights, and each gets the whole output.
        Gradients are right when averaged over the group, as DDP and FSDP do: a process has its tokens' part, times the
        number of processes, whose losses are equal.
        """
        self.sequence_group = group
