"""`VideoDiT`: a text-to-video diffusion transformer with spatiotemporal patches.

A list of `DiTBlock`s over the tokens of a video latent. All `space` is an image DiT; `space, time` in turn is
factorized spatial-temporal attention (Latte, Ma et al. 2024; Open-Sora); `joint` is full 3D attention. A clip of one
frame skips the `time` blocks, so that the same weights make images.

Axes: `b` batch, `c` channels, `f` frames, `h w` rows and columns, `s` places, `m` text tokens, `d` width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention import AttentionMixin
from diffusers.models.cache_utils import CacheMixin
from diffusers.models.embeddings import PixArtAlphaTextProjection
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.normalization import AdaLayerNormSingle
from diffusers.utils import apply_lora_scale
from diffusers.utils.accelerate_utils import apply_forward_hook
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn.functional import silu

from videodit.models.adapters import WholeAdapters
from videodit.models.attention import TextMemory
from videodit.models.block import DiTBlock, modulate, remade
from videodit.models.checks import check_call, check_config, check_loaded, checked_cache
from videodit.models.embeddings import PatchEmbed, TimeEmbedding, unpatchify
from videodit.models.positions import frame_seconds, spatial_positions, temporal_rotary, temporal_sincos
from videodit.models.sequence import Spread
from videodit.weights import check_finite, loading

# name: (layers, width, heads) after DiT (Peebles & Xie 2022); a layer is one turn of `axes`. `tiny` is for a CPU.
SIZES = {
    "tiny": (4, 256, 4),
    "S": (12, 384, 6),
    "B": (12, 768, 12),
    "L": (24, 1024, 16),
    "XL": (28, 1152, 16),
}


class VideoDiT(ModelMixin, ConfigMixin, AttentionMixin, CacheMixin, WholeAdapters):
    """Predicts noise, velocity or data from a noised video latent, a time and a text or a class.

    Args:
        in_channels: latent channels c.
        out_channels: channels of the prediction c' (None: c; 2c for a learned range).
        num_layers: how often the pattern `axes` is repeated.
        num_attention_heads, attention_head_dim: their product is the width d.
        axes: the pattern of blocks, of `space`, `time`, `joint`.
        patch_size: latent (frames, rows, columns) a token.
        caption_channels: width of the text encoder's states; None for a model without text.
        cross_attention_axes: the axes whose blocks look at the text (None: all; Latte: space alone).
        num_classes: for a model told a class instead of a text, besides "none" (needs `ada_norm_zero`).
        norm_type: `ada_norm_single`, one modulation for all blocks and a table each (PixArt-alpha), or `ada_norm_zero`,
            a projection in each block (DiT).
        shared_embedder: with `ada_norm_zero`, one embedding of time and class for all blocks, or one a block.
        use_additional_conditions: embed resolution and aspect ratio too (PixArt-alpha at 1024; `ada_norm_single`).
        mlp_ratio: hidden width of the MLP over d.
        activation_fn, attention_bias, norm_elementwise_affine, norm_eps: as in diffusers' DiT and PixArt.
        qk_norm: RMS-normalize queries and keys before they are rotated: in all self-attention, or along these axes.
        sample_size: tokens a side to which sin-cos places are scaled.
        interpolation_scale: by which they are then divided (PixArt-alpha 1024: 2).
        sample_fps: latent frames a second where a call names none.
        time_positions: `rotary`, in the `time` and `joint` blocks; `sincos`, added once before the first of them where
            there is more than one frame, in frames at `sample_fps` (Latte); or `both`, the added ones then scaled by a
            learned vector that starts at zero. Rotary ones alone tell frames apart, but not which is the first.
        rotary_periods: shortest and longest period of the rotary time positions, in seconds.
        timestep_freq_shift: of the sinusoids of the timestep, as in diffusers (its DiT: 1; all others: 0).

    Raises:
        ValueError: a configuration that no model can have; names the key.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules: ClassVar[list[str]] = ["DiTBlock"]
    _repeated_blocks: ClassVar[list[str]] = ["DiTBlock"]
    _skip_layerwise_casting_patterns: ClassVar[list[str]] = [
        "patch_embed",
        "adaln_single",
        "embedders",
        "caption_projection",
        "modulation",
        "norm",
        "scale_shift_table",
    ]
    _keep_in_fp32_modules: ClassVar[list[str]] = ["adaln_single", "embedders", "scale_shift_table"]

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
        cross_attention_axes: tuple[str, ...] | None = None,
        num_classes: int | None = None,
        norm_type: str = "ada_norm_single",
        shared_embedder: bool = True,
        use_additional_conditions: bool = False,
        mlp_ratio: float = 4.0,
        activation_fn: str = "gelu-approximate",
        attention_bias: bool = True,
        norm_elementwise_affine: bool = False,
        norm_eps: float = 1e-6,
        qk_norm: bool | tuple[str, ...] = True,
        sample_size: int = 16,
        interpolation_scale: float = 1.0,
        sample_fps: float = 8.0,
        time_positions: str = "rotary",
        rotary_periods: tuple[float, float] = (0.5, 64.0),
        timestep_freq_shift: int = 0,
    ):
        super().__init__()
        dim = num_attention_heads * attention_head_dim
        check_config(self.config)
        self.patch_size: tuple[int, int, int] = (patch_size[0], patch_size[1], patch_size[2])
        self.out_channels = out_channels or in_channels
        self.patch_embed = PatchEmbed(self.patch_size, in_channels, dim)
        single = norm_type == "ada_norm_single"
        if single:
            self.adaln_single = AdaLayerNormSingle(dim, use_additional_conditions)
            self.scale_shift_table = nn.Parameter(torch.randn(2, dim) / dim**0.5)
        else:
            self.embedders = nn.ModuleList(
                TimeEmbedding(dim, num_classes, timestep_freq_shift)
                for _ in range(1 if shared_embedder else num_layers * len(axes))
            )
            self.modulation_out = nn.Linear(dim, 2 * dim)
        if time_positions == "both":
            self.time_scale = nn.Parameter(torch.zeros(dim))
        self.caption_projection = PixArtAlphaTextProjection(caption_channels, dim) if caption_channels else None
        reads_text = (cross_attention_axes or axes) if caption_channels else ()
        normed = (axes if qk_norm else ()) if isinstance(qk_norm, bool) else qk_norm
        self.blocks = nn.ModuleList(
            DiTBlock(
                dim,
                num_attention_heads,
                axis,  # type: ignore[arg-type]
                cross_attention_dim=dim if axis in reads_text else None,
                norm_type=norm_type,
                mlp_ratio=mlp_ratio,
                activation_fn=activation_fn,
                attention_bias=attention_bias,
                norm_elementwise_affine=norm_elementwise_affine,
                norm_eps=norm_eps,
                qk_norm=axis in normed,
            )
            for _ in range(num_layers)
            for axis in axes
        )
        self.norm_out = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.proj_out = nn.Linear(dim, self.out_channels * patch_size[0] * patch_size[1] * patch_size[2])
        self.gradient_checkpointing = False
        self.checkpoint_every = 1  # of the blocks, with `enable_gradient_checkpointing`
        self.sequence_group: dist.ProcessGroup | None = None
        self.initialize_weights()

    @classmethod
    def sized(cls, size: str, **config: Any) -> VideoDiT:
        """A fresh model of a named size (`tiny`, `S`, `B`, `L`, `XL`); other arguments as in the constructor."""
        if size not in SIZES:
            raise ValueError(f"size {size!r} is none of {', '.join(SIZES)}")
        layers, dim, heads = SIZES[size]
        shape = {"num_layers": layers, "num_attention_heads": heads, "attention_head_dim": dim // heads}
        return cls(**(shape | config))

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> Any:
        """Loads a folder or hub name as diffusers does; ValueError where weights are missing, left over or damaged."""
        wanted, folder = kwargs.pop("output_loading_info", False), kwargs.get("subfolder") or ""
        with loading(Path(pretrained_model_name_or_path, folder)):
            model, info = super().from_pretrained(pretrained_model_name_or_path, output_loading_info=True, **kwargs)
        check_loaded(info, f"{pretrained_model_name_or_path}", cls.__name__)
        check_finite(model, Path(pretrained_model_name_or_path, folder))
        return (model, info) if wanted else model

    @classmethod
    def from_diffusers(cls, source: str | Path | ModelMixin, subfolder: str | None = None) -> VideoDiT:
        """A model that computes what a diffusers DiT, PixArt or Latte computes; see `conversion.from_diffusers`."""
        from videodit.models.conversion import from_diffusers  # it builds this class

        return from_diffusers(source, subfolder)[0]

    @classmethod
    def grow(cls, image_model: VideoDiT, **changes: Any) -> VideoDiT:
        """A video model that on every frame is the image model, until it is trained; see `growth.grow`."""
        from videodit.models.growth import grow  # it builds this class

        return grow(image_model, **changes)[0]

    def initialize_weights(self) -> None:
        """All initialization, in one place.

        Linear layers xavier, biases zero; timestep MLP, label table and shared modulation N(0, 0.02), adaLN-zero
        projections zero (DiT). Cross-attention and head start at zero (PixArt-alpha), and `time` blocks are silent
        (Open-Sora; under adaLN-zero all blocks are, by their gates): a fresh model predicts zero, and a fresh video
        model on top of image weights is the image model.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in (self.adaln_single if hasattr(self, "adaln_single") else self.embedders).modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
        for block in self.blocks:
            assert isinstance(block, DiTBlock)
            if block.attn2 is not None:
                nn.init.zeros_(block.attn2.get_parameter("to_out.0.weight"))
            if block.modulation is not None:  # its gates; zeros behind them too would stop all gradients
                nn.init.zeros_(block.modulation.weight)
            elif block.axis == "time":
                block.silence()
        if self.config.norm_type == "ada_norm_zero":
            nn.init.zeros_(self.modulation_out.weight)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

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

    @apply_lora_scale("attention_kwargs")
    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        class_labels: Tensor | None = None,
        added_cond_kwargs: dict[str, Tensor] | None = None,
        fps: float | Tensor | None = None,
        frame_mask: Tensor | None = None,
        attention_kwargs: dict[str, Any] | None = None,
        text_memory: TextMemory | None = None,
        return_dict: bool = True,
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """The prediction for a noised latent.

        Args:
            hidden_states: b c f h w; h and w multiples of the patch, any f.
            timestep: b, or b f for one time a frame; as the scheduler counts it (flow: 1000 t), integer or float.
            encoder_hidden_states: b m e, text states; needed if and only if the model has `caption_channels`.
            encoder_attention_mask: b m, True = attend; None: all. A row of False means no text.
            class_labels: b, integers in [0, num_classes], the last meaning "none"; if and only if it has `num_classes`.
            added_cond_kwargs: `{"resolution": b 2 (height, width), "aspect_ratio": b 1}` in pixels, float, as in
                diffusers' PixArt; if and only if the model has `use_additional_conditions`.
            fps: frames of `hidden_states` a second, a number or b; None: `sample_fps`.
            frame_mask: b f, True = given: the frame is clean and is treated as at time 0, whatever `timestep` says.
            attention_kwargs: `{"scale": ...}` for LoRA, as in diffusers.
            text_memory: of the text, in place of it and its mask: what `text_memory` gave.

        Returns:
            `.sample`, or `[0]` with `return_dict=False`: b c' f h w.

        Raises:
            ValueError: shapes that do not fit the model or each other; a feature cache, with a sequence group.
        """
        _, _, f, h, w = hidden_states.shape
        if text_memory is not None and (encoder_hidden_states is not None or encoder_attention_mask is not None):
            raise ValueError("text_memory stands for the text and its mask: give one or the other")
        text: Tensor | TextMemory | None = encoder_hidden_states if text_memory is None else text_memory
        check_call(self, hidden_states, timestep, text, class_labels, added_cond_kwargs, frame_mask)
        x = self.patch_embed(hidden_states.to(self.patch_embed.proj.weight.dtype))  # b f s d
        rows, columns = h // self.patch_size[1], w // self.patch_size[2]
        base, scale = self.config.sample_size, self.config.interpolation_scale
        x = x + spatial_positions(rows, columns, x.shape[-1], base, scale, x.device).to(x.dtype)
        modulations, shift_scale = self._times(timestep, frame_mask, class_labels, added_cond_kwargs)
        rate = self.config.sample_fps if fps is None else fps
        seconds = frame_seconds(x.shape[1], self.patch_size[0], rate, x.device)
        rotary, positions = self._time_positions(seconds, x)
        if isinstance(text, TextMemory):
            states, mask, memories = None, text.mask, text.blocks
        else:
            states, mask = self._text(text, encoder_attention_mask)
            memories = (None,) * len(self.blocks)
        spread = Spread(self.sequence_group, *x.shape[1:3])
        for number, (block, modulation, memory) in enumerate(zip(self.blocks, modulations, memories, strict=True)):
            if block.axis == "time" and f == 1:
                continue
            x = spread.lay(x, str(block.axis))
            if block.axis != "space" and f > 1 and positions is not None:
                x, positions = x + spread.of_frames(positions), None
            here, across = spread.of_frames(modulation), spread.across(str(block.axis))
            inputs = (x, here, states, mask, rotary, across, memory)
            if torch.is_grad_enabled() and self.gradient_checkpointing and number % self.checkpoint_every == 0:
                x = self._gradient_checkpointing_func(block, *inputs)
            else:
                x = block(*inputs)
        shift, scale = rearrange(spread.of_frames(shift_scale), "b f (k d) -> b f 1 k d", k=2).to(x.dtype).unbind(-2)
        x = spread.whole(self.proj_out(remade(modulate, self.norm_out, x, shift, scale)))
        sample = unpatchify(x, self.patch_size, f, h)
        return Transformer2DModelOutput(sample=sample) if return_dict else (sample,)

    @apply_forward_hook
    @apply_lora_scale("attention_kwargs")
    def text_memory(
        self,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor | None = None,
        attention_kwargs: dict[str, Any] | None = None,
    ) -> TextMemory:
        """All that the blocks take from a text, to be given to many calls in its place; the output is the same.

        Holds for the weights as they are, and for the `attention_kwargs`.

        Args:
            encoder_hidden_states, encoder_attention_mask, attention_kwargs: as in the call.

        Raises:
            ValueError: a model without text.
        """
        states, mask = self._text(encoder_hidden_states, encoder_attention_mask)
        if states is None:
            raise ValueError("this model takes no encoder_hidden_states (caption_channels=None)")
        readers: list[Any] = [block.attn2 for block in self.blocks]
        return TextMemory(mask, tuple(reader and reader.keys_and_values(states) for reader in readers))

    def _times(
        self,
        timestep: Tensor,
        frame_mask: Tensor | None,
        labels: Tensor | None,
        added: dict[str, Tensor] | None,
    ) -> tuple[list[Tensor], Tensor]:
        """Each block's modulation (b f' 6d, or with adaLN-zero the embedding b f' d) and the head's, b f' 2d.

        f' is 1 unless times differ from frame to frame.
        """
        times = timestep.float()
        times = rearrange(times, "b -> b 1") if times.ndim == 1 else times
        if frame_mask is not None:
            times = torch.where(frame_mask, 0.0, times)
        b, f = times.shape
        flat = rearrange(times, "b f -> (b f)")
        if self.config.norm_type == "ada_norm_zero":
            labels = None if labels is None else repeat(labels, "b -> (b f)", f=f)
            embedded = [rearrange(embed(flat, labels), "(b f) d -> b f d", b=b) for embed in self.embedders]
            head = self.modulation_out(silu(embedded[0].to(self.modulation_out.weight.dtype)))
            return embedded * (len(self.blocks) // len(embedded)), head
        conditions = {k: repeat(v, "b k -> (b f) k", f=f) for k, v in (added or {}).items()}
        weights = self.adaln_single.linear.weight.dtype
        modulation, time = self.adaln_single(flat, conditions or None, batch_size=b * f, hidden_dtype=weights)
        head = rearrange(self.scale_shift_table, "k d -> (k d)") + repeat(time, "(b f) d -> b f (k d)", b=b, k=2)
        return [rearrange(modulation, "(b f) d -> b f d", b=b)] * len(self.blocks), head

    def _time_positions(self, seconds: Tensor, x: Tensor) -> tuple[tuple[Tensor, Tensor] | None, Tensor | None]:
        """Rotary (cos, sin), and sin-cos positions b f 1 d to be added: what the model has of them."""
        config, rotary, added = self.config, None, None
        if config.time_positions != "sincos":
            rotary = temporal_rotary(seconds, config.attention_head_dim, config.rotary_periods)
        if config.time_positions != "rotary":
            added = temporal_sincos(seconds * config.sample_fps, x.shape[-1])
            added = (added * self.time_scale if config.time_positions == "both" else added).to(x.dtype)
        return rotary, added

    def _text(self, text: Tensor | None, mask: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Projected text b m d and mask b 1 1 m. Where a row has no token, all are seen, and all are zero."""
        if text is None or self.caption_projection is None:
            return None, None
        text = self.caption_projection(text.to(self.caption_projection.linear_1.weight.dtype))
        text = text.to(self.patch_embed.proj.weight.dtype)
        if mask is None:
            return text, None
        mask = mask.bool()
        empty = ~mask.any(dim=1, keepdim=True)
        text = torch.where(rearrange(empty, "b m -> b m 1"), 0.0, text)
        return text, rearrange(mask | empty, "b m -> b 1 1 m")
