"""What a model is made of and where its cost lies: a table, and a picture of the stack.

Weights are counted as they are; multiplications and additions by torch's own counter (`FlopCounterMode`: matrix
products, convolutions and attention), of one call for one clip on the meta device, where nothing is computed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from videodit.codec import VideoCodec
from videodit.conditions import Told, asked, tokens_asked
from videodit.drawing import short
from videodit.geometry import ClipSize, Strides
from videodit.models.extended import TimeExtended
from videodit.models.loading import shape_of
from videodit.models.transformer import VideoDiT
from videodit.packaged import named_folder
from videodit.pipeline import VideoDiTPipeline

COUNTING = ("Lumina2Transformer2DModel",)
OWN = "vectors of its own"  # weights that are in no part of a model
TEXT = 120  # tokens of a text, where a model does not say how many


@dataclass(frozen=True)
class Part:
    """A block, or what else there is.

    axis: along which a block looks. dim, heads: of a block, 0 of what is none. text: how a block reads it: "cross", by
    cross-attention, "joint", beside the image, "": not. weights: numbers in them. flops: of a call.
    """

    name: str
    axis: str = ""
    dim: int = 0
    heads: int = 0
    text: str = ""
    weights: int = 0
    flops: int = 0

    @property
    def kind(self) -> Part:
        """What it has in common with others of its kind."""
        return Part("", self.axis, self.dim, self.heads, self.text, self.weights, self.flops)


@dataclass(frozen=True)
class Description:
    """A model in numbers.

    name: of its class. latent: c f h w of the call; tokens: of the clip in it. text: tokens of the text, 0: none.
    parts: in the order in which they run. size: of the clip, where it is a pipeline's.
    """

    name: str
    latent: tuple[int, int, int, int]
    tokens: int
    text: int
    parts: tuple[Part, ...]
    size: ClipSize | None = None

    @property
    def weights(self) -> int:
        return sum(part.weights for part in self.parts)

    @property
    def flops(self) -> int:
        return sum(part.flops for part in self.parts)

    @property
    def runs(self) -> list[tuple[int, tuple[Part, ...]]]:
        """The parts in groups: how often a pattern of parts of equal kinds stands behind itself, and its first one."""
        found, at, kinds = [], 0, [part.kind for part in self.parts]
        while at < len(kinds):
            times, length = _repeats(kinds, at)
            after = _repeats(kinds, at + 1)
            if kinds[at].axis == "time" and after[0] * after[1] >= times * length:  # it is of the block before it
                times, length = 1, 1
            found.append((times, self.parts[at : at + length]))
            at += times * length
        return found

    @property
    def heading(self) -> str:
        clip = f"{self.size}" if self.size else "a clip"
        channels, f, h, w = self.latent
        told = f", a text of {self.text}" if self.text else ""
        return f"{clip}: latent {channels} x {f} x {h} x {w}, {self.tokens} tokens{told}"

    def __str__(self) -> str:
        names = ["  " * (times > 1) + part.name for times, parts in self.runs for part in parts]
        width = max(24, *(len(name) + 2 for name in names))
        head = f"{'':{width}}{'axis':>6}{'width':>7}{'heads':>7}{'text':>7}{'weights':>10}{'share':>9}{'compute':>9}"
        lines = [f"{self.name}, {short(self.weights)} weights; {self.heading}", "", head]
        for times, parts in self.runs:
            if times > 1:
                lines.append(f"{times} x")
            lines += [self._row(part, "  " * (times > 1), times, width) for part in parts]
        total = f"{'in all':{width}}{'':27}{short(self.weights):>10}{'100 %':>9}{'100 %':>9}"
        each = f"a call for one clip: {short(self.flops)} FLOP, {short(self.flops / self.tokens)} a token"
        return "\n".join([*lines, total, "", each])

    def _row(self, part: Part, indent: str, times: int, width: int) -> str:
        block = f"{part.axis:>6}{part.dim:>7}{part.heads:>7}{part.text or '-':>7}" if part.dim else " " * 27
        shares = [f"{100 * times * share:.1f} %" for share in self.shares(part)]
        return f"{indent + part.name:{width}}{block}{short(part.weights):>10}{shares[0]:>9}{shares[1]:>9}"

    def shares(self, part: Part) -> tuple[float, float]:
        """Of all weights, and of all compute, 0 to 1."""
        return part.weights / max(1, self.weights), part.flops / max(1, self.flops)


def _repeats(kinds: list[Part], at: int) -> tuple[int, int]:
    """How often a pattern stands behind itself from there on, and how long it is; of several that which holds most."""
    best = (1, 1)
    for length in range(1, (len(kinds) - at) // 2 + 1):
        times = 1
        while kinds[at + times * length :][:length] == kinds[at:][:length]:
            times += 1
        if times > 1 and times * length > best[0] * best[1] and kinds[at].axis:
            best = (times, length)
    return best


def describe(
    place: str | Path, num_frames: int | None = None, height: int | None = None, width: int | None = None
) -> Description:
    """Of a pipeline folder or hub name, a packaged model ("shapes"), or a folder of a transformer; no weights are read.

    Args:
        num_frames, height, width: of the clip; None: the pipeline's own. A bare transformer is described at five latent
            frames and the sides that it was made for.

    Raises:
        ValueError: no model that is known here; sizes that do not fit it, or that are given beside a bare transformer.
        OSError: nothing is there.
    """
    folder = named_folder(str(place))
    bare = Path(folder).is_dir() and not (Path(folder) / "model_index.json").is_file()
    with torch.device("meta"):
        model: Any = shape_of(folder) if bare else shape_of(folder, subfolder="transformer")
    if not bare:
        size, strides = _of_pipeline(folder, num_frames, height, width)
        return described(model, size.latent(strides, model.patch_size), _text_length(model, folder), size)
    if not num_frames == height == width is None:
        raise ValueError(f"{place}: is no pipeline, whose VAE says how large a latent is: give no size of pixels")
    bare_model: Any = getattr(model, "image", model)
    config = bare_model.config
    side = (config.get("sample_size") or 16) * (model.patch_size[1] if isinstance(model, VideoDiT) else 1)
    return described(model, (model.in_channels, 5, side, side), _text_length(model, None))


def _of_pipeline(folder: str, *sides: int | None) -> tuple[ClipSize, Strides]:
    index: Any = VideoDiTPipeline.load_config(folder)
    own = [index.get(f"default_{name}", usual) for name, usual in (("num_frames", 17), ("height", 64), ("width", 64))]
    frames, height, width = (mine if asked is None else asked for mine, asked in zip(own, sides, strict=True))
    stated = index.get("vae_strides")
    strides = VideoCodec.strides_of(folder) if stated is None else Strides(*stated)
    return ClipSize(frames, height, width, index.get("default_fps", 8.0)), strides


def _text_length(model: Any, folder: str | None) -> int:
    """Tokens of a text that the model is told at most."""
    if asked(model, "text") is None:
        return 0
    if (tokens := tokens_asked(model)) is not None:
        return tokens
    if isinstance(model, VideoDiT) and model.config.caption_length:
        return model.config.caption_length
    file = Path(folder or "", "tokenizer", "tokenizer_config.json")
    stated = json.loads(file.read_text(encoding="utf-8")).get("model_max_length") if folder and file.is_file() else None
    return stated if isinstance(stated, int) and stated < 10**4 else TEXT


def described(
    model: VideoDiT | TimeExtended, latent: tuple[int, int, int, int], text: int = TEXT, size: ClipSize | None = None
) -> Description:
    """Of a model on the meta device, called for one clip of this latent, c f h w, told a text of so many tokens.

    Raises:
        ValueError: a model that cannot be called there (`COUNTING`).
    """
    flops = _flops(model, latent, text)
    units = dict(_units(model))
    inside = {name: f"{name}." for name in units}
    rest, before, seen = dict[str, list[int]](), list[str](), False
    weights = dict.fromkeys(units, 0)
    for name, weight in model.named_parameters():
        unit = next((own for own, start in inside.items() if name.startswith(start)), None)
        if unit is not None:
            weights[unit] += weight.numel()
            seen = True
            continue
        *above, last = name.removeprefix("image.").split(".")
        group = name[: -len(".".join([*above[1:], last])) - 1] if above else OWN
        rest.setdefault(group, []).append(weight.numel())
        if not seen and group not in (OWN, *before):
            before.append(group)

    def other(group: str) -> Part:
        nested = sum(flops.get(unit, 0) for unit in units if unit.startswith(f"{group}."))
        return Part(group.removeprefix("image."), weights=sum(rest[group]), flops=_spent(flops, group) - nested)

    blocks = []
    for name, (axis, dim, heads, read, behind) in units.items():
        own = flops.get(name, 0) - flops.get(behind, 0)
        blocks.append(Part(name.removeprefix("image."), axis, dim, heads, read, weights[name], own))
    after = [group for group in rest if group not in before]
    parts = (*map(other, before), *blocks, *map(other, after))
    tokens = _tokens(model, latent)
    return Description(type(getattr(model, "image", model)).__name__, latent, tokens, text, parts, size)


def _units(model: VideoDiT | TimeExtended) -> Iterator[tuple[str, tuple[str, int, int, str, str]]]:
    """The blocks in the order in which they run: name, and axis, width, heads, how it reads the text, and the block of
    time that runs within its call, or "none"."""
    if isinstance(model, VideoDiT):
        heads, dim = (
            model.config.num_attention_heads,
            model.config.num_attention_heads * model.config.attention_head_dim,
        )
        beside = "joint" if model.config.caption_in == "context" else ""
        for number, block in enumerate(model.blocks):
            read = beside if block.attn2 is None else "cross"
            yield f"blocks.{number}", (str(block.axis), dim, heads, read, "none")
        return
    every, named = model.config.every, {id(module): name for name, module in model.named_modules()}
    for number, host in enumerate(model.family.hosts(model.image)):
        behind = f"blocks.{(number + 1) // every - 1}" if (number + 1) % every == 0 else "none"
        crosses = any(getattr(module, "is_cross_attention", False) for module in host.block.modules())
        read = "" if asked(model, "text") is None else "cross" if crosses else "joint"
        yield named[id(host.block)], ("space", host.dim, host.heads, read, behind)
        if behind != "none":
            yield behind, ("time", host.dim, host.heads, "", "none")


def _flops(model: VideoDiT | TimeExtended, latent: tuple[int, int, int, int], text: int) -> dict[str, int]:
    """Of each module by its name, and of all by "", in one call on the meta device."""
    if (name := type(getattr(model, "image", model)).__name__) in COUNTING:
        raise ValueError(f"{name} counts the tokens of its text while it runs, which only real ones can show")
    meta = torch.device("meta")
    states = {
        "prompt_embeds": torch.empty(1, text, asked(model, "text") or 0, device=meta),
        "pooled_prompt_embeds": torch.empty(1, asked(model, "pooled") or 0, device=meta),
        "class_labels": torch.zeros(1, dtype=torch.long, device=meta),
        "size": torch.empty(1, 2, device=meta),
        "guidance": torch.empty(1, device=meta),
    }
    model.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(torch.empty(1, *latent, device=meta), torch.empty(1, device=meta), **Told(states).kwargs(model))
    root = type(model).__name__
    counts = {name: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
    return {name.removeprefix(root).removeprefix("."): count for name, count in counts.items() if name != "Global"}


def _spent(flops: dict[str, int], group: str) -> int:
    """Of a part, or of what is called in it where itself is not, as a list of modules is not."""
    if group in flops:
        return flops[group]
    inside = sorted(name for name in flops if name.startswith(f"{group}."))
    outermost = [name for name in inside if not any(name.startswith(f"{other}.") for other in inside)]
    return sum(flops[name] for name in outermost)


def _tokens(model: VideoDiT | TimeExtended, latent: tuple[int, int, int, int]) -> int:
    return math.prod(-(-side // patch) for side, patch in zip(latent[1:], model.patch_size, strict=True))
