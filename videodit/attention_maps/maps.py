"""Maps of words: the attention that each place of a clip gives to a word's tokens.

A word's map is the sum over its tokens of the mean over blocks, heads and steps, in the pass that is told the prompt
(DAAM: Tang et al. 2022, arXiv 2210.04885, there of an image). It is on the model's tokens; a frame's map is that of the
token frame in which it is, and is scaled up bilinearly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.functional import interpolate

from videodit.attention_maps.watching import Watched, check_watchable, watching
from videodit.geometry import Strides
from videodit.text import Word


@dataclass(frozen=True)
class WordMap:
    """Where and when a word was attended to.

    Args:
        text: the word, as it stands in the prompt.
        places: f h w, of the model's tokens: the share, 0 to 1, of its attention that each gives to the word.
        of_frames: of each frame of the clip, which of those f it is in.
    """

    text: str
    places: np.ndarray
    of_frames: np.ndarray

    def over(self, height: int, width: int) -> np.ndarray:
        """The map of each frame of the clip, f h w, float32, scaled to so many pixels."""
        scaled = interpolate(torch.from_numpy(self.places)[:, None], (height, width), mode="bilinear")
        return scaled[:, 0].numpy()[self.of_frames]


@dataclass(frozen=True)
class Attended:
    """A clip, f h w c in [0, 1], and the maps of its prompt's words, in their order."""

    frames: np.ndarray
    words: list[WordMap]


def sample_with_attention(pipe: Any, prompt: str | list[str], **options: Any) -> list[Attended]:
    """Makes clips as the pipeline does, bit for bit, and maps of the words of their prompts.

    Args:
        pipe: a `VideoDiTPipeline` of a `VideoDiT` that reads a text.
        prompt: one or several. options: as the pipeline's call takes them, but for `output_type` and `return_dict`.

    Raises:
        ValueError: as the call, or a model that cannot be watched: told no text, extended from an image model, under a
            feature cache, compiled, spread over processes.
    """
    check_watchable(pipe)
    if options.get("tile_size") is not None:
        raise ValueError("attention maps are of whole pictures, and tile_size cuts them: take one of them out")
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    each = options.get("num_videos_per_prompt", 1)
    encoder = pipe._text_encoder(options.get("max_sequence_length"))
    words = [encoder.words(encoder.read(one).prompt) for one in prompts for _ in range(each)]
    with watching(pipe, len(words)) as watched:
        frames = pipe(prompts, output_type="np", **options).frames
    maps = maps_of(watched, words, frames.shape[1], pipe.strides, pipe.transformer.patch_size)
    return [Attended(*one) for one in zip(frames, maps, strict=True)]


def maps_of(
    watched: Watched,
    words: Sequence[Sequence[Word]],
    num_frames: int,
    strides: Strides,
    patch: tuple[int, int, int],
) -> list[list[WordMap]]:
    """Of each clip the maps of its words.

    Args:
        words: of each clip. num_frames: of a clip; strides, patch: of the VAE and of the model, which say in which
            latent, and in which token, a frame is.
    """
    latents = -(-np.arange(num_frames) // strides.time)  # the first frame is one by itself
    of_frames = (latents + -strides.latent_frames(num_frames) % patch[0]) // patch[0]  # padded before it
    maps = watched.maps().numpy()
    return [
        [WordMap(word.text, maps[clip][..., list(word.tokens)].sum(-1), of_frames) for word in said]
        for clip, said in enumerate(words)
    ]
