"""Pictures and sounds -> states, by an encoder of transformers that is not trained: what tokens of one's own are.

ViT, DINOv2, SigLIP and CLIP (of which the half that sees is taken), ResNet and ConvNeXt, wav2vec 2, HuBERT, Whisper
(its encoder), the audio spectrogram transformer ...: whatever `AutoModel` loads and gives a `last_hidden_state`.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoModel

from videodit.packaged import named_folder
from videodit.weights import check_finite, loading, state_hash


class StatesEncoder:
    """An encoder and what prepares its input.

    rate: samples a second of sounds; None: it sees pictures. seconds: of a sound that it hears, the rest of which it
    would leave out; None: all.
    """

    def __init__(self, model: Any, prepare: Any, name: str = ""):
        self.name = name
        self.model, self.prepare = model.eval(), prepare
        self.rate: int | None = getattr(prepare, "sampling_rate", None)
        self.seconds: float | None = getattr(prepare, "chunk_length", None)  # Whisper's
        if type(prepare).__name__ == "ASTFeatureExtractor":
            self.seconds = prepare.max_length / 100
        self.device = torch.accelerator.current_accelerator() or torch.device("cpu")
        self.model.to(self.device)

    @classmethod
    def from_pretrained(cls, place: str) -> StatesEncoder:
        """Of a folder or hub name. ValueError: there is no such encoder, or not all of its weights."""
        name = named_folder(place)
        try:
            with loading(name):
                model, told = AutoModel.from_pretrained(name, dtype=torch.float32, output_loading_info=True)
            try:
                prepare = AutoImageProcessor.from_pretrained(name)
            except (OSError, ValueError):
                prepare = AutoFeatureExtractor.from_pretrained(name)
        except (OSError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(f"{place}: no encoder of pictures or sounds ({reason})") from error
        check_finite(model, name)
        for weight in sorted(told["missing_keys"]):
            if "pooler" not in weight:  # which states do not go through
                raise ValueError(f"{place}: the weights of {weight} are not there")
            model.get_parameter(weight).data.zero_()
        half: Any = getattr(model, "vision_model", None) or getattr(model, "audio_model", None)
        if half is None and model.config.is_encoder_decoder:
            half = model.get_encoder()
        return cls(half or model, prepare, place)

    @torch.no_grad()
    def __call__(self, one: np.ndarray) -> Tensor:
        """A picture uint8 h w 3, or a sound float32 n at its rate -> states m c, float32.

        ValueError: a sound that is longer than it hears.
        """
        if why := self.too_long(one):
            raise ValueError(why)
        how = {} if self.rate is None else {"sampling_rate": self.rate}
        inputs = self.prepare(one, return_tensors="pt", **how)
        named = ("pixel_values", "input_values", "input_features")
        wanted = {name: x.to(self.device) for name, x in inputs.items() if name in named}
        states = self.model(**wanted).last_hidden_state[0].float().cpu()
        return states.flatten(1).T.contiguous() if states.ndim == 3 else states  # c h w of convolutions

    def too_long(self, one: np.ndarray) -> str:
        """Why it would not hear all of a sound; "": it does, or this is a picture."""
        if not self.rate or not self.seconds or len(one) <= self.seconds * self.rate:
            return ""
        length = f"{len(one) / self.rate:.1f} s"
        return f"a sound of {length}, and {self.name or 'its encoder'} hears {self.seconds:g} s: cut it"

    def fingerprint(self) -> str:
        said = self.model.config.to_json_string() + self.prepare.to_json_string()
        return hashlib.sha256((said + state_hash(self.model.state_dict())).encode()).hexdigest()


@lru_cache(maxsize=2)
def states_encoder(place: str) -> StatesEncoder:
    """Loaded once."""
    return StatesEncoder.from_pretrained(place)
