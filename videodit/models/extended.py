"""`TimeExtended`: any image transformer of diffusers as a video model, by silent `time` blocks behind its own.

    b c f h w -> (b f) c h w -> the image model, behind each of whose blocks a time block looks along f -> b c' f h w

The image model stays the object it was: its class, names, LoRA loaders, caches and pipeline (`.image`). A time block
is reached by a hook (diffusers' `ModelHook`) on the block before it. A clip of one frame meets none of them, so images
are the image model's, bit for bit, before training and after it; and a time block that is not trained adds nothing, so
a clip is then the image model on every frame (AnimateDiff, Guo et al. 2023; Align your Latents, Blattmann et al. 2023).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.normalization import AdaLayerNormSingle
from einops import rearrange, repeat
from torch import Tensor, nn

from videodit.models.attention import AttentionShape
from videodit.models.block import DiTBlock
from videodit.models.checks import check_told
from videodit.models.families import Frames, class_of, family_of
from videodit.models.image_handling import ImageHandling
from videodit.models.initial import initialize_time
from videodit.models.positions import Grid, SecondsRotary
from videodit.models.sequence import Spread
from videodit.models.time_hooks import attach, stands_behind


@dataclass(frozen=True)
class Call:
    """What the time blocks are told of the call that is being made.

    images: as the image model gets them. clips: b. frames: f, in all. seconds: of the frames, 1 f or b f.
    modulation: by width, b f' 6d, f' one where all frames have one time. group: whose processes share the frames.
    """

    images: Frames
    clips: int
    frames: int
    seconds: Tensor
    modulation: dict[str, Tensor]
    group: dist.ProcessGroup | None


class TimeExtended(ImageHandling, ModelMixin, ConfigMixin):
    """An image transformer that is told of time: b c f h w -> b c' f h w.

    Args:
        base: an image model of `families.FAMILIES`, or its configuration with `_class_name` (as it is saved).
        every: one time block behind each so many of its blocks.
        sample_fps: latent frames a second where a call names none.
        rotary_periods: shortest and longest period, in seconds, of the time blocks' rotary positions.
        mlp_ratio: hidden width of a time block's MLP over its width.

    Raises:
        ValueError: a model of no known family, or one that is extended already, or is told more than its family.
    """

    _cache_config: Any
    _no_split_modules: ClassVar[list[str]] = ["DiTBlock"]
    _keep_in_fp32_modules: ClassVar[list[str]] = ["time_embeds"]

    @register_to_config
    def __init__(
        self,
        base: Any,
        every: int = 1,
        sample_fps: float = 8.0,
        rotary_periods: tuple[float, float] = (0.5, 64.0),
        mlp_ratio: float = 4.0,
    ):
        super().__init__()
        live = isinstance(base, nn.Module)
        self.family = family_of(base if live else base.get("_class_name", "a model of no class"))
        # not `self.base`: `ModelMixin.__getattr__` gives a configuration's value before a part of that name
        self.image: Any = base if live else class_of(base["_class_name"]).from_config(base)
        plain = {key: value for key, value in self.image.config.items() if not key.startswith("_")}
        ours = [key for key in self.config.get("_use_default_values", []) if key != "base"]  # as positional ones are
        self.register_to_config(
            base={"_class_name": type(self.image).__name__, **plain}, **({"_use_default_values": ours} if ours else {})
        )
        theirs = getattr(self.image, "_skip_layerwise_casting_patterns", None) or []
        own = ["time_embeds", "norm", "scale_shift_table", "pos_embed"]
        self._skip_layerwise_casting_patterns = [*own, *theirs]  # type: ignore[misc]
        self.family.told(self.image.config)  # ValueError where it is told what cannot be given
        side = self.family.patch(self.image.config)
        self.patch_size: tuple[int, int, int] = (1, side, side)
        self.channels, self.out_channels = self.family.channels(self.image.config)
        hosts = self.family.hosts(self.image)
        if any(stands_behind(host.block) for host in hosts):
            raise ValueError(
                f"{type(self.image).__name__}: time blocks stand behind its blocks already; detach() of the model that "
                f"they are of takes them off"
            )
        if not 1 <= every <= len(hosts):
            raise ValueError(
                f"every={every}: this model has {len(hosts)} blocks; one time block behind 1 to all of them"
            )
        self.hosts = [host.block for host in hosts]  # in a list, for they are the image model's
        names = {id(module): f"image.{name}." for name, module in self.image.named_modules()}
        self.host_names = tuple(names[id(block)] for block in self.hosts)
        told = hosts[every - 1 :: every]
        self.time_embeds = nn.ModuleDict({str(host.dim): AdaLayerNormSingle(host.dim) for host in told})
        self.blocks = nn.ModuleList(
            DiTBlock(
                host.dim, "time", AttentionShape(host.heads, qk_norm="rms_norm"), ffn_dim=round(host.dim * mlp_ratio)
            )
            for host in told
        )
        initialize_time(self.time_embeds, self.blocks)
        self.blocks.to(self.image.device, self.image.dtype)
        self.time_embeds.to(self.image.device)
        self.rotary = [SecondsRotary(host.dim // host.heads, (rotary_periods[0], rotary_periods[1])) for host in told]
        self.gradient_checkpointing, self.checkpoint_every, self.making_again = False, 1, False
        self.sequence_group = None
        self.call: Call | None = None
        for number, host in enumerate(told):
            attach(self, number, host.block)

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        pooled_projections: Tensor | None = None,
        guidance: Tensor | None = None,
        class_labels: Tensor | None = None,
        added_cond_kwargs: dict[str, Tensor] | None = None,
        fps: float | Tensor | None = None,
        frame_mask: Tensor | None = None,
        attention_kwargs: dict[str, Any] | None = None,
        return_dict: bool = True,
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """The prediction for a noised latent, as the image model's own scheduler takes it.

        Args:
            hidden_states: b c f h w; h and w multiples of the patch, any f.
            timestep: b, or b f for one time a frame: 1000 t of a flow, or steps of a diffusion.
            encoder_hidden_states: b m e. encoder_attention_mask: b m, True = attend; families that attend to padding do
                not read it.
            pooled_projections: b e', of families that have them. guidance: b, of models that are told the scale.
            class_labels: b. added_cond_kwargs: as diffusers' PixArt takes it.
            fps: frames of `hidden_states` a second, a number or b; None: `sample_fps`.
            frame_mask: b f, True = given: the frame is clean and is at time 0, whatever `timestep` says.
            attention_kwargs: none but `scale` 1: its adapters are weighed by `set_adapters`.

        Returns:
            `.sample`, or `[0]` with `return_dict=False`: b c' f h w.

        Raises:
            ValueError: shapes that do not fit the model or each other, or something that it is not told.
        """
        told = {
            "encoder_hidden_states": encoder_hidden_states,
            "pooled_projections": pooled_projections,
            "guidance": guidance,
            "class_labels": class_labels,
            "added_cond_kwargs": added_cond_kwargs,
        }
        check_told(self, hidden_states, timestep, told, frame_mask, attention_kwargs, encoder_attention_mask, fps)
        b, _, f, h, _ = hidden_states.shape
        group = self.sequence_group if self.sequence_group is not None and f >= self.sequence_group.size() else None
        spread = Spread(group, f, hidden_states.shape[1] * h)
        latents = spread.lay(rearrange(hidden_states, "b c f h w -> b f (c h) w"), "space")
        held = latents.shape[1]
        times = rearrange(timestep.float(), "b ... -> b (...)")
        if frame_mask is not None:
            times = torch.where(frame_mask, 0.0, times)
        here = spread.of_frames(times).expand(b, held)

        def each(x: Tensor | None) -> Tensor | None:
            return None if x is None else repeat(x, "b ... -> (b f) ...", f=held)

        def cast(x: Tensor | None) -> Tensor | None:
            return None if x is None else x.to(self.image.dtype)

        images = Frames(
            rearrange(latents, "b f (c h) w -> (b f) c h w", h=h).to(self.image.dtype),
            rearrange(here, "b f -> (b f)"),
            text=each(cast(encoder_hidden_states)),
            mask=each(encoder_attention_mask),
            pooled=each(cast(pooled_projections)),
            guidance=each(cast(guidance)),
            labels=each(class_labels),
            added=None if added_cond_kwargs is None else {key: each(x) for key, x in added_cond_kwargs.items()},
        )
        call = (
            Call(images, b, f, self._seconds(f, fps, times.device), self._modulation(times), group) if f > 1 else None
        )
        with self._told(call):
            sample = self.family.call(self.image, images)
        sample = spread.whole(rearrange(sample, "(b f) c h w -> b f (c h) w", b=b))
        sample = rearrange(sample, "b f (c h) w -> b c f h w", h=h)
        return Transformer2DModelOutput(sample=sample) if return_dict else (sample,)

    def _seconds(self, frames: int, fps: float | Tensor | None, device: torch.device) -> Tensor:
        rate = torch.as_tensor(self.config.sample_fps if fps is None else fps, dtype=torch.float32, device=device)
        return torch.arange(frames, dtype=torch.float32, device=device) / rearrange(torch.atleast_1d(rate), "b -> b 1")

    def _modulation(self, times: Tensor) -> dict[str, Tensor]:
        """Of times b f', by width, b f' 6d."""
        flat = rearrange(times, "b f -> (b f)")
        made = {}
        embed: Any
        for width, embed in self.time_embeds.items():
            modulation = embed(flat, hidden_dtype=embed.linear.weight.dtype)[0]
            made[width] = rearrange(modulation, "(b f) d -> b f d", b=len(times))
        return made

    @contextmanager
    def _told(self, call: Call | None) -> Iterator[None]:
        """Within, the time blocks act on a call of clips; None: they do not."""
        before, self.call = self.call, call
        try:
            yield
        finally:
            self.call = before

    def along_time(self, number: int, states: Tensor) -> Tensor:
        """What stands behind a block: its states n s d, or a map n d h w; the image's among them are told of time."""
        call = self.call
        if call is None:
            return states
        if states.ndim == 4:
            tokens = self._looked(number, rearrange(states, "n d h w -> n (h w) d"), call)
            return rearrange(tokens, "n (h w) d -> n d h w", h=states.shape[2])
        height, width = (side // self.patch_size[1] for side in call.images.latents.shape[-2:])
        s, others = height * width, states.shape[1] - height * width
        if not others:
            return self._looked(number, states, call)
        start = torch.as_tensor(self.family.start(call.images, others), device=states.device)
        places = rearrange(start.expand(len(states)), "n -> n 1") + torch.arange(s, device=states.device)
        index = repeat(places, "n s -> n s d", d=states.shape[-1])
        return states.scatter(1, index, self._looked(number, states.gather(1, index), call))

    def _looked(self, number: int, image: Tensor, call: Call) -> Tensor:
        """Tokens of images (b f) s d, through their time block."""
        s, d = image.shape[1:]
        spread = Spread(call.group, call.frames, s, held="f")
        x = spread.lay(rearrange(image, "(b f) s d -> b f s d", b=call.clips), "time")
        at = Grid(call.frames, s, 1, call.seconds)
        x = self.blocks[number](x, call.modulation[str(d)], rotary=self.rotary[number](at)["time"])
        return rearrange(spread.lay(x, "space"), "b f s d -> (b f) s d")
