"""`VideoDiT`: a text-to-video diffusion transformer with spatiotemporal patches.

A list of `DiTBlock`s over the tokens of a video latent. All `space` is an image DiT; `space, time` in turn is
factorized spatial-temporal attention (Latte, Ma et al. 2024; Open-Sora); `joint` is full 3D attention. A clip of one
frame skips the `time` blocks, so that the same weights make images.

Axes: `b` batch, `c` channels, `f` frames, `h w` rows and columns, `s` places, `m` text tokens, `d` width.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.attention import AttentionMixin
from diffusers.models.cache_utils import CacheMixin
from diffusers.models.embeddings import PixArtAlphaTextProjection
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.normalization import AdaLayerNormSingle
from diffusers.utils import apply_lora_scale
from einops import rearrange
from torch import Tensor, nn

from videodit.models.attention import GROUPS
from videodit.models.block import DiTBlock
from videodit.models.embeddings import PatchEmbed, spatial_positions, temporal_rotary, unpatchify

# name: (layers, width, heads) after DiT (Peebles & Xie 2022); a layer is one turn of `axes`. `tiny` is for a CPU.
SIZES = {
    "tiny": (4, 256, 4),
    "S": (12, 384, 6),
    "B": (12, 768, 12),
    "L": (24, 1024, 16),
    "XL": (28, 1152, 16),
}


class VideoDiT(ModelMixin, ConfigMixin, AttentionMixin, CacheMixin, PeftAdapterMixin):
    """Predicts noise, velocity or data from a noised video latent, a time and a text.

    Args:
        in_channels: latent channels c.
        out_channels: channels of the prediction c' (None: c; 2c for a learned range).
        num_layers: how often the pattern `axes` is repeated.
        num_attention_heads, attention_head_dim: their product is the width d.
        axes: the pattern of blocks, of `space`, `time`, `joint`.
        patch_size: latent (frames, rows, columns) a token.
        caption_channels: width of the text encoder's states; None for a model without text.
        mlp_ratio: hidden width of the MLP over d.
        qk_norm: RMS-normalize queries and keys before they are rotated.
        sample_size: tokens a side to which sin-cos places are scaled.
        sample_fps: latent frames a second where a call names none.
        rotary_periods: shortest and longest period of the rotary time positions, in seconds.

    Raises:
        ValueError: a configuration that no model can have; names the key.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules: ClassVar[list[str]] = ["DiTBlock"]
    _repeated_blocks: ClassVar[list[str]] = ["DiTBlock"]
    _skip_layerwise_casting_patterns: ClassVar[list[str]] = ["patch_embed", "adaln_single", "norm", "scale_shift_table"]
    _keep_in_fp32_modules: ClassVar[list[str]] = ["adaln_single", "scale_shift_table"]

    @register_to_config
    def __init__(
        self,
        in_channels: int = 16,
        out_channels: int | None = None,
        num_layers: int = 4,
        num_attention_heads: int = 4,
        attention_head_dim: int = 64,
        axes: tuple[str, ...] = ("space", "time"),
        patch_size: tuple[int, int, int] = (1, 2, 2),
        caption_channels: int | None = None,
        mlp_ratio: float = 4.0,
        qk_norm: bool = True,
        sample_size: int = 16,
        sample_fps: float = 8.0,
        rotary_periods: tuple[float, float] = (0.5, 64.0),
    ):
        super().__init__()
        dim = num_attention_heads * attention_head_dim
        if not axes or any(axis not in GROUPS for axis in axes):
            raise ValueError(f"axes={list(axes)} must be some of {', '.join(GROUPS)}")
        if attention_head_dim % 2 or dim % 4:
            raise ValueError(
                f"attention_head_dim={attention_head_dim} must be even and the width {dim} a multiple of 4"
            )
        self.patch_size: tuple[int, int, int] = (patch_size[0], patch_size[1], patch_size[2])
        self.out_channels = out_channels or in_channels
        self.patch_embed = PatchEmbed(self.patch_size, in_channels, dim)
        self.adaln_single = AdaLayerNormSingle(dim)
        self.caption_projection = PixArtAlphaTextProjection(caption_channels, dim) if caption_channels else None
        text_dim = dim if caption_channels else None
        self.blocks = nn.ModuleList(
            DiTBlock(dim, num_attention_heads, axis, text_dim, mlp_ratio, qk_norm)  # type: ignore[arg-type]
            for _ in range(num_layers)
            for axis in axes
        )
        self.norm_out = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.scale_shift_table = nn.Parameter(torch.randn(2, dim) / dim**0.5)
        self.proj_out = nn.Linear(dim, self.out_channels * patch_size[0] * patch_size[1] * patch_size[2])
        self.gradient_checkpointing = False
        self.initialize_weights()

    @classmethod
    def sized(cls, size: str, **config: Any) -> VideoDiT:
        """A fresh model of a named size (`tiny`, `S`, `B`, `L`, `XL`); other arguments as in the constructor."""
        if size not in SIZES:
            raise ValueError(f"size {size!r} is none of {', '.join(SIZES)}")
        layers, dim, heads = SIZES[size]
        shape = {"num_layers": layers, "num_attention_heads": heads, "attention_head_dim": dim // heads}
        return cls(**(shape | config))

    def initialize_weights(self) -> None:
        """All initialization, in one place.

        Linear layers xavier, biases zero; timestep MLP and modulation N(0, 0.02) (DiT). Cross-attention and head start
        at zero (PixArt-alpha), and `time` blocks are silent (Open-Sora): a fresh model predicts zero, and a fresh video
        model on top of image weights is the image model.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in self.adaln_single.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
        for block in self.blocks:
            assert isinstance(block, DiTBlock)
            if block.attn2 is not None:
                nn.init.zeros_(block.attn2.get_parameter("to_out.0.weight"))
            if block.axis == "time":
                block.silence()
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    @apply_lora_scale("attention_kwargs")
    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        fps: float | Tensor | None = None,
        frame_mask: Tensor | None = None,
        attention_kwargs: dict[str, Any] | None = None,
        return_dict: bool = True,
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """The prediction for a noised latent.

        Args:
            hidden_states: b c f h w; h and w multiples of the patch, any f.
            timestep: b, or b f for one time a frame; as the scheduler counts it (flow: 1000 t), integer or float.
            encoder_hidden_states: b m e, text states; needed if and only if the model has `caption_channels`.
            encoder_attention_mask: b m, True = attend; None: all. A row of False means no text.
            fps: frames of `hidden_states` a second, a number or b; None: `sample_fps`.
            frame_mask: b f, True = given: the frame is clean and is treated as at time 0, whatever `timestep` says.
            attention_kwargs: `{"scale": ...}` for LoRA, as in diffusers.

        Returns:
            `.sample`, or `[0]` with `return_dict=False`: b c' f h w.

        Raises:
            ValueError: shapes that do not fit the model or each other.
        """
        _, _, f, h, w = hidden_states.shape
        self._check(hidden_states, timestep, encoder_hidden_states, frame_mask)
        x = self.patch_embed(hidden_states.to(self.patch_embed.proj.weight.dtype))  # b f s d
        rows, columns = h // self.patch_size[1], w // self.patch_size[2]
        x = x + spatial_positions(rows, columns, x.shape[-1], self.config.sample_size, x.device).to(x.dtype)
        modulation, embedded = self._times(timestep, frame_mask, x)
        rotary = self._rotary(fps, x)
        text, text_mask = self._text(encoder_hidden_states, encoder_attention_mask, x)
        for block in self.blocks:
            if block.axis == "time" and f == 1:
                continue
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                x = self._gradient_checkpointing_func(block, x, modulation, text, text_mask, rotary)
            else:
                x = block(x, modulation, text, text_mask, rotary)
        shift, scale = (self.scale_shift_table + rearrange(embedded, "b f d -> b f 1 1 d")).to(x.dtype).unbind(-2)
        x = self.proj_out(self.norm_out(x) * (1 + scale) + shift)
        sample = unpatchify(x, self.patch_size, f, h)
        return Transformer2DModelOutput(sample=sample) if return_dict else (sample,)

    def _check(self, latent: Tensor, timestep: Tensor, text: Tensor | None, frame_mask: Tensor | None) -> None:
        b, c, f, h, w = latent.shape
        if c != self.config.in_channels:
            raise ValueError(f"hidden_states has {c} channels, this model takes {self.config.in_channels}")
        if h % self.patch_size[1] or w % self.patch_size[2]:
            raise ValueError(f"a latent of {h} x {w} is not divided by the patch {self.patch_size[1:]}")
        if timestep.shape not in ((b,), (b, f)):
            raise ValueError(f"timestep has shape {tuple(timestep.shape)}; it must be ({b},) or ({b}, {f})")
        if frame_mask is not None and frame_mask.shape != (b, f):
            raise ValueError(f"frame_mask has shape {tuple(frame_mask.shape)}; it must be ({b}, {f})")
        if self.patch_size[0] > 1 and (timestep.ndim == 2 or frame_mask is not None):
            raise ValueError("times or masks a frame need a patch of one frame (patch_size[0] = 1)")
        if (text is None) != (self.caption_projection is None):
            have = "has no text" if text is not None else "needs encoder_hidden_states"
            raise ValueError(f"this model {have} (caption_channels={self.config.caption_channels})")

    def _times(self, timestep: Tensor, frame_mask: Tensor | None, x: Tensor) -> tuple[Tensor, Tensor]:
        """Shared modulation b f' 6d and embedded time b f' d, with f' = 1 unless times differ from frame to frame."""
        times = timestep.float()
        times = rearrange(times, "b -> b 1") if times.ndim == 1 else times
        if frame_mask is not None:
            times = torch.where(frame_mask, 0.0, times)
        b = len(times)
        weights = self.adaln_single.linear.weight.dtype
        modulation, embedded = self.adaln_single(rearrange(times, "b f -> (b f)"), hidden_dtype=weights)
        return rearrange(modulation, "(b f) d -> b f d", b=b), rearrange(embedded, "(b f) d -> b f d", b=b)

    def _rotary(self, fps: float | Tensor | None, x: Tensor) -> tuple[Tensor, Tensor]:
        rate = torch.as_tensor(self.config.sample_fps if fps is None else fps, dtype=torch.float32, device=x.device)
        index = torch.arange(x.shape[1], dtype=torch.float32, device=x.device) * self.patch_size[0]
        seconds = index / rearrange(torch.atleast_1d(rate), "b -> b 1")
        return temporal_rotary(seconds, self.config.attention_head_dim, self.config.rotary_periods)

    def _text(self, text: Tensor | None, mask: Tensor | None, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Projected text b m d and mask b 1 1 m. Where a row has no token, all are seen, and all are zero."""
        if text is None or self.caption_projection is None:
            return None, None
        text = self.caption_projection(text.to(self.caption_projection.linear_1.weight.dtype)).to(x.dtype)
        if mask is None:
            return text, None
        mask = mask.bool()
        empty = ~mask.any(dim=1, keepdim=True)
        text = torch.where(rearrange(empty, "b m -> b m 1"), 0.0, text)
        return text, rearrange(mask | empty, "b m -> b 1 1 m")
