"""Low-rank adapters on a pipeline, by diffusers' own surface: load, weigh, fuse, save, unload, several at once; and
branches that control it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from diffusers.loaders.lora_base import LoraBaseMixin
from diffusers.utils.peft_utils import get_adapter_name, unscale_lora_layers

from videodit.models.branches import load_control
from videodit.models.transformer import VideoDiT
from videodit.packaged import named_folder

log = logging.getLogger(__name__)


class Adapters(LoraBaseMixin):
    """What diffusers' pipelines have for LoRA, over transformers that take them whole (`models.adapters`)."""

    _lora_loadable_modules: ClassVar[list[str]] = ["transformer", "transformer_2"]
    transformer_name = "transformer"

    def load_control(self, folder: str | Path) -> str:
        """Puts a branch onto the transformer that was saved of it (`models.branches.save_control`): from then on a call
        may be told its map, by the name that this gives.

        Raises:
            WeightsError, ValueError: as `models.branches.load_control`; a transformer that can have none.
        """
        model = self.transformer  # type: ignore[attr-defined]
        if not isinstance(model, VideoDiT):
            raise ValueError(f"{folder}: a branch goes onto a VideoDiT, and this model is a {type(model).__name__}")
        if self.transformer_2 is not None:  # type: ignore[attr-defined]
            raise ValueError(f"{folder}: a branch is of one model, and this pipeline has two experts")
        return load_control(model, folder)

    def load_lora_weights(
        self,
        pretrained_model_name_or_path_or_dict: Any,
        adapter_name: str | None = None,
        hotswap: bool = False,
        strict: bool = True,
        load_into_transformer_2: bool = False,
        **kwargs: Any,
    ) -> None:
        """Puts an adapter on the transformer: a file, folder, hub name or state dict in any style of `formats.lora`.

        Args:
            adapter_name: to weigh and delete it by; None: default_0, default_1 ...
            hotswap: in the place of the adapter of that name.
            strict: False leaves out, with a warning that counts them, layers that this model does not have.
            load_into_transformer_2: onto the second of two experts.

        Raises:
            WeightsError: half an adapter, one of another base, or a damaged file; the model is then as before.
            FileNotFoundError: a path to nothing.
        """
        model = self._expert("load_into_transformer_2", load_into_transformer_2)
        source = pretrained_model_name_or_path_or_dict
        if not isinstance(source, dict):
            source = named_folder(str(source))
            if Path(source).is_file() and "weight_name" not in kwargs:
                source, kwargs["weight_name"] = Path(source).parent, Path(source).name
        model.load_lora_adapter(
            source,
            adapter_name=adapter_name or get_adapter_name(model),
            hotswap=hotswap,
            strict=strict,
            _pipeline=self,
            **kwargs,
        )

    def adapt(self, adapters: Sequence[str]) -> None:
        """Puts adapters on the transformer, each a file, folder or hub name, with its weight behind "=" (none: 1).

        Raises:
            WeightsError: as `load_lora_weights`.
        """
        weights = {}
        if adapters and self.transformer_2 is not None:  # type: ignore[attr-defined]
            log.warning(
                "%s: onto the first of two experts, that of noisy times; "
                "load_lora_weights(load_into_transformer_2=True) puts one onto the other",
                ", ".join(adapters),
            )
        for number, adapter in enumerate(adapters):
            place, weight = _weighed(adapter)
            self.load_lora_weights(place, adapter_name=f"lora_{number}")
            weights[f"lora_{number}"] = weight
        if weights:
            self.set_adapters(list(weights), list(weights.values()))

    def control(self, folders: Sequence[str]) -> dict[str, float]:
        """Puts branches on the transformer, each a folder with its weight behind "=" (none: 1); gives weights by name.

        Raises:
            WeightsError, ValueError: as `load_control`.
        """
        return {self.load_control(place): weight for place, weight in map(_weighed, folders)}

    def save_lora_weights(
        self,
        save_directory: str | Path,
        adapter_name: str | None = None,
        weight_name: str | None = None,
        style: str = "diffusers",
        save_from_transformer_2: bool = False,
    ) -> None:
        """Saves one of the transformer's adapters (None: the one that is active) as `models.adapters` does; or one of
        the second of two experts'."""
        model = self._expert("save_from_transformer_2", save_from_transformer_2)
        names = [adapter_name] if adapter_name else model.active_adapters()
        if len(names) > 1:
            raise ValueError(
                f"several adapters are active ({', '.join(names)}), and a file holds one: give adapter_name"
            )
        model.save_lora_adapter(save_directory, names[0], weight_name=weight_name, style=style)

    def fuse_lora(self, components: list[str] | None = None, **kwargs: Any) -> None:
        """Adds the active adapters to the weights; as diffusers."""
        super().fuse_lora(components=components or self._adapted(), **kwargs)

    def unfuse_lora(self, components: list[str] | None = None, **kwargs: Any) -> None:
        """Takes them out again; as diffusers, but at the strength that they had before `lora_scale`, too."""
        components = components or self._adapted()
        super().unfuse_lora(components=components, **kwargs)
        for model in (getattr(self, name) for name in components):
            if (scale := getattr(model, "lora_scale", 1.0)) != 1.0:
                unscale_lora_layers(model, scale)
                model.lora_scale = 1.0

    def delete_adapters(self, adapter_names: list[str] | str) -> None:
        """As diffusers deletes them, from the transformers that have them. ValueError: none has one of a name."""
        for name in [adapter_names] if isinstance(adapter_names, str) else adapter_names:
            having = [part for part, there in self.get_list_adapters().items() if name in there]
            for model in (getattr(self, part) for part in having or ["transformer"]):
                model.delete_adapters(name)

    def _expert(self, option: str, second: bool) -> Any:
        model = self.transformer_2 if second else self.transformer  # type: ignore[attr-defined]
        if model is None:
            raise ValueError(f"this pipeline has no such transformer; load it first, or leave out {option}")
        return model

    def _adapted(self) -> list[str]:
        return [name for name in self._lora_loadable_modules if getattr(getattr(self, name, None), "peft_config", None)]


def _weighed(adapter: str) -> tuple[str, float]:
    """A place and the weight behind its last "=", where there is a number."""
    place, found, weight = adapter.rpartition("=")
    try:
        return (place, float(weight)) if found else (adapter, 1.0)
    except ValueError:
        return adapter, 1.0
