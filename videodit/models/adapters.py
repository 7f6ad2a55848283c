"""Low-rank adapters on a model (Hu et al. 2021), as diffusers and peft keep them: taken whole, or not at all.

A file may name the layers as this model does, as diffusers' class of its family, or as the family's own code
(`formats.lora`); what is written names them as diffusers' class does, where there is one.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from diffusers.loaders import PeftAdapterMixin
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY, LORA_WEIGHT_NAME_SAFE, _fetch_state_dict
from diffusers.utils import is_peft_available
from safetensors.torch import save_file
from torch import Tensor, nn

from videodit.disk import whole
from videodit.models.formats.lora import Pair, part_of, peft_config, read, write
from videodit.weights import WeightsError, is_finite, loading

log = logging.getLogger(__name__)

_FETCH = ("cache_dir", "force_download", "proxies", "local_files_only", "token", "revision", "subfolder", "weight_name")


class WholeAdapters(PeftAdapterMixin):
    """diffusers' adapters, which it loads in parts with no more than a warning."""

    def load_lora_adapter(
        self,
        pretrained_model_name_or_path_or_dict: str | Path | dict[str, Tensor],
        prefix: str | None = "transformer",
        hotswap: bool = False,
        strict: bool = True,
        **kwargs: Any,
    ) -> None:
        """As diffusers loads an adapter, but all of it: half an adapter is another model.

        Args:
            prefix: with which all names begin, where it is none of `formats.lora`'s.
            strict: False leaves out, with a warning that counts them, layers that this model does not have.

        Raises:
            WeightsError: a tensor has no place in this model (unless not `strict`), lacks its other half, or is of
                another base's shape; it is not finite; the file is damaged; or peft is not installed. The model is
                then without the adapter.
        """
        if not is_peft_available():
            raise WeightsError("adapters need peft: pip install 'videodit[lora]'")
        if "." in (kwargs.get("adapter_name") or ""):
            raise WeightsError(f"adapter_name={kwargs['adapter_name']!r}: the name of an adapter has no dot")
        if kwargs.pop("network_alphas", None):
            raise WeightsError("network_alphas: put each alpha beside its layer's halves, as LAYER.alpha")
        source = pretrained_model_name_or_path_or_dict
        name = "the adapter" if isinstance(source, dict) else str(Path(source, kwargs.get("weight_name") or ""))
        if isinstance(source, Path) and not source.exists():
            raise WeightsError(f"{source}: there is no such file or folder")
        with loading("" if isinstance(source, dict) else source):
            state, metadata = _fetched(source, kwargs)
        if broken := [key for key, tensor in state.items() if not is_finite(tensor)]:
            raise WeightsError(f"{name}: {broken[0]} is not finite, it holds NaN or infinity; the file is damaged")
        metadata = kwargs.pop("metadata", None) or metadata
        if prefix not in (None, "transformer"):
            own = {key.removeprefix(f"{prefix}."): x for key, x in state.items() if key.startswith(f"{prefix}.")}
            if len(own) < len(state):
                raise WeightsError(f"{name}: {len(own)} of its {len(state)} names begin with prefix={prefix!r}")
            state = own
        try:
            pairs, stray = read(state, metadata, self.config, linear_shapes(self))
        except WeightsError as error:
            raise WeightsError(f"{name}: {error}") from error
        if not state:
            raise WeightsError(f"{name}: holds no tensors")
        if stray and (strict or not pairs):
            raise WeightsError(
                f"{name}: half an adapter: {len(stray)} of its {len(state)} tensors have no place in this model "
                f"({', '.join(sorted(stray)[:3])}); take one that was made for it, or strict=False for the rest"
            )
        if stray:
            log.warning(
                "%s: %d of %d tensors have no place in this model and are left out", name, len(stray), len(state)
            )
        for key in (*_FETCH, "use_safetensors"):
            kwargs.pop(key, None)
        super().load_lora_adapter(
            _peft_state(pairs), prefix=None, hotswap=hotswap, metadata=peft_config(pairs), **kwargs
        )
        if hotswap:  # peft swaps matrices and scales, and keeps the rank and alpha by which it weighs them later
            for layer, pair in pairs.items():
                module: Any = self.get_submodule(layer)  # type: ignore[attr-defined]
                module.r[kwargs["adapter_name"]] = len(pair.down)
                module.lora_alpha[kwargs["adapter_name"]] = pair.alpha

    def save_lora_adapter(
        self,
        save_directory: str | Path,
        adapter_name: str = "default",
        weight_name: str | None = None,
        style: str = "diffusers",
        upcast_before_saving: bool = False,
    ) -> None:
        """Saves an adapter into a folder, in a style that others read.

        Args:
            weight_name: of the file; None: diffusers' own.
            upcast_before_saving: to float32; else it keeps its precision.
            style: "diffusers", "original" (ComfyUI) or "kohya" (musubi-tuner), as in `formats.lora`.

        Raises:
            ValueError: no such adapter or style. DiskError: there is no room.
        """
        self._check_adapter(adapter_name)
        state, config = write(adapter_pairs(self, adapter_name), self.config, style)
        state = {name: tensor.float() if upcast_before_saving else tensor for name, tensor in state.items()}
        told = {f"{part_of(self.config)}.{key}": value for key, value in config.items()}
        metadata = {"format": "pt"} | ({LORA_ADAPTER_METADATA_KEY: json.dumps(told, sort_keys=True)} if told else {})
        file = Path(save_directory) / (weight_name or LORA_WEIGHT_NAME_SAFE)
        file.parent.mkdir(parents=True, exist_ok=True)
        with whole(file) as scratch:
            save_file(state, scratch, metadata=metadata)

    def delete_adapters(self, adapter_names: list[str] | str) -> None:
        """As diffusers deletes them. ValueError: there is none of a name."""
        for name in [adapter_names] if isinstance(adapter_names, str) else adapter_names:
            self._check_adapter(name)
        super().delete_adapters(adapter_names)

    def _check_adapter(self, name: str) -> None:
        if name not in self._adapters():
            raise ValueError(f"no adapter {name!r} on this model, but {', '.join(self._adapters()) or 'none'}")

    def _adapters(self) -> dict[str, Any]:
        return getattr(self, "peft_config", {})


def check_no_adapters(image: nn.Module, where: str) -> None:
    """ValueError where peft has put layers of its own into an image model, whose weights then have other names."""
    if not is_peft_available():
        return
    from peft.tuners.tuners_utils import BaseTunerLayer

    if any(isinstance(part, BaseTunerLayer) for part in image.modules()):
        raise ValueError(
            f"{where}: adapters on it are no weights of its own; save them by save_lora_adapter and unload_lora(), or "
            "make them part of it by fuse_lora() and unload_lora()"
        )


def linear_shapes(model: Any) -> dict[str, tuple[int, int]]:
    """(out, in) of its linear layers, by name, adapters on them aside."""
    return {
        name.removesuffix(".base_layer"): (module.out_features, module.in_features)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and ".lora_" not in name
    }


def adapter_pairs(model: Any, adapter: str) -> dict[str, Pair]:
    """The adapter of each layer that has it, at its own strength, whatever it is weighed with now.

    ValueError: it is more than two matrices a layer and a bias (DoRA's magnitudes), which its file would lose.
    """
    pairs = {}
    for name, module in model.named_modules():
        if adapter not in getattr(module, "lora_A", {}):
            continue
        own = {key for key in module.state_dict() if key.startswith("lora_") and adapter in key.split(".")}
        if more := sorted(
            own - {f"lora_{x}.{adapter}.{y}" for x, y in (("A", "weight"), ("B", "weight"), ("B", "bias"))}
        ):
            raise ValueError(
                f"adapter {adapter!r}: {name}.{more[0]} would be lost; adapters are two matrices a layer, and a bias"
            )
        down, up = module.lora_A[adapter].weight.detach(), module.lora_B[adapter].weight.detach()
        bias = module.lora_B[adapter].bias
        root = 0.5 if model.peft_config[adapter].use_rslora else 1.0
        scale = module.lora_alpha[adapter] / module.r[adapter] ** root
        pairs[name] = Pair(down, up, scale, None if bias is None else bias.detach())
    return pairs


def _peft_state(pairs: dict[str, Pair]) -> dict[str, Tensor]:
    halves = {f"{layer}.lora_A.weight": pair.down for layer, pair in pairs.items()}
    if any(pair.bias is not None for pair in pairs.values()):
        for layer, pair in pairs.items():
            halves[f"{layer}.lora_B.bias"] = pair.up.new_zeros(len(pair.up)) if pair.bias is None else pair.bias
    return halves | {f"{layer}.lora_B.weight": pair.up for layer, pair in pairs.items()}


def _fetched(source: Any, kwargs: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    how = {key: kwargs.get(key) for key in _FETCH} | {"use_safetensors": True, "allow_pickle": False}
    agent = {"file_type": "attn_procs_weights", "framework": "pytorch"}
    return _fetch_state_dict(source, user_agent=agent, **how)
