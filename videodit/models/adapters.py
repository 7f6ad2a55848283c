"""Low-rank adapters on a model (Hu et al. 2021), as diffusers and peft keep them: taken whole, or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffusers.loaders import PeftAdapterMixin
from diffusers.loaders.lora_base import _fetch_state_dict
from torch import Tensor

from videodit.weights import WeightsError, is_finite, loading

_FETCH = ("cache_dir", "force_download", "proxies", "local_files_only", "token", "revision", "subfolder", "weight_name")


class WholeAdapters(PeftAdapterMixin):
    """diffusers' adapters, which it loads in parts with no more than a warning."""

    def load_lora_adapter(
        self,
        pretrained_model_name_or_path_or_dict: str | Path | dict[str, Tensor],
        prefix: str | None = "transformer",
        hotswap: bool = False,
        **kwargs: Any,
    ) -> None:
        """As diffusers loads an adapter, but all of it: half an adapter is another model.

        Raises:
            WeightsError: a tensor has no place in this model, or lacks its other half; it is not finite; or the file
                is damaged. The model is then without the adapter.
        """
        source = pretrained_model_name_or_path_or_dict
        name = "the adapter" if isinstance(source, dict) else str(Path(source, kwargs.get("weight_name") or ""))
        with loading("" if isinstance(source, dict) else source):
            state = _fetched(source, kwargs)
        if broken := [key for key, tensor in state.items() if not is_finite(tensor)]:
            raise WeightsError(f"{name}: {broken[0]} is not finite, it holds NaN or infinity; the file is damaged")
        before = set(self._adapters())
        super().load_lora_adapter(source, prefix=prefix, hotswap=hotswap, **kwargs)
        if not hotswap:
            self._check_whole(name, state, prefix, set(self._adapters()) - before)

    def _adapters(self) -> dict[str, Any]:
        return getattr(self, "peft_config", {})

    def _check_whole(self, source: str, state: dict[str, Tensor], prefix: str | None, added: set[str]) -> None:
        from peft import get_peft_model_state_dict  # which is there, since an adapter was loaded

        placed: set[str] = set()
        for adapter in added:
            placed |= set(get_peft_model_state_dict(self, adapter_name=adapter))
        wanted = {key.removeprefix(f"{prefix}.") for key in state if not key.endswith("alpha")}
        if len(placed) == len(wanted):
            return
        for adapter in added:
            self.delete_adapters(adapter)
        stray, bare = sorted(wanted - placed), sorted(placed - wanted)
        where = f"no place for {', '.join(stray[:3])}" if stray else f"no {', '.join(bare[:3])} in it"
        raise WeightsError(
            f"{source}: half an adapter: {len(placed & wanted)} of its {len(wanted)} tensors fit this model ({where}); "
            f"take one that was made for it, and the prefix= that its names begin with"
        )


def _fetched(source: Any, kwargs: dict[str, Any]) -> dict[str, Tensor]:
    how = {key: kwargs.get(key) for key in _FETCH} | {"use_safetensors": True, "allow_pickle": False}
    agent = {"file_type": "attn_procs_weights", "framework": "pytorch"}
    return _fetch_state_dict(source, user_agent=agent, **how)[0]
