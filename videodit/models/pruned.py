"""A smaller model of a larger one's weights: without some of its blocks, or with narrower MLPs.

What is left computes what the larger one does without those parts; it is to be trained on (`train.distill`, with the
larger one as its teacher, heals it).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from videodit.models.transformer import VideoDiT


def without_blocks(model: VideoDiT, numbers: Collection[int]) -> VideoDiT:
    """The model without these blocks: with `skip_layers` it computes the same. Its `axes` are the shortest pattern of
    what is left.

    Raises:
        ValueError: no such block, none that would be left, or the others would not compute what they do beside it;
            names the block.
    """
    _check_plain(model)
    if why := why_not(model, numbers):
        raise ValueError(why)
    kept = _others(model, numbers)
    axes = [str(model.blocks[number].axis) for number in kept]
    config = {key: value for key, value in model.config.items() if not key.startswith("_")}
    pattern = next(axes[:n] for n in range(1, len(axes) + 1) if axes[:n] * (len(axes) // n) == axes)
    config |= {
        "axes": tuple(pattern),
        "num_layers": len(axes) // len(pattern),
        "window": config["window"] if "window" in axes else None,
    }
    for key in ("qk_norm", "cross_attention_axes"):
        if isinstance(config[key], tuple | list):
            config[key] = tuple(axis for axis in config[key] if axis in axes) or (False if key == "qk_norm" else None)
    if "time" not in axes:
        config["images_skip_time"] = True
    with torch.device("meta"):
        small = VideoDiT(**config)
    state = {}
    for name, weight in model.state_dict().items():
        part, _, rest = name.partition(".")
        if part == "blocks" or (part == "embedders" and not model.config.shared_embedder):
            number, _, rest = rest.partition(".")
            if int(number) not in kept:
                continue
            name = f"{part}.{kept.index(int(number))}.{rest}"
        state[name] = weight.clone()
    return _with(small, state, model)


def why_not(model: VideoDiT, numbers: Collection[int]) -> str:
    """Why a model without these blocks would not be what is left of it; "": it would."""
    if wrong := sorted(set(numbers) - set(range(len(model.blocks)))):
        return f"block {wrong[0]}: this model has 0 to {len(model.blocks) - 1}"
    kept = _others(model, numbers)
    if not kept:
        return "all blocks: at least one must be left"
    axes = [str(model.blocks[number].axis) for number in kept]
    if tokens := [one.name for one in model.own_conditions if one.kind == "tokens" or one.branch]:
        return f"condition {tokens[0]}: it is read behind blocks of a number, which would be others"
    if model.config.skips:
        return "blocks of a model with long skips (skips) look back to others of a number, which would be others"
    if (reads := model.config.cross_attention_axes) and not set(reads) & set(axes):
        return "all blocks that read the text: at least one must be left"
    if 0 not in kept and model.config.norm_type == "ada_norm_zero" and not model.config.shared_embedder:
        return "block 0: the prediction is made with its embedding of the time"
    near = [number for number in kept if number in model.windows]  # every second is laid anew
    if moved := [number for place, number in enumerate(near) if model.windows[number].shifted != bool(place % 2)]:
        return f"block {moved[0]}: without those before it its windows would be laid otherwise"
    if model.frames is not None:  # positions in time, which are added before the first block that looks along it
        first = next((n for n, block in enumerate(model.blocks) if block.axis != "space"), len(model.blocks))
        told = next((n for n, axis in zip(kept, axes, strict=True) if axis != "space"), len(model.blocks))
        if any(first < number < told for number in kept):
            return f"block {first}: those behind it see positions in time that are added before it"
    return ""


def _others(model: VideoDiT, numbers: Collection[int]) -> list[int]:
    return [number for number in range(len(model.blocks)) if number not in numbers]


def with_narrower_mlp(model: VideoDiT, kept: Mapping[int, Tensor]) -> VideoDiT:
    """The model with these hidden units of each block's MLP alone, as many of each: `kept` is k by block.

    Raises:
        ValueError: blocks whose numbers of units differ, or that are not named.
    """
    _check_plain(model)
    if branches := [one.name for one in model.own_conditions if one.branch]:
        raise ValueError(f"condition {branches[0]}: its branch has copies of blocks as they are; take it out first")
    counts = {len(units) for units in kept.values()}
    if len(counts) != 1 or set(kept) != set(range(len(model.blocks))):
        raise ValueError(f"each block keeps as many units; these are of {sorted(counts)}, of blocks {sorted(kept)}")
    width = model.config.num_attention_heads * model.config.attention_head_dim
    config = {key: value for key, value in model.config.items() if not key.startswith("_")}
    with torch.device("meta"):
        small = VideoDiT(**config | {"mlp_ratio": counts.pop() / width})
    state = {name: weight.clone() for name, weight in model.state_dict().items()}
    for number, units in kept.items():
        at = f"blocks.{number}.ff.net"
        for name in (f"{at}.0.proj.weight", f"{at}.0.proj.bias"):
            state[name] = state[name][units]
        state[f"{at}.2.weight"] = state[f"{at}.2.weight"][:, units]
    return _with(small, state, model)


def _with(small: VideoDiT, state: dict[str, Tensor], like: VideoDiT) -> VideoDiT:
    small.load_state_dict(state, assign=True)
    return small.train(like.training)


def _check_plain(model: Any) -> None:
    if not isinstance(model, VideoDiT):
        raise ValueError(f"a {type(model).__name__} is not pruned: only a VideoDiT is")
    if model.config.activation_fn not in ("gelu", "gelu-approximate"):
        raise ValueError(f"activation_fn={model.config.activation_fn!r}: MLPs with gates are not pruned")
