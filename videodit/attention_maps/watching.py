"""Attention from places to a text, kept as a sum while a pipeline makes clips.

    sum over blocks, heads and steps of softmax(q k^T / sqrt(e)), b f s m

Kernels give no weights, so they are computed once more, beside what the model computes, from its own queries and keys:
the clip is bit for bit the one that is made unwatched. Nothing but the sum is kept.

Axes: `b` clips, `f` frames, `s` places of a frame, `m` text tokens, `h` heads, `e` width of a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from videodit.models.attention import Attention
from videodit.models.transformer import VideoDiT


class Watched:
    """What was seen of a walk.

    clips: so many first rows of each call are looked at: they are told the prompts, those behind them, of guidance, are
    not. looks: attentions that were added up, of a block and a step each, heads averaged.
    """

    def __init__(self, clips: int):
        self.clips, self.looks = clips, 0
        self.sums: Tensor | None = None  # b f s m, float32
        self.rows = 0  # of places

    def maps(self) -> Tensor:
        """The mean: b f h w m, float32 on the CPU; at each place the sum over tokens is 1.

        Raises:
            ValueError: nothing was seen: no clip was made.
        """
        if self.sums is None:
            raise ValueError("no attention was seen: make a clip within `watching`")
        return rearrange(self.sums / self.looks, "b f (h w) m -> b f h w m", h=self.rows).cpu()

    @torch.no_grad()
    def look(self, attn: Attention, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Adds one cross-attention, called with these arguments."""
        given = dict(zip(("hidden_states", "encoder_hidden_states", "attention_mask"), args, strict=False)) | kwargs
        rows = slice(self.clips)
        memory, mask = given.get("text_memory"), given.get("attention_mask")
        key = memory[0][rows] if memory else attn.keys_and_values(given["encoder_hidden_states"][rows])[0]
        query = rearrange(attn.to_q(given["hidden_states"][rows]), "b f s (h e) -> b f s h e", h=attn.heads)
        query = attn.norm_q(query).float() * query.shape[-1] ** -0.5
        seen = None if mask is None else mask[rows]  # b 1 1 m
        total: Any = 0
        for q, k in zip(query.unbind(-2), key.float().unbind(-2), strict=True):  # a head at a time, to be small
            scores = torch.einsum("bfse,bme->bfsm", q, k)
            scores = scores if seen is None else scores.masked_fill(~seen, -torch.inf)
            total = total + scores.softmax(-1)
        mean = total / attn.heads
        self.sums = mean if self.sums is None else self.sums.add_(mean)
        self.looks += 1


@contextmanager
def watching(pipe: Any, clips: int) -> Iterator[Watched]:
    """Within, a pipeline's call is watched, which makes so many clips.

    Raises:
        ValueError: a model that cannot be watched (`check_watchable`).
    """
    check_watchable(pipe)
    watched = Watched(clips)

    def measure(model: VideoDiT, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        latents = args[0] if args else kwargs["hidden_states"]
        watched.rows = latents.shape[3] // model.patch_size[1]

    with ExitStack() as hooks:
        for model in filter(None, (pipe.transformer, pipe.transformer_2)):
            hooks.callback(model.register_forward_pre_hook(measure, with_kwargs=True).remove)
            for block in model.blocks:
                if block.attn2 is not None:
                    look = partial(block.attn2.register_forward_pre_hook, with_kwargs=True)
                    hooks.callback(look(watched.look).remove)
        yield watched


def check_watchable(pipe: Any) -> None:
    """ValueError where attention to a text is none, is another class's, or is not computed as a whole here."""
    model = pipe.transformer
    if not isinstance(model, VideoDiT):
        name = type(getattr(model, "image", model)).__name__
        raise ValueError(f"attention maps are of a VideoDiT, and {name} attends to its text in a way of its own")
    if model.caption_projection is None:
        raise ValueError("attention maps are of words, and this model reads no text")
    if model.config.caption_in == "context":
        raise ValueError("attention maps are of cross-attention, and this model has its text among a frame's tokens")
    if pipe.config.text_pipeline is not None:
        raise ValueError(
            f"attention maps are of a TextEncoder's words, and {pipe.config.text_pipeline} has its own way"
        )
    if model.is_cache_enabled:
        raise ValueError("attention maps need all blocks of all steps, and a feature cache skips some: take no cache")
    if model.sequence_group is not None:
        raise ValueError("attention maps are made by one process, and this clip is spread over several")
    if any(block._compiled_call_impl is not None for block in model.blocks):
        raise ValueError("attention maps look into blocks, and these are compiled: leave compiling out")
