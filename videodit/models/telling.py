"""What a `VideoDiT` makes of all that it is told: times, classes, sizes, scales, text, and conditions of one's own.

Axes: `b` batch, `f` frames, `s` places, `m` text tokens, `d` width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers.utils import apply_lora_scale
from diffusers.utils.accelerate_utils import apply_forward_hook
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn.functional import pad, silu

from videodit.models import Condition
from videodit.models.attention import TextMemory
from videodit.models.branches import Beside, Branch, check_branch
from videodit.models.context import Context
from videodit.models.embeddings import MapEmbed, VectorEmbed, at_length, told_nothing
from videodit.models.positions import Grid
from videodit.models.reading import Read, Reader


class Telling:
    """The part of `VideoDiT` that embeds what a call says beside the latent."""

    blocks: nn.ModuleList
    config: Any
    condition_embedders: nn.ModuleDict
    patch_embed: Any
    embedders: Any
    modulation_out: Any
    adaln_single: Any
    fps_embedder: Any
    delta_embedder: Any
    guidance_embedder: Any
    scale_shift_table: Any
    frames: Any
    time_scale: Any
    caption_projection: Any
    null_caption: Any
    register_to_config: Any

    @property
    def own_conditions(self) -> tuple[Condition, ...]:
        """Conditions of one's own, as `add_conditions` was told them."""
        return tuple(Condition(**one) for one in self.config.own_conditions or ())

    def add_conditions(self, conditions: Sequence[Condition]) -> None:
        """Has the model told these too, each silent until it is trained; those that it knows stay as they are.

        Raises:
            ValueError: it knows another condition by such a name.
        """
        known, patch_embed = {one.name: one for one in self.own_conditions}, self.patch_embed
        width, like = patch_embed.proj.out_features, patch_embed.proj.weight
        for one in conditions:
            before = known.setdefault(one.name, one)
            was, now = before.to_dict(), one.to_dict()
            if others := [key for key in now if was.get(key) != now[key] and key not in ("encoder", "null")]:
                key = others[0]
                raise ValueError(
                    f"condition {one.name}: this model knows it with {key} {was.get(key)!r}, not {now[key]!r}"
                )
            known[one.name] = one  # whose encoder may lie elsewhere by now, and which may be left out from now on
            if f"of_{one.name}" not in self.condition_embedders:  # with a prefix: a module is called by it
                made: nn.Module = VectorEmbed(one.width, width)
                if one.branch:
                    check_branch(self, one)  # type: ignore[arg-type]
                if one.kind == "channels":
                    embed = MapEmbed(patch_embed.patch_size, one.width, width)
                    made = Branch(self.blocks[: one.branch], embed, width) if one.branch else embed
                elif one.kind == "tokens":
                    readers = [number for number, block in enumerate(self.blocks) if block.attn2 is not None]
                    heads = self.config.num_attention_heads
                    made = Reader(one.width, width, heads, readers or list(range(len(self.blocks))))
                made.to(like.device)
                for part in (made.embed, made.projections) if isinstance(made, Branch) else (made,):
                    part.to(dtype=like.dtype)  # copies of blocks have their own
                self.condition_embedders[f"of_{one.name}"] = made
        if conditions:
            unsaid = [key for key in self.config.get("_use_default_values", ()) if key != "own_conditions"]
            self.register_to_config(
                own_conditions=[one.to_dict() for one in known.values()], _use_default_values=unsaid
            )

    def _told(
        self, conditions: Mapping[str, Tensor] | None, told_rows: Mapping[str, Tensor] | None
    ) -> tuple[Tensor | None, Tensor | None, dict[str, Read]]:
        """Of conditions of one's own: what is added to the tokens, b f s d, and to the embedding of times, b f' d, and
        what is read between blocks, by the name of its reader."""
        maps: Tensor | None = None
        vectors: Tensor | None = None
        read: dict[str, Read] = {}
        for one in self.own_conditions:
            if (value := (conditions or {}).get(one.name)) is None or one.branch:
                continue
            told = (told_rows or {}).get(one.name)
            rows = value.shape[:2] if one.kind == "tokens" else value.shape[:1]
            told = torch.ones(rows, dtype=torch.bool, device=value.device) if told is None else told
            if one.kind == "tokens":
                read[f"of_{one.name}"] = self.condition_embedders[f"of_{one.name}"].prepare(value, told)  # type: ignore[operator, union-attr]
                continue
            made = self.condition_embedders[f"of_{one.name}"](value, told)
            if one.kind == "channels":
                maps = made if maps is None else maps + made
            else:
                vectors = made if vectors is None else vectors + made
        return maps, vectors, read

    def _beside(
        self,
        conditions: Mapping[str, Tensor] | None,
        told_rows: Mapping[str, Tensor] | None,
        x: Tensor,
        text: Tensor | TextMemory | None,
    ) -> list[Beside]:
        """The branches that go along with a call with tokens x, of those maps that it is told."""
        found = []
        for one in self.own_conditions:
            if one.branch and (value := (conditions or {}).get(one.name)) is not None:
                told = (told_rows or {}).get(one.name)
                told = torch.ones(len(value), device=value.device) if told is None else told
                memories = text.branches[one.name] if isinstance(text, TextMemory) else None
                branch: Any = self.condition_embedders[f"of_{one.name}"]
                found.append(branch.beside(value, told, x, memories))
        return found

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
        if self.caption_projection is None:
            raise ValueError("this model takes no encoder_hidden_states (caption_channels=None)")
        if self.config.caption_in == "context":
            context = self._states(encoder_hidden_states, encoder_attention_mask)
            return TextMemory(None, (None,) * len(self.blocks), context)
        states, mask = self._text(encoder_hidden_states, encoder_attention_mask)
        readers: list[Any] = [block.attn2 for block in self.blocks]
        branches: list[tuple[str, Any]] = [
            (one.name, self.condition_embedders[f"of_{one.name}"]) for one in self.own_conditions if one.branch
        ]
        return TextMemory(
            mask,
            tuple(reader and reader.keys_and_values(states) for reader in readers),
            branches={name: branch.memories(states) for name, branch in branches},
        )

    def _times(
        self,
        timestep: Tensor,
        ends: Tensor,
        frame_mask: Tensor | None,
        labels: Tensor | None,
        added: dict[str, Tensor] | None,
        fps: float | Tensor,
        guidance: Tensor | None,
        vectors: Tensor | None = None,
    ) -> tuple[list[Tensor], Tensor, Tensor | None]:
        """Each block's modulation (b f' 6d, or with adaLN-zero the embedding b f' d), the head's, b f' 2d, and what is
        said as a token instead, b f' d.

        f' is 1 unless times, or the vectors b f' d that are added to their embedding, differ from frame to frame.
        """
        both = [rearrange(one, "b -> b 1") if one.ndim == 1 else one for one in (timestep.float(), ends.float())]
        if frame_mask is not None:
            both = [torch.where(frame_mask, 0.0, one) for one in both]
        if vectors is not None and vectors.shape[1] > 1:
            both = [one.expand(-1, vectors.shape[1]) for one in both]
        times, ends = torch.broadcast_tensors(*both)
        b, f = times.shape
        flat = rearrange(times, "b f -> (b f)")
        if self.config.norm_type != "ada_norm_single":
            labels = None if labels is None else repeat(labels, "b -> (b f)", f=f)
            embedded = [rearrange(embed(flat, labels), "(b f) d -> b f d", b=b) for embed in self.embedders]
            embedded = embedded if vectors is None else [one + vectors.to(one.dtype) for one in embedded]
            if self.config.norm_type == "layer_norm":
                head = rearrange(self.scale_shift_table, "k d -> 1 1 (k d)")
                return [torch.zeros_like(embedded[0][:1, :1]).repeat(1, 1, 6)] * len(self.blocks), head, embedded[0]
            head = self.modulation_out(silu(embedded[0].to(self.modulation_out.weight.dtype)))
            return embedded * (len(self.blocks) // len(embedded)), head, None
        sizes = {k: repeat(v, "b k -> (b f) k", f=f) for k, v in (added or {}).items()}
        embed, project = self.adaln_single.emb, self.adaln_single.linear
        weights = embed.timestep_embedder.linear_1.weight.dtype
        time = embed(flat, sizes.get("resolution"), sizes.get("aspect_ratio"), batch_size=b * f, hidden_dtype=weights)
        if self.fps_embedder is not None:
            rate = torch.as_tensor(fps, dtype=torch.float32, device=flat.device) * self.config.fps_embedding
            time = time + repeat(self.fps_embedder(rate.expand(b), None), "b d -> (b f) d", f=f)
        if self.delta_embedder is not None:  # (1 - gate) of the one and gate of the other, as AnyFlow has them
            sinusoids = [embed.time_proj(one).to(weights) for one in (flat, rearrange(ends, "b f -> (b f)"))]
            delta = self.delta_embedder(sinusoids[1]) - embed.timestep_embedder(sinusoids[0])
            time = time + self.config.flow_map_gate * delta
        if self.guidance_embedder is not None and guidance is not None:
            time = time + repeat(self.guidance_embedder(1000 * guidance.float(), None), "b d -> (b f) d", f=f)
        if vectors is not None:
            time = time + rearrange(vectors.expand(-1, f, -1), "b f d -> (b f) d").to(time.dtype)
        modulation = project(silu(time.to(project.weight.dtype)))
        head = rearrange(self.scale_shift_table, "k d -> (k d)") + repeat(time, "(b f) d -> b f (k d)", b=b, k=2)
        return [rearrange(modulation, "(b f) d -> b f d", b=b)] * len(self.blocks), head, None

    def _frames(self, at: Grid, dtype: torch.dtype) -> Tensor | None:
        """Sin-cos positions in time, b f 1 d, that are added before the first block that looks along it."""
        if self.frames is None:
            return None
        added = self.frames(at)
        return (added * self.time_scale if self.config.time_positions == "both" else added).to(dtype)

    def _context(
        self, token: Tensor | None, text: Tensor | TextMemory | None, mask: Tensor | None, frames: int
    ) -> Context | None:
        """What lies among each frame's tokens: one that says the time (b f' d), and the text's; None: nothing does."""
        told: list[tuple[Tensor, Tensor | None]] = []
        if token is not None:
            told.append((rearrange(token, "b f d -> b f 1 d"), None))
        if text is not None and self.config.caption_in == "context":
            states, seen = text.context if isinstance(text, TextMemory) else self._states(text, mask)  # type: ignore[misc]
            told.append((rearrange(states, "b m d -> b 1 m d"), seen))
        if not told:
            return None
        tokens = torch.cat([one.expand(-1, frames, -1, -1) for one, _ in told], dim=2)
        seen = told[-1][1]
        return Context(tokens, None if seen is None else pad(seen, (tokens.shape[2] - seen.shape[1], 0), value=True))

    def _text(self, text: Tensor | None, mask: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Projected text b m d and mask b 1 1 m. Where a row has no token, all are seen, and all are zero."""
        if text is None or self.caption_projection is None:
            return None, None
        text, mask = self._states(text, mask)
        if mask is None:
            return text, None
        empty = ~mask.any(dim=1, keepdim=True)
        text = torch.where(rearrange(empty, "b m -> b m 1"), 0.0, text)
        return text, rearrange(mask | empty, "b m -> b 1 1 m")

    def _states(self, text: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Projected text b m d, and which tokens are there, b m; None: all."""
        mask = None if mask is None else mask.bool()
        if self.config.caption_length:
            text, mask = at_length(text, mask, self.config.caption_length), None
        elif self.config.null_caption_length and mask is not None:
            text, mask = told_nothing(text, mask, self.null_caption)
        text = self.caption_projection(text.to(self.caption_projection.linear_1.weight.dtype))
        return text.to(self.patch_embed.proj.weight.dtype), mask
