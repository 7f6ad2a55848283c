"""What networks see in frames: CLIP and DINO, and what follows from their features.

An extractor turns each frame into a vector; cosines between the vectors of one clip say how consistent it is, cosines
with a prompt's vector how well it fits. The same weights give other numbers on frames resized another way, so each
extractor carries its name, a hash of its weights and its preprocessing, and all three belong beside every number.

Frames are uint8 n h w 3. Features come as they leave the network, not normalized: a cosine does not mind, and distances
between sets need the lengths.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, CLIPModel, Dinov2Model, ViTModel

from videodit.evaluation.measure.pixels import ConsistencyVariant, Undefined
from videodit.evaluation.measure.weights import (
    Device,
    Source,
    check_frames,
    describe,
    load_model,
    load_processor,
    missing_weights,
    pick_device,
    short_name,
)
from videodit.evaluation.report.results import Metric
from videodit.evaluation.report.vbench import (
    CLIP_PREPROCESSING,
    DINO_PREPROCESSING,
    clip_pixels,
    dino_pixels,
    dino_positions,
)
from videodit.weights import state_hash

Preprocessing = Literal["processor", "vbench"]
Curve = tuple[float | None, ...]

CLIP_SOURCE = "openai/clip-vit-base-patch32"
DINO_SOURCE = "facebook/dino-vitb16"


def consistency(features: np.ndarray, variant: ConsistencyVariant) -> tuple[float, Curve]:
    """How alike the frames of one clip are, by the cosines between their features (n d): the value and its curve.

    - "consecutive": mean over t of cos(f_t, f_t-1); its curve holds that cosine at frame t;
    - "all-pairs": mean over i != j of cos(f_i, f_j); its curve holds the mean over the other frames at every frame;
    - "first+prev": mean over t >= 1 of (max(0, cos(f_t, f_t-1)) + max(0, cos(f_t, f_0))) / 2, in the curve at frame t.

    As `pixels.frame_consistency` has them, but not centred, and in float64. The value is the mean of the curve, where
    frame 0 has a value for all-pairs only.

    Raises:
        ValueError: another variant, or another shape.
        Undefined: fewer than two frames, or features without a direction.
    """
    if variant not in get_args(ConsistencyVariant):
        raise ValueError(f"variant={variant!r} is none of {', '.join(get_args(ConsistencyVariant))}")
    if features.ndim != 2:
        raise ValueError(f"features {features.shape} must be n d, a row for each frame")
    if len(features) < 2:
        raise Undefined(f"{len(features)} frames are too few: 2 are needed")
    unit = _directions(features)
    if variant == "all-pairs":
        others = (unit @ unit.sum(axis=0) - 1) / (len(unit) - 1)
        return float(others.mean()), tuple(others.tolist())
    steps = (unit[1:] * unit[:-1]).sum(axis=1)
    if variant == "first+prev":
        steps = (np.maximum(steps, 0) + np.maximum(unit[1:] @ unit[0], 0)) / 2
    return float(steps.mean()), (None, *steps.tolist())


def text_alignment(frames: np.ndarray, text: np.ndarray) -> tuple[float, Curve]:
    """Cosine between the CLIP features of each frame (n d) and of a prompt (d): the mean over frames, and the curve.

    A mean cosine, in [-1, 1]: CLIPScore (Hessel et al. 2021, arXiv 2104.08718) clamps it at 0 and scales it by 2.5;
    others scale by 100. Raises ValueError for features of unequal width, Undefined for such without a direction.
    """
    if frames.ndim != 2 or text.shape != frames.shape[1:]:
        raise ValueError(f"frames {frames.shape} and text {text.shape} must be n d and d")
    cosines = _directions(frames) @ _directions(text[None])[0]
    return float(cosines.mean()), tuple(cosines.tolist())


class FrameFeatures:
    """A network that turns frames into vectors. Call it with frames (uint8 n h w 3) for features (float32 n d).

    Attributes:
        name: last part of the hub name, or the folder's name.
        hash: of the weights, see `state_hash`.
        preprocessing: what happens to a frame before the network, for a signature.
        width: d, the size of a vector.

    Raises:
        ValueError: when called with anything but uint8 n h w 3, n >= 1.
    """

    def __init__(
        self,
        model: nn.Module,
        name: str,
        pixels: Callable[[np.ndarray], Tensor],
        preprocessing: str,
        width: int,
        device: Device = None,
        batch_size: int = 16,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} must be 1 or more")
        self.name = name
        self.hash = state_hash(model.state_dict())
        self.preprocessing = preprocessing
        self.width = width
        self.device = pick_device(device)
        self.batch_size = batch_size
        self._model: Any = model.eval().to(self.device)
        self._pixels = pixels

    @torch.inference_mode()
    def __call__(self, frames: np.ndarray) -> np.ndarray:
        check_frames(frames)
        found = []
        for start in range(0, len(frames), self.batch_size):
            pixels = self._pixels(frames[start : start + self.batch_size])
            found.append(self._vectors(pixels.to(self.device)).float().cpu().numpy())
        return np.concatenate(found)

    def _vectors(self, pixels: Tensor) -> Tensor:
        """n c h w, as the network wants them, to n d."""
        raise NotImplementedError


class CLIPFrames(FrameFeatures):
    """CLIP (Radford et al. 2021, arXiv 2103.00020): frames and prompts in one space, after the projections."""

    def __init__(self, tokenizer: Any, *args: Any) -> None:
        super().__init__(*args)
        tokenizer.padding_side = tokenizer.truncation_side = "right"
        self.tokenizer = tokenizer
        self._tokenizing = Lock()  # a tokenizer keeps the last caller's padding and cutting: one thread at a time

    def _vectors(self, pixels: Tensor) -> Tensor:
        return self._model.visual_projection(self._model.vision_model(pixel_values=pixels).pooler_output)

    @property
    def max_tokens(self) -> int:
        """The most tokens of a prompt that the model reads, start and end included; 77 for OpenAI's."""
        return min(self.tokenizer.model_max_length, self._model.config.text_config.max_position_embeddings)

    def truncated(self, prompts: Sequence[str]) -> list[str]:
        """Those of the prompts that are longer than the model reads, so that `text` sees only their beginning."""
        with self._tokenizing:
            lengths = [len(ids) for ids in self.tokenizer(list(prompts), verbose=False)["input_ids"]]
        return [prompt for prompt, length in zip(prompts, lengths, strict=True) if length > self.max_tokens]

    @torch.inference_mode()
    def text(self, prompts: Sequence[str]) -> np.ndarray:
        """Features of the prompts, float32 n d. Warns of every prompt that is cut, by name."""
        if isinstance(prompts, str) or not prompts:
            raise ValueError(f"prompts={prompts!r} must be a list of at least one prompt")
        for prompt in self.truncated(prompts):
            warnings.warn(f"{self.name} reads {self.max_tokens} tokens: the end of {prompt!r} is lost", stacklevel=3)
        found = []
        for start in range(0, len(prompts), self.batch_size):
            with self._tokenizing:
                tokens = self.tokenizer(
                    list(prompts[start : start + self.batch_size]),
                    padding=True,
                    truncation=True,
                    max_length=self.max_tokens,
                    return_tensors="pt",
                ).to(self.device)
            states = self._model.text_model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
            found.append(self._model.text_projection(states.pooler_output).float().cpu().numpy())
        return np.concatenate(found)


class DINOFrames(FrameFeatures):
    """DINO (Caron et al. 2021, arXiv 2104.14294) or DINOv2: the class token after the last layer norm.

    Frames need not be square: the position table is resized to them.
    """

    def _vectors(self, pixels: Tensor) -> Tensor:
        # A ViT resizes its position table where it is told to, a Dinov2 always.
        resize = {"interpolate_pos_encoding": True} if self._model.config.model_type == "vit" else {}
        return self._model(pixel_values=pixels, **resize).last_hidden_state[:, 0]


def load_clip(
    source: Source,
    preprocessing: Preprocessing = "processor",
    device: Device = None,
    batch_size: int = 16,
) -> CLIPFrames:
    """CLIP from a hub name or a folder (model, image processor, tokenizer), in float32.

    Args:
        source: "openai/clip-vit-base-patch32", the model of VBench's background consistency, or another CLIPModel.
        preprocessing: "processor" is the model's own image processor (through Pillow, so antialiased, whether or not
            torchvision is there); "vbench" is that of VBench, for a model that reads 224 x 224.
        device: the accelerator where there is one, by default.
        batch_size: frames, or prompts, that go through the network at once.

    Raises:
        MissingWeightsError: they cannot be had, or are no CLIP; says why and how to get them.
        ValueError: VBench's preprocessing for a model of another size.
    """
    with missing_weights("CLIP", source, CLIP_SOURCE):
        model = load_model(source, {"clip": CLIPModel})
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        words = model.config.text_config.vocab_size
        if len(tokenizer) != words:  # transformers makes one without words where its file is not there
            raise ValueError(f"its tokenizer has {len(tokenizer)} pieces, its model {words}: tokenizer.json is missing")
        processor = load_processor(source) if preprocessing == "processor" else None
    size = model.config.vision_config.image_size
    if processor is None and size != 224:
        raise ValueError(
            f"VBench feeds CLIP with 224 x 224, {short_name(source)} reads {size} x {size}: take {CLIP_SOURCE}"
        )
    pixels, text = (clip_pixels, CLIP_PREPROCESSING) if processor is None else _prepared_by(processor)
    width = model.config.projection_dim
    return CLIPFrames(tokenizer, model, short_name(source), pixels, text, width, device, batch_size)


def load_dino(
    source: Source,
    preprocessing: Preprocessing = "processor",
    device: Device = None,
    batch_size: int = 16,
) -> DINOFrames:
    """DINO (a ViTModel) or DINOv2 from a hub name or a folder (model, image processor), in float32.

    Args:
        source: "facebook/dino-vitb16", the model of VBench's subject consistency, or another ViTModel or Dinov2Model.
        preprocessing: as in `load_clip`; "vbench" is for a ViTModel.
        device: the accelerator where there is one, by default.
        batch_size: frames that go through the network at once.

    Raises:
        MissingWeightsError: they cannot be had, or are no such model; says why and how to get them.
        ValueError: VBench's preprocessing for DINOv2.
    """
    with missing_weights("DINO", source, DINO_SOURCE):
        model = load_model(source, {"vit": ViTModel, "dinov2": Dinov2Model})
        processor = load_processor(source) if preprocessing == "processor" else None
    if processor is not None:
        pixels, text = _prepared_by(processor)
    elif model.config.model_type == "vit":
        pixels, text = dino_pixels, DINO_PREPROCESSING
        # The original network, which VBench runs, resizes its position table a little differently from transformers.
        model.embeddings.interpolate_pos_encoding = lambda _, height, width: dino_positions(
            model.embeddings.position_embeddings, height // model.config.patch_size, width // model.config.patch_size
        )
    else:
        raise ValueError(
            f"VBench's subject consistency is defined on DINO, {short_name(source)} is a DINOv2: {DINO_SOURCE}"
        )
    return DINOFrames(model, short_name(source), pixels, text, model.config.hidden_size, device, batch_size)


_FIRST_PREV = "Mean over frames of the cosines with the first and with the previous one, each at least 0, halved, on "
_VARIANTS: tuple[tuple[str, ConsistencyVariant, str], ...] = (
    ("consecutive", "consecutive", "Mean cosine of neighbouring frames, on "),
    ("all pairs", "all-pairs", "Mean cosine of all pairs of frames (Tune-A-Video's competition code), on "),
    ("first prev", "first+prev", _FIRST_PREV),
)


def _consistency_metric(title: str, variant: ConsistencyVariant, definition: str, network: str) -> Metric:
    return Metric(
        name=title.lower().replace(" ", "_"),
        title=title,
        definition=definition,
        variant=variant,
        rewards_stillness=True,
        needs=f"{network} weights",
    )


def _consistency_metrics(network: str, features: str) -> list[Metric]:
    return [
        _consistency_metric(f"{network} consistency {words}", variant, rule + features, network.lower())
        for words, variant, rule in _VARIANTS
    ]


FEATURE_METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        *_consistency_metrics("CLIP", "CLIP's projected image features"),
        *_consistency_metrics("DINO", "DINO's class token"),
        _consistency_metric(
            "VBench subject consistency",
            "first+prev",
            f"{_FIRST_PREV}DINO's class token, frames prepared as in VBench (Huang et al. 2024)",
            "dino",
        ),
        _consistency_metric(
            "VBench background consistency",
            "first+prev",
            f"{_FIRST_PREV}CLIP's projected image features, frames prepared as in VBench (Huang et al. 2024)",
            "clip",
        ),
        Metric(
            name="clip_text_alignment",
            title="CLIP text alignment",
            definition="Mean over frames of the cosine between CLIP's features of frame and prompt, neither clamped "
            "nor scaled, as CLIPScore is (Hessel et al. 2021)",
            needs="clip weights",
        ),
        Metric(
            name="lpips_temporal",
            title="LPIPS between neighbouring frames",
            definition="Mean LPIPS (Zhang et al. 2018, AlexNet, version 0.1) between neighbouring frames",
            better="lower",
            rewards_stillness=True,
            needs="lpips",
        ),
        Metric(
            name="lpips_paired",
            title="LPIPS to the reference",
            definition="Mean LPIPS (Zhang et al. 2018, AlexNet, version 0.1) between each frame and the reference's",
            better="lower",
            needs="lpips",
        ),
    )
}


def _prepared_by(processor: Any) -> tuple[Callable[[np.ndarray], Tensor], str]:
    def pixels(frames: np.ndarray) -> Tensor:
        return processor(images=list(frames), return_tensors="pt", input_data_format="channels_last")["pixel_values"]

    return pixels, describe(processor)


def _directions(features: np.ndarray) -> np.ndarray:
    """n d scaled to length 1, in float64."""
    features = features.astype(np.float64)
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    bad = np.flatnonzero(~np.isfinite(lengths[:, 0]) | (lengths[:, 0] == 0))
    if len(bad):
        raise Undefined(f"features {bad[0]} are zero or not finite: they have no direction; check the weights")
    return features / lengths
