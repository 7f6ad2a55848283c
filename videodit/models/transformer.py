"""`VideoDiT`: a text-to-video diffusion transformer with spatiotemporal patches.

A list of `DiTBlock`s over the tokens of a video latent. All `space` is an image DiT; `space, time` in turn is
factorized spatial-temporal attention (Latte, Ma et al. 2024; Open-Sora); `joint` is full 3D attention. A clip of one
frame skips the `time` blocks, so that the same weights make images.

Axes: `b` batch, `c` channels, `f` frames, `h w` rows and columns, `s` places, `m` text tokens, `d` width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from inspect import signature
from operator import call
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin  # by whose name its pipelines find out how this class is loaded
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import PixArtAlphaTextProjection, TimestepEmbedding, Timesteps
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.normalization import AdaLayerNormSingle
from diffusers.utils import apply_lora_scale
from einops import rearrange
from torch import Tensor, nn

from videodit.models import Condition
from videodit.models.attention import AttentionShape, CrossShape, TextMemory
from videodit.models.block import DiTBlock, modulate, remade
from videodit.models.checks import check_call, check_config
from videodit.models.embeddings import PatchEmbed, TimeEmbedding, unpatchify
from videodit.models.handling import Handling
from videodit.models.initial import initialize
from videodit.models.linear import Past, layout_of
from videodit.models.positions import grid, positions_of
from videodit.models.routing import Route
from videodit.models.sequence import Spread
from videodit.models.telling import Telling
from videodit.models.windows import Windows

# name: (layers, width, heads) after DiT (Peebles & Xie 2022); a layer is one turn of `axes`. `tiny` is for a CPU.
SIZES = {
    "tiny": (4, 256, 4),
    "S": (12, 384, 6),
    "B": (12, 768, 12),
    "L": (24, 1024, 16),
    "XL": (28, 1152, 16),
}


class VideoDiT(Handling, Telling, ModelMixin, ConfigMixin):
    """Predicts noise, velocity or data from a noised video latent, a time and a text or a class.

    Args:
        in_channels: latent channels c.
        out_channels: channels of the prediction c' (None: c; 2c for a learned range).
        num_layers: how often the pattern `axes` is repeated.
        num_attention_heads, attention_head_dim: their product is the width d.
        axes: the pattern of blocks, of `space`, `time`, `joint`, `window`, `linear`.
        window: of `window` blocks, tokens that see each other: frames, rows, columns; every second one lays them anew.
        patch_size: latent (frames, rows, columns) a token.
        caption_channels: width of the text encoder's states; None for a model without text.
        caption_length: every text is of so many tokens: zeros stand behind a shorter one, and are seen (Wan: 512).
            None: of any number, and what a mask leaves out is not seen.
        null_caption_length: tokens of a learned text that stands for none (Open-Sora: 300). None: zeros do.
        caption_in: `cross`, blocks look at the text; or `context`, its tokens lie among each frame's own (U-ViT).
        cross_attention_axes: the axes whose blocks look at the text (None: all; Latte: space alone).
        cross_attention_norm: layer-normalize, with weights, what looks at the text (Wan).
        cross_attention_qk_norm: RMS-normalize queries and keys there too.
        num_classes: for a model told a class instead of a text, besides "none" (not with `ada_norm_single`).
        norm_type: `ada_norm_single`, one modulation for all blocks and a table each (PixArt-alpha); `ada_norm_zero`, a
            projection in each block (DiT); or `layer_norm`, norms and gates with weights of their own, which are told
            nothing: time and class are a token among each frame's own (U-ViT).
        shared_embedder: with `ada_norm_zero`, one embedding of time and class for all blocks, or one a block.
        use_additional_conditions: embed resolution and aspect ratio too (PixArt-alpha at 1024; `ada_norm_single`).
        fps_embedding: embed the frame rate too, times this: frames of the clip a latent one (Open-Sora; likewise).
        mlp_ratio: hidden width of the MLP over d.
        activation_fn, attention_bias, norm_elementwise_affine, norm_eps: as in diffusers' DiT and PixArt.
        qk_norm: RMS-normalize queries and keys before they are rotated: in all self-attention, or along these axes.
        qk_norm_type: `rms_norm`, a head at a time, or `rms_norm_across_heads`, all at once (Wan).
        sample_size: tokens a side to which sin-cos places are scaled; None: to the call's own number (Open-Sora).
        interpolation_scale: by which they are then divided (PixArt-alpha 1024: 2; without sample_size times sqrt(s)).
        sample_fps: latent frames a second where a call names none.
        time_positions: `rotary`, by the second, in all but the `space` blocks; `sincos`, added once before the first
            of them where there is more than one frame, in frames at `sample_fps` (Latte); `both`, the added ones then
            scaled by a learned vector that starts at zero (rotary ones alone tell frames apart, but not which is the
            first); `frames`, rotary by the number of the frame (Open-Sora); or `grid`, rotary by frame, row and column
            in all blocks, with no sin-cos places (Wan).
        rotary_periods: shortest and longest period of rotary time positions by the second.
        images_skip_time: a clip of one frame skips the `time` blocks. False: it does not (Open-Sora), and what an
            image gives is then no longer what the other blocks alone give.
        freq_dim: sinusoids of the timestep (with `ada_norm_single`).
        flow_map_gate: for a flow map (`diffusion.flow_map`), which is told up to which time it shall go: the share of
            that time's embedding in the sum with the timestep's (AnyFlow: 0.25; with `ada_norm_single`).
        guidance_embeds: embed the scale of guidance too (Flux; likewise).
        timestep_freq_shift: of the sinusoids of the timestep, as in diffusers (its DiT: 1; all others: 0).
        skips: `long`: a block of the second half sees, beside the states before it, those behind its like in the first
            half, the nearest to the middle the nearest (U-ViT, Bao et al. 2022, arXiv 2209.12152). None: none does.
        own_conditions: what it is told besides (`models.Condition`: channels, vectors, tokens): see `add_conditions`.

    Raises:
        ValueError: a configuration that no model can have; names the key.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 16,
        out_channels: int | None = None,
        num_layers: int = 4,
        num_attention_heads: int = 4,
        attention_head_dim: int = 64,
        axes: tuple[str, ...] = ("space", "time"),
        window: tuple[int, int, int] | None = None,
        patch_size: tuple[int, int, int] = (1, 2, 2),
        caption_channels: int | None = None,
        caption_length: int | None = None,
        null_caption_length: int | None = None,
        caption_in: str = "cross",
        cross_attention_axes: tuple[str, ...] | None = None,
        cross_attention_norm: bool = False,
        cross_attention_qk_norm: bool = False,
        num_classes: int | None = None,
        norm_type: str = "ada_norm_single",
        shared_embedder: bool = True,
        use_additional_conditions: bool = False,
        fps_embedding: float | None = None,
        mlp_ratio: float = 4.0,
        activation_fn: str = "gelu-approximate",
        attention_bias: bool = True,
        norm_elementwise_affine: bool = False,
        norm_eps: float = 1e-6,
        qk_norm: bool | tuple[str, ...] = True,
        qk_norm_type: str = "rms_norm",
        sample_size: int | None = 16,
        interpolation_scale: float = 1.0,
        sample_fps: float = 8.0,
        time_positions: str = "rotary",
        rotary_periods: tuple[float, float] = (0.5, 64.0),
        images_skip_time: bool = True,
        freq_dim: int = 256,
        flow_map_gate: float | None = None,
        guidance_embeds: bool = False,
        timestep_freq_shift: int = 0,
        own_conditions: list[dict[str, Any]] | None = None,
        skips: str | None = None,
    ):
        super().__init__()
        dim = num_attention_heads * attention_head_dim
        check_config(self.config, signature(VideoDiT.__init__).parameters)
        self.patch_size: tuple[int, int, int] = (patch_size[0], patch_size[1], patch_size[2])
        self.out_channels = out_channels or in_channels
        self.patch_embed = PatchEmbed(self.patch_size, in_channels, dim)
        single = norm_type == "ada_norm_single"
        if single:
            self.adaln_single = AdaLayerNormSingle(dim, use_additional_conditions)
            if freq_dim != 256:
                self.adaln_single.emb.time_proj = Timesteps(freq_dim, flip_sin_to_cos=True, downscale_freq_shift=0)
                self.adaln_single.emb.timestep_embedder = TimestepEmbedding(freq_dim, dim)
            self.scale_shift_table = nn.Parameter(torch.randn(2, dim) / dim**0.5)
        else:
            self.embedders = nn.ModuleList(
                TimeEmbedding(dim, num_classes, timestep_freq_shift)
                for _ in range(1 if shared_embedder else num_layers * len(axes))
            )
            if norm_type == "ada_norm_zero":
                self.modulation_out = nn.Linear(dim, 2 * dim)
            else:
                self.scale_shift_table = nn.Parameter(torch.zeros(2, dim))
        self.fps_embedder = TimeEmbedding(dim, None, 0) if fps_embedding else None
        self.delta_embedder = None if flow_map_gate is None else TimestepEmbedding(freq_dim, dim)
        self.guidance_embedder = TimeEmbedding(dim, None, 0) if guidance_embeds else None
        self.places, self.frames, self.rotary = positions_of(self.config)
        if time_positions == "both":
            self.time_scale = nn.Parameter(torch.zeros(dim))
        self.caption_projection = PixArtAlphaTextProjection(caption_channels, dim) if caption_channels else None
        if null_caption_length:
            self.null_caption = nn.Parameter(torch.zeros(null_caption_length, caption_channels or 0))
        reads_text = (cross_attention_axes or axes) if caption_channels and caption_in == "cross" else ()
        normed = (axes if qk_norm else ()) if isinstance(qk_norm, bool) else qk_norm
        plain = AttentionShape(num_attention_heads, attention_bias)
        cross = CrossShape(
            num_attention_heads,
            attention_bias,
            qk_norm_type if cross_attention_qk_norm else None,
            dim=dim,
            input_norm=cross_attention_norm,
        )
        self.blocks = nn.ModuleList(
            DiTBlock(
                dim,
                axis,  # type: ignore[arg-type]
                replace(plain, qk_norm=qk_norm_type if axis in normed else None),
                cross if axis in reads_text else None,
                ffn_dim=round(dim * mlp_ratio),
                norm_type=norm_type,
                activation_fn=activation_fn,
                norm_elementwise_affine=norm_elementwise_affine,
                norm_eps=norm_eps,
            )
            for _ in range(num_layers)
            for axis in axes
        )
        near = [number for number, block in enumerate(self.blocks) if block.axis == "window"]
        self.windows = {number: Windows(tuple(window or ()), number in near[1::2]) for number in near}  # type: ignore[arg-type]
        pairs = {} if skips is None else self.long_skips
        self.skip_projections = nn.ModuleDict({str(number): nn.Linear(2 * dim, dim) for number in pairs})
        self.norm_out = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.proj_out = nn.Linear(dim, self.out_channels * patch_size[0] * patch_size[1] * patch_size[2])
        self.gradient_checkpointing = False
        self.checkpoint_every = 1
        self.sequence_group = None
        self.past: Past | None = None
        self.condition_embedders = nn.ModuleDict()
        initialize(self)
        self.add_conditions([Condition(**one) for one in own_conditions or ()])

    @property
    def long_skips(self) -> dict[int, int]:
        """Of each block of the second half of the layers its like in the first."""
        width, layers = len(self.config.axes), self.config.num_layers
        seconds = range(layers - layers // 2, layers)
        return {n * width + i: (layers - 1 - n) * width + i for n in seconds for i in range(width)}

    @classmethod
    def sized(cls, size: str, **config: Any) -> VideoDiT:
        """A fresh model of a named size (`tiny`, `S`, `B`, `L`, `XL`); other arguments as in the constructor."""
        if size not in SIZES:
            raise ValueError(f"size {size!r} is none of {', '.join(SIZES)}")
        layers, dim, heads = SIZES[size]
        shape = {"num_layers": layers, "num_attention_heads": heads, "attention_head_dim": dim // heads}
        return cls(**(shape | config))

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
        r_timestep: Tensor | None = None,
        guidance: Tensor | None = None,
        attention_kwargs: dict[str, Any] | None = None,
        text_memory: TextMemory | None = None,
        conditions: Mapping[str, Tensor] | None = None,
        conditions_told: Mapping[str, Tensor] | None = None,
        routed: Tensor | None = None,
        skip_layers: Sequence[int] = (),
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
            r_timestep: b, or b f, as `timestep`: of a flow map, the time to which it says the mean velocity; None: that
                of `timestep`, at which it is the velocity itself.
            guidance: b, the scale; if and only if the model has `guidance_embeds`.
            attention_kwargs: `{"scale": ...}` for LoRA, as in diffusers.
            text_memory: of the text, in place of it and its mask: what `text_memory` gave.
            conditions: by their names, of `own_conditions`: "channels" b c' f h w, laid beside the latent or read by a
                branch, "vectors" b c', or b f c' where they are per frame, "tokens" b m c'. What is not there is not
                told.
            conditions_told: by their names: which rows are told, b bool, or which tokens are there, b m; of a branch
                too by how much of what it adds, b; None: all.
            routed: b k, numbers of places of a frame: the blocks behind the first of each axis and before the last of
                each see these alone, in all frames, and the others pass them by. In training such blocks cost less, and
                learn as much (TREAD; Krause et al. 2025, arXiv 2501.04765). None: they see all.
            skip_layers: numbers of blocks that are left out (skip-layer guidance).

        Returns:
            `.sample`, or `[0]` with `return_dict=False`: b c' f h w.

        Raises:
            ValueError: shapes that do not fit the model or each other; a feature cache, with a sequence group.
        """
        f, h = hidden_states.shape[2:4]
        if text_memory is not None and (encoder_hidden_states is not None or encoder_attention_mask is not None):
            raise ValueError("text_memory stands for the text and its mask: give one or the other")
        text: Tensor | TextMemory | None = encoder_hidden_states if text_memory is None else text_memory
        check_call(
            *(self, hidden_states, timestep, text, class_labels, added_cond_kwargs, frame_mask, routed),
            r_timestep,
            guidance,
            conditions,
        )
        maps, vectors, read = self._told(conditions, conditions_told)
        x = self.patch_embed(hidden_states.to(self.patch_embed.proj.weight.dtype))  # b f s d
        rate = self.config.sample_fps if fps is None else fps
        at = grid(x, h // self.patch_size[1], self.patch_size[0], rate, self.past.frames if self.past else 0)
        x = x if maps is None else x + maps.to(x.dtype)
        if self.places is not None:
            x = x + self.places(at).to(x.dtype)
        ends = timestep if r_timestep is None else r_timestep
        modulations, shift_scale, token = self._times(
            timestep, ends, frame_mask, class_labels, added_cond_kwargs, rate, guidance, vectors
        )
        rotary = {} if self.rotary is None else self.rotary(at)
        later = self._frames(at, x.dtype) if f > 1 or self.past is not None else None
        context = self._context(token, text, encoder_attention_mask, x.shape[1])
        states, mask = None, None
        memories: tuple[tuple[Tensor, Tensor] | None, ...] = (None,) * len(self.blocks)
        if isinstance(text, TextMemory):
            mask, memories = text.mask, text.blocks
        elif self.config.caption_in == "cross":
            states, mask = self._text(text, encoder_attention_mask)
        if context is not None:
            x, routed = context.lay(x), context.kept(routed)
        spread = Spread(self.sequence_group, *x.shape[1:3])
        route = Route(routed, len(self.config.axes), len(self.blocks) - len(self.config.axes))
        beside = self._beside(conditions, conditions_told, x, text)
        behind: dict[int, Tensor] = {}  # of blocks that others of the second half look back to
        skips = self.long_skips if self.config.skips else {}
        wanted = set(skips.values())
        for number, (block, modulation, memory) in enumerate(zip(self.blocks, modulations, memories, strict=True)):
            axis = str(block.axis)
            x = route.at(number, x)
            if f == 1 and axis == "time" and self.config.images_skip_time:
                continue
            x = spread.lay(x, axis)
            if axis != "space" and later is not None:
                added, later = spread.of_frames(later), None
                x = x + added
                for branch in beside:
                    branch.y = branch.y + added
            if number in skips:
                x = self.skip_projections[str(number)](torch.cat([x, behind.pop(skips[number])], dim=-1))
            if number in skip_layers:  # the places in time that stand before it are for those behind it too
                behind |= {number: x} if number in wanted else {}
                continue
            here, across = spread.of_frames(modulation), spread.across(axis)
            layout = layout_of(self, number, at.columns, len(x)) if context is None else context.layout(axis)
            inputs = (x, here, states, mask, rotary.get(axis), across, memory, layout)
            recomputed = self.gradient_checkpointing and number % self.checkpoint_every == 0
            run = self._gradient_checkpointing_func if torch.is_grad_enabled() and recomputed else call
            x = run(block, *inputs)
            for branch in beside:
                x = branch.behind(number, x, run, inputs)
            for reader, tokens in read.items():
                x = self.condition_embedders[reader](number, x, tokens)
            behind |= {number: x} if number in wanted else {}
        shift, scale = rearrange(spread.of_frames(shift_scale), "b f (k d) -> b f 1 k d", k=2).to(x.dtype).unbind(-2)
        x = spread.whole(self.proj_out(remade(modulate, self.norm_out, x, shift, scale)))
        x = x if context is None else context.taken(x)
        if self.past is not None:
            self.past.over(at.frames)
        sample = unpatchify(x, self.patch_size, f, h)
        return Transformer2DModelOutput(sample=sample) if return_dict else (sample,)
