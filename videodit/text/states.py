"""What a model is told of prompts, once they are encoded: one tensor a prompt, or a batch of them.

Axes: b prompts, m text tokens, e width of the encoder, e' width of pooled states.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


class TextStates(NamedTuple):
    """What the model is told of the prompts."""

    states: Tensor  # b m e, zero where the mask is False
    mask: Tensor  # b m bool, True = attend; True at least once in each row
    pooled: Tensor | None = None  # b e', of families of image models that read one vector a prompt too

    def each(self) -> list[OwnStates]:
        """Those of each prompt by itself, without padding."""
        pooled = [None] * len(self.states) if self.pooled is None else self.pooled.unbind()
        rows = zip(self.states, self.mask, pooled, strict=True)
        return [OwnStates(states[seen].contiguous(), one) for states, seen, one in rows]

    def rows(self, rows: Tensor) -> TextStates:
        """Those of some prompts."""
        return TextStates(self.states[rows], self.mask[rows], None if self.pooled is None else self.pooled[rows])


class OwnStates(NamedTuple):
    """What the model is told of one prompt: `m e`, and `e'` of those families."""

    states: Tensor
    pooled: Tensor | None = None

    def tensors(self) -> dict[str, Tensor]:
        """By name, to be stored: "" and, where there are pooled ones, "pooled"."""
        return {"": self.states} | ({} if self.pooled is None else {"pooled": self.pooled.contiguous()})


def padded(own: Sequence[OwnStates]) -> TextStates:
    """Prompts of any lengths, padded to the longest."""
    masks = [torch.ones(len(one.states), dtype=torch.bool, device=one.states.device) for one in own]
    pooled = [one.pooled for one in own if one.pooled is not None]
    return TextStates(
        pad_sequence([one.states for one in own], batch_first=True),
        pad_sequence(masks, batch_first=True),
        torch.stack(pooled) if pooled else None,
    )


def told_in(text: TextStates) -> dict[str, Tensor]:
    """By diffusers' names for what a pipeline is told in the place of prompts."""
    told = {"prompt_embeds": text.states, "prompt_attention_mask": text.mask}
    return told | ({} if text.pooled is None else {"pooled_prompt_embeds": text.pooled})
