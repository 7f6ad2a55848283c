"""Control by a copy of a model's first blocks that is told a map (ControlNet; Zhang et al. 2023, arXiv 2302.05543).

    y = tokens + map;   behind block n of the first ones:   y = copy n (y),   x = block n (x) + projection n (y)

The projections are zero at first, and so is what reads the map: the model is what it was, until they are trained. The
copies begin as the blocks that they are of, so that a branch knows from its first step what its model knows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from videodit.disk import whole
from videodit.models import Condition
from videodit.models.adapters import check_no_adapters
from videodit.models.embeddings import MapEmbed
from videodit.weights import WeightsError, is_finite, part_hash, read_part

if TYPE_CHECKING:
    from videodit.models.transformer import VideoDiT

FILE, ABOUT = "control.safetensors", "control"  # and the key of its metadata


class Branch(nn.Module):
    """Copies of blocks, what reads the map, and what each copy adds."""

    def __init__(self, blocks: Iterable[nn.Module], embed: MapEmbed, dim: int):
        super().__init__()
        self.embed = embed
        self.blocks = nn.ModuleList(deepcopy(block) for block in blocks)
        self.projections = nn.ModuleList(nn.Linear(dim, dim) for _ in self.blocks)
        for projection in self.projections:
            nn.init.zeros_(projection.weight)  # type: ignore[arg-type]
            nn.init.zeros_(projection.bias)  # type: ignore[arg-type]

    def beside(self, value: Tensor, told: Tensor, x: Tensor, memories: Sequence[Any] | None) -> Beside:
        """What goes along with a call.

        Args:
            value: the map, b c f h w. told: b, by how much each row is told it; False or 0: it adds nothing.
            x: the tokens, b f s d. memories: each copy's keys and values of the text; None: it reads states.
        """
        return Beside(
            self, x + self.embed(value, told > 0).to(x.dtype), told.to(x.dtype).reshape(-1, 1, 1, 1), memories
        )

    def memories(self, states: Tensor) -> tuple[Any, ...]:
        """Of a text's states, for `beside`."""
        readers: list[Any] = [block.attn2 for block in self.blocks]
        return tuple(reader and reader.keys_and_values(states) for reader in readers)


@dataclass
class Beside:
    """A branch on its way through a call: its tokens y."""

    branch: Branch
    y: Tensor
    share: Tensor
    memories: Sequence[Any] | None

    def behind(self, number: int, x: Tensor, run: Callable[..., Tensor], inputs: tuple[Any, ...]) -> Tensor:
        """The tokens x behind a block, with what is added to them.

        Args:
            run: calls a block. inputs: what its block was called with, tokens first, keys and values last but one.
        """
        if number >= len(self.branch.blocks):
            return x
        memory = None if self.memories is None else self.memories[number]
        self.y = run(self.branch.blocks[number], self.y, *inputs[1:-2], memory, inputs[-1])
        return x + self.share * self.branch.projections[number](self.y)


def check_branch(model: VideoDiT, one: Condition) -> None:
    """ValueError where a model cannot have such a branch; says why."""
    config, count = model.config, len(model.blocks)
    half = count // 2 if config.skips else count
    for wrong, why in (
        (config.caption_in == "context" or config.norm_type == "layer_norm", "a model with text or time among tokens"),
        ("linear" in config.axes, "linear blocks, whose sums are of one walk"),
        (one.branch > half, f"more than the {half} first blocks{' of two halves' if config.skips else ''}"),
    ):
        if wrong:
            raise ValueError(f"condition {one.name}: there is no branch of {why}: leave branch out, or make it smaller")


def branch_of(model: VideoDiT, name: str) -> tuple[Condition, Branch]:
    """ValueError: it has no such branch."""
    if not hasattr(model, "own_conditions"):
        raise ValueError(f"a branch is of a VideoDiT, and this model is a {type(model).__name__}")
    for one in model.own_conditions:
        if one.name == name and one.branch:
            return one, model.condition_embedders[f"of_{name}"]  # type: ignore[return-value]
    names = [one.name for one in model.own_conditions if one.branch]
    raise ValueError(f"{name!r} is no branch of this model ({', '.join(names) or 'it has none'})")


def base_fingerprint(model: VideoDiT) -> str:
    """Of a model's weights without branches."""
    branches = tuple(f"condition_embedders.of_{one.name}." for one in model.own_conditions if one.branch)
    return part_hash({name: x for name, x in model.state_dict().items() if not name.startswith(branches)})


def save_control(model: VideoDiT, name: str, folder: str | Path) -> Path:
    """Writes a branch alone, whole or not at all (DiskError): `FOLDER/control.safetensors`.

    Raises:
        ValueError: the model has no such branch, or there are adapters on it.
    """
    one, branch = branch_of(model, name)
    _check_plain(model)
    if any(x.dtype == torch.float16 for x in branch.parameters()):
        raise ValueError(f"branch {name}: of a model in float16 its own would not be known again: float32, or bfloat16")
    about = {"condition": one.to_dict(), "fingerprint": base_fingerprint(model)}
    file = Path(folder) / FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    state = {key: x.contiguous() for key, x in branch.state_dict().items()}
    with whole(file) as scratch:
        save_file(state, scratch, metadata={"format": "pt", ABOUT: json.dumps(about, sort_keys=True)})
    return file


def load_control(model: VideoDiT, folder: str | Path) -> str:
    """Has a model told what a branch that was saved of it was told; gives the condition's name.

    Raises:
        WeightsError: no such file, one that is damaged or not finite, or a branch of another model.
        ValueError: the model is told something by that name already.
    """
    _check_plain(model)
    file = Path(folder) / FILE
    if not file.is_file():
        raise WeightsError(f"{file}: no such file; save_control writes one, and so does videodit convert --control")
    about, state = read_part(file, ABOUT)
    if not about:
        raise WeightsError(f"{file}: no branch of a model; save_control writes one")
    if (mine := base_fingerprint(model)) != about["fingerprint"]:
        raise WeightsError(
            f"{file}: of another model (fingerprint {about['fingerprint']}, this one has {mine}): take the one that it "
            f"was trained with, in bfloat16 or float32, for float16 rounds otherwise"
        )
    one = Condition(**about["condition"])
    if any(own.name == one.name for own in model.own_conditions):
        raise ValueError(f"{file}: this model is told {one.name!r} already")
    if bad := [name for name, x in state.items() if not is_finite(x)]:
        raise WeightsError(f"{file}: {bad[0]} is not finite, it holds NaN or infinity; the file is damaged")
    check_branch(model, one)
    width = model.patch_embed.proj.out_features
    like = Branch(model.blocks[: one.branch], MapEmbed(model.patch_embed.patch_size, one.width, width), width)
    if {name: x.shape for name, x in like.state_dict().items()} != {name: x.shape for name, x in state.items()}:
        raise WeightsError(f"{file}: its tensors are not those of such a branch; the file is another's, or damaged")
    model.add_conditions([one])
    branch_of(model, one.name)[1].load_state_dict(state)
    return one.name


def _check_plain(model: VideoDiT) -> None:
    """ValueError where its weights are not its own alone."""
    check_no_adapters(model, type(model).__name__)
    if getattr(model, "hf_quantizer", None) is not None:
        raise ValueError("a branch goes with plain weights, and this model is quantized: load it without --quantize")
