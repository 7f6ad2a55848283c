"""What a model is to those who train, sample, save and measure it: nothing of it is used but this."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple, Protocol

from torch import Tensor, nn


@dataclass(frozen=True)
class Condition:
    """Something that a model is told beside a latent and its time; `conditions.Told` holds it by `name`.

    kind: "text" (states b m `width` and their mask), "pooled" (of a text, b `width`), "class" (b, integers below
    `width`, which stands for none), "size" (b `width`: height and width in pixels), "guidance" (b, the scale, of models
    that learned to be told it) or "until" (b, the time to which a flow map says the mean velocity). null: the
    model has a text of its own that stands for none, and sees it where a mask leaves nothing. reads_padding: it attends
    to all of a text, whatever a mask says. tokens: of a text that must have so many; None: any number.

    Of one's own (`VideoDiT.add_conditions`): "channels" (b `width` f h w, laid beside the latent), "vectors" (b
    `width`, or with `per` "frame" b f `width`) and "tokens" (b m `width`, read between the blocks). of: what such a one
    is made of (`codec.maps`): frames, as the VAE has them ("vae"), as it has them without what pictures of a `factor`th
    of their sides cannot hold ("small"), their brightness ("luma") or how fast it changes ("edges"); "numbers"; a
    sound ("loudness", "mel": `codec.sounds`); or "states" of an encoder of one's own: `encoder`, a folder or hub name,
    which makes them of pictures or sounds; none: files hold them; or "past", of the frames before (`codec.past`), at
    most `frames` of them. branch: of channels, how many of the model's first
    blocks have a copy that reads them (`models.branches`); 0: they are laid beside the latent. null: it was trained to
    be left out.
    """

    name: str
    kind: Literal["text", "pooled", "class", "size", "guidance", "until", "channels", "vectors", "tokens"]
    width: int
    null: bool = False
    reads_padding: bool = False
    tokens: int | None = None
    per: Literal["clip", "frame"] = "clip"
    of: Literal["", "vae", "small", "luma", "edges", "numbers", "loudness", "mel", "states", "past"] = ""
    factor: int = 1  # of "small"
    from_clip: bool = False  # in training: of the clip's own frames or sound, not of another column's
    encoder: str = ""  # of "states"
    branch: int = 0  # of channels
    frames: int = 0  # of "past"

    def to_dict(self) -> dict[str, Any]:
        """What of one's own conditions a configuration holds."""
        kept = ("name", "kind", "width", "null", "per", "of", "factor", "encoder", "branch", "frames")
        return {name: value for name, value in asdict(self).items() if name in kept}


class Schedule(NamedTuple):
    """What a model's scheduler is told of a call, where the call itself names no steps.

    tokens: by which times are shifted, by a scheduler that shifts by size. sigmas: None: the scheduler's own. mu: the
    shift itself, in the place of that by tokens.
    """

    tokens: int
    sigmas: list[float] | None = None
    mu: float | None = None


class VideoModel(Protocol):
    """A model of video latents, `VideoDiT` or another: a torch module, and a model of diffusers with its config."""

    config: Any
    patch_size: tuple[int, int, int]  # latent frames, rows and columns a token
    in_channels: int
    out_channels: int  # of the prediction; twice those in for a learned range
    is_cache_enabled: bool

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """All that a call needs to be told."""

    @property
    def units(self) -> nn.ModuleList:
        """Its blocks, which are sharded, compiled and checkpointed one by one."""

    @property
    def gathered(self) -> list[nn.Module]:
        """What is gathered by itself where weights are spread: what of a unit is called from outside of it; units."""

    def axis_of(self, name: str) -> str:
        """Along which axis the block looks that a weight of this name is in: "space", "time", "joint"; "": in none."""

    def checkpoint_units(self, every: int) -> None:
        """Recomputes every n-th block in the backward pass; 0: none."""

    def set_sequence_group(self, group: Any) -> None:
        """Spreads the tokens of each call over the processes of a group; None: over none."""

    def schedule(self, steps: int, frames: int, places: int) -> Schedule:
        """What its scheduler is told of a call of so many steps, frames, and tokens a frame."""

    def text_memory(
        self,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor | None = None,
        attention_kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """All that the blocks take from a text, for many calls; None where the model has no such thing."""

    def __call__(
        self,
        hidden_states: Tensor,  # b c f h w
        timestep: Tensor,  # b, or b f for one time a frame
        encoder_hidden_states: Tensor | None = None,  # b m e
        encoder_attention_mask: Tensor | None = None,  # b m, True = attend
        pooled_projections: Tensor | None = None,  # b e', of a text
        guidance: Tensor | None = None,  # b
        class_labels: Tensor | None = None,
        added_cond_kwargs: dict[str, Tensor] | None = None,
        fps: float | Tensor | None = None,  # latent frames a second
        frame_mask: Tensor | None = None,  # b f, True = given
        r_timestep: Tensor | None = None,  # b, of a flow map
        attention_kwargs: dict[str, Any] | None = None,
        text_memory: Any = None,
        conditions: Any = None,  # one's own, by name
        conditions_told: Any = None,  # b bool each
        return_dict: bool = True,
    ) -> Any:
        """The prediction for a noised latent, b c' f h w: `.sample`, or `[0]` with `return_dict=False`."""
